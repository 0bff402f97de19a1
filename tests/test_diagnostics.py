"""Measured bias, variance and signal against closed forms and enumerations in NumPy."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import spaces

from jaxpg import diagnostics
from jaxpg.core import advantages, objectives, optimizers
from jaxpg.core.actor_critic import Separate
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams, reads
from jaxpg.core.networks import NoCritic
from jaxpg.core.sgd import SGD
from jaxpg.envs import FunctionalEnv

GAMMA, NUM_ENVS, NUM_BATCHES = 0.9, 2, 4096
REWARD = np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 1.2]])  # [state, action]; action a leads from state 0 to state 1 + a
LOGITS = np.array([[0.4, -0.3], [0.2, 0.9], [-0.6, 0.1]])
VALUES = np.array([0.7, 1.5, -0.4])  # wrong ones


def step(key: Any, state: Any, action: Any, params: Any) -> Any:
    after = 1 + action
    return after, after, jnp.asarray(REWARD, float)[state, action], state > 0


def start(key: Any, params: Any) -> Any:
    return jnp.int32(0), jnp.int32(0)


TREE = FunctionalEnv(start, step, spaces.Discrete(2), max_steps=2)  # two decisions, four episodes


class Table(nn.Module):
    """A softmax over a row of logits for each state."""

    @nn.compact
    def __call__(self, obs: Any) -> Categorical:
        return Categorical(self.param("logits", lambda key: jnp.asarray(LOGITS, float))[obs])


class Values(nn.Module):
    @nn.compact
    def __call__(self, obs: Any) -> Any:
        return self.param("values", lambda key: jnp.asarray(VALUES, float))[obs]


def algorithm(advantage: Any, env: Any = TREE, num_steps: int = 2, critic: Any = None, **hparams: float) -> Algorithm:
    return Algorithm(
        env=env,
        network=Separate(Table(), Values() if critic is None else critic),
        num_envs=NUM_ENVS,
        num_steps=num_steps,
        hparams=HParams(**{"learning_rate": 1.0, "max_grad_norm": 1.0, "adam_eps": 1e-5, "gamma": GAMMA} | hparams),
        advantage=advantage,
        reduction=objectives.sum_over_steps,
        update_rule=SGD(optimizer=optimizers.adam),
    )


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def episodes(psi: Any) -> tuple[np.ndarray, np.ndarray]:
    """The four episodes' gradients ``[4, 6]`` with ``psi(a0, a1) -> (Psi_0, Psi_1)``, and their probabilities, in float64."""
    pi = softmax(LOGITS)
    rows, chances = [], []
    for a0, a1 in itertools.product(range(2), repeat=2):
        g, middle = np.zeros((3, 2)), 1 + a0
        first, second = psi(a0, a1)
        g[0] += first * (np.eye(2)[a0] - pi[0])
        g[middle] += second * (np.eye(2)[a1] - pi[middle])
        rows.append(g.ravel())
        chances.append(pi[0, a0] * pi[middle, a1])
    return np.array(rows), np.array(chances)


def reward_to_go(a0: int, a1: int) -> tuple[float, float]:
    later = REWARD[1 + a0, a1]
    return REWARD[0, a0] + GAMMA * later, later


def total(a0: int, a1: int) -> tuple[float, float]:
    return (reward_to_go(a0, a1)[0],) * 2


def minus_values(a0: int, a1: int) -> tuple[float, float]:
    first, second = reward_to_go(a0, a1)
    return first - VALUES[0], second - VALUES[1 + a0]


def td(a0: int, a1: int) -> tuple[float, float]:
    middle = 1 + a0
    return REWARD[0, a0] + GAMMA * VALUES[middle] - VALUES[0], REWARD[middle, a1] - VALUES[middle]


CHOICES = {
    "total_return": (advantages.total_return, total),
    "reward_to_go": (advantages.reward_to_go, reward_to_go),
    "learned_baseline": (advantages.learned_baseline, minus_values),
    "one_step_td": (advantages.one_step_td, td),
}


