"""jaxpg: policy-gradient reinforcement learning in JAX, vectorised from REINFORCE to TRPO.

Modules are imported when first used, so that the command line can answer ``--help`` without loading JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxpg import diagnostics as diagnostics
    from jaxpg import envs as envs
    from jaxpg import stats as stats
    from jaxpg.algorithms import presets as presets
    from jaxpg.algorithms.a2c import a2c as a2c
    from jaxpg.algorithms.actor_critic import actor_critic as actor_critic
    from jaxpg.algorithms.ppo import ppo as ppo
    from jaxpg.algorithms.reinforce import reinforce as reinforce
    from jaxpg.algorithms.reinforce import reinforce_baseline as reinforce_baseline
    from jaxpg.algorithms.trpo import trpo as trpo
    from jaxpg.core import advantages as advantages
    from jaxpg.core import distributions as distributions
    from jaxpg.core import networks as networks
    from jaxpg.core import normalize as normalize
    from jaxpg.core import objectives as objectives
    from jaxpg.core import optimizers as optimizers
    from jaxpg.core import returns as returns
    from jaxpg.core import rollout as rollout
    from jaxpg.core import schedules as schedules
    from jaxpg.core import spaces as spaces
    from jaxpg.core import types as types
    from jaxpg.core.actor_critic import Separate as Separate
    from jaxpg.core.actor_critic import Shared as Shared
    from jaxpg.core.algorithm import Algorithm as Algorithm
    from jaxpg.core.hparams import HParams as HParams
    from jaxpg.core.hparams import hyperparameter as hyperparameter
    from jaxpg.core.hparams import reads as reads
    from jaxpg.core.sgd import SGD as SGD
    from jaxpg.core.trust_region import TrustRegion as TrustRegion
    from jaxpg.envs import make as make
    from jaxpg.envs.check import check_env as check_env
    from jaxpg.lab.engine.devices import use_all_cores as use_all_cores
    from jaxpg.lab.engine.python import run as run
    from jaxpg.lab.engine.python import sweep as sweep
    from jaxpg.lab.policies.loading import load_policy as load_policy
    from jaxpg.loops import sharding as sharding
    from jaxpg.loops.evaluate import evaluate as evaluate
    from jaxpg.loops.train import train as train

_HOME = {
    "Algorithm": "core.algorithm",
    **{name: f"algorithms.{name}" for name in ("a2c", "actor_critic", "ppo", "reinforce", "trpo")},
    "reinforce_baseline": "algorithms.reinforce",
    **dict.fromkeys(("Separate", "Shared"), "core.actor_critic"),
    "SGD": "core.sgd",
    "TrustRegion": "core.trust_region",
    "check_env": "envs.check",
    "make": "envs",
    **dict.fromkeys(("HParams", "hyperparameter", "reads"), "core.hparams"),
    "evaluate": "loops.evaluate",
    "train": "loops.train",
    "load_policy": "lab.policies.loading",  # the library knows these names of the lab, and no more
    **dict.fromkeys(("run", "sweep"), "lab.engine.python"),
    "use_all_cores": "lab.engine.devices",
}
_MODULES = {
    **{
        name: f"core.{name}"
        for name in (
            "advantages",
            "distributions",
            "networks",
            "normalize",
            "objectives",
            "optimizers",
            "returns",
            "rollout",
            "schedules",
            "spaces",
            "types",
        )
    },
    "presets": "algorithms.presets",
    "sharding": "loops.sharding",
    **{name: name for name in ("diagnostics", "envs", "stats")},
}
__all__ = [*_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if name == "HParams":
            importlib.import_module("jaxpg.core.types")  # makes it a pytree
        return getattr(importlib.import_module(f"jaxpg.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"jaxpg.{_MODULES[name]}")
    raise AttributeError(f"module 'jaxpg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
