"""The three programs of a group of runs (start, a chunk of updates, evaluation), and the host loop that drives them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpg import sharding, sweeping
from jaxpg.algorithm import Algorithm
from jaxpg.hparams import HParams
from jaxpg.lab.engine import devices
from jaxpg.sweeping import Run
from jaxpg.types import TrainState

CHUNK_SECONDS = 1.0  # about so long is a chunk: who asks to stop does not wait longer
MODES = ("greedy", "sampled")

Keys = tuple[jax.Array, jax.Array]
Report = Callable[[int, dict[str, np.ndarray]], None]  # (updates done, metrics [R])


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs of ``width`` runs on ``mesh``: traced, so that all that can be refused was, or compiled as well."""

    mesh: Mesh
    width: int  # runs trained side by side, a multiple of the devices
    training: Any  # where each leaf of a Run lies in training: a tree of shardings
    evaluating: Any  # and where those of its state lie in the evaluation, which always spreads the runs
    shapes: Any  # a Run in the abstract, [R, ...]
    start: Any  # seeds [R], hparams [R] -> runs
    chunk: Any  # number of updates, whether a log point was written, runs -> runs, metrics [R] with `step`
    evaluation: Any  # state -> {greedy_return, sampled_return} [R]
    seconds: float  # spent on tracing and compiling
    bytes_per_run: int = 0  # what XLA says that a run takes on its device at most, once compiled


def trace(algo: Algorithm, keys: Keys, eval_episodes: int, width: int, mesh: Mesh) -> Programs:
    """The programs of ``width`` runs of ``algo`` on ``mesh``; ``ValueError`` for anything in ``algo`` that does not fit.

    ``keys`` are those of :func:`jaxpg.sweeping.keys`. The axis of ``mesh`` says what its devices share: the runs, or the
    environments of every run.
    """
    begin = time.perf_counter()
    is_by_env = sharding.ENV in mesh.axis_names
    spread = devices.seed_mesh(width) if is_by_env else mesh
    lanes = devices.lanes(width // spread.size)
    key_train, key_eval = keys
    start = functools.partial(sweeping.start, algo, key_train)
    start = jax.jit(start) if is_by_env else devices.spread(start, spread)  # an update by env is no part of a program by seed
    start = start.lower(*inputs([0], [algo.hparams], width))
    shapes = start.out_info
    training = devices.layout(shapes, spread)
    evaluating = training.state
    if is_by_env:
        training = training.replace(state=sharding.layout(shapes.state, mesh), window=devices.everywhere(shapes.window, mesh))
        advance = functools.partial(sweeping.advance, algo, width)
        chunk = jax.jit(advance, out_shardings=(training, None), donate_argnums=2)
    else:
        chunk = devices.spread(functools.partial(sweeping.advance, algo, lanes), mesh, shared=2, donate_argnums=2)
    chunk = chunk.lower(np.int32(1), np.bool_(False), devices.like(shapes, training))
    evaluation = devices.spread(functools.partial(sweeping.assess, algo, key_eval, eval_episodes, MODES, lanes), spread)
    evaluation = evaluation.lower(devices.like(shapes.state, evaluating))
    seconds = time.perf_counter() - begin
    return Programs(mesh, width, training, evaluating, shapes, start, chunk, evaluation, seconds)


def compiled(traced: Programs) -> Programs:
    """One compilation of each program, side by side: much of a compilation is the work of one core."""
    begin = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        start = pool.submit(devices.compile_once, traced.start, traced.mesh)
        chunk, evaluation = pool.submit(traced.chunk.compile), pool.submit(traced.evaluation.compile)
    start, chunk, evaluation = start.result(), chunk.result(), evaluation.result()
    largest = max(devices.bytes_needed(program) for program in (chunk, evaluation))
    seconds = traced.seconds + time.perf_counter() - begin
    per_run = -(-largest * traced.mesh.size // traced.width)
    return dataclasses.replace(traced, start=start, chunk=chunk, evaluation=evaluation, seconds=seconds, bytes_per_run=per_run)


def inputs(seeds: Sequence[int], hparams: Sequence[HParams], width: int) -> tuple[np.ndarray, HParams]:
    """What the start program takes for these runs, one entry each; the last is repeated until there are ``width``."""
    repeat = [*range(len(seeds)), *[len(seeds) - 1] * (width - len(seeds))]
    stacked = jax.tree.map(lambda *values: np.array(values, np.float32), *(hparams[i] for i in repeat))
    return np.array([seeds[i] for i in repeat], np.int32), stacked


def begun(programs: Programs, seeds: Sequence[int], hparams: Sequence[HParams]) -> Run:
    """The runs at their start."""
    return jax.device_put(programs.start(*inputs(seeds, hparams, programs.width)), programs.training)


@dataclasses.dataclass(frozen=True)
class Course:
    """Updates to be done, from ``done`` to ``total``; every ``log_every`` of them, and after the last, is a log point.

    >>> course = Course(0, 10, 4)
    >>> course.log_points, course.is_log_point(4), course.next_log_point(5)
    ([4, 8, 10], True, 8)
    """

    done: int
    total: int
    log_every: int

    @property
    def log_points(self) -> list[int]:
        """All of them, from the first update on."""
        return [*range(self.log_every, self.total, self.log_every), self.total]

    def is_log_point(self, update: int) -> bool:
        """Nothing has been measured since: ``update`` is a log point, or the start."""
        return update % self.log_every == 0 or update == self.total

    def next_log_point(self, update: int) -> int:
        """The first after ``update``."""
        return min(update // self.log_every * self.log_every + self.log_every, self.total)


class Keeper(Protocol):
    """Who saves runs under way."""

    def is_due(self) -> bool:
        """Asked after every chunk."""
        ...

    def keep(self, update: int, runs: Run) -> None:
        """Called if so. An exception ends the training."""
        ...


def train(programs: Programs, runs: Run, course: Course, report: Report, keeper: Keeper) -> Run:
    """All updates of ``course``, chunk by chunk; ``report`` gets every log point.

    Metrics are fetched one chunk behind the dispatch, so that the devices wait for the host only while it copies what is saved.
    """
    done, pace, pending = course.done, 1, None
    landed = time.perf_counter()

    def land() -> None:
        """Wait for the chunk in flight; report it if it ended at a log point; see how many updates fit into a second."""
        nonlocal pending, pace, landed
        if pending is None:
            return
        update, length, metrics = pending
        metrics = jax.device_get(metrics)
        now = time.perf_counter()
        pace = max(1, min(2 * length, int(length * CHUNK_SECONDS / (now - landed))))
        landed, pending = now, None
        if course.is_log_point(update):
            report(update, metrics)

    while done < course.total:
        length = min(pace, course.next_log_point(done) - done)
        runs, metrics = programs.chunk(np.int32(length), np.bool_(course.is_log_point(done)), runs)
        land()
        done += length
        pending = done, length, metrics
        if keeper.is_due():
            land()
            keeper.keep(done, runs)
            landed = time.perf_counter()
    land()
    return runs


def evaluate(programs: Programs, state: TrainState, num_runs: int) -> dict[str, np.ndarray]:
    """The returns of the first ``num_runs``."""
    scores = jax.device_get(programs.evaluation(jax.device_put(state, programs.evaluating)))
    return {name: values[:num_runs].astype(float) for name, values in scores.items()}


def diverged_at(step: np.ndarray, update: int) -> np.ndarray:
    """The update at which each run diverged, ``[R]``, 0 for one that did not: it has done ``step`` of ``update`` updates."""
    return np.where(step < update, step + 1, 0)
