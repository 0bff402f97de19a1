"""jaxpg: policy-gradient reinforcement learning in JAX, vectorised from REINFORCE to TRPO.

Modules are imported when first used, so that the command line can answer ``--help`` without loading JAX.
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
    from jaxpg import presets as presets
    from jaxpg import returns as returns
    from jaxpg import rollout as rollout
    from jaxpg import schedules as schedules
    from jaxpg import search as search
    from jaxpg import sharding as sharding
    from jaxpg import spaces as spaces
    from jaxpg import stats as stats
    from jaxpg import types as types
    from jaxpg import updates as updates
    from jaxpg.algorithms.a2c import a2c as a2c
    from jaxpg.algorithms.actor_critic import actor_critic as actor_critic
    from jaxpg.algorithms.ppo import ppo as ppo
    from jaxpg.algorithms.reinforce import reinforce as reinforce
    from jaxpg.algorithms.reinforce import reinforce_baseline as reinforce_baseline
    from jaxpg.algorithms.trpo import trpo as trpo
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
    from jaxpg.lab.engine.trials import optimize_study as optimize_study
    from jaxpg.lab.policies.exporting import export_policy as export_policy
    from jaxpg.lab.policies.loading import load_policy as load_policy
    from jaxpg.lab.store.results import load_results as load_results
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
    "export_policy": "lab.policies.exporting",  # the library knows these names of the lab, and no more
    "load_policy": "lab.policies.loading",
    "load_results": "lab.store.results",
    **dict.fromkeys(("run", "sweep"), "lab.engine.python"),
    "optimize_study": "lab.engine.trials",
    "use_all_cores": "lab.engine.devices",
}
_MODULES = (
    "advantages",
    "diagnostics",
    "distributions",
    "envs",
    "networks",
    "normalize",
    "objectives",
    "presets",
    "returns",
    "rollout",
    "schedules",
    "search",
    "sharding",
    "spaces",
    "stats",
    "types",
    "updates",
)
__all__ = [*_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if name == "HParams":
            importlib.import_module("jaxpg.core.types")  # makes it a pytree
        return getattr(importlib.import_module(f"jaxpg.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"jaxpg.{name}")
    raise AttributeError(f"module 'jaxpg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(["__version__", *__all__])
