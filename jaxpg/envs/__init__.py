"""Environments: gymnax's as they are, and small adapters to the :class:`jaxpg.types.Env` protocol."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from jaxpg.core import _resets as resets
from jaxpg.core.hparams import unknown_name
from jaxpg.core.types import MAX_COUNT, Array, Env, PyTree


@functools.cache
def make(env_id: str) -> Any:
    """The gymnax environment of that name. Cached, because environments hash by identity and a new one would compile anew.

    >>> make("CartPole-v1").default_params.max_steps_in_episode
    500
    """
    if env_id not in gymnax.registered_envs:
        raise ValueError(unknown_name("environment", env_id, gymnax.registered_envs))
    return gymnax.make(env_id)[0]


@dataclasses.dataclass(frozen=True)
class ClipAction:
    """Clips actions to the bounds for the environment only: the trajectory, and so the log-probability, has them unclipped."""

    env: Any

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not set yet, as in unpickling
            raise AttributeError(name)
        return getattr(self.env, name)

    def step(self, key: Array, state: PyTree, action: Array, params: PyTree) -> tuple:
        """The inner environment's step with the clipped action."""
        return self.env.step(key, state, self.clipped(action, params), params)

    def halves(self) -> tuple[resets.Draw, resets.Step]:
        """Likewise, see :func:`jaxpg.resets.halves`."""
        draw, step = resets.halves(self.env)
        return draw, lambda drawn, state, action, params: step(drawn, state, self.clipped(action, params), params)

    def clipped(self, action: Array, params: PyTree) -> Array:
        """The nearest action that is allowed."""
        box = self.env.action_space(params)
        return jnp.clip(action, box.low, box.high)


def with_legal_actions(env: Any) -> Any:
    """``env``, with :class:`ClipAction` around it where its actions are continuous and nothing clips them yet."""
    if isinstance(env, ClipAction) or not isinstance(env.action_space(env.default_params), spaces.Box):
        return env
    return ClipAction(env)


@dataclasses.dataclass(frozen=True)
class FunctionalEnv:
    """An environment from two plain functions; adds the automatic reset and the time limit.

    ``reset_fn(key, params) -> (obs, state)``; ``step_fn(key, state, action, params) -> (obs, state, reward, terminated)``.
    ``space`` is a gymnax space for the actions; an episode is cut after ``max_steps`` steps.

    >>> walk = FunctionalEnv(
    ...     reset_fn=lambda key, params: (jnp.zeros(1), jnp.zeros(())),
    ...     step_fn=lambda key, x, action, params: ((x + action)[None], x + action, 1.0, x + action >= 3),
    ...     space=spaces.Discrete(2), max_steps=10)
    >>> obs, state = walk.reset(jax.random.key(0), None)
    >>> walk.step(jax.random.key(1), state, 1, None)[0]
    Array([1.], dtype=float32)
    """

    reset_fn: Callable[[Array, PyTree], tuple[PyTree, PyTree]]
    step_fn: Callable[[Array, PyTree, PyTree, PyTree], tuple[PyTree, PyTree, Array, Array]]
    space: Any
    max_steps: int
    default_params: PyTree = None
    name: str = "functional"

    def __post_init__(self) -> None:
        if not 1 <= self.max_steps <= MAX_COUNT:
            raise ValueError(f"max_steps = {self.max_steps}; an episode is counted from 1 to 2**31 - 1 steps")

    def action_space(self, params: PyTree) -> Any:
        """The gymnax space of the actions."""
        return self.space

    def reset(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """A fresh episode: ``(obs, (state, time))``."""
        obs, state = self.reset_fn(key, params)
        return obs, (state, jnp.int32(0))

    def step(self, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        """One step, and a fresh episode where this one ended."""
        draw, step = self.halves()
        return step(draw(key, params), state, action, params)

    def halves(self) -> tuple[resets.Draw, resets.Step]:
        """The fresh episode and the step, see :func:`jaxpg.resets.halves`."""

        def draw(key: Array, params: PyTree) -> PyTree:
            key_step, key_reset = jax.random.split(key)
            return key_step, self.reset(key_reset, params)

        def step(drawn: PyTree, state: PyTree, action: PyTree, params: PyTree) -> tuple:
            (key, fresh), (inner, time) = drawn, state
            final_obs, inner, reward, terminated = self.step_fn(key, inner, action, params)
            truncated = time + 1 >= self.max_steps
            obs, state = resets.restarted(terminated | truncated, fresh, (final_obs, (inner, time + 1)))
            info = {"final_observation": final_obs}
            return obs, state, jnp.asarray(reward, float), jnp.asarray(terminated, bool), truncated, info

        return draw, step


def time_limit(env: Any, params: PyTree) -> int | None:
    """The time limit that an environment declares, in steps; ``None`` where it declares none."""
    limit = getattr(env, "max_steps", None) or getattr(params, "max_steps_in_episode", None)
    return None if limit is None else int(limit)


def horizon(env: Env) -> int:
    """The time limit that an environment declares, in steps; a ``ValueError`` where it declares none."""
    limit = time_limit(env, env.default_params)
    if limit is None:
        raise ValueError("the environment declares no time limit (default_params.max_steps_in_episode); pass max_steps")
    return limit
