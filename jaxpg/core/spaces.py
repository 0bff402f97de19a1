"""Spaces as trees of leaves: gymnax's ``Box``, ``Discrete``, ``Dict`` and ``Tuple``, nested in any way, and ``MultiDiscrete``.

A value of a ``Dict`` is a dict with its keys, a value of a ``Tuple`` a tuple; a value of any other space is one array.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Box, Dict, Discrete, Space, Tuple
from jax.core import Tracer

from jaxpg.core.types import Array, PyTree

UNBOUNDED = float(np.float32(1e30))  # a larger bound means no bound: spaces often use the largest float for "any float"


class MultiDiscrete(Space):
    """Arrays of integers, each with its own number of categories: component i lies in ``0, ..., nvec[i] - 1``.

    Args:
        nvec: The numbers of categories, integers of at least 1, an array of any rank.
        dtype: The dtype of the values, by default int32.

    Raises:
        ValueError: Where ``nvec`` holds anything but integers of at least 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.spaces import MultiDiscrete
        >>> space = MultiDiscrete([3, 2])
        >>> space.shape, bool(space.contains(jnp.array([2, 1]))), bool(space.contains(jnp.array([2, 2])))
        ((2,), True, False)
    """

    def __init__(self, nvec: Any, dtype: Any = jnp.int32) -> None:
        self.nvec = np.asarray(nvec)
        if self.nvec.dtype.kind not in "iu" or np.any(self.nvec < 1):
            raise ValueError(f"nvec = {self.nvec.tolist()}; each component needs a whole number of categories, at least 1")
        self.shape = self.nvec.shape
        self.dtype = jax.dtypes.canonicalize_dtype(dtype)

    def __repr__(self) -> str:
        """As it is written."""
        return f"MultiDiscrete({self.nvec.tolist()}, dtype={self.dtype.name})"

    def sample(self, key: Array) -> Array:
        """A random value: uniform, components independent."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), self.dtype)

    def contains(self, x: Array) -> Array:
        """Whether every component is one of its categories."""
        return jnp.all((x >= 0) & (x < jnp.asarray(self.nvec)))


KINDS = (Box, Discrete, MultiDiscrete, Dict, Tuple)


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """What a space says of one array."""

    kind: str  # "box", "discrete" or "multi_discrete"
    shape: tuple[int, ...]  # of one value
    dtype: np.dtype  # as in JAX: float32 for float64, unless JAX is configured for float64
    low: np.ndarray  # float64, of ``shape``; -inf where there is no bound
    high: np.ndarray
    num_categories: np.ndarray | None  # int64, of ``shape``; None for a box


def read(space: Any) -> PyTree:
    """What a space declares of each array: shape, dtype, bounds, and number of categories.

    A dict for a ``Dict``, a tuple for a ``Tuple``, with a record of ``kind``, ``shape``, ``dtype``, ``low``, ``high`` and
    ``num_categories`` for each array. Bounds beyond 1e30 are infinite.

    Args:
        space: A gymnax space, any tree of ``Box``, ``Discrete`` and ``MultiDiscrete``.

    Returns:
        The records, in the structure of a value of the space.

    Raises:
        ValueError: With the place in the tree, for any other kind of space, for bounds that are NaN, of another shape or in the
            wrong order, and for bounds that are traced.

    Examples:
        >>> import numpy as np
        >>> from jaxpg.spaces import Box, Dict, Discrete, read
        >>> leaves = read(Dict({"speed": Box(0.0, np.inf, (2,)), "gear": Discrete(5)}))
        >>> leaves["speed"].high, leaves["gear"].num_categories
        (array([inf, inf]), array(5))
    """

    def leaf(path: str, space: Any) -> Leaf:
        if isinstance(space, Box):
            low, high = read_bounds(path, space)
            return Leaf("box", shape_of(space), dtype_of(space), low, high, None)
        kind, count = ("discrete", space.n) if isinstance(space, Discrete) else ("multi_discrete", space.nvec)
        count = np.asarray(concrete(path, count), np.int64)
        if np.any(count < 1):
            raise ValueError(f"{path} has no categories; at least 1 is needed")
        return Leaf(kind, count.shape, dtype_of(space), np.zeros(count.shape), count - 1.0, count)

    return walk(leaf, space)


