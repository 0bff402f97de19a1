"""Distributions against scipy, numerical integration and counting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from jaxpg.core import objectives
from jaxpg.core.distributions import Beta, Categorical, DiagGaussian, Joint, MultiCategorical, TanhGaussian
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


@pytest.mark.parametrize("num_actions", [2, 7, 33, 1000])
def test_a_forbidden_action_is_never_drawn(num_actions):
    rng, rows = np.random.default_rng(num_actions), 200 if num_actions < 100 else 3
    allowed = rng.random((rows, num_actions)) < 0.5
    allowed[np.arange(rows), rng.integers(num_actions, size=rows)] = True
    logits = np.where(allowed, rng.normal(0, 2, allowed.shape), -np.inf).astype(np.float32)
    edges = np.cumsum(softmax(logits), -1)[..., None] + np.arange(-16, 17) * 2.0**-24  # where rounding could go wrong
    u = np.concatenate([edges.reshape(rows, -1), np.tile([0.0, 1.0], (rows, 1)), rng.random((rows, 50))], -1)
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
    batch = Batch(zero, jnp.array([action]), zero, policy(theta), zero, 10.0 * one, zero, one, zero > 0, ())
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


def random_leaves(cls, *shape, rank=1, seed=0, **bounds):
    """A bounded or Gaussian distribution of positive numbers."""
    a, b = np.random.default_rng(seed).uniform(0.3, 2.0, (2, *shape)).astype(np.float32)
    return cls(jnp.asarray(a), jnp.asarray(b), **bounds, event_rank=rank)


def random_categorical(cls, *shape, masked=False, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.5
    mask[..., 0] = True
    return cls(jnp.asarray(rng.normal(0, 1, shape), jnp.float32), jnp.asarray(mask) if masked else None, **kwargs)


T, B = 2, 3
KINDS = {
    "categorical": lambda seed: random_categorical(Categorical, T, B, 4, seed=seed),
    "masked": lambda seed: random_categorical(Categorical, T, B, 4, masked=True, seed=seed),
    "multi": lambda seed: random_categorical(MultiCategorical, T, B, 2, 4, seed=seed),
    "masked multi": lambda seed: random_categorical(MultiCategorical, T, B, 2, 2, 4, masked=True, seed=seed, event_rank=2),
    "gaussian": lambda seed: random_leaves(DiagGaussian, T, B, 2, seed=seed),
    "gaussian 0": lambda seed: random_leaves(DiagGaussian, T, B, seed=seed, rank=0),
    "gaussian 2": lambda seed: random_leaves(DiagGaussian, T, B, 2, 3, seed=seed, rank=2),
    "tanh": lambda seed: random_leaves(TanhGaussian, T, B, 2, seed=seed, low=(-1.0, 10.0), high=(1.0, 20.0)),
    "tanh 0": lambda seed: random_leaves(TanhGaussian, T, B, seed=seed, rank=0, low=0.0),
    "beta": lambda seed: random_leaves(Beta, T, B, 2, seed=seed, low=(-1.0, 10.0), high=(1.0, 20.0)),
    "beta 0": lambda seed: random_leaves(Beta, T, B, seed=seed, rank=0),
    "beta 2": lambda seed: random_leaves(Beta, T, B, 2, 3, seed=seed, rank=2),
    "joint": lambda seed: Joint({
        "x": (random_leaves(DiagGaussian, T, B, 2, seed=seed), random_categorical(Categorical, T, B, 3, masked=True, seed=7)),
        "y": random_leaves(Beta, T, B, 2, seed=seed + 1),
    }),
}  # fmt: skip
EVERY = pytest.mark.parametrize("kind", KINDS)


def flatten(tree):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def draw_noise(dist, key):
    """As a rollout does: of a distribution whose leaves are all zero."""
    return jax.tree.map(jnp.zeros_like, dist).noise(key)


def numbers(dist, other, noise):
    action = dist.sample(noise)
    return action, dist.mode(), dist.log_prob(action), dist.entropy(), dist.kl(other), dist.log_prob(dist.mode())


def assert_close(one, two, tol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tol, atol=tol), one, two)


@EVERY
def test_a_rollout_may_draw_its_noise_first_and_reshape_all_leaves(kind):
    dist, other = KINDS[kind](0), KINDS[kind](0 if "masked" in kind else 9)
    noise = draw_noise(dist, jax.random.key(3))
    assert isinstance(dist, Distribution)
    assert all(x.shape[:2] == (T, B) for x in jax.tree.leaves(noise))
    stacked = numbers(dist, other, noise)
    assert [x.shape for x in stacked[2:]] == [(T, B)] * 4
    assert jax.tree.map(lambda x: (x.shape, x.dtype), stacked[0]) == jax.tree.map(lambda x: (x.shape, x.dtype), stacked[1])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(stacked))

    assert_close(flatten(stacked), numbers(flatten(dist), flatten(other), flatten(noise)))
    scanned = jax.jit(lambda *rows: jax.lax.scan(lambda _, row: (None, numbers(*row)), None, rows)[1])(dist, other, noise)
    assert_close(stacked, scanned)
    assert_close(stacked, jax.vmap(jax.vmap(numbers))(dist, other, noise))


@EVERY
def test_each_action_has_noise_of_its_own_that_the_parameters_do_not_change(kind):
    dist, key = KINDS[kind](0), jax.random.key(0)
    noise = jax.tree.leaves(draw_noise(dist, key))
    again, other = (jax.tree.leaves(dist.noise(k)) for k in (key, jax.random.key(1)))
    for mine, same, others in zip(noise, again, other, strict=True):
        assert np.all(mine == same)
        assert not np.any(mine == others)
        assert len({str(x) for x in mine.ravel()}) == mine.size


@EVERY
def test_divergence_is_zero_from_itself_and_positive_from_others(kind):
    dist = KINDS[kind](0)
    np.testing.assert_allclose(dist.kl(dist), 0.0, atol=2e-6)
    if "masked" not in kind:
        assert np.all(dist.kl(KINDS[kind](9)) > 1e-3)


@EVERY
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_outputs_of_low_precision_are_widened_before_anything_is_computed(kind, dtype):
    narrow = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(dtype), KINDS[kind](0))
    wide = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), narrow)
    noise = draw_noise(narrow, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, numbers(narrow, narrow, noise), numbers(wide, wide, noise))
    floats = [x for x in jax.tree.leaves((noise, numbers(narrow, narrow, noise))) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {np.dtype(np.float32)}


@pytest.mark.usefixtures("x64")
@EVERY
def test_results_have_the_precision_of_the_leaves(kind):
    for dtype in (np.float32, np.float64):
        dist = jax.tree.map(lambda x, dtype=dtype: x if x.dtype == bool else x.astype(dtype), KINDS[kind](0))
        noise = draw_noise(dist, jax.random.key(0))
        results = [x for x in jax.tree.leaves((noise, numbers(dist, dist, noise))) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert {x.dtype for x in results} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_actions_are_drawn_with_the_probabilities_that_log_prob_states(dtype):
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 2, 40), dtype)
    dist, grid = Categorical(logits), (jnp.arange(2**16) + 0.5) / 2**16
    frequency = np.bincount(jax.vmap(dist.sample)(grid), minlength=40) / 2**16
    np.testing.assert_allclose(frequency, np.exp(dist.log_prob(jnp.arange(40))), atol=2.0**-16)
    assert dist.noise(jax.random.key(0)).dtype == np.float32


MASKS = arrays(bool, (3, 4))


@given(LOGITS, LOGITS, MASKS, st.sampled_from([0.0, 3e38, np.nan, np.inf, -np.inf]))
def test_a_mask_leaves_the_distribution_over_the_legal_actions(logits, others, mask, illegal):
    """Against the same actions taken out of the arrays, in float64; a row without legal actions has them all."""
    legal = mask | ~mask.any(-1, keepdims=True)
    logits, others = (np.where(legal, x, np.float32(illegal)) for x in (logits, others))
    dist, other = Categorical(jnp.asarray(logits), jnp.asarray(mask)), Categorical(jnp.asarray(others), jnp.asarray(mask))
    log_prob = np.asarray(jax.vmap(dist.log_prob)(jnp.broadcast_to(jnp.arange(4)[:, None], (4, 3)))).T
    drawn = np.asarray(jax.vmap(dist.sample)(jnp.broadcast_to(jnp.linspace(0, 1 - 2.0**-23, 99)[:, None], (99, 3))))
    for i, row in enumerate(legal):
        p, q = softmax(logits[i, row]), softmax(others[i, row])
        np.testing.assert_allclose(log_prob[i, row], np.log(p), rtol=1e-5, atol=1e-5)
        assert np.all(np.exp(log_prob[i, ~row]) == 0)
        assert dist.entropy()[i] == pytest.approx(stats.entropy(p), rel=1e-4, abs=1e-5)
        assert dist.kl(other)[i] == pytest.approx(stats.entropy(p, q), rel=1e-4, abs=1e-5)
        assert dist.mode()[i] == np.flatnonzero(row)[logits[i, row].argmax()]
        assert row[drawn[:, i]].all()


@pytest.mark.parametrize("illegal", [0.0, 3e38, np.nan, -np.inf])
def test_masked_actions_leave_first_and_second_derivatives_exact(illegal):
    """The Hessian of the KL is that over the legal actions, diag(p) - p p'; that of the entropy is finite."""
    mask = jnp.array([True, False, True, True, False])
    logits = jnp.where(mask, jnp.array([0.3, 0.0, -1.0, 0.5, 0.0]), illegal)
    old = Categorical(logits, mask)
    p = np.where(mask, np.exp(np.where(mask, logits, -np.inf)), 0.0)
    p /= p.sum()
    hessian = jax.jit(jax.hessian(lambda x: old.kl(Categorical(x, mask))))(logits)
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-6)
    score = jax.vmap(jax.grad(lambda x, a: Categorical(x, mask).log_prob(a)), (None, 0))(logits, jnp.arange(5))
    np.testing.assert_allclose(score[mask], (np.eye(5) - p)[np.asarray(mask)], atol=1e-6)
    np.testing.assert_allclose(p @ np.asarray(score), 0.0, atol=1e-6)
    for derivative in (jax.grad, jax.hessian):
        value = np.asarray(derivative(lambda x: Categorical(x, mask).entropy())(logits))
        assert np.all(np.isfinite(value))
        assert np.all(value[~mask] == 0)