def estimates(algo: Algorithm, num_batches: int = NUM_BATCHES) -> jax.Array:
    return diagnostics.gradients(algo, algo.init(jax.random.key(0)), jax.random.key(1), num_batches, at_once=1024)


@pytest.mark.parametrize("name", CHOICES)
def test_mean_and_variance_are_those_of_all_episodes_enumerated(name: str) -> None:
    advantage, psi = CHOICES[name]
    g, chance = episodes(psi)
    mean = chance @ g
    covariance = (g - mean).T @ np.diag(chance) @ (g - mean) / NUM_ENVS  # environments are independent
    measured = np.asarray(estimates(algorithm(advantage)), np.float64)
    error = np.sqrt(np.diag(covariance) / NUM_BATCHES)
    assert np.abs(measured.mean(0) - mean).max() < 1e-6 + 4.5 * error.max()
    np.testing.assert_allclose(np.cov(measured.T), covariance, atol=0.1 * np.trace(covariance))

    reference, probability = episodes(reward_to_go)  # unbiased for the undiscounted weighting of states
    truth = probability @ reference
    found = {k: float(v) for k, v in diagnostics.measure(jnp.asarray(measured), jnp.asarray(truth)).items()}
    size = np.linalg.norm(truth)
    assert found["bias"] == pytest.approx(np.linalg.norm(mean - truth) / size, abs=2.5 * found["bias_floor"])
    assert found["bias_floor"] == pytest.approx(np.sqrt(np.trace(covariance) / NUM_BATCHES) / size, rel=0.05)
    assert found["variance"] == pytest.approx(np.trace(covariance) / size**2, rel=0.1)
    assert found["signal_to_noise"] == pytest.approx(mean @ mean / np.trace(covariance), rel=0.1)


def test_wrong_values_bias_what_bootstraps_and_nothing_else() -> None:
    reference, probability = episodes(reward_to_go)
    truth = jnp.asarray(probability @ reference)
    bias = {
        name: float(diagnostics.measure(estimates(algorithm(CHOICES[name][0])), truth)["bias"])
        for name in ("learned_baseline", "one_step_td")
    }
    assert bias["learned_baseline"] < 0.05
    assert bias["one_step_td"] > 0.3


def test_the_batch_mean_shrinks_the_gradient_by_one_over_b() -> None:
    bandit = FunctionalEnv(start, lambda *a: (*step(*a)[:3], True), spaces.Discrete(2), max_steps=1)
    found = {
        name: diagnostics.measure(estimates(algorithm(choice, bandit, 1, NoCritic())), bandit_gradient())
        for name, choice in (("mean", advantages.batch_mean_baseline), ("others", advantages.leave_one_out_baseline))
    }
    assert float(found["mean"]["bias"]) == pytest.approx(1 / NUM_ENVS, abs=0.05)
    assert float(found["others"]["bias"]) < 0.05
    for what in ("signal_to_noise", "cosine"):  # one is half of the other, and these do not see scale
        assert float(found["mean"][what]) == pytest.approx(float(found["others"][what]), rel=1e-4)


def bandit_gradient() -> jax.Array:
    """p_a (r_a - J) for the two arms of state 0; nothing for the states that are never seen."""
    p = softmax(LOGITS)[0]
    return jnp.zeros(6).at[:2].set(p * (REWARD[0] - p @ REWARD[0]))


