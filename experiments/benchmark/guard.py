"""``make bench``: has the library become slower? Its training against the frozen :mod:`reference`, in turn in one process.

    .venv/bin/python -m experiments.benchmark.guard

Both train PPO with CleanRL's sizes, the library by its own engine on all devices. Exit code 1 where the median of the ratios of
neighbouring repetitions is below ``FLOOR``, which is about nine tenths of what was measured when it was set (2.54).
"""

from __future__ import annotations

import statistics
import sys
import time

import jax
import numpy as np
import tyro

import jaxpg
from experiments.benchmark import reference
from experiments.benchmark.ceiling import training

FLOOR = 2.2


def main(seeds: int = 16, num_envs: int = 4, updates: int = 50, repetitions: int = 9) -> float:
    """Measure; returns the ratio, library to reference."""
    init, update = reference.make(num_envs)
    state = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(0), seeds))
    plain = jax.jit(lambda state: jax.lax.fori_loop(0, updates, lambda _, s: jax.vmap(update)(s), state))
    algo = jaxpg.ppo(
        jaxpg.make("CartPole-v1"), num_envs=num_envs, num_steps=reference.NUM_STEPS, epochs=4, minibatches=4, hidden=(64, 64)
    )
    ours, steps = training(algo, seeds, updates)
    seconds = np.zeros((repetitions + 1, 2))
    for pair in seconds:  # the first is not counted
        for place, run in enumerate((ours, lambda: jax.block_until_ready(plain(state)))):
            begin = time.perf_counter()
            run()
            pair[place] = time.perf_counter() - begin
    rates = [steps / statistics.median(column) for column in seconds[1:].T]
    ratio = statistics.median(seconds[1:, 1] / seconds[1:, 0])
    print(f"library {rates[0]:.3f}, reference {rates[1]:.3f} M steps/s; ratio {ratio:.2f}, at least {FLOOR:.2f} is expected")
    return ratio


if __name__ == "__main__":
    sys.exit(1 if tyro.cli(main) < FLOOR else 0)
