"""A long run takes no more memory than a short one, and compiles nothing on its way."""

import gc

import jax
import numpy as np
import pytest

import jaxpg
from jaxpg.lab import devices, programs, saving
from jaxpg.lab.checkpoint import Checkpoints
from jaxpg.lab.programs import Course
from jaxpg.lab.stopping import Stop

CHUNKS, WARM = 600, 200
COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: COMPILED.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
)


def resident():
    """Bytes of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Watching(saving.Saver):
    """Saves every 30 chunks, as a run does whose chunks take a second, and looks at the memory every 10."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.chunks, self.seen = 0, []

    def is_due(self):
        self.chunks += 1
        if self.chunks % 10 == 0:
            gc.collect()
            self.seen.append((self.chunks, resident(), len(jax.live_arrays()), len(COMPILED)))
        return self.chunks % 30 == 0


@pytest.mark.skipif(not devices.Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_chunks_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "CHUNK_SECONDS", 0.0)  # a chunk is one update
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=32, epochs=2, minibatches=2)
    compiled = programs.compiled(programs.trace(algo, 0, 2, 4, devices.seed_mesh(4)))
    store = Checkpoints(tmp_path / "checkpoints", 2, lambda _: None, pytest.fail)
    keeper = Watching(store, 4, Stop(), 1.0, dict)
    reported = []
    runs = programs.begun(compiled, range(4), [algo.hparams] * 4)
    programs.train(compiled, runs, Course(0, CHUNKS, 10), lambda update, _: reported.append(update), keeper)
    store.close()
    assert reported == list(range(10, CHUNKS + 1, 10))
    chunks, memory, arrays, compilations = np.array(keeper.seen)[WARM // 10 :].T
    assert chunks[-1] == CHUNKS
    slope = np.polyfit(chunks, memory, 1)[0] * 100
    print(f"{slope / 2**20:.3f} MiB per 100 chunks")
    assert slope < 1e6
    assert arrays.max() == arrays.min(), "live arrays"
    assert compilations[-1] == compilations[0], "compilations"
