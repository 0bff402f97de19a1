"""The sizes of :mod:`protocol` under the names that they have in jaxpg."""

from typing import Any

import protocol

OPTIONS: dict[str, Any] = {
    "num_steps": protocol.NUM_STEPS,
    "epochs": protocol.EPOCHS,
    "minibatches": protocol.MINIBATCHES,
    "hidden": (64, 64),
    "learning_rate": protocol.LEARNING_RATE,
    "critic_learning_rate": protocol.LEARNING_RATE,
    "gamma": protocol.GAMMA,
    "gae_lambda": protocol.GAE_LAMBDA,
    "clip_eps": protocol.CLIP_EPS,
    "entropy_coef": protocol.ENTROPY_COEF,
    "max_grad_norm": protocol.MAX_GRAD_NORM,
}
