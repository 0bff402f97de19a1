"""Bandits by REINFORCE, one pull an update: what the step size does, and what a baseline does to the variance of the gradient.

.venv/bin/python -m experiments.bandits
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from gymnax.environments import spaces
from matplotlib.figure import Figure

import jaxpg
from experiments import study
from jaxpg import diagnostics
from jaxpg.core import advantages
from jaxpg.core.distributions import Categorical
from jaxpg.core.networks import ConstantCritic
from jaxpg.core.types import Array, Optimizer, Params, PyTree, TrainState
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.report import plots

TWO = (0.3, 0.7)  # the probability that an arm pays 1
FIVE = (0.55, 0.62, 0.90, 0.58, 0.50)  # what an arm pays, always
OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}
RATES = (0.01, 0.03, 0.1)
BASELINES = {"no baseline": 0.0, "running mean": 0.05}  # the step of the critic: b <- (1 - step) b + step r
PALE = "#a9bfdf"
POINTS = 40  # about so many on a curve, denser at the start


class Table(nn.Module):
    """pi(.|s) = softmax(theta[s]); ``start`` holds the first logits, a row for each observation 0, 1, ..."""

    start: tuple[tuple[float, ...], ...]

    @nn.compact
    def __call__(self, obs: Array) -> Categorical:
        return Categorical(self.param("theta", lambda _: jnp.asarray(self.start, float))[obs])


def bandit(means: tuple[float, ...], is_coin: bool) -> FunctionalEnv:
    """Episodes of one pull. An arm pays its mean: as the probability of 1 if ``is_coin``, else always."""

    def reset(key: Array, params: PyTree) -> tuple[Array, Array]:
        return jnp.int32(0), jnp.int32(0)

    def step(key: Array, state: Array, action: Array, params: PyTree) -> tuple[Array, Array, Array, Array]:
        mean = jnp.asarray(means)[action]
        reward = jax.random.bernoulli(key, mean).astype(float) if is_coin else mean
        return jnp.int32(0), state, reward, jnp.bool_(True)

    return FunctionalEnv(reset, step, spaces.Discrete(len(means)), max_steps=1)


def plain_critic(policy: Callable[[Array], optax.GradientTransformation]) -> Optimizer:
    """``policy`` moves the policy, plain gradient descent the critic."""

    @jaxpg.reads("learning_rate", "critic_learning_rate")
    def optimizer(hp: jaxpg.HParams) -> optax.GradientTransformation:
        steps: dict[Hashable, Any] = {"policy": policy(hp.learning_rate), "critic": optax.sgd(hp.critic_learning_rate)}
        return optax.multi_transform(steps, Params("policy", "critic"))

    return optimizer


def learner(env: FunctionalEnv, optimizer: str) -> jaxpg.Algorithm:
    """REINFORCE on one episode an update, Psi = r - b."""
    policy = Table(((0.0,) * env.space.n,))
    algo = jaxpg.reinforce_baseline(env, policy=policy, critic=ConstantCritic(), num_envs=1, num_steps=1)
    return dataclasses.replace(
        algo,
        advantage=advantages.learned_baseline,
        update_rule=jaxpg.SGD(optimizer=plain_critic(OPTIMIZERS[optimizer])),
        hparams=algo.hparams.replace(max_grad_norm=None, adam_eps=None),
    )


@functools.partial(jax.jit, static_argnames=("algo", "episodes"))
@functools.partial(jax.vmap, in_axes=(None, 0, None, None, None))
def run(algo: jaxpg.Algorithm, key: Array, rate: Array, critic_rate: Array, episodes: int) -> tuple[TrainState, Array, Array]:
    """The last state, and after each episode pi ``[E, A]`` and b ``[E]``, of every key."""
    hparams = algo.hparams.replace(learning_rate=rate, critic_learning_rate=critic_rate)

    def step(state: TrainState, _: Any) -> tuple[TrainState, Params]:
        state = algo.update(state)[0]
        return state, state.params

    state, params = jax.lax.scan(step, algo.init(key, hparams), length=episodes)
    return state, jax.nn.softmax(params.policy["theta"][:, 0]), params.critic["b"]


def exact_variance(pi: np.ndarray, b: np.ndarray, means: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Trace of the covariance of g = (r - b) grad log pi(a), summed over the arms; ``spread`` is Var[r|a], ``[A]``.

    sum_a pi_a (E[r - b|a]^2 + Var[r|a]) |e_a - pi|^2 - |E g|^2, because grad log pi(a) = e_a - pi.
    """
    score = np.eye(len(means)) - pi[..., None, :]
    psi = means - b[..., None]
    mean = np.einsum("...a,...a,...ax->...x", pi, psi, score)
    return np.einsum("...a,...a,...ax->...", pi, psi**2 + spread, score**2) - np.sum(mean**2, axis=-1)


@functools.partial(jax.jit, static_argnames=("algo", "samples"))
def sampled_variance(algo: jaxpg.Algorithm, state: TrainState, pi: Array, b: Array, key: Array, samples: int) -> Array:
    """The same from ``samples`` gradients of the library, each of a pull of its own, for every row of ``pi`` and ``b``."""

    def variance(pi: Array, b: Array, key: Array) -> Array:
        now = state.replace(params=Params({"theta": jnp.log(pi)[None]}, {"b": b}))
        return diagnostics.moments("estimates", diagnostics.gradients(algo, now, key, samples))[1]

    return jax.vmap(variance)(pi, b, jax.random.split(key, len(b)))


