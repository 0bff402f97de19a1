"""Rollouts: a policy acts in ``B`` environments for ``T`` steps, as one scan. All randomness is drawn before it.

A rollout is ``(key, env, env_params, actor, loop, num_steps) -> (loop, trajectory)``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg import resets
from jaxpg.types import Actor, Array, Env, EnvLoop, PyTree, Trajectory


def strong(tree: PyTree) -> PyTree:
    """The same arrays with strong types: gymnax states hold Python scalars, and a weak type would compile a program twice."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def reset(key: Array, env: Env, env_params: PyTree, num_envs: int) -> EnvLoop:
    """``num_envs`` fresh environments."""
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), env_params)
    return EnvLoop(strong(env_state), strong(obs), jnp.zeros(num_envs, jnp.result_type(float)), jnp.zeros(num_envs, jnp.int32))


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
        episode_return, episode_length = loop.episode_return + reward, loop.episode_length + 1
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
        return EnvLoop(strong(env_state), strong(obs), episode_return * goes_on, episode_length * goes_on), row

    return jax.lax.scan(step, loop, (noise, drawn))


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
