"""A network of one's own: policy and critic linear in the Fourier basis, beside the default multi-layer perceptrons.

phi_c(s) = cos(pi c . s), s in [0, 1]^d, for every c in {0, ..., order}^d [Konidaris, Osentoski & Thomas 2011].
Run: .venv/bin/python -m experiments.embedding.own_network
"""

import itertools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxpg
from experiments import study
from jaxpg.core.distributions import Categorical
from jaxpg.core.types import Array
from jaxpg.lab.report import plots


class Fourier(nn.Module):
    """A softmax over ``actions``; without them, a value. Observations lie in [-1, 1]."""

    actions: int = 0
    order: int = 5

    @nn.compact
    def __call__(self, obs: Array) -> Categorical | Array:
        c = np.array(list(itertools.product(range(self.order + 1), repeat=obs.shape[-1])), np.float32)
        basis = jnp.cos(jnp.pi * (obs + 1.0) / 2.0 @ c.T)
        linear = nn.Dense(self.actions or 1, kernel_init=nn.initializers.zeros)(basis)
        return Categorical(linear) if self.actions else linear[..., 0]


def main(updates: int = 120, seeds: int = 8, out: Path = study.FIGURES) -> dict[str, Any]:
    """PPO on MountainCar-v0 with either pair of networks, everything else equal."""
    env, keys = jaxpg.make("MountainCar-v0"), jax.random.split(jax.random.key(0), seeds)
    own: dict[str, Any] = {"policy": Fourier(3), "critic": Fourier()}
    numbers, (figure, axes) = {}, plots.blank()
    for label, networks, color in (("two hidden layers", {}, plots.COLORS[0]), ("Fourier basis", own, plots.COLORS[1])):
        options = {"observation": "bounds", "gamma": 0.99, "gae_lambda": 0.98, "reward_scale": 0.1, "entropy_coef": 0.02}
        algo = jaxpg.ppo(env, num_steps=128, epochs=10, minibatches=8, **options, **networks)
        run = jax.jit(jax.vmap(lambda key, algo=algo: jaxpg.train(algo, algo.init(key), updates, updates // 20)))
        states, metrics = run(keys)
        returns, size = np.asarray(metrics["episode_return"]).T, sum(x[0].size for x in jax.tree.leaves(states.params))
        steps = (updates // 20) * algo.num_envs * algo.num_steps * np.arange(1, len(returns) + 1)
        plots.draw_curve(axes, steps, returns, color, f"{label}: {size:,} parameters")
        numbers[label] = {"parameters": size, "env_steps": int(steps[-1]), "last_return": returns[-1].tolist()}
    plots.dress(axes, f"PPO on MountainCar-v0 with two kinds of networks, {seeds} seeds")
    return study.write("own_network", numbers, figure, out)


if __name__ == "__main__":
    print(tyro.cli(main))
