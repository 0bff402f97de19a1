"""Compensated sums: a total is a pair of floats, ``total + compensation``, with twice the digits of one float.

A plain float32 total stops growing once it is 2**24 times as large as the numbers that are added. The pair is exact for
integers up to 2**48, and ``total`` alone is the pair, correctly rounded.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxpg.core.types import Array


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """``(a + b rounded, rounding error)``: together exactly a + b [Knuth 1969]. The error of an infinite sum is 0."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return total, jnp.where(jnp.isfinite(total), error, 0.0)


def add(total: Array, compensation: Array, x: Array) -> tuple[Array, Array]:
    """``(total, compensation)`` with ``x`` added; all of one shape. A new total begins with compensation 0.

    >>> million = jnp.float32(2**24), jnp.float32(0)
    >>> total, compensation = add(*add(*million, 1.0), 1.0)
    >>> int(total), int(add(*million, 1.0)[0])
    (16777218, 16777216)
    """
    total, error = two_sum(total, x)
    return two_sum(total, compensation + error)
