"""Environments by name: gymnax's, and those of other suites as ``suite/name``."""

from __future__ import annotations

import functools
from typing import Any

import gymnax

from jaxpg.core.hparams import shown, unknown_name
from jaxpg.envs import _suites


@functools.cache
def make(env_id: str) -> Any:
    """The environment of that name: gymnax's, or ``suite/name`` of a suite whose package is installed.

    Examples of the latter are ``brax/ant``, ``playground/CartpoleBalance``, ``craftax/Craftax-Classic-Symbolic``,
    ``navix/Navix-Empty-5x5-v0``, ``xland/MiniGrid-Empty-5x5``, ``jumanji/Snake-v1`` and ``pgx/minatar-breakout``. The result is
    cached: environments hash by identity, and a new one would compile again.

    Args:
        env_id: The name.

    Returns:
        An environment that follows ``jaxpg.types.Env``.

    Raises:
        ValueError: For an unknown name, with the nearest known ones; for a suite whose package is missing or cannot make the
            environment, with what to install.

    Examples:
        >>> import jaxpg
        >>> jaxpg.make("CartPole-v1").default_params.max_steps_in_episode
        500
    """
    if not isinstance(env_id, str):
        raise ValueError(f"env_id = {shown(env_id)} is not a name; pass text, e.g. 'CartPole-v1'")
    suite, slash, name = env_id.partition("/")
    if slash:
        return _suites.make(suite, name)
    if env_id not in gymnax.registered_envs:
        raise ValueError(unknown_name("environment", env_id, gymnax.registered_envs))
    return gymnax.make(env_id)[0]
