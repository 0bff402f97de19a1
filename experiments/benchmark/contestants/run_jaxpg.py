"""jaxpg, driven by the engine of ``jaxpg train``: runs, or the environments of one run, spread over all devices."""

from __future__ import annotations

import all_cores  # noqa: F401 - before gymnax
import protocol

# isort: split
import functools

import jax
import numpy as np
from jaxpg_options import OPTIONS

import jaxpg
from jaxpg.algorithms import _named, presets
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices, programs
from jaxpg.loops import many as sweeping
from jaxpg.loops import sharding

parser = protocol.arguments()
parser.add_argument("--algo", default="ppo", choices=presets.ALGORITHMS)
parser.add_argument("--shard-envs", action="store_true")
given = parser.parse_args()


@functools.cache
def compiled(seeds: int, num_envs: int) -> tuple[jaxpg.Algorithm, programs.Programs]:
    """The programs, which serve every number of updates. That of evaluation is left out, as it is for the others."""
    options = {name: value for name, value in OPTIONS.items() if name in presets.PRESETS[given.algo]["default"]}
    algo = _named.build(given.algo, jaxpg.make("CartPole-v1"), num_envs=num_envs, **options)
    mesh = devices.seed_mesh(seeds)
    width = devices.pad_runs(seeds, mesh.size)
    if given.shard_envs:
        mesh = devices.env_mesh()
        algo = sharding.shard_envs(algo, mesh)
    program = programs.trace(algo, sweeping.keys(0, GENERATORS[0]), 1, width, mesh)
    program.compile()
    return algo, program


class LastRow(programs.Unwatched):
    """Keeps the metrics of the last log point."""

    def log(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        """Keep them."""
        self.metrics = metrics


def prepare(case: protocol.Case) -> protocol.Train:
    """All runs of a case from their start; their steps as jaxpg counts them, waiting environments of REINFORCE left out."""
    algo, program = compiled(case.seeds, case.num_envs)
    course = programs.Course(0, case.updates, case.updates)

    def train() -> int:
        last = LastRow()
        runs = program.begin(range(case.seeds), [algo.hparams] * case.seeds)
        jax.block_until_ready(programs.train(program, runs, course, last))
        return round(float(last.metrics["sampled_steps"][: case.seeds].astype(float).sum()))

    return train


def notes() -> dict[str, str]:
    """On what it ran."""
    return {"devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"}


protocol.serve(given, prepare, ("jaxpg", "jax", "jaxlib", "flax", "optax", "gymnax"), notes)
