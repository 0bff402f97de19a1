"""On the same states: Monte Carlo is unbiased and loud, bootstrapping biased and quiet, in the order of the theory."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from experiments import variance
from jaxpg import diagnostics

UNBIASED = ("total return", "reward to go", "constant baseline", "leave-one-out baseline", "learned baseline")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("variance")
    kept = (*UNBIASED, "GAE(0.9)", "one-step TD")  # each one is compiled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variance, "CHOICES", {name: variance.CHOICES[name] for name in kept})
        patch.setattr(variance, "DRAWN", kept)
        variance.main(seeds=1, batches=64, points=2, updates=30, limit=40, out=out)
    assert (out / "variance.png").stat().st_size > 10_000
    return json.loads((out / "variance.json").read_text())


def test_variance_falls_from_the_total_return_to_the_td_error(written):
    for point in range(2):
        names = ("total return", "reward to go", "leave-one-out baseline", "GAE(0.9)", "one-step TD")
        found = [written["psi"][name]["variance"][0][point] for name in names]
        assert found == sorted(found, reverse=True)
        assert found[0] > 20 * found[-1]


def test_monte_carlo_is_unbiased_within_its_noise(written):
    for name in UNBIASED:
        row = written["psi"][name]
        assert np.all(np.array(row["bias"]) < 2 * np.array(row["bias_floor"]))


def test_a_critic_that_knows_nothing_yet_biases_what_bootstraps(written):
    row = written["psi"]["one-step TD"]
    assert row["bias"][0][0] > max(0.5, 5 * row["bias_floor"][0][0])


def test_the_learner_learned_in_between(written):
    before, after = written["return"][0]
    assert after > 1.2 * before
    assert written["env_steps"] == [0, 8 * 40 * 30]


def test_a_constant_of_zero_is_the_reward_to_go_on_the_same_rollouts():
    learner = jaxpg.reinforce_baseline(variance.cart_pole(8), hidden=(4,), num_steps=8, num_envs=2, gamma=1.0)
    algos = {name: variance.choices(learner)[name] for name in ("reward to go", "constant baseline")}
    state = learner.init(jax.random.key(0))
    found = jax.jit(lambda b: variance.gradients_of(algos, state, jax.random.key(1), 3, b))
    np.testing.assert_allclose(*found(jnp.zeros(())).values(), rtol=1e-6)
    assert np.abs(np.subtract(*found(jnp.ones(())).values())).max() > 1e-3


def test_the_limit_ends_the_episode_and_the_clock_is_seen():
    learner = jaxpg.reinforce_baseline(variance.cart_pole(5), hidden=(4,), num_steps=5, num_envs=3, gamma=1.0)
    trajectory = diagnostics.sample(learner, learner.init(jax.random.key(0)), jax.random.key(1))
    np.testing.assert_allclose(trajectory.obs[:, :, -1], np.broadcast_to(np.arange(5)[:, None] / 5, (5, 3)), rtol=1e-6)
    np.testing.assert_array_equal(trajectory.terminated, np.arange(5)[:, None] == np.full(3, 4))
    np.testing.assert_allclose(trajectory.episode_return[-1], 5.0)