def sample(space: Any, key: Array) -> PyTree:
    """A random value, with the dtypes of the space: uniform, in integer boxes including both bounds.

    A component of a ``Box`` of floats without a bound is normal with standard deviation 1 around the legal number next to 0,
    and clipped.

    Args:
        space: A gymnax space, any tree of ``Box``, ``Discrete`` and ``MultiDiscrete``.
        key: A key of ``jax.random.key``.

    Returns:
        A value of the space.

    Raises:
        ValueError: For any other kind of space.

    Examples:
        >>> import jax
        >>> from jaxpg.spaces import Box, Discrete, Tuple, sample
        >>> jax.tree.map(jax.numpy.shape, sample(Tuple([Box(0.0, 1.0, (2,)), Discrete(3)]), jax.random.key(0)))
        ((2,), ())
    """
    count = len(jax.tree.leaves(walk(lambda path, space: 0, space)))
    keys = iter(jax.random.split(key, count) if count > 1 else [key])

    def leaf(path: str, space: Any) -> Array:
        if not isinstance(space, Box):
            return space.sample(next(keys))
        return (sample_integers if is_integer(space) else sample_floats)(next(keys), space)

    return walk(leaf, space)


def contains(space: Any, value: PyTree) -> Array:
    """Whether ``value`` has the structure and the shapes of the space and lies within its bounds, up to rounding.

    Args:
        space: A gymnax space, any tree of ``Box``, ``Discrete`` and ``MultiDiscrete``.
        value: A pytree of arrays.

    Returns:
        One boolean.

    Raises:
        ValueError: For any other kind of space.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.spaces import Box, contains
        >>> bool(contains(Box(0.0, 1.0, (2,)), jnp.array([0.5, 2.0])))
        False
    """
    if isinstance(space, Dict | Tuple):
        inside = [contains(child, value[key]) for key, child, _ in children(space, "")] if fits(space, value) else [False]
        return jnp.all(jnp.array(inside, bool))

    def leaf(path: str, space: Any) -> Array:
        if jnp.shape(value) != shape_of(space):
            return jnp.array(False)
        x = jnp.asarray(value)
        integral = jnp.array(True)
        if is_integer(space) and jnp.issubdtype(x.dtype, jnp.inexact):
            integral = jnp.round(x) == x
        return jnp.all(integral & (inside_box(space, x) if isinstance(space, Box) else space.contains(x)))

    return walk(leaf, space)


def legalize(space: Any, value: PyTree) -> PyTree:
    """The nearest value in the space: clipped to a ``Box``, and rounded in a ``Box`` of integers.

    Categories are returned as they are. Bounds may be traced.

    Args:
        space: A gymnax space, any tree of ``Box``, ``Discrete`` and ``MultiDiscrete``.
        value: A pytree of arrays, which may have leading batch axes.

    Returns:
        The legal value; the arrays of a ``Box`` get its dtype.

    Raises:
        ValueError: Where ``value`` has other keys or another length than the space.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.spaces import Box, Discrete, Tuple, legalize
        >>> legalize(Tuple([Box(0, 4, (3,), jnp.int32), Discrete(2)]), (jnp.array([-3.0, 2.6, 9.0]), 1))
        (Array([0, 3, 4], dtype=int32), 1)
    """

    def leaf(path: str, space: Any, x: Any) -> Any:
        if not isinstance(space, Box):
            return x
        x, dtype = jnp.asarray(x), dtype_of(space)
        if not is_integer(space):
            return jnp.clip(x.astype(dtype), *float_bounds(space, dtype))
        if jnp.issubdtype(x.dtype, jnp.inexact):  # a cast stops at the limits of the dtype
            x = jnp.round(x).astype(countable(dtype))
        x = x.astype(countable(x.dtype))
        return jnp.clip(x, *integer_bounds(space, x.dtype)).astype(dtype)

    return walk(leaf, space, value)


