"""Algorithms by name, for the command line."""

from __future__ import annotations

from typing import Any

from jaxpg.algorithms import presets
from jaxpg.algorithms.a2c import a2c
from jaxpg.algorithms.actor_critic import actor_critic
from jaxpg.algorithms.ppo import ppo
from jaxpg.algorithms.reinforce import reinforce, reinforce_baseline
from jaxpg.algorithms.trpo import trpo
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import unknown_name
from jaxpg.core.types import Env

FUNCTIONS = {function.__name__: function for function in (reinforce, reinforce_baseline, actor_critic, a2c, ppo, trpo)}


def build(name: str, env: Env, **options: Any) -> Algorithm:
    """The algorithm called ``name``; ``ValueError`` for a name or an option that does not exist."""
    if name not in FUNCTIONS:
        raise ValueError(unknown_name("algorithm", name, FUNCTIONS))
    presets.options(name, getattr(env, "name", None), **options)
    return FUNCTIONS[name](env, **options)
