"""Environments: gymnax's as they are, and small adapters to the protocol ``jaxpg.types.Env``."""

from __future__ import annotations

from jaxpg.envs._brax import from_brax as from_brax
from jaxpg.envs._five_values import from_five_values as from_five_values
from jaxpg.envs._jumanji import from_jumanji as from_jumanji
from jaxpg.envs._limits import horizon as horizon
from jaxpg.envs._limits import longest_episode as longest_episode
from jaxpg.envs._limits import time_limit as time_limit
from jaxpg.envs._make import make as make
from jaxpg.envs._params import WithParams as WithParams
from jaxpg.envs._params import differing_params as differing_params
from jaxpg.envs._params import with_params as with_params
from jaxpg.envs._pgx import from_pgx as from_pgx
from jaxpg.envs._timestep import from_navix as from_navix
from jaxpg.envs._timestep import from_xland as from_xland
from jaxpg.envs.actions import LegalActions as LegalActions
from jaxpg.envs.actions import legalize as legalize
from jaxpg.envs.actions import with_legal_actions as with_legal_actions
from jaxpg.envs.functional import FunctionalEnv as FunctionalEnv
from jaxpg.envs.masks import WithActionMask as WithActionMask
from jaxpg.envs.masks import with_action_mask as with_action_mask

__all__ = [
    "FunctionalEnv",
    "from_brax",
    "from_five_values",
    "from_jumanji",
    "from_navix",
    "from_pgx",
    "from_xland",
    "horizon",
    "legalize",
    "make",
    "time_limit",
    "with_action_mask",
    "with_legal_actions",
    "with_params",
]
