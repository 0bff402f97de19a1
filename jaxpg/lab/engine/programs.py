"""The three programs of a batch of runs (start, a chunk of updates, evaluation), and the host loop that drives them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import HParams
from jaxpg.core.types import TrainState
from jaxpg.lab.engine import devices, hosts
from jaxpg.lab.store import leaves
from jaxpg.loops import many as sweeping
from jaxpg.loops import sharding
from jaxpg.loops.many import Run

CHUNK_SECONDS = 1.0  # about the duration of a chunk, and so the time until training can stop
MODES = ("greedy", "sampled")

Keys = tuple[jax.Array, jax.Array]


@dataclasses.dataclass
class Programs:
    """The programs of ``width`` runs on ``mesh``, compiled in background threads.

    The start is compiled while the chunk is traced. The evaluation is traced when it is first needed, and compiled while the
    runs are trained.
    """

    mesh: Mesh
    width: int  # runs trained in parallel, a multiple of the number of devices
    training: Any  # the shardings of a Run in training
    evaluating: Any  # the shardings of its state in the evaluation, which always divides the runs
    shapes: Any  # shapes and dtypes of a Run, [R, ...]
    start: Future[jax.stages.Compiled]  # seeds [R], hparams [R] -> runs
    chunk: Any  # number of updates, whether a log point was written, runs -> runs, metrics [R] with `step`
    trace_evaluation: Callable[[], jax.stages.Lowered]  # state -> {greedy_return, sampled_return} [R]
    seconds: float  # spent on tracing and compiling start and chunk
    evaluation: Future[jax.stages.Compiled] | None = None

    @property
    def bytes_per_run(self) -> int:
        """The most memory that a run needs on each of its devices, as reported by XLA for the programs compiled so far."""
        known = [self.chunk] + ([self.evaluation.result()] if self.evaluation and self.evaluation.done() else [])
        shares = 1 if sharding.ENV in self.mesh.axis_names else self.mesh.size
        return -(-max(map(devices.bytes_needed, known)) * shares // self.width)

    @property
    def is_compiled(self) -> bool:
        """Whether start and chunk are compiled."""
        return isinstance(self.chunk, jax.stages.Compiled)

    def compile(self) -> None:
        """Compile the chunk, and wait for the start."""
        begin = time.perf_counter()
        chunk = in_background(self.chunk.compile)
        self.start.result()
        self.chunk = chunk.result()
        self.seconds += time.perf_counter() - begin

    def take_seconds(self) -> float:
        """The seconds of compiling, which count for the first batch that these programs train; then 0."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def prepare_evaluation(self) -> Future[jax.stages.Compiled]:
        """Trace the evaluation, unless that was done, and compile it in a background thread."""
        if self.evaluation is None:
            self.evaluation = in_background(self.trace_evaluation().compile)
        return self.evaluation

    def begin(self, seeds: Sequence[int], hparams: Sequence[HParams]) -> Run:
        """Compute the initial state of the runs."""
        return devices.put(self.start.result()(*inputs(seeds, hparams, self.width)), self.training)

    def evaluate(self, state: TrainState, num_runs: int) -> dict[str, np.ndarray]:
        """Evaluate the first ``num_runs`` runs: their returns."""
        scores = leaves.fetch(self.prepare_evaluation().result()(devices.put(state, self.evaluating)))
        return {name: values[:num_runs].astype(float) for name, values in scores.items()}


def in_background(make: Callable[[], jax.stages.Compiled]) -> Future[jax.stages.Compiled]:
    """Compile in a background thread; the process does not end before the compilation does."""

    def make_and_return_memory() -> jax.stages.Compiled:
        try:
            return make()
        finally:
            devices.return_memory()

    pool = ThreadPoolExecutor(1, thread_name_prefix="compile")
    try:
        return pool.submit(make_and_return_memory)
    finally:
        pool.shutdown(wait=False)


def trace(
    algo: Algorithm, keys: Keys, eval_episodes: int, width: int, mesh: Mesh, matmul_precision: str = "default"
) -> Programs:
    """Trace the programs of ``width`` runs of ``algo`` on ``mesh``; ``ValueError`` for any error in ``algo``.

    ``keys`` are the random keys of the runs. The axis of ``mesh`` says what is divided among its devices: the runs, or the
    environments of each run. ``matmul_precision`` applies to all three programs.
    """
    with devices.matmul_precision(matmul_precision):
        return _trace(algo, keys, eval_episodes, width, mesh, matmul_precision)


