"""Time limits: what an environment declares, and the longest episode that follows from it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxpg.core.types import Array, PyTree

LIMITS = ("max_steps_in_episode", "max_timesteps")  # parameters that are time limits: gymnax's, Craftax's


def time_limit(env: Any, params: PyTree) -> int | None:
    """The time limit that an environment declares, in steps; ``None`` where it declares none.

    This is ``env.max_steps``, or the parameter ``max_steps_in_episode`` (gymnax) or ``max_timesteps`` (Craftax).

    Args:
        env: The environment.
        params: Its parameters. Where they have one limit for each environment, the largest counts.

    Returns:
        The limit; ``None`` where there is none, where it is infinite, and where ``params`` are traced, so that it is not known.

    Examples:
        >>> import jaxpg
        >>> env = jaxpg.make("CartPole-v1")
        >>> jaxpg.envs.time_limit(env, env.default_params)
        500
    """
    limit = declared_limit(env, params)
    if limit is None or isinstance(limit, Tracer) or not np.all(np.isfinite(limit)):
        return None
    return int(np.max(limit))


def horizon(env: Any, params: PyTree = None) -> int:
    """The time limit of an environment, in steps, where it must have one.

    Args:
        env: The environment.
        params: Its parameters, by default ``env.default_params``.

    Returns:
        ``jaxpg.envs.time_limit(env, params)``.

    Raises:
        ValueError: Where there is no limit, or where it is traced: the number of steps of a program is fixed when it is
            compiled.

    Examples:
        >>> import jaxpg
        >>> jaxpg.envs.horizon(jaxpg.make("MountainCar-v0"))
        200
    """
    params = env.default_params if params is None else params
    limit = time_limit(env, params)
    if limit is not None:
        return limit
    if isinstance(declared_limit(env, params), Tracer):
        raise ValueError("the time limit env_params.max_steps_in_episode is traced, so it is not known yet; pass max_steps")
    raise ValueError("the environment declares no time limit (default_params.max_steps_in_episode); pass max_steps")


def longest_episode(env: Any, params: PyTree) -> int | Array:
    """The time limit with these parameters, which may be traced; ``ValueError`` if there is none."""
    limit = declared_limit(env, params)
    return jnp.max(limit) if isinstance(limit, Tracer) else horizon(env, params)


def declared_limit(env: Any, params: PyTree) -> Any:
    """The declared time limit: a number, an array or a tracer, or ``None``."""
    limits = getattr(env, "max_steps", None), *(getattr(params, name, None) for name in LIMITS)
    return next((limit for limit in limits if limit is not None), None)
