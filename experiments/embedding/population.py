"""Population-based training: hyperparameters are part of the state, so evolution is a few lines on arrays.

After each round the lower quarter takes over what the upper quarter has learned, and its hyperparameters times 0.8 or 1.25
[Jaderberg et al. 2017]; everybody keeps a key and environments. Run: .venv/bin/python -m experiments.embedding.population
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxpg
from experiments import study
from jaxpg.core.types import Array, TrainState
from jaxpg.lab.report import plots

SPACE = {"learning_rate": (1e-5, 1e-1), "entropy_coef": (1e-4, 1.0)}  # drawn log-uniformly


def evolved(state: TrainState, score: Array, key: Array) -> TrainState:
    """The next generation of a population ``[M]``."""
    order, quarter, own = jnp.argsort(jnp.nan_to_num(score, nan=-jnp.inf)), len(score) // 4, jnp.arange(len(score))
    parent = own.at[order[:quarter]].set(order[-quarter:])
    child = jax.tree.map(lambda x: x[parent], state.replace(key=None, loop=None))
    factor = jnp.where(parent == own, 1.0, jax.random.choice(key, jnp.array([0.8, 1.25]), (len(SPACE), len(score))))
    mutated = {name: getattr(child.hparams, name) * f for name, f in zip(SPACE, factor, strict=True)}
    return child.replace(key=state.key, loop=state.loop, hparams=child.hparams.replace(**mutated))


def live(algo: jaxpg.Algorithm, members: int, rounds: int, updates: int, is_evolving: Array, key: Array) -> tuple[Any, Array]:
    """The last state of a population, and its returns ``[rounds, M]``."""
    key_space, key_init, key_rounds = jax.random.split(key, 3)
    u = jax.random.uniform(key_space, (len(SPACE), members))
    drawn = {name: low * (high / low) ** x for (name, (low, high)), x in zip(SPACE.items(), u, strict=True)}

    def play(state: TrainState, key: Array) -> tuple[TrainState, Array]:
        trained, metrics = jax.vmap(lambda state: jaxpg.train(algo, state, updates, updates))(state)
        score = metrics["episode_return"][:, 0]
        return jax.tree.map(lambda *x: jnp.where(is_evolving, *x), evolved(trained, score, key), trained), score

    hparams = jax.tree.map(lambda x: jnp.full(members, x), algo.hparams).replace(**drawn)
    state = jax.vmap(algo.init)(jax.random.split(key_init, members), hparams)
    return jax.lax.scan(play, state, jax.random.split(key_rounds, rounds))


def main(members: int = 16, rounds: int = 20, updates: int = 20, populations: int = 4, out: Path = study.FIGURES) -> Any:
    """Populations that evolve, and the same ones keeping what they drew."""
    algo, keys = jaxpg.a2c(jaxpg.make("CartPole-v1"), **study.A2C), jax.random.split(jax.random.key(0), populations)
    run = jax.jit(jax.vmap(lambda *x: live(algo, members, rounds, updates, *x), (None, 0)))
    (figure, axes), numbers, steps = plots.blank(), {}, np.arange(1, rounds + 1) * updates * algo.num_envs * algo.num_steps
    for label, is_evolving, color in (("evolved", True, plots.COLORS[0]), ("as drawn", False, plots.COLORS[1])):
        state, returns = run(is_evolving, keys)  # [populations, rounds, members]
        plots.draw_curve(axes, steps, np.concatenate(returns, axis=1), color, label)
        rates, last = state.hparams.learning_rate, np.asarray(returns[:, -1])
        numbers[label] = {
            "median": np.nanmedian(last, 1).tolist(),
            "best": np.nanmax(last, 1).tolist(),
            "rates": rates.tolist(),
        }
    plots.dress(axes, f"A2C on CartPole-v1, {populations} populations of {members}")
    axes.set_xlabel("environment steps of each member", color=plots.INK)
    return study.write("population", numbers, figure, out)


if __name__ == "__main__":
    print(tyro.cli(main))