def test_the_same_key_gives_the_same_states_and_actions_to_every_choice() -> None:
    one, other = (algorithm(choice) for choice in (advantages.reward_to_go, advantages.one_step_td))
    state, key = one.init(jax.random.key(0)), jax.random.key(3)
    first, second = (diagnostics.sample(algo, state, key) for algo in (one, other))
    np.testing.assert_array_equal(first.obs, second.obs)
    np.testing.assert_array_equal(first.action, second.action)
    row = diagnostics.gradients(other, state, key, 3, at_once=2)[1]
    key_of_row = jax.random.split(key, 3)[1]
    expected = diagnostics.gradient(other, state, diagnostics.sample(other, state, key_of_row))
    np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_a_plain_gradient_step_of_the_update_goes_along_the_estimate() -> None:
    ascent = reads("learning_rate", "max_grad_norm", "adam_eps")(lambda hp: optax.sgd(hp.learning_rate))
    algo = algorithm(advantages.learned_baseline)
    algo = dataclasses.replace(algo, update_rule=SGD(optimizer=ascent))
    state = algo.init(jax.random.key(0))
    _, key_rollout, _ = jax.random.split(state.key, 3)
    _, trajectory = algo.rollout(key_rollout, algo.env, None, algo.actor(state), state.loop, algo.num_steps)
    moved = algo.update(state)[0].params.policy["logits"] - LOGITS
    np.testing.assert_allclose(diagnostics.gradient(algo, state, trajectory), moved.ravel(), atol=1e-6)


def test_a_warm_up_draws_the_starts_anew() -> None:
    def walk(key: Any, state: Any, action: Any, params: Any) -> Any:
        after = jax.random.randint(key, (), 0, 3)
        return after, after, 0.0, False

    env = FunctionalEnv(start, walk, spaces.Discrete(2), max_steps=10_000)
    algo = algorithm(advantages.gae, env, num_steps=1, gae_lambda=1.0)
    state, keys = algo.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 1000)
    cold, warm = (
        np.asarray(jax.vmap(lambda key, steps=steps: diagnostics.sample(algo, state, key, steps).obs)(keys)) for steps in (0, 1)
    )
    assert np.all(cold == 0)  # where the environments of the state stand
    np.testing.assert_allclose(np.bincount(warm.ravel(), minlength=3) / warm.size, 1 / 3, atol=0.05)


def test_noise_is_taken_off_the_squares() -> None:
    """Gaussian estimates whose mean is off by 0.5 of the truth: 200 measurements of 20 estimates agree on average."""
    key_noise, key_reference = jax.random.split(jax.random.key(0))
    truth, offset = jnp.zeros(30).at[0].set(2.0), jnp.zeros(30).at[1].set(1.0)
    g = truth + offset + jax.random.normal(key_noise, (200, 20, 30))
    reference = truth + jax.random.normal(key_reference, (200, 40, 30))
    found = {name: np.asarray(x) for name, x in jax.vmap(diagnostics.measure)(g, reference).items()}
    assert np.sqrt(np.mean(found["bias"] ** 2)) == pytest.approx(0.5, rel=0.15)
    assert np.mean(found["signal_to_noise"]) == pytest.approx(5.0 / 30.0, rel=0.1)
    assert np.median(found["variance"]) == pytest.approx(30.0 / 4.0, rel=0.1)
    assert np.median(found["bias_floor"]) == pytest.approx(np.sqrt((30 / 20 + 30 / 40) / 4.0), rel=0.1)


def test_no_signal_is_zero_and_no_reference_is_nan() -> None:
    noise = jnp.array([[1.0], [-1.0]])
    assert float(diagnostics.measure(noise, jnp.ones(1))["signal_to_noise"]) == 0.0
    assert np.isnan(diagnostics.measure(noise, jnp.zeros(1))["variance"])


@pytest.mark.parametrize(
    ("estimates", "reference", "message"),
    [
        (np.ones((1, 3)), np.ones(3), r"estimates has shape \(1, 3\); two estimates"),
        (np.ones(3), np.ones(3), r"estimates has shape \(3,\); two estimates"),
        (np.ones((2, 3)), np.ones((1, 3)), r"reference has shape \(1, 3\); two estimates"),
        (np.ones((2, 3)), np.ones(4), "estimates have 3 numbers each, the reference 4"),
    ],
)
def test_errors_are_one_line(estimates: Any, reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnostics.measure(jnp.asarray(estimates), jnp.asarray(reference))


def test_no_batches_are_refused() -> None:
    algo = algorithm(advantages.reward_to_go)
    state, key = algo.init(jax.random.key(0)), jax.random.key(1)
    with pytest.raises(ValueError, match="num_batches = 0"):
        diagnostics.gradients(algo, state, key, 0)
