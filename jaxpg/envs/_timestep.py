"""Environments whose state is a dm_env ``TimeStep``: ``step(TimeStep, action) -> TimeStep``. XLand-MiniGrid and Navix.

At the end of an episode ``discount == 0`` means termination, and another discount means truncation [Muldal et al. 2019].
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Discrete

from jaxpg.core.spaces import MultiDiscrete
from jaxpg.core.types import Array, PyTree
from jaxpg.envs import _spaces
from jaxpg.envs.functional import FunctionalEnv


def from_xland(env: Any, params: Any, *, name: str = "xland") -> FunctionalEnv:
    """An XLand-MiniGrid environment; its parameters, which hold sizes, are fixed here. Tiles and colours are categories.

    Args:
        env: The first value that ``xminigrid.make`` returns.
        params: The second value.
        name: For tables, figures and presets.

    Returns:
        An environment that follows ``jaxpg.types.Env``.

    Examples:
        >>> import jaxpg
        >>> import xminigrid  # doctest: +SKIP
        >>> env = jaxpg.envs.from_xland(*xminigrid.make("MiniGrid-Empty-5x5"))  # doctest: +SKIP
    """
    rows, columns, _ = env.observation_shape(params)
    obs_space = MultiDiscrete(np.broadcast_to([13, 12], (rows, columns, 2)), jnp.uint8)  # its NUM_TILES, NUM_COLORS

    def reset(key: Array, _: PyTree) -> tuple[PyTree, PyTree]:
        timestep = env.reset(params, key)
        return timestep.observation, timestep

    def step(key: Array, timestep: PyTree, action: Array, _: PyTree) -> tuple:
        timestep = env.step(params, timestep, action)
        return timestep.observation, timestep, timestep.reward, *ends(timestep)

    space = Discrete(env.num_actions(params))
    return FunctionalEnv(reset, step, space, params.max_steps, name=name, obs_space=obs_space, start_interval=4, source=env)


def from_navix(env: Any, *, name: str = "navix") -> FunctionalEnv:
    """A Navix environment, without its own automatic reset, which is one step late.

    Entities, colours and states are categories, in observations of three axes; ``step_type`` 1 is a cut and 2 a termination.

    Args:
        env: What ``navix.make`` returns.
        name: For tables, figures and presets.

    Returns:
        An environment that follows ``jaxpg.types.Env``.

    Examples:
        >>> import jaxpg
        >>> import navix  # doctest: +SKIP
        >>> env = jaxpg.envs.from_navix(navix.make("Navix-Empty-5x5-v0"))  # doctest: +SKIP
    """

    def reset(key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        timestep = env.reset(key)
        return timestep.observation, timestep

    def step(key: Array, timestep: PyTree, action: Array, params: PyTree) -> tuple:
        timestep = env._step(timestep, action)
        return timestep.observation, timestep, timestep.reward, timestep.step_type == 2, timestep.step_type == 1

    obs = jax.eval_shape(lambda key: env.reset(key).observation, jax.random.key(0))
    grid = MultiDiscrete(np.broadcast_to([11, 6, 4], obs.shape), obs.dtype) if obs.shape[-1:] == (3,) else None
    space, declared = Discrete(int(env.action_space.n)), grid or _spaces.describe_arrays(obs)
    return FunctionalEnv(reset, step, space, env.max_steps, name=name, obs_space=declared, start_interval=16, source=env)


def ends(timestep: Any) -> tuple[Array, Array]:
    """Whether an episode terminated with this step, and whether it was truncated."""
    return timestep.last() & (timestep.discount == 0), timestep.last() & (timestep.discount != 0)
