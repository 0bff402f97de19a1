"""Results on environments of Brax, Playground, Craftax, Navix and XLand-MiniGrid: PPO, and the suites' own trainers.

    .venv-suites/bin/python -m experiments.suites.results                                                  # two cores
    .venv-suites/bin/python -m experiments.suites.results --only hopper --total-steps 10000000 --seeds 10  # an accelerator

Brax's and Craftax's own PPO are given the same hyperparameters: ``--peers`` and, for Craftax, ``--checkout``. Writes
``suites.json``, ``suites.png`` and ``suites.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from experiments.suites.speed import SHARED, run_peer
from jaxpg import stats
from jaxpg.algorithms import _named, presets
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices
from jaxpg.lab.report import plots

Cell = dict[str, Any]
POINTS = 50  # of a curve, about
LABELS = {"ppo": "PPO", "gru": "PPO, GRU", "brax": "Brax's PPO", "craftax_baseline": "Craftax Baselines' PPO"}
PEERS = ("brax", "craftax_baseline")


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment, who trains there, and for how long."""

    env: str
    total_steps: int
    seeds: int
    trainers: tuple[str, ...]


TASKS = {
    task.env.partition("/")[2]: task
    for task in (
        Task("brax/inverted_pendulum", 999_424, 4, ("ppo", "brax")),
        *(Task(f"brax/{name}", 999_424, 4, ("ppo", "brax")) for name in ("reacher", "inverted_double_pendulum", "hopper")),
        *(Task(f"playground/{name}", 999_424, 3, ("ppo",)) for name in ("CartpoleBalance", "CartpoleSwingup")),
        Task("craftax/Craftax-Classic-Symbolic", 999_424, 3, ("ppo", "gru", "craftax_baseline")),
        *(
            Task(name, 999_424, 3, ("ppo", "gru"))
            for name in ("navix/Navix-Empty-8x8-v0", "navix/Navix-DoorKey-5x5-v0", "xland/MiniGrid-DoorKey-6x6")
        ),
    )
}


def learn(task: Task, trainer: str, seed: int, eval_episodes: int) -> Cell:
    """Train with the preset: training returns ``[seeds, points]``, returns of the last policies by seed, seconds."""
    given: dict[str, Any] = {"total_steps": task.total_steps} | ({"network": "gru"} if trainer == "gru" else {})
    make = functools.partial(_named.build, "ppo", jaxpg.make(task.env), **given)
    begin = time.perf_counter()
    found = jaxpg.sweep(make, [{}], seeds=task.seeds, total_steps=task.total_steps, seed=seed, eval_episodes=eval_episodes)
    cell: Cell = {"seconds": round(time.perf_counter() - begin), "options": presets.options("ppo", task.env, **given)}
    env_steps = found.env_steps[0].astype(int)
    env_steps, curve = thin(env_steps, found.metrics["episode_return"][0])
    cell |= {"total_steps": env_steps[-1], "env_steps": env_steps, "curve": curve}
    for mode in ("greedy", "sampled"):
        cell[mode] = summarize(found.returns[f"{mode}_return"][0])
    return cell


def learn_beside(task: Task, trainer: str, seed: int, eval_episodes: int, checkout: Path | None) -> Cell:
    """The same by another trainer, each seed in a process of its own, as many at once as there are cores."""
    options = presets.options("ppo", task.env, total_steps=task.total_steps)
    same = {**SHARED, **options, "env": task.env.partition("/")[2], "curve": True, "eval_episodes": eval_episodes}
    jobs = [same | {"checkout": str(checkout), "seeds": 1, "seed": seed + i} for i in range(task.seeds)]
    begin = time.perf_counter()
    with ThreadPoolExecutor(devices.num_cores()) as pool:
        found = list(pool.map(lambda job: run_peer(trainer, job, {"JAX_NUM_CPU_DEVICES": "1"}), jobs))
    seconds = round(time.perf_counter() - begin)
    env_steps, curve = gather([each["curve"] for each in found])
    cell = {"seconds": seconds, "total_steps": task.total_steps, "env_steps": env_steps, "curve": curve}
    greedy = [score for each in found for score in each.get("greedy", [])]
    return cell | ({"greedy": summarize(np.array(greedy))} if greedy else {})


