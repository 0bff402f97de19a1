"""A frozen yardstick: PPO on CartPole-v1 in one plain file, CleanRL's sizes. Not part of the library; **never make it faster**.

``make bench`` compares the library with it, in turn in one process. It does the same arithmetic in the most direct way: keys
split inside the scan, ``jax.random.permutation``, one Adam state per array, all seeds in one vmap on one device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import optax

NUM_STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
GAMMA, LAMBDA, CLIP, ENTROPY, LEARNING_RATE = 0.99, 0.95, 0.2, 0.01, 2.5e-4


def network(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Weights of dense layers; any scale will do for a yardstick."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def apply(layers: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """Tanh between the layers."""
    for weights, bias in layers[:-1]:
        x = jnp.tanh(x @ weights + bias)
    return x @ layers[-1][0] + layers[-1][1]


def make(num_envs: int) -> tuple[Callable[[jax.Array], Any], Callable[[Any], Any]]:
    """``init(key) -> state`` and ``update(state) -> state`` of one run."""
    env, env_params = gymnax.make("CartPole-v1")
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(LEARNING_RATE, eps=1e-5))

    def init(key: jax.Array) -> Any:
        key, key_policy, key_critic, key_env = jax.random.split(key, 4)
        params = network(key_policy, (4, 64, 64, 2)), network(key_critic, (4, 64, 64, 1))
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key_env, num_envs), env_params)
        env_state = jax.tree.map(jnp.asarray, env_state)
        return key, params, optimizer.init(params), obs, env_state

    def log_probs(policy: Any, obs: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(apply(policy, obs))

    def value(critic: Any, obs: jax.Array) -> jax.Array:
        return apply(critic, obs)[..., 0]

    def update(state: Any) -> Any:
        key, params, opt_state, obs, env_state = state
        key, key_rollout, key_shuffle = jax.random.split(key, 3)

        def act(carry: Any, key: jax.Array) -> Any:
            obs, env_state = carry
            key_action, key_env = jax.random.split(key)
            log_p = log_probs(params[0], obs)
            action = jax.random.categorical(key_action, log_p)
            new_obs, env_state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(key_env, num_envs), env_state, action, env_params
            )
            chosen = jnp.take_along_axis(log_p, action[:, None], 1)[:, 0]
            row = obs, action, chosen, reward, terminated, terminated | truncated, info["final_observation"]
            return (new_obs, env_state), row

        (obs, env_state), rows = jax.lax.scan(act, (obs, env_state), jax.random.split(key_rollout, NUM_STEPS))
        seen, action, old, reward, terminated, done, following = rows
        values, next_values = value(params[1], seen), value(params[1], following)
        delta = reward + GAMMA * (1.0 - terminated) * next_values - values

        def backward(advantage: jax.Array, row: Any) -> Any:
            delta, done = row
            advantage = delta + GAMMA * LAMBDA * (1.0 - done) * advantage
            return advantage, advantage

        advantage = jax.lax.scan(backward, jnp.zeros(num_envs), (delta, done), reverse=True)[1]
        target = advantage + values
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (seen, action, old, advantage, target))

        def loss(params: Any, part: Any) -> jax.Array:
            obs, action, old, advantage, target = part
            log_p = log_probs(params[0], obs)
            ratio = jnp.exp(jnp.take_along_axis(log_p, action[:, None], 1)[:, 0] - old)
            surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
            entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
            return jnp.mean(0.5 * (value(params[1], obs) - target) ** 2 - surrogate - ENTROPY * entropy)

        def step(carry: Any, rows: jax.Array) -> Any:
            params, opt_state = carry
            grads = jax.grad(loss)(params, jax.tree.map(lambda x: x[rows], data))
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        count = num_envs * NUM_STEPS
        rows = jax.vmap(lambda key: jax.random.permutation(key, count))(jax.random.split(key_shuffle, EPOCHS))
        rows = rows.reshape(EPOCHS * MINIBATCHES, count // MINIBATCHES)
        (params, opt_state), _ = jax.lax.scan(step, (params, opt_state), rows)
        return key, params, opt_state, obs, env_state

    return init, update
