"""Rollouts: a policy acts in ``B`` environments for ``T`` steps, as one scan.

A rollout is a function ``(key, env, env_params, actor, loop, num_steps) -> (loop, trajectory)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.core import _compensated as compensated
from jaxpg.core import _platform as platform
from jaxpg.core import _resets as resets
from jaxpg.core._packed import Packed
from jaxpg.core.types import MAX_COUNT, Actor, Array, Env, EnvLoop, PyTree, Trajectory


def strong(tree: PyTree) -> PyTree:
    """The same arrays with strong types: gymnax states hold Python scalars, and a weak type would compile a program twice."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def reset(key: Array, env: Env, env_params: PyTree, num_envs: int, memory: PyTree = ()) -> EnvLoop:
    """``num_envs`` new episodes, and the network's memory, which their first step drops.

    Args:
        key: For the first states.
        env: The environment.
        env_params: Its parameters; leaves may have a leading axis ``num_envs``, one value for each environment.
        num_envs: How many environments, ``B``.
        memory: The network's memory, leaves ``[B, ...]``.

    Returns:
        The environments, leaves ``[B, ...]``.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> env = jaxpg.make("CartPole-v1")
        >>> jaxpg.rollout.reset(jax.random.key(0), env, env.default_params, num_envs=3).obs.shape
        (3, 4)
    """
    axes = param_axes(env, env_params, num_envs)
    obs, env_state = jax.vmap(env.reset, (0, axes))(jax.random.split(key, num_envs), env_params)
    zero = jnp.zeros(num_envs, jnp.result_type(float))
    return EnvLoop(strong(env_state), strong(obs), zero, jnp.zeros(num_envs, jnp.int32), zero, strong(memory))


def param_axes(env: Env, env_params: PyTree, num_envs: int) -> PyTree:
    """Where ``env_params`` has one value for each environment, for ``vmap``: 0 there, ``None`` elsewhere.

    Those are the leaves with one axis more than in ``env.default_params``, of length ``num_envs``.
    """
    default = env.default_params
    if jax.tree.structure(default) != jax.tree.structure(env_params):
        return None

    def axis(default: Any, value: Array) -> int | None:
        return 0 if jnp.shape(value) == (num_envs, *jnp.shape(default)) else None

    axes = [axis(*pair) for pair in zip(jax.tree.leaves(default), jax.tree.leaves(env_params), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(env_params), axes) if any(axis == 0 for axis in axes) else None


def spread_params(env: Env, env_params: PyTree, num_envs: int, num_episodes: int) -> PyTree:
    """``env_params`` of ``num_envs`` environments for ``num_episodes``, which take their values in turn."""
    axes = param_axes(env, env_params, num_envs)
    if axes is None:
        return env_params
    turn = jnp.arange(num_episodes) % num_envs
    return jax.tree.map(lambda axis, x: x[turn] if axis == 0 else x, axes, env_params, is_leaf=lambda axis: axis is None)


def continuing(
    key: Array,
    env: Env,
    env_params: PyTree,
    actor: Actor,
    loop: EnvLoop,
    num_steps: int,
    starts: tuple[PyTree, PyTree] | None = None,
) -> tuple[EnvLoop, Trajectory]:
    """``num_steps`` steps from where the last rollout stopped; episodes end and begin inside. Every row has weight 1.

    Args:
        key: For actions and environments.
        env: The environment.
        env_params: Its parameters; leaves may have a leading axis ``B``, one value for each environment.
        actor: The policy, see ``jaxpg.Algorithm.actor``.
        loop: The ``B`` environments, from ``reset`` or the last rollout.
        num_steps: Steps of each environment, ``T``.
        starts: First observations and states ``[B, ...]`` for all episodes that begin in this rollout, for a caller that only
            looks at first episodes; by default each episode gets a start of its own.

    Returns:
        The environments after the last step, and the trajectory, leaves ``[T, B, ...]``.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, hidden=(8,))
        >>> def collect(key):
        ...     state = algo.init(key)
        ...     return jaxpg.rollout.continuing(key, algo.env, state.env_params, algo.actor(state), state.loop, 5)
        >>> loop, trajectory = jax.eval_shape(collect, jax.random.key(0))
        >>> trajectory.reward.shape
        (5, 4)
    """
    interval = 1 if starts is not None else resets.interval(env, num_steps)
    key_noise, key_env, *key_starts = jax.random.split(key, 2 + (interval > 1))
    noise = actor.noise(key_noise, num_steps)
    num_envs = loop.episode_length.shape[0]
    axes = param_axes(env, env_params, num_envs)
    draw, env_step = resets.halves(env)
    draw_all = jax.vmap(draw, (0, axes))
    keys = jax.random.split(key_env, (num_steps, num_envs))

    def step(loop: EnvLoop, noise: PyTree, drawn: PyTree) -> tuple[EnvLoop, Trajectory]:
        memory, action, dist = actor.act(loop.memory, loop.obs, loop.episode_length == 0, noise)
        obs, env_state, reward, terminated, truncated, info = jax.vmap(env_step, (0, 0, 0, axes))(
            drawn, loop.env_state, action, env_params
        )
        reward, terminated, truncated = reward.astype(float), terminated.astype(bool), truncated.astype(bool)
        episode_return = loop.episode_return + reward
        episode_length = jnp.minimum(loop.episode_length, MAX_COUNT - 1) + 1
        row = Trajectory(
            obs=loop.obs,
            action=action,
            dist=dist,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            next_obs=strong(info["final_observation"]),
            episode_return=episode_return,
            episode_length=episode_length,
            weight=(),  # pyright: ignore[reportArgumentType] - 1 for all, below
            memory=(),
            next_memory=memory,
        )
        lasts = ~row.done
        running = episode_return * lasts, episode_length * lasts, loop.compensation
        return EnvLoop(strong(env_state), strong(obs), *running, memory), row

    def scan(loop: Packed, noise: PyTree, drawn: PyTree, complete: Callable[[PyTree], PyTree]) -> tuple[Packed, Packed]:
        """Steps one after the other; ``complete`` adds to a row of ``drawn`` what was not computed before."""

        def packed_step(loop: Packed, row: tuple[PyTree, PyTree]) -> tuple[Packed, Packed]:
            noise, drawn = row
            after, seen = step(loop.tree(), noise, complete(drawn))
            return Packed.of(after), Packed.of(seen)

        return platform.scan(packed_step, loop, (noise, drawn))

    def segment(loop: Packed, rows: tuple[PyTree, Array, Array]) -> tuple[Packed, Packed]:
        """``interval`` steps, with one start for each environment."""
        noise, keys, key_starts = rows
        starts = draw_all(jax.random.split(key_starts, num_envs), env_params)[1]
        return scan(loop, noise, keys, lambda key: (draw_all(key, env_params)[0], starts))

    from_zero = Packed.of(loop.replace(episode_return=jnp.zeros_like(loop.episode_return)))
    one_step = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)  # JAX counts a key that is sliced as used
    if starts is not None:
        last, rows = scan(from_zero, noise, keys, lambda key: (draw_all(key, env_params)[0], starts))
    elif interval > 1:
        count = num_steps // interval
        noise, keys = jax.tree.map(lambda x: x.reshape(count, interval, *x.shape[1:]), (noise, keys))
        last, rows = jax.lax.scan(segment, from_zero, (noise, keys, jax.random.split(key_starts[0], count)))
        rows = jax.tree.map(lambda x: x.reshape(num_steps, *x.shape[2:]), rows)
    elif resets.is_small(jax.eval_shape(draw_all, one_step, env_params), num_envs):
        last, rows = scan(from_zero, noise, jax.vmap(draw_all, (0, None))(keys, env_params), lambda drawn: drawn)
    else:
        last, rows = scan(from_zero, noise, keys, lambda key: draw_all(key, env_params))
    last, trajectory = last.tree(), rows.tree()
    trajectory = trajectory.replace(weight=jnp.ones_like(trajectory.reward))
    before = jax.tree.map(lambda x, later: jnp.concatenate([x[None], later[:-1]]), loop.memory, trajectory.next_memory)
    return add_past_returns(loop, last, trajectory.replace(memory=before))


