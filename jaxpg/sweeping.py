"""Many runs as one program: their start, some updates, their evaluation. Pure; runs are the leading axis ``[R]`` of everything.

(A room named ``sweep`` would hide ``jaxpg.sweep``, which plans memory and devices around these three functions.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg.algorithm import Algorithm
from jaxpg.hparams import HParams
from jaxpg.training import evaluate, train
from jaxpg.types import Array, Metrics, PyTree, TrainState


def keys(seed: int) -> tuple[Array, Array]:
    """The keys of training and of evaluation that belong to ``seed``."""
    key = jax.random.key(seed)
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def start(algo: Algorithm, key: Array, seeds: Array, hparams: HParams) -> TrainState:
    """The first states: run ``i`` has seed ``seeds[i]`` and hyperparameters ``hparams[i]``, whatever runs beside it.

    One after the other: a start is short, and its bits then do not depend on the number of runs.

    >>> import jaxpg
    >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"))
    >>> hparams = jax.tree.map(lambda x: jnp.full(3, x), algo.hparams).replace(learning_rate=jnp.array([1e-4, 1e-3, 1e-2]))
    >>> start(algo, jax.random.key(0), jnp.arange(3), hparams).step.shape
    (3,)
    """
    return jax.lax.map(lambda run: algo.init(jax.random.fold_in(key, run[0]), run[1]), (seeds, hparams))


def advance(algo: Algorithm, num_updates: int, lanes: int, state: TrainState) -> tuple[TrainState, Metrics]:
    """``num_updates`` updates of every run, and one log point for each: metrics ``[R]``.

    ``lanes`` runs are vmapped, and such blocks follow each other: what fits into a cache stays there, and the bits of a run
    do not depend on how many others there are.
    """

    def one_run(state: TrainState) -> tuple[TrainState, Metrics]:
        state, metrics = train(algo, state, num_updates, num_updates)
        return state, jax.tree.map(lambda x: x[0], metrics)

    return jax.lax.map(one_run, state, batch_size=lanes)


def assess(algo: Algorithm, key: Array, num_episodes: int, lanes: int, state: TrainState) -> dict[str, Array]:
    """Mean greedy and sampled return of every run, over the same starts, and whether its parameters have ``diverged``."""

    def one_run(state: TrainState) -> dict[str, Array]:
        def mean_return(greedy: bool) -> Array:
            return jnp.mean(evaluate(algo, state, key, num_episodes, greedy=greedy)["episode_return"])

        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]
        return {
            "greedy_return": mean_return(True),
            "sampled_return": mean_return(False),
            "diverged": ~jnp.all(jnp.stack(finite)),
        }

    return jax.lax.map(one_run, state, batch_size=lanes)


def footprint(algo: Algorithm) -> int:
    """Bytes of one run that nothing can do without: its state, and what one rollout collects. Nothing is computed."""

    def shapes(key: Array) -> PyTree:
        state = algo.init(key)
        return state, algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, algo.num_steps)[1]

    leaves = jax.tree.leaves(jax.eval_shape(shapes, jax.random.key(0)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
