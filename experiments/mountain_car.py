"""MountainCar-v0 without shaping: which choices make policy gradients solve it, one exchanged at a time.

    .venv/bin/python -m experiments.mountain_car

PPO with its preset is the reference. Every reward is -1 until the hill is climbed, and a random policy almost never climbs it.
"""

from __future__ import annotations

import dataclasses
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
from jaxpg.core.hparams import HParams
from jaxpg.core.types import AdvantageFn, Array, Trajectory
from jaxpg.lab import config
from jaxpg.lab.engine import devices
from jaxpg.lab.report import plots

ENV = "MountainCar-v0"
FACTORS: dict[str, list[dict[str, Any]]] = {  # what is exchanged for the preset's, and for what
    "preset": [{}],
    "time limit is death": [{"death": True}],
    "observation": [{"observation": "none"}, {"observation": "bounds"}],
    "reward_scale": [{"reward_scale": 1.0}],
    "environments x steps": [
        {"num_envs": 1, "num_steps": 1024},
        {"num_envs": 64, "num_steps": 16},
    ],
    "epochs": [{"epochs": 1}, {"epochs": 5}],
    "entropy_coef": [{"entropy_coef": 0.0}, {"entropy_coef": 0.1}],
    "anneal": [{"anneal": ()}],
}


@dataclasses.dataclass(frozen=True)
class TimeLimitIsDeath:
    """The common mistake: an episode that was cut counts as one that ended, and is worth nothing from there on."""

    advantage: AdvantageFn

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What the inner choice reads."""
        return getattr(self.advantage, "reads", None)

    def __call__(self, trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
        return self.advantage(trajectory.replace(terminated=trajectory.done), value, next_value, hp)


def make(death: bool = False, **options: Any) -> jaxpg.Algorithm:
    """PPO with its preset and ``options``."""
    algo = _named.build("ppo", jaxpg.make(ENV), **options)
    return dataclasses.replace(algo, advantage=TimeLimitIsDeath(algo.advantage)) if death else algo


def arrivals(episodes: int, seed: int) -> float:
    """The share of episodes in which the policy at its start, which is nearly uniform, gets to the top."""
    algo = make()
    found = jaxpg.evaluate(algo, algo.init(jax.random.key(seed)), jax.random.key(seed + 1), episodes, greedy=False)
    return float(np.mean(np.asarray(found["episode_length"]) < 200))


def label(factor: str, change: dict[str, Any]) -> str:
    """``epochs = 1``; the name alone where that says all."""
    if len(change) == 2:
        return "{} x {} (environments x steps)".format(*change.values())
    return (
        " ".join(f"{name} = {'none' if value == () else value}" for name, value in change.items() if name != "death") or factor
    )


def draw(lines: dict[str, dict[str, Any]], seeds: int, env_steps: int) -> Figure:
    """A row for each change: every seed, and the interquartile mean with its interval."""
    figure, axes = plots.blank(0.36 * len(lines) + 1.2)
    for row, line in enumerate(lines.values()):
        color = plots.COLOR if row else plots.INK
        axes.plot(line["per_seed"], np.full(seeds, row), "o", color=color, markersize=3.5, alpha=0.25, linewidth=0)
        axes.hlines(row, *line["ci95"], color=color, linewidth=2.0)
        axes.plot(line["iqm"], row, "D", color=color, markersize=6)
    axes.axvline(config.SOLVED[ENV], **plots.DASHED)
    axes.set_yticks(range(len(lines)), list(lines))
    axes.invert_yaxis()
    plots.bare(axes, f"PPO on {ENV}, {env_steps:,} steps", "greedy return of the last policy", "")
    return figure


def main(
    total_steps: int = 100_000,
    seeds: int = 32,
    seed: int = 0,
    factors: tuple[str, ...] = tuple(FACTORS),
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Train every variant with the same seeds; ``factors`` names those that are wanted."""
    jax.config.update("jax_default_prng_impl", config.GENERATORS[0])
    devices.keep_programs()
    changes = {label(factor, change): change for factor in factors for change in FACTORS[factor]}
    found = jaxpg.sweep(
        make,
        [{"total_steps": total_steps} | change for change in changes.values()],
        seeds=seeds,
        total_steps=total_steps,
        seed=seed,
    )
    lines = {}
    for name, returns in zip(changes, found.returns["greedy_return"], strict=True):
        solved = stats.summarize_solved(returns, config.SOLVED[ENV])
        lines[name] = stats.summarize(returns) | {"solved": solved, "per_seed": returns.round(2).tolist()}
        print(f"{name:44}IQM {lines[name]['iqm']:8.1f}   solved {solved['solved']:3} of {seeds}", flush=True)
    numbers = {"env": ENV, "seeds": seeds, "seed": seed, "env_steps": int(found.env_steps[0, -1]), "variants": lines}
    numbers |= {"preset": presets.options("ppo", ENV), "random_policy_arrives": arrivals(4096, seed)}
    return study.write("mountain_car", numbers, draw(lines, seeds, numbers["env_steps"]), out)


if __name__ == "__main__":
    tyro.cli(main)
