"""The installed ``jaxpg`` command, a fresh process each time. Its own account of its training, and the time of the process."""

from __future__ import annotations

import protocol

# isort: split
import tempfile
from pathlib import Path

import command
from jaxpg_options import OPTIONS

parser = protocol.arguments()
parser.add_argument("--command", type=Path, default=command.COMMAND)
given = parser.parse_args()
devices: dict[str, str] = {}


def prepare(case: protocol.Case) -> protocol.Train:
    """Nothing is prepared: the first process finds an empty cache, those after it what that compiled."""
    options = OPTIONS | {"num_envs": case.num_envs, "anneal": ()}

    def train() -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            run_dir = Path(place) / "run"
            found = command.train(given.command, case.seeds, case.steps_per_seed, options, run_dir, Path(scratch) / "cache")
            device = command.read_device(run_dir)
            devices["devices"] = f"{device['count']} x {device['kind']}"
        return found

    return train


with tempfile.TemporaryDirectory() as scratch:
    protocol.serve(given, prepare, ("jaxpg", "jax", "jaxlib", "flax", "optax", "gymnax"), lambda: devices)
