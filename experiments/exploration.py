"""Premature determinism, and what prevents it: an entropy bonus in a world with a trap, action noise in continuous control.

Left and middle: a small reward at once, or a large one at the end of a path. Right: MountainCarContinuous-v0, where a car that
does nothing gets 0 and one that acts pays for it until it finds the goal.

    .venv/bin/python -m experiments.exploration
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from gymnax.environments import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.core import networks
from jaxpg.core.types import Array
from jaxpg.envs import FunctionalEnv
from jaxpg.lab import config
from jaxpg.lab.report import plots
from jaxpg.loops.evaluate import episodes

TRAP = 0.5  # the reward that is there at once; the one at the end is 1
CAR = "MountainCarContinuous-v0"
BONUSES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
DEVIATIONS = (0.1, 0.3, 0.6, 1.0, 3.0, 10.0, 30.0)


def path(length: int) -> FunctionalEnv:
    """``length`` places in a row. Action 1 moves ahead, and off the last place into a reward of 1; action 0 ends the episode.

    It is worth ``TRAP`` at the first place, nothing at any other. With a uniform policy moving ahead is worth 2^(1 - length).
    """

    def seen(place: Array) -> Array:
        return jax.nn.one_hot(place, length)

    def reset(key: Array, _: None) -> tuple[Array, Array]:
        return seen(jnp.int32(0)), jnp.int32(0)

    def step(key: Array, place: Array, action: Array, _: None) -> tuple[Array, Array, Array, Array]:
        after = place + action
        arrived = after == length
        reward = jnp.where(action == 0, TRAP * (place == 0), 1.0 * arrived)
        return seen(after), after, reward, (action == 0) | arrived

    return FunctionalEnv(reset, step, spaces.Discrete(2), max_steps=length, name="path")


def settled(bonus: float, length: int) -> float:
    """The return at which gradient and bonus balance, found from the end of the path backwards.

    The logit of moving ahead is (Q(on) - Q(stop)) / bonus: there the gradient of the return and that of the bonus are opposite.
    """
    value = 1.0
    for place in reversed(range(length)):
        stop = TRAP * (place == 0)
        on = 1.0 / (1.0 + math.exp((stop - value) / bonus)) if bonus else float(value > stop)
        value = on * value + (1.0 - on) * stop
    return value


def with_bonus(length: int, seeds: int, updates: int, points: int = 50) -> dict[str, np.ndarray]:
    """A2C with each weight of the bonus: entropy and return ``[bonuses, seeds, points]``, greedy returns at the end."""
    algo = jaxpg.a2c(path(length), hidden=(), num_envs=16, num_steps=8, learning_rate=0.02, gamma=1.0, gae_lambda=1.0)

    def run(bonus: Array, key: Array) -> dict[str, Array]:
        key_init, key_evaluation = jax.random.split(key)
        state = algo.init(key_init, algo.hparams.replace(entropy_coef=bonus))
        state, metrics = jaxpg.train(algo, state, updates, updates // points)
        greedy = jaxpg.evaluate(algo, state, key_evaluation, 1, greedy=True)["episode_return"][0]
        return {name: metrics[name] for name in ("entropy", "episode_return")} | {"greedy_return": greedy}

    keys = jax.random.split(jax.random.key(0), seeds)
    found = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(jnp.array(BONUSES), keys)
    steps = algo.num_envs * algo.num_steps * (updates // points) * np.arange(1, points + 1)
    return {name: np.asarray(x, float) for name, x in found.items()} | {"env_steps": steps}


def with_noise(seeds: int, updates: int) -> dict[str, np.ndarray]:
    """PPO from each standard deviation: returns of the mean action and of sampled ones, ``[deviations, seeds]``.

    The deviation is a parameter of the policy and learned. It starts as ``GaussianPolicy(initial_log_std=...)`` would have it,
    but as a traced number: one program for all.
    """
    env = jaxpg.make(CAR)
    algo = jaxpg.ppo(env, policy=networks.GaussianPolicy(1, (32,)), hidden=(32,), epochs=4)

    def run(deviation: Array, key: Array) -> dict[str, Array]:
        key_init, key_evaluation = jax.random.split(key)
        state = algo.init(key_init)
        policy = state.params.policy
        policy = policy | {"head": policy["head"] | {"log_std": jnp.log(deviation)[None]}}
        state = state.replace(params=state.params._replace(policy=policy))
        state, _ = jaxpg.train(algo, state, updates, updates)
        greedy = jnp.arange(16)[:, None] < 8  # half of the episodes take the mean, half sample: one program
        returns = episodes(algo, state, key_evaluation, 16, greedy)["episode_return"]
        last = jnp.exp(state.params.policy["head"]["log_std"][0])
        return {"greedy": jnp.mean(returns[:8]), "sampled": jnp.mean(returns[8:]), "last_deviation": last}

    keys = jax.random.split(jax.random.key(1), seeds)
    found = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(jnp.array(DEVIATIONS), keys)
    steps = algo.num_envs * algo.num_steps * updates
    return {name: np.asarray(x, float) for name, x in found.items()} | {"env_steps": np.array(steps)}


def shares(axes: Axes, bonus: dict[str, Any]) -> None:
    """How many seeds find the large reward, and what the policy that acts gets."""
    places, rows = range(len(bonus["rows"])), bonus["rows"]
    low, high = np.array([row["found"]["ci95"] for row in rows]).T
    axes.fill_between(places, low, high, color=plots.COLORS[0], alpha=0.15, linewidth=0)
    share, sampled = [row["found"]["fraction"] for row in rows], [row["last_return"]["mean"] for row in rows]
    axes.plot(places, share, "-o", color=plots.COLORS[0], linewidth=2.0, label="seeds whose greedy policy arrives")
    axes.plot(places, sampled, "-s", color=plots.COLORS[1], linewidth=2.0, label="return of the policy itself")
    axes.plot(places, [row["settled"] for row in rows], **plots.DASHED, label="where gradient and bonus balance")
    plots.bare(axes, "A path with a trap", "weight of the entropy bonus", "share of seeds, mean return")
    axes.set_xticks(places, [f"{row['bonus']:g}" for row in rows])
    axes.set_ylim(-0.02, 1.02)


def draw(bonus: dict[str, Any], noise: dict[str, Any]) -> Figure:
    """Seeds that find the large reward against the bonus, the entropy over training, and returns against the noise."""
    figure = Figure(figsize=(13.0, 4.6), layout="constrained")
    left, entropy, right = figure.subplots(1, 3)
    shares(left, bonus)
    for row, style in zip(bonus["rows"], plots.styles(len(BONUSES), True), strict=True):
        entropy.plot(bonus["env_steps"], row["entropy"], color=style["color"], linewidth=2.0, label=f"{row['bonus']:g}")
    plots.dress(entropy, "How soon it is sure, by the bonus")
    entropy.set_ylabel("entropy of the policy, nats")
    for i, (how, label) in enumerate((("greedy", "of the mean action"), ("sampled", "of the policy itself"))):
        returns, style = np.array([row[how] for row in noise["rows"]]), {"color": plots.COLORS[i]}
        places = np.repeat(np.arange(len(returns)) + 0.16 * i - 0.08, returns.shape[1])
        right.plot(places, returns.ravel(), "os"[i], alpha=0.3, markersize=4, **style)
        right.plot(np.mean(returns, axis=1), "-" + "os"[i], linewidth=2.0, label=label, **style)
    plots.bare(right, CAR, "standard deviation of the actions at first", "episode return")
    right.set_xticks(range(len(DEVIATIONS)), [f"{deviation:g}" for deviation in DEVIATIONS])
    for axes, columns in ((left, 1), (entropy, 4), (right, 1)):
        axes.legend(
            frameon=False, fontsize=9, labelcolor=plots.INK, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.16)
        )
    return figure


def main(
    length: int = 5, seeds: int = 64, updates: int = 500, cars: int = 16, car_updates: int = 12, out: Path = study.FIGURES
) -> dict[str, Any]:
    """Sweep the bonus with ``seeds`` runs each, and the noise with ``cars`` runs each."""
    curves, rows = with_bonus(length, seeds, updates), []
    for i, weight in enumerate(BONUSES):
        found = stats.summarize_solved(curves["greedy_return"][i], 1.0)
        last = stats.summarize(plots.without_gaps(curves["episode_return"][i].T)[-1])
        entropy = np.mean(curves["entropy"][i], axis=0).tolist()
        rows.append(
            {"bonus": weight, "found": found, "last_return": last, "settled": settled(weight, length), "entropy": entropy}
        )
        print(f"bonus {weight:<6g} found by {found['solved']} of {seeds}, return {last['mean']:.3f}", flush=True)
    bonus = {"length": length, "trap": TRAP, "seeds": seeds, "env_steps": curves["env_steps"].tolist(), "rows": rows}
    driven, lines = with_noise(cars, car_updates), []
    for i, deviation in enumerate(DEVIATIONS):
        line = {name: driven[name][i].tolist() for name in ("greedy", "sampled", "last_deviation")}
        solved = stats.summarize_solved(line["greedy"], config.SOLVED[CAR])
        lines.append({"deviation": deviation, "solved": solved} | line)
        means = ", ".join(f"{how} {np.mean(line[how]):.1f}" for how in ("greedy", "sampled"))
        print(f"deviation {deviation:<6g} return {means}", flush=True)
    noise = {"env": CAR, "seeds": cars, "env_steps": int(driven["env_steps"]), "rows": lines}
    return study.write("exploration", {"bonus": bonus, "noise": noise}, draw(bonus, noise), out)


if __name__ == "__main__":
    tyro.cli(main)
