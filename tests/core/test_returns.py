"""Returns and advantages against their forward views, written as O(T^2) loops in float64, and against rlax."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg.core import _platform, returns

SHAPE = (9, 4)  # [T, B]
# compiled once and not once an example
td_error, lambda_return, discounted_return, generalized_advantage = map(
    jax.jit, (returns.td_error, returns.lambda_return, returns.discounted_return, returns.generalized_advantage)
)
n_step_return = jax.jit(returns.n_step_return, static_argnames="n")
SEEDS = st.integers(0, 2**31 - 1)


class Rollout:
    """Random rewards, values and flags; both flags at once included."""

    def __init__(self, seed, flags=0.3):
        rng = np.random.default_rng(seed)
        self.reward, self.value, self.next_value = rng.normal(size=(3, *SHAPE))
        self.gamma, self.lam = rng.random(2)
        self.terminated, self.truncated = rng.random((2, *SHAPE)) < flags
        self.done = self.terminated | self.truncated
        self.discount = self.gamma * (1 - self.terminated)

    def arrays(self, lam):
        """reward, discount, trace, value, next_value as the library takes them."""
        return [jnp.asarray(x) for x in (self.reward, self.discount, lam * (1 - self.done), self.value, self.next_value)]


def n_step(r, t, b, n):
    """r_t + gamma r_{t+1} + ... + gamma^n v', over at most ``n`` steps and not beyond an episode or the rollout."""
    total = 0.0
    for k in range(n):
        i = t + k
        total += r.gamma**k * r.reward[i, b]
        if r.done[i, b] or i == SHAPE[0] - 1 or k == n - 1:
            return total + (0.0 if r.terminated[i, b] else r.gamma ** (k + 1) * r.next_value[i, b])
    raise AssertionError("unreachable")


def horizon(r, t, b):
    """Rows from ``t`` to the end of its episode, or of the rollout."""
    ends = np.flatnonzero(r.done[t:, b])
    return ends[0] + 1 if len(ends) else SHAPE[0] - t


def lambda_mixture(r, t, b):
    """(1 - lambda) sum_n lambda^(n-1) G^(n), with the rest of the weight on the longest [Sutton & Barto 2018, eq. 12.3]."""
    last = horizon(r, t, b)
    shorter = sum((1 - r.lam) * r.lam ** (n - 1) * n_step(r, t, b, n) for n in range(1, last))
    return shorter + r.lam ** (last - 1) * n_step(r, t, b, last)


def table(function, *args):
    return np.array([[function(*args[:1], t, b, *args[1:]) for b in range(SHAPE[1])] for t in range(SHAPE[0])])


def test_returns_of_lesson_6():
    g = discounted_return(jnp.array([[1.0, 1.0], [2.0, 0.0], [3.0, 0.0]]), jnp.full((3, 2), 0.9))
    np.testing.assert_allclose(g, [[5.23, 1.0], [4.70, 0.0], [3.00, 0.0]], rtol=1e-6)


@given(SEEDS)
@pytest.mark.usefixtures("x64")
def test_td_error_is_the_surprise(seed):
    r = Rollout(seed)
    reward, discount, _, value, next_value = r.arrays(1.0)
    expected = r.reward + np.where(r.terminated, 0.0, r.gamma * r.next_value) - r.value
    np.testing.assert_allclose(td_error(reward, discount, value, next_value), expected, atol=1e-12)


@given(SEEDS)
@pytest.mark.usefixtures("x64")
def test_lambda_return_is_the_mixture_of_n_step_returns(seed):
    r = Rollout(seed)
    reward, discount, trace, _, next_value = r.arrays(r.lam)
    np.testing.assert_allclose(lambda_return(reward, discount, trace, next_value), table(lambda_mixture, r), atol=1e-12)


@given(SEEDS)
@pytest.mark.usefixtures("x64")
def test_generalized_advantage_is_the_mixture_minus_the_value(seed):
    # The identity A = G^lambda - v needs v'_t = v_{t+1} inside an episode, as where one critic gives both.
    r = Rollout(seed)
    r.next_value[:-1] = np.where(r.done[:-1], r.next_value[:-1], r.value[1:])
    got = generalized_advantage(*r.arrays(r.lam))
    np.testing.assert_allclose(got, table(lambda_mixture, r) - r.value, atol=1e-12)


def discounted_errors(r, t, b):
    """sum_k (gamma lambda)^k delta_{t+k} within the episode [Schulman et al. 2016, eq. 16]."""
    total = 0.0
    for k in range(horizon(r, t, b)):
        i = t + k
        following = 0.0 if r.terminated[i, b] else r.gamma * r.next_value[i, b]
        total += (r.gamma * r.lam) ** k * (r.reward[i, b] + following - r.value[i, b])
    return total


@given(SEEDS)
@pytest.mark.usefixtures("x64")
def test_generalized_advantage_is_the_discounted_sum_of_td_errors(seed):
    r = Rollout(seed)
    got = generalized_advantage(*r.arrays(r.lam))
    np.testing.assert_allclose(got, table(discounted_errors, r), atol=1e-12)


@given(SEEDS, st.sampled_from([1, 2, 3, SHAPE[0] - 1, SHAPE[0], SHAPE[0] + 5]))
@pytest.mark.usefixtures("x64")
def test_n_step_return_is_the_bootstrapped_sum(seed, n):
    r = Rollout(seed)
    reward, discount, trace, _, next_value = r.arrays(1.0)
    got = n_step_return(reward, discount, trace, next_value, n)
    np.testing.assert_allclose(got, table(n_step, r, n), atol=1e-12)


