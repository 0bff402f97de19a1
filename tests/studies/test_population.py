"""Who copies whom, what a copy keeps, and that a population which evolves learns more than one that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from experiments import study
from experiments.embedding import population
from jaxpg.algorithms import presets


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS["a2c"]["default"], "hidden", (16,))
        return population.main(members=8, populations=2, rounds=6, updates=10, out=tmp_path_factory.mktemp("figures"))


def test_the_worst_take_over_from_the_best_and_keep_their_own_randomness():
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), **study.A2C, hidden=(4,))
    hparams = jax.tree.map(lambda x: jnp.full(8, x), algo.hparams).replace(learning_rate=jnp.arange(1.0, 9.0))
    state = jax.jit(jax.vmap(algo.init))(jax.random.split(jax.random.key(0), 8), hparams)
    score = jnp.array([5.0, 1.0, 7.0, jnp.nan, 4.0, 8.0, 3.0, 2.0])  # worst: 3, then 1; best: 5, then 2
    after = jax.jit(population.evolved)(state, score, jax.random.key(1))
    before = jax.tree.leaves(state.params)[1]
    np.testing.assert_array_equal(jax.tree.leaves(after.params)[1][jnp.array([3, 1])], before[jnp.array([2, 5])])
    kept = np.array([0, 2, 4, 5, 6, 7])
    np.testing.assert_array_equal(after.hparams.learning_rate[kept], state.hparams.learning_rate[kept])
    ratio = after.hparams.learning_rate[jnp.array([3, 1])] / jnp.array([3.0, 6.0])
    assert set(np.round(np.asarray(ratio, float), 4).tolist()) <= {0.8, 1.25}
    assert jnp.array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))
    np.testing.assert_array_equal(after.loop.obs, state.loop.obs)


def test_evolution_pays(numbers):
    assert np.all(np.array(numbers["evolved"]["median"]) > 1.2 * np.array(numbers["as drawn"]["median"]))
