"""What do checkpoints cost? The same training with and without them, in turn, in one process.

    .venv/bin/python -m experiments.checkpointing --every 5

The run of `jaxpg train ppo --seeds 16`. Prints medians of environment steps per second and of the ratio of neighbouring
repetitions, and the seconds from the first byte of a checkpoint to its seal.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

import jaxpg
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import batches, devices, programs
from jaxpg.lab.engine.progress import Progress
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.store import checkpoint
from jaxpg.loops import many as sweeping


def main(every: float = 5.0, seeds: int = 16, updates: int = 300, repetitions: int = 7) -> dict[str, Any]:
    """Time ``updates`` updates of all seeds with a checkpoint every ``every`` seconds, and without, in turn."""
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"))
    mesh = devices.seed_mesh(seeds)
    compiled = programs.trace(algo, sweeping.keys(0, GENERATORS[0]), 1, devices.pad_runs(seeds, mesh.size), mesh)
    compiled.compile()
    course = programs.Course(0, updates, 3)
    written: list[float] = []

    def timed(write: Callable[..., None]) -> Callable[..., None]:
        """Notes how long each write takes."""

        def write_and_note(snapshot: checkpoint.Snapshot, score: float) -> None:
            begin = time.perf_counter()
            write(snapshot, score)
            written.append(time.perf_counter() - begin)

        return write_and_note

    rows = algo.num_envs * algo.num_steps
    batch = batches.Batch(tuple(range(seeds)), seeds, compiled.width, (algo.hparams,) * seeds, course, rows)

    def rate(watcher: programs.Watcher) -> float:
        runs = compiled.begin(range(seeds), batch.hparams)
        begin = time.perf_counter()
        programs.train(compiled, runs, course, watcher)
        return seeds * updates * rows / (time.perf_counter() - begin)

    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(repetitions + 1):
            progress, place = Progress(Console(quiet=True), batch.env_steps, seeds), Path(folder, str(repetition))
            options: dict[str, Any] = {"identity": "", "machine": {}, "keep": 2, "every": every}
            with batches.Keeper(place, batch, compiled, progress, Stop(), **options) as keeper:
                keeper.store.write = timed(keeper.store.write)
                pairs.append((rate(programs.Unwatched()), rate(keeper)))
    without, saved = (statistics.median(column) for column in zip(*pairs[1:], strict=True))  # the first is not counted
    ratio = statistics.median(b / a for a, b in pairs[1:])
    found = {"seeds": seeds, "every": every, "without": without, "with": saved, "ratio": ratio, "checkpoints": len(written)}
    found |= {"write_seconds": float(np.median(written))} if written else {}
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    tyro.cli(main)
