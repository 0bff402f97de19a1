"""Where the best policy is a random one; and a policy that changes smoothly where an argmax flips.

.venv/bin/python -m experiments.stochastic_policies
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from gymnax.environments import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from experiments.bandits import Table
from jaxpg.core import advantages, objectives
from jaxpg.core.distributions import Categorical
from jaxpg.core.types import Array, PyTree, TrainState
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.report import plots

PAYOFF = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])  # of rock, paper, scissors against the same
GAMMA = 0.9  # of the aliased cells
SEEN = np.array([0, 1, 2, 1, 3])  # what the five cells show: the second and the fourth look alike
STARTS = [0, 1, 3, 4]
RATE = 2.0**-12  # of REINFORCE in the corridor
WEST, EAST, SOUTH = range(3)


def corridor_value(right: Any) -> Any:
    """v(p) = (2p - 4) / (p (1 - p)), the value of the start where each step goes right with probability p."""
    return (2.0 * right - 4.0) / (right * (1.0 - right))


@jaxpg.reads("learning_rate")
def sgd(hp: jaxpg.HParams) -> optax.GradientTransformation:
    """Plain gradient steps."""
    return optax.sgd(hp.learning_rate)


def decreasing(hp: jaxpg.HParams, step: Array) -> jaxpg.HParams:
    """learning_rate / sqrt(1 + updates done)."""
    return hp.replace(learning_rate=hp.learning_rate * jax.lax.rsqrt(1.0 + step))


def plain_reinforce(env: FunctionalEnv, policy: Table, num_envs: int, **options: Any) -> jaxpg.Algorithm:
    """REINFORCE as in the book: the gradient summed over the steps of an episode, a plain step, no standardisation."""
    algo = jaxpg.reinforce(env, policy=policy, num_envs=num_envs, num_steps=env.max_steps, **options)
    hparams, plain = algo.hparams.replace(max_grad_norm=None, adam_eps=None), jaxpg.SGD(optimizer=sgd)
    pieces = {"advantage": advantages.reward_to_go, "reduction": objectives.sum_over_steps, "update_rule": plain}
    return dataclasses.replace(algo, hparams=hparams, **pieces)


def probabilities(state: TrainState) -> Array:
    """pi(a|s) for each observation s, ``[S, A]``."""
    return jax.nn.softmax(state.params.policy["theta"])


def start(key: Array, params: PyTree) -> tuple[Array, Array]:
    """Nothing is seen, and the first place is 0."""
    return jnp.int32(0), jnp.int32(0)


def throw(key: Array, state: Array, action: Array, params: Array) -> tuple[Array, Array, Array, Array]:
    """One throw against the move ``params``."""
    return jnp.int32(0), state, jnp.asarray(PAYOFF)[action, params], jnp.bool_(True)


def walk(key: Array, place: Array, action: Array, params: PyTree) -> tuple[Array, Array, Array, Array]:
    """Three places that look alike, -1 a step; in the second, left and right are exchanged [Sutton & Barto 2018, 13.1]."""
    place = jnp.maximum(place + jnp.where(place == 1, -1, 1) * (2 * action - 1), 0)
    return jnp.int32(0), place, jnp.float32(-1.0), place == 3


@functools.partial(jax.jit, static_argnames=("algo", "num_updates"))
@functools.partial(jax.vmap, in_axes=(None, 0, None))
def play(algo: jaxpg.Algorithm, key: Array, num_updates: int) -> Array:
    """The policy after each update ``[U, 3]``, where the opponent throws its best response to the policy before it.

    The gradient of min_j (pi A)_j is that against the minimising j: REINFORCE climbs the worst case [Danskin 1966].
    """

    def step(state: TrainState, _: Any) -> tuple[TrainState, Array]:
        response = jnp.argmin(probabilities(state)[0] @ PAYOFF)
        state = algo.update(state.replace(env_params=response))[0]
        return state, probabilities(state)[0]

    return jax.lax.scan(step, algo.init(key), length=num_updates)[1]


def rock_paper_scissors(seeds: int, num_updates: int) -> tuple[dict[str, Any], np.ndarray]:
    """The last policy and the mean of all, with a constant and a decreasing step: how far from 1/3, and what is lost."""
    game = FunctionalEnv(start, throw, spaces.Discrete(3), max_steps=1, default_params=0)
    algo = plain_reinforce(game, Table(((2.0, 0.0, 0.0),)), 32, learning_rate=1.0, gamma=1.0)
    keys, found, courses = jax.random.split(jax.random.key(0), seeds), {}, []
    for name, schedule in {"constant step": algo.schedule, "decreasing step": decreasing}.items():
        courses.append(np.asarray(play(dataclasses.replace(algo, schedule=schedule), keys, num_updates), float))
        for which, policy in {"last": courses[-1][:, -1], "mean of all": courses[-1].mean(axis=1)}.items():
            distance, worst = np.abs(policy - 1 / 3).max(axis=1), (policy @ PAYOFF).min(axis=1)
            found[f"{name}, {which}"] = {"distance": float(distance.mean()), "worst_case": float(worst.mean())}
            found[f"{name}, {which}"]["policy"] = policy.mean(axis=0).tolist()
    found["best deterministic"] = {"worst_case": float(PAYOFF.min(axis=1).max())}
    return found, np.stack(courses)[:, 0]


def go(cell: Any, action: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """Where a step leads, its reward, and whether it ends: south of the middle is a treasure, south of the corners a trap."""
    end = (action == SOUTH) & (cell % 2 == 0)
    reward = end * xp.where(cell == 2, 1.0, -1.0)
    return xp.clip(cell + (action == EAST) - (action == WEST), 0, 4), reward, end


def begin(key: Array, params: PyTree) -> tuple[Array, Array]:
    """Anywhere but in the middle of five cells in a row; what is seen of them is ``SEEN``."""
    cell = jnp.asarray(STARTS)[jax.random.randint(key, (), 0, len(STARTS))]
    return jnp.asarray(SEEN)[cell], cell


def act(key: Array, cell: Array, action: Array, params: PyTree) -> tuple[Array, Array, Array, Array]:
    """A step among the cells."""
    cell, reward, end = go(cell, action, jnp)
    return jnp.asarray(SEEN)[cell], cell, reward, end


def cells_value(policy: np.ndarray) -> np.ndarray:
    """E[sum_t gamma^t r_t] of policies ``[..., 4, 3]``, exactly: v = (I - gamma P)^-1 r."""
    pi = policy[..., SEEN, :]  # [..., 5 cells, 3 actions]
    cell, action = np.indices((5, 3))
    place, reward, end = go(cell, action)
    stays = np.eye(5)[place] * ~end[..., None]
    inverse = np.linalg.inv(np.eye(5) - GAMMA * np.einsum("...sa,sax->...sx", pi, stays))
    return np.einsum("...sx,...xa,xa->...s", inverse, pi, reward)[..., STARTS].mean(axis=-1)


def wanderer(east: np.ndarray) -> np.ndarray:
    """Policies ``[..., 4, 3]``: inwards from the corners, south in the middle, ``east`` or west where cells look alike."""
    policy = np.zeros((*np.shape(east), 4, 3))
    policy[..., 0, EAST] = policy[..., 2, SOUTH] = policy[..., 3, WEST] = 1.0
    policy[..., 1, EAST], policy[..., 1, WEST] = east, 1.0 - east
    return policy


def aliased_cells(seeds: int, num_updates: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The values of all 81 deterministic policies, of the best stochastic one, and of what REINFORCE finds."""
    every = np.array([np.eye(3)[list(actions)] for actions in itertools.product(range(3), repeat=4)])
    env = FunctionalEnv(begin, act, spaces.Discrete(3), max_steps=50)
    algo = jaxpg.reinforce(env, policy=Table(((0.0,) * 3,) * 4), num_envs=16, num_steps=50, gamma=GAMMA, learning_rate=0.05)
    train = jax.jit(jax.vmap(lambda key: jaxpg.train(algo, algo.init(key), num_updates, num_updates)[0]))
    learnt = np.asarray(jax.vmap(probabilities)(train(jax.random.split(jax.random.key(1), seeds))), float)
    grid = np.linspace(0.0, 1.0, 1001)
    curve, values = cells_value(wanderer(grid)), cells_value(learnt)
    found = {"best_deterministic": cells_value(every).max(), "best_stochastic": curve.max(), "best_east": grid[curve.argmax()]}
    found |= {"reinforce": values.mean(), "reinforce_least": values.min(), "reinforce_east": learnt[:, 1, EAST].mean()}
    scatter = [every[:, 1, EAST], cells_value(every), learnt[:, 1, EAST], values]
    return {name: float(x) for name, x in found.items()}, scatter


