"""The lots of a sweep: runs that are trained side by side, what they logged, and where that is saved until they are done."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpg.lab.engine import saving
from jaxpg.lab.engine.programs import Course, Keeper
from jaxpg.lab.engine.progress import Progress
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.store import checkpoint
from jaxpg.lab.store.checkpoint import Snapshot
from jaxpg.sweeping import Run


class KeepNothing:
    """A keeper for runs that are not saved."""

    def is_due(self) -> bool:
        """Never."""
        return False

    def keep(self, update: int, runs: Run) -> None:
        """Nothing to do."""


@dataclasses.dataclass
class Lot:
    """``log`` holds the metrics ``[R]`` of every log point so far; the lot goes on from ``snapshot``, or from its start."""

    keeper: Keeper
    log: list[dict[str, np.ndarray]]
    snapshot: Snapshot | None = None

    @property
    def logged(self) -> dict[str, np.ndarray]:
        """The metrics, ``[R, P]``."""
        return {name: np.stack([point[name] for point in self.log], axis=1) for name in self.log[0]} if self.log else {}


@dataclasses.dataclass(frozen=True)
class Lots:
    """Where the lots of a sweep are saved, every ``every`` seconds: nowhere without a ``directory``, as in Python.

    ``machine`` is what the bits depend on; ``alive`` is called whenever a lot gets on.
    """

    stop: Stop = dataclasses.field(default_factory=Stop)
    directory: Path | None = None
    every: float = 0.0
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    alive: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def lot(self, runs: Sequence[int], shapes: Run, course: Course, progress: Progress) -> Iterator[Lot]:
        """A lot of ``runs``, as far as it was saved; what is saved of it is removed once the block ends well."""
        if self.directory is None:
            yield Lot(KeepNothing(), [])
            return
        (self.directory / checkpoint.FOLDER).mkdir(exist_ok=True)
        folder = self.directory / checkpoint.FOLDER / f"{runs[0]:07d}"
        snapshot = self.saved(folder, runs, shapes, course, progress)
        lot = Lot(KeepNothing(), unstacked(snapshot) if snapshot else [], snapshot)
        store = checkpoint.Checkpoints(folder, 2, progress.line, progress.warn)
        meta = {"runs": list(runs), "machine": dict(self.machine)}
        lot.keeper = saving.Saver(store, len(runs), self.stop, self.every, lambda: meta, lambda: lot.logged, self.alive)
        with contextlib.closing(store):
            yield lot
        shutil.rmtree(folder, ignore_errors=True)

    def saved(self, folder: Path, runs: Sequence[int], shapes: Run, course: Course, progress: Progress) -> Snapshot | None:
        """Where this lot was saved last; one that was cut differently begins anew."""

        def expected(step: int) -> Any:
            points = sum(point <= step for point in course.log_points)
            return saving.expected(shapes, len(runs), saving.logged(shapes, points) if points else None)

        if not folder.exists():
            return None
        snapshot = checkpoint.newest(folder, expected, progress.warn)
        if snapshot and snapshot.meta.get("runs") != list(runs):
            progress.warn(f"the lot that begins with run {runs[0]} was cut differently; it begins anew")
            shutil.rmtree(folder)
            return None
        if snapshot:
            saving.compare(snapshot.meta.get("machine"), self.machine, progress.warn)
        return snapshot


def unstacked(snapshot: Snapshot) -> list[dict[str, np.ndarray]]:
    """The log of a snapshot, point by point."""
    log = {name.removeprefix("log."): x for name, x in snapshot.arrays.items() if name.startswith("log.")}
    points = next((x.shape[1] for x in log.values()), 0)
    return [{name: x[:, i] for name, x in log.items()} for i in range(points)]
