"""A batch of runs that is trained in parallel: its log, its checkpoints and its result."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpg.core.hparams import HParams, shown
from jaxpg.lab.engine import devices, hosts, programs, stopping
from jaxpg.lab.engine.loggers import NO_LOGGER, Logger
from jaxpg.lab.engine.progress import Progress
from jaxpg.lab.store import checkpoint, columns, leaves, log
from jaxpg.lab.store.checkpoint import Say, Snapshot
from jaxpg.lab.store.files import ASIDE, BATCH, CHECKPOINTS, LOCKS, METRICS, RESULT, TABLE, Damaged, lock, write_json
from jaxpg.lab.store.remote import HERE, OnDisk
from jaxpg.lab.store.results import MODES, Part, batch_name, folder_of
from jaxpg.loops.many import Run

PATIENCE = 30.0  # seconds to wait for another process that trains the same batch
WORST = -1e30  # the score of runs without a return: it must be a finite number


@dataclasses.dataclass(frozen=True)
class Batch:
    """The ``runs`` that one program of ``width`` runs trains. Run ``r`` is setting ``r // seeds`` with seed ``r % seeds``."""

    runs: tuple[int, ...]
    seeds: int
    width: int
    hparams: tuple[HParams, ...]  # of each run
    course: programs.Course  # from update 0
    steps_per_update: int

    @property
    def places(self) -> list[tuple[int, int]]:
        """Setting and seed of each run."""
        return [divmod(run, self.seeds) for run in self.runs]

    @property
    def env_steps(self) -> int:
        """Environment steps of each run."""
        return self.course.total * self.steps_per_update

    def has(self, row: log.Row) -> bool:
        """Whether ``row`` belongs to the log of the finished batch."""
        is_point = self.course.is_evaluation_point if MODES[0] in row else self.course.is_log_point
        return is_point(row["update"])

    def is_at_end_only(self, row: log.Row) -> bool:
        """Whether ``row`` is logged only because training ends there, and not if the batch is trained further."""
        return row["update"] % (self.course.evaluate_every if MODES[0] in row else self.course.log_every) != 0


@dataclasses.dataclass(frozen=True)
class Finished:
    """The result of a batch: returns ``[R]`` by mode, NaN for a run that diverged, and the final state of its runs."""

    returns: dict[str, np.ndarray]
    diverged_at: np.ndarray
    runs: Run