def short_corridor(seeds: int, episodes: int, limit: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """REINFORCE from P(right) = 0.05: the mean return of the last 100 episodes, and the exact value of the last policy."""
    env = FunctionalEnv(start, walk, spaces.Discrete(2), max_steps=limit)
    algo = plain_reinforce(env, Table(((math.log(19.0), 0.0),)), 1, learning_rate=RATE, gamma=1.0)
    train = jax.jit(jax.vmap(lambda key: jaxpg.train(algo, algo.init(key), episodes, 100)))
    state, metrics = train(jax.random.split(jax.random.key(2), seeds))
    returns = np.asarray(metrics["episode_return"], float)
    right, last = np.asarray(jax.vmap(probabilities)(state)[:, 0, 1], float), returns[:, -1]
    value, best = corridor_value(right), 2.0 - math.sqrt(2.0)
    returns_near, values_near = (np.mean(np.abs(x - corridor_value(best)) < 1.0) for x in (last, value))
    found = {"best_right": best, "best_value": corridor_value(best), "last_right": right.mean(), "last_value": value.mean()}
    found |= {"epsilon_greedy_right": corridor_value(0.95), "epsilon_greedy_left": corridor_value(0.05)}
    found |= {"first_100": returns[:, 0].mean(), "last_100": last.mean()}
    found |= {"last_100_within_1": returns_near, "last_value_within_1": values_near}
    return {name: float(x) for name, x in found.items()}, [right, last]


def smoothness() -> tuple[dict[str, Any], list[np.ndarray]]:
    """P(second action) of a softmax of values (10, q), and whether an argmax takes it, as q passes 10."""
    q = np.linspace(9.0, 11.0, 401)
    dist = Categorical(jnp.stack([jnp.full(q.shape, 10.0), jnp.asarray(q)], axis=-1))
    soft, hard = np.exp(dist.log_prob(jnp.ones(q.shape, int))), np.asarray(dist.mode(), float)
    at, steepest = np.abs(q[:, None] - [10.1, 9.9]).argmin(axis=0), np.max(np.diff(soft) / np.diff(q))
    return {"softmax": soft[at].tolist(), "argmax": hard[at].tolist(), "steepest": float(steepest)}, [q, soft, hard]


def draw_game(axes: Axes, course: np.ndarray) -> None:
    """The first policies of ``[2, U, 3]``, constant and decreasing step, in a triangle whose corners are the pure moves."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    axes.plot(*np.append(corners, corners[:1], axis=0).T, color="#bbbbbb", linewidth=1.0)
    for color, name, way in zip(("#edb38f", plots.COLOR), ("constant step", "decreasing step"), course @ corners, strict=True):
        axes.plot(*way[:80].T, color=color, linewidth=1.0, label=name)
    axes.plot(*corners.mean(axis=0), "k+", markersize=12, label="(1/3, 1/3, 1/3)")
    for (x, y), name in zip(corners, ("rock", "paper", "scissors"), strict=True):
        axes.text(x, y + (0.02 if y else -0.07), name, ha="center", color=plots.INK)
    plots.bare(axes, "Rock, paper, scissors", "", "")
    axes.set(xticks=[], yticks=[], aspect="equal", xlim=(-0.15, 1.4), ylim=(-0.1, 0.95))
    axes.spines[:].set_visible(False)


def draw_curve(axes: Axes, curve: tuple[np.ndarray, np.ndarray], others: list[np.ndarray], label: str) -> None:
    """The exact value of every P, the policies that are compared with it, and what REINFORCE found."""
    axes.plot(*curve, color=plots.COLOR, linewidth=2.0, label="exact value")
    axes.plot(*others[:2], "D", color=plots.INK, markersize=5, label=label, clip_on=False)
    axes.plot(*others[2:], "o", color=plots.COLORS[1], markersize=3.5, label="REINFORCE, each seed")


def draw(game: np.ndarray, aliased: list[np.ndarray], corridor: list[np.ndarray], smooth: list[np.ndarray]) -> Figure:
    """One panel for each."""
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    (one, two), (three, four) = figure.subplots(2, 2)
    draw_game(one, game)
    east = np.linspace(0.0, 1.0, 201)
    draw_curve(two, (east, cells_value(wanderer(east))), aliased, "all 81 deterministic policies")
    plots.bare(two, "Aliased cells", "P(east) in the cells that look alike", "value")
    right, greedy = np.linspace(0.04, 0.96, 200), np.array([0.05, 0.95])
    draw_curve(three, (right, corridor_value(right)), [greedy, corridor_value(greedy), *corridor], "ε-greedy, ε = 0.1")
    plots.bare(three, "Short corridor", "P(right)", "mean return")
    for name, color, y in zip(("argmax", "softmax"), (plots.COLORS[1], plots.COLOR), smooth[:0:-1], strict=True):
        four.plot(smooth[0], y, color=color, linewidth=2.0, label=name)
    plots.bare(four, "Two actions, the first worth 10", "value q of the second action", "P(second action)")
    four.axvspan(9.9, 10.1, color="#e6e6e6", label="9.9 to 10.1")
    for axes, place in zip((one, two, three, four), ("upper right", *["lower center"] * 2, "lower right"), strict=True):
        axes.legend(loc=place, frameon=False, fontsize=8.5, labelcolor=plots.INK)
    return figure


def main(
    seeds: int = 100, games: int = 3_000, updates: int = 300, episodes: int = 1_000, limit: int = 500, out: Path = study.FIGURES
) -> dict[str, Any]:
    """Run the four, print, write ``stochastic_policies.png`` and ``stochastic_policies.json`` to ``out``."""
    settings = {"seeds": seeds, "games": games, "updates": updates, "episodes": episodes, "limit": limit}
    (game, course), (aliased, found) = rock_paper_scissors(seeds, games), aliased_cells(seeds, updates)
    (corridor, last), (smooth, curves) = short_corridor(seeds, episodes, limit), smoothness()
    numbers = {"rock_paper_scissors": game, "aliased_cells": aliased, "short_corridor": corridor, "smoothness": smooth}
    for name, rows in numbers.items():
        print(name, *(f"    {what}: {value}" for what, value in rows.items()), sep="\n")
    return study.write("stochastic_policies", settings | numbers, draw(course, found, last, curves), out)


if __name__ == "__main__":
    tyro.cli(main)
