"""Functions with different fast forms for CPUs and accelerators, chosen by the platform that a program is compiled for.

On a CPU loops are cheap, and the time of an operation is its arithmetic. On an accelerator each operation is launched by
itself, and networks are so small that launches take most of the time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpg.core.types import Array, PyTree

FEW = 8  # up to so many numbers per row an accelerator processes one by one


def backward(x: Array, decay: Array, last: Array | None = None) -> Array:
    """y_t = x_t + decay_t y_{t+1} for ``[T, ...]``, with y_T = ``last``, ``[...]``, by default 0.

    On a CPU this is a loop of T steps. On accelerators it is a parallel scan of log T steps on all rows [Blelloch 1990],
    because single steps are too small to launch; the results are equal up to rounding.
    """
    if last is not None:
        x = x.at[-1].add(decay[-1] * last)
    return jax.lax.platform_dependent(x, decay, cpu=sequential, default=parallel)


def scan(step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
    """``jax.lax.scan``, unrolled by 4 on accelerators, where each iteration copies the carry once."""
    unrolled = functools.partial(jax.lax.scan, step, unroll=4)
    return jax.lax.platform_dependent(carry, rows, cpu=functools.partial(jax.lax.scan, step), default=unrolled)


def sequential(x: Array, decay: Array) -> Array:
    """``backward`` with y_T = 0, step by step."""

    def step(following: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        x, decay = row
        y = x + decay * following
        return y, y

    return jax.lax.scan(step, jnp.zeros_like(x[-1]), (x, decay), reverse=True)[1]


def parallel(x: Array, decay: Array) -> Array:
    """``backward`` with y_T = 0, as a parallel scan."""

    def combine(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        (x_later, decay_later), (x, decay) = later, earlier
        return x + decay * x_later, decay * decay_later

    return jax.lax.associative_scan(combine, (x, decay), reverse=True)[0]


def total(x: Array) -> Array:
    """The sum over the last axis. On accelerators few numbers are added one by one, so that XLA can fuse the operations."""
    if x.shape[-1] > FEW:
        return jnp.sum(x, axis=-1)
    return jax.lax.platform_dependent(x, cpu=functools.partial(jnp.sum, axis=-1), default=add_one_by_one)


def add_one_by_one(x: Array) -> Array:
    """``total``, one number after the other."""
    return functools.reduce(jnp.add, [x[..., i] for i in range(x.shape[-1])])


def draw(logits: Array, u: Array) -> Array:
    """The inverse of the cumulative distribution of softmax(``logits``), ``[..., A]``, at ``u`` in [0, 1), ``[...]``: int32.

    A choice of probability 0 is never made: a parallel cumulative sum may not be monotone in its last bit, so that choices with
    p = 0 are excluded explicitly.
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
