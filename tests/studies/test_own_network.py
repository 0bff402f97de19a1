"""The basis is the one of the formula, and a policy that is linear in it learns."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.embedding import own_network


def test_the_features_are_cosines_of_whole_multiples():
    obs, order = np.array([[-1.0, 0.5], [0.2, 1.0]]), 2
    basis = [math.cos(math.pi * sum(c * (s + 1) / 2 for c, s in zip(cs, row, strict=True)))
             for row in obs for cs in itertools.product(range(order + 1), repeat=2)]  # fmt: skip
    network = own_network.Fourier(order=order)
    params = jax.tree.map(jnp.ones_like, network.init(jax.random.key(0), jnp.asarray(obs)))
    np.testing.assert_allclose(network.apply(params, jnp.asarray(obs)), np.reshape(basis, (2, 9)).sum(1) + 1, atol=1e-5)


def test_both_kinds_of_networks_are_compared_at_the_same_steps(tmp_path):
    numbers = own_network.main(updates=20, seeds=1, out=tmp_path)
    mlp, fourier = numbers["two hidden layers"], numbers["Fourier basis"]
    assert mlp["env_steps"] == fourier["env_steps"]
    assert fourier["parameters"] == 36 * 4 + 4
    assert mlp["parameters"] > 50 * fourier["parameters"]