@given(SEEDS)
@pytest.mark.usefixtures("x64")
def test_discounted_return_is_the_sum_of_what_follows(seed):
    r = Rollout(seed)
    expected = np.zeros(SHAPE)
    for t in range(SHAPE[0]):
        for k in range(t, SHAPE[0]):
            expected[t] += np.prod(r.discount[t:k], axis=0) * r.reward[k]
    np.testing.assert_allclose(discounted_return(jnp.asarray(r.reward), jnp.asarray(r.discount)), expected, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_ends_of_lambda_and_n():
    r = Rollout(0)
    reward, discount, trace, value, next_value = r.arrays(1.0)
    none = jnp.zeros(SHAPE)
    delta = td_error(reward, discount, value, next_value)
    full = lambda_return(reward, discount, trace, next_value)
    np.testing.assert_allclose(generalized_advantage(reward, discount, none, value, next_value), delta, atol=1e-12)
    np.testing.assert_allclose(lambda_return(reward, discount, none, next_value), delta + value, atol=1e-12)
    np.testing.assert_allclose(n_step_return(reward, discount, trace, next_value, 1), delta + value, atol=1e-12)
    np.testing.assert_allclose(n_step_return(reward, discount, trace, next_value, SHAPE[0]), full, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rlax_agrees_where_it_has_the_same_conventions():
    """rlax has one value a row and no flags: no time limits inside, and values of the next row as next values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies are older than ours
        import rlax

    r = Rollout(1)
    r.truncated[:] = False
    r.done = r.terminated
    r.next_value[:-1] = r.value[1:]
    for b in range(SHAPE[1]):
        reward, discount, _, value, next_value = (x[:, b] for x in r.arrays(r.lam))
        # rlax mixes at a termination too, where its discount of 0 makes the mixture idle
        trace = (r.lam * (1 - jnp.asarray(r.done)))[:, b]
        ours = lambda_return(reward, discount, trace, next_value)
        np.testing.assert_allclose(ours, rlax.lambda_returns(reward, discount, next_value, r.lam), atol=1e-12)
        ours = generalized_advantage(reward, discount, trace, value, next_value)
        values = jnp.append(value, next_value[-1])
        theirs = rlax.truncated_generalized_advantage_estimation(reward, discount, r.lam, values)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
        for n in (1, 3):
            ours = n_step_return(reward, discount, 1.0 - jnp.asarray(r.done)[:, b], next_value, n)
            theirs = rlax.n_step_bootstrapped_returns(reward, discount, next_value, n)
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_time_limit_bootstraps_and_cuts():
    reward, value = jnp.ones(3), jnp.zeros(3)
    next_value = jnp.array([100.0, 10.0, 100.0])
    discount, trace = jnp.full(3, 0.5), jnp.array([1.0, 0.0, 1.0])  # row 1 is cut by a time limit
    np.testing.assert_allclose(generalized_advantage(reward, discount, trace, value, next_value)[1], 1 + 0.5 * 10)
    np.testing.assert_allclose(lambda_return(reward, discount, trace, next_value), [1 + 0.5 * 6, 6, 51])


EVERY = {
    "td_error": lambda a: td_error(a[0], a[1], a[3], a[4]),
    "lambda_return": lambda a: lambda_return(a[0], a[1], a[2], a[4]),
    "discounted_return": lambda a: discounted_return(a[0], a[1]),
    "n_step_return": lambda a: n_step_return(a[0], a[1], a[2], a[4], 3),
    "generalized_advantage": lambda a: generalized_advantage(*a),
}


@pytest.mark.parametrize("function", EVERY.values(), ids=EVERY)
def test_dtype_and_trailing_axes_are_kept(function):
    r = Rollout(2)
    args = [x.astype(jnp.float32) for x in r.arrays(r.lam)]
    whole = jax.jit(function)(args)
    assert whole.dtype == jnp.float32
    columns = jnp.stack([function([x[:, b] for x in args]) for b in range(SHAPE[1])], axis=1)
    np.testing.assert_allclose(whole, columns, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(function, 1, 1)(args), whole, rtol=1e-6, atol=1e-6)
    with jax.enable_x64(True):
        assert function(r.arrays(r.lam)).dtype == jnp.float64


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_both_forms_of_the_platform_are_the_loop_in_float64(seed, steps):
    rng = np.random.default_rng(seed)
    x, last = rng.normal(size=(steps, 3)), rng.normal(size=3)
    decay = rng.choice([0.0, 1.0, 0.99, 0.5], size=(steps, 3))
    expected, following = np.zeros_like(x), last
    for t in reversed(range(steps)):
        following = expected[t] = x[t] + decay[t] * following
    given_last = x.copy()
    given_last[-1] += decay[-1] * last
    np.testing.assert_allclose(_platform.backward(*map(jnp.float32, (x, decay, last))), expected, rtol=1e-4, atol=1e-4)
    for form in (_platform.sequential, _platform.parallel):
        np.testing.assert_allclose(form(*map(jnp.float32, (given_last, decay))), expected, rtol=1e-4, atol=1e-4)


def test_the_platform_is_a_loop_on_a_cpu_and_none_on_a_gpu_or_tpu():
    x = jax.ShapeDtypeStruct((64, 3), jnp.float32)
    traced = jax.jit(_platform.backward).trace(x, x)
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    assert {name: "stablehlo.while" in text for name, text in texts.items()} == {"cpu": True, "cuda": False, "tpu": False}