def two_arms(algo: jaxpg.Algorithm, rate: float, episodes: int, keys: Array) -> tuple[np.ndarray, dict[str, float]]:
    """P(better arm) ``[seeds, E]``, how it ends, and how it swings.

    ``widest`` is its largest deviation over the seeds at any time, ``fall`` the most that a seed loses of the highest so far.
    """
    better = np.asarray(run(algo, keys, rate, 0.0, episodes)[1][..., 1], float)
    falls = np.max(np.maximum.accumulate(better, axis=1) - better, axis=1)
    row = {"last": better[:, -1].mean(), "last_deviation": better[:, -1].std(ddof=1), "lowest": better.min()}
    row |= {"widest": better.std(axis=0, ddof=1).max(), "fall": falls.mean(), "one_update": np.diff(better).std()}
    return better, {name: float(x) for name, x in row.items()}


def five_arms(
    algo: jaxpg.Algorithm, critic_rate: float, rate: float, episodes: int, keys: Array, samples: int
) -> dict[str, Any]:
    """P(third arm) and the variance of the gradient along training, means over the seeds.

    ``exact`` and ``sampled`` are the variance with the baseline of that moment, ``without`` that of the same policies at b = 0.
    """
    state, pi, b = run(algo, keys, rate, critic_rate, episodes)
    points = np.unique(np.geomspace(1, episodes, POINTS).astype(int))
    pi, b, means = pi[:, points - 1], b[:, points - 1], np.array(FIVE)
    exact, without = (exact_variance(np.asarray(pi, float), np.asarray(x, float), means, 0 * means) for x in (b, 0 * b))
    one = jax.tree.map(lambda x: x[0], state)
    sampled = [sampled_variance(algo, one, pi[:, i], b[:, i], jax.random.key(i), samples) for i in range(len(points))]
    third = np.asarray(pi[..., np.argmax(means)], float)
    curves = {"third": third.mean(axis=0), "exact": exact.mean(axis=0), "without": without.mean(axis=0)}
    curves |= {"episodes": points, "sampled": np.mean(sampled, axis=1)}
    return {"found": float(np.mean(third[:, -1] > 0.5))} | {name: x.tolist() for name, x in curves.items()}


def draw(curves: dict[str, np.ndarray], five: dict[str, Any]) -> Figure:
    """Above the two arms with a small and a large step; below the five arms with and without a baseline."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    above, (found, variance) = figure.subplots(2, 2)
    for axes, rate in zip(above, (RATES[0], RATES[-1]), strict=True):
        better = curves[f"adam {rate}"]
        axes.plot(better[:5].T, color=PALE, linewidth=0.8)
        axes.plot(better.mean(axis=0), color=plots.COLOR, linewidth=2.4)
        plots.bare(axes, f"Two arms: Adam with steps of {rate}", "episodes", "P(better arm)")
        axes.set_ylim(0, 1)
    for color, (name, row) in zip(plots.COLORS, five.items(), strict=False):
        found.plot(row["episodes"], row["third"], color=color, linewidth=2.0, label=name)
        variance.plot(row["episodes"], row["exact"], color=color, linewidth=1.6)
        variance.plot(row["episodes"], row["sampled"], "o", color=color, markersize=3.5)
    plots.bare(found, "Five arms: both find the third", "episodes", "P(third arm)")
    plots.bare(variance, "Variance of the gradient", "episodes", "variance (dots: sampled)")
    found.set_ylim(0, 1)
    variance.set_yscale("log")
    for axes in (found, variance):
        axes.set_xscale("log")
    found.legend(frameon=False, fontsize=9, labelcolor=plots.INK)
    return figure


def main(
    seeds: int = 200,
    episodes: int = 300,
    five_rate: float = 0.1,
    five_episodes: int = 2_000,
    samples: int = 200,
    seed: int = 0,
    out: Path = study.FIGURES,
) -> dict[str, Any]:
    """Pull, print, write ``bandits.png`` and ``bandits.json`` to ``out``."""
    keys = jax.random.split(jax.random.key(seed), seeds)
    curves, two = {}, {}
    for name in OPTIMIZERS:
        algo = learner(bandit(TWO, is_coin=True), name)
        for label, rate in ((f"{name} {rate}", rate) for rate in RATES):
            curves[label], two[label] = two_arms(algo, rate, episodes, keys)
            print(f"two arms, {label:10}" + "  ".join(f"{what} {x:.3f}" for what, x in two[label].items()))
    algo = learner(bandit(FIVE, is_coin=False), "sgd")
    five = {name: five_arms(algo, step, five_rate, five_episodes, keys, samples) for name, step in BASELINES.items()}
    for name, row in five.items():
        print(f"five arms, {name:13}" + "  ".join(f"{what} {row[what][-1]:.4f}" for what in ("third", "exact", "sampled")))
    settings = {"seeds": seeds, "seed": seed, "episodes": episodes, "five_rate": five_rate, "samples": samples}
    return study.write("bandits", settings | {"two_arms": two, "five_arms": five}, draw(curves, five), out)


if __name__ == "__main__":
    tyro.cli(main)
