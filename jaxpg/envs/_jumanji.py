"""Environments with the interface of Jumanji: ``step(state, action) -> (state, TimeStep)``."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments.spaces import Box, Discrete

from jaxpg.core.spaces import MultiDiscrete
from jaxpg.core.types import Array, PyTree
from jaxpg.envs import _spaces
from jaxpg.envs._timestep import ends
from jaxpg.envs.functional import FunctionalEnv

MASK = "action_mask"
COUNT = "step_count"


def from_jumanji(env: Any, *, name: str = "jumanji") -> FunctionalEnv:
    """A Jumanji environment: ``reset(key) -> (state, timestep)`` and ``step(state, action) -> (state, timestep)``.

    Observations become dicts; an ``action_mask`` in them is used by the default networks. Where a mask covers all combinations
    of several choices, an action is one number for the combination. The count of steps in an observation is given as a share of
    its maximum.

    Args:
        env: What ``jumanji.make`` returns.
        name: For tables, figures and presets.

    Returns:
        An environment that follows ``jaxpg.types.Env``.

    Raises:
        ValueError: For environments with a reward for each of several agents.

    Examples:
        >>> import jaxpg
        >>> import jumanji  # doctest: +SKIP
        >>> env = jaxpg.envs.from_jumanji(jumanji.make("Snake-v1"))  # doctest: +SKIP
    """
    start = jax.eval_shape(env.reset, jax.random.key(0))[1]
    if start.reward.shape:
        raise ValueError(f"{name} gives {start.reward.shape[0]} agents a reward each; jaxpg trains one policy on one reward")
    spec, declared = env.action_spec, _spaces.from_spec(env.observation_spec)
    space: Any = _spaces.from_action_spec(spec)
    choices = tuple(space.nvec.ravel().tolist()) if isinstance(space, MultiDiscrete) else ()
    is_joint = bool(choices) and getattr(as_dict(start.observation).get(MASK), "shape", None) == choices
    if is_joint:
        space = Discrete(math.prod(choices))
        declared.spaces[MASK] = Box(0, 1, (space.n,), jnp.bool_)
    steps = declared.spaces.get(COUNT)
    if isinstance(steps, Discrete):
        declared.spaces[COUNT] = Box(0.0, 1.0, ())

    def observe(timestep: Any) -> PyTree:
        obs = as_dict(timestep.observation)
        if is_joint:
            obs[MASK] = obs[MASK].reshape(-1)
        if MASK in obs:  # a trapped snake has no legal action although its episode has not ended yet
            obs[MASK] |= ~obs[MASK].any(axis=-1, keepdims=True)
        if isinstance(steps, Discrete):
            obs[COUNT] = obs[COUNT] / (steps.n - 1)
        return obs

    def reset(key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        state, timestep = env.reset(key)
        return observe(timestep), state

    def step(key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        combination = jnp.stack(jnp.unravel_index(action, choices)) if is_joint else action
        state, timestep = env.step(state, jnp.asarray(combination, spec.dtype))
        return observe(timestep), state, timestep.reward, *ends(timestep)

    limit = getattr(env, "time_limit", None)
    return FunctionalEnv(reset, step, space, limit, name=name, obs_space=declared, start_interval=4, source=env)


def as_dict(obs: Any) -> Any:
    """Convert named tuples and dataclasses to dicts, at any depth."""
    if hasattr(obs, "_asdict"):
        obs = obs._asdict()
    elif dataclasses.is_dataclass(obs):
        obs = {field.name: getattr(obs, field.name) for field in dataclasses.fields(obs)}
    return {name: as_dict(part) for name, part in obs.items()} if isinstance(obs, dict) else obs
