"""Compensated sums against exact rational arithmetic, as XLA compiles them with all its optimisations."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg.core import _compensated as compensated

# Above what XLA flushes to zero, below what overflows.
floats = st.floats(-(2.0**66), 2.0**66, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 2.0**-66)


@pytest.fixture
def optimized():
    """Programs compiled within the test are optimised as a user's are."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@given(floats, floats)
def test_a_sum_and_its_error_are_exact(a, b):
    total, error = map(float, compensated.two_sum(jnp.float32(a), jnp.float32(b)))
    assert total == np.float32(a) + np.float32(b)
    assert Fraction(total) + Fraction(error) == Fraction(a) + Fraction(b)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_an_infinite_total_stays_infinite(infinite):
    pair = compensated.add(jnp.float32(1.0), jnp.float32(0.0), jnp.float32(infinite))
    assert tuple(map(float, compensated.add(*pair, jnp.float32(1.0)))) == (infinite, 0.0)


@pytest.mark.usefixtures("optimized")
def test_a_count_of_a_trillion_still_counts_one_by_one():
    @jax.jit
    def count(pair, n):
        return jax.lax.fori_loop(0, n, lambda _, pair: compensated.add(*pair, jnp.ones(2)), pair)

    start = np.array([10**12 + 1, 2**24], float)
    high = start.astype(np.float32)
    total, compensation = count((high, (start - high).astype(np.float32)), 300_001)
    exact = start + 300_001
    np.testing.assert_array_equal(np.asarray(total, float) + np.asarray(compensation, float), exact)
    np.testing.assert_array_equal(total, exact.astype(np.float32))


@pytest.mark.usefixtures("optimized")
def test_a_long_sum_is_that_of_rational_numbers():
    """And of products, which a compiler may fuse with the sum."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 10_000)).astype(np.float32) * np.float32(1e-3)
    y += 1

    @jax.jit
    def total(x, y):
        start = jnp.float32(3e4), jnp.float32(0)
        return jax.lax.scan(lambda pair, row: (compensated.add(*pair, row[0] * row[1]), None), start, (x, y))[0]

    found = sum(map(Fraction, map(float, total(x, y))))
    exact = Fraction(float(np.float32(3e4))) + sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True))
    assert abs(float(found - exact)) < 1e-8  # one float32 ulp of the total is 2e-3
