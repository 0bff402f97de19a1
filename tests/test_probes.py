"""Environments so small that what must be learnt is known: which value, which action, and what a time limit is worth."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.envs import FunctionalEnv
from jaxpg.networks import Critic, StateDependentGaussianPolicy

GAMMA = 0.9
LEARNERS = ("reinforce_baseline", "actor_critic", "a2c", "ppo", "trpo")
BOOTSTRAPPING = ("actor_critic", "a2c", "ppo", "trpo")


def trained(name: str, env: Any, num_updates: int = 200, **options: Any) -> tuple[jaxpg.Algorithm, Any]:
    sizes = {"num_envs": 8, "num_steps": 8, "hidden": (16,), "gamma": GAMMA}
    sizes |= {} if name == "reinforce" else {"critic_learning_rate": 0.02}
    sizes |= {} if name == "trpo" else {"learning_rate": 0.01}
    sizes |= {"epochs": 4, "minibatches": 2} if name in ("ppo", "trpo") else {}
    algo = getattr(jaxpg, name)(env, **sizes | options)
    return algo, jaxpg.train(algo, algo.init(jax.random.key(0)), num_updates, num_updates)[0]


def value(algo: jaxpg.Algorithm, state: Any, obs: Any) -> np.ndarray:
    return np.asarray(algo.critic.apply(state.params.critic, jnp.asarray(obs, float)))


def clock(reward: float, terminal: bool, max_steps: int, show_time: bool) -> FunctionalEnv:
    """Reward on every step, whatever is done; ends after ``max_steps``, by a termination or by a time limit."""

    def observe(t: jax.Array) -> jax.Array:
        return jnp.stack([jnp.where(show_time, t, 0.0)])

    def step(key: jax.Array, t: jax.Array, action: jax.Array, params: Any) -> Any:
        return observe(t + 1), t + 1, reward, (t + 1 >= max_steps) & terminal

    limit = 10 * max_steps if terminal else max_steps
    return FunctionalEnv(lambda key, params: (observe(jnp.float32(0)), jnp.float32(0)), step, spaces.Discrete(2), limit)


@pytest.mark.parametrize("name", BOOTSTRAPPING)
def test_a_time_limit_is_not_death(name: str) -> None:
    """Reward 1 for ever, cut every 5 steps: the value is 1 / (1 - gamma) = 10, and not the 4.1 of five rewards."""
    algo, state = trained(name, clock(1.0, terminal=False, max_steps=5, show_time=False), 300)
    np.testing.assert_allclose(value(algo, state, [[0.0]]), 1 / (1 - GAMMA), rtol=0.02)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_termination_is_worth_nothing_and_rewards_before_it_are_discounted(name: str) -> None:
    """Three rewards of 1, then the end: 1 + 0.9 + 0.81, 1 + 0.9, 1."""
    algo, state = trained(name, clock(1.0, terminal=True, max_steps=3, show_time=True), 300)
    np.testing.assert_allclose(value(algo, state, [[0.0], [1.0], [2.0]]), [2.71, 1.9, 1.0], rtol=0.05)


def guess(continuous: bool) -> FunctionalEnv:
    """One step: name the sign you see (discrete), or half of the number you see (continuous)."""

    def reset(key: jax.Array, params: Any) -> Any:
        x = jnp.sign(jax.random.normal(key, (1,)))
        return x, x

    def step(key: jax.Array, x: jax.Array, action: jax.Array, params: Any) -> Any:
        right = -jnp.sum((action - 0.5 * x) ** 2) if continuous else jnp.where((x[0] > 0) == (action == 1), 1.0, 0.0)
        return x, x, right, True

    space = spaces.Box(-5.0, 5.0, (1,)) if continuous else spaces.Discrete(2)
    return FunctionalEnv(reset, step, space, max_steps=2)


@pytest.mark.parametrize("name", ["reinforce", *LEARNERS])
def test_the_action_depends_on_the_observation(name: str) -> None:
    algo, state = trained(name, guess(continuous=False), **({"num_steps": 1} if "reinforce" in name else {}))
    result = jaxpg.evaluate(algo, state, jax.random.key(1), 64, greedy=True)
    np.testing.assert_array_equal(result["episode_return"], 1.0)
    assert jaxpg.evaluate(algo, state, jax.random.key(1), 256, greedy=False)["episode_return"].mean() > 0.9


@pytest.mark.parametrize("state_dependent", [False, True])
def test_continuous_actions_find_their_mean(state_dependent: bool) -> None:
    env = guess(continuous=True)
    chosen = {"policy": StateDependentGaussianPolicy(1, (16,))} if state_dependent else {}
    algo, state = trained("ppo", env, 300, num_envs=32, **chosen)
    mode = algo.policy.apply(state.params.policy, jnp.array([[-1.0], [1.0]])).mode()
    np.testing.assert_allclose(mode, [[-0.5], [0.5]], atol=0.08)


def test_observations_may_be_any_pytree_with_running_statistics() -> None:
    """A dictionary with an integer and a vector; the critic must use both."""

    def reset(key: jax.Array, params: Any) -> Any:
        flag = jax.random.randint(key, (), 0, 2)
        obs = {"flag": flag, "vector": jnp.stack([1.0 - flag, 100.0 * flag])}
        return obs, obs

    def step(key: jax.Array, obs: Any, action: jax.Array, params: Any) -> Any:
        return obs, obs, jnp.where(obs["flag"] == 1, 2.0, -1.0), True

    env = FunctionalEnv(reset, step, spaces.Discrete(3), max_steps=2)
    algo, state = trained("a2c", env, 200, observation="running")
    obs = {"flag": jnp.array([0, 1]), "vector": jnp.array([[1.0, 0.0], [0.0, 100.0]])}
    seen = algo.normalizer.observation(state.normalizer, obs)
    np.testing.assert_allclose(algo.critic.apply(state.params.critic, seen), [-1.0, 2.0], atol=0.1)


def test_ppo_learns_cartpole() -> None:
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), total_steps=40_000)
    num_updates = 40_000 // (algo.num_envs * algo.num_steps)
    state, metrics = jaxpg.train(algo, algo.init(jax.random.key(0)), num_updates)
    assert jaxpg.evaluate(algo, state, jax.random.key(1), 64, greedy=True)["episode_return"].mean() > 400
    assert metrics["episode_return"].shape == (num_updates,)


def test_a_user_s_own_pieces_need_no_registration() -> None:
    """A critic that is no flax module, an objective without declared hyperparameters, and a subclass of HParams."""
    env = clock(1.0, terminal=True, max_steps=3, show_time=True)
    base = jaxpg.a2c(env, num_envs=4, num_steps=4, hidden=(4,))

    class Linear:
        def init(self, key: jax.Array, obs: jax.Array) -> jax.Array:
            return jnp.zeros(obs.shape[-1])

        def apply(self, params: jax.Array, obs: jax.Array) -> jax.Array:
            return obs @ params

    def objective(dist: Any, batch: Any, hp: Any) -> jax.Array:
        return dist.log_prob(batch.action) * jnp.tanh(batch.advantage)

    algo = dataclasses.replace(base, critic=Linear(), objective=objective)
    state, metrics = jaxpg.train(algo, algo.init(jax.random.key(0)), 3)
    assert np.isfinite(metrics["policy_loss"]).all()
    assert np.abs(state.params.critic).max() > 0
    assert isinstance(base.critic, Critic)
