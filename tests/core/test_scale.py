"""Long runs: counters, sums, statistics and schedules set to where 10**12 environment steps leave them, against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.core import normalize, rollout, schedules
from jaxpg.core.hparams import HParams
from jaxpg.core.types import MAX_COUNT
from jaxpg.envs import FunctionalEnv
from jaxpg.loops import many as sweeping
from jaxpg.loops import train as training

TRILLION = 10**12


def pair(exact):
    """A float64 as a float32 and what it lacks."""
    high = np.asarray(exact, np.float32)
    return high, (np.asarray(exact, float) - high).astype(np.float32)


def merged(count, mean, variance, x, weight):
    """Chan, Golub and LeVeque's moments of two parts, in float64."""
    w = (weight / weight.sum())[..., None]
    batch_mean = (w * x).sum((0, 1))
    batch_variance = (w * (x - batch_mean) ** 2).sum((0, 1))
    share, delta = weight.sum() / (count + weight.sum()), batch_mean - mean
    moved = variance + share * (batch_variance - variance) + share * (1 - share) * delta**2
    return count + weight.sum(), mean + share * delta, moved


def exactly(moments):
    """Count, mean and variance of ``[D]`` numbers with their compensation, in float64."""
    high = np.concatenate([np.ravel(x).astype(float) for x in (moments.count, moments.mean, moments.variance)])
    count, *rest = high + np.asarray(moments.compensation, float)
    return count, *np.split(np.array(rest), 2)


@pytest.mark.parametrize("count", [0, 2**24, TRILLION + 1])
@pytest.mark.parametrize(("mean", "deviation"), [(0.3, 1.1), (50.1, 3.3), (1e-3, 1e-5)])
@pytest.mark.parametrize(("shift", "tolerance"), [(0.7, 1e-6), (0.0, 2e-5)])
def test_running_moments_move_as_in_float64(count, mean, deviation, shift, tolerance):
    """From moments that are no float32 themselves, by new data that are different, or differ by chance only."""
    rng = np.random.default_rng(0)
    before = count, np.full(4, mean), np.full(4, deviation**2)
    moments = normalize.Moments.start(jnp.zeros(4))
    if count:
        (high, *means), (low, *lower) = zip(*map(pair, before), strict=True)
        moments = normalize.Moments(high, *means, jnp.concatenate([low[None], *lower]))
    else:
        before = 0, np.zeros(4), np.zeros(4)
    merge, expected = jax.jit(normalize.merge), before
    for _ in range(3):
        x = (mean + deviation * rng.normal(shift, 1.0, (128, 64, 4))).astype(np.float32)
        weight = (rng.random((128, 64)) < 0.8).astype(np.float32)
        moments = merge(moments, jnp.asarray(x), jnp.asarray(weight))
        expected = merged(*expected, x.astype(float), weight.astype(float))
    found = exactly(moments)
    assert found[0] == expected[0]
    for one, two, old in zip(found[1:], expected[1:], before[1:], strict=True):
        assert (two != old).all()
        np.testing.assert_allclose(one - old, two - old, rtol=tolerance, atol=2.0**-47 * np.max(np.abs(old)))


def test_constant_and_tiny_observations_have_their_own_variance_from_the_first_rollout_on():
    tiny = 1e-5 * np.random.default_rng(0).normal(size=(16, 3))
    constants = np.float32([*10.0 ** np.arange(16) / 3])
    x = jnp.stack([jnp.asarray(tiny, float), *(jnp.full(tiny.shape, c) for c in constants)], axis=-1)
    moments = jax.jit(normalize.merge)(normalize.Moments.start(jnp.zeros(17)), x, jnp.ones(tiny.shape))
    np.testing.assert_array_equal(moments.mean[1:], constants)
    np.testing.assert_allclose(moments.variance[0], tiny.var(), rtol=1e-5)
    assert ((moments.variance[1:] >= 0) & (jnp.sqrt(moments.variance[1:]) <= 1e-9 * constants)).all()


