"""When a group of runs under way is saved, what of it, and how it comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxpg.hparams import shown
from jaxpg.lab.engine import stopping
from jaxpg.lab.store import leaves
from jaxpg.lab.store.checkpoint import Checkpoints, Say, Snapshot
from jaxpg.lab.store.leaves import Spec
from jaxpg.sweeping import Run

WORST = -1e30  # the score of runs without a return: it must be a finite number


class Saver:
    """Saves the first ``count`` runs every ``every`` seconds (0: never of itself), and before they stop when asked to.

    ``log`` is what was logged so far and lies nowhere else, ``[R, P]``; ``meta`` what else is to come back. Both are asked for
    at each save, and ``score`` is the mean return by which the best is kept. ``alive`` is called after every chunk.
    """

    def __init__(
        self,
        store: Checkpoints,
        count: int,
        stop: stopping.Stop,
        every: float,
        meta: Callable[[], Mapping[str, Any]],
        log: Callable[[], Mapping[str, np.ndarray]] = dict,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.count, self.stop, self.every = store, count, stop, every
        self.meta, self.log, self.alive = meta, log, alive
        self.score, self.saved = WORST, time.monotonic()

    def rate(self, episode_return: np.ndarray) -> None:
        """Take note of the returns of a log point, ``[R]``."""
        known = episode_return[np.isfinite(episode_return)]
        self.score = float(known.mean()) if known.size else self.score

    def is_due(self) -> bool:
        """It is time, or somebody asked to stop."""
        self.alive()
        return bool(self.stop.number) or 0 < self.every <= time.monotonic() - self.saved

    def keep(self, update: int, runs: Run) -> None:
        """Save them; :class:`stopping.Stopped`, once they are on the disk, if asked to stop."""
        self.save(self.snapshot(update, runs))
        if self.stop.number:
            self.store.wait()
            self.stop.check()

    def snapshot(self, update: int, runs: Run) -> Snapshot:
        """All that is saved, on the host."""
        tree = {"state": runs.state, "window": runs.window, "log": dict(self.log())}
        return Snapshot(update, leaves.flatten(tree, self.count), leaves.spec(tree, self.count), self.meta())

    def save(self, snapshot: Snapshot) -> None:
        """Let it be written, beside whatever comes next."""
        self.store.save(snapshot, self.score)
        self.saved = time.monotonic()


def expected(shapes: Run, count: int, log: Mapping[str, Any] | None = None) -> Spec:
    """What is saved of ``count`` runs with these ``shapes``, and with a ``log`` like this (see :func:`logged`)."""
    return leaves.spec({"state": shapes.state, "window": shapes.window, "log": log or {}}, count)


def logged(shapes: Run, points: int) -> dict[str, Any]:
    """A log of so many points, in the abstract."""
    metrics = {name: x for name, x in shapes.window.items() if name != "updates"}
    return {name: jax.ShapeDtypeStruct((0, points), x.dtype) for name, x in metrics.items()}


def restored(shapes: Run, snapshot: Snapshot, training: Any) -> Run:
    """The runs of a snapshot, on their devices; the last is repeated until there are enough."""
    runs = leaves.unflatten({"state": shapes.state, "window": shapes.window}, snapshot.arrays)
    return jax.device_put(Run(**runs), training)


def compare(then: Any, now: Mapping[str, Any], warn: Say) -> None:
    """Name what was different when a checkpoint was written: with it, what follows is as good, but not the same bits."""
    for kind, here in now.items():
        there = then.get(kind) if isinstance(then, dict) else None
        for name, value in here.items():
            old = there.get(name) if isinstance(there, dict) else None
            if old != value:
                warn(f"{name} was {shown(old)} and is {value}; the run goes on, but not bit for bit as it would have")
