"""What accelerators compute is what a CPU computes, but for rounding: their forms are run here in the place of the CPU's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxpg
from jaxpg.core import _platform as platform

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, platform.FEW), st.sampled_from([0.1, 3.0, 200.0]))
def test_both_draw_the_same_choice(seed: int, choices: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits, u = scale * rng.standard_normal((64, choices)), rng.random(64).astype(np.float32)
    logits = np.where(rng.random((64, choices)) < 0.3, -np.inf, logits).astype(np.float32)
    logits[:, rng.integers(choices)] = 0.0
    found = platform.search_one_by_one(jnp.asarray(logits), jnp.asarray(u))
    p = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
    assert (p[np.arange(64), found] > 0).all()
    edges = np.cumsum(p, -1) / p.sum(-1, keepdims=True)
    clear = (np.abs(edges - u[:, None]) > 1e-5).all(-1)  # elsewhere rounding decides
    reference = np.argmax(edges > u[:, None], axis=-1)
    for chosen in (found, platform.search(jnp.asarray(logits), jnp.asarray(u))):
        np.testing.assert_array_equal(np.asarray(chosen)[clear], reference[clear])


def test_nothing_is_drawn_beyond_the_last_choice() -> None:
    logits, u = jnp.array([[0.0, -jnp.inf, 1.0, -jnp.inf]] * 2), jnp.array([0.0, 1.0 - 2.0**-24])
    assert platform.search_one_by_one(logits, u).tolist() == [0, 2]
    assert platform.search_one_by_one(jnp.full((1, 3), jnp.nan), u[:1]).tolist() == [0]


@given(SEEDS, st.integers(1, platform.FEW))
def test_both_sums_and_their_gradients_are_equal(seed: int, size: int) -> None:
    x = jnp.asarray(np.random.default_rng(seed).standard_normal((5, size)), float)
    np.testing.assert_allclose(platform.add_one_by_one(x), x.sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: platform.add_one_by_one(x).sum())(x), jnp.ones_like(x))


@pytest.mark.parametrize("name", ["reinforce_baseline", "a2c", "ppo", "trpo"])
def test_an_update_in_the_forms_of_accelerators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"num_envs": 4} if name == "reinforce_baseline" else {"num_envs": 4, "num_steps": 16}
    algo = getattr(jaxpg, name)(jaxpg.make("CartPole-v1"), hidden=(8,), **sizes)
    state = algo.init(jax.random.key(0))
    expected, metrics = jax.jit(lambda state: algo.update(state))(state)

    taken = []

    def elsewhere(*arguments: Any, cpu: Any, default: Any) -> Any:
        taken.append(default)
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    found, measured = jax.jit(lambda state: algo.update(state))(state)
    assert {*taken} >= {platform.search_one_by_one, platform.add_one_by_one, platform.parallel}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5), found.params, expected.params)
    for metric, value in metrics.items():
        np.testing.assert_allclose(measured[metric], value, rtol=1e-3, atol=1e-4, err_msg=metric)
