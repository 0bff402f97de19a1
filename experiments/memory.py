"""What memory is for: PPO with a GRU, an LSTM, a stack of the last four observations, and no memory.

A probe shows one of four symbols and asks for it later; two small tasks of bsuite; CartPole-v1 and Pendulum-v1 without
velocities.

    .venv/bin/python -m experiments.memory
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from gymnax.environments import spaces
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.core.distributions import Categorical
from jaxpg.core.types import Array, PyTree
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.report import plots

SYMBOLS, FRAMES = 4, 4
POINTS = 30  # of a curve, about
MEMORIES = ("gru", "lstm", "stack", "mlp")
LABELS = {"gru": "GRU", "lstm": "LSTM", "stack": f"the last {FRAMES} observations", "mlp": "no memory"}


@functools.cache
def probe(delay: int) -> FunctionalEnv:
    """A symbol is in the first observation only; ``delay`` steps later the last one asks for it. 1 for the right answer."""

    def observe(symbol: Array, time: Array) -> Array:
        shown = jax.nn.one_hot(symbol, SYMBOLS) * (time == 0)
        return jnp.append(shown, 1.0 * (time == delay))

    def reset(key: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        symbol, time = jax.random.randint(key, (), 0, SYMBOLS), jnp.int32(0)
        return observe(symbol, time), (symbol, time)

    def step(key: Array, state: tuple[Array, Array], action: Array, _: None) -> tuple:
        symbol, time = state
        asked = time == delay
        return observe(symbol, time + 1), (symbol, time + 1), 1.0 * (asked & (action == symbol)), asked

    seen = spaces.Box(0.0, 1.0, (SYMBOLS + 1,))
    return FunctionalEnv(reset, step, spaces.Discrete(SYMBOLS), delay + 1, name=f"probe-{delay}", obs_space=seen)


class Wrapper:
    """An environment with other observations; what is not defined here is the inner environment's."""

    env: Any

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not set yet, as in unpickling
            raise AttributeError(name)
        return getattr(self.env, name)


@dataclasses.dataclass(frozen=True)
class Partial(Wrapper):
    """Some components of the observations, ``obs[..., kept]``: of the final one of an episode too."""

    env: Any
    kept: tuple[int, ...]

    def see(self, obs: Array) -> Array:
        """What is left of an observation."""
        return obs[..., jnp.array(self.kept)]

    def observation_space(self, params: PyTree) -> spaces.Box:
        """The bounds of what is left."""
        inner = self.env.observation_space(params)
        low, high = (self.see(jnp.broadcast_to(bound, inner.shape)) for bound in (inner.low, inner.high))
        return spaces.Box(low, high, low.shape, inner.dtype)

    def reset(self, key: Array, params: PyTree) -> tuple[Array, PyTree]:
        """A fresh episode."""
        obs, state = self.env.reset(key, params)
        return self.see(obs), state

    def step(self, key: Array, state: PyTree, action: Array, params: PyTree) -> tuple:
        """The inner environment's step."""
        obs, state, *others, info = self.env.step(key, state, action, params)
        return self.see(obs), state, *others, info | {"final_observation": self.see(info["final_observation"])}


@dataclasses.dataclass(frozen=True)
class Stack(Wrapper):
    """The last ``FRAMES`` observations side by side, the oldest first; an episode begins with its first one repeated."""

    env: Any

    def observation_space(self, params: PyTree) -> spaces.Box:
        """The bounds, repeated."""
        inner = self.env.observation_space(params)
        low, high = (jnp.tile(jnp.broadcast_to(bound, inner.shape), FRAMES) for bound in (inner.low, inner.high))
        return spaces.Box(low, high, low.shape, inner.dtype)

    def reset(self, key: Array, params: PyTree) -> tuple[Array, PyTree]:
        """A fresh episode."""
        obs, state = self.env.reset(key, params)
        frames = jnp.tile(obs, FRAMES)
        return frames, (frames, state)

    def step(self, key: Array, state: PyTree, action: Array, params: PyTree) -> tuple:
        """The inner environment's step; what was seen of an episode that ended is forgotten."""
        frames, inner = state
        obs, inner, reward, terminated, truncated, info = self.env.step(key, inner, action, params)
        older, final = frames[len(obs) :], info["final_observation"]
        frames = jnp.where(terminated | truncated, jnp.tile(obs, FRAMES), jnp.append(older, obs))
        info = info | {"final_observation": jnp.append(older, final)}
        return frames, (frames, inner), reward, terminated, truncated, info


