"""Poles of other lengths are those of Gymnasium, each environment has its own, and a schedule of them compiles once."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from experiments.embedding import curriculum
from jaxpg.algorithms import presets

ENV = jaxpg.make("CartPole-v1")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setitem(presets.PRESETS["ppo"]["default"], "hidden", (8,))


def test_a_step_with_another_pole_is_that_of_gymnasium():
    theirs = gymnasium.make("CartPole-v1").unwrapped
    theirs.length, theirs.polemass_length = 1.7, theirs.masspole * 1.7
    theirs.reset(seed=0)
    theirs.state = before = np.array([0.1, -0.4, 0.05, 1.2], np.float32)
    wanted = theirs.step(1)[0]
    _, state = ENV.reset(jax.random.key(0), ENV.default_params)
    state = state.replace(**dict(zip(("x", "x_dot", "theta", "theta_dot"), before, strict=True)))
    full, half = curriculum.with_poles(ENV.default_params, 1.7), ENV.default_params.replace(length=1.7)
    found, wrong = (ENV.step_env(jax.random.key(0), state, 1, params)[0] for params in (full, half))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.max(np.abs(wrong - wanted)) > 1e-3, "the length alone is another pole"


def test_each_environment_has_a_length_and_the_range_widens():
    ways = curriculum.ranges(10)
    assert {ends.shape for ends in ways.values()} == {(10, 2)}
    widening = ways["on a range that widens"]
    np.testing.assert_allclose(widening[[0, 6, 9]], [[0.5, 0.5], [0.1, 2.0], [0.1, 2.0]])
    assert np.all(np.diff(widening[:7, 1]) > 0)
    algo = jaxpg.ppo(ENV, num_envs=4, num_steps=8)
    states, returns = curriculum.train(algo, jax.random.split(jax.random.key(0), 2), jnp.asarray(widening))
    wanted = 0.1 * 20 ** (np.arange(4) / 3)
    np.testing.assert_allclose(states.env_params.length, [wanted] * 2, rtol=1e-6)
    np.testing.assert_allclose(states.env_params.polemass_length, [0.1 * wanted] * 2, rtol=1e-6)
    assert returns.shape == (2, 10)


def test_a_schedule_from_outside_compiles_nothing_again():
    algo = jaxpg.ppo(ENV, num_envs=4, num_steps=8)
    update, compiled = jax.jit(algo.update), []
    state, _ = update(algo.init(jax.random.key(0), env_params=curriculum.with_poles(ENV.default_params, jnp.full(4, 0.5))))

    def listen(event, duration, **_):
        compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 17)(1)
        assert compiled, "compilations are heard"
        lengths = jax.device_put(np.geomspace(0.1, 2.0, 4).astype(np.float32))
        state = state.replace(env_params=curriculum.with_poles(state.env_params, lengths))
        compiled.clear()
        state, _ = update(state)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
    assert update._cache_size() == 1
    np.testing.assert_array_equal(state.env_params.length, lengths)


def test_all_ways_to_train_are_one_program_and_tested_on_the_same_poles(tmp_path):
    before = curriculum.train._cache_size(), curriculum.test._cache_size()
    numbers = curriculum.main(total_steps=2048, seeds=2, out=tmp_path)
    assert (curriculum.train._cache_size(), curriculum.test._cache_size()) == (before[0] + 1, before[1] + 1)
    assert numbers["env_steps"] == 2048
    for way in curriculum.ranges(2):
        found = numbers[way]
        assert np.shape(found["per_seed"]) == (len(curriculum.TESTED), 2)
        low, high = np.transpose(found["ci95"])
        np.testing.assert_allclose(np.mean(found["per_seed"], axis=1), found["mean"])
        assert np.all((low >= 1) & (low <= found["mean"]) & (found["mean"] <= high) & (high <= 500))
