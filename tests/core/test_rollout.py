"""Rollouts and evaluation against stepping gymnax by hand, one environment and one step at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from jax.extend.core import jaxprs_in_params

import jaxpg
from jaxpg.core import rollout
from jaxpg.envs import FunctionalEnv, LegalActions, make, with_legal_actions

CLASSIC = ("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1")


def counter(lengths: tuple[int, ...], max_steps: int) -> FunctionalEnv:
    """Episodes that last as long as the first observation says, drawn from ``lengths``; the reward is the time."""

    def reset(key: jax.Array, params: Any) -> Any:
        length = jax.random.choice(key, jnp.array(lengths))
        state = jnp.stack([jnp.float32(0), length.astype(jnp.float32)])
        return state, state

    def step(key: jax.Array, state: jax.Array, action: jax.Array, params: Any) -> Any:
        state = state.at[0].add(1.0)
        return state, state, state[0], state[0] >= state[1]

    return FunctionalEnv(reset, step, spaces.Discrete(2), max_steps)


@pytest.mark.parametrize("env_id", CLASSIC)
def test_every_classic_control_environment_trains_with_every_kind_of_action(env_id: str) -> None:
    algo = jaxpg.ppo(make(env_id), num_envs=4, num_steps=8, epochs=1, hidden=(4,))
    state, metrics = jaxpg.train(algo, algo.init(jax.random.key(0)), 2)
    assert int(state.step) == 2
    assert np.isfinite(metrics["policy_loss"]).all()
    assert np.isfinite(metrics["critic_loss"]).all()


def test_a_rollout_is_what_the_environment_does() -> None:
    """Replays the actions in every environment, with the keys that a rollout draws, and looks at every field."""
    algo = jaxpg.a2c(make("CartPole-v1"), num_envs=3, num_steps=60, hidden=(4,))
    state = algo.init(jax.random.key(0))
    key = jax.random.key(5)
    loop, trajectory = algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, 60)
    keys = jax.random.split(jax.random.split(key)[1], (60, 3))
    for b in range(3):
        env_state, obs = (jax.tree.map(lambda x: x[b], x) for x in (state.loop.env_state, state.loop.obs))  # noqa: B023
        total, length = 0.0, 0
        for t in range(60):
            row = jax.tree.map(lambda x: x[t, b], trajectory)  # noqa: B023
            np.testing.assert_allclose(row.obs, obs, rtol=1e-5, atol=1e-6)
            obs, env_state, reward, terminated, truncated, info = algo.env.step(
                keys[t, b], env_state, row.action, state.env_params
            )
            total, length = total + float(reward), length + 1
            np.testing.assert_allclose(row.next_obs, info["final_observation"], rtol=1e-5, atol=1e-6)
            assert (row.reward, row.terminated, row.truncated) == (reward, terminated, truncated)
            assert (row.episode_return, row.episode_length, row.weight) == (total, length, 1.0)
            if terminated or truncated:
                total, length = 0.0, 0
        np.testing.assert_allclose(loop.obs[b], obs, rtol=1e-5, atol=1e-6)
        assert (loop.episode_return[b], loop.episode_length[b]) == (total, length)
    assert trajectory.done.sum() > 3


def test_complete_episodes_count_until_their_end_and_not_beyond() -> None:
    env = counter((2, 3, 5), max_steps=4)
    algo = jaxpg.reinforce(env, num_envs=32, num_steps=6, hidden=(4,), gamma=0.9)
    state = algo.init(jax.random.key(0))
    _, trajectory = algo.rollout(jax.random.key(1), env, None, algo.actor(state), state.loop, 6)
    lengths = np.minimum(np.asarray(trajectory.obs[0, :, 1]), 4)  # 5 is beyond the time limit
    assert set(lengths) == {2, 3, 4}
    np.testing.assert_array_equal(trajectory.weight, np.arange(6)[:, None] < lengths)
    np.testing.assert_array_equal(trajectory.episode_length[0], 1)  # every rollout starts afresh
    batch = algo.batch(state, trajectory, state.hparams)
    target = np.asarray(batch.target).reshape(6, 32)
    for b, length in enumerate(lengths.astype(int)):
        rewards = np.arange(1, length + 1)
        expected = [sum(0.9**k * r for k, r in enumerate(rewards[t:])) for t in range(length)]
        np.testing.assert_allclose(target[:length, b], expected, rtol=1e-5)


def test_padding_does_not_touch_the_update() -> None:
    """Rows after the end of an episode may hold anything."""
    env = counter((2, 3), max_steps=4)
    algo = jaxpg.reinforce_baseline(env, num_envs=8, num_steps=6, hidden=(4,))
    state = algo.init(jax.random.key(0))
    _, trajectory = algo.rollout(jax.random.key(1), env, None, algo.actor(state), state.loop, 6)
    padding = trajectory.weight == 0
    assert padding.sum() > 8
    spoiled = trajectory.replace(
        reward=jnp.where(padding, 1e3, trajectory.reward), obs=jnp.where(padding[..., None], 7.0, trajectory.obs)
    )
    losses, hp = algo.losses(state, state.hparams), state.hparams
    gradients = [jax.grad(losses.total, has_aux=True)(state.params, algo.batch(state, t, hp))[0] for t in (trajectory, spoiled)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *gradients)


def test_actions_are_clipped_for_the_environment_only() -> None:
    env = with_legal_actions(make("MountainCarContinuous-v0"))
    assert with_legal_actions(env) is env
    assert env == LegalActions(make("MountainCarContinuous-v0"))
    assert with_legal_actions(make("CartPole-v1")) is make("CartPole-v1")
    state = rollout.reset(jax.random.key(0), env, env.default_params, 1)
    inner = jax.tree.map(lambda x: x[0], state.env_state)
    wild, bound = (env.step(jax.random.key(0), inner, jnp.array([a]), env.default_params)[2] for a in (50.0, 1.0))
    np.testing.assert_allclose(wild, bound)  # the reward charges the square of the action taken: 0.1 and not 250
    np.testing.assert_allclose(wild, -0.1, rtol=1e-5)
    algo = jaxpg.ppo(make("MountainCarContinuous-v0"), num_envs=16, num_steps=16, hidden=(4,))
    start = algo.init(jax.random.key(0))
    _, trajectory = algo.rollout(jax.random.key(1), algo.env, start.env_params, algo.actor(start), start.loop, 16)
    assert float(jnp.abs(trajectory.action).max()) > 1.0
    assert float(trajectory.reward.min()) >= -0.1001


@pytest.mark.parametrize("greedy", [True, False])
def test_evaluation_takes_complete_first_episodes_from_the_same_starts(greedy: bool) -> None:
    env = counter((2, 3, 5), max_steps=4)
    algo = jaxpg.a2c(env, num_envs=2, num_steps=4, hidden=(4,))
    one, two = (algo.init(jax.random.key(seed)) for seed in (0, 1))
    result = jaxpg.evaluate(algo, one, jax.random.key(9), 64, greedy=greedy)
    assert result["episode_finished"].all()
    lengths = np.asarray(result["episode_length"])
    assert set(lengths) == {2, 3, 4}
    np.testing.assert_array_equal(result["episode_return"], lengths * (lengths + 1) / 2)
    np.testing.assert_array_equal(lengths, jaxpg.evaluate(algo, two, jax.random.key(9), 64, greedy=greedy)["episode_length"])
    short = jaxpg.evaluate(algo, one, jax.random.key(9), 64, greedy=greedy, max_steps=2)
    assert short["episode_length"].max() == 2
    np.testing.assert_array_equal(short["episode_finished"], lengths == 2)


def test_a_window_of_updates_is_summarised_by_episodes() -> None:
    """Counts add up, episode metrics weigh by episodes, and no episode at all is NaN and not 0."""
    env = counter((7,), max_steps=100)
    algo = jaxpg.a2c(env, num_envs=2, num_steps=4, hidden=(4,))
    _, fine = jaxpg.train(algo, algo.init(jax.random.key(0)), 8, 1)
    _, coarse = jaxpg.train(algo, algo.init(jax.random.key(0)), 8, 4)
    ended = np.asarray(fine["episodes"]) > 0
    assert np.isnan(np.asarray(fine["episode_return"])[~ended]).all()
    np.testing.assert_allclose(np.asarray(fine["episode_return"])[ended], 28.0)
    np.testing.assert_allclose(coarse["episodes"], np.asarray(fine["episodes"]).reshape(2, 4).sum(1))
    np.testing.assert_allclose(coarse["episode_return"], 28.0)
    np.testing.assert_allclose(coarse["sampled_steps"], 32.0)
    np.testing.assert_allclose(coarse["critic_loss"], np.asarray(fine["critic_loss"]).reshape(2, 4).mean(1), rtol=1e-4)


def test_no_rollout_holds_a_large_state_for_every_step_and_environment() -> None:
    """Fresh episodes are drawn before the scan only where they are small."""
    size, num_envs, num_steps = 777, 3, 5

    def reset(key: Any, params: Any) -> Any:
        state = jax.random.uniform(key, (size,))
        return state[:2], state

    def step(key: Any, state: Any, action: Any, params: Any) -> Any:
        state = jnp.roll(state, 1)
        return state[:2], state, state[0], state[1] > 0.9

    algo = jaxpg.a2c(FunctionalEnv(reset, step, spaces.Discrete(2), 4), num_envs=num_envs, num_steps=num_steps, hidden=(4,))
    state = jax.eval_shape(algo.init, jax.random.key(0))
    program = jax.make_jaxpr(algo.update)(state)
    found = {aval.shape for aval in avals(program.jaxpr)}
    assert (num_envs, size) in found
    assert not [shape for shape in found if size in shape and num_steps in shape], found


def avals(jaxpr: Any) -> Any:
    """What every operation of a program gives, those of its loops too."""
    for equation in jaxpr.eqns:
        yield from (out.aval for out in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from avals(inner)


@pytest.mark.parametrize("name", ["a2c", "ppo", "trpo"])
def test_each_environment_may_have_parameters_of_its_own(name: str) -> None:
    """Each as if it were alone with them: in the rollout, and in an evaluation, whose episodes take them in turn."""
    env = make("CartPole-v1")
    limits = jnp.array([3, 5, 7, 9])
    params = env.default_params.replace(max_steps_in_episode=limits, x_threshold=1e9, theta_threshold_radians=1e9)
    options = {} if name == "a2c" else {"minibatches": 1, "epochs": 1}
    algo = getattr(jaxpg, name)(env, num_envs=4, num_steps=20, hidden=(4,), **options)
    state = algo.init(jax.random.key(0), env_params=params)
    _, trajectory = algo.rollout(jax.random.key(1), algo.env, state.env_params, algo.actor(state), state.loop, 20)
    for b, limit in enumerate(limits.tolist()):
        ends = np.flatnonzero(np.asarray(trajectory.truncated[:, b])) + 1
        np.testing.assert_array_equal(ends, np.arange(limit, 21, limit))
    after, metrics = jax.jit(algo.update)(state)
    assert np.isfinite(metrics["policy_loss"])
    np.testing.assert_array_equal(after.env_params.max_steps_in_episode, limits)
    found = jaxpg.evaluate(algo, after, jax.random.key(2), 6, greedy=True)
    np.testing.assert_array_equal(found["episode_length"], [3, 5, 7, 9, 3, 5])
    assert found["episode_finished"].all()


def test_the_time_limit_is_that_of_the_parameters() -> None:
    env = make("CartPole-v1")
    params = env.default_params.replace(max_steps_in_episode=700, x_threshold=1e9, theta_threshold_radians=1e9)
    algo = jaxpg.a2c(env, num_envs=2, num_steps=4, hidden=(4,))
    found = jaxpg.evaluate(algo, algo.init(jax.random.key(0), env_params=params), jax.random.key(1), 2, greedy=True)
    np.testing.assert_array_equal(found["episode_return"], 700)
