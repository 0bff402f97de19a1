"""Packed trees come back bit for bit, gradients pass, and a rollout is the same with and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jaxpg.core._packed import MAX_SIZE, NAMES, Packed

SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (0,), (MAX_SIZE,), (MAX_SIZE + 1,), (8, 9)])


def arrays(dtype: str) -> st.SearchStrategy[np.ndarray]:
    """Of three rows, with every number that the type has."""
    if dtype == "bfloat16":
        return arrays("uint16").map(lambda x: x.view(jnp.bfloat16))
    return SHAPES.flatmap(lambda shape: npst.arrays(dtype, (3, *shape)))


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([*sorted(set(NAMES) - {"float64"}), "uint32"]).flatmap(arrays))
)
def test_every_number_comes_back(tree: dict[str, np.ndarray]):
    tree = jax.tree.map(jnp.asarray, tree | {"one": np.float32([1.0, np.nan, -0.0])})
    found = Packed.of(tree).tree()
    for name, x in tree.items():
        assert found[name].dtype == x.dtype
        wide = np.float64 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
        one, two = (np.asarray(each).astype(wide) for each in (found[name], x))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(np.signbit(one[one == 0]), np.signbit(two[two == 0])) if wide is np.float64 else None


@pytest.mark.parametrize("dtype", ["int32", "int16", "bool"])
def test_extremes_of_integers(dtype: str):
    bounds = [False, True, True] if dtype == "bool" else [np.iinfo(dtype).min, np.iinfo(dtype).max, -1]
    x = jnp.array(bounds, dtype)
    assert Packed.of({"x": x}).tree()["x"].tolist() == x.tolist()


def test_small_leaves_are_one_array_and_the_rest_stays():
    tree = {"key": jax.random.split(jax.random.key(0), 3), "image": jnp.zeros((3, 10, 10)), "x": jnp.ones((3, 2))}
    tree |= {"n": jnp.arange(3, dtype=jnp.int32)}
    packed = Packed.of(tree)
    assert packed.rows.shape == (3, 2 + 2)
    assert len(packed.others) == 2
    assert packed.tree()["key"].dtype == tree["key"].dtype


def test_all_numbers_of_64_bits_are_packed_where_they_are_the_rule():
    with jax.enable_x64(True):
        x, n = np.array([0.1, -np.inf, 1e300]), np.array([2**31 - 1, -(2**31), 0], np.int32)
        packed = Packed.of({"x": jnp.asarray(x), "n": jnp.asarray(n)})
        assert packed.rows.shape == (3, 2)
        jax.tree.map(np.testing.assert_array_equal, packed.tree(), {"x": x, "n": n})


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
