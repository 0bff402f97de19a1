"""The installed ``jaxpg`` command, run as a user runs it and timed from outside. Imports nothing of jaxpg."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).with_name("jaxpg")


def train(
    command: Path, seeds: int, total_steps: int, options: Mapping[str, Any], run_dir: Path, cache: Path
) -> dict[str, float]:
    """Train PPO on CartPole-v1 in a fresh process, without a variable of JAX or XLA, that compiles into ``cache``.

    ``total_steps`` of each seed, a whole number of updates. Returns ``env_steps`` and ``seconds`` of the training and
    ``compile_seconds``, all by the command's own account, and the ``wall_seconds`` of the process. ``RuntimeError`` if it
    fails, or computes on fewer devices than it has cores and seeds for.
    """
    arguments = [str(command), *train_arguments(seeds, total_steps, options, run_dir)]
    begin = time.perf_counter()
    done = subprocess.run(
        arguments, env=user_environment(cache), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    wall_seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(
            f"{command} ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    check_devices(read_device(run_dir), seeds, available_cores())
    timing = json.loads((run_dir / "timing.json").read_text())
    env_steps = seeds * total_steps
    return {
        "env_steps": env_steps,
        "seconds": env_steps / timing["env_steps_per_second"],
        "compile_seconds": timing["compile_seconds"],
        "wall_seconds": wall_seconds,
    }


def train_arguments(seeds: int, total_steps: int, options: Mapping[str, Any], run_dir: Path) -> list[str]:
    """``train ppo ...`` with ``options`` by name; an option with several values is a tuple, which may be empty."""
    given = {
        "env": "CartPole-v1",
        "seeds": seeds,
        "total_steps": total_steps,
        "eval_episodes": 1,
        "run_dir": run_dir,
        **options,
    }
    arguments = ["train", "ppo"]
    for name, value in given.items():
        arguments += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return arguments


def user_environment(cache: Path) -> dict[str, str]:
    """The environment variables of a user: none for JAX or XLA, and nothing compiled yet but what is in ``cache``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    return kept | {"XDG_CACHE_HOME": str(cache)}


def read_device(run_dir: Path) -> dict[str, Any]:
    """What the command computed on: ``platform``, ``kind`` and ``count``."""
    return json.loads((run_dir / "config.json").read_text())["device"]


def check_devices(device: Mapping[str, Any], seeds: int, cores: int) -> None:
    """``RuntimeError`` if CPU devices are fewer than share ``seeds`` evenly among the ``cores``, at most one seed apart."""
    expected = -(-seeds // -(-seeds // cores))
    if device["platform"] == "cpu" and device["count"] < expected:
        raise RuntimeError(f"the command used {device['count']} CPU devices, and {cores} cores were there for {seeds} seeds")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
