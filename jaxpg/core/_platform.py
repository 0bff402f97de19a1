"""What a CPU and an accelerator compute fastest in different forms: the choice is made here, by the platform compiled for.

On a CPU a loop costs little and an operation costs what it computes. On an accelerator operations are launched one after the
other, and networks are so small that the launch is what takes time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpg.core.types import Array, PyTree

FEW = 8  # numbers of a row that an accelerator takes one by one


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


def total(x: Array) -> Array:
    """The sum over the last axis. On accelerators few numbers are added one by one, which joins the operations around it."""
    if x.shape[-1] > FEW:
        return jnp.sum(x, axis=-1)
    return jax.lax.platform_dependent(x, cpu=functools.partial(jnp.sum, axis=-1), default=add_one_by_one)


def add_one_by_one(x: Array) -> Array:
    """``total``, one number after the other."""
    return functools.reduce(jnp.add, [x[..., i] for i in range(x.shape[-1])])


def draw(logits: Array, u: Array) -> Array:
    """The inverse of the cumulative distribution of softmax(``logits``), ``[..., A]``, at ``u`` in [0, 1), ``[...]``: int32.

    A choice of probability 0 is never made. A sum in parallel is not monotone to the last bit: only where p > 0 does it decide.
    """
    if logits.shape[-1] > FEW:
        return search(logits, u)
    return jax.lax.platform_dependent(logits, u, cpu=search, default=search_one_by_one)


def search(logits: Array, u: Array) -> Array:
    """``draw`` as operations on complete rows."""
    p = jax.nn.softmax(logits)
    cumulative = jnp.where(p > 0, jnp.cumsum(p, axis=-1), 0.0)
    bound = u[..., None] * jnp.max(cumulative, axis=-1, keepdims=True)
    return jnp.argmax(cumulative > bound, axis=-1).astype(jnp.int32)


def search_one_by_one(logits: Array, u: Array) -> Array:
    """``draw``, one choice after the other."""
    columns = [logits[..., i] for i in range(logits.shape[-1])]
    largest = functools.reduce(jnp.maximum, columns)
    weights = [jnp.exp(x - largest) for x in columns]
    sums = list(itertools.accumulate(weights))
    choice = jnp.zeros(u.shape, jnp.int32)
    for i in reversed(range(len(weights))):
        choice = jnp.where((weights[i] > 0) & (sums[i] > u * sums[-1]), i, choice)
    return choice
