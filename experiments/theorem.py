"""Bias and variance of every choice of Psi, exactly: all episodes of a random MDP are enumerated, nothing is sampled.

A batch is two episodes. For every pair of episodes the library's advantage and objective give a gradient g; weighted with the
probabilities of the pairs these have a mean and a variance. The mean is held against the exact gradient of J.

    .venv/bin/python -m experiments.theorem
"""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments import study
from jaxpg.core import advantages, objectives
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.types import AdvantageFn, Array, Batch, Trajectory
from jaxpg.lab.report import plots

S, A = 2, 2  # states, actions; the discount is 1, so J is the expected total reward of an episode
MDP = tuple[Array, Array, Array]  # transition and reward [S, A, S + 1], the last outcome being the end; start [S]
Table = dict[str, dict[str, list[float]]]  # Psi -> {bias, variance} -> [with exact values, with wrong values]


def random_mdp(seed: int) -> tuple[MDP, Array]:
    """An MDP whose rewards are 1 on average, and the logits ``[S, A]`` of a policy."""
    rng = np.random.default_rng(seed)
    transition, reward, theta = (
        rng.dirichlet(np.ones(S + 1), (S, A)),
        rng.normal(1.0, size=(S, A, S + 1)),
        rng.normal(size=(S, A)),
    )
    return (jnp.asarray(transition), jnp.asarray(reward), jnp.asarray(rng.dirichlet(np.ones(S)))), jnp.asarray(theta)


def exact_values(theta: Array, mdp: MDP, horizon: int) -> Array:
    """v_t(s) of an episode of at most ``horizon`` steps, ``[T + 1, S]``, by the Bellman equation from the end."""
    values = [jnp.zeros(S)]
    for _ in range(horizon):
        outcome = mdp[1] + jnp.append(values[0], 0.0)
        values.insert(0, jnp.einsum("sa,sax,sax->s", jax.nn.softmax(theta), mdp[0], outcome))
    return jnp.stack(values)


def paths(state: int, steps_left: int) -> list[list[tuple[int, int, int]]]:
    """Every way, as (state, action, outcome), in which an episode may continue."""
    if state == S or steps_left == 0:
        return [[]]
    branches = itertools.product(range(A), range(S + 1))
    return [[(state, a, o), *rest] for a, o in branches for rest in paths(o, steps_left - 1)]


def episodes(theta: Array, mdp: MDP, horizon: int) -> tuple[Trajectory, Array]:
    """Every episode as a column ``[T, N]``, weight 0 after its end, and its probability ``[N]``. Observations are t S + s."""
    transition, reward, start = mdp
    every = [path for state in range(S) for path in paths(state, horizon)]
    weight = np.array([[t < len(path) for path in every] for t in range(horizon)])
    s, a, o = np.array([path + [(0, 0, S)] * (horizon - len(path)) for path in every]).T
    t, zeros = np.arange(horizon)[:, None], jnp.zeros(s.shape)
    steps = jnp.where(weight, jax.nn.softmax(theta)[s, a] * transition[s, a, o], 1.0)
    flags = {"terminated": jnp.asarray((o == S) | (t == horizon - 1)), "truncated": zeros.astype(bool)}
    running = {"episode_return": zeros, "episode_length": zeros}  # nobody asks
    seen = {"obs": jnp.asarray(t * S + s), "next_obs": jnp.asarray((t + 1) * S + o % S), "weight": jnp.asarray(weight, float)}
    done = {"action": jnp.asarray(a), "reward": reward[s, a, o]}
    known = seen | done | flags | running
    rows = Trajectory(dist=Categorical(theta[s]), memory=(), next_memory=(), **known)
    return rows, start[s[0]] * jnp.prod(steps, axis=0)


def gradient(advantage: AdvantageFn, theta: Array, batch: Trajectory, values: Array, hp: HParams) -> Array:
    """What the library makes of a batch of episodes: grad log pi Psi, summed over steps, averaged over episodes."""
    value, next_value = values.ravel()[batch.obs], values.ravel()[batch.next_obs]
    psi, target = advantage(batch, value, next_value, hp)
    log_prob = batch.dist.log_prob(batch.action)
    rows = Batch(batch.obs, batch.action, log_prob, batch.dist, value, psi, target, batch.weight, batch.start, ())
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)

    def objective(theta: Array) -> Array:
        terms = objectives.policy_gradient(Categorical(theta[rows.obs % S]), rows, hp)
        return objectives.sum_over_steps(terms, rows.weight, len(psi))

    return jax.grad(objective)(theta)


