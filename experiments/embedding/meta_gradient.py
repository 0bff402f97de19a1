"""Meta-gradients: A2C learns its own entropy coefficient c while it trains, by differentiating through ``update``.

log c <- log c - Adam(d L(theta'(c)) / d log c), theta'(c) = update(theta, c); L is the policy's loss, without a bonus, on fresh
data of theta' [Xu, van Hasselt & Silver 2018]. Run: .venv/bin/python -m experiments.embedding.meta_gradient
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxpg
from experiments import study
from jaxpg.core.types import Array, TrainState
from jaxpg.lab.report import plots

STARTS = (0.01, 1.0, 100.0)


def outer(coef: Array, algo: jaxpg.Algorithm, state: TrainState) -> tuple[Array, tuple[TrainState, Array]]:
    """L(theta'(c)) on fresh data; and the updated state, with the return of the episodes that ended in the update."""
    after, metrics = algo.update(state.replace(hparams=state.hparams.replace(entropy_coef=coef)))
    data = jax.lax.stop_gradient(after)  # noqa: TID251 - the new data; the gradient goes through the new parameters only
    plain = state.hparams.replace(entropy_coef=0.0)
    _, fresh = algo.rollout(data.key, algo.env, data.env_params, algo.actor(data), data.loop, algo.num_steps)
    loss, _ = algo.losses(state, plain).policy(after.params, algo.batch(data, fresh, plain))
    return loss, (after.replace(key=jax.random.fold_in(after.key, 1)), metrics["episode_return"])


def learn(algo: jaxpg.Algorithm, updates: int, start: Array, rate: Array, key: Array) -> tuple[Array, Array]:
    """c, from ``start`` with the meta step size ``rate``, and the episode return: ``[updates]`` each."""
    adam = optax.adam(rate)

    def step(carry: tuple[TrainState, Any], _: None) -> tuple[tuple[TrainState, Any], tuple[Array, Array]]:
        (state, moments), coef = carry, carry[0].hparams.entropy_coef
        slope, (state, episode_return) = jax.grad(outer, has_aux=True)(coef, algo, state)
        move, moments = adam.update(coef * slope, moments)
        hparams = state.hparams.replace(entropy_coef=coef * jnp.exp(jnp.asarray(move)))
        return (state.replace(hparams=hparams), moments), (coef, episode_return)

    state = algo.init(key, algo.hparams.replace(entropy_coef=start))
    return jax.lax.scan(step, (state, adam.init(start)), length=updates)[1]


def main(updates: int = 600, seeds: int = 8, rate: float = 0.02, out: Path = study.FIGURES) -> dict[str, Any]:
    """c learned from three starts, and kept there, which is a meta step size of 0; returns are those of the last tenth."""
    algo, keys = jaxpg.a2c(jaxpg.make("CartPole-v1"), **study.A2C), jax.random.split(jax.random.key(0), seeds)
    run, (figure, axes), numbers = jax.jit(jax.vmap(lambda *x: learn(algo, updates, *x), (None, None, 0))), plots.blank(), {}
    for start, color in zip(STARTS, plots.COLORS, strict=False):
        (coef, learned), (_, kept) = ([np.asarray(x) for x in run(start, by, keys)] for by in (rate, 0.0))
        learned, kept = (np.nanmean(x[:, -(updates // 10) :], axis=1).tolist() for x in (learned, kept))
        label = f"from {start:g}: return {np.median(learned):.0f}, with that start kept {np.median(kept):.0f}"
        axes.semilogy(coef.T, color=color, linewidth=0.8, label=[label] + [None] * (seeds - 1))
        numbers[f"{start:g}"] = {"coef": coef[:, -1].tolist(), "learned": learned, "kept": kept}
    plots.bare(axes, f"Entropy coefficient of A2C, learned while it trains, {seeds} seeds", "updates", "entropy coefficient")
    axes.legend(frameon=False, fontsize=9, labelcolor=plots.INK)
    return study.write("meta_gradient", {"updates": updates, "rate": rate, "starts": numbers}, figure, out)


if __name__ == "__main__":
    print(tyro.cli(main))
