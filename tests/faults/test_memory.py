"""A long run takes no more memory than a short one, and compiles nothing on its way."""

import gc
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxpg
from jaxpg.lab.engine import batches, devices, programs
from jaxpg.lab.engine.progress import Progress
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.store import log
from jaxpg.loops import many as sweeping

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: COMPILED.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
)


def resident():
    """Bytes of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Watching(batches.Keeper):
    """Saves every 30 chunks if at all, as a run does whose chunks take a second, and looks at the memory every 10."""

    def __init__(self, is_saving, *arguments, **options):
        super().__init__(*arguments, **options)
        self.chunks, self.seen, self.is_saving = 0, [], is_saving

    def is_due(self):
        self.chunks += 1
        if self.chunks % 10 == 0:
            gc.collect()
            self.seen.append((self.chunks, resident(), len(jax.live_arrays()), len(COMPILED)))
        return self.is_saving and self.chunks % 30 == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_chunks_leave_nothing_behind(tmp_path, monkeypatch):
    """Less than 1 MB in 100 chunks; with a checkpoint, less than half a megabyte each: the allocator's, not ours."""
    monkeypatch.setattr(programs, "CHUNK_SECONDS", 0.0)  # a chunk is one update
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=32, epochs=2, minibatches=2)
    compiled = programs.trace(algo, sweeping.keys(0), 2, 4, devices.seed_mesh(4))
    compiled.compile()
    compiled.prepare_evaluation().result()
    for is_saving, warm, last in ((False, 100, 400), (True, 600, 1500)):  # allocators settle late with checkpoints
        batch = batches.Batch(tuple(range(4)), 4, 4, (algo.hparams,) * 4, programs.Course(0, last, 10), 128)
        progress = Progress(Console(quiet=True), batch.env_steps, 4)
        options = {"identity": "", "machine": {}, "every": 1.0, "keep": 2}
        with Watching(is_saving, tmp_path / str(is_saving), batch, compiled, progress, Stop(), **options) as keeper:
            programs.train(compiled, compiled.begin(range(4), batch.hparams), batch.course, keeper)
        assert not keeper.store.failure
        rows = log.rows_of(keeper.folder / "metrics.jsonl")
        assert [row["update"] for row in rows] == [update for update in range(10, last + 1, 10) for _ in range(4)]
        chunks, memory, arrays, compilations = np.array(keeper.seen)[warm // 10 :].T
        assert chunks[-1] == last
        slope = np.polyfit(chunks, memory, 1)[0]
        print(f"{100 * slope / 1e6:.3f} MB per 100 chunks, {'with' if is_saving else 'without'} checkpoints")
        assert 30 * slope < 0.5e6 if is_saving else 100 * slope < 1e6
        assert arrays.max() == arrays.min(), "live arrays"
        assert compilations[-1] == compilations[0], "compilations"
