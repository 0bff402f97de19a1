"""Distributions against scipy, numerical integration and counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from jaxpg.core import objectives
from jaxpg.core.distributions import Categorical, DiagGaussian
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Batch, Distribution


def floats(shape, low, high):
    return arrays(np.float32, shape, elements=st.floats(low, high, width=32, allow_subnormal=False))


LOGITS, MEANS, LOG_STDS = floats((3, 4), -20, 20), floats((3, 2), -3, 3), floats((3, 2), -2, 1)
CATEGORICAL = Categorical(jnp.array([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]]))
GAUSSIAN = DiagGaussian(jnp.array([[0.5, -1.0], [2.0, 0.0]]), jnp.array([[0.3, -0.7], [0.0, 1.0]]))
EACH = pytest.mark.parametrize("dist", [CATEGORICAL, GAUSSIAN], ids=["categorical", "gaussian"])


def softmax(logits):
    p = np.exp(np.asarray(logits, np.float64) - np.max(logits, -1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@given(LOGITS, LOGITS)
def test_categorical_agrees_with_scipy(logits, other):
    dist, p, q = Categorical(jnp.asarray(logits)), softmax(logits), softmax(other)
    every_action = jnp.broadcast_to(jnp.arange(4)[:, None], (4, 3))
    np.testing.assert_allclose(dist.log_prob(every_action), np.log(p).T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dist.entropy(), stats.entropy(p, axis=-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dist.kl(Categorical(jnp.asarray(other))), stats.entropy(p, q, axis=-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(dist.mode(), logits.argmax(-1))


@given(MEANS, LOG_STDS, MEANS, LOG_STDS)
def test_gaussian_agrees_with_scipy_and_with_integration(mean, log_std, other_mean, other_log_std):
    dist = DiagGaussian(jnp.asarray(mean), jnp.asarray(log_std))
    std, other_std = np.exp(log_std.astype(np.float64)), np.exp(other_log_std.astype(np.float64))
    joint = [stats.multivariate_normal(m, np.diag(s**2)) for m, s in zip(mean, std, strict=True)]
    action = other_mean
    expected = [row.logpdf(a) for row, a in zip(joint, action, strict=True)]
    np.testing.assert_allclose(dist.log_prob(jnp.asarray(action)), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dist.entropy(), [row.entropy() for row in joint], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(dist.mode(), mean)

    x = mean + std * np.linspace(-12, 12, 4001)[:, None, None]
    p, q = stats.norm(mean, std), stats.norm(other_mean, other_std)
    kl = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x, axis=0).sum(-1)
    np.testing.assert_allclose(
        dist.kl(DiagGaussian(jnp.asarray(other_mean), jnp.asarray(other_log_std))), kl, rtol=1e-4, atol=1e-4
    )


def test_density_of_a_two_dimensional_gaussian_sums_over_dimensions():
    dist = DiagGaussian(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.5, 3.0])))
    expected = stats.norm(1, 0.5).logpdf(0.2) + stats.norm(-2, 3).logpdf(1.0)
    assert dist.log_prob(jnp.array([0.2, 1.0])) == pytest.approx(expected, rel=1e-6)


@EACH
def test_a_distribution_has_no_divergence_from_itself_and_some_from_others(dist):
    np.testing.assert_allclose(dist.kl(dist), 0.0, atol=1e-7)
    assert np.all(dist.kl(jax.tree.map(lambda x: x[::-1], dist)) > 0.1)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("log_prob", (jnp.array([2, 1]),)),
        ("entropy", ()),
        ("kl", (Categorical(jnp.array([[1.0, -jnp.inf, 0.0], [-jnp.inf, 0.0, -jnp.inf]])),)),
    ],
)
def test_forbidden_actions_leave_values_and_gradients_finite(name, args):
    logits = jnp.array([[0.5, -jnp.inf, 1.0], [-jnp.inf, 0.3, -jnp.inf]])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(getattr(Categorical(x), name)(*args)))(logits)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[jnp.isinf(logits)] == 0)
    free = Categorical(jnp.array([[0.5, 1.0]]))
    reduced = {"log_prob": (jnp.array([1]),), "entropy": (), "kl": (Categorical(jnp.array([[1.0, 0.0]])),)}[name]
    assert value == pytest.approx(float(getattr(free, name)(*reduced)[0]), rel=1e-6)  # the second row has one action: all are 0


@pytest.mark.parametrize("num_actions", [2, 7, 33])
def test_a_forbidden_action_is_never_drawn(num_actions):
    rng = np.random.default_rng(num_actions)
    allowed = rng.random((200, num_actions)) < 0.5
    allowed[np.arange(200), rng.integers(num_actions, size=200)] = True
    logits = np.where(allowed, rng.normal(0, 2, allowed.shape), -np.inf).astype(np.float32)
    edges = np.cumsum(softmax(logits), -1)[..., None] + np.arange(-16, 17) * 2.0**-24  # where rounding could go wrong
    u = np.concatenate([edges.reshape(200, -1), np.tile([0.0, 1.0], (200, 1)), rng.random((200, 50))], -1)
    u = np.clip(u, 0, 1 - 2.0**-24).astype(np.float32)
    action = np.asarray(Categorical(jnp.asarray(logits)[:, None]).sample(jnp.asarray(u)))
    assert action.dtype == np.int32
    assert action.min() >= 0
    assert action.max() < num_actions
    assert np.take_along_axis(allowed, action, axis=-1).all()


def test_categorical_samples_have_the_right_frequencies():
    logits = jnp.array([0.0, 1.0, -2.0, -jnp.inf, 0.5])
    many = Categorical(jnp.broadcast_to(logits, (50_000, 5)))
    counts = np.bincount(many.sample(many.noise(jax.random.key(0))), minlength=5)
    expected = 50_000 * softmax(np.asarray(logits))
    assert counts[3] == 0
    assert stats.chisquare(counts[[0, 1, 2, 4]], expected[[0, 1, 2, 4]]).pvalue > 1e-3


def test_gaussian_samples_have_the_right_distribution():
    many = DiagGaussian(jnp.broadcast_to(jnp.array([1.0, -3.0]), (20_000, 2)), jnp.full((20_000, 2), jnp.log(0.5)))
    samples = np.asarray(many.sample(many.noise(jax.random.key(0))))
    for dimension, mean in enumerate([1.0, -3.0]):
        assert stats.kstest(samples[:, dimension], stats.norm(mean, 0.5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.03


@EACH
def test_noise_does_not_depend_on_the_parameters(dist):
    key = jax.random.key(3)
    moved = jax.tree.map(lambda x: 3.0 * x - 1.0, dist)
    np.testing.assert_array_equal(dist.noise(key), moved.noise(key))
    assert not np.array_equal(dist.noise(key), dist.noise(jax.random.key(4)))
    gradient = jax.grad(lambda d: jnp.sum(d.noise(key)))(dist)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


def test_score_of_a_categorical_is_one_hot_minus_probabilities():
    logits = jnp.array([0.2, -1.0, 0.7])
    for action in range(3):
        score = jax.grad(lambda x, a=action: Categorical(x).log_prob(jnp.int32(a)))(logits)
        np.testing.assert_allclose(score, np.eye(3)[action] - softmax(np.asarray(logits)), atol=1e-6)


def test_score_of_a_gaussian():
    mean, log_std, action = jnp.array([0.5, 1.0]), jnp.array([-0.5, 0.2]), jnp.array([0.1, 2.0])
    score = jax.grad(lambda d: d.log_prob(action))(DiagGaussian(mean, log_std))
    z = (np.array(action) - np.array(mean)) / np.exp(log_std)
    np.testing.assert_allclose(score.mean, z / np.exp(log_std), rtol=1e-5)
    np.testing.assert_allclose(score.log_std, z**2 - 1, rtol=1e-5)


@pytest.mark.parametrize(("action", "score", "signal"), [(0, 0.3, 3.0), (1, -0.7, -7.0)])
def test_two_actions_as_in_lesson_5(action, score, signal):
    theta = jnp.log(jnp.float32(0.7 / 0.3))  # p = sigmoid(theta) = 0.7 is the probability of action 0

    def policy(theta):
        return Categorical(jnp.stack([theta, 0.0])[None])

    one, zero = jnp.ones(1), jnp.zeros(1)
    batch = Batch(zero, jnp.array([action]), zero, policy(theta), zero, 10.0 * one, zero, one)
    assert jax.grad(lambda t: policy(t).log_prob(batch.action)[0])(theta) == pytest.approx(score, rel=1e-5)
    objective = jax.grad(lambda t: objectives.policy_gradient(policy(t), batch, HParams())[0])(theta)
    assert objective == pytest.approx(signal, rel=1e-5)


def test_gaussian_samples_are_differentiable_in_the_parameters():
    noise = jnp.array([0.5, -1.5])
    mean, log_std = jnp.array([1.0, 2.0]), jnp.array([0.1, -0.3])
    gradient = jax.grad(lambda d: jnp.sum(d.sample(noise)))(DiagGaussian(mean, log_std))
    np.testing.assert_array_equal(gradient.mean, 1.0)
    np.testing.assert_allclose(gradient.log_std, np.exp(log_std) * noise, rtol=1e-6)


@EACH
def test_batch_axes_are_those_of_the_leaves_under_jit_and_vmap(dist):
    def everything(dist, key):
        action = dist.sample(dist.noise(key))
        return action, dist.mode(), dist.log_prob(action), dist.entropy(), dist.kl(dist)

    assert isinstance(dist, Distribution)
    keys = jax.random.split(jax.random.key(0), 2)
    rows = jax.jit(jax.vmap(everything))(dist, keys)
    stacked = everything(dist, keys[0])
    event = () if dist is CATEGORICAL else (2,)
    for got, whole, shape in zip(rows, stacked, [event, event, (), (), ()], strict=True):
        assert got.shape == whole.shape == (2, *shape)
        assert got.dtype == whole.dtype
    for i in range(2):
        single = everything(jax.tree.map(lambda x, i=i: x[i], dist), keys[i])
        for got, expected in zip(rows, single, strict=True):
            np.testing.assert_allclose(got[i], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
@EACH
def test_float64_stays_float64(dist):
    dist = jax.tree.map(lambda x: np.asarray(x, np.float64), dist)
    action = dist.sample(dist.noise(jax.random.key(0)))
    results = dist.log_prob(action), dist.entropy(), dist.kl(dist), dist.noise(jax.random.key(0))
    assert [x.dtype for x in results] == [np.float64] * 4
