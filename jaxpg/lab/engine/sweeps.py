"""Sweeps: settings x seeds, grouped by program, planned against the memory, spread over the devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxpg import presets, sweeping
from jaxpg.algorithm import Algorithm
from jaxpg.hparams import HParams, check_ranges, given, unknown_name
from jaxpg.lab.config import check_range, convert, log_interval
from jaxpg.lab.engine import devices, plan, programs, saving
from jaxpg.lab.engine.lots import Lots
from jaxpg.lab.engine.progress import Progress
from jaxpg.lab.store import results
from jaxpg.lab.sweep_config import product

Make = Callable[..., Algorithm]
HEADROOM = 4  # a run takes about so many times its state and rollout: gradients, copies; XLA's own account follows


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that one program serves: they differ in traced hyperparameters only. ``sizes`` are what they share."""

    algo: Algorithm
    sizes: Mapping[str, Any]
    num_updates: int
    hparams: Mapping[int, HParams]  # by the number of the setting

    @property
    def env_steps(self) -> int:
        """Environment steps of each run."""
        return self.num_updates * self.algo.num_envs * self.algo.num_steps


@dataclasses.dataclass(frozen=True)
class Task:
    """What all groups of a sweep share. ``memory`` is what a device may spend, in bytes; ``None``: what it has free."""

    seeds: int
    keys: programs.Keys
    eval_episodes: int
    memory: int | None
    screen: Console
    lots: Lots
    log_every: int = 0  # updates between log points; 0: about as many points as ever


def sweep(
    algorithm: Algorithm | Make,
    vary: Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]],
    *,
    seeds: int,
    total_steps: int,
    seed: int = 0,
    eval_episodes: int = 128,
    memory: int | None = None,
) -> results.Results:
    """Every setting with every seed: metrics ``[setting, seed, log point]``, evaluated returns ``[setting, seed]``.

    ``vary`` is a product, ``{"learning_rate": [1e-4, 1e-3], "gamma": [0.98, 0.99]}``, or a list of settings. Traced
    hyperparameters share one program. Sizes (``num_envs``, ``epochs``, ``hidden``, ...) make a program each, and need a
    function from sizes to an algorithm in place of the algorithm: ``functools.partial(jaxpg.ppo, env)``.

    Runs are spread over the local devices; as many as ``memory`` (bytes of one device) allows are trained at once. Setting
    ``i`` with seed ``j`` is ``env_steps[i]``, ``metrics["episode_return"][i, j]``, ``returns["greedy_return"][i, j]``.
    ``total_steps`` is per run, rounded up to whole updates.

    >>> import jaxpg
    >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
    >>> found = jaxpg.sweep(algo, {"learning_rate": [1e-3, 1e-2]}, seeds=3, total_steps=64, eval_episodes=2)
    >>> found.settings[1], found.metrics["entropy"].shape, found.returns["greedy_return"].shape
    ({'learning_rate': 0.01}, (2, 3, 2), (2, 3))

    ``ValueError`` for what cannot be varied, values out of range, and a run that does not fit into the memory.
    """
    for name, value in (("seeds", seeds), ("total_steps", total_steps), ("eval_episodes", eval_episodes)):
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1")
    settings = [dict(s) for s in (product(vary) if isinstance(vary, Mapping) else vary)]
    screen = Console(stderr=True)
    task = Task(
        seeds, sweeping.keys(seed), eval_episodes, memory, screen if screen.is_terminal else Console(quiet=True), Lots()
    )
    parts: list[results.Part] = []
    for group in grouped(algorithm, settings, total_steps):
        run_group(group, all_runs(group, seeds), task, parts.append)
    config = {"seeds": seeds, "seed": seed, "settings": settings}
    return results.join("sweep", config, settings, seeds, parts)


def grouped(algorithm: Algorithm | Make, settings: Sequence[Mapping[str, Any]], total_steps: int) -> list[Group]:
    """The settings by program, in their order. Everything that a setting can get wrong is a ``ValueError`` here."""
    if not settings:
        raise ValueError("vary is empty; a sweep needs at least one setting")
    make = fixed(algorithm) if isinstance(algorithm, Algorithm) else algorithm
    traced = given(make().hparams)
    groups: dict[tuple[Any, ...], Group] = {}
    for number, setting in enumerate(settings):
        sizes: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in setting.items() if name not in traced
        }
        key = tuple(sorted(sizes.items()))
        if key not in groups:
            algo = make(**sizes)
            steps = sizes.get("total_steps", total_steps)
            check_range("total_steps", steps, low=1, high=None)
            groups[key] = Group(algo, sizes, math.ceil(steps / (algo.num_envs * algo.num_steps)), {})
        group = groups[key]
        hparams = group.algo.hparams.replace(**{name: convert(name, v, 0.0) for name, v in setting.items() if name in traced})
        check_ranges(hparams)
        groups[key] = dataclasses.replace(group, hparams={**group.hparams, number: hparams})
    return list(groups.values())


