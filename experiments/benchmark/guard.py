"""``make bench``: has training become slower? The engine against a frozen :mod:`reference`, and the command against the engine.

    .venv/bin/python -m experiments.benchmark.guard

All train PPO with CleanRL's sizes. Engine and reference take turns in this process, the engine on all devices; the installed
command trains in processes of its own, the engine again after each. Exit code 1 where

* the median of the ratios of neighbouring repetitions, reference to engine, is below ``FLOOR``, which is about nine tenths of
  what was measured when it was set (2.54), or
* in both of two tries the command trains at less than ``COMMAND_FLOOR`` of the speed of the engine, or it leaves cores unused.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jaxpg
from experiments.benchmark import reference
from experiments.benchmark.ceiling import training
from experiments.benchmark.contestants import command

FLOOR, COMMAND_FLOOR = 2.2, 0.8
OPTIONS = {"num_steps": reference.NUM_STEPS, "epochs": 4, "minibatches": 4, "hidden": (64, 64)}


def main(seeds: int = 16, num_envs: int = 4, updates: int = 50, repetitions: int = 5) -> int:
    """Measure; returns the exit code."""
    engine, steps = training(jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=num_envs, **OPTIONS), seeds, updates)
    reference_ratio = compare_with_reference(engine, steps, seeds, num_envs, updates, repetitions)
    command_ratio = compare_command(engine, steps, seeds, num_envs, updates)
    return int(reference_ratio < FLOOR or command_ratio < COMMAND_FLOOR)


def compare_with_reference(
    engine: Callable[[], Any], steps: float, seeds: int, num_envs: int, updates: int, repetitions: int
) -> float:
    """How many times as fast as the reference the engine trains."""
    init, update = reference.make(num_envs)
    state = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), seeds))
    plain = jax.jit(lambda state: jax.lax.fori_loop(0, updates, lambda _, s: jax.vmap(update)(s), state))
    seconds = np.zeros((repetitions + 1, 2))
    for pair in seconds:  # the first is not counted
        pair[:] = measure(engine), measure(lambda: jax.block_until_ready(plain(state)))
    rates = [steps / statistics.median(column) for column in seconds[1:].T]
    ratio = statistics.median(seconds[1:, 1] / seconds[1:, 0])
    print(f"engine {rates[0]:.3f}, reference {rates[1]:.3f} M steps/s; ratio {ratio:.2f}, at least {FLOOR:.2f} is expected")
    return ratio


def compare_command(engine: Callable[[], Any], steps: float, seeds: int, num_envs: int, updates: int, tries: int = 2) -> float:
    """The speed at which the command trains, as a share of the engine's right after it: the best of ``tries``."""
    options = OPTIONS | {"num_envs": num_envs, "anneal": ()}
    ratios = []
    with tempfile.TemporaryDirectory() as place:
        for number in range(tries):
            run_dir, total_steps = Path(place) / f"run{number}", 2 * updates * num_envs * reference.NUM_STEPS
            found = command.train(command.COMMAND, seeds, total_steps, options, run_dir, Path(place) / "cache")
            rate = found["env_steps"] / found["seconds"] / 1e6
            engine_rate = steps / statistics.mean(measure(engine) for _ in range(2))
            ratios.append(rate / engine_rate)
            print(
                f"command {rate:.3f}, engine {engine_rate:.3f} M steps/s; ratio {ratios[-1]:.2f}, at least {COMMAND_FLOOR:.2f} "
                f"is expected; the process took {found['wall_seconds']:.1f} s"
            )
    return max(ratios)


def measure(run: Callable[[], Any]) -> float:
    """Seconds that ``run`` takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