def test_a_network_that_diverged_is_not_hidden_by_a_mask():
    dist = Categorical(jnp.array([jnp.nan, 0.0, 1.0]), jnp.array([True, True, False]))
    assert np.isnan(dist.entropy())
    assert np.isnan(dist.log_prob(jnp.array(1)))


@given(floats((2, 3), -5, 5), floats((2, 3), -5, 5), arrays(bool, (2, 3)))
def test_a_multi_categorical_agrees_with_the_enumeration_of_all_actions(logits, others, mask):
    assume(mask.any(-1).all())
    dist, other = (MultiCategorical(jnp.asarray(x), jnp.asarray(mask)) for x in (logits, others))
    actions = jnp.array(list(itertools.product(range(3), repeat=2)), jnp.int32)
    rows = [softmax(np.where(mask, x, -np.inf)) for x in (logits, others)]
    p, q = (np.array([x[0, a] * x[1, b] for a, b in actions]) for x in rows)
    np.testing.assert_allclose(np.exp(jax.vmap(dist.log_prob)(actions)), p, rtol=1e-4, atol=1e-6)
    assert float(jnp.sum(jnp.exp(jax.vmap(dist.log_prob)(actions)))) == pytest.approx(1, abs=1e-5)
    assert dist.entropy() == pytest.approx(stats.entropy(p), rel=1e-4, abs=1e-5)
    assert dist.kl(other) == pytest.approx(stats.entropy(p[p > 0], q[p > 0]), rel=1e-4, abs=1e-5)
    assert p[3 * dist.mode()[0] + dist.mode()[1]] == pytest.approx(p.max())


