"""Objectives: the surrogates against the theorem and against cases done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpg.core import objectives
from jaxpg.core.distributions import Categorical, DiagGaussian
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Batch

N = 6
HP = HParams(clip_eps=0.2, entropy_coef=0.5)


def random_batch(seed, kind):
    keys = jax.random.split(jax.random.key(seed), 5)
    if kind is Categorical:
        dist = Categorical(jax.random.normal(keys[0], (N, 3)))
    else:
        dist = DiagGaussian(jax.random.normal(keys[0], (N, 2)), 0.3 * jax.random.normal(keys[1], (N, 2)))
    action = dist.sample(dist.noise(keys[2]))
    value, advantage = jax.random.normal(keys[3], (2, N))
    return Batch(
        jnp.zeros((N, 1)), action, dist.log_prob(action), dist, value, advantage, value + 1.0, jnp.ones(N), value > jnp.inf, ()
    )


def with_ratio(ratio, advantage):
    """A batch and a policy whose probabilities of the actions taken are ``ratio`` times the old ones."""
    old = jnp.float32(0.4)
    dist = Categorical(jnp.log(jnp.stack([old * ratio, 1 - old * ratio], -1)))
    zero = jnp.zeros(len(ratio))
    log_prob = jnp.full(len(ratio), jnp.log(old))
    return dist, Batch(zero, zero.astype(int), log_prob, dist, zero, jnp.asarray(advantage), zero, zero + 1.0, zero > 0, ())


@pytest.mark.parametrize("kind", [Categorical, DiagGaussian])
@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_at_the_old_policy_every_surrogate_is_the_theorem(kind, seed):
    batch = random_batch(seed, kind)
    np.testing.assert_array_equal(objectives.ratio(batch.dist, batch), 1.0)

    def value_and_grad(objective):
        return jax.value_and_grad(lambda dist: jnp.sum(objective(dist, batch, HP)))(batch.dist)

    _, theorem = value_and_grad(objectives.policy_gradient)
    for objective in (objectives.surrogate, objectives.clipped_surrogate):
        value, gradient = value_and_grad(objective)
        assert value == pytest.approx(float(jnp.sum(batch.advantage)), rel=1e-5, abs=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), gradient, theorem)


def test_policy_gradient_weighs_each_score_by_its_advantage():
    batch = random_batch(0, Categorical)
    gradient = jax.grad(lambda logits: jnp.sum(objectives.policy_gradient(Categorical(logits), batch, HP)))(batch.dist.logits)
    score = np.eye(3)[np.asarray(batch.action)] - np.asarray(jax.nn.softmax(batch.dist.logits))
    np.testing.assert_allclose(gradient, score * np.asarray(batch.advantage)[:, None], atol=1e-6)


# (ratio, advantage) -> value, and whether the ratio still has a gradient; clip_eps = 0.2
REGIMES = {
    "good action, more probable than the clip allows": (1.5, 2.0, 1.2 * 2.0, False),
    "good action, within": (1.1, 2.0, 1.1 * 2.0, True),
    "good action, less probable": (0.5, 2.0, 0.5 * 2.0, True),
    "bad action, less probable than the clip allows": (0.5, -2.0, 0.8 * -2.0, False),
    "bad action, within": (0.9, -2.0, 0.9 * -2.0, True),
    "bad action, more probable": (1.5, -2.0, 1.5 * -2.0, True),
}


@pytest.mark.parametrize(("ratio", "advantage", "value", "moves"), REGIMES.values(), ids=REGIMES)
def test_clipped_surrogate_in_every_regime(ratio, advantage, value, moves):
    dist, batch = with_ratio(jnp.array([ratio]), [advantage])
    assert objectives.ratio(dist, batch)[0] == pytest.approx(ratio, rel=1e-5)
    assert objectives.clipped_surrogate(dist, batch, HP)[0] == pytest.approx(value, rel=1e-5)
    assert objectives.surrogate(dist, batch, HP)[0] == pytest.approx(ratio * advantage, rel=1e-5)
    clipped, free = (
        jax.grad(lambda logits, f=f: f(Categorical(logits), batch, HP)[0])(dist.logits)
        for f in (objectives.clipped_surrogate, objectives.surrogate)
    )
    assert np.linalg.norm(free) > 0.1
    np.testing.assert_allclose(clipped, np.asarray(free) if moves else 0.0, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [Categorical, DiagGaussian])
def test_entropy_bonus_is_the_weighted_entropy(kind):
    batch = random_batch(3, kind)
    np.testing.assert_allclose(objectives.entropy_bonus(batch.dist, batch, HP), 0.5 * batch.dist.entropy(), rtol=1e-6)
    slope = jax.grad(lambda beta: jnp.sum(objectives.entropy_bonus(batch.dist, batch, HP.replace(entropy_coef=beta))))(0.1)
    assert slope == pytest.approx(float(jnp.sum(batch.dist.entropy())), rel=1e-5)


def test_entropy_bonus_pushes_towards_uniform():
    logits = jnp.array([[2.0, 0.0]])
    batch = random_batch(0, Categorical)
    gradient = jax.grad(lambda x: objectives.entropy_bonus(Categorical(x), batch, HP)[0])(logits)[0]
    assert gradient[0] < 0 < gradient[1]


def test_critic_losses():
    batch = random_batch(1, Categorical)
    value = jnp.arange(N, dtype=jnp.float32)
    target = np.asarray(batch.target)
    np.testing.assert_allclose(objectives.squared_error(value, batch, HP), (target - np.arange(N)) ** 2 / 2, rtol=1e-5)
    gradient = jax.grad(lambda v: jnp.sum(objectives.squared_error(v, batch, HP)))(value)
    np.testing.assert_allclose(gradient, np.arange(N) - target, rtol=1e-5)
    np.testing.assert_array_equal(objectives.no_critic_loss(value, batch, HP), np.zeros(N))


# (value, old value, target) -> loss and its slope; value_clip = 0.2
VALUES = {
    "within": (1.1, 1.0, 2.0, 0.405, -0.9),
    "moved farther towards the target": (1.5, 1.0, 2.0, 0.32, 0.0),  # as at 1.2: nothing more is gained
    "moved farther, away from the target": (0.5, 1.0, 2.0, 1.125, -1.5),
    "moved past the target": (3.0, 1.0, 1.1, 1.805, 1.9),
}


@pytest.mark.parametrize("case", VALUES)
def test_the_clipped_value_loss_in_every_regime(case):
    value, old, target, loss, slope = VALUES[case]
    row = random_batch(0, Categorical).replace(value=jnp.full(N, old), target=jnp.full(N, target))

    def total(value, clip):
        return jnp.mean(objectives.clipped_squared_error(jnp.full(N, value), row, HParams(value_clip=clip)))

    got, (by_value, by_clip) = jax.value_and_grad(total, (0, 1))(value, 0.2)
    np.testing.assert_allclose((got, by_value), (loss, slope), rtol=1e-5, atol=1e-6)
    assert by_clip == pytest.approx(-0.8 if slope == 0.0 else 0.0, rel=1e-5)
    assert total(value, 1e6) == pytest.approx(0.5 * (target - value) ** 2, rel=1e-5)


@pytest.mark.parametrize("objective", [objectives.policy_gradient, objectives.clipped_surrogate])
def test_advantages_are_standardised_over_the_real_rows_of_a_minibatch(objective):
    weight = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    batch = random_batch(2, Categorical).replace(weight=weight)
    batch = batch.replace(advantage=jnp.where(weight > 0, batch.advantage, 1e6))  # padding is not looked at
    real = np.asarray(batch.advantage, float)[np.asarray(weight) > 0]
    expected = (np.asarray(batch.advantage, float) - real.mean()) / real.std()
    standardized = objectives.Standardized(objective)
    assert standardized.reads == objective.reads
    got = standardized(batch.dist, batch, HP)
    wanted = objective(batch.dist, batch.replace(advantage=jnp.asarray(expected, jnp.float32)), HP)
    np.testing.assert_allclose(got[weight > 0], wanted[weight > 0], rtol=1e-4)
    alone = jax.tree.map(lambda x: x[:1], batch)
    np.testing.assert_array_equal(standardized(alone.dist, alone, HP), [0.0])


def test_mean_and_sum_over_steps():
    x, weight = jnp.arange(6.0), jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])  # T = 3 steps in B = 2 environments
    assert objectives.mean_over_steps(x, weight, 3) == pytest.approx((0 + 1 + 3 + 5) / 4)
    assert objectives.sum_over_steps(x, weight, 3) == pytest.approx((0 + 1 + 3 + 5) / 2)
    one = jnp.ones(6)
    assert objectives.sum_over_steps(x, one, 3) == pytest.approx(3 * float(objectives.mean_over_steps(x, one, 3)))


REDUCTIONS = pytest.mark.parametrize("reduction", [objectives.mean_over_steps, objectives.sum_over_steps])


@REDUCTIONS
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=2, max_size=2))
def test_padding_does_not_matter_whatever_it_contains(reduction, garbage):
    weight = jnp.array([1.0, 0.0, 1.0, 0.0])

    def value_and_grad(x):
        return jax.value_and_grad(lambda x: reduction(x, weight, 2))(x)

    filled = jnp.array([0.3, garbage[0], -2.0, garbage[1]], jnp.float32)
    for got, expected in zip(value_and_grad(filled), value_and_grad(filled * weight), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(value_and_grad(filled)[1][jnp.array([1, 3])], 0.0)


@REDUCTIONS
def test_a_rollout_without_any_weight_has_neither_loss_nor_gradient(reduction):
    value, gradient = jax.value_and_grad(lambda x: reduction(x, jnp.zeros(3), 3))(jnp.arange(3.0))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.0)
