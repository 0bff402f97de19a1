"""Loops over time in the form that each platform computes fastest: the choice is made here, by the platform compiled for."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpg.core.types import Array, PyTree


def backward(x: Array, decay: Array, last: Array | None = None) -> Array:
    """y_t = x_t + decay_t y_{t+1} for ``[T, ...]``, with y_T = ``last``, ``[...]``, by default 0.

    A loop of T steps on a CPU. Elsewhere a step is too small to be launched by itself: log T steps on all rows at once
    [Blelloch 1990], the same numbers but for rounding.
    """
    if last is not None:
        x = x.at[-1].add(decay[-1] * last)
    return jax.lax.platform_dependent(x, decay, cpu=sequential, default=parallel)


def scan(step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
    """``jax.lax.scan``; a pass makes 4 steps where each operation is launched by itself, since it copies the carry once."""
    unrolled = functools.partial(jax.lax.scan, step, unroll=4)
    return jax.lax.platform_dependent(carry, rows, cpu=functools.partial(jax.lax.scan, step), default=unrolled)


def sequential(x: Array, decay: Array) -> Array:
    """With y_T = 0, one step after the other."""

    def step(following: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        x, decay = row
        y = x + decay * following
        return y, y

    return jax.lax.scan(step, jnp.zeros_like(x[-1]), (x, decay), reverse=True)[1]


def parallel(x: Array, decay: Array) -> Array:
    """With y_T = 0, by pairs of pairs of steps."""

    def combine(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        (x_later, decay_later), (x, decay) = later, earlier
        return x + decay * x_later, decay * decay_later

    return jax.lax.associative_scan(combine, (x, decay), reverse=True)[0]
