"""Scaling of observations and rewards against NumPy on everything seen so far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxpg
from jaxpg.core import normalize
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Trajectory

T, B = 7, 3
HP = HParams(gamma=0.9, reward_scale=0.25)
GARBAGE = 1e6  # in rows of weight 0


def rollouts(seed, count, padded=0.0):
    """Consecutive rollouts of the same environments, episodes going on from one to the next; a share of rows is padding."""
    rng = np.random.default_rng(seed)
    length = np.zeros(B, int)
    for _ in range(count):
        weight = (rng.random((T, B)) >= padded).astype(np.float32)
        done = rng.random((T, B)) < 0.3
        lengths = np.zeros((T, B), int)
        for t in range(T):
            lengths[t] = length = length + 1
            length = np.where(done[t], 0, length)
        filled = weight[..., None] > 0
        obs = {
            "position": np.where(filled, rng.normal(50, 3, (T, B, 2)), GARBAGE),
            "count": np.where(filled[..., 0], rng.integers(0, 9, (T, B)), int(GARBAGE)),
        }
        yield Trajectory(
            obs=jax.tree.map(jnp.asarray, obs),
            action=jnp.zeros((T, B), int),
            dist=Categorical(jnp.zeros((T, B, 2))),
            reward=jnp.asarray(rng.normal(1, 2, (T, B))),
            terminated=jnp.asarray(done),
            truncated=jnp.zeros((T, B), bool),
            next_obs=jax.tree.map(jnp.asarray, obs),
            episode_return=jnp.zeros((T, B)),
            episode_length=jnp.asarray(lengths),
            weight=jnp.asarray(weight),
        )


def seen(trajectories, name):
    """All real observations of one component so far: ``[n, ...]``."""
    parts = [np.asarray(t.obs[name], np.float64)[np.asarray(t.weight) > 0] for t in trajectories]
    return np.concatenate(parts)


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.4, 0.9]))
def test_running_moments_are_those_of_all_real_observations(seed, padded):
    trajectories = list(rollouts(seed, 4, padded))
    running = normalize.RunningObservation()
    stats = running.init(jax.tree.map(lambda x: x[0], trajectories[0].obs))
    assert stats.mean["position"].shape == (2,)
    assert stats.mean["count"].shape == ()
    for i, trajectory in enumerate(trajectories):
        stats = running.update(stats, trajectory, HP)
        assert stats.count == sum(np.sum(t.weight) for t in trajectories[: i + 1])
        for name in ("position", "count"):
            data = seen(trajectories[: i + 1], name)
            if len(data):
                np.testing.assert_allclose(stats.mean[name], data.mean(0), rtol=1e-5)
                np.testing.assert_allclose(stats.variance[name], data.var(0), rtol=1e-5, atol=1e-4)


def test_a_rollout_without_weight_changes_nothing():
    first, second = rollouts(0, 2)
    running = normalize.RunningObservation()
    stats = running.update(running.init(jax.tree.map(lambda x: x[0], first.obs)), first, HP)
    again = running.update(stats, second.replace(weight=jnp.zeros((T, B))), HP)
    jax.tree.map(np.testing.assert_array_equal, again, stats)
    fresh = running.init(jax.tree.map(lambda x: x[0], first.obs))
    still = running.update(fresh, second.replace(weight=jnp.zeros((T, B))), HP)
    jax.tree.map(np.testing.assert_array_equal, still, fresh)


def test_running_observations_are_standardised_and_clipped():
    trajectories = list(rollouts(1, 3))
    running = normalize.RunningObservation(clip=1.0)
    obs = trajectories[0].obs
    stats = running.init(jax.tree.map(lambda x: x[0], obs))
    small = {"position": jnp.full((B, 2), 0.5), "count": jnp.ones(B, int)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), running.observation(stats, small), small)
    for trajectory in trajectories:
        stats = running.update(stats, trajectory, HP)
    for name in obs:
        data = seen(trajectories, name)
        expected = np.clip((np.asarray(obs[name]) - data.mean(0)) / data.std(0), -1.0, 1.0)
        scaled = running.observation(stats, obs)[name]
        assert scaled.dtype == jnp.float32
        np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-4)
        assert np.max(np.abs(scaled)) == 1.0


def test_running_rewards_are_scaled_by_the_deviation_of_the_discounted_return_of_each_episode():
    trajectories = list(rollouts(2, 3))
    running = normalize.RunningReward(clip=1.0)
    stats = running.init(jnp.zeros((B, 2)))
    reward = jnp.array([[0.1, -0.2, 100.0]])
    np.testing.assert_allclose(running.reward(stats, reward, HP), [[0.1, -0.2, 1.0]], rtol=1e-6)

    returns, current = [], np.zeros(B)
    for trajectory in trajectories:
        stats = running.update(stats, trajectory, HP)
        rewards, done = np.asarray(trajectory.reward, np.float64), np.asarray(trajectory.done)
        for t in range(T):
            for b in range(B):
                current[b] = 0.9 * current[b] + rewards[t, b]
                returns.append(current[b])
                if done[t, b]:
                    current[b] = 0.0
        deviation = np.std(returns)
        assert stats[0].variance.shape == ()
        expected = np.clip(np.array([[0.1, -0.2, 100.0]]) / deviation, -1.0, 1.0)
        np.testing.assert_allclose(running.reward(stats, reward, HP), expected, rtol=1e-5)
        np.testing.assert_allclose(running.reward(stats, trajectory.reward, HP).shape, (T, B))


def test_padding_does_not_enter_the_scale_of_rewards():
    (trajectory,) = rollouts(3, 1)
    ended = np.cumsum(np.asarray(trajectory.done), axis=0) - np.asarray(trajectory.done) > 0
    weight = jnp.asarray(~ended, float)
    running = normalize.RunningReward()
    clean, dirty = (
        running.update(running.init(jnp.zeros((B, 2))), trajectory.replace(weight=weight, reward=reward), HP)[0]
        for reward in (trajectory.reward, jnp.where(ended, GARBAGE, trajectory.reward))
    )
    assert ended.any()
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_constant_reward_is_a_factor_with_a_gradient():
    reward = jnp.array([[1.0, -4.0]])
    np.testing.assert_array_equal(normalize.ConstantReward().reward((), reward, HP), [[0.25, -1.0]])
    gradient = jax.grad(lambda hp: jnp.sum(normalize.ConstantReward().reward((), reward, hp)))(HP)
    assert gradient.reward_scale == -3.0


def test_bounded_observations_lie_between_minus_one_and_one():
    bounded = normalize.BoundedObservation.of(jaxpg.make("MountainCar-v0"))
    obs = jnp.array([[-1.2, -0.07], [0.6, 0.07], [-0.3, 0.0]])
    for batch in (obs, obs[None]):
        np.testing.assert_allclose(
            bounded.observation((), batch), np.broadcast_to([[-1, -1], [1, 1], [0, 0]], batch.shape), atol=1e-6
        )
    hash(bounded)


def test_an_environment_without_finite_bounds_has_no_bounded_observations():
    with pytest.raises(ValueError, match=r"CartPole-v1 declares no finite bounds; use running or none"):
        normalize.BoundedObservation.of(jaxpg.make("CartPole-v1"))


def test_identity_changes_nothing():
    (trajectory,) = rollouts(4, 1)
    identity = normalize.identity
    stats = identity.init(trajectory.obs)
    assert jax.tree.leaves(identity.update(stats, trajectory, HP)) == []
    assert identity.observation(stats, trajectory.obs) is trajectory.obs
    assert identity.reward(stats, trajectory.reward, HP) is trajectory.reward


def test_chain_applies_one_after_the_other_on_statistics_of_raw_data():
    trajectories = list(rollouts(5, 2))
    running, constant = normalize.RunningReward(), normalize.ConstantReward()
    for first, second in ((running, constant), (constant, running)):
        chain = normalize.Chain(first, second)
        assert sorted(chain.reads) == ["gamma", "reward_scale"]
        chained, alone = chain.init(jnp.zeros((B, 2))), running.init(jnp.zeros((B, 2)))
        for trajectory in trajectories:
            chained, alone = chain.update(chained, trajectory, HP), running.update(alone, trajectory, HP)
        reward = jnp.array([[0.1, 0.2, -0.3]])
        np.testing.assert_allclose(chain.reward(chained, reward, HP), 0.25 * running.reward(alone, reward, HP), rtol=1e-6)
    observe = normalize.Chain(
        normalize.BoundedObservation((0.0,), (4.0,), (1,)), normalize.BoundedObservation((-1.0,), (3.0,), (1,))
    )
    np.testing.assert_allclose(observe.observation(((), ()), jnp.array([[4.0], [0.0]])), [[0.0], [-1.0]])
