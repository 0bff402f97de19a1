"""Policies of stored runs: to act with, wherever observations come from, and to evaluate. Nothing is written."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from jaxpg import algorithms, envs, stats, sweeping
from jaxpg.algorithm import Algorithm
from jaxpg.lab.config import RunConfig
from jaxpg.lab.engine import devices, programs
from jaxpg.lab.store import checkpoint, leaves
from jaxpg.lab.store.checkpoint import Damaged, Snapshot
from jaxpg.lab.store.stored import read_config
from jaxpg.types import Array, Params, PyTree, TrainState


def load_policy(directory: str | Path, seed: int = 0, step: int | None = None) -> Callable[..., PyTree]:
    """``act(obs, key=None) -> action``: the policy of one seed of a run that ``jaxpg train`` stored.

    ``obs`` is one observation, or a batch ``[N, ...]`` of them; the most probable actions are taken, or with a ``key`` sampled
    ones. Observations are raw: they are scaled as in training. Actions lie within their bounds. NumPy arrays give NumPy arrays,
    JAX arrays (also inside ``jit``) JAX arrays. ``step`` is the update after which the checkpoint was written; by default the
    newest that is sound is taken, with a warning about those that are not.

    >>> act = load_policy("runs/cartpole", seed=3)                            # doctest: +SKIP
    >>> act(np.zeros(4)), act(np.zeros((10, 4)), jax.random.key(0)).shape      # doctest: +SKIP
    (1, (10,))

    ``ValueError`` where there is no such run, seed or step, or none that is sound.
    """
    config, algo = of_run(directory)
    if not 0 <= seed < config.seeds:
        raise ValueError(f"seed = {seed}: {directory} has the seeds 0 to {config.seeds - 1}")
    state, _ = stored(directory, config, algo, step)
    one = jax.tree.map(lambda x: x[seed], (state.params, state.normalizer))
    shape = jax.tree.map(lambda x: x.shape[2:], state.loop.obs)
    return functools.partial(act, algo, shape, *one)


def act(algo: Algorithm, shape: PyTree, params: Params, normalizer: PyTree, obs: PyTree, key: Array | None = None) -> PyTree:
    """Actions for one observation of ``shape``, or a batch of them."""
    leaf, inner = jax.tree.leaves(obs)[0], jax.tree.leaves(shape, is_leaf=lambda x: isinstance(x, tuple))[0]
    extra = np.ndim(leaf) - len(inner)
    if extra not in (0, 1) or np.shape(leaf)[extra:] != inner:
        raise ValueError(f"obs has shape {np.shape(leaf)}; the policy takes {inner}, or a batch ({'N, ' + str(inner)[1:]}")
    batch = obs if extra else jax.tree.map(lambda x: jnp.asarray(x)[None], obs)
    actions = decide(algo, params, normalizer, batch, key)
    if not extra:
        actions = jax.tree.map(lambda x: x[0], actions)
    return actions if any(isinstance(x, jax.Array) for x in jax.tree.leaves(obs)) else jax.device_get(actions)


@functools.partial(jax.jit, static_argnames="algo")
def decide(algo: Algorithm, params: Params, normalizer: PyTree, obs: PyTree, key: Array | None) -> PyTree:
    """The policy's actions for a batch, in bounds."""
    dist = algo.policy.apply(params.policy, algo.normalizer.observation(normalizer, jax.tree.map(jnp.asarray, obs)))
    action = dist.mode() if key is None else dist.sample(dist.noise(key))
    env: Any = algo.env
    space = env.action_space(env.default_params)
    return jnp.clip(action, space.low, space.high) if isinstance(space, spaces.Box) else action


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found: returns ``[N]`` by mode, NaN for a seed that diverged."""

    config: RunConfig
    step: int
    episodes: int
    returns: dict[str, np.ndarray]
    diverged_at: np.ndarray

    @property
    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean, median, interquartile mean and its interval, by mode."""
        return {name: stats.summarize(values) for name, values in self.returns.items()}


def evaluate(directory: str | Path, episodes: int | None, step: int | None, modes: Sequence[str]) -> Evaluation:
    """The mean returns of every seed of a run, with the evaluation's own keys; ``modes`` are of ``greedy`` and ``sampled``."""
    config, algo = of_run(directory)
    read, found = stored(directory, config, algo, step)
    fresh = jax.jit(jax.vmap(algo.init))(jax.random.split(jax.random.key(0), config.seeds))
    state = fresh.replace(params=read.params, normalizer=read.normalizer)
    mesh = devices.seed_mesh(config.seeds)
    width = devices.padded(config.seeds, mesh.size)
    state = jax.tree.map(lambda x: x[np.minimum(np.arange(width), config.seeds - 1)], state)
    episodes = episodes or config.eval_episodes
    lanes = devices.lanes(width // mesh.size)
    key = sweeping.keys(config.seed, config.rng)[1]
    program = devices.spread(functools.partial(sweeping.assess, algo, key, episodes, tuple(modes), lanes), mesh)
    scores = jax.device_get(program(jax.device_put(state, devices.layout(state, mesh))))
    diverged_at = programs.diverged_at(found.arrays["state.step"], found.step)
    returns = {name: np.where(diverged_at > 0, np.nan, x[: config.seeds].astype(float)) for name, x in scores.items()}
    return Evaluation(config, found.step, episodes, returns, diverged_at)


def of_run(directory: str | Path) -> tuple[RunConfig, Algorithm]:
    """The configuration in ``directory`` and its algorithm."""
    config = read_config(directory)
    if not isinstance(config, RunConfig):
        raise ValueError(f"{directory} holds a sweep, which keeps results and no policies; train one of its settings")
    return config, algorithms.build(config.algo, envs.make(config.env), **config.options)


def stored(directory: str | Path, config: RunConfig, algo: Algorithm, step: int | None) -> tuple[TrainState, Snapshot]:
    """States ``[N, ...]`` that act as those of the checkpoint do; what acting does not need is abstract."""
    state = jax.eval_shape(jax.vmap(algo.init), jax.random.split(jax.random.key(0), config.seeds))
    spec = leaves.spec({"state": {"params": state.params, "normalizer": state.normalizer, "step": state.step}}, config.seeds)
    place = Path(directory) / checkpoint.FOLDER
    found = sound(place, step, lambda at: checkpoint.read(place, at, lambda _: spec, ("params",)))
    read = leaves.unflatten({"state": {"params": state.params, "normalizer": state.normalizer}}, found.arrays)["state"]
    return state.replace(**jax.tree.map(jnp.asarray, read)), found


def sound(place: Path, step: int | None, read: Callable[[int], Snapshot]) -> Snapshot:
    """The checkpoint of ``step``, or the newest that can be read; ``ValueError`` where there is none."""
    steps = checkpoint.steps(place)
    if step is not None and step not in steps:
        raise ValueError(f"step = {step}: {place} has checkpoints of the updates {', '.join(map(str, steps)) or 'none'}")
    for at in [step] if step is not None else reversed(steps):
        try:
            return read(at)
        except Damaged as error:
            if step is not None:
                raise ValueError(f"the checkpoint of update {at:,} cannot be used: {error}") from None
            warnings.warn(f"the checkpoint of update {at:,} cannot be used: {error}", stacklevel=4)
    raise ValueError(f"{place} has no checkpoint that can be used")
