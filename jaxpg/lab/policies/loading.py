"""Policies of stored experiments: to act with, wherever observations come from, and to evaluate. Nothing is written."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import envs, stats
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import HParams, printable, shown
from jaxpg.core.types import Array, Params, PyTree, TrainState
from jaxpg.lab.config import Config
from jaxpg.lab.engine import devices, groups, programs
from jaxpg.lab.engine.groups import Make
from jaxpg.lab.store import checkpoint, leaves, results
from jaxpg.lab.store.checkpoint import Snapshot
from jaxpg.lab.store.files import CHECKPOINTS, Damaged
from jaxpg.lab.store.stored import configured, stored, without_budget
from jaxpg.loops import many as sweeping


def load_policy(
    directory: str | Path, seed: int = 0, step: int | None = None, *, setting: int = 0, algo: Algorithm | Make | None = None
) -> Callable[..., PyTree]:
    """``act(obs, key=None) -> action``: the policy of one run, in a directory of :func:`jaxpg.run` or of the command line.

    ``obs`` is one observation, or a batch ``[N, ...]`` of them; the most probable actions are taken, or with a ``key`` sampled
    ones. Observations are raw: they are scaled as in training. Actions lie within their bounds. NumPy arrays give NumPy arrays,
    JAX arrays (also inside ``jit``) JAX arrays. ``step`` is the update after which the checkpoint was written; by default the
    newest that is sound is taken, with a warning about those that are not. ``setting`` is the place among those of a sweep.
    An algorithm of your own is not stored: give the ``algo`` that :func:`jaxpg.run` was given.

    >>> act = load_policy("runs/cartpole", seed=3)                            # doctest: +SKIP
    >>> act(np.zeros(4)), act(np.zeros((10, 4)), jax.random.key(0)).shape      # doctest: +SKIP
    (1, (10,))

    ``ValueError`` where there is no such run, seed, setting or step, or none that is sound.
    """
    origin = of_setting(directory, setting, algo)
    check_seed(origin, seed)
    state, _ = load_states(origin, [seed], step)
    one = jax.tree.map(lambda x: x[0], (state.params, state.normalizer))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), state.loop.obs)
    return functools.partial(act, origin.algo, like, *one)


def act(algo: Algorithm, like: PyTree, params: Params, normalizer: PyTree, obs: PyTree, key: Array | None = None) -> PyTree:
    """Actions for one observation like ``like``, or a batch of them."""
    there, wanted = jax.tree.structure(obs), jax.tree.structure(like)
    if there != wanted:
        raise ValueError(f"obs has the structure {shown(there)}; the policy takes {shown(wanted)}")
    leaf, inner = jax.tree.leaves(obs)[0], jax.tree.leaves(like)[0].shape
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
    """The policy's actions for a batch, within the bounds of the action space."""
    dist = algo.policy.apply(params.policy, algo.normalizer.observation(normalizer, jax.tree.map(jnp.asarray, obs)))
    action = dist.mode() if key is None else dist.sample(dist.noise(key))
    return envs.legalize(algo.env, action, algo.env.default_params)  # checkpoints of policies have no env_params


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found: returns ``[N]`` by mode, NaN for a seed that diverged."""

    config: Config
    setting: Mapping[str, Any]
    step: int
    episodes: int
    returns: dict[str, np.ndarray]
    diverged_at: np.ndarray

    @property
    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean, median, interquartile mean and its interval, by mode."""
        return {name: stats.summarize(values) for name, values in self.returns.items()}


