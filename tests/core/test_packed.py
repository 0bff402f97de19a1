"""Packed trees come back bit for bit, gradients pass, and a rollout is the same with and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxpg.core._packed import EXACT, MAX_SIZE, Packed

SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (0,), (MAX_SIZE,), (MAX_SIZE + 1,), (8, 9)])


def arrays(dtype: str) -> st.SearchStrategy[np.ndarray]:
    """Of three rows; every number that the type has, and every bit pattern of the short ones."""
    kind = {"bfloat16": "float32"}.get(dtype, dtype)
    return SHAPES.flatmap(lambda shape: npst.arrays(kind, (3, *shape)))


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([*sorted(EXACT), "uint32", "uint8"]).flatmap(arrays)))
def test_every_number_comes_back(tree: dict[str, np.ndarray]):
    tree = jax.tree.map(jnp.asarray, tree | {"one": np.float32([1.0, np.nan, -0.0])})
    found = Packed.of(tree).tree()
    for name, x in tree.items():
        assert found[name].dtype == x.dtype
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(x))
        assert bool(jnp.all(jnp.signbit(found[name]) == jnp.signbit(x))) if jnp.issubdtype(x.dtype, jnp.floating) else True


@pytest.mark.parametrize("dtype", ["int32", "int16", "bool"])
def test_extremes_of_integers(dtype: str):
    bounds = [False, True, True] if dtype == "bool" else [np.iinfo(dtype).min, np.iinfo(dtype).max, -1]
    x = jnp.array(bounds, dtype)
    assert Packed.of({"x": x}).tree()["x"].tolist() == x.tolist()


def test_small_leaves_are_one_array_and_the_rest_stays():
    tree = {"key": jax.random.split(jax.random.key(0), 3), "image": jnp.zeros((3, 10, 10)), "x": jnp.ones((3, 2)), "n": jnp.arange(3)}
    packed = Packed.of(tree)
    assert packed.rows.shape == (3, 2 + 2)
    assert len(packed.others) == 2
    assert packed.tree()["key"].dtype == tree["key"].dtype


def test_gradients_pass():
    def energy(x: jax.Array, n: jax.Array) -> jax.Array:
        tree = Packed.of({"x": x, "n": n}).tree()
        return jnp.sum(tree["n"][:, None] * tree["x"] ** 2)

    x, n = jnp.arange(6.0).reshape(3, 2), jnp.array([1, 2, 70_000])
    np.testing.assert_allclose(jax.grad(energy)(x, n), 2.0 * n[:, None] * x)


def test_a_scan_stacks_rows():
    def step(count: Packed, _: None) -> tuple[Packed, Packed]:
        tree = count.tree()
        return Packed.of({"n": tree["n"] + 1}), Packed.of({"n": tree["n"], "even": tree["n"] % 2 == 0})

    last, rows = jax.lax.scan(step, Packed.of({"n": jnp.array([0, 2**16 - 2])}), length=4)
    assert last.tree()["n"].tolist() == [4, 2**16 + 2]
    assert rows.tree()["n"].tolist() == [[t, 2**16 - 2 + t] for t in range(4)]
    assert rows.tree()["even"].tolist() == [[t % 2 == 0] * 2 for t in range(4)]
