"""Every choice of Psi on the same states while a policy learns: the bias, the variance and the signal of its gradient.

REINFORCE with a baseline learns CartPole-v1; now and then it stops, and many rollouts of the policy as it is then are judged in
ten ways, with the critic as it is then.

    .venv/bin/python -m experiments.variance
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
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
from jaxpg import diagnostics
from jaxpg.core import advantages, objectives
from jaxpg.core.types import AdvantageFn, Array, TrainState
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.report import plots

Algorithms = dict[str, jaxpg.Algorithm]
CHOICES: dict[str, tuple[AdvantageFn, dict[str, float]]] = {  # Psi and the hyperparameters that it reads, most variance first
    "total return": (advantages.total_return, {}),
    "reward to go": (advantages.reward_to_go, {}),
    "constant baseline": (advantages.constant_baseline, {"baseline": 0.0}),  # measured when training begins, and kept
    "batch-mean baseline": (advantages.batch_mean_baseline, {}),
    "leave-one-out baseline": (advantages.leave_one_out_baseline, {}),
    "learned baseline": (advantages.learned_baseline, {}),
    "GAE(0.95)": (advantages.gae, {"gae_lambda": 0.95}),
    "GAE(0.9)": (advantages.gae, {"gae_lambda": 0.9}),
    "5-step": (advantages.NStep(5), {}),
    "one-step TD": (advantages.one_step_td, {}),
}
DRAWN = [name for name in CHOICES if name not in ("batch-mean baseline", "GAE(0.9)")]  # as many lines as one can tell apart
TITLES = {
    "variance": "Variance:  tr Cov(g) / |∇J|²",
    "bias": "Bias:  |E g - ∇J| / |∇J|",
    "signal_to_noise": "Signal to noise:  |E g|² / tr Cov(g)",
    "cosine": "Direction:  E cos(g, ∇J)",
}
UNBIASED = "learned baseline"  # and of the unbiased ones that with the least variance, mostly


@functools.cache
def cart_pole(limit: int) -> FunctionalEnv:
    """CartPole-v1 whose time limit belongs to the task: episodes end there for good, and the clock is seen [Pardo et al. 2018].

    Values then exist without a discount, and with a discount of 1 all Monte Carlo choices of Psi have the same expectation.
    """
    env = jaxpg.make("CartPole-v1")
    params = env.default_params

    def seen(obs: Array, state: Any) -> Array:
        return jnp.append(obs, state.time / limit)

    def reset(key: Array, _: None) -> tuple[Array, Any]:
        obs, state = env.reset_env(key, params)
        return seen(obs, state), state

    def step(key: Array, state: Any, action: Array, _: None) -> tuple[Array, Any, Array, Array]:
        obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return seen(obs, state), state, reward, terminated | (state.time >= limit)

    return FunctionalEnv(reset, step, spaces.Discrete(2), max_steps=limit, name="CartPole-v1, limit seen")


def choices(learner: jaxpg.Algorithm) -> Algorithms:
    """The learner with each Psi, none of them standardised, gradients summed over an episode: the theorem's own scale."""
    return {
        name: dataclasses.replace(
            learner, advantage=psi, hparams=learner.hparams.replace(**reads), reduction=objectives.sum_over_steps
        )
        for name, (psi, reads) in CHOICES.items()
    }


def gradients_of(algos: Algorithms, state: TrainState, key: Array, num_batches: int, baseline: Array) -> dict[str, Array]:
    """The estimates ``[num_batches, P]`` of every choice, on the same rollouts."""

    def one(key: Array) -> dict[str, Array]:
        trajectory = diagnostics.sample(next(iter(algos.values())), state, key)
        found = {}
        for name, algo in algos.items():
            hp = algo.hparams if algo.hparams.baseline is None else algo.hparams.replace(baseline=baseline)
            found[name] = diagnostics.gradient(algo, state.replace(hparams=hp), trajectory)
        return found

    return jax.lax.map(one, jax.random.split(key, num_batches), batch_size=min(4, num_batches))


