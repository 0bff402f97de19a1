"""Policies leave the simulator: trained in gymnax, loaded with ``jaxpg.load_policy``, run in Gymnasium's own environments.

What a single step makes of the same states and actions in both libraries, and what the same policies earn from the same starts.

    .venv/bin/python -m experiments.gymnasium_transfer
    .venv/bin/python -m experiments.gymnasium_transfer --runs runs/a runs/b      # of runs that are there already
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.core import rollout
from jaxpg.core.types import PyTree
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.policies import elsewhere, loading
from jaxpg.lab.report import plots
from jaxpg.lab.store import stored

STATES = {  # uniform between these, in the order of both libraries' states; speeds that occur
    "CartPole-v1": ([-2.4, -3.0, -0.2, -3.0], [2.4, 3.0, 0.2, 3.0]),
    "MountainCar-v0": ([-1.2, -0.07], [0.5, 0.07]),
    "Acrobot-v1": ([-np.pi, -np.pi, -5.0, -5.0], [np.pi, np.pi, 5.0, 5.0]),
    "Pendulum-v1": ([-np.pi, -8.0], [np.pi, 8.0]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.45, 0.07]),
}
Act = Callable[..., Any]


def in_gymnasium(act: loading.Policy, env_id: str, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ``[episodes]`` in Gymnasium, and the states from which they began."""
    played, seeds = elsewhere.make(env_id, jaxpg.make(env_id), episodes), range(seed, seed + episodes)
    returns = elsewhere.play(act, played, seeds)
    for env, start in zip(played, seeds, strict=True):
        env.reset(seed=start)
    inner: list[Any] = [env.unwrapped for env in played]
    return returns, np.array([env.state for env in inner], np.float32)


def in_gymnax(act: Act, env_id: str, starts: np.ndarray) -> np.ndarray:
    """Returns in gymnax from the states ``starts``."""
    env, key = jaxpg.make(env_id), jax.random.key(0)  # the steps of these environments draw nothing
    many = jax.vmap(env.step, (None, 0, 0, None))

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        obs, state, total, alive = carry
        obs, state, reward, terminated, truncated, _ = many(key, state, act(obs), env.default_params)
        return rollout.strong((obs, state, total + alive * reward, alive & ~terminated & ~truncated)), None

    @jax.jit
    def run(state: PyTree) -> jax.Array:
        start = (jax.vmap(env.get_obs)(state), state, jnp.zeros(len(starts)), jnp.ones(len(starts), bool))
        return jax.lax.scan(step, rollout.strong(start), length=env.default_params.max_steps_in_episode)[0][2]

    return np.asarray(run(placed(env, starts)), float)


def placed(env: Any, states: np.ndarray) -> PyTree:
    """Gymnasium's ``states`` as those of gymnax, at time 0."""
    _, like = env.reset(jax.random.key(0), env.default_params)
    names = [field.name for field in dataclasses.fields(like) if field.name not in ("time", "last_u")]
    return jax.vmap(lambda s: like.replace(**dict(zip(names, s, strict=True))))(jnp.asarray(states))


def one_step(env_id: str, count: int, seed: int = 0) -> dict[str, float]:
    """The largest difference of what a step returns in both, over random states and actions, and how often it is above 1e-4."""
    rng, env, theirs = np.random.default_rng(seed), jaxpg.make(env_id), gymnasium.make(env_id)
    states = rng.uniform(*STATES[env_id], size=(count, len(STATES[env_id][0]))).astype(np.float32)
    theirs.action_space.seed(seed)
    theirs.reset(seed=seed)
    actions = np.stack([theirs.action_space.sample() for _ in range(count)])
    step = jax.vmap(env.step_env, (None, 0, 0, None))
    obs, _, reward, terminated, _ = jax.jit(step)(
        jax.random.key(0), placed(env, states), jnp.asarray(actions), env.default_params
    )
    ours = np.column_stack([obs, reward, terminated])
    inner: Any = theirs.unwrapped
    rows = []
    for state, action in zip(states, actions, strict=True):
        inner.state, inner.steps_beyond_terminated = state.astype(float), None
        obs, reward, terminated, *_ = inner.step(action)
        rows.append([*obs, float(reward), terminated])
    worst = np.abs(ours - np.array(rows, float)).max(axis=1)
    return {"largest": float(worst.max()), "share": float(np.mean(worst > 1e-4))}


