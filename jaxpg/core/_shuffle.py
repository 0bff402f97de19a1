"""Random permutations without a sort.

``jax.random.permutation`` sorts, which for the minibatches of a small update takes as long as a gradient. A Feistel network
is a bijection of ``{0, ..., 2^b - 1}`` for any round function, and needs only a few integer operations per element.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg.core.types import Array

ROUNDS = 8


def permutation(key: Array, n: int) -> Array:
    """A random permutation of ``0 .. n-1``: int32 ``[n]``.

    It is a keyed Feistel network on ``b = ceil(log2 n)`` bits, at least 6 [Luby & Rackoff 1988]. If ``n < 2^b``, it is applied
    again to results of n or more until they are below n, which keeps it a bijection [Black & Rogaway 2002]. The positions of
    each element and of each pair are uniform; not all ``n!`` orders can occur.

    >>> sorted(permutation(jax.random.key(0), 6).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    return permutations(key, 1, n)[0]


def permutations(key: Array, count: int, n: int) -> Array:
    """``count`` random permutations: int32 ``[count, n]``."""
    if n < 1:
        raise ValueError(f"n = {n}; a permutation needs at least one element")
    return jax.vmap(_permuted, (0, None))(jax.random.bits(key, (count, ROUNDS), jnp.uint32), n)


def _permuted(round_keys: Array, n: int) -> Array:
    bits = max(6, (n - 1).bit_length())  # with fewer bits pairs would not be uniform
    first = _feistel(jnp.arange(n, dtype=jnp.uint32), round_keys, bits)
    if n != 1 << bits:
        first = jax.lax.while_loop(
            lambda x: jnp.any(x >= n), lambda x: jnp.where(x >= n, _feistel(x, round_keys, bits), x), first
        )
    return first.astype(jnp.int32)


def _feistel(x: Array, round_keys: Array, bits: int) -> Array:
    """Eight rounds (left, right) -> (right, left ^ f(right, key)) on ``bits`` bits; if odd, one half is a bit longer."""
    widths = (bits // 2, bits - bits // 2)  # of left and right
    left, right = x >> widths[1], x & ((1 << widths[1]) - 1)
    for i in range(ROUNDS):
        left, right = right, (left ^ _mix(right ^ round_keys[i])) & ((1 << widths[i % 2]) - 1)
    return (left << widths[(ROUNDS + 1) % 2]) | right


def _mix(x: Array) -> Array:
    """A 32-bit integer hash in which each input bit affects each output bit [Mueller 2017]."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x45D9F3B)
    x = (x ^ (x >> 16)) * jnp.uint32(0x45D9F3B)
    return x ^ (x >> 16)