def observation_space(env: Any, params: PyTree) -> Any:
    """The space that an environment declares for its observations; ``None`` where it declares none."""
    declared = getattr(env, "observation_space", None)
    try:
        return declared(params) if callable(declared) else None
    except NotImplementedError:  # raised by gymnax's base class
        return None


def walk(function: Callable[..., Any], space: Any, *values: PyTree, path: str = "space") -> PyTree:
    """``function(path, leaf of the space, *leaves of the values)`` for every leaf, as a tree like a value of the space."""
    if isinstance(space, Dict | Tuple):
        for value in values:
            if not fits(space, value):
                wanted = f"a dict with the keys {[*space.spaces]}" if isinstance(space, Dict) else f"{len(space.spaces)} parts"
                raise ValueError(f"{path} takes {wanted}, but the value has the structure {jax.tree.structure(value)}")
        found = {k: walk(function, s, *(v[k] for v in values), path=at) for k, s, at in children(space, path)}
        return found if isinstance(space, Dict) else tuple(found.values())
    if not isinstance(space, Box | Discrete | MultiDiscrete):
        kinds = "Box, Discrete or MultiDiscrete, or a Dict or Tuple of them"
        raise ValueError(f"{path} is a {type(space).__name__}; it must be a gymnax space: {kinds}")
    return function(path, space, *values)