def trained(env_id: str, seeds: int, total_steps: int, place: Path) -> Path:
    """The directory of a run of PPO with its preset, by the command line."""
    budget = ["--total-steps", str(total_steps)] if total_steps else []
    if code := cli.main(["train", "ppo", "--env", env_id, "--seeds", str(seeds), "--run-dir", str(place / env_id), *budget]):
        raise SystemExit(code)
    return place / env_id


def transfer(run: Path, episodes: int, states: int) -> dict[str, Any]:
    """Every policy of a run in both, from the same starts: mean returns by seed, and the interval of the mean difference."""
    config = stored.read_config(run)
    policies = [jaxpg.load_policy(run, seed) for seed in range(config.seeds)]
    played = [in_gymnasium(act, config.env, episodes, 10_000 * i) for i, act in enumerate(policies)]
    theirs = np.array([returns for returns, _ in played])
    ours = np.array([in_gymnax(act, config.env, starts) for act, (_, starts) in zip(policies, played, strict=True)])
    row = {"env": config.env, "gymnax": ours.mean(axis=1).tolist(), "gymnasium": theirs.mean(axis=1).tolist()}
    row |= {"difference": float(np.mean(theirs - ours)), "same": float(np.mean(np.abs(theirs - ours) < 1e-3 * np.abs(ours)))}
    ends = stats.bootstrap_interval(theirs - ours, functools.partial(np.mean, axis=-1))
    return row | {"ci95": ends, "one_step": one_step(config.env, states)}


def report(row: dict[str, Any]) -> str:
    """One line."""
    means = f"gymnax {np.mean(row['gymnax']):8.1f}  Gymnasium {np.mean(row['gymnasium']):8.1f}"
    low, high = row["ci95"]
    step = f"one step: up to {row['one_step']['largest']:.1e}, above 1e-4 in {row['one_step']['share']:.1%}"
    return (
        f"{row['env']:26}{means}  difference {row['difference']:6.2f} [{low:.2f}, {high:.2f}], same {row['same']:.0%}  {step}"
    )


def draw(rows: list[dict[str, Any]], episodes: int) -> Figure:
    """The return in Gymnasium against that in gymnax, a panel for each environment and a dot for each policy."""
    figure = Figure(figsize=(2.3 * len(rows), 2.9), layout="constrained")
    for axes, row in zip(np.atleast_1d(figure.subplots(1, len(rows))), rows, strict=True):
        both = np.concatenate([row["gymnax"], row["gymnasium"]])
        margin = 0.1 * np.ptp(both) + 0.02 * np.abs(both).max()
        ends = both.min() - margin, both.max() + margin
        axes.plot(ends, ends, **plots.DASHED)
        axes.plot(row["gymnax"], row["gymnasium"], "o", color=plots.COLOR, alpha=0.8)
        plots.bare(axes, "", "return in gymnax", "return in Gymnasium" if row is rows[0] else "")
        axes.set_title(row["env"], fontsize=9, fontweight="bold", color=plots.INK)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
    figure.supxlabel(
        f"A dot is a policy, {episodes} greedy episodes in each, from the same starts; dashed: equal.",
        fontsize=9,
        color=plots.INK,
    )
    return figure


def main(
    runs: tuple[Path, ...] = (),
    envs: tuple[str, ...] = tuple(STATES),
    seeds: int = 4,
    episodes: int = 100,
    states: int = 2000,
    total_steps: int = 100_000,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Use ``runs``, or train ``seeds`` of PPO on each of ``envs`` with its preset, ``total_steps`` each (0: the preset's)."""
    with tempfile.TemporaryDirectory() as place:
        rows = []
        for run in runs or [trained(env_id, seeds, total_steps, Path(place)) for env_id in envs]:
            rows.append(transfer(run, episodes, states))
            print(report(rows[-1]), flush=True)
    return study.write("gymnasium_transfer", {"episodes": episodes, "states": states, "runs": rows}, draw(rows, episodes), out)


if __name__ == "__main__":
    tyro.cli(main)
