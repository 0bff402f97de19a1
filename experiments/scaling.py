"""Does the second CPU device pay? The same runs on one device and spread over all, side by side in one process.

    .venv/bin/python -m experiments.scaling --seeds 16 --num-envs 4

PPO of CleanRL's sizes on CartPole-v1 (128 steps, 4 epochs of 4 minibatches, two 64-64 networks), compilation apart. Prints
medians of environment steps per second and of the ratio of neighbouring repetitions.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import jax
import numpy as np
import tyro
from jax.sharding import AxisType, Mesh

import jaxpg
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import programs
from jaxpg.loops import many as sweeping


def main(seeds: int = 16, num_envs: int = 4, updates: int = 100, repetitions: int = 7) -> dict[str, Any]:
    """Time ``updates`` updates of all seeds, ``repetitions`` times on each mesh, in turn."""
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=num_envs, num_steps=128, epochs=4, minibatches=4)
    local = jax.local_devices()
    meshes = [Mesh(local[:count], ("seed",), axis_types=(AxisType.Auto,)) for count in (1, len(local))]
    compiled = [programs.trace(algo, sweeping.keys(0, GENERATORS[0]), 1, seeds, mesh) for mesh in meshes]
    for program in compiled:
        program.compile()

    def rate(program: programs.Programs) -> float:
        runs = jax.block_until_ready(program.begin(range(seeds), [algo.hparams] * seeds))
        begin = time.perf_counter()
        jax.block_until_ready(program.chunk(np.int32(updates), np.bool_(False), runs))
        return seeds * updates * num_envs * algo.num_steps / (time.perf_counter() - begin)

    for program in compiled:
        rate(program)  # the first time is not counted
    pairs = [[rate(program) for program in compiled] for _ in range(repetitions)]
    one, many = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    found = {"devices": len(local), "seeds": seeds, "num_envs": num_envs, "one": one, "all": many, "ratio": ratio}
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    tyro.cli(main)