def test_a_multi_categorical_of_unequal_components_draws_each_with_its_own_frequencies():
    parts = [jnp.array([0.3, -0.5]), jnp.array([0.1, 1.0, -1.0, 0.0]), jnp.zeros(1)]
    dist = MultiCategorical.of([jnp.broadcast_to(x, (20_000, len(x))) for x in parts])
    actions = np.asarray(dist.sample(draw_noise(dist, jax.random.key(0))))
    assert actions.shape == (20_000, 3)
    assert actions.dtype == np.int32
    for i, logits in enumerate(parts):
        counts, p = np.bincount(actions[:, i], minlength=len(logits)), softmax(logits)
        assert len(counts) == len(logits)
        assert np.all(np.abs(counts - 20_000 * p) <= 4 * np.sqrt(20_000 * p * (1 - p)))
    table = np.histogram2d(actions[:, 0], actions[:, 1], (2, 4))[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3  # independent


@pytest.mark.parametrize(("shape", "rank"), [((5,), 0), ((5, 2, 3), 2)])
def test_gaussian_actions_of_any_rank_agree_with_scipy(shape, rank):
    dist = random_leaves(DiagGaussian, *shape, rank=rank)
    reference = stats.norm(np.asarray(dist.mean, float), np.exp(np.asarray(dist.log_std, float)))
    action, axes = dist.sample(dist.noise(jax.random.key(0))), tuple(range(1, 1 + rank))
    assert action.shape == shape
    np.testing.assert_allclose(dist.log_prob(action), reference.logpdf(action).sum(axes), rtol=1e-4)
    np.testing.assert_allclose(dist.entropy(), reference.entropy().sum(axes), rtol=1e-4)


def log_slope(u):
    """log(1 - tanh(u)^2), in float64."""
    return 2 * (np.log(2) - np.abs(u) - np.log1p(np.exp(-2 * np.abs(u))))


BOUNDS = [(-1.0, 1.0), (10.0, 20.0), (0.0, 0.01)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_the_density_of_a_tanh_gaussian_is_that_of_the_change_of_variables_and_integrates_to_one(low, high):
    mean, std, u = 0.7, 1.3, np.linspace(-5, 5, 101)
    dist = TanhGaussian(jnp.float64(mean), jnp.log(jnp.float64(std)), low, high, event_rank=0)
    action = low + (high - low) * (1 + np.tanh(u)) / 2
    expected = stats.norm(mean, std).logpdf(u) - log_slope(u) - np.log((high - low) / 2)
    np.testing.assert_allclose(dist.log_prob(jnp.asarray(action)), expected, rtol=1e-7)
    np.testing.assert_allclose(dist.sample((u - mean) / std), action, rtol=1e-12, atol=1e-15)

    wide = TanhGaussian(
        jnp.float32(mean), jnp.float32(1.5), low, high, event_rank=0
    )  # a fifth of all actions are at the bounds
    share, edge = wide._edge(np.float32)
    assert stats.norm(mean, np.exp(1.5)).sf(edge) > 0.05
    cells = np.linspace(-edge, edge, 4001)
    inner = low + (high - low) * (1 + np.tanh((cells[1:] + cells[:-1]) / 2)) / 2
    mass = np.exp(np.asarray(wide.log_prob(jnp.asarray(inner)), float)) * np.diff(low + (high - low) * (1 + np.tanh(cells)) / 2)
    atoms = np.exp(np.asarray(wide.log_prob(jnp.array([low, high])), float)) * share * (high - low)
    assert mass.sum() + atoms.sum() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_log_probabilities_of_drawn_actions_are_close_to_those_in_float64(low, high):
    mean, std = np.meshgrid(np.linspace(-4, 4, 9), np.exp([-3.0, -1.0, 0.5]))
    dist = TanhGaussian(jnp.asarray(mean, jnp.float32), jnp.log(jnp.asarray(std, jnp.float32)), low, high, event_rank=0)
    noise = jnp.linspace(-2.5, 2.5, 11)[:, None, None] * jnp.ones_like(dist.mean)
    got = np.asarray(jax.vmap(lambda x: dist.log_prob(dist.sample(x)))(noise))
    u = mean + std * np.asarray(noise, float)
    within = np.abs(u) < dist._edge(np.float32)[1] - 0.01
    expected = stats.norm(mean, std).logpdf(u) - log_slope(u) - np.log((high - low) / 2)
    error = np.abs(got - expected) / (0.01 * np.maximum(1, 0.1 / std))
    assert within.mean() > 0.8
    assert error[within].max() < 1


@pytest.mark.parametrize("mean", [0.0, 3.0, 5.0, 50.0])
def test_the_score_of_a_tanh_gaussian_has_mean_zero_also_where_tanh_saturates(mean):
    dist = TanhGaussian(jnp.float32(mean), jnp.float32(np.log(1.5)), event_rank=0)
    noise = jnp.asarray(stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000), jnp.float32)
    action = jax.vmap(dist.sample)(noise)
    score = jax.vmap(jax.grad(lambda d, a: d.log_prob(a)), (None, 0))(dist, action)
    np.testing.assert_allclose([jnp.mean(score.mean), jnp.mean(score.log_std)], 0.0, atol=2e-4)
    if mean == 50.0:
        np.testing.assert_array_equal(action, 1.0)
        np.testing.assert_array_equal(score.mean, 0.0)


@given(
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.floats(-100, 100, width=32),
    st.floats(-5, 5, width=32),
    st.sampled_from(BOUNDS),
)
@example(2.0**100, -100.0, 0.5, (-1.0, 1.0))
@example(-(2.0**100), -100.0, 0.0, (10.0, 20.0))
@example(0.0, -100.0, 0.0, (-1.0, 1.0))
def test_log_probabilities_of_drawn_actions_and_their_gradients_are_finite_for_any_parameters(mean, log_std, noise, bounds):
    dist = TanhGaussian(jnp.float32(mean), jnp.float32(log_std), *bounds, event_rank=0)
    action = dist.sample(jnp.float32(noise))
    assert bounds[0] <= np.float32(action) <= np.float32(bounds[1])
    value, gradient = jax.value_and_grad(lambda d: d.log_prob(action))(dist)
    assert all(np.isfinite(x) for x in (value, gradient.mean, gradient.log_std))


def test_entropy_of_a_tanh_gaussian_agrees_with_integration():
    mean, log_std = np.meshgrid(np.linspace(-3, 3, 13), np.linspace(-5, 2, 15))
    std, z = np.exp(log_std), np.linspace(-12, 12, 24_001)[:, None, None]
    u, weight = mean + std * z, stats.norm.pdf(z) * (z[1] - z[0])
    expected = np.sum(weight * (log_slope(u) + np.log(2.5) - stats.norm(mean, std).logpdf(u)), 0)
    dist = TanhGaussian(*(jnp.asarray(x, jnp.float32) for x in (mean, log_std)), low=10.0, high=15.0, event_rank=0)
    np.testing.assert_allclose(dist.entropy(), expected, atol=2e-4)
    gradient = jax.grad(lambda d: jnp.sum(d.entropy()))(dist)
    np.testing.assert_allclose(gradient.mean, np.sum(weight * -2 * np.tanh(u), 0), atol=1e-3)
    np.testing.assert_allclose(gradient.log_std, 1 + np.sum(weight * -2 * np.tanh(u) * std * z, 0), atol=5e-3)


@given(MEANS, LOG_STDS, MEANS, LOG_STDS)
def test_kl_of_tanh_gaussians_agrees_with_integration_over_actions(mean, log_std, other_mean, other_log_std):
    rows = [jnp.asarray(x) for x in (mean, log_std, other_mean, other_log_std)]
    got = TanhGaussian(*rows[:2], 0.0, 5.0).kl(TanhGaussian(*rows[2:], 0.0, 5.0))
    u = mean + np.exp(log_std) * np.linspace(-12, 12, 4001)[:, None, None]
    p, q = (
        stats.norm(m, np.exp(log_s)).logpdf(u) - log_slope(u)
        for m, log_s in ((mean, log_std.astype(float)), (other_mean, other_log_std.astype(float)))
    )
    expected = np.trapezoid(np.exp(p + log_slope(u)) * (p - q), u, axis=0).sum(-1)  # p(a) da = p(a) da/du du
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_mode_of_a_tanh_gaussian_is_its_median_within_the_bounds():
    dist = TanhGaussian(jnp.array([0.5, -80.0, 80.0]), jnp.zeros(3), low=-0.2, high=0.1)
    np.testing.assert_allclose(dist.mode(), [-0.2 + 0.3 * (1 + np.tanh(0.5)) / 2, -0.2, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(dist.mode()[1:], np.float32([-0.2, 0.1]))


SHAPES = floats((3, 2), np.float32(0.5), 20)


@given(SHAPES, SHAPES, SHAPES, SHAPES, floats((3, 2), np.float32(0.01), np.float32(0.99)))
def test_beta_agrees_with_scipy_and_with_integration(alpha, beta, other_alpha, other_beta, x):
    low, high = np.array([-1.0, 10.0]), np.array([1.0, 20.0])
    dist, other = (Beta(jnp.asarray(a), jnp.asarray(b), low, high) for a, b in ((alpha, beta), (other_alpha, other_beta)))
    p = stats.beta(alpha.astype(float), beta.astype(float))
    width = np.log(high - low)
    action = low + (high - low) * x
    np.testing.assert_allclose(dist.log_prob(jnp.asarray(action)), (p.logpdf(x) - width).sum(-1), rtol=1e-3, atol=3e-3)
    np.testing.assert_allclose(dist.entropy(), (p.entropy() + width).sum(-1), rtol=1e-3, atol=1e-4)
    logit = np.linspace(-40, 40, 4001)[:, None, None]  # x = sigmoid(logit), dx = x (1 - x) dlogit
    log_x, log_rest = -np.log1p(np.exp(-logit)), -np.log1p(np.exp(logit))

    def log_density(a, b):
        log_p = a.astype(float) * log_x + b.astype(float) * log_rest
        return log_p - np.log(np.trapezoid(np.exp(log_p), logit, axis=0))

    log_p, log_q = log_density(alpha, beta), log_density(other_alpha, other_beta)
    kl = np.trapezoid(np.exp(log_p) * (log_p - log_q), logit, axis=0).sum(-1)
    np.testing.assert_allclose(dist.kl(other), kl, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("alpha", "beta", "mode"), [
    (3.0, 2.0, 2 / 3), (2.0, 2.0, 0.5), (1.0, 3.0, 0.0), (0.5, 2.0, 0.0), (4.0, 0.7, 1.0), (1.0, 1.0, 0.5), (0.2, 0.6, 0.25),
])  # fmt: skip
def test_a_greedy_beta_takes_the_highest_density_or_the_mean_where_no_action_has_it(alpha, beta, mode):
    dist = Beta(jnp.array([alpha]), jnp.array([beta]), 5.0, 7.0)
    np.testing.assert_allclose(dist.mode(), [5 + 2 * mode], rtol=1e-6)
    assert np.isfinite(dist.log_prob(dist.mode()))
    if max(alpha, beta) > 1:
        grid = jnp.linspace(5.0, 7.0, 201)[:, None]
        assert abs(grid[jnp.argmax(jax.vmap(dist.log_prob)(grid)), 0] - dist.mode()[0]) <= 0.01


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "philox4x32"])
def test_beta_samples_have_the_right_distribution_with_any_generator(impl):
    """Drawn in a scan over steps, as in a rollout."""
    parameters = np.array([[2.0, 3.0], [0.5, 0.8]], np.float32)
    many = Beta(*(jnp.broadcast_to(x, (4, 1000, 2)) for x in parameters.T), low=-2.0, high=3.0)
    noise = draw_noise(many, jax.random.key(0, impl=impl))
    sample = jax.jit(lambda d, n: jax.lax.scan(lambda _, row: (None, row[0].sample(row[1])), None, (d, n))[1])
    x = np.asarray(sample(many, noise), float).reshape(-1, 2) / 5 + 0.4
    for i in range(2):
        assert stats.kstest(x[:, i], stats.beta(*parameters[i]).cdf).pvalue > 1e-3
    assert abs(stats.pearsonr(x[:, 0], x[:, 1]).statistic) < 0.06


@given(st.floats(-6, 6, width=32), st.floats(-6, 6, width=32), st.integers(0, 2**31))
def test_log_probabilities_of_beta_samples_are_finite(log_alpha, log_beta, seed):
    dist = Beta(jnp.exp(jnp.float32(log_alpha)), jnp.exp(jnp.float32(log_beta)), 0.1, 0.3, event_rank=0)
    action = dist.sample(dist.noise(jax.random.key(seed)))
    assert np.float32(0.1) <= action <= np.float32(0.3)
    value, gradient = jax.value_and_grad(lambda d: d.log_prob(action))(dist)
    assert all(np.isfinite(x) for x in (value, gradient.alpha, gradient.beta))


@pytest.mark.parametrize("cls", [TanhGaussian, Beta])
def test_bounds_are_checked_where_a_distribution_is_made(cls):
    one = jnp.ones(2)
    for low, high, said in [
        (0.0, np.inf, "high=inf"),
        ((0.0, 1.0), 1.0, "low=(0.0, 1.0), high=1.0"),
        (1, 0, "low=1.0, high=0.0"),
    ]:
        with pytest.raises(ValueError, match="^" + cls.__name__) as error:
            cls(one, one, low, high)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"low and high are static, but one is traced \(float32\[2\]\)"):
        jax.jit(lambda low: cls(one, one, low, 3.0).entropy())(one)
    assert cls(one, one, np.float32([0, 1]), jnp.array([2, 3])).low == (0.0, 1.0)
    assert hash(jax.tree.structure(cls(one, one, np.zeros((2, 3)), 1.0)))