def outlook(algo: jaxpg.Algorithm, state: TrainState, key: Array) -> tuple[Array, Array]:
    """The mean of what is still to come at the steps of 128 episodes, as the critic counts it, and their mean return."""

    def one(key: Array) -> tuple[Array, Array, Array]:
        trajectory = diagnostics.sample(algo, state, key)
        batch = algo.batch(state, trajectory, algo.hparams)
        return jnp.sum(batch.weight * batch.target), jnp.sum(batch.weight), jnp.sum(trajectory.weight * trajectory.reward)

    total, steps, rewards = (jnp.sum(x) for x in jax.lax.map(one, jax.random.split(key, 128 // algo.num_envs)))
    return total / steps, rewards / 128


def measure(algos: Algorithms, state: TrainState, key: Array, num_batches: int, baseline: Array) -> dict[str, Any]:
    """:func:`jaxpg.diagnostics.measure` of every choice, against twice as many rollouts of an unbiased one."""
    key_here, key_reference = jax.random.split(key)
    estimates = gradients_of(algos, state, key_here, num_batches, baseline)
    reference = diagnostics.gradients(algos[UNBIASED], state, key_reference, 2 * num_batches, at_once=4)
    return {name: diagnostics.measure(g, reference) for name, g in estimates.items()}


def judging_times(algos: Algorithms, state: TrainState, repetitions: int) -> dict[str, float]:
    """Seconds to make Psi of one rollout, the critic included where its values are used; medians, each choice in turn."""

    def judge(algo: jaxpg.Algorithm) -> Callable[[Any], Array]:
        return jax.jit(lambda trajectory: algo.batch(state, trajectory, algo.hparams).advantage)

    judges = {name: judge(algo) for name, algo in algos.items()}
    trajectory = jax.jit(lambda key: diagnostics.sample(algos[UNBIASED], state, key))(jax.random.key(0))
    seconds: dict[str, list[float]] = {name: [] for name in judges}
    for _ in range(repetitions + 1):
        for name, judged in judges.items():
            begin = time.perf_counter()
            judged(trajectory).block_until_ready()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(row[1:]) for name, row in seconds.items()}  # the first one compiles


def draw(numbers: dict[str, Any]) -> Figure:
    """Four measures against the steps of training, a line for each choice; medians over the runs."""
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for axes, (what, title) in zip(panels, TITLES.items(), strict=True):
        for name, style in zip(DRAWN, plots.styles(len(DRAWN), True), strict=True):
            axes.plot(numbers["env_steps"], np.median(numbers["psi"][name][what], axis=0), label=name, **style)
        plots.over_steps(axes, title)
        axes.set_ylabel("")
    variance, bias, signal, _ = figure.axes
    variance.set_yscale("log")
    signal.set_yscale("log")
    floor = np.median([numbers["psi"][name]["bias_floor"] for name in DRAWN[:5]], axis=(0, 1))
    bias.plot(numbers["env_steps"], floor, **plots.DASHED)
    plots.legend(figure, variance, DRAWN)
    return figure


def main(
    seeds: int = 4, batches: int = 200, points: int = 5, updates: int = 15, limit: int = 200, out: Path = study.FIGURES
) -> dict[str, Any]:
    """``points`` looks at ``seeds`` runs, ``updates`` updates apart; ``batches`` rollouts of 8 episodes at each look."""
    learner = jaxpg.reinforce_baseline(
        cart_pole(limit), hidden=(32,), num_steps=limit, gamma=1.0, reward_scale=0.1, critic_learning_rate=0.02
    )
    algos = choices(learner)
    start = jax.jit(lambda x: jax.lax.map(lambda pair: outlook(learner, *pair), x))
    look = jax.jit(lambda x: jax.lax.map(lambda run: measure(algos, run[0], run[1], batches, run[2]), x))
    advance = jax.jit(jax.vmap(lambda state: jaxpg.train(learner, state, updates, updates)[0]))
    states = jax.jit(jax.vmap(learner.init))(jax.random.split(jax.random.key(0), seeds))
    looks, returns, to_go = [], [], []
    for point in range(points):
        keys = jax.random.split(jax.random.key(1 + point), seeds)
        outlooks = start((states, keys))
        to_go.append(outlooks[0])
        returns.append(np.asarray(outlooks[1], float))
        looks.append(look((states, keys, to_go[0])))  # the constant is the mean of the first policy's
        found = ", ".join(f"{name} {np.median(looks[-1][name]['variance']):.2g}" for name in algos)
        print(f"return {np.median(returns[-1]):5.1f}, variance: {found}", flush=True)
        states = advance(states)
    seconds = judging_times(algos, jax.tree.map(lambda x: x[0], states), repetitions=50)
    psi: dict[str, Any] = {
        name: {k: np.stack([x[name][k] for x in looks], 1).tolist() for k in looks[0][name]} for name in algos
    }
    for name, row in psi.items():
        row["judging_time"] = seconds[name] / seconds["total return"]
    sizes = {"seeds": seeds, "batches": batches, "episodes_in_a_batch": learner.num_envs, "limit": limit}
    steps = [learner.num_envs * limit * updates * point for point in range(points)]
    numbers = sizes | {"env_steps": steps, "return": np.stack(returns, 1).tolist(), "psi": psi}
    return study.write("variance", numbers, draw(numbers), out)


if __name__ == "__main__":
    tyro.cli(main)
