"""Results: every algorithm on five environments with its preset, on seeds that no preset was tuned on.

    .venv/bin/python -m experiments.results                                        # everything
    .venv/bin/python -m experiments.results --only ppo:MountainCar-v0:100000       # one cell again: the same numbers

Writes ``results.json``, ``results.md`` (the tables) and ``results.png`` (learning curves). Presets were tuned with root seed 0.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.algorithms import _named, presets
from jaxpg.lab import config
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices
from jaxpg.lab.report import plots

ENVIRONMENTS = ("CartPole-v1", "MountainCar-v0", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1")
Cell = dict[str, Any]
Place = tuple[str, str, int]  # algorithm, environment, environment steps asked for
OTHER_BUDGETS: dict[Place, dict[str, Any]] = {  # besides those of the presets, and what was exchanged for them
    ("ppo", "MountainCar-v0", 100_000): {"epochs": 40, "minibatches": 8, "gae_lambda": 0.95},
    ("ppo", "MountainCar-v0", 500_000): {},
}
PUBLISHED = {  # RL Zoo (Stable-Baselines3): one run each, deterministic policy; CleanRL: returns of training episodes
    "CartPole-v1": "RL Zoo PPO 500 at 100,000 steps; CleanRL PPO 490 +- 6 at 500,000 (3 seeds)",
    "MountainCar-v0": "RL Zoo TRPO -107.3 at 100,000 steps, PPO -110.4 and A2C -111.3 at 1,000,000; CleanRL PPO -200",
    "Acrobot-v1": "RL Zoo TRPO -83.1 at 100,000 steps, PPO -73.5 at 1,000,000; CleanRL PPO -86.4 at 500,000",
    "MountainCarContinuous-v0": "RL Zoo PPO 88.3 at 20,000 steps, TRPO 92.5 at 50,000, A2C 91.2 at 100,000",
    "Pendulum-v1": "RL Zoo PPO -172 at 100,000 steps, A2C -163 at 1,000,000; gymnax-blines PPO -195 at 1,000,000",
}


def places() -> list[Place]:
    """Every cell of the tables."""
    own = [(algo, env, presets.options(algo, env)["total_steps"]) for env in ENVIRONMENTS for algo in presets.ALGORITHMS]
    return sorted([*own, *OTHER_BUDGETS], key=order)


def order(place: Place) -> tuple[int, int, int]:
    """By environment, then from REINFORCE to TRPO, then by budget."""
    algo, env, total_steps = place
    return ENVIRONMENTS.index(env), presets.ALGORITHMS.index(algo), total_steps


def parse(text: str) -> Place:
    """``ppo:MountainCar-v0:100000``."""
    known = {f"{algo}:{env}:{total_steps}": (algo, env, total_steps) for algo, env, total_steps in places()}
    if text not in known:
        raise ValueError(f"only = {text!r:.80} is no cell; the cells are {', '.join(known)}")
    return known[text]


def measure(place: Place, seeds: int, seed: int, eval_episodes: int) -> Cell:
    """Train and evaluate a cell: last parameters, the same episodes' starts for every seed."""
    algo, env, total_steps = place
    options = {"total_steps": total_steps} | OTHER_BUDGETS.get(place, {})
    make = functools.partial(_named.build, algo, jaxpg.make(env), **options)
    begin = time.perf_counter()
    found = jaxpg.sweep(make, [{}], seeds=seeds, total_steps=total_steps, seed=seed, eval_episodes=eval_episodes)
    seconds = time.perf_counter() - begin
    env_steps, curve = found.env_steps[0], found.metrics["episode_return"][0]
    filled = plots.without_gaps(curve.T)
    known = ~np.all(np.isnan(filled), axis=1)
    low, median, high = np.nanquantile(filled[known], [0.25, 0.5, 0.75], axis=1).round(1).tolist()
    cell: Cell = {"algo": algo, "env": env, "total_steps": total_steps, "env_steps": int(env_steps[-1]), "seeds": seeds}
    cell |= {"seed": seed, "wall_seconds": round(seconds, 1), "options": presets.options(algo, env, **options)}
    cell["curve"] = {"env_steps": env_steps[known].astype(int).tolist(), "low": low, "median": median, "high": high}
    for mode in ("greedy", "sampled"):
        returns = found.returns[f"{mode}_return"][0]
        cell[mode] = stats.summarize(returns) | {"per_seed": returns.round(2).tolist()}
        if env in config.SOLVED:
            cell[mode]["solved"] = stats.summarize_solved(returns, config.SOLVED[env])
    if env in config.SOLVED:
        cell["steps_to_threshold"] = stats.summarize_steps(stats.steps_to_threshold(env_steps, curve, config.SOLVED[env]))
    return cell


