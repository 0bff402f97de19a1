"""How much does the learning rate matter? 16 of them x 64 seeds as one program, and what the best is worth.

    .venv/bin/python -m experiments.sweep --algo ppo --env CartPole-v1 --total-steps 25000

Writes ``sweep_ALGO_ENV.png`` and its numbers to ``experiments/figures/``.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.algorithms import _named
from jaxpg.lab import config
from jaxpg.lab.report import landscape, rows


def main(
    algo: str = "ppo",
    env: str = "CartPole-v1",
    seeds: int = 64,
    total_steps: int = 25_000,
    learning_rates: int = 16,
    low: float = 1e-4,
    high: float = 1e-1,
    seed: int = 0,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Sweep the learning rate of the policy from ``low`` to ``high``, by equal factors."""
    make = functools.partial(_named.build, algo, jaxpg.make(env), total_steps=total_steps)
    rates = [float(f"{rate:.6g}") for rate in np.geomspace(low, high, learning_rates)]
    found = jaxpg.sweep(make, {"learning_rate": rates}, seeds=seeds, total_steps=total_steps, seed=seed)
    found = dataclasses.replace(found, config={**found.config, "algo": algo, "env": env})
    lines: list[dict[str, Any]] = [stats.summarize(returns) for returns in found.returns["greedy_return"]]
    threshold = config.SOLVED.get(env)
    if threshold is not None:
        lines = [
            line | {"solved": stats.summarize_solved(returns, threshold)}
            for line, returns in zip(lines, found.returns["greedy_return"], strict=True)
        ]
    for row, line in zip(rows.rows([found]), lines, strict=True):
        print(f"{row.label:30} IQM {line['iqm']:8.1f}  {line['ci95'][0]:8.1f} to {line['ci95'][1]:8.1f}", flush=True)
    figure, caption = landscape.sensitivity(found, "learning_rate")
    numbers = {"algo": algo, "env": env, "seeds": seeds, "seed": seed, "env_steps_per_seed": int(found.env_steps[0, -1])}
    numbers |= {"settings": found.settings, "greedy_return": lines, "caption": caption}
    return study.write(f"sweep_{algo}_{env}", numbers, figure, out)


if __name__ == "__main__":
    tyro.cli(main)
