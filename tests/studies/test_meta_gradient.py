"""The gradient through an update is right, and following it corrects an entropy coefficient that was far off."""

import json

import jax
import numpy as np
import pytest

import jaxpg
from experiments import study
from experiments.embedding import meta_gradient


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta_gradient, "STARTS", (100.0,))
        found = meta_gradient.main(updates=100, seeds=2, rate=0.05, out=out)
    assert (out / "meta_gradient.png").stat().st_size > 10_000
    assert json.loads((out / "meta_gradient.json").read_text())["starts"] == found["starts"]
    return found


def test_autodiff_agrees_with_central_differences(x64):
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), **study.A2C)
    outer = jax.jit(jax.value_and_grad(lambda coef, state: meta_gradient.outer(coef, algo, state), has_aux=True))
    state = jax.jit(algo.init)(jax.random.key(1))
    for _ in range(20):
        (_, (state, _)), _ = outer(0.01, state)
    (_, slope), width = outer(0.01, state), 1e-4
    central = (outer(0.01 + width, state)[0][0] - outer(0.01 - width, state)[0][0]) / (2 * width)
    assert abs(central) > 1e-5
    np.testing.assert_allclose(slope, central, rtol=1e-6)


def test_a_coefficient_that_is_too_large_falls_and_the_return_is_better_for_it(numbers):
    far = numbers["starts"]["100"]
    assert np.all(np.array(far["coef"]) < 30.0)
    assert np.median(far["learned"]) > 1.2 * np.median(far["kept"])
