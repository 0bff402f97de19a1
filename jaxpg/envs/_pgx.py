"""Environments with the interface of pgx: ``init(key) -> State`` and ``step(State, action, key) -> State``."""

from __future__ import annotations

from typing import Any

import jax
from gymnax.environments.spaces import Discrete

from jaxpg.core.types import Array, PyTree
from jaxpg.envs import _spaces
from jaxpg.envs.functional import FunctionalEnv


def from_pgx(env: Any, *, max_steps: int | None = None, name: str = "") -> FunctionalEnv:
    """A pgx environment with one player: its MinAtar games and 2048. The ``legal_action_mask`` of a state is used.

    Args:
        env: What ``pgx.make`` returns.
        max_steps: An episode is cut after so many steps; its own flags end it too.
        name: For tables, figures and presets; by default ``pgx/`` and ``env.id``.

    Returns:
        An environment that follows ``jaxpg.types.Env``.

    Raises:
        ValueError: For games of several players.

    Examples:
        >>> import jaxpg
        >>> import pgx  # doctest: +SKIP
        >>> env = jaxpg.envs.from_pgx(pgx.make("minatar-breakout"), max_steps=10_000)  # doctest: +SKIP
    """
    name = name or f"pgx/{env.id}"
    if env.num_players != 1:
        raise ValueError(f"{name} has {env.num_players} players; jaxpg trains one policy on one reward")

    def reset(key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        state = env.init(key)
        return state.observation, state

    def step(key: Array, state: PyTree, action: Array, params: PyTree) -> tuple:
        state = env.step(state, action, key)
        return state.observation, state, state.rewards[0], state.terminated, state.truncated

    obs = jax.eval_shape(lambda key: env.init(key).observation, jax.random.key(0))
    is_constant = hasattr(env, "legal_action_mask")  # as in MinAtar, where all actions are always legal
    return FunctionalEnv(
        reset_fn=reset,
        step_fn=step,
        space=Discrete(env.num_actions),
        max_steps=max_steps,
        name=name,
        obs_space=_spaces.describe_arrays(obs),
        mask_fn=None if is_constant else lambda state, params: state.legal_action_mask,
        start_interval=4,
        source=env,
    )
