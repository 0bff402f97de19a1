"""Illegal actions: masked, punished by the end of the episode, or by a price; and masks for a policy that has to remember.

A grid of 5 x 5 cells. An action names the cell to go to, so 25 actions, of which the two to four neighbours are legal.
Left and middle: from anywhere to one corner. Right: the first observation tells which of the four corners is wanted,
and in every step some of the neighbours are shut.

    .venv/bin/python -m experiments.masks
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
from jaxpg.core.types import Array, PyTree, TrainState
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.report import plots

SIDE, MAX_STEPS = 5, 50
CELLS = SIDE * SIDE
PRICE, OPEN = 0.1, 0.6  # of an illegal action, where it has one; the share of neighbours that are open, where some are shut
CORNERS = np.array([0, SIDE - 1, CELLS - SIDE, CELLS - 1])
PLACES = np.stack(np.divmod(np.arange(CELLS), SIDE), axis=1)
NEIGHBOURS = np.abs(PLACES[:, None] - PLACES[None]).sum(-1) == 1  # [from, to]
RULES = {
    "masked": "masked",
    "ends": "an illegal action ends the episode, -1",
    "costs": f"an illegal action changes nothing, -{PRICE:g}",
}
MEMORIES = {"gru": "masked, GRU", "mlp": "masked, no memory"}
OPTIONS: dict[str, Any] = {"num_envs": 32, "num_steps": 64, "epochs": 4, "hidden": (64,), "gamma": 0.97, "entropy_coef": 0.01}


@functools.cache
def walk(rule: str) -> FunctionalEnv:
    """From any cell to the last one, 1 there. Illegal actions are masked, or end the episode with -1, or cost ``PRICE``."""

    def see(place: Array) -> Array:
        return jax.nn.one_hot(place, CELLS)

    def reset(key: Array, _: None) -> tuple[Array, Array]:
        place = jax.random.randint(key, (), 0, CELLS - 1)
        return see(place), place

    def step(key: Array, place: Array, action: Array, _: None) -> tuple[Array, Array, Array, Array]:
        illegal = ~jnp.asarray(NEIGHBOURS)[place, action]
        place = jnp.where(illegal, place, action)
        arrived = place == CELLS - 1
        reward = 1.0 * arrived - illegal * (PRICE if rule == "costs" else 1.0)
        return see(place), place, reward, arrived | (illegal & (rule != "costs"))

    mask = (lambda place, _: jnp.asarray(NEIGHBOURS)[place]) if rule == "masked" else None
    return FunctionalEnv(reset, step, spaces.Discrete(CELLS), MAX_STEPS, name=f"walk-{rule}", mask_fn=mask)


@functools.cache
def errand() -> FunctionalEnv:
    """From the middle to the corner that the first observation names, 1 there; any other corner ends the episode with 0.

    To stay is always legal; each neighbour is open with probability ``OPEN``, drawn anew in every step, and none in the first
    one: a step into the right direction would be a note of what was shown.
    """

    def doors(key: Array, place: Array) -> Array:
        is_open = jnp.asarray(NEIGHBOURS)[place] & jax.random.bernoulli(key, OPEN, (CELLS,))
        return is_open.at[place].set(True)

    def see(place: Array, shown: Array) -> Array:
        return jnp.concatenate([jax.nn.one_hot(place, CELLS), shown])

    def reset(key: Array, _: None) -> tuple[Array, PyTree]:
        place, goal = jnp.int32(CELLS // 2), jax.random.randint(key, (), 0, len(CORNERS))
        return see(place, jax.nn.one_hot(goal, len(CORNERS))), (place, goal, jnp.arange(CELLS) == place)

    def step(key: Array, state: PyTree, action: Array, _: None) -> tuple[Array, PyTree, Array, Array]:
        place, goal, is_open = state
        illegal = ~is_open[action]
        place = jnp.where(illegal, place, action)
        arrived = place == jnp.asarray(CORNERS)
        state = place, goal, doors(key, place)
        return see(place, jnp.zeros(len(CORNERS))), state, 1.0 * arrived[goal] - illegal, arrived.any() | illegal

    space = spaces.Discrete(CELLS)
    return FunctionalEnv(reset, step, space, MAX_STEPS, name="errand", mask_fn=lambda state, _: state[2])


def illegal(obs: PyTree, action: Array) -> Array:
    """Which actions were illegal: by the mask in the observation, or by the cell that it names."""
    mask = obs["action_mask"] if isinstance(obs, Mapping) else jnp.asarray(NEIGHBOURS)[jnp.argmax(obs, axis=-1)]
    return ~jnp.take_along_axis(mask, action[..., None], axis=-1)[..., 0]


def learn(algo: jaxpg.Algorithm, seeds: int, updates: int, looks: int, seed: int) -> dict[str, np.ndarray]:
    """``looks`` times: the return in training and the share of illegal actions, ``[seeds, looks]``; returns at the end."""

    def look(state: TrainState, key: Array) -> tuple[TrainState, dict[str, Array]]:
        _, rows = algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, algo.num_steps)
        share = jnp.mean(illegal(rows.obs, rows.action))
        state, metrics = jaxpg.train(algo, state, updates // looks, updates // looks)
        return state, {"illegal": share, "episode_return": metrics["episode_return"][0]}

    def run(key: Array) -> dict[str, Array]:
        key_init, key_looks, key_last = jax.random.split(key, 3)
        state, found = jax.lax.scan(look, algo.init(key_init), jax.random.split(key_looks, looks))
        test = jax.random.fold_in(jax.random.key(seed), 1)  # the same for every seed
        for greedy in (True, False):
            returns = jaxpg.evaluate(algo, state, test, 128, greedy=greedy)["episode_return"]
            found["greedy" if greedy else "sampled"] = jnp.mean(returns)
        return found | {"last_illegal": look(state, key_last)[1]["illegal"]}

    keys = jax.random.split(jax.random.key(seed), seeds)
    return {name: np.asarray(x, float) for name, x in jax.jit(jax.vmap(run))(keys).items()}


def summarize(found: dict[str, np.ndarray], algo: jaxpg.Algorithm, updates: int) -> dict[str, Any]:
    """The numbers of every seed, and what is said of them."""
    looks = found["illegal"].shape[1]
    steps = algo.num_envs * algo.num_steps * (updates // looks) * np.arange(1, looks + 1)
    returns = {name: stats.summarize(found[name]) | {"seeds": found[name].tolist()} for name in ("greedy", "sampled")}
    shares = {"first": found["illegal"][:, 0], "last": found["last_illegal"], "most": found["illegal"].max(axis=1)}
    return returns | {
        "env_steps": steps.tolist(),
        "curve": found["episode_return"].tolist(),
        "illegal_curve": found["illegal"].tolist(),
        "illegal": {name: float(np.mean(x)) for name, x in shares.items()},
        "solved": stats.summarize_solved(found["greedy"], 0.95),
    }


def draw(rules: dict[str, Any], memories: dict[str, Any]) -> Figure:
    """Returns and shares of illegal actions by rule, and returns by memory."""
    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, rows, labels, curve in (
        (left, rules, RULES, "curve"),
        (middle, rules, RULES, "illegal_curve"),
        (right, memories, MEMORIES, "curve"),
    ):
        for (name, row), color in zip(rows.items(), plots.COLORS, strict=False):
            plots.draw_curve(axes, np.array(row["env_steps"]), np.array(row[curve], float).T, color, labels[name])
    for axes, title in ((left, "To the corner"), (middle, "Actions that are illegal"), (right, "A corner to remember")):
        plots.over_steps(axes, title)
        axes.set_xlim(left=0)
    middle.set_ylabel("share of illegal actions, sampled")
    right.axhline(1 / len(CORNERS), **plots.DASHED)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=9, labelcolor=plots.INK, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def table(numbers: dict[str, Any]) -> str:
    """Returns, seeds that solve it and shares of illegal actions: a row for each variant, as Markdown."""
    lines = [
        "| | greedy mean, median | solved | sampled mean | illegal at first | illegal at last |",
        "| --- " + "| ---: " * 5 + "|",
    ]
    for rows, labels in ((numbers["rules"], RULES), (numbers["memories"], MEMORIES)):
        for name, row in rows.items():
            centre = f"{row['greedy']['mean']:.3f}, {row['greedy']['median']:.3f}"
            solved = f"{row['solved']['solved']} of {len(row['greedy']['seeds'])}"
            shares = (f"{100 * row['illegal'][when]:.2g} %" for when in ("first", "last"))
            lines.append("| " + " | ".join((labels[name], centre, solved, f"{row['sampled']['mean']:.3f}", *shares)) + " |")
    return "\n".join(lines)


def main(
    seeds: int = 16, updates: int = 60, errand_updates: int = 100, looks: int = 20, out: Path = study.FIGURES
) -> dict[str, Any]:
    """PPO under the three rules, and with and without memory; ``seeds`` runs each."""
    rules, memories = {}, {}
    for rule in RULES:
        algo = jaxpg.ppo(walk(rule), **OPTIONS)
        rules[rule] = summarize(learn(algo, seeds, updates, looks, seed=2026), algo, updates)
    for memory in MEMORIES:
        algo = jaxpg.ppo(errand(), network=memory, **OPTIONS)
        memories[memory] = summarize(learn(algo, seeds, errand_updates, looks, seed=2026), algo, errand_updates)
    numbers = {"seeds": seeds, "options": OPTIONS, "rules": rules, "memories": memories}
    print(table(numbers))
    return study.write("masks", numbers, draw(rules, memories), out)


if __name__ == "__main__":
    tyro.cli(main)
