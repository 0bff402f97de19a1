"""Rollouts: a policy acts in ``B`` environments for ``T`` steps, as one scan. All randomness is drawn before it.

A rollout is ``(key, env, env_params, actor, loop, num_steps) -> (loop, trajectory)``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg.core import _compensated as compensated
from jaxpg.core import _resets as resets
from jaxpg.core.types import MAX_COUNT, Actor, Array, Env, EnvLoop, PyTree, Trajectory


def strong(tree: PyTree) -> PyTree:
    """The same arrays with strong types: gymnax states hold Python scalars, and a weak type would compile a program twice."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def reset(key: Array, env: Env, env_params: PyTree, num_envs: int) -> EnvLoop:
    """``num_envs`` fresh environments."""
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), env_params)
    zero = jnp.zeros(num_envs, jnp.result_type(float))
    return EnvLoop(strong(env_state), strong(obs), zero, jnp.zeros(num_envs, jnp.int32), zero)


def continuing(
    key: Array, env: Env, env_params: PyTree, actor: Actor, loop: EnvLoop, num_steps: int
) -> tuple[EnvLoop, Trajectory]:
    """Go on where the last rollout stopped; episodes end and begin inside. Every row has weight 1."""
    key_noise, key_env = jax.random.split(key)
    noise = actor.noise(key_noise, num_steps)
    draw, env_step = resets.halves(env)
    keys = jax.random.split(key_env, (num_steps, loop.episode_length.shape[0]))
    drawn = jax.vmap(jax.vmap(draw, (0, None)), (0, None))(keys, env_params)

    def step(loop: EnvLoop, randomness: tuple[PyTree, Array]) -> tuple[EnvLoop, Trajectory]:
        noise, drawn = randomness
        action, dist = actor.act(loop.obs, noise)
        obs, env_state, reward, terminated, truncated, info = jax.vmap(env_step, (0, 0, 0, None))(
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
            weight=jnp.ones_like(reward),
        )
        goes_on = ~row.done
        running = episode_return * goes_on, episode_length * goes_on, loop.compensation
        return EnvLoop(strong(env_state), strong(obs), *running), row

    from_zero = loop.replace(episode_return=jnp.zeros_like(loop.episode_return))
    return add_past_returns(loop, *jax.lax.scan(step, from_zero, (noise, drawn)))


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
    """One whole episode in every environment, from a fresh start; the rows after its end have weight 0.

    ``num_steps`` should be the longest that an episode can be: one that has not ended by then counts as cut there. Taking the
    first episodes whole, and not those that happened to finish in a window, keeps the sample free of a bias to short ones.
    """
    key_reset, key_rollout = jax.random.split(key)
    fresh = reset(key_reset, env, env_params, loop.episode_length.shape[0])
    loop, trajectory = continuing(key_rollout, env, env_params, actor, fresh, num_steps)
    ended_before = jnp.cumsum(trajectory.done, axis=0) - trajectory.done
    return loop, trajectory.replace(weight=(ended_before == 0).astype(trajectory.weight.dtype))