def bias_and_variance(advantage: AdvantageFn, theta: Array, mdp: MDP, values: Array, hp: HParams) -> dict[str, Array]:
    """|E g - grad J| / |grad J| and E|g - E g|^2 / |grad J|^2 over all pairs of episodes."""
    horizon = len(values) - 1
    exact = jax.grad(lambda theta: mdp[2] @ exact_values(theta, mdp, horizon)[0])(theta)  # grad J, J = E[v_0(s_0)]
    every, probability = episodes(theta, mdp, horizon)
    index = jnp.arange(len(probability))

    def all_with(i: Array) -> tuple[Array, Array]:
        pairs = jax.vmap(lambda j: jax.tree.map(lambda x: x[:, jnp.stack([i, j])], every))(index)
        g = jax.vmap(lambda pair: gradient(advantage, theta, pair, values, hp))(pairs)
        chance = probability[i] * probability
        return jnp.einsum("j,jsa->sa", chance, g), jnp.einsum("j,jsa->", chance, (g - exact) ** 2)

    mean, square = (jnp.sum(x, axis=0) for x in jax.lax.map(all_with, index))
    size, bias = jnp.sum(exact**2), jnp.sum((mean - exact) ** 2)
    return {"bias": jnp.sqrt(bias / size), "variance": (square - bias) / size}


def measure(seed: int = 0, horizon: int = 4, error: float = 1.0) -> Table:
    """All choices of Psi, with exact values and with values that are off by normal noise of size ``error``."""
    with jax.enable_x64(True):
        (mdp, theta), hp = random_mdp(seed), HParams(gamma=1.0)
        exact = exact_values(theta, mdp, horizon)
        values = jnp.stack([exact, exact + error * np.random.default_rng(seed + 1).normal(size=exact.shape)])
        choices: dict[str, tuple[AdvantageFn, HParams]] = {
            "total return": (advantages.total_return, hp),
            "reward to go": (advantages.reward_to_go, hp),
            "leave-one-out baseline": (advantages.leave_one_out_baseline, hp),
            "constant baseline, J": (advantages.constant_baseline, hp.replace(baseline=mdp[2] @ exact[0])),
            "batch-mean baseline": (advantages.batch_mean_baseline, hp),
            "learned baseline, v(s)": (advantages.learned_baseline, hp),
            "GAE(0.9)": (advantages.gae, hp.replace(gae_lambda=0.9)),
            "2-step": (advantages.NStep(2), hp),
            "GAE(0.5)": (advantages.gae, hp.replace(gae_lambda=0.5)),
            "one-step TD": (advantages.one_step_td, hp),
        }
        run = jax.jit(jax.vmap(bias_and_variance, (None, None, None, 0, None)), static_argnums=0)
        found = {name: run(advantage, theta, mdp, values, hp) for name, (advantage, hp) in choices.items()}
        return {name: {what: x.tolist() for what, x in row.items()} for name, row in found.items()}


def draw(table: Table) -> Figure:
    """Bias and variance side by side, one line for each Psi."""
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    formulas = {"bias": "bias:  |E g - grad J| / |grad J|", "variance": "variance:  E|g - E g|² / |grad J|²"}
    for axes, (what, formula) in zip(panels, formulas.items(), strict=True):
        for i, (values, marker, color) in enumerate((("exact values", "o", plots.COLOR), ("wrong values", "D", "#c8781e"))):
            x = [max(row[what][i], 1e-16) for row in table.values()]  # an exact 0 has no place on the axis
            axes.plot(x, list(table), marker, color=color, markersize=9 - 4 * i, label=values)
        axes.set_xlabel(formula, color=plots.INK)
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    panels[0].set_xscale("log")
    panels[1].set_xlim(left=0)
    panels[0].legend(frameon=False, fontsize=9, labelcolor=plots.INK)
    return figure


def main(seed: int = 0, horizon: int = 4, error: float = 1.0, out: Path = study.FIGURES) -> Table:
    """Print the table; write ``theorem.png`` and ``theorem.json`` to ``out``."""
    table = measure(seed, horizon, error)
    print(f"{'':24}{'bias':>10} {'(wrong v)':10}{'variance':>10} (wrong v)")
    for name, row in table.items():
        print(f"{name:24}{row['bias'][0]:10.2g} {row['bias'][1]:<10.2g}{row['variance'][0]:10.2f} {row['variance'][1]:.2f}")
    numbers = {"seed": seed, "horizon": horizon, "error": error, "episodes_in_a_batch": 2, "psi": table}
    study.write("theorem", numbers, draw(table), out)
    return table


if __name__ == "__main__":
    tyro.cli(main)
