"""An environment of one's own, from two plain functions: a mass is to be pushed to the origin, cheaply, and held there.

Its best policy is known, u = -K s with K from the Riccati equation: as a network of one's own it says how good PPO could be.
Run: .venv/bin/python -m experiments.embedding.own_environment
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from gymnax.environments import spaces
from scipy.linalg import solve_discrete_are

import jaxpg
from experiments import study
from jaxpg.core.distributions import DiagGaussian
from jaxpg.lab.report import plots

A, B = np.array([[1.0, 0.1], [0.0, 1.0]], np.float32), np.array([[0.0], [0.1]], np.float32)  # s' = A s + B u, 0.1 s later
P = solve_discrete_are(A, B, np.eye(2), np.eye(1))  # the cost to come is s'P s


def reset(key: Any, params: Any) -> Any:
    """(observation, state): on the line, at rest."""
    state = jnp.array([jax.random.uniform(key, minval=-1.0), 0.0])
    return state, state


def step(key: Any, state: Any, action: Any, params: Any) -> Any:
    """(observation, state, reward, terminated)."""
    new = A @ state + B @ action
    return new, new, -(state @ state) - action @ action, False


class Best:
    """u = -(I + B'PB)^-1 B'PA s. Any object with these two methods is a network."""

    def init(self, key: Any, obs: Any) -> Any:
        return jnp.asarray(np.linalg.solve(np.eye(1) + B.T @ P @ B, B.T @ P @ A))

    def apply(self, params: Any, obs: Any) -> Any:
        return DiagGaussian(-obs @ params.T, jnp.zeros((len(obs), 1)))


def main(updates: int = 150, seeds: int = 8, out: Path = study.FIGURES) -> dict[str, Any]:
    """PPO on it, and what the greedy policies cost beside the best one, from the same starts."""
    env = jaxpg.envs.FunctionalEnv(reset, step, spaces.Box(-5.0, 5.0, (1,)), max_steps=100)
    jaxpg.check_env(env)
    pushes = jaxpg.networks.GaussianPolicy(1)  # a deviation of 1; half the width of the Box, the default, would be 5
    algo, best, test = jaxpg.ppo(env, policy=pushes), jaxpg.ppo(env, policy=Best()), jax.random.key(1)
    run = jax.jit(jax.vmap(lambda key: jaxpg.train(algo, algo.init(key), updates, updates // 15)))
    states, metrics = run(jax.random.split(jax.random.key(0), seeds))
    cost = jax.vmap(lambda state: -jaxpg.evaluate(algo, state, test, 128, greedy=True)["episode_return"].mean())(
        states
    ).tolist()
    mark = -float(jaxpg.evaluate(best, best.init(test), test, 128, greedy=True)["episode_return"].mean())
    (figure, axes), steps = plots.blank(), (updates // 15) * algo.num_envs * algo.num_steps * np.arange(1, 16)
    plots.draw_curve(axes, steps, -np.asarray(metrics["episode_return"]).T, plots.COLOR, every_seed=True)
    axes.axhline(mark, **plots.DASHED, label=f"the best policy: {mark:.2f}")
    plots.dress(axes, f"A mass on a line: PPO with sampled actions, {seeds} seeds")
    axes.set(yscale="log", ylabel="cost of an episode")
    return study.write("own_environment", {"best": mark, "greedy": cost, "env_steps": int(steps[-1])}, figure, out)


if __name__ == "__main__":
    print(tyro.cli(main))
