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
    """An environment from two plain functions; it adds the automatic reset and the time limit.

    Args:
        reset_fn: ``(key, params) -> (obs, state)``.
        step_fn: ``(key, state, action, params) -> (obs, state, reward, terminated)``, or with ``truncated`` as a fifth value:
            the episode is cut here.
        space: A gymnax space for the actions.
        max_steps: An episode is cut after so many steps at the latest, 1 to 2**31 - 1. ``None``: only ``step_fn`` ends one.
        default_params: What the functions get as ``params`` if nothing else is given.
        name: For tables, figures and presets.
        obs_space: A gymnax space for the observations, if you declare one: ``observation="bounds"`` needs it, and what is
            ``Discrete`` in it is one-hot for the default networks.
        mask_fn: ``(state, params) -> mask``, where not all actions are always legal: booleans ``[A]`` for ``Discrete(A)``, true
            for a legal action (a tree of them for a tree of spaces). The method ``action_mask`` of the environment calls it.
        start_interval: Steps of a rollout that share one new start for each environment. A reset is computed so many times less
            often than a step; episodes that end within one interval in one environment are followed by the same start.
        source: The environment of another library behind the functions, if there is one, for drawing it.

    Raises:
        ValueError: For ``max_steps`` or ``start_interval`` out of range.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxpg
        >>> walk = jaxpg.envs.FunctionalEnv(
        ...     reset_fn=lambda key, params: (jnp.zeros(1), jnp.zeros(())),
        ...     step_fn=lambda key, x, action, params: ((x + action)[None], x + action, 1.0, x + action >= 3),
        ...     space=jaxpg.spaces.Discrete(2), max_steps=10)
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
        """A new episode: ``(obs, (state, time))``."""
        obs, state = self.reset_fn(key, params)
        return obs, (state, jnp.int32(0))

    def step(self, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        """One step, and a new episode where this one ended: ``(obs, state, reward, terminated, truncated, info)``."""
        draw, step = self.halves()
        return step(draw(key, params), state, action, params)

    def halves(self) -> tuple[resets.Draw, resets.Step]:
        """The new episode and the step as two functions, so that a rollout can draw new episodes less often."""

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
