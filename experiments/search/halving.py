"""Does successive halving find what the full grid finds, and for how many steps? PPO on CartPole-v1, 64 settings, 8 seeds.

The grid is wide enough that most of it is bad. For each root seed the grid and two searches are trained, and then the best
settings of all of them again, with seeds that chose nothing.

    .venv/bin/python -m experiments.search.halving

Writes ``halving.json`` and ``halving.png`` to ``experiments/figures/``. What is trained is kept in ``--work``: the same command
again continues there, and does nothing that is done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import search, stats
from jaxpg.lab.report import plots
from jaxpg.lab.store import results

ENV = "CartPole-v1"
VARY = {
    "learning_rate": (1e-5, 1e-4, 1e-3, 1e-2),
    "gamma": (0.5, 0.9, 0.98, 0.999),
    "entropy_coef": (0.0, 0.01, 0.1, 1.0),
}
SIZES = {"num_envs": 8, "num_steps": 64, "epochs": 4, "minibatches": 4, "hidden": (32, 32)}
RULES = {"halving 3": (3, 3), "halving 4": (4, 3)}
FRESH = 1000  # root seed of the runs that judge, plus that of the search
GRID = "grid"
COLORS = {GRID: plots.COLORS[1], "halving 3": plots.COLORS[0], "halving 4": plots.COLORS[2]}


def main(
    roots: tuple[int, ...] = (0, 1, 2),
    seeds: int = 8,
    fresh_seeds: int = 64,
    total_steps: int = 50_176,
    eval_episodes: int = 16,
    work: Path = Path("runs/search"),
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Search from each of the root seeds, judge with fresh ones, and draw."""
    algo = jaxpg.ppo(jaxpg.make(ENV), total_steps=total_steps, **SIZES)
    lines = []
    for root in roots:
        line = compare(algo, root, work / f"root_{root}", seeds, fresh_seeds, total_steps, eval_episodes)
        lines.append(line)
        print(json.dumps(line), flush=True)
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_rungs(left, work / f"root_{roots[0]}" / "halving_3")
    draw_scores(right, lines)
    caption = (
        f"Left: greedy return (interquartile mean of {seeds} seeds) of the {math.prod(map(len, VARY.values()))} settings of "
        f"halving 3 at the end of each rung, PPO on {ENV}, root seed {roots[0]}; blue: those of the last rung, the best bold. "
        f"Right: what each search chose, trained again with {fresh_seeds} fresh seeds: interquartile mean of the greedy return "
        "with its 95 % bootstrap interval. In the legend: environment steps of training, as a share of those of the grid."
    )
    numbers = {"env": ENV, "algo": "ppo", "options": SIZES, "vary": VARY, "seeds": seeds, "fresh_seeds": fresh_seeds}
    numbers |= {"total_steps": total_steps, "eval_episodes": eval_episodes, "roots": lines, "caption": caption}
    return study.write("halving", numbers, figure, out)


def compare(
    algo: jaxpg.Algorithm, root: int, work: Path, seeds: int, fresh_seeds: int, total_steps: int, eval_episodes: int
) -> dict[str, Any]:
    """The best setting of the grid and of each search: its score there, its score with fresh seeds, and the steps it took."""
    shared: dict[str, Any] = {"total_steps": total_steps, "eval_episodes": eval_episodes, "name": "ppo"}
    grid = jaxpg.run(algo, directory=work / GRID, vary=VARY, seeds=seeds, seed=root, **shared)
    found, steps = {GRID: grid}, {GRID: count_steps(grid)}
    for name, rule in RULES.items():
        directory = work / name.replace(" ", "_")
        found[name] = jaxpg.run(algo, directory=directory, vary=VARY, seeds=seeds, seed=root, halving=rule, **shared)
        steps[name] = json.loads((directory / "summary.json").read_text())["env_steps"]
    chosen = {name: best(one) for name, one in found.items()}
    settings = list({json.dumps(setting): setting for setting, _ in chosen.values()}.values())
    again = jaxpg.run(algo, directory=work / "again", vary=settings, seeds=fresh_seeds, seed=FRESH + root, **shared)
    fresh = {name: again.returns["greedy_return"][settings.index(setting)] for name, (setting, _) in chosen.items()}
    in_grid = {name: grid.returns["greedy_return"][list(grid.settings).index(setting)] for name, (setting, _) in chosen.items()}
    return {
        "root": root,
        "searches": {
            name: {
                "setting": chosen[name][0],
                "env_steps": steps[name],
                "share": steps[name] / steps[GRID],
                "score_of_the_search": stats.summarize(chosen[name][1]),
                "score_in_the_grid": stats.summarize(in_grid[name]),
                "fresh": stats.summarize(fresh[name]),
                "better_than_grid": float(stats.probability_of_improvement(fresh[name], fresh[GRID])),
                "better_than_grid_ci95": stats.improvement_interval(fresh[name], fresh[GRID]),
            }
            for name in found
        },
    }


def best(found: results.Results) -> tuple[Mapping[str, Any], np.ndarray]:
    """The best setting, and the greedy returns of its seeds."""
    place = search.rank(found.returns["greedy_return"], found.returns["sampled_return"])[0]
    return dict(found.settings[place]), found.returns["greedy_return"][place]


def count_steps(found: results.Results) -> float:
    """The environment steps of all runs."""
    return float(np.nansum(np.nanmax(found.env_steps, axis=1)) * found.diverged_at.shape[1])


def draw_rungs(axes: Axes, directory: Path) -> None:
    """Draw the score of each setting at the end of each rung in which it was left."""
    rungs = json.loads((directory / "summary.json").read_text())["rungs"]
    last = rungs[-1]["settings"]
    scores: dict[int, list[float]] = {}
    for rung in rungs:
        for setting, score in zip(rung["settings"], rung["greedy_return"], strict=True):
            scores.setdefault(setting, []).append(score["iqm"])
    steps = [rung["env_steps_per_seed"] for rung in rungs]
    for setting, line in scores.items():
        style: dict[str, Any] = {"color": "#999999", "linewidth": 0.8, "alpha": 0.7, "zorder": 2}
        if setting in last:
            style = {"color": COLORS["halving 3"], "linewidth": 2.6 if setting == last[0] else 0.9, "zorder": 4}
        axes.plot(steps[: len(line)], line, "o-", markersize=3.0, **style)
    plots.bare(axes, "", "environment steps per run (log scale)", "greedy return")
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{n:,.0f}\n{len(rung['settings'])} settings" for n, rung in zip(steps, rungs, strict=True)])
    axes.set_xticks([], minor=True)


def draw_scores(axes: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw the fresh scores of what each search chose, for each root seed."""
    for i, name in enumerate(lines[0]["searches"]):
        searches = [line["searches"][name] for line in lines]
        places = np.arange(len(lines)) + 0.2 * (i - 1)
        low, high = np.array([one["fresh"]["ci95"] for one in searches], float).T
        share = np.mean([one["share"] for one in searches])
        axes.vlines(places, low, high, color=COLORS[name], linewidth=1.6)
        axes.plot(
            places,
            [one["fresh"]["iqm"] for one in searches],
            "o",
            color=COLORS[name],
            label=f"{name}: {share:.0%} of the steps",
        )
    plots.bare(axes, "", "root seed of the search", "greedy return, fresh seeds")
    axes.set_xticks(range(len(lines)), [str(line["root"]) for line in lines])
    axes.legend(fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, labelcolor=plots.INK)


if __name__ == "__main__":
    tyro.cli(main)
