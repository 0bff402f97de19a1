"""The interface of Brax, and of MuJoCo Playground: ``reset(key) -> State`` and ``step(State, action) -> State``."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments.spaces import Box

from jaxpg.core.types import Array, PyTree
from jaxpg.envs._spaces import describe_arrays
from jaxpg.envs.functional import FunctionalEnv


def from_brax(env: Any, max_steps: int, *, action_repeat: int = 1, name: str = "brax") -> FunctionalEnv:
    """A Brax or MuJoCo Playground environment, as its class makes it, without wrappers.

    Brax's ``done`` is a termination here. The time limit is added, and cuts the episode: the value of its last observation
    counts. Actions lie in [-1, 1], as in both libraries.

    Args:
        env: Has ``reset(key) -> state``, ``step(state, action) -> state`` and ``action_size``; states have ``obs``, ``reward``
            and ``done``.
        max_steps: The time limit, which Brax and Playground leave to a wrapper, in environment steps, each of which repeats an
            action ``action_repeat`` times.
        action_repeat: Physical steps of each environment step; their rewards add up.
        name: For tables, figures and presets.

    Returns:
        An environment that follows ``jaxpg.types.Env``.

    Raises:
        ValueError: For an environment in a wrapper, which would reset and cut episodes too.

    Examples:
        >>> import jaxpg
        >>> from brax import envs  # doctest: +SKIP
        >>> env = jaxpg.envs.from_brax(envs.get_environment("ant"), max_steps=1000)  # doctest: +SKIP
    """
    if hasattr(env, "env"):
        raise ValueError(
            f"env is a {type(env).__name__} around an environment; pass env.unwrapped, because jaxpg adds resets and limits"
        )

    def reset(key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        state = env.reset(key)
        return state.obs, jax.tree.map(jnp.asarray, state)

    def once(state: PyTree, action: Array) -> tuple[PyTree, Array]:
        after = env.step(jax.tree.map(lambda x: x, state), action)  # a copy, because Playground changes the dicts of a state
        return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state), after.reward

    def step(key: Array, state: PyTree, action: Array, params: PyTree) -> tuple:
        state, total = once(state, action)
        for _ in range(action_repeat - 1):
            is_done = state.done > 0.5
            after, reward = once(state, action)
            state = jax.tree.map(functools.partial(jnp.where, is_done), state, after)
            total += jnp.where(is_done, 0.0, reward)
        return state.obs, state, total, state.done > 0.5

    obs = jax.eval_shape(lambda key: env.reset(key).obs, jax.random.key(0))
    return FunctionalEnv(
        reset_fn=reset,
        step_fn=step,
        space=Box(-1.0, 1.0, (env.action_size,)),
        max_steps=max_steps,
        name=name,
        obs_space=describe_arrays(obs),
        start_interval=16,  # a start in each step of an inverted pendulum takes a tenth of the time
        source=env,
    )
