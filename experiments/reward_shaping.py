"""Reward hacking: a bonus for coming nearer to the goal is collected for ever by walking to and fro; a potential is not.

.venv/bin/python -m experiments.reward_shaping
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from gymnax.environments import spaces
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg.core.types import Array, TrainState
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.report import plots

GAMMA = 0.99


class Shaping(NamedTuple):
    """What is added to the task's reward, which is 1 at the goal and 0 elsewhere; d is the distance to the goal in steps."""

    bonus: float | Array = 0.0  # for every step after which d is smaller
    potential: float | Array = 0.0  # times gamma Phi(s') - Phi(s) with Phi = -d [Ng, Harada & Russell 1999]


REWARDS = {"sparse": Shaping(), "bonus for coming nearer": Shaping(bonus=0.1), "potential-based": Shaping(potential=0.1)}


def go(cell: Any, action: Any, size: int, shaping: Shaping, xp: Any = np) -> tuple[Any, Any, Any]:
    """The next cell of a ``size x size`` grid, the reward, and whether that is the goal, the last cell. Walls stop."""
    row, column = cell // size, cell % size
    row = xp.clip(row + (action == 0) - (action == 1), 0, size - 1)
    column = xp.clip(column + (action == 2) - (action == 3), 0, size - 1)
    after = 2 * (size - 1) - row - column
    before = 2 * (size - 1) - cell // size - cell % size
    shaped = shaping.bonus * (after < before) + shaping.potential * (before - GAMMA * after)
    return row * size + column, (after == 0) + shaped, after == 0


def grid(size: int, max_steps: int) -> FunctionalEnv:
    """From the first cell to the last; what is seen is which cell it is."""

    def show(cell: Array) -> Array:
        return jax.nn.one_hot(cell, size**2)

    def reset(key: Array, params: Shaping) -> tuple[Array, Array]:
        return show(jnp.int32(0)), jnp.int32(0)

    def step(key: Array, cell: Array, action: Array, params: Shaping) -> tuple[Array, Array, Array, Array]:
        cell, reward, end = go(cell, action, size, params, jnp)
        return show(cell), cell, reward, end

    return FunctionalEnv(reset, step, spaces.Discrete(4), max_steps, Shaping())


def optimal_values(size: int, shaping: Shaping, sweeps: int = 5_000) -> np.ndarray:
    """Q*(s, a) ``[size^2, 4]`` without a time limit, by value iteration."""
    cell, action = np.indices((size**2, 4))
    place, reward, end = go(cell, action, size, shaping)
    q = np.zeros(place.shape)
    for _ in range(sweeps):
        q = reward + GAMMA * ~end * q.max(axis=1)[place]
    return q[:-1]  # the goal is left by nobody


def optimal_actions(size: int, shaping: Shaping) -> np.ndarray:
    """Which actions are optimal, ``[size^2 - 1, 4]``; the goal is left by nobody."""
    q = optimal_values(size, shaping)
    return q > q.max(axis=1, keepdims=True) - 1e-9


@functools.partial(jax.jit, static_argnames=("algo", "points", "updates", "episodes"))
@functools.partial(jax.vmap, in_axes=(None, None, 0, None, None, None))
def learn(algo: jaxpg.Algorithm, shaping: Shaping, key: Array, points: int, updates: int, episodes: int) -> dict[str, Array]:
    """After every ``updates`` the return of the task and of the reward that is paid, in the same ``episodes``: ``[points]``."""
    key, key_start = jax.random.split(key)

    def point(state: TrainState, key: Array) -> tuple[TrainState, dict[str, Array]]:
        state, _ = jaxpg.train(algo, state, updates)
        rewards = {"task": Shaping(), "paid": shaping}
        judged = {name: state.replace(env_params=jax.tree.map(jnp.float32, params)) for name, params in rewards.items()}
        runs = {name: jaxpg.evaluate(algo, one, key, episodes, greedy=False) for name, one in judged.items()}
        return state, {name: jnp.mean(result["episode_return"]) for name, result in runs.items()}

    return jax.lax.scan(point, algo.init(key_start, env_params=shaping), jax.random.split(key, points))[1]


def exact(size: int) -> dict[str, dict[str, float]]:
    """What the optimum of each reward is: in how many cells other actions are best than for the task, and does it arrive?

    ``straight`` is what a shortest path is paid in all, without discount.
    """
    wanted, found = optimal_actions(size, REWARDS["sparse"]), {}
    for name, shaping in REWARDS.items():
        actions = optimal_actions(size, shaping)
        cell, steps, goal = np.int64(0), 0, size**2 - 1
        while cell != goal and steps < size**2:
            cell, steps = go(cell, actions[cell].argmax(), size, shaping)[0], steps + 1
        straight = 1.0 + sum(shaping.bonus + shaping.potential * (d - GAMMA * (d - 1)) for d in range(1, 2 * size - 1))
        changed = np.sum(np.any(actions != wanted, axis=1))
        found[name] = {"cells_changed": float(changed), "optimum_arrives": float(cell == goal), "straight": float(straight)}
    return found


def draw(env_steps: np.ndarray, curves: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Left what was wanted, right what was paid."""
    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    task, paid = figure.subplots(1, 2)
    for color, (name, row) in zip(plots.COLORS, curves.items(), strict=False):
        plots.draw_curve(task, env_steps, row["task"].T, color, name)
        plots.draw_curve(paid, env_steps, row["paid"].T, color, name)
    plots.over_steps(paid, "What is paid")
    plots.dress(task, "What was wanted: to arrive")
    paid.set_xlim(left=0)
    task.set_ylabel("share of episodes", color=plots.INK)
    return figure


def main(
    size: int = 10,
    max_steps: int = 100,
    seeds: int = 32,
    total_steps: int = 30_720,
    points: int = 40,
    episodes: int = 20,
    seed: int = 0,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Train A2C on each reward, print, write ``reward_shaping.png`` and ``reward_shaping.json`` to ``out``."""
    rates: dict[str, Any] = {"learning_rate": 0.02, "critic_learning_rate": 0.02}
    algo = jaxpg.a2c(grid(size, max_steps), hidden=(), num_envs=8, num_steps=16, gamma=GAMMA, **rates)
    updates = total_steps // (algo.num_envs * algo.num_steps * points)
    env_steps = algo.num_envs * algo.num_steps * updates * np.arange(1, points + 1)
    keys = jax.random.split(jax.random.key(seed), seeds)
    curves, rows = {}, {}
    for name, row in exact(size).items():
        curves[name] = {
            what: np.asarray(x, float) for what, x in learn(algo, REWARDS[name], keys, points, updates, episodes).items()
        }
        task = curves[name]["task"]
        first = np.where(np.any(task >= 0.9, axis=1), env_steps[np.argmax(task >= 0.9, axis=1)], np.inf)
        row |= {"arrive": float(task[:, -1].mean()), "paid": float(curves[name]["paid"][:, -1].mean())}
        rows[name] = row | {"most_arrive": float(np.median(task, axis=0).max()), "steps_to_90": float(np.median(first))}
        print(f"{name:24}" + "  ".join(f"{what} {x:.4g}" for what, x in rows[name].items()))
    settings = {"size": size, "max_steps": max_steps, "seeds": seeds, "seed": seed, "env_steps": int(env_steps[-1])}
    return study.write("reward_shaping", settings | {"rewards": rows}, draw(env_steps, curves), out)


if __name__ == "__main__":
    tyro.cli(main)
