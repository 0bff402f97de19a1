"""evaluate: play complete episodes with a policy. Jitted, and may be vmapped."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxpg.core import rollout
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.types import MAX_COUNT, Array, EnvLoop, Metrics, TrainState
from jaxpg.envs import longest_episode

Carry = tuple[Array, EnvLoop, Array, Metrics]  # time, environments, which episodes are running, results


@functools.partial(jax.jit, static_argnames=("algo", "num_episodes", "greedy", "max_steps"))
def evaluate(
    algo: Algorithm, state: TrainState, key: Array, num_episodes: int, *, greedy: bool, max_steps: int | None = None
) -> Metrics:
    """``num_episodes`` complete episodes of the policy in ``state``, from new starts, one for each of as many environments.

    The same key gives the same starts. Works under ``jit`` and ``vmap``.

    Args:
        algo: The algorithm.
        state: Its state; it is not changed.
        key: For starts, actions and environments.
        num_episodes: How many episodes, played in parallel.
        greedy: True: the most probable actions; false: sampled ones.
        max_steps: Steps after which the evaluation stops; by default the time limit of the environment.

    Returns:
        ``episode_return``, ``episode_length`` and ``episode_finished``, ``[num_episodes]`` each. An episode that had not ended
            after ``max_steps`` is not finished, and has its return so far.

    Raises:
        ValueError: For numbers below 1, and where neither ``max_steps`` nor a time limit is known.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"))
        >>> result = jaxpg.evaluate(algo, algo.init(jax.random.key(0)), jax.random.key(1), num_episodes=8, greedy=True)
        >>> result["episode_return"].shape
        (8,)
    """
    return episodes(algo, state, key, num_episodes, greedy, max_steps)


def episodes(
    algo: Algorithm, state: TrainState, key: Array, num_episodes: int, greedy: bool | Array, max_steps: int | None = None
) -> Metrics:
    """``evaluate`` without jit; ``greedy`` may be traced, so that one program serves both modes."""
    if num_episodes < 1:
        raise ValueError(f"num_episodes = {num_episodes}; at least 1 is needed")
    if max_steps is not None and not 1 <= max_steps <= MAX_COUNT:
        raise ValueError(f"max_steps = {max_steps}; an episode is counted from 1 to 2**31 - 1 steps")
    limit = longest_episode(algo.env, state.env_params) if max_steps is None else max_steps
    key_reset, key_steps = jax.random.split(key)
    env_params = rollout.spread_params(algo.env, state.env_params, algo.num_envs, num_episodes)
    memory = algo.network.initial_memory(num_episodes)
    loop = rollout.reset(key_reset, algo.env, env_params, num_episodes, memory)
    actor = algo.actor(state.replace(loop=loop), greedy=greedy)
    starts = loop.obs, loop.env_state

    def is_running(carry: Carry) -> Array:
        return (carry[0] < limit) & jnp.any(carry[2])

    def step(carry: Carry) -> Carry:
        time, loop, alive, result = carry
        key = jax.random.fold_in(key_steps, time)
        loop, row = rollout.continuing(key, algo.env, env_params, actor, loop, 1, starts)
        seen = {name: getattr(row, name)[0] for name in result}
        result = {name: jnp.where(alive, seen[name], result[name]) for name in result}
        return time + 1, loop, alive & ~row.done[0], result

    start = {"episode_return": loop.episode_return, "episode_length": loop.episode_length}
    alive = jnp.ones(num_episodes, bool)
    _, _, alive, result = jax.lax.while_loop(is_running, step, (jnp.int32(0), loop, alive, start))
    return result | {"episode_finished": ~alive}
