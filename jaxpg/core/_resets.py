"""Split ``env.step`` into two functions: one draws all random numbers, including a new episode, and one does the step.

An environment with automatic resets computes a new episode in every step and discards nearly all of them. Inside the scan of a
rollout these are many small operations, one step after another; drawn before the scan, they are one large operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments.environment import Environment

from jaxpg.core.types import Array, Env, PyTree

Draw = Callable[[Array, PyTree], PyTree]  # (key, params) -> drawn: a key, and a fresh (observation, state) or ()
Step = Callable[[PyTree, PyTree, PyTree, PyTree], tuple]  # (drawn, state, action, params) -> the six values of env.step


def halves(env: Env) -> tuple[Draw, Step]:
    """``draw`` and ``step`` with ``step(draw(key, params), state, action, params) == env.step(key, state, action, params)``.

    They come from the method ``halves`` of the environment, if the same class defines ``step``, or are made from the parts of
    ``step`` of gymnax. For other environments only the key is drawn, and no new episode.

    >>> import gymnax
    >>> env, params = gymnax.make("CartPole-v1")
    >>> draw, step = halves(env)
    >>> drawn = draw(jax.random.key(1), params)
    >>> obs, state = env.reset(jax.random.key(0), params)
    >>> bool(jnp.all(step(drawn, state, 1, params)[0] == env.step(jax.random.key(1), state, 1, params)[0]))
    True
    """
    owner = definer(env, "step")
    if owner is not None and owner is definer(env, "halves"):
        return env.halves()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(env, Environment) and owner is Environment:
        return gymnax_halves(env)
    return (lambda key, params: (key, ())), lambda drawn, state, action, params: env.step(drawn[0], state, action, params)


def interval(env: Any, num_steps: int) -> int:
    """The number of steps that share a new start: the largest divisor of ``num_steps`` up to ``env.start_interval``.

    Where a reset is slower than a step, it is a waste to compute one in every step. Each start has the right distribution, but
    two episodes of one environment that end within an interval are followed by the same start.
    """
    longest = getattr(env, "start_interval", 1)
    return max(x for x in range(1, max(min(longest, num_steps), 1) + 1) if num_steps % x == 0)


def is_small(drawn: PyTree, num_envs: int) -> bool:
    """Whether the result of ``draw`` for one step of one environment has at most 256 bytes: then it is drawn before the scan.

    That is about the size of a few observations, which a rollout stores anyway. Larger states would fill the memory. They are
    drawn inside the scan, which is slower, but the steps of such environments take much longer.
    """
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(drawn)) <= 256 * num_envs


def definer(env: Any, name: str) -> type | None:
    """The class of ``env`` that defines the method ``name``."""
    return next((cls for cls in type(env).__mro__ if name in vars(cls)), None)


def gymnax_halves(env: Any) -> tuple[Draw, Step]:
    """``halves`` from the parts of ``gymnax.environments.environment.Environment.step``."""

    def draw(key: Array, params: PyTree) -> PyTree:
        key_step, key_reset = jax.random.split(key)
        return key_step, env.reset_env(key_reset, params)

    def step(drawn: PyTree, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        key, fresh = drawn
        final_obs, state, reward, terminated, info = env.step_env(key, state, action, params)
        truncated = env.is_truncated(state, params)
        obs, state = restarted(terminated | truncated, fresh, (final_obs, state))
        return obs, state, reward, terminated, truncated, {**info, "final_observation": final_obs}

    return draw, step


def restarted(done: Array, fresh: PyTree, ended: PyTree) -> PyTree:
    """Observation and state to continue with: the new ones where the episode is over."""
    return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, ended)