def _trace(algo: Algorithm, keys: Keys, eval_episodes: int, width: int, mesh: Mesh, matmul_precision: str) -> Programs:
    begin = time.perf_counter()
    is_by_env = sharding.ENV in mesh.axis_names
    spread = devices.seed_mesh(width) if is_by_env else mesh
    platform = spread.devices.flat[0].platform
    lanes = devices.lanes(width // spread.size, platform)
    key_train, key_eval = keys
    start = functools.partial(sweeping.start, algo, key_train, lanes=1 if platform == "cpu" else lanes)
    start = jax.jit(start) if is_by_env else devices.spread(start, spread)  # with environments divided, runs are not
    start = start.lower(*inputs([0], [algo.hparams], width))
    shapes = start.out_info
    start = in_background(functools.partial(devices.compile_once, start, spread))
    training = devices.layout(shapes, spread)
    evaluating = training.state
    metrics = NamedSharding(mesh, PartitionSpec()) if hosts.place().count > 1 else None  # every process reads all of them
    if is_by_env:
        training = training.replace(state=sharding.layout(shapes.state, mesh), window=devices.replicate(shapes.window, mesh))
        advance = functools.partial(sweeping.advance, algo, width)
        chunk = jax.jit(advance, out_shardings=(training, metrics), donate_argnums=2)
    else:
        advance = functools.partial(sweeping.advance, algo, lanes)
        layout = (NamedSharding(mesh, devices.SEED), metrics) if metrics else None
        chunk = devices.spread(advance, mesh, shared=2, out_shardings=layout, donate_argnums=2)
    chunk = chunk.lower(np.int32(1), np.bool_(False), devices.like(shapes, training))

    def trace_evaluation() -> jax.stages.Lowered:
        assess = devices.spread(functools.partial(sweeping.assess, algo, key_eval, eval_episodes, MODES, lanes), spread)
        with devices.matmul_precision(matmul_precision):  # because it is called later
            return assess.lower(devices.like(shapes.state, evaluating))

    seconds = time.perf_counter() - begin
    return Programs(mesh, width, training, evaluating, shapes, start, chunk, trace_evaluation, seconds)


def check_shapes(algo: Algorithm, key: jax.Array) -> None:
    """Trace the start and an update of one run of ``algo``: ``ValueError`` for any error in it."""
    start = functools.partial(sweeping.start, algo, key)
    shapes = jax.eval_shape(start, *inputs([0], [algo.hparams], 1))
    jax.eval_shape(functools.partial(sweeping.advance, algo, 1), np.int32(1), np.bool_(False), shapes)


def inputs(seeds: Sequence[int], hparams: Sequence[HParams], width: int) -> tuple[np.ndarray, HParams]:
    """The inputs of the start program for these runs; the last run is repeated to fill ``width``."""
    repeat = [*range(len(seeds)), *[len(seeds) - 1] * (width - len(seeds))]
    stacked = jax.tree.map(lambda *values: np.array(values, np.float32), *(hparams[i] for i in repeat))
    return np.array([seeds[i] for i in repeat], np.int32), stacked


@dataclasses.dataclass(frozen=True)
class Course:
    """The updates to do, from ``done`` to ``total``, and after which of them to log metrics and to evaluate policies.

    There is a log point every ``log_every`` updates and after the last update, and an evaluation every ``evaluate_every``
    updates; 0 is never.

    >>> course = Course(0, 10, 4, 3)
    >>> [update for update in range(11) if course.is_log_point(update)], course.next_stop(4), course.next_stop(6)
    ([0, 4, 8, 10], 6, 8)
    """

    done: int
    total: int
    log_every: int
    evaluate_every: int = 0

    def is_log_point(self, update: int) -> bool:
        """Whether ``update`` is a log point or the start, so that metrics are collected anew."""
        return update % self.log_every == 0 or update == self.total

    def is_evaluation_point(self, update: int) -> bool:
        """Whether policies are evaluated after ``update``."""
        return bool(self.evaluate_every) and (update % self.evaluate_every == 0 or update == self.total)

    def next_stop(self, update: int) -> int:
        """The next log point or evaluation point after ``update``."""
        intervals = (every for every in (self.log_every, self.evaluate_every) if every)
        return min(self.total, *(update // every * every + every for every in intervals))


class Watcher(Protocol):
    """Callbacks during training. An exception in one of them ends the training."""

    def log(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        """Called at a log point, with metrics ``[R]`` since the last one."""
        ...

    def evaluate(self, update: int, runs: Run) -> None:
        """An evaluation point."""
        ...

    def is_due(self) -> bool:
        """Whether to call ``save``; asked after each chunk."""
        ...

    def save(self, update: int, runs: Run) -> None:
        """Called if so."""
        ...


class Unwatched:
    """Callbacks that do nothing."""

    def log(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        """Nothing to do."""

    def evaluate(self, update: int, runs: Run) -> None:
        """Nothing to do."""

    def is_due(self) -> bool:
        """Never."""
        return False

    def save(self, update: int, runs: Run) -> None:
        """Nothing to do."""


def train(programs: Programs, runs: Run, course: Course, watcher: Watcher) -> Run:
    """Do all updates of ``course``, chunk by chunk.

    The metrics of a chunk are fetched after the next chunk was started, so that devices wait for the host only while a
    checkpoint is copied.
    """
    done, pace, pending = course.done, 1, None
    landed = time.perf_counter()

    def land() -> None:
        """Wait for the running chunk, log its metrics if it ended at a log point, and adapt the chunk length to its speed."""
        nonlocal pending, pace, landed
        if pending is None:
            return
        update, length, metrics = pending
        metrics = jax.device_get(metrics)
        now = time.perf_counter()
        pace = max(1, min(2 * length, int(length * CHUNK_SECONDS / (now - landed))))
        landed, pending = now, None
        if course.is_log_point(update):
            watcher.log(update, metrics)

    while done < course.total:
        length = min(hosts.agree(lambda: pace), course.next_stop(done) - done)
        runs, metrics = programs.chunk(np.int32(length), np.bool_(course.is_log_point(done)), runs)
        land()
        done += length
        pending = done, length, metrics
        if course.is_evaluation_point(done):
            land()
            watcher.evaluate(done, runs)
            landed = time.perf_counter()
        if watcher.is_due():
            land()
            watcher.save(done, runs)
            landed = time.perf_counter()
    land()
    return runs


def diverged_at(step: np.ndarray, update: int) -> np.ndarray:
    """The update at which each run diverged, ``[R]``, 0 if it did not; ``step`` counts the updates it has done."""
    return np.where(step < update, step + 1, 0)
