"""The gradient through an update is right, and following it mends an entropy coefficient that was far off."""

import json

import jax
import numpy as np
import pytest

import jaxpg
from experiments.embedding import meta_gradient


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    found = meta_gradient.main(updates=100, seeds=2, rate=0.05, out=out)
    assert (out / "meta_gradient.png").stat().st_size > 10_000
    assert json.loads((out / "meta_gradient.json").read_text())["starts"] == found["starts"]
    return found


def test_autodiff_agrees_with_central_differences(x64):
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"))
    state, _ = jaxpg.train(algo, algo.init(jax.random.key(0)), 10)
    loss = jax.jit(lambda coef: meta_gradient.outer(coef, algo, state)[0])
    width = 1e-5
    central = (loss(0.01 + width) - loss(0.01 - width)) / (2 * width)
    assert abs(central) > 1e-6
    np.testing.assert_allclose(jax.grad(loss)(0.01), central, rtol=1e-5)


def test_a_coefficient_that_is_too_large_falls_and_the_return_is_better_for_it(numbers):
    far = numbers["starts"]["100"]
    assert np.all(np.array(far["coef"]) < 30.0)
    assert np.median(far["learned"]) > 1.2 * np.median(far["kept"])