def children(space: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    """``(key, space, path)`` of the parts of a ``Dict`` or ``Tuple``."""
    pairs = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
    return ((key, child, f"{path}[{key!r}]") for key, child in pairs)


def fits(space: Any, value: PyTree) -> bool:
    """Whether ``value`` has the keys of a ``Dict``, or the length of a ``Tuple``."""
    if isinstance(space, Dict):
        return isinstance(value, Mapping) and value.keys() == space.spaces.keys()
    return isinstance(value, tuple | list) and len(value) == len(space.spaces)


def shape_of(space: Any) -> tuple[int, ...]:
    """The shape of one value of a leaf."""
    return (space.shape,) if isinstance(space.shape, int) else tuple(space.shape)


def dtype_of(space: Any) -> np.dtype:
    """The dtype of a leaf, as JAX holds it."""
    return jax.dtypes.canonicalize_dtype(space.dtype)


def is_integer(space: Any) -> bool:
    """Whether the values are whole numbers or booleans."""
    return not jnp.issubdtype(dtype_of(space), jnp.inexact)


def concrete(path: str, x: Any) -> np.ndarray:
    """As a NumPy array; ``ValueError`` for what is known only when the program runs."""
    if isinstance(x, Tracer):
        raise ValueError(f"{path} has bounds that are traced, e.g. computed from traced env_params; read it outside of jit")
    return np.asarray(x)


def read_bounds(path: str, space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Both bounds of every component, in float64."""
    shape = shape_of(space)
    declared = [concrete(path, x).astype(float) for x in (space.low, space.high)]
    try:
        low, high = (np.broadcast_to(x, shape) for x in declared)
    except ValueError:
        shapes = " and ".join(str(x.shape) for x in declared)
        raise ValueError(f"{path} has bounds of the shapes {shapes}, which do not broadcast to its own, {shape}") from None
    if not np.all(low <= high):
        raise ValueError(f"{path} has a bound that is NaN, or a lower one above the upper")
    if is_integer(space) and not np.all(np.ceil(low) <= np.floor(high)):
        raise ValueError(f"{path} takes {dtype_of(space)}, but there is no whole number between its bounds")
    return np.where(low < -UNBOUNDED, -np.inf, low), np.where(high > UNBOUNDED, np.inf, high)


def float_bounds(space: Box, dtype: Any) -> tuple[Array, Array]:
    """Both bounds as floats."""
    with np.errstate(over="ignore"):  # numbers beyond the range of the dtype become infinite
        return jnp.asarray(space.low, dtype), jnp.asarray(space.high, dtype)


def integer_bounds(space: Box, dtype: Any) -> tuple[Array, Array]:
    """The least and the largest whole numbers of ``dtype``, and of the space's, within the bounds; exact unless traced."""
    limits = [jnp.iinfo(x) for x in (dtype, countable(dtype_of(space))) if jnp.issubdtype(x, jnp.integer)]
    least, most = max(int(x.min) for x in limits), min(int(x.max) for x in limits)
    if is_boolean(dtype_of(space)):
        least, most = 0, 1

    def legal(bound: Any, rounded: Any, rounded_array: Any) -> Array:
        if isinstance(bound, Tracer):
            return jnp.clip(rounded_array(bound.astype(float)), float(least), float(most)).astype(dtype)
        numbers = [rounded(min(max(x, least), most)) for x in np.ravel(bound).tolist()]
        return jnp.asarray(np.reshape(np.array(numbers, dtype), np.shape(bound)))

    return legal(space.low, math.ceil, jnp.ceil), legal(space.high, math.floor, jnp.floor)


def countable(dtype: Any) -> Any:
    """The same, but int32 for booleans, which do not add up."""
    return jnp.dtype(jnp.int32) if is_boolean(dtype) else dtype


def is_boolean(dtype: Any) -> bool:
    """Whether the values are true and false."""
    return jnp.issubdtype(dtype, jnp.bool_)


def sample_integers(key: Array, space: Box) -> Array:
    """Uniform in low, ..., high, also where that is every number of the dtype: differences are taken modulo 2**32 (2**64)."""
    low, high = integer_bounds(space, countable(dtype_of(space)))
    word = jnp.uint64 if low.dtype.itemsize == 8 else jnp.uint32
    start = low.astype(word)
    count = high.astype(word) - start + jnp.ones((), word)
    bits = jax.random.bits(key, shape_of(space), word)
    offset = jnp.where(count == 0, bits, bits % jnp.maximum(count, 1))
    return (start + offset).astype(low.dtype).astype(dtype_of(space))


def sample_floats(key: Array, space: Box) -> Array:
    """Uniform between two bounds, else normal around the legal number next to 0, and clipped; component by component."""
    dtype, shape = dtype_of(space), shape_of(space)
    wide = jnp.promote_types(dtype, jnp.float32)
    low, high = (jnp.broadcast_to(x.astype(wide), shape) for x in float_bounds(space, dtype))
    bounded = (low >= -UNBOUNDED) & (high <= UNBOUNDED)
    first, last = jnp.where(bounded, low, 0.0), jnp.where(bounded, high, 1.0)
    key_uniform, key_normal = jax.random.split(key)
    uniform = jax.random.uniform(key_uniform, shape, wide, first, last)
    normal = jnp.clip(0.0, low, high) + jax.random.normal(key_normal, shape, wide)
    return jnp.clip(jnp.where(bounded, uniform, normal), low, high).astype(dtype)


def inside_box(space: Box, x: Array) -> Array:
    """Each component lies within its bounds; a float may be outside by as much as rounding explains.

    That is 1e-5 of the width of the box (or of 1 + abs(x), if less), and four units in the last place of x.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(countable(x.dtype))
        low, high = integer_bounds(space, x.dtype)
        return (low <= x) & (x <= high)
    eps = max(float(jnp.finfo(y).eps) for y in (x.dtype, dtype_of(space)) if jnp.issubdtype(y, jnp.inexact))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    low, high = float_bounds(space, x.dtype)
    margin = 1e-5 * jnp.minimum(1.0 + jnp.abs(x), high - low) + 4.0 * eps * jnp.abs(x)
    return (low - margin <= x) & (x <= high + margin)