class Recorder(programs.Unwatched):
    """Record the metrics of a batch in memory."""

    def __init__(self, batch: Batch, compiled: programs.Programs, progress: Progress) -> None:
        self.batch, self.compiled, self.progress, self.begin = batch, compiled, progress, time.perf_counter()
        self.updates: list[int] = []
        self.points: list[dict[str, np.ndarray]] = []

    def log(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        """Record the metrics of a log point."""
        metrics = {name: values[: len(self.batch.runs)] for name, values in metrics.items() if name != "step"}
        self.updates.append(update)
        self.points.append(metrics)
        self.compiled.prepare_evaluation()  # while the next chunk computes
        self.progress.advance(update * self.batch.steps_per_update, metrics["episode_return"])

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self.begin

    def part(self, finished: Finished) -> Part:
        """The results of the batch."""
        env_steps = np.array(self.updates, float) * self.batch.steps_per_update
        metrics = {name: np.stack([point[name] for point in self.points], axis=1) for name in self.points[0]}
        return Part(np.array(self.batch.runs), env_steps, metrics, np.zeros(0), {}, finished.returns, finished.diverged_at)


class Keeper:
    """Save a batch in ``DIRECTORY/batches/FIRST``: the rows of its log, its checkpoints, and its result.

    A context manager. No other process may write to the folder. A checkpoint is written every ``every`` seconds (0: only at the
    end, and when interrupted), and, if policies are evaluated during training, whenever the mean return is the best so far.
    """

    def __init__(
        self,
        directory: Path,
        batch: Batch,
        compiled: programs.Programs,
        progress: Progress,
        stop: stopping.Stop,
        *,
        identity: str,
        machine: Mapping[str, Any],
        every: float,
        keep: int,
        parquet: bool = False,
        logger: Logger = NO_LOGGER,
        copy: OnDisk = HERE,
    ) -> None:
        self.batch, self.compiled, self.progress, self.stop = batch, compiled, progress, stop
        self.identity, self.machine, self.every, self.logger = identity, machine, every, logger
        self.folder = make_folder(directory, {"identity": identity, "runs": batch.runs, "width": batch.width})
        self.parquet = parquet
        for name in (RESULT, TABLE):
            (self.folder / name).unlink(missing_ok=True)  # earlier ones, of fewer updates
        self.snapshot = self.restore()
        hosts.agree(lambda: self.snapshot.step if self.snapshot else 0)
        meta = self.snapshot.meta if self.snapshot else {}
        self.spent, self.begin = float(meta.get("seconds", 0.0)), time.perf_counter()
        self.score, self.best = float(meta.get("score", WORST)), float(meta.get("best", WORST))
        self.saved, self.scores, self.update = time.monotonic(), None, 0  # the last update that was given to be saved
        self.rows = log.Log(self.folder / METRICS)
        self.seal, self.tail = self.rows.seal, []
        self.copy = copy
        for row in filter(batch.has, meta.get("tail", ())):
            self.append([row])
        say, publish = progress.line, self.publish
        self.store = checkpoint.Checkpoints(self.folder / CHECKPOINTS, keep, say, progress.warn, self.rows.sync, publish)

    def __enter__(self) -> Keeper:
        return self

    def publish_start(self) -> None:
        """Upload the batch as training finds it: without a result, without what was put aside, with what was not uploaded."""
        self.copy.publish_batch(self.folder, self.seal)

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        with self.rows, contextlib.closing(self.store):
            pass
        if isinstance(error, stopping.Stopped) and self.store.failure:
            error.fail(self.not_saved)

    def restore(self) -> Snapshot | None:
        """The snapshot to continue from, or ``None``. Later rows of the log are removed: they will be written again."""
        expected = spec(self.compiled, self.batch)

        def belongs(meta: Mapping[str, Any]) -> None:
            if meta.get("identity") != self.identity or meta.get("runs") != list(self.batch.runs):
                raise Damaged("it belongs to another experiment")
            numbers, tail = [meta.get(name) for name in ("seconds", "score", "best")], meta.get("tail")
            if not all(isinstance(x, float) for x in numbers) or not isinstance(tail, list) or not all(map(log.is_row, tail)):
                raise Damaged("its metadata was not written by jaxpg")

        snapshot = checkpoint.newest(self.folder / CHECKPOINTS, expected, belongs, self.progress.warn)
        seal, step = (snapshot.meta.get("log"), snapshot.step) if snapshot else (None, 0)
        path = self.folder / METRICS
        if isinstance(seal, Mapping) and log.seal_of(path, seal.get("bytes", 0)) != dict(seal):
            there = "it is missing"
            if path.exists():
                (self.folder / ASIDE).mkdir(exist_ok=True)
                aside = self.folder / ASIDE / f"{METRICS}-{time.time_ns()}"
                aside.write_bytes(path.read_bytes())
                there = f"the other rows are kept; a copy of the changed file is in {aside}"
            lost = log.restore(path, seal, step, snapshot.meta["tail"] if snapshot else ())
            self.progress.warn(
                f"{METRICS} was changed since update {step:,} was saved: {lost} rows cannot be read and are lost; {there}"
            )
        else:
            log.restore(path, seal, step)
        if snapshot:
            compare(snapshot.meta.get("machine"), self.machine, self.progress.warn)
        return snapshot

    def log(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        """Write the rows of a log point."""
        metrics = {name: values[: len(self.batch.runs)] for name, values in metrics.items()}
        self.progress.diverged(programs.diverged_at(metrics.pop("step"), update))
        self.write(update, metrics)
        known = metrics["episode_return"][np.isfinite(metrics["episode_return"])]
        if known.size and not self.batch.course.evaluate_every:
            self.score = float(known.mean())
        self.progress.advance(update * self.batch.steps_per_update, metrics["episode_return"])
        self.compiled.prepare_evaluation()  # while the next chunk computes

    def evaluate(self, update: int, runs: Run) -> None:
        """Evaluate the policies, write the rows, and save them if they are the best so far."""
        hosts.expect_progress(is_training=False)
        stage = self.progress.name
        self.progress.stage("evaluating", update * self.batch.steps_per_update)
        finished = conclude(self.compiled, runs, update, len(self.batch.runs))
        self.scores = finished.returns
        self.write(update, self.scores)
        self.progress.stage(stage, update * self.batch.steps_per_update)
        known = self.scores[MODES[0]][np.isfinite(self.scores[MODES[0]])]
        self.score = float(known.mean()) if known.size else WORST
        found = f"greedy return {self.score:.4g}" if known.size else "every run diverged"
        self.progress.line(f"update {update:,}: {found}")
        if hosts.agree(lambda: self.score > self.best):
            self.best = self.score
            self.store.save(self.take(update, runs), self.score)

    def write(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        """Write rows to the log and to the logger."""
        rows = log.rows(self.batch.places, update, update * self.batch.steps_per_update, metrics)
        self.append(rows)
        self.logger.write(rows)

    def append(self, rows: list[log.Row]) -> None:
        """Append rows to the log. ``tail`` holds rows that exist only because training ends, for the checkpoints."""
        self.rows.write(rows)
        if self.tail or self.batch.is_at_end_only(rows[0]):
            self.tail += rows
        else:
            self.seal = self.rows.seal

    def is_due(self) -> bool:
        """Whether a checkpoint is due, by the clock or because training was asked to stop."""
        hosts.expect_progress(is_training=True)
        is_uploading = self.copy.is_remote and self.store.is_busy  # a disk is waited for, a network is not
        is_by_clock = 0 < self.every <= time.monotonic() - self.saved and not is_uploading
        return hosts.agree(lambda: bool(self.stop.number) or is_by_clock)

    def save(self, update: int, runs: Run) -> None:
        """Save the runs. If training was asked to stop, wait until they are saved, or saving failed, and raise ``Stopped``."""
        is_evaluated = self.batch.course.is_evaluation_point(update) or not self.batch.course.evaluate_every
        self.store.save(self.take(update, runs), self.score if is_evaluated else WORST)
        self.saved = time.monotonic()
        if hosts.agree(lambda: self.stop.number):
            self.store.wait()
            hosts.agree(lambda: True)
            self.stop.check()

    def take(self, update: int, runs: Run) -> Snapshot:
        """Copy everything that a checkpoint holds to the host."""
        count, self.update = len(self.batch.runs), update
        tree = tree_of(runs)
        meta = {"identity": self.identity, "runs": list(self.batch.runs), "log": self.seal, "tail": list(self.tail)}
        meta |= {"machine": dict(self.machine), "seconds": self.seconds, "score": self.score, "best": self.best}
        return Snapshot(update, leaves.flatten(tree, count), leaves.spec(tree, count), meta)

    def publish(self, snapshot: Snapshot) -> None:
        """Upload the batch with its newest checkpoint, if its directory is not on this machine."""
        self.copy.publish_batch(self.folder, snapshot.meta["log"])

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including those before interruptions."""
        return self.spent + time.perf_counter() - self.begin

    @property
    def not_saved(self) -> str:
        """Say that the newest update could not be saved, why, and which update is saved."""
        there = f"update {self.store.latest:,}" if self.store.latest else "no update"
        return f"update {self.update:,} could not be saved ({self.store.failure}); {there} is {self.copy.where}"

    def finish(self, finished: Finished, compile_seconds: float, train_seconds: float) -> None:
        """Write the result, the last file of a batch; ``OSError`` if the last checkpoint could not be written."""
        self.store.wait()
        if self.store.failure:
            raise OSError(self.not_saved)
        self.rows.sync()
        arrays = leaves.flatten(tree_of(finished.runs), len(self.batch.runs))
        content = {
            "identity": self.identity,
            "runs": self.batch.runs,
            "num_updates": self.batch.course.total,
            "env_steps": self.batch.env_steps,
            "returns": {name: values.tolist() for name, values in finished.returns.items()},
            "diverged_at": finished.diverged_at.tolist(),
            "digests": [leaves.digest({name: x[i] for name, x in arrays.items()}) for i in range(len(self.batch.runs))],
            "seconds": {"compile": compile_seconds, "train": train_seconds},
        }
        content |= self.seal_log()
        write_json(self.folder / RESULT, content)
        self.copy.publish_batch(self.folder, content["log"])
        hosts.agree(lambda: True)

    def seal_log(self) -> dict[str, Any]:
        """The seal of the log, and what it holds; write it as Parquet, too, if that was asked for."""
        sealed = {"log": self.rows.seal}
        path, size = self.folder / METRICS, self.rows.size
        if not self.parquet:
            return sealed | {"points": columns.find_points(path, size)}
        tables = columns.tabulate(self.batch.runs, self.batch.seeds, log.read_rows(path, size))
        written = columns.write(self.folder / TABLE, self.batch.runs, self.batch.seeds, *tables)
        return sealed | {"points": columns.describe_points(*tables), "parquet": written}


class Follower(programs.Unwatched):
    """Compute what process 0, which has the ``Keeper``, needs from this process for a batch; nothing is written.

    A context manager. Process 0 says which checkpoint is read, when the runs are saved, and when training stops.
    """

    def __init__(self, directory: Path, batch: Batch, compiled: programs.Programs) -> None:
        self.batch, self.compiled, self.begin = batch, compiled, time.perf_counter()
        self.scores: dict[str, np.ndarray] | None = None
        step = hosts.agree(lambda: 0)
        folder = folder_of(directory, batch.runs[0]) / CHECKPOINTS
        if step:
            hosts.wait_for_file(folder / str(step) / checkpoint.SEAL)
        self.snapshot = checkpoint.read(folder, step, spec(compiled, batch)) if step else None

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        """Compile the evaluation while the next chunk computes."""
        self.compiled.prepare_evaluation()

    def evaluate(self, update: int, runs: Run) -> None:
        """Evaluate the policies."""
        hosts.expect_progress(is_training=False)
        self.scores = conclude(self.compiled, runs, update, len(self.batch.runs)).returns
        if hosts.agree(lambda: False):
            self.fetch(runs)

    def is_due(self) -> bool:
        """Whether process 0 saves the runs."""
        hosts.expect_progress(is_training=True)
        return hosts.agree(lambda: False)

    def save(self, update: int, runs: Run) -> None:
        """Send the runs to process 0. If training was asked to stop, wait until they are saved, and raise ``Stopped``."""
        self.fetch(runs)
        if number := hosts.agree(lambda: 0):
            hosts.agree(lambda: False)
            raise stopping.Stopped(number)

    def fetch(self, runs: Run) -> None:
        """Take part in the copy of the runs to process 0."""
        leaves.flatten(tree_of(runs), len(self.batch.runs))

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return time.perf_counter() - self.begin

    def finish(self, finished: Finished, compile_seconds: float, train_seconds: float) -> None:
        """Wait until process 0 has written the result."""
        self.fetch(finished.runs)
        hosts.agree(lambda: False)


def train(
    batch: Batch, compiled: programs.Programs, watcher: Recorder | Keeper | Follower, progress: Progress, stop: stopping.Stop
) -> tuple[Finished, float]:
    """Train a batch to its end, from its start or its checkpoint, and evaluate it. Also return the seconds of training."""
    snapshot = None if isinstance(watcher, Recorder) else watcher.snapshot
    course = dataclasses.replace(batch.course, done=snapshot.step if snapshot else 0)
    if snapshot:
        runs = restore_runs(compiled.shapes, snapshot, compiled.training)
    else:
        runs = compiled.begin([seed for _, seed in batch.places], batch.hparams)
    progress.stage("training", course.done * batch.steps_per_update)
    watcher.begin = time.perf_counter()
    with stop.patiently():
        runs = programs.train(compiled, runs, course, watcher)
        seconds = watcher.seconds
        watcher.save(course.total, runs)
    progress.stage("evaluating")
    hosts.expect_progress(is_training=False)
    scores = None if isinstance(watcher, Recorder) else watcher.scores
    finished = conclude(compiled, runs, course.total, len(batch.runs), scores)
    return finished, seconds


def conclude(
    compiled: programs.Programs, runs: Run, update: int, count: int, scores: dict[str, np.ndarray] | None = None
) -> Finished:
    """Evaluate the first ``count`` runs, unless already done; the return of a run that diverged is NaN."""
    scores = scores or compiled.evaluate(runs.state, count)
    diverged_at = programs.diverged_at(leaves.fetch(runs.state.step)[:count], update)
    return Finished({name: np.where(diverged_at > 0, np.nan, x) for name, x in scores.items()}, diverged_at, runs)


def tree_of(runs: Run) -> dict[str, Any]:
    """What a checkpoint holds of runs."""
    return {"state": runs.state, "window": runs.window}


def spec(compiled: programs.Programs, batch: Batch) -> leaves.Spec:
    """The arrays of the checkpoints of a batch."""
    return leaves.spec(tree_of(compiled.shapes), len(batch.runs))


def restore_runs(shapes: Run, snapshot: Snapshot, training: Any) -> Run:
    """Put the runs of a snapshot on their devices; the last run is repeated to fill the batch."""
    runs = leaves.unflatten(tree_of(shapes), snapshot.arrays)
    return devices.put(Run(**runs), training)


def compare(then: Any, now: Mapping[str, Any], warn: Say) -> None:
    """Warn of each difference from the machine that wrote a checkpoint: results may not be bit for bit the same."""
    for kind, here in now.items():
        there = then.get(kind) if isinstance(then, dict) else None
        for name, value in here.items():
            old = there.get(name) if isinstance(there, dict) else None
            if old != value:
                may_differ = "training continues, but its results may not be bit for bit the same"
                warn(f"{name} was {shown(old)} and is {value}; {may_differ}")


def lock_batch(directory: Path, batch: Batch) -> contextlib.AbstractContextManager[None]:
    """Lock a batch against other processes. A worker that was lost may hold it a moment longer."""
    return lock(directory / LOCKS / batch_name(batch.runs[0]), patience=PATIENCE)


def make_folder(directory: Path, about: Mapping[str, Any]) -> Path:
    """Make the folder of a batch, named by its first run, and its ``batch.json``, unless they exist."""
    folder = folder_of(directory, about["runs"][0])
    if not folder.exists():
        unfinished = folder.with_name(f".{folder.name}.part")
        unfinished.mkdir(parents=True, exist_ok=True)
        write_json(unfinished / BATCH, about)
        unfinished.rename(folder)
    return folder
