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
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxpg.lab.engine.lots import KeepNothing

import jaxpg
from jaxpg import sweeping
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices, programs, saving
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.store import checkpoint


def main(every: float = 5.0, seeds: int = 16, updates: int = 300, repetitions: int = 7) -> dict[str, Any]:
    """Time ``updates`` updates of all seeds with a checkpoint every ``every`` seconds, and without, in turn."""
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"))
    mesh = devices.seed_mesh(seeds)
    compiled = programs.compiled(
        programs.trace(algo, sweeping.keys(0, GENERATORS[0]), 1, devices.padded(seeds, mesh.size), mesh)
    )
    course = programs.Course(0, updates, 3)
    written: list[float] = []

    class Timed(checkpoint.Checkpoints):
        """Notes how long each write takes."""

        def write(self, snapshot: checkpoint.Snapshot, score: float) -> None:
            begin = time.perf_counter()
            super().write(snapshot, score)
            written.append(time.perf_counter() - begin)

    def rate(keeper: programs.Keeper) -> float:
        runs = programs.begun(compiled, range(seeds), [algo.hparams] * seeds)
        begin = time.perf_counter()
        programs.train(compiled, runs, course, lambda *_: None, keeper)
        return seeds * updates * algo.num_envs * algo.num_steps / (time.perf_counter() - begin)

    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(repetitions + 1):
            store = Timed(Path(folder) / str(repetition), 2, lambda _: None, print)
            pairs.append((rate(KeepNothing()), rate(saving.Saver(store, seeds, Stop(), every, dict))))
            store.close()
    without, saved = (statistics.median(column) for column in zip(*pairs[1:], strict=True))  # the first is not counted
    ratio = statistics.median(b / a for a, b in pairs[1:])
    found = {"seeds": seeds, "every": every, "without": without, "with": saved, "ratio": ratio, "checkpoints": len(written)}
    found |= {"write_seconds": float(np.median(written))} if written else {}
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    tyro.cli(main)