def evaluate(
    directory: str | Path,
    setting: int = 0,
    episodes: int | None = None,
    step: int | None = None,
    modes: Sequence[str] = programs.MODES,
    algo: Algorithm | Make | None = None,
) -> Evaluation:
    """The mean returns of every seed of a setting, with the evaluation's keys; ``modes`` are ``greedy`` and ``sampled``."""
    origin = of_setting(directory, setting, algo)
    config, algo = origin.config, origin.algo
    state, found = load_states(origin, range(config.seeds), step)
    mesh = devices.seed_mesh(config.seeds)
    width = devices.padded(config.seeds, mesh.size)
    fresh = jax.jit(jax.vmap(algo.init))(jax.random.split(jax.random.key(0), width))
    rows = np.minimum(np.arange(width), config.seeds - 1)
    params, normalizer = jax.tree.map(lambda x: x[rows], (state.params, state.normalizer))
    state = fresh.replace(params=params, normalizer=normalizer)
    episodes = episodes or config.eval_episodes
    lanes = devices.lanes(width // mesh.size)
    key = sweeping.keys(config.seed, config.rng)[1]
    program = devices.spread(functools.partial(sweeping.assess, algo, key, episodes, tuple(modes), lanes), mesh)
    scores = jax.device_get(program(jax.device_put(state, devices.layout(state, mesh))))
    diverged_at = programs.diverged_at(found.arrays["state.step"], found.step)
    returns = {name: np.where(diverged_at > 0, np.nan, x[: config.seeds].astype(float)) for name, x in scores.items()}
    return Evaluation(config, config.settings[setting], found.step, episodes, returns, diverged_at)


@dataclasses.dataclass(frozen=True)
class Origin:
    """A setting of an experiment, and the algorithm that it was trained with."""

    directory: Path
    config: Config
    identity: str
    setting: int
    algo: Algorithm
    hparams: HParams


def of_setting(directory: str | Path, setting: int = 0, algo: Algorithm | Make | None = None) -> Origin:
    """A setting of the experiment in ``directory``; ``algo`` is the user's own, where it was trained with one."""
    there = stored(directory)
    config = configured(directory, there)
    if not 0 <= setting < len(config.settings):
        raise ValueError(f"setting = {setting}: {printable(directory)} has the settings 0 to {len(config.settings) - 1}")
    if config.own and algo is None:
        raise ValueError(
            f"{printable(directory)} was trained with an algorithm of your own: give it, load_policy(..., algo=...)"
        )
    make = groups.named(config) if not config.own or algo is None else groups.as_function(algo)
    group = next(group for group in groups.arrange(config, make) if setting in group.hparams)
    described = groups.describe(make())
    described, before = without_budget(described), without_budget(there["algorithm"])
    if config.own and described != before:
        then, now = groups.difference(before, described)
        raise ValueError(
            f"algo is not the one that {printable(directory)} was trained with: {shown(then)} there, {shown(now)} here"
        )
    return Origin(Path(directory), config, there["identity"], setting, group.algo, group.hparams[setting])


def check_seed(origin: Origin, seed: int) -> None:
    """``ValueError`` for a seed that the experiment does not have."""
    if not 0 <= seed < origin.config.seeds:
        raise ValueError(f"seed = {seed}: {printable(origin.directory)} has the seeds 0 to {origin.config.seeds - 1}")


def load_states(origin: Origin, seeds: Sequence[int], step: int | None) -> tuple[TrainState, Snapshot]:
    """States ``[N, ...]`` that act as those of the checkpoints do; what acting does not need is abstract.

    The seeds of a setting may lie in several batches: then the newest update that all of them have is taken.
    """
    wanted = [origin.setting * origin.config.seeds + seed for seed in seeds]
    places = locate(origin, wanted)
    common = step or min(newest_step(folder) for folder, _ in places)
    several = len({folder for folder, _ in places}) > 1
    pieces: dict[Path, Snapshot] = {}
    for folder, count in {folder: count for folder, (_, count) in places}.items():
        state = jax.eval_shape(jax.vmap(origin.algo.init), jax.random.split(jax.random.key(0), count))
        spec = leaves.spec({"state": {"params": state.params, "normalizer": state.normalizer, "step": state.step}}, count)
        pieces[folder] = sound(folder / CHECKPOINTS, common if several else step, spec)
    found = next(iter(pieces.values()))
    arrays = {name: np.stack([pieces[folder].arrays[name][row] for folder, (row, _) in places]) for name in found.arrays}
    state = jax.eval_shape(jax.vmap(origin.algo.init), jax.random.split(jax.random.key(0), len(seeds)))
    read = leaves.unflatten({"state": {"params": state.params, "normalizer": state.normalizer}}, arrays)["state"]
    return state.replace(**jax.tree.map(jnp.asarray, read)), dataclasses.replace(found, arrays=arrays)


def locate(origin: Origin, wanted: Sequence[int]) -> list[tuple[Path, tuple[int, int]]]:
    """For each run the folder of its batch, its row there, and how many rows that has; ``ValueError`` if it is nowhere."""
    num_runs = len(origin.config.settings) * origin.config.seeds
    found: dict[int, tuple[Path, tuple[int, int]]] = {}
    for folder in results.folders(origin.directory):
        try:
            runs = results.read_result(folder, origin.identity, num_runs)[0]["runs"]
        except ValueError as error:
            warnings.warn(f"a batch of runs is left out: {error}", stacklevel=5)
            continue
        found |= {run: (folder, (row, len(runs))) for row, run in enumerate(runs)}
    if missing := [run for run in wanted if run not in found]:
        seed = missing[0] % origin.config.seeds
        raise ValueError(f"{printable(origin.directory)} has no checkpoint of seed {seed} of setting {origin.setting} yet")
    return [found[run] for run in wanted]


def newest_step(folder: Path) -> int:
    """The update of the newest checkpoint of a batch, sound or not; 0 where there is none."""
    return max(checkpoint.steps(folder / CHECKPOINTS), default=0)


def sound(place: Path, step: int | None, spec: leaves.Spec) -> Snapshot:
    """The checkpoint of ``step``, or the newest that can be read; ``ValueError`` where there is none."""
    steps = checkpoint.steps(place)
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise ValueError(f"step = {step}: {printable(place)} has checkpoints of the updates {there}")
    for at in [step] if step is not None else reversed(steps):
        try:
            return checkpoint.read(place, at, spec, ("params",))
        except Damaged as error:
            if step is not None:
                raise ValueError(f"the checkpoint of update {at:,} cannot be used: {error}") from None
            warnings.warn(f"the checkpoint of update {at:,} cannot be used: {error}", stacklevel=5)
    raise ValueError(f"{printable(place)} has no checkpoint that can be used")
