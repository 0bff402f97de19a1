"""PureJaxRL from a checkout of its own (``--checkout``), ``jit`` of its ``make_train``, vmapped over the seeds.

What is changed, all from outside:

* Its orthogonal initialiser is replaced by a normal one of the same scale: on a CPU with two cores, a QR decomposition under
  ``vmap`` hangs.
* gymnax 1.0 is given the five values of before (PureJaxRL's own requirement names no version).
* Brax and Navix, which its wrappers import and which PPO on CartPole does not need, are empty modules.
"""

from __future__ import annotations

import protocol

# isort: split
import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnax
import jax
import whole
from five_values import FiveValues

parser = protocol.arguments()
parser.add_argument("--checkout", type=Path, required=True)
given = parser.parse_args()
folder = given.checkout / "purejaxrl"


def load() -> Any:
    """Its module ``ppo``."""
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update({"envs": None, "EpisodeWrapper": None, "AutoResetWrapper": None})
    sys.path.insert(0, str(folder))
    import ppo  # pyright: ignore[reportMissingImports]

    return ppo


def make(name: str) -> tuple[Any, Any]:
    """As ``gymnax.make``."""
    env, params = original(name)
    return FiveValues(env), params


original, gymnax.make = gymnax.make, make
ppo = load()
ppo.orthogonal = lambda scale: jax.nn.initializers.variance_scaling(scale**2, "fan_in", "normal")


def prepare(case: protocol.Case) -> protocol.Train:
    """The whole of what its training returns, as its notebook has it: parameters, and the statistics of every step."""
    train = ppo.make_train(
        {
            "LR": protocol.LEARNING_RATE,
            "NUM_ENVS": case.num_envs,
            "NUM_STEPS": protocol.NUM_STEPS,
            "TOTAL_TIMESTEPS": case.steps_per_seed,
            "UPDATE_EPOCHS": protocol.EPOCHS,
            "NUM_MINIBATCHES": protocol.MINIBATCHES,
            "GAMMA": protocol.GAMMA,
            "GAE_LAMBDA": protocol.GAE_LAMBDA,
            "CLIP_EPS": protocol.CLIP_EPS,
            "ENT_COEF": protocol.ENTROPY_COEF,
            "VF_COEF": 0.5,
            "MAX_GRAD_NORM": protocol.MAX_GRAD_NORM,
            "ACTIVATION": "tanh",
            "ENV_NAME": "CartPole-v1",
            "ANNEAL_LR": False,
            "DEBUG": False,
        }
    )
    return whole.compiled(train, case)


def notes() -> dict[str, str]:
    """Which checkout, and on what it ran."""
    digest = hashlib.sha256((folder / "ppo.py").read_bytes()).hexdigest()[:12]
    return {"purejaxrl": f"ppo.py {digest}", "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"}


protocol.serve(given, prepare, ("jax", "jaxlib", "flax", "optax", "gymnax", "distrax"), notes)
