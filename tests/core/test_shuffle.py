"""Permutations without a sort: always a bijection, and uniform as far as positions and pairs go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxpg.core import _shuffle as shuffle

NUM_KEYS = 40_000
permutation = jax.jit(shuffle.permutation, static_argnums=1)


@settings(max_examples=12)  # every n is a program of its own
@given(st.integers(1, 3000), st.integers(0, 2**31 - 1))
@example(1, 0)
@example(2, 0)
@example(3, 0)
@example(4, 0)
@example(4096, 0)
@example(5000, 0)
def test_permutation_is_a_bijection(n, seed):
    order = permutation(jax.random.key(seed), n)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [2, 5, 8, 12, 64])
def test_positions_and_pairs_are_uniform(n):
    keys = jax.random.split(jax.random.key(n), NUM_KEYS)
    orders = np.asarray(jax.jit(jax.vmap(lambda key: permutation(key, n)))(keys))
    pvalues = [stats.chisquare(np.bincount(orders[:, i], minlength=n)).pvalue for i in range(n)]
    for i, j in {(0, 1), (0, n - 1), (n // 2, n // 2 - 1)}:
        pairs = np.bincount(orders[:, i] * n + orders[:, j], minlength=n * n).reshape(n, n)
        assert np.all(np.diag(pairs) == 0)
        pvalues.append(stats.chisquare(pairs[~np.eye(n, dtype=bool)]).pvalue)
    assert min(pvalues) * len(pvalues) > 1e-3


def test_keys_give_different_orders_and_one_key_always_the_same():
    keys = jax.random.split(jax.random.key(0), 200)
    orders = np.asarray(jax.vmap(lambda key: permutation(key, 100))(keys))
    assert len(np.unique(orders, axis=0)) == 200
    np.testing.assert_array_equal(orders[7], permutation(keys[7], 100))
    fixed_points = np.mean(orders == np.arange(100)) * 100  # of a random permutation: 1 on average
    assert 0.6 < fixed_points < 1.4


def test_permutation_under_jit_vmap_and_scan():
    keys = jax.random.split(jax.random.key(1), (3, 2))
    expected = np.stack([[permutation(key, 21) for key in row] for row in keys])

    def scanned(row):
        return jax.lax.scan(lambda carry, key: (carry, permutation(key, 21)), None, row)[1]

    np.testing.assert_array_equal(jax.jit(jax.vmap(scanned))(keys), expected)


def test_nothing_is_sorted():
    text = str(jax.make_jaxpr(lambda key: shuffle.permutation(key, 1000))(jax.random.key(0)))
    assert "while" in text
    assert "sort" not in text


@pytest.mark.parametrize("n", [0, -3])
def test_an_empty_permutation_is_refused(n):
    with pytest.raises(ValueError, match=f"n = {n}"):
        permutation(jax.random.key(0), n)
