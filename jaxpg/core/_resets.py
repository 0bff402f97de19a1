"""Steps in two halves: what they need of randomness, a fresh episode included, and the step itself.

An environment that resets itself computes a fresh episode on every step and throws nearly all of them away. Inside the scan of
a rollout those are many small operations, one step after the other; drawn before it, they are one large one.
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

    They come from the method ``halves`` of the environment's class, if that class is also the one that defines ``step``, and
    from gymnax's parts for its environments. Any other draws the key and no start.

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
    """Steps that share a start in a rollout of ``num_steps``, which it divides: at most what ``env.start_interval`` says.

    Where a reset costs more than a step, an environment need not compute one in every step to use one in hundreds. Every start
    has the right distribution; two episodes of one environment that end within an interval are followed by the same one.
    """
    longest = getattr(env, "start_interval", 1)
    return max(x for x in range(1, max(min(longest, num_steps), 1) + 1) if num_steps % x == 0)


def is_small(drawn: PyTree, num_envs: int) -> bool:
    """What ``draw`` gives for a step of one environment takes 256 bytes or less: a rollout may hold that for all its steps.

    That is no more than a few observations, and a rollout keeps all of those anyway. States of larger environments would fill
    the memory; drawn within the scan they take longer, but nothing beside the steps of such an environment.
    """
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(drawn)) <= 256 * num_envs


def definer(env: Any, name: str) -> type | None:
    """The class that defines this method of ``env``."""
    return next((cls for cls in type(env).__mro__ if name in vars(cls)), None)


def gymnax_halves(env: Any) -> tuple[Draw, Step]:
    """The parts of ``gymnax.environments.environment.Environment.step``."""

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
    """Observation and state to continue with: the fresh ones where the episode is over."""
    return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, ended)
