"""Environments with the interface of gymnax before 1.0: a step gives five values, and one flag for both kinds of end."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxpg.core.types import MAX_COUNT, Array, PyTree
from jaxpg.envs import _spaces
from jaxpg.envs._limits import LIMITS
from jaxpg.envs.functional import FunctionalEnv


def from_five_values(env: Any, *, name: str = "") -> FunctionalEnv:
    """An environment of gymnax before 1.0, or like one, e.g. Craftax: a step gives five values.

    Its own automatic reset is left out: ``step_env`` and ``reset_env`` are called. An end counts as a termination where
    ``env.is_terminal`` says so for parameters without a time limit; otherwise the limit has cut the episode. The time limit
    remains a parameter: ``max_steps_in_episode``, or Craftax's ``max_timesteps``.

    Args:
        env: Has ``reset_env(key, params)``, ``step_env(key, state, action, params) -> (obs, state, reward, done, info)``,
            ``is_terminal(state, params)``, ``default_params`` and both spaces.
        name: For tables, figures and presets; by default ``env.name``.

    Returns:
        An environment that follows ``jaxpg.types.Env``.

    Examples:
        >>> import jaxpg
        >>> from craftax import craftax_env  # doctest: +SKIP
        >>> env = craftax_env.make_craftax_env_from_name("Craftax-Symbolic-v1", auto_reset=False)  # doctest: +SKIP
        >>> env = jaxpg.envs.from_five_values(env)  # doctest: +SKIP
    """
    params = env.default_params
    limit = next((name for name in LIMITS if hasattr(params, name)), None)

    def step(key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        obs, state, reward, done, _ = env.step_env(key, state, action, params)
        done = jnp.asarray(done, bool)
        if limit is None:
            return obs, state, reward, done
        terminated = done & env.is_terminal(state, params.replace(**{limit: MAX_COUNT}))
        return obs, state, reward, terminated, done & ~terminated

    return FunctionalEnv(
        reset_fn=env.reset_env,
        step_fn=step,
        space=_spaces.from_bounds(env.action_space(params)),
        max_steps=None,
        default_params=params,
        name=name or env.name,
        obs_space=_spaces.from_bounds(env.observation_space(params)),
        source=env,
    )