class Forecast:
    """The best policy of UmbrellaChain-bsuite: it takes the umbrella if it will rain."""

    def init(self, key: Array, obs: Array) -> Array:
        """No parameters."""
        return jnp.zeros(())

    def apply(self, params: Array, obs: Array) -> Categorical:
        """The action is what the first component says."""
        return Categorical(100.0 * jax.nn.one_hot(obs[:, 0].astype(int), 2))


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment, how long PPO learns it, with which options, and what a policy that solves it gets.

    ``best`` is a policy: where it is given, the returns of others are those less its luck in the same episodes.
    """

    title: str
    env: Any
    total_steps: int
    seeds: int
    options: dict[str, Any]
    solved: float
    chance: float | None = None
    best: Any = None


ASKED = {"num_envs": 64, "epochs": 4, "learning_rate": 3e-3, "gamma": 0.9, "hidden": (32,)}
CHAIN = {"num_envs": 32, "num_steps": 30, "epochs": 4, "hidden": (32,), "entropy_coef": 0.01}
POLE = {"num_envs": 16, "num_steps": 64, "anneal": ("learning_rate", "critic_learning_rate")}
SWING = {"num_envs": 16, "num_steps": 128, "observation": "bounds", "reward_scale": 0.1, "gamma": 0.95}


def tasks() -> dict[str, Task]:
    """All tasks, by the names that the command line takes."""
    make = jaxpg.make
    return {
        **{
            f"probe-{delay}": Task(
                f"A symbol, {delay} steps later",
                probe(delay),
                total_steps,
                16,
                ASKED | {"num_steps": num_steps},
                solved=0.99,
                chance=1 / SYMBOLS,
            )
            for delay, num_steps, total_steps in ((5, 24, 46_080), (20, 42, 201_600), (80, 81, 829_440))
        },
        "memory_chain": Task("MemoryChain-bsuite", make("MemoryChain-bsuite"), 57_600, 16, CHAIN, solved=0.98, chance=0.0),
        "umbrella_chain": Task(
            "UmbrellaChain-bsuite", make("UmbrellaChain-bsuite"), 57_600, 16, CHAIN, solved=0.98, chance=0.0, best=Forecast()
        ),
        "cartpole": Task(
            "CartPole-v1 without velocities", Partial(make("CartPole-v1"), (0, 2)), 300_000, 16, POLE, solved=475.0
        ),
        "pendulum": Task(
            "Pendulum-v1 without velocity", Partial(make("Pendulum-v1"), (0, 1)), 299_008, 8, SWING, solved=-200.0
        ),
    }


def build(task: Task, memory: str, **options: Any) -> jaxpg.Algorithm:
    """PPO with one kind of memory."""
    network = memory if memory in ("gru", "lstm") else "mlp"
    env: Any = Stack(task.env) if memory == "stack" else task.env
    return jaxpg.ppo(env, network=network, total_steps=task.total_steps, **task.options | options)


def learn(task: Task, memory: str, seed: int) -> dict[str, Any]:
    """Returns over training ``[seeds, points]``, greedy returns over 128 episodes ``[seeds]``, and seconds.

    The episodes of the evaluation start alike for every run and every kind of memory.
    """
    begin = time.perf_counter()
    found = jaxpg.sweep(build(task, memory), [{}], seeds=task.seeds, total_steps=task.total_steps, seed=seed, eval_episodes=128)
    seconds = time.perf_counter() - begin
    env_steps = found.env_steps[0].astype(int)
    shown = np.arange(len(env_steps) - 1, -1, -max(1, len(env_steps) // POINTS))[::-1]  # the last one too
    return {
        "total_steps": int(env_steps[-1]),
        "env_steps": env_steps[shown].tolist(),
        "curve": found.metrics["episode_return"][0][:, shown].tolist(),
        "greedy": (found.returns["greedy_return"][0] - luck(task, seed)).tolist(),
        "seconds": round(seconds, 1),
    }


def luck(task: Task, seed: int) -> float:
    """What the best policy gets in the episodes of the evaluation above its expectation of 1; 0 where none is given."""
    if task.best is None:
        return 0.0
    best = jaxpg.ppo(task.env, policy=task.best, num_envs=1, num_steps=4)
    found = jaxpg.sweep(best, [{}], seeds=1, total_steps=1, seed=seed, eval_episodes=128)
    return float(found.returns["greedy_return"][0, 0]) - 1.0


def draw(cells: dict[str, dict[str, Any]], tasks: dict[str, Task]) -> Figure:
    """A panel for each task, a curve for each kind of memory."""
    figure = Figure(figsize=(13.0, 6.2), layout="constrained")
    grid = figure.subplots(2, 4).ravel()
    for axes, (name, task) in zip(grid, tasks.items(), strict=False):
        for memory, color in zip(MEMORIES, plots.COLORS, strict=False):
            cell = cells.get(f"{name} {memory}")
            if cell:
                plots.draw_curve(axes, np.array(cell["env_steps"]), np.array(cell["curve"], float).T, color, LABELS[memory])
        plots.over_steps(axes, task.title)
        axes.set_xlim(left=0)
        if task.chance is not None:
            axes.axhline(task.chance, **plots.DASHED)
    grid[-1].set_axis_off()
    by_label = {label: line for axes in grid for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    grid[-1].legend(by_label.values(), by_label, frameon=False, fontsize=11, labelcolor=plots.INK, loc="center")
    return figure


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Mean and median greedy return, and how many runs solve the task: a row for each task, as Markdown."""
    rows = [["task", "steps", "solved at", *(LABELS[memory] for memory in MEMORIES)]]
    rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
    for name, task in tasks().items():
        row = [cells[f"{name} {memory}"] for memory in MEMORIES]
        digits = 2 if abs(task.solved) < 10 else 1
        scores = [
            f"{cell['summary']['mean']:.{digits}f}, {cell['summary']['median']:.{digits}f}, "
            f"{cell['solved']['solved']} of {len(cell['greedy'])}"
            for cell in row
        ]
        rows.append([task.title, f"{row[0]['total_steps']:,}", f"{task.solved:g}", *scores])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(
    only: Sequence[str] = (), memories: Sequence[str] = MEMORIES, seeds: int = 0, scale: float = 1.0, out: Path = study.FIGURES
) -> dict[str, Any]:
    """Train tasks with kinds of memory. Numbers and figure are written after each pair; those of other pairs are kept.

    Args:
        only: Tasks, by default all.
        memories: Kinds of memory.
        seeds: Runs of each; 0: as many as the task has.
        scale: Budgets are multiplied by this.
        out: Where numbers and figure go.
    """
    known, path = tasks(), out / "memory.json"
    numbers = json.loads(path.read_text()) if path.exists() else {}
    cells = numbers.get("cells", {})
    for name in only or known:
        task = known[name]
        task = dataclasses.replace(task, seeds=seeds or task.seeds, total_steps=int(scale * task.total_steps))
        for memory in memories:
            cell = learn(task, memory, seed=2026)
            cell |= {"summary": stats.summarize(cell["greedy"]), "solved": stats.summarize_solved(cell["greedy"], task.solved)}
            cells[f"{name} {memory}"] = cell
            options = {name: task.options for name, task in known.items()}
            numbers = study.write("memory", {"options": options, "cells": cells}, draw(cells, known), out)
            mean, median, solved = cell["summary"]["mean"], cell["summary"]["median"], cell["solved"]["solved"]
            line = f"mean {mean:8.2f} median {median:8.2f} solved {solved} of {task.seeds}, {cell['seconds']:.0f} s"
            print(f"{name:14s} {memory:5s} {line}", flush=True)
    return numbers


if __name__ == "__main__":
    tyro.cli(main)
