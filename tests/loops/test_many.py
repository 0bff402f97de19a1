"""Starts of many runs: one after the other and side by side they are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg.loops import many

SEEDS = 64


@pytest.fixture(scope="module")
def starts():
    """As on a CPU, and as on an accelerator."""
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, hidden=(16, 16))
    hparams = jax.tree.map(lambda x: jnp.full(SEEDS, x), algo.hparams)
    key = jax.random.key(0)

    def start(lanes):
        return jax.jit(lambda seeds: many.start(algo, key, seeds, hparams, lanes))(jnp.arange(SEEDS)).state

    return start(1), start(SEEDS)


def test_runs_that_start_side_by_side_are_those_that_start_one_after_the_other(starts):
    one, batched = starts
    assert jax.tree.structure(one) == jax.tree.structure(batched)
    for x, y in zip(jax.tree.leaves(one.params), jax.tree.leaves(batched.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    np.testing.assert_allclose(one.loop.obs, batched.loop.obs, atol=1e-6)


def test_layers_that_start_side_by_side_are_orthonormal_with_the_moments_of_random_ones(starts):
    kernels = [np.asarray(x) for x in jax.tree.leaves(starts[1].params.policy) if x.shape[-2:] == (16, 16)]
    assert kernels
    for kernel in kernels:
        unit = kernel / np.sqrt(np.mean(np.sum(kernel**2, axis=1)))
        np.testing.assert_allclose(np.einsum("rij,rik->rjk", unit, unit), np.broadcast_to(np.eye(16), unit.shape), atol=1e-4)
        assert abs(unit.mean()) < 4 / np.sqrt(SEEDS * 16 * 16) / 4  # entries have mean 0 and variance 1 / 16
        np.testing.assert_allclose(np.mean(unit**4) * 16 * 18 / 3, 1.0, atol=0.1)  # E u^4 = 3 / (n (n + 2))


@pytest.mark.parametrize("lanes", [1, 2, 5, 8])
def test_blocks_of_runs_are_jax_lax_map_and_take_arrays_without_numbers(lanes):
    rows = {"x": jnp.arange(15.0).reshape(5, 3), "none": jnp.zeros((5, 0, 2)), "key": jax.random.split(jax.random.key(0), 5)}

    def one(row):
        return {"sum": row["x"].sum() + jax.random.uniform(row["key"]), "none": row["none"]}

    expected = jax.lax.map(one, rows)
    jax.tree.map(np.testing.assert_array_equal, many.map_blocks(one, rows, lanes), expected)
