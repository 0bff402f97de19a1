"""PPO with a convolutional network on four games of MinAtar, by gymnax's rules: one encoder for both, or one each.

    .venv/bin/python -m experiments.images                                          # 1 M steps, 4 seeds
    .venv/bin/python -m experiments.images --total-steps 10000000 --seeds 30        # the full budget, for an accelerator

Writes ``images.json`` and ``images.png``.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.algorithms import _named, presets
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices
from jaxpg.lab.report import plots

GAMES = ("Asterix", "Breakout", "Freeway", "SpaceInvaders")
PUBLISHED = {"Asterix": 17.8, "Breakout": 43.4, "Freeway": 58.8, "SpaceInvaders": 136.5}  # gymnax-blines: PPO, one seed
PUBLISHED_STEPS = 10_000_000
ENCODERS: dict[str, dict[str, Any]] = {
    "shared": {"shared": True},
    "separate": {"shared": False, "critic_learning_rate": presets.MINATAR["learning_rate"]},
}
LABELS = {"shared": "one encoder for policy and critic", "separate": "an encoder each"}


def learn(game: str, encoder: str, *, total_steps: int, seeds: int, seed: int, eval_episodes: int) -> dict[str, Any]:
    """Train with the preset: training returns ``[seeds, points]``, returns of the last policy by seed, seconds."""
    options = presets.options("ppo", f"{game}-MinAtar", total_steps=total_steps, **ENCODERS[encoder])
    make = functools.partial(_named.build, "ppo", jaxpg.make(f"{game}-MinAtar"), total_steps=total_steps, **ENCODERS[encoder])
    begin = time.perf_counter()
    found = jaxpg.sweep(make, [{}], seeds=seeds, total_steps=total_steps, seed=seed, eval_episodes=eval_episodes)
    cell: dict[str, Any] = {"seconds": round(time.perf_counter() - begin), "options": options}
    env_steps = found.env_steps[0].astype(int)
    cell |= {"total_steps": int(env_steps[-1]), "env_steps": env_steps.tolist()}
    cell["curve"] = found.metrics["episode_return"][0].round(2).tolist()  # NaN where no episode ended
    for mode in ("greedy", "sampled"):
        returns = found.returns[f"{mode}_return"][0]
        cell[mode] = stats.summarize(returns) | {"per_seed": returns.round(2).tolist()}
    return cell


def draw(cells: dict[str, dict[str, Any]]) -> Figure:
    """A panel for each game: medians and middle halves, and what is published for ten times as many steps."""
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    for axes, game in zip(figure.subplots(2, 2).ravel(), GAMES, strict=True):
        for encoder, color in zip(ENCODERS, plots.COLORS, strict=False):
            cell = cells.get(f"{game} {encoder}")
            if cell:
                curve = np.array(cell["curve"], float).T
                plots.draw_curve(axes, np.array(cell["env_steps"]), curve, color, LABELS[encoder])
        axes.axhline(PUBLISHED[game], **plots.DASHED, label="published: PPO, 10 M steps, one seed")
        plots.over_steps(axes, f"{game}-MinAtar")
        axes.set_xlim(left=0)
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    lines = {label: line for each in pairs for line, label in each}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=3, frameon=False, labelcolor=plots.INK)
    return figure


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Returns of the last policies, as Markdown."""
    rows = [["game", "encoder", "steps", "seeds", "sampled mean", "greedy mean", "each seed, sampled", "published", "s"]]
    rows.append(["---", "---", *["---:"] * 7])
    for game in GAMES:
        for encoder in ENCODERS:
            cell = cells.get(f"{game} {encoder}")
            if cell:
                sampled = cell["sampled"]
                each = ", ".join(f"{x:.1f}" for x in sorted(sampled["per_seed"]))
                means = [f"{sampled['mean']:.1f}", f"{cell['greedy']['mean']:.1f}"]
                row = [game, encoder, f"{cell['total_steps']:,}", str(len(sampled["per_seed"])), *means, each]
                rows.append([*row, f"{PUBLISHED[game]:g}", str(cell["seconds"])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(
    games: tuple[str, ...] = GAMES,
    encoders: tuple[str, ...] = tuple(ENCODERS),
    total_steps: int = 1_000_000,
    seeds: int = 4,
    seed: int = 2026,
    eval_episodes: int = 32,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Train; numbers and figure are written after each cell, and cells that were trained before are kept.

    Args:
        games: Of ``Asterix``, ``Breakout``, ``Freeway`` and ``SpaceInvaders``.
        encoders: ``shared``, ``separate`` or both.
        total_steps: Environment steps of each run.
        seeds: Runs of each cell.
        seed: Where all randomness comes from. The preset was chosen with 0.
        eval_episodes: Episodes of the last policy of each run.
        out: Where numbers and figure go.
    """
    jax.config.update("jax_default_prng_impl", GENERATORS[0])
    devices.keep_programs()
    path = out / "images.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else {}
    numbers: dict[str, Any] = {}
    for encoder in encoders:
        for game in games:
            cell = learn(game, encoder, total_steps=total_steps, seeds=seeds, seed=seed, eval_episodes=eval_episodes)
            cells[f"{game} {encoder}"] = cell
            numbers = study.write("images", {"published": PUBLISHED, "cells": cells}, draw(cells), out)
            print(f"{game:14}{encoder:10}sampled mean {cell['sampled']['mean']:7.2f}, {cell['seconds']} s", flush=True)
    return numbers


if __name__ == "__main__":
    tyro.cli(main)