def fixed(algo: Algorithm) -> Make:
    """``algo`` as a function of sizes: of none."""

    def make(**sizes: Any) -> Algorithm:
        for name in sizes:
            known = {field.name for field in dataclasses.fields(Algorithm)} | presets.SIZES.keys()
            if name in {field.name for field in dataclasses.fields(algo.hparams)}:
                raise ValueError(f"{name} is not read by this algorithm, which reads {', '.join(sorted(given(algo.hparams)))}")
            if name not in known:
                raise ValueError(unknown_name("hyperparameter", name, [*given(algo.hparams), *known]))
            mend = "pass a function of sizes in place of the algorithm, e.g. functools.partial(jaxpg.ppo, env)"
            raise ValueError(f"{name} is a size of the program, not a traced hyperparameter; {mend}")
        return algo

    return make


def all_runs(group: Group, seeds: int) -> list[int]:
    """The numbers of a group's runs: run ``r`` is setting ``r // seeds`` with seed ``r % seeds``."""
    return [setting * seeds + seed for setting in group.hparams for seed in range(seeds)]


def run_group(group: Group, runs: Sequence[int], task: Task, emit: Callable[[results.Part], None]) -> float:
    """Train and evaluate ``runs`` of ``group``, lot by lot, each ``emit``-ted when it is done. Seconds that compiling took."""
    if not runs:
        return 0.0
    compiled, planned = fitted(group, len(runs), task)
    task.screen.print(f"plan: {planned}", highlight=False, soft_wrap=True)
    for first in range(0, len(runs), compiled.width):
        run_lot(group, runs[first : first + compiled.width], task, compiled, emit)
    return compiled.seconds


def fitted(group: Group, runs: int, task: Task) -> tuple[programs.Programs, plan.Plan]:
    """Programs as wide as the memory allows: planned from shapes, compiled once, and again only if XLA needs more than that."""
    mesh = devices.seed_mesh(runs)
    free = devices.bytes_free() if task.memory is None else task.memory
    planned = plan.make(runs, mesh.size, HEADROOM * sweeping.footprint(group.algo), free)
    compiled = programs.compiled(trace(group, planned.width, task, mesh))
    measured = plan.make(runs, mesh.size, compiled.bytes_per_run, free)
    if measured.width < planned.width:
        compiled = programs.compiled(trace(group, measured.width, task, mesh))
        planned = measured
    return compiled, dataclasses.replace(planned, bytes_per_run=compiled.bytes_per_run)


def trace(group: Group, width: int, task: Task, mesh: jax.sharding.Mesh) -> programs.Programs:
    """The programs of ``width`` runs of ``group``."""
    return programs.trace(group.algo, task.keys, task.eval_episodes, width, mesh)


def run_lot(
    group: Group, runs: Sequence[int], task: Task, compiled: programs.Programs, emit: Callable[[results.Part], None]
) -> None:
    """Some runs of ``group``, side by side, from their start or where they were saved, to their evaluation."""
    settings, seeds = zip(*(divmod(run, task.seeds) for run in runs), strict=True)
    rows = group.algo.num_envs * group.algo.num_steps
    course = programs.Course(0, group.num_updates, task.log_every or log_interval(group.num_updates))
    with (
        Progress(task.screen, group.env_steps, len(runs)) as progress,
        task.lots.lot(runs, compiled.shapes, course, progress) as lot,
    ):
        if lot.snapshot:
            course = dataclasses.replace(course, done=lot.snapshot.step)
            state = saving.restored(compiled.shapes, lot.snapshot, compiled.training)
        else:
            state = programs.begun(compiled, seeds, [group.hparams[setting] for setting in settings])

        def report(update: int, metrics: dict[str, np.ndarray]) -> None:
            lot.log.append({name: values[: len(runs)] for name, values in metrics.items() if name != "step"})
            progress.advance(update * rows, lot.log[-1]["episode_return"])

        progress.stage("training", course.done * rows)
        with task.lots.stop.patiently():
            state = programs.train(compiled, state, course, report, lot.keeper)
            lot.keeper.keep(course.total, state)
        progress.stage("evaluating")
        scores = programs.evaluate(compiled, state.state, len(runs))
        diverged_at = programs.diverged_at(jax.device_get(state.state.step)[: len(runs)], course.total)
        scores = {name: np.where(diverged_at > 0, np.nan, values) for name, values in scores.items()}
        env_steps = np.array(course.log_points, float) * rows
        emit(results.Part(np.array(runs), env_steps, lot.logged, scores, diverged_at))
