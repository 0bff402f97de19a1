"""Pack many small arrays into one: on an accelerator a loop launches one operation for each array that it carries."""

from __future__ import annotations

import math
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg.core.types import Array, PyTree

MAX_SIZE = 64  # a leaf with more numbers per row is not packed: copying it would take longer than a launch
NAMES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "bool")


class Packed(struct.PyTreeNode):
    """A tree whose leaves ``[B, ...]`` are packed without loss into rows of floats, for ``jax.lax.scan`` to carry and stack.

    A 32-bit integer is stored as two 16-bit numbers in float32. Gradients pass through. Large leaves are not packed, nor are
    those that floats cannot hold, such as 64-bit integers and keys.

    >>> packed = Packed.of({"x": jnp.ones((3, 4)), "done": jnp.array([True, False, True])})
    >>> packed.rows.shape, packed.tree()["done"].tolist()
    ((3, 5), [True, False, True])
    """

    rows: Array  # [..., B, K]
    others: tuple[Array, ...]
    layout: Any = struct.field(pytree_node=False)  # structure, and shape and dtype of each leaf, None for one of the others

    @classmethod
    def of(cls, tree: PyTree) -> Self:
        """``tree``, packed."""
        leaves, structure = jax.tree.flatten(tree)
        kinds = tuple((x.shape[1:], x.dtype.name) if is_small(x) else None for x in leaves)
        parts = [part for x, kind in zip(leaves, kinds, strict=True) if kind for part in to_rows(x)]
        others = tuple(x for x, kind in zip(leaves, kinds, strict=True) if not kind)
        nothing = jnp.zeros((leaves[0].shape[0], 0))
        return cls(jnp.concatenate([nothing, *parts], axis=1), others, (structure, kinds))

    def tree(self) -> PyTree:
        """Unpack the tree, with all leading axes of the rows."""
        structure, kinds = self.layout
        others, leaves, begin = iter(self.others), [], 0
        for kind in kinds:
            if not kind:
                leaves.append(next(others))
                continue
            shape, dtype = kind
            end = begin + math.prod(shape) * (2 if has_halves(dtype) else 1)
            leaves.append(from_rows(self.rows[..., begin:end], shape, dtype))
            begin = end
        return jax.tree.unflatten(structure, leaves)


def is_small(x: Array) -> bool:
    """Whether ``x``, ``[B, ...]``, is packed."""
    return math.prod(x.shape[1:]) <= MAX_SIZE and x.dtype.name in NAMES


def has_halves(dtype: str) -> bool:
    """Whether a dtype is stored as two halves: 32-bit integers, unless floats have 64 bits."""
    return dtype == "int32" and jnp.result_type(float) == jnp.float32


def to_rows(x: Array) -> list[Array]:
    """Convert ``[B, ...]`` to floats ``[B, k]``: the numbers, or the lower and upper halves of integers."""
    halves, x = has_halves(x.dtype.name), x.reshape(x.shape[0], math.prod(x.shape[1:]))
    return [part.astype(float) for part in ([x & 0xFFFF, x >> 16] if halves else [x])]


def from_rows(rows: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """Invert ``to_rows``: ``[..., k]`` to ``[..., *shape]``."""
    if has_halves(dtype):
        lower, upper = (part.astype(jnp.int32) for part in jnp.split(rows, 2, axis=-1))
        rows = lower | (upper << 16)
    return rows.astype(dtype).reshape(*rows.shape[:-1], *shape)