@pytest.mark.parametrize("num_updates", [3, 2**25 + 1, MAX_COUNT])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_a_schedule_is_exact_at_every_step_of_the_longest_run(num_updates, end):
    schedule = jax.jit(schedules.Linear(("learning_rate",), num_updates, end))
    steps = [0, 1, num_updates // 3, num_updates - 2, num_updates - 1, num_updates, MAX_COUNT]
    found = [schedule(HParams(learning_rate=jnp.float32(0.25)), jnp.int32(step)).learning_rate for step in steps]
    exact = [0.25 * (1 - (1 - end) * min(step / num_updates, 1.0)) for step in steps]
    np.testing.assert_allclose(found, exact, rtol=3e-7)
    assert found[0] == 0.25


def test_a_budget_is_rounded_up_to_updates_in_integers():
    """2**53 + 1 is no float64, and so is no quotient of it."""
    env = jaxpg.make("CartPole-v1")
    algo = jaxpg.ppo(env, num_envs=2**13, num_steps=2**10, minibatches=1, total_steps=2**53 + 1, anneal=("learning_rate",))
    assert algo.schedule == schedules.Linear(("learning_rate",), 2**30 + 1)


def test_sums_between_log_points_are_exact():
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=16, hidden=(2,))
    hparams = jax.tree.map(lambda x: np.full(1, x, np.float32), algo.hparams)
    run = sweeping.start(algo, jax.random.key(0), np.arange(1), hparams)
    advance = jax.jit(functools.partial(sweeping.advance, algo, 1))
    _, fresh = advance(5, True, run)
    updates, episodes, value = 2**31 + 1, 10**10 + 1, 3.25
    before = dict.fromkeys(run.window, updates * value)
    before |= {"updates": updates, "sampled_steps": TRILLION + 1, "episodes": episodes}
    before |= {"episode_return": 100.0 * episodes, "episode_length": 100.0 * episodes}
    window = {name: jnp.stack(pair(x))[None] for name, x in before.items()}
    state = run.state.replace(step=run.state.step + MAX_COUNT - 3)
    runs, means = advance(5, False, run.replace(state=state, window=window))

    after = {name: float(np.sum(np.asarray(x, float))) for name, x in runs.window.items()}
    assert fresh["episodes"] > 0
    assert after["updates"] == updates + 5
    assert after["sampled_steps"] == TRILLION + 1 + 5 * 32
    assert after["episodes"] == episodes + float(fresh["episodes"][0])
    np.testing.assert_allclose(after["entropy"] - before["entropy"], 5 * float(fresh["entropy"][0]), rtol=1e-3)
    assert means["sampled_steps"] == np.float32(TRILLION + 161)
    np.testing.assert_allclose(means["episode_return"], 100.0, rtol=1e-6)
    assert runs.state.step == MAX_COUNT, "a counter that is full stays so"


def test_the_summary_of_many_large_updates_is_exact():
    rng = np.random.default_rng(0)
    steps, episodes = rng.integers(2**24, size=(2, 1000))
    entropy, returns = rng.normal(size=(2, 1000)).astype(np.float32)
    metrics = {"sampled_steps": steps, "episodes": episodes, "entropy": entropy, "episode_return": returns}
    metrics |= {"episode_length": np.where(episodes, 7, np.nan)}
    found = training.summary({name: jnp.asarray(x, float) for name, x in metrics.items()})
    assert found["sampled_steps"] == np.float32(steps.sum())
    assert found["episodes"] == np.float32(episodes.sum())
    np.testing.assert_allclose(found["entropy"], entropy.astype(float).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["episode_return"], np.average(returns.astype(float), weights=episodes), rtol=1e-5)
    np.testing.assert_allclose(found["episode_length"], 7.0, rtol=1e-6)


def test_an_endless_episode_is_counted_and_summed_without_end():
    env = FunctionalEnv(
        lambda key, params: (jnp.zeros(1), jnp.zeros(())),
        lambda key, state, action, params: (jnp.zeros(1), state, 1.25, False),
        spaces.Discrete(2),
        MAX_COUNT,
    )
    algo = jaxpg.a2c(env, num_envs=2, num_steps=100, hidden=(2,))
    state = algo.init(jax.random.key(0))
    returns = np.array([2**24 + 1, TRILLION + 1])
    high, low = pair(returns)
    loop = state.loop.replace(episode_return=high, compensation=low, episode_length=jnp.array([2**24 + 1, MAX_COUNT - 9]))
    loop, trajectory = rollout.continuing(jax.random.key(1), env, None, algo.actor(state), loop, 100)
    np.testing.assert_array_equal(np.asarray(loop.episode_return, float) + np.asarray(loop.compensation, float), returns + 125)
    np.testing.assert_array_equal(loop.episode_length, [2**24 + 101, MAX_COUNT])
    running = returns + 1.25 * np.arange(1, 101)[:, None]
    np.testing.assert_array_equal(trajectory.episode_return, running.astype(np.float32))
    assert (np.diff(trajectory.episode_length, axis=0) >= 0).all()
