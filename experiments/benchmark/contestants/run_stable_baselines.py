"""Stable-Baselines3 and SBX, its twin in JAX: one seed, whatever the case asks for, because they train one after the other.

Environments are Gymnasium's, stepped in one process. The model goes on where it stopped; what is counted as compilation is its
making and a first update.
"""

from __future__ import annotations

import protocol

# isort: split
import functools
from typing import Any

import gymnasium
import torch  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.vec_env import DummyVecEnv  # pyright: ignore[reportMissingImports]

parser = protocol.arguments()
parser.add_argument("--library", choices=("stable_baselines3", "sbx"), required=True)
parser.add_argument("--torch-threads", type=int, default=1)
given = parser.parse_args()
if given.torch_threads:
    torch.set_num_threads(given.torch_threads)


@functools.cache
def made(num_envs: int) -> Any:
    """The model after its first update."""
    if given.library == "sbx":
        from sbx import PPO  # pyright: ignore[reportMissingImports]
    else:
        from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs),
        n_steps=protocol.NUM_STEPS,
        batch_size=num_envs * protocol.NUM_STEPS // protocol.MINIBATCHES,
        n_epochs=protocol.EPOCHS,
        learning_rate=protocol.LEARNING_RATE,
        gamma=protocol.GAMMA,
        gae_lambda=protocol.GAE_LAMBDA,
        clip_range=protocol.CLIP_EPS,
        ent_coef=protocol.ENTROPY_COEF,
        max_grad_norm=protocol.MAX_GRAD_NORM,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}},
        device="cpu",
        seed=0,
    )
    return model.learn(num_envs * protocol.NUM_STEPS, log_interval=None)


def prepare(case: protocol.Case) -> protocol.Train:
    """Nothing is logged; its networks are two of 64-64 with tanh by default."""
    model = made(case.num_envs)

    def train() -> int:
        model.learn(case.steps_per_seed, log_interval=None)
        return case.steps_per_seed

    return train


packages = {"stable_baselines3": ("stable_baselines3", "torch"), "sbx": ("sbx-rl", "stable_baselines3", "jax", "jaxlib")}
protocol.serve(
    given,
    prepare,
    (*packages[given.library], "gymnasium", "numpy"),
    lambda: {"devices": "cpu", "torch_threads": str(torch.get_num_threads())},
)
