"""The loss has its maximum where it should, and holds ratios better than clipping does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from experiments.embedding import own_loss
from jaxpg.core.distributions import Categorical
from jaxpg.core.types import Batch


@pytest.mark.parametrize("advantage", [-2.0, 3.0])
def test_the_gradient_vanishes_at_one_plus_and_minus_eps(advantage):
    def objective(ratio):
        dist = Categorical(jnp.log(jnp.array([[0.5 * ratio, 1.0 - 0.5 * ratio]])))
        half = jnp.log(jnp.array([0.5]))
        batch = Batch(None, jnp.array([0]), half, None, None, jnp.array([advantage]), None, None, None, ())
        return own_loss.simple(dist, batch, jaxpg.HParams(clip_eps=0.2))[0]

    slope = jax.grad(objective)
    best = 1.0 + 0.2 * np.sign(advantage)
    np.testing.assert_allclose(slope(best), 0.0, atol=1e-4)
    assert slope(best - 0.05) > 0 > slope(best + 0.05)


def test_fewer_ratios_end_outside_and_it_learns(tmp_path):
    numbers = own_loss.main(updates=20, seeds=2, out=tmp_path)
    clipped, simple = numbers["clipped_surrogate"], numbers["simple"]
    assert np.all(np.array(simple["outside"]) < 0.7 * np.median(clipped["outside"]))
    assert np.nanmedian(simple["last_return"]) > 60  # NaN: no episode ended at the last point, all went on
