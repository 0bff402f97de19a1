"""The ladder: all six algorithms on one environment, many seeds each, one figure.

.venv/bin/python -m experiments.ladder --env CartPole-v1 --seeds 16 --total-steps 500000
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import algorithms, presets, stats
from jaxpg.lab import config, plots

COLORS = ("#8c8c8c", "#5d4a8a", "#2a5caa", "#1b8a7a", "#c8781e", "#b02a3c")  # from the lowest rung to the highest
POINTS = 100  # about so many on a curve


def climb(name: str, env_id: str, seeds: int, total_steps: int, seed: int = 0) -> dict[str, Any]:
    """One algorithm with its presets, every seed in one program: quartiles over the seeds of the return, against steps.

    A point is the mean return of the training episodes that ended since the point before. The budget is rounded up to points.
    """
    algo = algorithms.build(name, jaxpg.make(env_id))
    steps_per_update = algo.num_envs * algo.num_steps
    updates = math.ceil(total_steps / steps_per_update)
    log_every = max(1, updates // POINTS)
    updates = math.ceil(updates / log_every) * log_every
    algo = algorithms.build(name, jaxpg.make(env_id), total_steps=updates * steps_per_update)  # schedules end where it ends

    @jax.jit
    @jax.vmap
    def run(key: jax.Array) -> jax.Array:
        return jaxpg.train(algo, algo.init(key), updates, log_every)[1]["episode_return"]

    returns = np.asarray(run(jax.random.split(jax.random.key(seed), seeds)), float).T  # [points, seeds]
    low, median, high = np.quantile(plots.without_gaps(returns), [0.25, 0.5, 0.75], axis=1).round(1).tolist()
    env_steps = [steps_per_update * log_every * (1 + i) for i in range(len(returns))]
    curve = {"env_steps": env_steps, "low": low, "median": median, "high": high}
    return {"num_updates": updates, "last_return": stats.summarize(returns[-1])} | curve


def draw(numbers: dict[str, Any]) -> Figure:
    """A panel for each algorithm: its median and middle half, and the medians of the others behind."""
    curves, threshold = numbers["algorithms"], config.SOLVED.get(numbers["env"])
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    for axes, color, (name, curve) in zip(
        figure.subplots(2, 3, sharex=True, sharey=True).flat, COLORS, curves.items(), strict=False
    ):
        for other in curves.values():
            axes.plot(other["env_steps"], other["median"], color="#cccccc", linewidth=0.9)
        low, high = (np.array(curve[which], float) for which in ("low", "high"))
        axes.fill_between(curve["env_steps"], low, high, color=color, alpha=0.25, linewidth=0)
        axes.plot(curve["env_steps"], curve["median"], color=color, linewidth=2.0)
        if threshold is not None:
            axes.axhline(threshold, color=plots.INK, linewidth=0.8, linestyle=(0, (5, 4)))
        plots.dress(axes, name)
        axes.label_outer()
    caption = f"{numbers['env']}, {numbers['seeds']} seeds: median bold, middle half shaded, medians of the others grey"
    caption += "." if threshold is None else f"; dashed: {threshold:g}, solved."
    figure.supxlabel(caption, fontsize=9, color=plots.INK)
    return figure


def main(
    env: str = "CartPole-v1", seeds: int = 16, total_steps: int = 500_000, seed: int = 0, out: Path = study.FIGURES
) -> dict[str, Any]:
    """Run the ladder; write ``ladder_ENV.png`` and ``ladder_ENV.json`` to ``out``."""
    curves = {}
    for name in presets.ALGORITHMS:
        curves[name] = climb(name, env, seeds, total_steps, seed)
        print(f"{name:20}median return {curves[name]['median'][-1]:8.1f} at the last point", flush=True)
    numbers = {"env": env, "seeds": seeds, "seed": seed, "algorithms": curves}
    return study.write(f"ladder_{env}", numbers, draw(numbers), out)


if __name__ == "__main__":
    tyro.cli(main)
