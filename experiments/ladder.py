"""The ladder: all six algorithms on one environment, many seeds each, one figure.

python experiments/ladder.py --env CartPole-v1 --seeds 16 --total-steps 500000
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxpg
from jaxpg import algorithms, presets, stats
from jaxpg.lab import config, devices, plots, writers

COLORS = ("#8c8c8c", "#5d4a8a", "#2a5caa", "#1b8a7a", "#c8781e", "#b02a3c")  # from the lowest rung to the highest
FIGURES = Path(__file__).parent / "figures"
POINTS = 100  # about so many on a curve


@dataclasses.dataclass(frozen=True)
class Curve:
    """What ``num_updates`` updates gave: returns ``[points, seeds]`` of the episodes that ended since the point before."""

    num_updates: int
    env_steps: np.ndarray  # [points], per seed
    returns: np.ndarray
    seconds: float  # compilation included


def climb(name: str, env_id: str, seeds: int, total_steps: int, seed: int = 0) -> Curve:
    """One algorithm with its presets: every seed in one program. At least ``total_steps`` steps, in whole log intervals."""
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

    begin = time.perf_counter()
    returns = np.asarray(run(jax.random.split(jax.random.key(seed), seeds)), float).T
    env_steps = steps_per_update * log_every * (1 + np.arange(len(returns)))
    return Curve(updates, env_steps, returns, time.perf_counter() - begin)


def draw(curves: dict[str, Curve], env_id: str) -> Figure:
    """All medians with their middle halves over the seeds."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for color, (name, curve) in zip(COLORS, curves.items(), strict=True):
        plots.draw_curve(axes, curve.env_steps, curve.returns, color, name)
    threshold = config.SOLVED.get(env_id)
    if threshold is not None:
        axes.axhline(threshold, color=plots.INK, linewidth=0.9, linestyle=(0, (5, 4)), label=f"solved: {threshold:g}")
    seeds = next(iter(curves.values())).returns.shape[1]
    plots.dress(axes, f"The ladder on {env_id}")
    caption = f"Median and middle half of {seeds} seeds; return of the sampled episodes that ended between two points.\n"
    caption += "REINFORCE waits until all episodes of an update have ended; these waiting steps are counted."
    figure.supxlabel(caption, fontsize=8, color=plots.INK, x=0.01, ha="left")
    return figure


def numbers(curves: dict[str, Curve]) -> dict[str, Any]:
    """The figure as data, and the last point of every seed summarised."""
    rows = {}
    for name, curve in curves.items():
        low, median, high = np.quantile(plots.without_gaps(curve.returns), [0.25, 0.5, 0.75], axis=1).round(1).tolist()
        rows[name] = {"num_updates": curve.num_updates, "seconds": round(curve.seconds, 1)}
        rows[name] |= {"last_return": stats.summarize(curve.returns[-1]), "env_steps": curve.env_steps.tolist()}
        rows[name] |= {"low": low, "median": median, "high": high}
    return rows


def main(
    env: str = "CartPole-v1", seeds: int = 16, total_steps: int = 500_000, seed: int = 0, out: Path = FIGURES
) -> dict[str, Curve]:
    """Run the ladder; write ``ladder_ENV.png`` and ``ladder_ENV.json`` to ``out``."""
    curves = {}
    for name in presets.ALGORITHMS:
        curves[name] = climb(name, env, seeds, total_steps, seed)
        print(f"{name:20}{np.nanmedian(curves[name].returns[-1]):8.1f} at the end, {curves[name].seconds:6.1f} s", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"env": env, "seeds": seeds, "seed": seed, "versions": devices.versions(), "algorithms": numbers(curves)}
    (out / f"ladder_{env}.json").write_text(json.dumps(writers.storable(settings)) + "\n")
    plots.save(draw(curves, env), out / f"ladder_{env}.png")
    return curves


if __name__ == "__main__":
    tyro.cli(main)
