"""train and evaluate: ``update`` in a scan, and episodes with keys of their own. Both are jitted and may be vmapped.

(A room named ``train`` would hide ``jaxpg.train``.)
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxpg.core import _compensated as compensated
from jaxpg.core import rollout
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.types import MAX_COUNT, Array, EnvLoop, Metrics, TrainState
from jaxpg.envs import horizon

Carry = tuple[Array, EnvLoop, Array, Metrics]  # time, environments, which episodes go on, results
EPISODIC = ("episode_return", "episode_length")  # metrics that are means over the episodes that ended
COUNTS = ("episodes", "sampled_steps")


@functools.partial(jax.jit, static_argnames=("algo", "num_updates", "log_every"))
def train(algo: Algorithm, state: TrainState, num_updates: int, log_every: int = 1) -> tuple[TrainState, Metrics]:
    """``num_updates`` updates from ``state``; metrics ``[num_updates // log_every]``, each a summary of ``log_every`` updates.

    Memory does not grow with ``num_updates`` but for the metrics.

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
    """One number for each metric of several updates: counts add up, episode metrics are means over episodes, others means.

    Sums are compensated: a count above 2**24 is the exact one, rounded to a float.
    """
    rows = weighed(metrics)
    zero = jnp.zeros(len(rows), jnp.result_type(float))
    stacked = jnp.stack([jnp.ravel(x).astype(zero.dtype) for x in rows.values()], axis=1)
    (sums, _), _ = jax.lax.scan(lambda sums, row: (compensated.add(*sums, row), None), (zero, zero), stacked)
    return averaged(dict(zip(rows, sums, strict=True)), len(stacked))


def weighed(metrics: Metrics) -> Metrics:
    """Metrics as numbers that may be added up over updates: those of episodes times how many ended. See :func:`averaged`."""
    episodes = metrics["episodes"]
    return metrics | {name: jnp.where(episodes > 0, metrics[name] * episodes, 0.0) for name in EPISODIC}


def averaged(sums: Metrics, num_updates: int | Array) -> Metrics:
    """What sums of :func:`weighed` metrics of ``num_updates`` updates come to; NaN where there is nothing to divide by."""
    parts = dict.fromkeys(sums, num_updates) | dict.fromkeys(EPISODIC, sums["episodes"])
    means = {name: jnp.where(parts[name] > 0, x / jnp.maximum(parts[name], 1), jnp.nan) for name, x in sums.items()}
    return means | {name: sums[name] for name in COUNTS}


@functools.partial(jax.jit, static_argnames=("algo", "num_episodes", "greedy", "max_steps"))
def evaluate(
    algo: Algorithm, state: TrainState, key: Array, num_episodes: int, *, greedy: bool, max_steps: int | None = None
) -> Metrics:
    """``num_episodes`` first episodes of the policy in ``state``, sampled or ``greedy``: metrics ``[num_episodes]``.

    The same key gives the same starts. Ends with the last episode, or after ``max_steps`` (by default the environment's time
    limit); ``episode_finished`` is false for one that was still going on, whose return is that so far.

    >>> import jaxpg
    >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"))
    >>> result = jaxpg.evaluate(algo, algo.init(jax.random.key(0)), jax.random.key(1), 8, greedy=True)
    >>> result["episode_return"].shape
    (8,)
    """
    return episodes(algo, state, key, num_episodes, greedy, max_steps)


def episodes(
    algo: Algorithm, state: TrainState, key: Array, num_episodes: int, greedy: bool | Array, max_steps: int | None = None
) -> Metrics:
    """:func:`evaluate` within a trace; ``greedy`` may be traced, so that one program serves both modes."""
    if num_episodes < 1:
        raise ValueError(f"num_episodes = {num_episodes}; at least 1 is needed")
    limit = horizon(algo.env) if max_steps is None else max_steps
    if not 1 <= limit <= MAX_COUNT:
        raise ValueError(f"max_steps = {limit}; an episode is counted from 1 to 2**31 - 1 steps")
    key_reset, key_steps = jax.random.split(key)
    loop = rollout.reset(key_reset, algo.env, state.env_params, num_episodes)
    actor = algo.actor(state.replace(loop=loop), greedy=greedy)

    def going_on(carry: Carry) -> Array:
        return (carry[0] < limit) & jnp.any(carry[2])

    def step(carry: Carry) -> Carry:
        time, loop, alive, result = carry
        key = jax.random.fold_in(key_steps, time)
        loop, row = rollout.continuing(key, algo.env, state.env_params, actor, loop, 1)
        seen = {name: getattr(row, name)[0] for name in result}
        result = {name: jnp.where(alive, seen[name], result[name]) for name in result}
        return time + 1, loop, alive & ~row.done[0], result

    start = {"episode_return": loop.episode_return, "episode_length": loop.episode_length}
    alive = jnp.ones(num_episodes, bool)
    _, _, alive, result = jax.lax.while_loop(going_on, step, (jnp.int32(0), loop, alive, start))
    return result | {"episode_finished": ~alive}
