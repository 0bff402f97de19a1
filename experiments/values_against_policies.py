"""Learning values against learning the policy: Q-learning with a table and DQN beside A2C and PPO, on the same steps.

.venv/bin/python -m experiments.values_against_policies
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from experiments.q_learning import DQN, QLearning, QNetwork, Table
from jaxpg import stats
from jaxpg.core.types import Array, Params
from jaxpg.lab import config
from jaxpg.lab.report import plots
from jaxpg.loops.evaluate import episodes

GRIDS = {  # lowest and highest observation, for both kinds of values, and the cells of the table
    "CartPole-v1": ((-2.4, -3.0, -0.21, -3.0), (2.4, 3.0, 0.21, 3.0), (4, 4, 12, 12)),
    "MountainCar-v0": ((-1.2, -0.07), (0.6, 0.07), (20, 20)),
}
Score = Callable[[Any, Array], Array]


def cell(low: tuple[float, ...], high: tuple[float, ...], cells: tuple[int, ...], obs: Array) -> Array:
    """The number of the cell of a regular grid in which ``obs`` lies; what is outside belongs to the nearest."""
    place = (obs - jnp.array(low)) / (jnp.array(high) - jnp.array(low)) * jnp.array(cells)
    place = jnp.clip(place.astype(jnp.int32), 0, jnp.array(cells) - 1)
    return jnp.sum(place * jnp.array([math.prod(cells[i + 1 :]) for i in range(len(cells))]))


def learners(env_id: str, total_steps: int) -> dict[str, QLearning | jaxpg.Algorithm]:
    """The four; A2C and PPO with their presets, A2C on CartPole-v1 with that for any environment."""
    env: Any = jaxpg.make(env_id)
    actions, explore = env.num_actions, total_steps // 4
    grid = GRIDS[env_id]
    table = Table(functools.partial(cell, *grid), math.prod(grid[2]), actions)
    return {
        "Q-learning, table": QLearning(env, table, learning_rate=0.3, epsilon=0.02, exploration=explore),
        "DQN": DQN(env, QNetwork(actions, bounds=grid[:2]), gamma=0.98, exploration=explore),
        "A2C": jaxpg.a2c(env, **(study.A2C if env_id == "CartPole-v1" else {})),
        "PPO": jaxpg.ppo(env, total_steps=total_steps),
    }


def greedy(learner: QLearning | jaxpg.Algorithm, env_id: str, num_episodes: int) -> Score:
    """Mean return of the most probable actions, or those of the highest value: what jaxpg.evaluate does, for both."""
    if isinstance(learner, jaxpg.Algorithm):
        return lambda state, key: jnp.mean(episodes(learner, state, key, num_episodes, True)["episode_return"])
    algo = jaxpg.reinforce(jaxpg.make(env_id), policy=learner.network)

    def score(state: Any, key: Array) -> Array:
        variables = state.params  # those of flax have their collection's name
        policy = variables["params"] if isinstance(learner.network, QNetwork) else variables
        acting = algo.init(key).replace(params=Params(policy, {}))
        return jnp.mean(episodes(algo, acting, key, num_episodes, True)["episode_return"])

    return score


def curve(
    learner: QLearning | jaxpg.Algorithm, env_id: str, total_steps: int, points: int, seeds: int, num_episodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps ``[points]`` and greedy returns ``[points, seeds]``."""
    per_update = learner.num_envs * learner.num_steps
    updates = max(1, round(total_steps / points / per_update))
    score = greedy(learner, env_id, num_episodes)

    def advance(state: Any, _: None) -> tuple[Any, None]:
        return (learner.update(state)[0] if isinstance(learner, jaxpg.Algorithm) else learner.update(state)), None

    def point(state: Any, key: Array) -> tuple[Any, Array]:
        state, _ = jax.lax.scan(advance, state, length=updates)
        return state, score(state, key)

    def run(key: Array) -> Array:
        key_init, key_score = jax.random.split(key)
        return jax.lax.scan(point, learner.init(key_init), jax.random.split(key_score, points))[1]

    returns = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))
    return per_update * updates * np.arange(1, points + 1), np.asarray(returns, float).T


def judged(env_steps: np.ndarray, returns: np.ndarray, threshold: float) -> dict[str, Any]:
    """Steps to the threshold, how often a seed that had reached it was below it later, and the returns at the end."""
    reached = np.maximum.accumulate(returns >= threshold)[:-1]
    steps = stats.steps_to_threshold(env_steps, returns.T, threshold)
    return {
        "env_steps": env_steps.tolist(),
        "returns": returns.round(1).tolist(),
        "to_threshold": stats.summarize_steps(steps) | {"per_seed": steps.tolist()},
        "relapses": float(np.mean((returns[1:] < threshold)[reached])) if reached.any() else math.nan,
        "last_return": stats.summarize(returns[-1]),
    }


def draw(found: dict[str, dict[str, dict[str, Any]]], seeds: int) -> Figure:
    """A panel for each environment."""
    figure = Figure(figsize=(9.0, 3.7), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(found)))
    for axes, (env_id, rows) in zip(panels, found.items(), strict=True):
        for color, (name, row) in zip(plots.COLORS, rows.items(), strict=False):
            plots.draw_curve(axes, np.array(row["env_steps"]), np.array(row["returns"]), color, name)
        axes.axhline(config.SOLVED[env_id], **plots.DASHED)
        plots.over_steps(axes, env_id)
        axes.set_xlim(left=0)
        axes.set_ylabel("greedy return", color=plots.INK)
    panels[-1].legend(frameon=False, fontsize=9, labelcolor=plots.INK, loc=(0.6, 0.12))
    figure.supxlabel(f"Median and middle half of {seeds} seeds; dashed: solved.", fontsize=9, color=plots.INK)
    return figure


def main(
    envs: tuple[str, ...] = tuple(GRIDS),
    methods: tuple[str, ...] = (),
    total_steps: tuple[int, ...] = (100_000, 200_000),
    points: int = 25,
    seeds: int = 8,
    episodes: int = 16,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """``total_steps`` for each of ``envs``, the same for all ``methods`` (all four if none are named)."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for env_id, budget in zip(envs, total_steps, strict=False):
        found[env_id] = {}
        for name, learner in learners(env_id, budget).items():
            if methods and name not in methods:
                continue
            row = judged(*curve(learner, env_id, budget, points, seeds, episodes), config.SOLVED[env_id])
            found[env_id][name] = row
            steps, last = row["to_threshold"], row["last_return"]
            print(
                f"{env_id:15} {name:18} solved after {steps['median_steps']:>9,.0f} steps ({steps['reached']} of {seeds}), "
                f"below again in {row['relapses']:.0%} of later looks; at the end IQM {last['iqm']:.0f}, "
                f"[{last['ci95'][0]:.0f}, {last['ci95'][1]:.0f}]",
                flush=True,
            )
    return study.write("values_against_policies", {"seeds": seeds, "envs": found}, draw(found, seeds), out)


if __name__ == "__main__":
    tyro.cli(main)
