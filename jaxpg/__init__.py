"""jaxpg: policy-gradient reinforcement learning in JAX, vectorised from REINFORCE to TRPO.

Rooms are imported when first used, so that the command line can answer ``--help`` without loading JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxpg import advantages as advantages
    from jaxpg import diagnostics as diagnostics
    from jaxpg import distributions as distributions
    from jaxpg import envs as envs
    from jaxpg import networks as networks
    from jaxpg import normalize as normalize
    from jaxpg import objectives as objectives
    from jaxpg import returns as returns
    from jaxpg import rollout as rollout
    from jaxpg import schedules as schedules
    from jaxpg import sharding as sharding
    from jaxpg import updates as updates
    from jaxpg.algorithm import Algorithm as Algorithm
    from jaxpg.algorithms import a2c as a2c
    from jaxpg.algorithms import actor_critic as actor_critic
    from jaxpg.algorithms import ppo as ppo
    from jaxpg.algorithms import reinforce as reinforce
    from jaxpg.algorithms import reinforce_baseline as reinforce_baseline
    from jaxpg.algorithms import trpo as trpo
    from jaxpg.env_check import check_env as check_env
    from jaxpg.envs import make as make
    from jaxpg.hparams import HParams as HParams
    from jaxpg.hparams import hyperparameter as hyperparameter
    from jaxpg.hparams import reads as reads
    from jaxpg.lab.engine.devices import use_all_cores as use_all_cores
    from jaxpg.lab.engine.python import run as run
    from jaxpg.lab.engine.python import sweep as sweep
    from jaxpg.lab.policies.loading import load_policy as load_policy
    from jaxpg.training import evaluate as evaluate
    from jaxpg.training import train as train

_HOME = {
    "Algorithm": "algorithm",
    **dict.fromkeys(("a2c", "actor_critic", "ppo", "reinforce", "reinforce_baseline", "trpo"), "algorithms"),
    "check_env": "env_check",
    "make": "envs",
    **dict.fromkeys(("HParams", "hyperparameter", "reads"), "hparams"),
    **dict.fromkeys(("evaluate", "train"), "training"),
    "load_policy": "lab.policies.loading",  # the library knows these names of the lab, and no more
    **dict.fromkeys(("run", "sweep"), "lab.engine.python"),
    "use_all_cores": "lab.engine.devices",
}
_ROOMS = (
    "advantages",
    "diagnostics",
    "distributions",
    "envs",
    "networks",
    "normalize",
    "objectives",
    "returns",
    "rollout",
    "schedules",
    "sharding",
    "updates",
)
__all__ = [*_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if name == "HParams":
            importlib.import_module("jaxpg.types")  # makes it a pytree
        return getattr(importlib.import_module(f"jaxpg.{_HOME[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"jaxpg.{name}")
    raise AttributeError(f"module 'jaxpg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
