"""Many small arrays in one: a loop that carries and stores one array launches one operation for it on an accelerator, not ten."""

from __future__ import annotations

import math
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg.core.types import Array, PyTree

MAX_SIZE = 64  # numbers of a row that are packed; storing more takes longer than launching what stores them
EXACT = {"float16": 1, "bfloat16": 1, "int8": 1, "uint8": 1, "int16": 1, "uint16": 1, "bool": 1, "float32": 1, "int32": 2}


class Packed(struct.PyTreeNode):
    """A tree whose leaves ``[B, ...]`` lie side by side in rows of float32, exactly: what ``jax.lax.scan`` carries and stacks.

    Integers of 32 bits are two numbers of 16. Gradients pass. Large leaves, and those that float32 cannot hold (64 bits, keys),
    stay as they are.

    >>> packed = Packed.of({"x": jnp.ones((3, 4)), "done": jnp.array([True, False, True])})
    >>> packed.rows.shape, packed.tree()["done"].tolist()
    ((3, 5), [True, False, True])
    """

    rows: Array  # [..., B, K]
    others: tuple[Array, ...]
    layout: Any = struct.field(pytree_node=False)  # structure, and shape and dtype of each leaf, None for one of the others

    @classmethod
    def of(cls, tree: PyTree) -> Self:
        """``tree``, packed. One leaf at least is small."""
        leaves, structure = jax.tree.flatten(tree)
        kinds = tuple((x.shape[1:], x.dtype.name) if is_small(x) else None for x in leaves)
        parts = [part for x, kind in zip(leaves, kinds, strict=True) if kind for part in to_rows(x)]
        others = tuple(x for x, kind in zip(leaves, kinds, strict=True) if not kind)
        return cls(jnp.concatenate(parts, axis=1), others, (structure, kinds))

    def tree(self) -> PyTree:
        """The tree, with the axes that were added in front."""
        structure, kinds = self.layout
        others, leaves, begin = iter(self.others), [], 0
        for kind in kinds:
            if not kind:
                leaves.append(next(others))
                continue
            shape, dtype = kind
            end = begin + EXACT[dtype] * math.prod(shape)
            leaves.append(from_rows(self.rows[..., begin:end], shape, dtype))
            begin = end
        return jax.tree.unflatten(structure, leaves)


def is_small(x: Array) -> bool:
    """``x``, ``[B, ...]``, is packed."""
    return math.prod(x.shape[1:]) <= MAX_SIZE and x.dtype.name in EXACT


def to_rows(x: Array) -> list[Array]:
    """``[B, ...]`` as float32 ``[B, k]``: itself, or the lower and the upper halves of integers."""
    x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    parts = [x & 0xFFFF, x >> 16] if x.dtype == jnp.int32 else [x]
    return [part.astype(jnp.float32) for part in parts]


def from_rows(rows: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """The reverse: ``[..., k]`` to ``[..., *shape]``."""
    if dtype == "int32":
        lower, upper = (part.astype(jnp.int32) for part in jnp.split(rows, 2, axis=-1))
        rows = lower | (upper << 16)
    return rows.astype(dtype).reshape(*rows.shape[:-1], *shape)
