"""Environments from plain functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.core import _resets as resets
from jaxpg.core.types import MAX_COUNT, Array, PyTree


@dataclasses.dataclass(frozen=True)
class FunctionalEnv:
    """An environment from two plain functions; adds the automatic reset and the time limit.

    Args:
        reset_fn: ``(key, params) -> (obs, state)``.
        step_fn: ``(key, state, action, params) -> (obs, state, reward, terminated)``, or with ``truncated`` as a fifth value:
            the episode is cut here.
        space: a gymnax space for the actions.
        max_steps: an episode is cut after so many steps at the latest; 1 to 2**31 - 1, else ``ValueError``. ``None``: only
            ``step_fn`` says where one ends.
        default_params: what the functions get as ``params`` if nothing else is given.
        name: presets are looked up by it.
        obs_space: a gymnax space for the observations, where you declare one: ``observation="bounds"`` needs it, and what is
            ``Discrete`` in it is one-hot for the default networks.
        mask_fn: ``(state, params) -> mask``, where not all actions are always legal: booleans ``[A]`` for ``Discrete(A)``,
            true for what is legal (a tree of them for a tree of spaces). The environment's method ``action_mask`` calls it.
        start_interval: steps of a rollout that share one fresh start for each environment. A reset is computed so many times
            less often than a step; of episodes that end within an interval, in one environment, the next begin alike.
        source: the environment of another library behind the functions, if there is one, for those who draw it.

    >>> from gymnax.environments import spaces
    >>> walk = FunctionalEnv(
    ...     reset_fn=lambda key, params: (jnp.zeros(1), jnp.zeros(())),
    ...     step_fn=lambda key, x, action, params: ((x + action)[None], x + action, 1.0, x + action >= 3),
    ...     space=spaces.Discrete(2), max_steps=10)
    >>> obs, state = walk.reset(jax.random.key(0), None)
    >>> walk.step(jax.random.key(1), state, 1, None)[0]
    Array([1.], dtype=float32)
    """

    reset_fn: Callable[[Array, PyTree], tuple[PyTree, PyTree]]
    step_fn: Callable[[Array, PyTree, PyTree, PyTree], tuple]
    space: Any
    max_steps: int | None
    default_params: PyTree = None
    name: str = "functional"
    obs_space: Any = None
    mask_fn: Callable[[PyTree, PyTree], PyTree] | None = None
    start_interval: int = 1
    source: Any = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.max_steps is not None and not 1 <= self.max_steps <= MAX_COUNT:
            raise ValueError(f"max_steps = {self.max_steps}; an episode is counted from 1 to 2**31 - 1 steps")
        if self.start_interval < 1:
            raise ValueError(f"start_interval = {self.start_interval}; at least 1 step has a start")

    def action_space(self, params: PyTree) -> Any:
        """The gymnax space of the actions."""
        return self.space

    @property
    def observation_space(self) -> Callable[[PyTree], Any]:
        """``params -> space`` of the observations; ``AttributeError`` where none is declared."""
        if self.obs_space is None:
            raise AttributeError("observation_space: no obs_space is given")
        return lambda params: self.obs_space

    @property
    def action_mask(self) -> Callable[[PyTree, PyTree], PyTree]:
        """``(state, params) -> mask`` of the legal actions; ``AttributeError`` where none is declared."""
        mask = self.mask_fn
        if mask is None:
            raise AttributeError("action_mask: no mask_fn is given")
        return lambda state, params: mask(state[0], params)

    def reset(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """A fresh episode: ``(obs, (state, time))``."""
        obs, state = self.reset_fn(key, params)
        return obs, (state, jnp.int32(0))

    def step(self, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        """One step, and a fresh episode where this one ended."""
        draw, step = self.halves()
        return step(draw(key, params), state, action, params)

    def halves(self) -> tuple[resets.Draw, resets.Step]:
        """The fresh episode and the step, see :func:`jaxpg.core._resets.halves`."""

        def draw(key: Array, params: PyTree) -> PyTree:
            key_step, key_reset = jax.random.split(key)
            return key_step, self.reset(key_reset, params)

        def step(drawn: PyTree, state: PyTree, action: PyTree, params: PyTree) -> tuple:
            key, fresh = drawn
            final_obs, state, reward, terminated, truncated, info = self.advance(key, state, action, params)
            obs, state = resets.restarted(terminated | truncated, fresh, (final_obs, state))
            return obs, state, reward, terminated, truncated, info | {"final_observation": final_obs}

        return draw, step

    def advance(self, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        """One step without the automatic reset: ``(obs, state, reward, terminated, truncated, info)``."""
        inner, time = state
        obs, inner, reward, terminated, *cut = self.step_fn(key, inner, action, params)
        truncated = jnp.asarray(False) if self.max_steps is None else time + 1 >= self.max_steps
        if cut:
            truncated = truncated | jnp.asarray(cut[0], bool)
        return obs, (inner, time + 1), jnp.asarray(reward, float), jnp.asarray(terminated, bool), truncated, {}
