"""Environments: gymnax's as they are, and small adapters to the :class:`jaxpg.types.Env` protocol."""

from __future__ import annotations

from jaxpg.envs._make import horizon as horizon
from jaxpg.envs._make import longest_episode as longest_episode
from jaxpg.envs._make import make as make
from jaxpg.envs._make import time_limit as time_limit
from jaxpg.envs._params import WithParams as WithParams
from jaxpg.envs._params import differing_params as differing_params
from jaxpg.envs._params import with_params as with_params
from jaxpg.envs.actions import LegalActions as LegalActions
from jaxpg.envs.actions import legalize as legalize
from jaxpg.envs.actions import with_legal_actions as with_legal_actions
from jaxpg.envs.functional import FunctionalEnv as FunctionalEnv
from jaxpg.envs.masks import WithActionMask as WithActionMask
from jaxpg.envs.masks import with_action_mask as with_action_mask
