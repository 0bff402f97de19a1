"""train: many updates in one scan. Jitted, and may be vmapped."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxpg.core import _compensated as compensated
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.types import MAX_COUNT, Array, Metrics, TrainState

EPISODIC = ("episode_return", "episode_length")  # metrics that are means over the episodes that ended
COUNTS = ("episodes", "sampled_steps")


@functools.partial(jax.jit, static_argnames=("algo", "num_updates", "log_every"))
def train(algo: Algorithm, state: TrainState, num_updates: int, log_every: int = 1) -> tuple[TrainState, Metrics]:
    """``num_updates`` updates from ``state``, as one compiled loop.

    Memory does not grow with ``num_updates``, except for the metrics. Works under ``jit``, ``vmap`` and ``grad``.

    Args:
        algo: The algorithm.
        state: From ``algo.init`` or from the last call.
        num_updates: How many updates, a multiple of ``log_every``.
        log_every: Updates that one row of the metrics summarises.

    Returns:
        The new state, and metrics by name, ``[num_updates // log_every]``. Counts are summed, episode metrics are means over
            episodes (NaN where none ended), others are means over updates.

    Raises:
        ValueError: For ``num_updates`` or ``log_every`` below 1, or that do not divide.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"))
        >>> state, metrics = jaxpg.train(algo, algo.init(jax.random.key(0)), num_updates=4, log_every=2)
        >>> metrics["episode_return"].shape
        (2,)
    """
    if num_updates < 1 or log_every < 1 or num_updates % log_every:
        raise ValueError(f"num_updates = {num_updates} must be a multiple of log_every = {log_every}, and both at least 1")
    if num_updates > MAX_COUNT:
        raise ValueError(f"num_updates = {num_updates}; a run has at most 2**31 - 1 updates, make each one larger")

    def window(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(lambda s, _: algo.update(s), state, length=log_every)
        return state, summary(metrics)

    return jax.lax.scan(window, state, length=num_updates // log_every)


def summary(metrics: Metrics) -> Metrics:
    """Summarise metrics of several updates: counts are summed, episode metrics are means over episodes, others over updates.

    Sums are compensated, so that counts above 2**24 are exact up to one rounding.
    """
    rows = weighed(metrics)
    zero = jnp.zeros(len(rows), jnp.result_type(float))
    stacked = jnp.stack([jnp.ravel(x).astype(zero.dtype) for x in rows.values()], axis=1)
    (sums, _), _ = jax.lax.scan(lambda sums, row: (compensated.add(*sums, row), None), (zero, zero), stacked)
    return averaged(dict(zip(rows, sums, strict=True)), len(stacked))


def weighed(metrics: Metrics) -> Metrics:
    """Multiply episode metrics by the number of episodes, so that all metrics can be summed over updates; see ``averaged``."""
    episodes = metrics["episodes"]
    return metrics | {name: jnp.where(episodes > 0, metrics[name] * episodes, 0.0) for name in EPISODIC}


def averaged(sums: Metrics, num_updates: int | Array) -> Metrics:
    """Convert sums of ``weighed`` metrics over ``num_updates`` updates back to metrics; NaN if no episode ended."""
    parts = dict.fromkeys(sums, num_updates) | dict.fromkeys(EPISODIC, sums["episodes"])
    means = {name: jnp.where(parts[name] > 0, x / jnp.maximum(parts[name], 1), jnp.nan) for name, x in sums.items()}
    return means | {name: sums[name] for name in COUNTS}
