"""Many runs in one program: their start, some updates, their evaluation. Pure functions of arrays with a leading axis ``[R]``.

``jaxpg.sweep`` and ``jaxpg.run`` plan memory and devices around these three functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from jaxpg.core import _compensated as compensated
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Array, Metrics, PyTree, TrainState
from jaxpg.loops.evaluate import episodes
from jaxpg.loops.train import averaged, weighed

Pair = tuple[Array, Array]  # a total and its compensation


class Run(struct.PyTreeNode):
    """A run during training: its state, and the sums of its metrics over ``updates`` updates since the last log point.

    A sum is ``[2]``: the total, and its rounding error (see ``jaxpg.core._compensated``).
    """

    state: TrainState
    window: Metrics


def keys(seed: int, rng: str | None = None) -> tuple[Array, Array]:
    """The keys for training and for evaluation from ``seed``, with the generator ``rng``, by default that of JAX."""
    key = jax.random.key(seed, impl=rng)
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def start(algo: Algorithm, key: Array, seeds: Array, hparams: HParams, lanes: int = 1) -> Run:
    """The initial states: run ``i`` has seed ``seeds[i]`` and hyperparameters ``hparams[i]``, independent of the other runs.

    By default runs are computed one after another: a start is short, and then its bits do not depend on the number of runs.
    With ``lanes``, that many runs are computed at once: on an accelerator a start takes a thousand launches, for any
    number of runs.

    >>> import jaxpg
    >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"))
    >>> hparams = jax.tree.map(lambda x: jnp.full(3, x), algo.hparams).replace(learning_rate=jnp.array([1e-4, 1e-3, 1e-2]))
    >>> start(algo, jax.random.key(0), jnp.arange(3), hparams).state.step.shape
    (3,)
    """

    def one_run(run: tuple[Array, HParams]) -> TrainState:
        return algo.init(jax.random.fold_in(key, run[0]), run[1])

    def one_update(states: TrainState) -> Metrics:
        return update(algo, jax.tree.map(lambda x: x[0], states))[1]

    states = map_blocks(one_run, (seeds, hparams), lanes)
    sums = (*jax.eval_shape(one_update, states), "updates")
    return Run(states, {name: jnp.zeros((*seeds.shape, 2), jnp.result_type(float)) for name in sums})


def advance(
    algo: Algorithm, lanes: int, num_updates: int | Array, is_new: bool | Array, runs: Run
) -> tuple[Run, dict[str, Array]]:
    """Do ``num_updates`` updates of every run; also return its metrics ``[R]`` since the last log point.

    ``is_new`` says that a log point was just written, so that the metrics start again. Both may be traced: one program serves
    every number of updates, and results are bit for bit the same however updates are divided into calls. Blocks of ``lanes``
    runs are vmapped, one block after another, so that a block fits into the cache and the bits of a run do not depend on the
    number of runs.

    If the result of an update is not ``finite``, the run keeps its state before that update from then on. ``step`` in the
    metrics is the number of updates that it has done. Other runs are not affected.
    """

    def one_update(_: Any, run: tuple[TrainState, Pair]) -> tuple[TrainState, Pair]:
        old, sums = run
        new, metrics = update(algo, old)
        good = finite(new, metrics)
        added, _ = ravel_pytree(weighed(metrics) | {"updates": 1.0})
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)
        return state, compensated.add(*sums, jnp.where(good, added, 0.0))

    def one_run(run: Run) -> tuple[Run, dict[str, Array]]:
        names = sorted(run.window)  # stacked in two vectors, because a loop with fewer arrays compiles faster
        total, compensation = jnp.where(is_new, 0.0, jnp.stack([run.window[name] for name in names], axis=1))
        state, sums = jax.lax.fori_loop(0, num_updates, one_update, (run.state, (total, compensation)))
        window = dict(zip(names, jnp.stack(sums, axis=1), strict=True))
        means = averaged({name: total for name, (total, _) in window.items() if name != "updates"}, window["updates"][0])
        return Run(state, window), means | {"step": state.step}

    return map_blocks(one_run, runs, lanes)


def map_blocks(function: Callable[[PyTree], PyTree], rows: PyTree, lanes: int) -> PyTree:
    """Map ``function`` over rows, ``lanes`` at a time, by ``jax.lax.map``, but also for arrays without elements."""
    if lanes == 1:
        return jax.lax.map(function, rows)
    count = len(jax.tree.leaves(rows)[0])
    complete = count - count % lanes
    blocks = jax.tree.map(lambda x: x[:complete].reshape(complete // lanes, lanes, *x.shape[1:]), rows)
    results = jax.lax.map(jax.vmap(function), blocks)
    results = jax.tree.map(lambda x: x.reshape(complete, *x.shape[2:]), results)
    if complete == count:
        return results
    rest = jax.vmap(function)(jax.tree.map(lambda x: x[complete:], rows))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), results, rest)


@functools.partial(jax.jit, static_argnums=0)
def update(algo: Algorithm, state: TrainState) -> tuple[TrainState, Metrics]:
    """``algo.update``, traced only once."""
    return algo.update(state)


def finite(state: TrainState, metrics: Metrics) -> Array:
    """Whether parameters, statistics, losses and returns are finite. A return may be NaN if no episode ended."""
    losses = [x for name, x in metrics.items() if name.endswith("_loss")]
    ended = jnp.where(metrics["episodes"] > 0, metrics["episode_return"], 0.0)
    numbers, _ = ravel_pytree((state.params, state.normalizer, losses, ended, state.loop.episode_return))
    return jnp.all(jnp.isfinite(numbers))


def assess(algo: Algorithm, key: Array, num_episodes: int, modes: tuple[str, ...], lanes: int, state: TrainState) -> Metrics:
    """Evaluate every run: its mean return ``[R]`` in each of ``modes``, ``greedy`` or ``sampled``, from the same starts."""

    def one_mode(greedy: Array) -> Array:
        def mean_return(state: TrainState) -> Array:
            return jnp.mean(episodes(algo, state, key, num_episodes, greedy)["episode_return"])

        return map_blocks(mean_return, state, lanes)

    means = jax.lax.map(one_mode, jnp.array([mode == "greedy" for mode in modes]))
    return {f"{mode}_return": mean for mode, mean in zip(modes, means, strict=True)}


def footprint(algo: Algorithm) -> int:
    """The least memory of one run, in bytes: its state and one rollout. Nothing is computed."""

    def shapes(key: Array) -> PyTree:
        state = algo.init(key)
        return state, algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, algo.num_steps)[1]

    leaves = jax.tree.leaves(jax.eval_shape(shapes, jax.random.key(0)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
