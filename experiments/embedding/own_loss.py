"""A loss of one's own: simple policy optimisation in place of PPO's clipping [Xie et al. 2024, arXiv:2401.16025].

r Psi - |Psi| (r - 1)^2 / (2 eps): its maximum over r lies at 1 + eps where Psi > 0 and at 1 - eps where Psi < 0, so that ratios
outside are pulled back, where clipping leaves them alone. Run: .venv/bin/python -m experiments.embedding.own_loss
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxpg
from experiments import study
from jaxpg.core.types import Array, Batch, Distribution
from jaxpg.lab.report import plots


@jaxpg.reads("clip_eps")
def simple(dist: Distribution, batch: Batch, hp: jaxpg.HParams) -> Array:
    """r Psi - |Psi| (r - 1)^2 / (2 eps)."""
    r = jnp.exp(dist.log_prob(batch.action) - batch.log_prob)
    return r * batch.advantage - jnp.abs(batch.advantage) * (r - 1.0) ** 2 / (2.0 * hp.clip_eps)


def main(updates: int = 200, seeds: int = 16, env: str = "CartPole-v1", out: Path = study.FIGURES) -> dict[str, Any]:
    """PPO with either loss; returns, and how many ratios end outside of 1 +- eps."""
    ppo, keys = jaxpg.ppo(jaxpg.make(env), learning_rate=1e-3), jax.random.split(jax.random.key(0), seeds)
    steps = np.arange(1, 21) * updates // 20 * ppo.num_envs * ppo.num_steps
    figure, axes = plots.blank()
    numbers: dict[str, Any] = {"env_steps": int(steps[-1]), "seeds": seeds}
    for objective, color in ((ppo.objective, plots.COLORS[0]), (simple, plots.COLORS[1])):
        algo = dataclasses.replace(ppo, objective=objective)
        run = jax.jit(jax.vmap(lambda key, algo=algo: jaxpg.train(algo, algo.init(key), updates, updates // 20)[1]))
        metrics = {name: np.asarray(x) for name, x in run(keys).items()}  # [seeds, points]
        outside, kl = metrics["clip_fraction"].mean(axis=1), metrics["kl"].mean(axis=1)
        plots.draw_curve(
            axes, steps, metrics["episode_return"].T, color, f"{objective.__name__}: {np.median(outside):.1%} of ratios outside"
        )
        last = metrics["episode_return"][:, -1]
        numbers[objective.__name__] = {"last_return": last.tolist(), "outside": outside.tolist(), "kl": kl.tolist()}
    plots.dress(axes, f"PPO with two losses on {env}, {seeds} seeds")
    return study.write("own_loss", numbers, figure, out)


if __name__ == "__main__":
    print(tyro.cli(main))
