"""Convert a pytree of arrays to a flat dictionary of NumPy arrays for a checkpoint, and back."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxpg.core.hparams import shown

Arrays = dict[str, np.ndarray]
Spec = dict[str, dict[str, Any]]


def name(path: tuple[Any, ...]) -> str:
    """The name of a leaf: its path in the tree.

    >>> [name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"policy": ({"kernel": 1},)})]
    ['policy.0.kernel']
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")


def is_key(leaf: Any) -> bool:
    """Whether ``leaf`` is an array of typed PRNG keys."""
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def fetch(tree: Any) -> Any:
    """Copy arrays to the host. If parts of them are on devices of other processes, all processes must call it."""

    def is_spread(leaf: Any) -> bool:
        return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated

    spread = next(filter(is_spread, jax.tree.leaves(tree)), None)
    if spread is not None:
        tree = jax.jit(identity, out_shardings=NamedSharding(spread.sharding.mesh, PartitionSpec()))(tree)
    return jax.device_get(tree)


def identity(tree: Any) -> Any:
    """``tree``; here, so that JAX compiles a program of it only once."""
    return tree


def flatten(tree: Any, runs: int) -> Arrays:
    """Copy the first ``runs`` rows of every leaf to the host (see ``fetch``); for keys, their data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    data = fetch([jax.random.key_data(leaf) if is_key(leaf) else leaf for _, leaf in leaves])
    return {name(path): np.array(x[:runs]) for (path, _), x in zip(leaves, data, strict=True)}


def unflatten(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Convert ``arrays`` to a tree like ``like``, with typed keys; the last row is repeated if there are too few."""

    def leaf(path: tuple[Any, ...], abstract: Any) -> Any:
        x = arrays[name(path)]
        rows = np.minimum(np.arange(abstract.shape[0]), x.shape[0] - 1)
        return jax.random.wrap_key_data(jax.numpy.asarray(x[rows]), impl=generator(abstract)) if is_key(abstract) else x[rows]

    return jax.tree_util.tree_map_with_path(leaf, like)


def spec(tree: Any, runs: int) -> Spec:
    """Describe the result of ``flatten`` for a ``tree``, which may be abstract: dtype, shape and key generator by name.

    ``ValueError`` if two leaves have the same name.
    """

    def one(leaf: Any) -> dict[str, Any]:
        data = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
        key = {"key": generator(leaf)} if is_key(leaf) else {}
        return {"dtype": str(data.dtype), "shape": [runs, *data.shape[1:]]} | key

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    found = {name(path): one(leaf) for path, leaf in leaves}
    if len(found) < len(leaves):
        raise ValueError("two arrays of the training state have the same name; give parameters names without dots")
    return found


def generator(keys: Any) -> str:
    """The name of the random number generator of ``keys``, which may be abstract."""
    return generator_of(keys.dtype)


@functools.cache
def generator_of(dtype: Any) -> str:
    """The same for a dtype of keys. Cached, because JAX traces a program each time."""
    names: list[str] = []
    jax.eval_shape(lambda k: names.append(str(jax.random.key_impl(k))), jax.ShapeDtypeStruct((), dtype))
    return names[0]


def empty(spec: Spec) -> Arrays:
    """Uninitialised arrays of these dtypes and shapes."""
    return {name: np.empty(leaf["shape"], leaf["dtype"]) for name, leaf in spec.items()}


def difference(there: Any, here: Spec) -> str | None:
    """Describe the first difference between a spec from a file and ours; ``None`` if they are equal."""
    if not isinstance(there, dict):
        return "it describes no arrays"
    for leaf in [*here, *there]:
        if there.get(leaf) != here.get(leaf):
            return f"{shown(leaf)} is {shown(there.get(leaf, 'missing'))} there and {here.get(leaf, 'not known')} here"
    return None


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and values: equal only if two sets of arrays are equal bit for bit."""
    total = hashlib.sha256()
    for leaf in sorted(arrays):
        x = np.ascontiguousarray(arrays[leaf])
        total.update(f"{leaf} {x.dtype} {x.shape}\n".encode())
        total.update(x.tobytes())
    return total.hexdigest()
