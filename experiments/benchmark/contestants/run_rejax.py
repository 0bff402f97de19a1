"""rejax: ``jit`` of its whole training, vmapped over the seeds, as its documentation has it. No evaluation."""

from __future__ import annotations

import protocol

# isort: split
import gymnax
import jax
import jax.numpy as jnp
import rejax  # pyright: ignore[reportMissingImports]
import whole
from five_values import FiveValues


def prepare(case: protocol.Case) -> protocol.Train:
    """Its environment is an object: one that wraps gymnax 1.0's, for rejax 0.1.3 is written for the interface before."""
    algo = rejax.PPO.create(
        env=FiveValues(gymnax.make("CartPole-v1")[0]),
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        num_envs=case.num_envs,
        num_steps=protocol.NUM_STEPS,
        num_epochs=protocol.EPOCHS,
        num_minibatches=protocol.MINIBATCHES,
        learning_rate=protocol.LEARNING_RATE,
        gamma=protocol.GAMMA,
        gae_lambda=protocol.GAE_LAMBDA,
        clip_eps=protocol.CLIP_EPS,
        ent_coef=protocol.ENTROPY_COEF,
        max_grad_norm=protocol.MAX_GRAD_NORM,
        total_timesteps=case.steps_per_seed,
        eval_freq=case.steps_per_seed,
        skip_initial_evaluation=True,
    ).replace(eval_callback=lambda *_: jnp.zeros(()))
    return whole.compiled(algo.train, case)


def notes() -> dict[str, str]:
    """On what it ran."""
    return {"devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"}


protocol.serve(protocol.arguments().parse_args(), prepare, ("rejax", "jax", "jaxlib", "flax", "optax", "gymnax"), notes)
