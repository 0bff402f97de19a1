"""Masks of legal actions, as a part of the observation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments.environment import Environment
from gymnax.environments.spaces import Box, Dict, Tuple

from jaxpg.core import _resets as resets
from jaxpg.core.types import Array, PyTree
from jaxpg.envs._params import WithParams
from jaxpg.envs.actions import LegalActions
from jaxpg.envs.functional import FunctionalEnv

MASK = "action_mask"


@dataclasses.dataclass(frozen=True)
class WithActionMask:
    """The environment with its action mask in the observation; see ``jaxpg.envs.with_action_mask``.

    Raises ``ValueError`` where the observation has a key ``action_mask`` already.
    """

    env: Any

    def __getattr__(self, name: str) -> Any:
        if name in ("env", MASK):  # not set yet, for example while unpickling; the mask is in the observation now
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def observation_space(self) -> Callable[[PyTree], Any]:
        """``params -> space``, with the mask as booleans; ``AttributeError`` where the environment declares none."""
        inner = self.env.observation_space

        def space(params: PyTree) -> Dict:
            mask = jax.eval_shape(lambda key: self.mask(self.env.reset(key, params)[1], params), jax.random.key(0))
            obs = inner(params)
            parts = obs.spaces if isinstance(obs, Dict) else {"obs": obs}
            return Dict({**parts, MASK: mask_space(mask)})

        return space

    def mask(self, state: PyTree, params: PyTree) -> PyTree:
        """Which actions are legal in a state."""
        return jax.tree.map(lambda x: jnp.asarray(x, bool), self.env.action_mask(state, params))

    def reset(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """A fresh episode."""
        obs, state = self.env.reset(key, params)
        return join(obs, self.mask(state, params)), state

    def step(self, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        """The inner environment's step, with masks."""
        draw, step = self.halves()
        return step(draw(key, params), state, action, params)

    def halves(self) -> tuple[resets.Draw, resets.Step]:
        """Likewise, see ``jaxpg.core._resets.halves``."""
        draw, step = resets.halves(self.env)
        advance = advance_of(self.env)
        if advance is None:
            return draw, lambda drawn, state, action, params: self.label(step(drawn, state, action, params), params)

        def draw_both(key: Array, params: PyTree) -> PyTree:
            key, (obs, state) = draw(key, params)
            return key, (join(obs, self.mask(state, params)), state)

        def step_both(drawn: PyTree, state: PyTree, action: PyTree, params: PyTree) -> tuple:
            key, fresh = drawn
            obs, state, reward, terminated, truncated, info = advance(key, state, action, params)
            final_obs = join(obs, self.mask(state, params))
            obs, state = resets.restarted(terminated | truncated, fresh, (final_obs, state))
            return obs, state, reward, terminated, truncated, {**info, "final_observation": final_obs}

        return draw_both, step_both

    def label(self, result: tuple, params: PyTree) -> tuple:
        """The six values of a step, with masks: all legal in a final observation at the end of an episode."""
        obs, state, reward, terminated, truncated, info = result
        mask = self.mask(state, params)
        last = jax.tree.map(lambda x: x | terminated | truncated, mask)
        info = {**info, "final_observation": join(info["final_observation"], last)}
        return join(obs, mask), state, reward, terminated, truncated, info


def with_action_mask(env: Any) -> Any:
    """``env`` with observations ``{"obs": obs, "action_mask": mask}``, if it has a method ``action_mask(state, params)``.

    A mask is true for a legal action: booleans ``[A]`` for ``Discrete(A)``. The default networks give illegal actions
    probability 0. Observations that are dicts keep their keys and get the key ``action_mask``. The mask in
    ``info["final_observation"]`` is that of the final state; for an environment that is neither gymnax's nor a
    ``FunctionalEnv``, of which only the step with its automatic reset is known, all actions are legal there, where nothing is
    decided any more. ``jaxpg.ppo`` and the other functions use this by themselves.

    Args:
        env: The environment.

    Returns:
        The environment with masks; ``env`` itself where it has no method ``action_mask``.

    Raises:
        ValueError: When used, where the observation has a key ``action_mask`` already.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxpg
        >>> walk = jaxpg.envs.FunctionalEnv(
        ...     reset_fn=lambda key, params: (jnp.zeros(1), jnp.zeros(())),
        ...     step_fn=lambda key, x, action, params: ((x + action)[None], x + action, 1.0, x + action >= 3),
        ...     space=jaxpg.spaces.Discrete(2), max_steps=10, mask_fn=lambda x, params: jnp.array([x > 0, True]))
        >>> jaxpg.envs.with_action_mask(walk).reset(jax.random.key(0), None)[0]["action_mask"].tolist()
        [False, True]
    """
    return WithActionMask(env) if callable(getattr(env, MASK, None)) else env


def join(obs: PyTree, mask: PyTree) -> dict[str, PyTree]:
    """The observation with its mask."""
    if not isinstance(obs, Mapping):
        return {"obs": obs, MASK: mask}
    if MASK in obs:
        raise ValueError(f"the observation has a key {MASK!r} already; pass the environment as it is, without WithActionMask")
    return {**obs, MASK: mask}


def mask_space(mask: PyTree) -> Any:
    """The space of a mask."""
    if isinstance(mask, Mapping):
        return Dict({key: mask_space(part) for key, part in mask.items()})
    if isinstance(mask, tuple | list):
        return Tuple([mask_space(part) for part in mask])
    return Box(0, 1, mask.shape, jnp.bool_)


def advance_of(env: Any) -> Callable[..., tuple] | None:
    """``(key, state, action, params) -> (obs, state, reward, terminated, truncated, info)``, a step before the automatic reset.

    ``key`` is the first part of what ``jaxpg.core._resets.halves`` draws. ``None`` if only the environment's own step is
    known.
    """
    owner = resets.definer(env, "step")
    if isinstance(env, WithParams):
        return advance_of(env.env)
    if isinstance(env, LegalActions):
        advance = advance_of(env.env)
        return advance and (lambda key, state, action, params: advance(key, state, env.legalize(action, params), params))
    if owner is FunctionalEnv and resets.definer(env, "halves") is FunctionalEnv:
        return env.advance
    if isinstance(env, Environment) and owner is Environment:
        return lambda *given: advance_gymnax(env, *given)
    return None


def advance_gymnax(env: Any, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
    """The parts of ``gymnax.environments.environment.Environment.step`` before the reset."""
    obs, state, reward, terminated, info = env.step_env(key, state, action, params)
    return obs, state, reward, terminated, env.is_truncated(state, params), info
