"""Time limits: what an environment declares, and the longest episode that follows from it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxpg.core.types import Array, PyTree

LIMITS = ("max_steps_in_episode", "max_timesteps")  # parameters that are time limits: gymnax's, Craftax's


def time_limit(env: Any, params: PyTree) -> int | None:
    """The time limit that an environment declares, in steps: its ``max_steps``, or of ``params`` one of :data:`LIMITS`.

    Of parameters that have one value for each of ``num_envs`` environments the longest. ``None`` where no limit is declared,
    where it is infinite, and where ``params`` are traced, so that it is not known yet.

    >>> from jaxpg.envs import make
    >>> env = make("CartPole-v1")
    >>> time_limit(env, env.default_params.replace(max_steps_in_episode=np.array([100, 200])))
    200
    """
    limit = declared_limit(env, params)
    if limit is None or isinstance(limit, Tracer) or not np.all(np.isfinite(limit)):
        return None
    return int(np.max(limit))


def horizon(env: Any, params: PyTree = None) -> int:
    """:func:`time_limit`, of ``env.default_params`` where no ``params`` are given; a ``ValueError`` where there is none.

    A limit that is traced is refused too: how many steps a program makes is fixed when it is compiled.
    """
    params = env.default_params if params is None else params
    limit = time_limit(env, params)
    if limit is not None:
        return limit
    if isinstance(declared_limit(env, params), Tracer):
        raise ValueError("the time limit env_params.max_steps_in_episode is traced, so it is not known yet; pass max_steps")
    raise ValueError("the environment declares no time limit (default_params.max_steps_in_episode); pass max_steps")


def longest_episode(env: Any, params: PyTree) -> int | Array:
    """The time limit with these parameters, which may be traced; a ``ValueError`` where there is none."""
    limit = declared_limit(env, params)
    return jnp.max(limit) if isinstance(limit, Tracer) else horizon(env, params)


def declared_limit(env: Any, params: PyTree) -> Any:
    """The limit as it is declared: a number, an array or a traced one, or ``None``."""
    limits = getattr(env, "max_steps", None), *(getattr(params, name, None) for name in LIMITS)
    return next((limit for limit in limits if limit is not None), None)