def test_a_joint_distribution_is_the_product_of_its_parts():
    mean, log_std, logits = jnp.array([[0.5, -1.0]]), jnp.array([[0.3, -0.7]]), jnp.array([[0.5, -1.0, 2.0]])
    inner = Joint((Categorical(logits), Categorical(logits[:, ::-1])))
    dist = Joint({"force": DiagGaussian(mean, log_std), "gears": inner})
    action = {"force": jnp.array([[0.1, 0.2]]), "gears": (jnp.array([2]), jnp.array([1]))}
    p, gaussian = softmax(logits)[0], stats.norm(np.asarray(mean[0], float), np.exp(np.asarray(log_std[0], float)))
    assert dist.log_prob(action)[0] == pytest.approx(gaussian.logpdf([0.1, 0.2]).sum() + np.log(p[2]) + np.log(p[1]), rel=1e-5)
    assert dist.entropy()[0] == pytest.approx(gaussian.entropy().sum() + 2 * stats.entropy(p), rel=1e-5)
    other = Joint({"force": DiagGaussian(mean, log_std), "gears": Joint((Categorical(logits[:, ::-1]), Categorical(logits)))})
    assert dist.kl(other)[0] == pytest.approx(stats.entropy(p, p[::-1]) + stats.entropy(p[::-1], p), rel=1e-5)
    assert jax.tree.map(np.shape, dist.sample(dist.noise(jax.random.key(0)))) == jax.tree.map(np.shape, action)
    assert dist.mode()["gears"] == (2, 0)


def test_parts_of_a_joint_distribution_draw_independently():
    same = Categorical(jnp.zeros((20_000, 2)))
    dist = Joint((same, same))
    one, two = dist.sample(dist.noise(jax.random.key(0)))
    assert abs(np.mean(one == two) - 0.5) < 0.02


@pytest.mark.parametrize(("parts", "said"), [({}, "has none"), ({"a": CATEGORICAL, "b": 3.0}, "has float")])
def test_a_joint_distribution_says_what_is_not_a_distribution(parts, said):
    with pytest.raises(ValueError, match=said):
        Joint(parts).entropy()