def table(cells: Sequence[Cell], env: str) -> str:
    """The cells of an environment as Markdown."""
    head = (
        "| algorithm | steps | seeds | greedy mean | greedy IQM [95 %] | sampled mean | solved [95 %] | steps to solved | s |"
    )
    lines = [f"### {env}", "", head, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for cell in cells:
        if cell["env"] != env:
            continue
        greedy, sampled, reached = cell["greedy"], cell["sampled"], cell.get("steps_to_threshold")
        iqm = "{} [{}, {}]".format(*map(shown, [greedy["iqm"], *greedy["ci95"]]))
        solved = shown_share(greedy["solved"], cell["seeds"]) if "solved" in greedy else ""
        lines.append(
            f"| {cell['algo']} | {cell['env_steps']:,} | {cell['seeds']} | {shown(greedy['mean'])} | {iqm} "
            f"| {shown(sampled['mean'])} | {solved} | {shown_steps(reached) if reached else ''} | {cell['wall_seconds']:.0f} |"
        )
    for (algo, where, total_steps), options in OTHER_BUDGETS.items():
        if where == env and options:
            given = ", ".join(f"{name} {value}" for name, value in options.items())
            lines += ["", f"{algo} with {total_steps:,} steps: its preset, but {given}; tuned for that budget."]
    return "\n".join([*lines, "", f"Published: {PUBLISHED[env]}.", ""])


def overview(cells: Sequence[Cell]) -> str:
    """All algorithms and environments in one table, each with the budget of its preset."""
    by_place = {(cell["algo"], cell["env"], cell["total_steps"]): cell for cell in cells}
    lines = ["| | " + " | ".join(ENVIRONMENTS) + " |", "| --- |" + " ---: |" * len(ENVIRONMENTS)]
    for algo in presets.ALGORITHMS:
        own = [by_place.get((algo, env, presets.options(algo, env)["total_steps"])) for env in ENVIRONMENTS]
        lines.append(f"| {algo} | " + " | ".join(map(brief, own)) + " |")
    return "\n".join(lines) + "\n"


def brief(cell: Cell | None) -> str:
    """Mean greedy return, the share of seeds that solve it, and the steps."""
    if cell is None:
        return ""
    solved = cell["greedy"].get("solved")
    share = f" ({solved['solved']}/{cell['seeds']})" if solved else ""
    return f"{shown(cell['greedy']['mean'])}{share}, {cell['env_steps'] / 1000:.0f}k"


def shown(x: float | None) -> str:
    """One decimal; a seed that diverged leaves no number."""
    return "diverged" if x is None or not np.isfinite(x) else f"{x:.1f}"


def shown_share(solved: dict[str, Any], seeds: int) -> str:
    """How many seeds, and the exact interval of their share."""
    low, high = solved["ci95"]
    return f"{solved['solved']} of {seeds} [{low:.2f}, {high:.2f}]"


def shown_steps(steps: dict[str, Any]) -> str:
    """Median over all seeds; those that never got there count as later than any."""
    median = "never" if steps["median_steps"] in (None, np.inf) else f"{steps['median_steps']:,.0f}"
    return f"{median} ({steps['censored']} never)" if steps["censored"] else median


def draw(cells: Sequence[Cell]) -> Figure:
    """Learning curves: a panel for each environment, a line for each algorithm with the largest budget it was given."""
    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, env in zip(panels, ENVIRONMENTS, strict=False):
        draw_curves(axes, env, [cell for cell in cells if cell["env"] == env])
    last = panels[len(ENVIRONMENTS)]
    last.axis("off")
    lines = {line.get_label(): line for axes in panels for line in axes.lines if not str(line.get_label()).startswith("_")}
    last.legend(lines.values(), lines.keys(), loc="center left", frameon=False, labelcolor=plots.INK, title="median of seeds")
    return figure


def draw_curves(axes: Axes, env: str, cells: Sequence[Cell]) -> None:
    """One panel."""
    for color, algo in zip(plots.COLORS, presets.ALGORITHMS, strict=False):
        own = [cell for cell in cells if cell["algo"] == algo]
        if own:
            curve = max(own, key=lambda cell: cell["total_steps"])["curve"]
            low, median, high = (np.array(curve[name], float) for name in ("low", "median", "high"))
            axes.fill_between(curve["env_steps"], low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(curve["env_steps"], median, color=color, linewidth=1.8, label=algo)
    if env in config.SOLVED:
        axes.axhline(config.SOLVED[env], **plots.DASHED)
    plots.over_steps(axes, env)
    axes.set_xlim(left=0)


def main(
    only: tuple[str, ...] = (),
    seeds: int = 100,
    few_seeds: int = 32,
    seed: int = 2026,
    eval_episodes: int = 128,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Measure all cells or ``only`` some, PPO's with ``seeds`` and the others' with ``few_seeds``; then tables and curves.

    Cells measured before stay in ``results.json`` until they are measured again.
    """
    jax.config.update("jax_default_prng_impl", GENERATORS[0])  # as ``jaxpg train`` does
    devices.keep_programs()
    path = out / "results.json"
    known = json.loads(path.read_text())["cells"] if path.exists() else []
    by_place: dict[Place, Cell] = {(cell["algo"], cell["env"], cell["total_steps"]): cell for cell in known}
    numbers: dict[str, Any] = {}
    for place in [parse(text) for text in only] or places():
        cell = measure(place, seeds if place[0] == "ppo" else few_seeds, seed, eval_episodes)
        by_place[place] = cell
        print(
            f"{':'.join(map(str, place)):48}greedy mean {shown(cell['greedy']['mean']):>8}, {cell['wall_seconds']:.0f} s",
            flush=True,
        )
        cells = [by_place[place] for place in sorted(by_place, key=order)]
        numbers = study.write("results", {"cells": cells}, draw(cells), out)
        parts = [overview(cells), *(table(cells, env) for env in ENVIRONMENTS if any(c["env"] == env for c in cells))]
        (out / "results.md").write_text("\n".join(parts))
    return numbers


if __name__ == "__main__":
    tyro.cli(main)