def add_past_returns(before: EnvLoop, after: EnvLoop, trajectory: Trajectory) -> tuple[EnvLoop, Trajectory]:
    """``after`` and ``trajectory``, whose returns were summed from zero, with those of episodes that were under way ``before``.

    One compensated addition a rollout, where one a step would lengthen the scan.
    """
    steps = jnp.arange(1, len(trajectory.reward) + 1)[:, None]
    past = before.episode_return, before.compensation

    def total(length: Array, steps: Array, new: Array) -> tuple[Array, Array]:
        old, low = (jnp.where(length > steps, x, 0.0) for x in past)  # 0 where the episode began in this rollout
        return compensated.add(old, low, new)

    episode_return, _ = total(trajectory.episode_length, steps, trajectory.episode_return)
    last_return, compensation = total(after.episode_length, steps[-1], after.episode_return)
    after = after.replace(episode_return=last_return, compensation=compensation)
    return after, trajectory.replace(episode_return=episode_return)


def episodic(
    key: Array, env: Env, env_params: PyTree, actor: Actor, loop: EnvLoop, num_steps: int
) -> tuple[EnvLoop, Trajectory]:
    """One complete episode in every environment, from a new start; the rows after its end have weight 0.

    ``num_steps`` should be the length of the longest episode: an episode that has not ended by then counts as cut there. To
    take the first episode of each environment, and not those that happened to finish in a window, avoids a bias to short
    episodes.

    Args:
        key: For first states, actions and environments.
        env: The environment.
        env_params: Its parameters; leaves may have a leading axis ``B``, one value for each environment.
        actor: The policy, see ``jaxpg.Algorithm.actor``.
        loop: The ``B`` environments; only their number and the shape of the memory are used.
        num_steps: Steps of each environment, ``T``.

    Returns:
        The environments after the last step, and the trajectory, leaves ``[T, B, ...]``.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.reinforce(jaxpg.make("CartPole-v1"), num_envs=4, hidden=(8,))
        >>> def collect(key):
        ...     state = algo.init(key)
        ...     return jaxpg.rollout.episodic(key, algo.env, state.env_params, algo.actor(state), state.loop, 500)
        >>> loop, trajectory = jax.eval_shape(collect, jax.random.key(0))
        >>> trajectory.weight.shape
        (500, 4)
    """
    key_reset, key_rollout = jax.random.split(key)
    fresh = reset(key_reset, env, env_params, loop.episode_length.shape[0], loop.memory)
    loop, trajectory = continuing(key_rollout, env, env_params, actor, fresh, num_steps)
    ended_before = jnp.cumsum(trajectory.done, axis=0) - trajectory.done
    return loop, trajectory.replace(weight=(ended_before == 0).astype(trajectory.weight.dtype))
