"""Parameters of the environment are data: one value for each environment, and others at each update, in one program.

CartPole-v1 with poles of other lengths: the usual one, a range of them [Tobin et al. 2017], and a range that widens while
PPO trains. Run: .venv/bin/python -m experiments.embedding.curriculum
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.core.types import Array, PyTree, TrainState
from jaxpg.lab.report import plots

USUAL, SHORTEST, LONGEST = 0.5, 0.1, 2.0  # m: ``length`` is half of the pole
TESTED = tuple(np.geomspace(0.05, 4.0, 15).tolist())


def with_poles(env_params: PyTree, length: Array) -> PyTree:
    """Poles of this length, one or ``[num_envs]``. gymnax keeps mass times length as a parameter of its own: both must fit."""
    return env_params.replace(length=length, polemass_length=env_params.masspole * length)


def ranges(updates: int) -> dict[str, np.ndarray]:
    """The shortest and the longest pole at each update, ``[updates, 2]``, of each way to train."""
    width = np.minimum(np.arange(updates) / (0.6 * updates), 1.0)[:, None]  # all of it after 60 % of training
    usual, wide = np.full(2, USUAL), np.array([SHORTEST, LONGEST])
    every = np.ones((updates, 1))
    return {
        "trained on one length": every * usual,
        "on a range": every * wide,
        "on a range that widens": usual * (wide / usual) ** width,
    }


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, None))
def train(algo: jaxpg.Algorithm, key: Array, ends: Array) -> tuple[TrainState, Array]:
    """A trained state, and returns ``[updates]``. Environment i of n has a length between the ``ends`` of the update."""

    def update(state: TrainState, ends: Array) -> tuple[TrainState, Array]:
        lengths = jnp.geomspace(ends[0], ends[1], algo.num_envs)
        state, metrics = algo.update(state.replace(env_params=with_poles(state.env_params, lengths)))
        return state, metrics["episode_return"]

    params = with_poles(algo.env.default_params, jnp.geomspace(ends[0, 0], ends[0, 1], algo.num_envs))
    return jax.lax.scan(update, algo.init(key, env_params=params), ends)


@functools.partial(jax.jit, static_argnums=0)
def test(algo: jaxpg.Algorithm, states: TrainState, lengths: Array) -> Array:
    """Mean greedy return over 32 starts, ``[lengths, seeds]``."""

    def score(state: TrainState, length: Array) -> Array:
        state = state.replace(env_params=with_poles(algo.env.default_params, length))
        return jaxpg.evaluate(algo, state, jax.random.key(1), 32, greedy=True)["episode_return"].mean()

    return jax.lax.map(lambda length: jax.vmap(score, (0, None))(states, length), lengths)


def main(total_steps: int = 400_000, seeds: int = 16, out: Path = study.FIGURES) -> dict[str, Any]:
    """PPO with each kind of training, its greedy policies on poles of all lengths."""
    sizes = {"num_envs": 16, "num_steps": 64, "gamma": 0.99, "gae_lambda": 0.95}
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), total_steps=total_steps, **sizes)
    keys, mean = jax.random.split(jax.random.key(0), seeds), functools.partial(np.mean, axis=-1)
    updates = -(-total_steps // (algo.num_envs * algo.num_steps))
    figure, axes = plots.blank()
    numbers: dict[str, Any] = {"env_steps": updates * algo.num_envs * algo.num_steps, "lengths": TESTED}
    for (label, ends), color, marker in zip(ranges(updates).items(), plots.COLORS, plots.MARKERS, strict=False):
        states, _ = train(algo, keys, jnp.asarray(ends))
        returns = np.asarray(test(algo, states, jnp.asarray(TESTED)), float)
        ci95 = [stats.bootstrap_interval(row, mean) for row in returns]
        axes.fill_between(TESTED, *np.transpose(ci95), color=color, alpha=0.18, linewidth=0)
        axes.plot(TESTED, mean(returns), marker=marker, markersize=4, color=color, label=label)
        numbers[label] = {"mean": mean(returns).tolist(), "ci95": ci95, "per_seed": returns.tolist()}
    axes.axvspan(SHORTEST, LONGEST, color="#e4e4e4", zorder=0, label="the range")
    axes.axvline(USUAL, **plots.DASHED, label="the one length")
    title, ticks = f"PPO on CartPole-v1 with poles of other lengths, {seeds} seeds", [0.05, 0.1, 0.2, 0.5, 1, 2, 4]
    plots.bare(axes, title, "half the length of the pole [m]", "greedy return")
    axes.set(xscale="log", ylim=(0, 515))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=9, loc="lower center", framealpha=1.0, facecolor="#f8f8f8", edgecolor="none")
    return study.write("curriculum", numbers, figure, out)


if __name__ == "__main__":
    print(tyro.cli(main))