def thin(env_steps: np.ndarray, returns: np.ndarray) -> tuple[list[int], list[list[float]]]:
    """Steps, about as many as a curve has, and the mean return since the last one ``[seeds, points]``, NaN without episodes.

    >>> thin(np.array([8, 16, 24]), np.array([[1.0, np.nan, 4.0]]))
    ([8, 16, 24], [[1.0, nan, 4.0]])
    """
    every = max(1, len(env_steps) // POINTS)
    ends = np.arange(len(env_steps), 0, -every)[::-1]
    windows = [returns[:, max(0, end - every) : end] for end in ends]
    total, count = (np.stack([f(x).sum(axis=1) for x in windows], axis=1) for f in (np.nan_to_num, np.isfinite))
    return env_steps[ends - 1].tolist(), np.where(count > 0, total / np.maximum(count, 1), np.nan).round(3).tolist()


def gather(seeds: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[list[float]]]:
    """Steps, about as many as a curve has, and returns ``[seeds, points]``, from the rows ``(steps, return)`` of each seed.

    >>> gather([[(8, 1.0), (16, 2.0)], [(8, 3.0), (16, 4.0)]])
    ([8, 16], [[1.0, 2.0], [3.0, 4.0]])
    """
    env_steps, every = [step for step, _ in seeds[0]], max(1, len(seeds[0]) // POINTS)
    return env_steps[::-every][::-1], [[value for _, value in rows][::-every][::-1] for rows in seeds]


def summarize(returns: np.ndarray) -> Cell:
    """Of the last policies."""
    return stats.summarize(returns) | {"per_seed": returns.round(3).tolist()}


def draw(cells: Mapping[str, Cell]) -> Figure:
    """A panel for each environment: medians and middle halves of the training return."""
    names = [name for name in TASKS if any(key.startswith(f"{name} ") for key in cells)]
    columns = min(4, len(names))
    figure = Figure(figsize=(3.2 * columns, 2.8 * -(-len(names) // columns) + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(-(-len(names) // columns), columns)).ravel()
    for axes, name in zip(panels, names, strict=False):
        for trainer, color in zip(LABELS, plots.COLORS, strict=False):
            cell = cells.get(f"{name} {trainer}")
            if cell:
                curve = np.array(cell["curve"], float).T
                plots.draw_curve(axes, np.array(cell["env_steps"]), curve, color, LABELS[trainer])
        plots.over_steps(axes, name)
        axes.set_xlim(left=0)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    lines = {label: line for each in pairs for line, label in each}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=4, frameon=False, labelcolor=plots.INK)
    return figure


def table(cells: Mapping[str, Cell]) -> str:
    """Returns at the end of training and of the last policies, as Markdown."""
    rows = [
        [
            "environment",
            "trainer",
            "steps",
            "seeds",
            "last training return",
            "sampled mean",
            "greedy mean",
            "each seed, greedy",
            "s",
        ]
    ]
    rows.append(["---", "---", *["---:"] * 7])
    for name in TASKS:
        for trainer, label in LABELS.items():
            cell = cells.get(f"{name} {trainer}")
            if not cell:
                continue
            last = plots.without_gaps(np.array(cell["curve"], float).T)[-1]
            digits = 1 if np.nanmax(np.abs(last)) >= 100 else 2
            scores = [shown(cell[mode]["mean"], digits=digits) if mode in cell else "" for mode in ("sampled", "greedy")]
            scores.append(shown(*sorted(cell["greedy"]["per_seed"]), digits=digits) if "greedy" in cell else "")
            row = [name, label, f"{cell['total_steps']:,}", str(len(last)), shown(float(np.nanmean(last)), digits=digits)]
            row += scores
            rows.append([*row, str(cell["seconds"])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def shown(*scores: float, digits: int) -> str:
    """With so many decimals."""
    return ", ".join(f"{x:.{digits}f}" for x in scores)


def main(
    only: tuple[str, ...] = tuple(TASKS),
    trainers: tuple[str, ...] = tuple(LABELS),
    total_steps: int = 0,
    seeds: int = 0,
    seed: int = 2026,
    eval_episodes: int = 32,
    checkout: Path | None = None,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Train; numbers and figure are written after each cell, and cells that were trained before are kept.

    Args:
        only: Environments, by their names in their suites.
        trainers: Of ``ppo``, ``gru``, ``brax`` and ``craftax_baseline``.
        total_steps: Environment steps of each run; 0: as many as the task has.
        seeds: Runs of each; 0: as many as the task has.
        seed: Where all randomness comes from.
        eval_episodes: Episodes of the last policy of each run.
        checkout: A checkout of Craftax_Baselines; without one that trainer is left out.
        out: Where numbers and figure go.
    """
    jax.config.update("jax_default_prng_impl", GENERATORS[0])
    devices.keep_programs()
    path = out / "suites.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else {}
    numbers: dict[str, Any] = {}
    for name in only:
        task = TASKS[name]
        task = dataclasses.replace(task, seeds=seeds or task.seeds, total_steps=total_steps or task.total_steps)
        for trainer in task.trainers:
            if trainer not in trainers or (trainer == "craftax_baseline" and checkout is None):
                continue
            if trainer in PEERS:
                cell = learn_beside(task, trainer, seed, eval_episodes, checkout and checkout.resolve())
            else:
                cell = learn(task, trainer, seed, eval_episodes)
            cells[f"{name} {trainer}"] = cell
            numbers = study.write("suites", {"cells": cells}, draw(cells), out)
            (out / "suites.md").write_text(table(cells))
            last = np.nanmean(plots.without_gaps(np.array(cell["curve"], float).T)[-1])
            greedy = f"greedy mean {cell['greedy']['mean']:.2f}, " if "greedy" in cell else ""
            print(f"{name:26}{trainer:18}training return {last:.2f}, {greedy}{cell['seconds']} s", flush=True)
    return numbers


if __name__ == "__main__":
    tyro.cli(main)
