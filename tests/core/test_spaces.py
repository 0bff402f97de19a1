"""Spaces as trees: random ones, nested, with odd bounds, against NumPy in float64 and Python's integers."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.spaces import Box, Dict, Discrete, Space, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxpg
from jaxpg.core import spaces
from jaxpg.core.spaces import MultiDiscrete

SHAPES = [(), (2,), (2, 3), (1, 2, 2)]
INF = np.inf
FLOATS = [
    (-1.0, 1.0),
    (3.0, 3.0),
    (-INF, INF),
    (0.0, INF),
    (-INF, -2.0),
    (0.0, 1e-6),
    (1e6 - 1.0, 1e6 + 1.0),
    (-3.4e38, 3.4e38),
]
INTEGERS = {
    np.int32: [(0, 4), (-3, -3), (-(2**31), 2**31 - 1), (2**24, 2**24 + 1), (-0.5, 2.5), (-INF, INF)],
    np.uint8: [(0, 255), (7, 7), (-INF, INF), (250, 300)],
    np.bool_: [(0, 1), (1, 1)],
}


@st.composite
def boxes(draw: Any) -> Box:
    """Bounds are one number for all components, or one for each."""
    shape = draw(st.sampled_from(SHAPES))
    dtype = draw(st.sampled_from([np.float32, np.float32, jnp.bfloat16, *INTEGERS]))
    pairs = st.sampled_from(INTEGERS.get(dtype, FLOATS))
    if draw(st.booleans()):
        return Box(*draw(pairs), shape, dtype)
    size = math.prod(shape)
    low, high = (np.reshape(x, shape) for x in zip(*draw(st.lists(pairs, min_size=size, max_size=size)), strict=True))
    return Box(low, high, shape, dtype)


LEAVES = st.one_of(
    boxes(),
    st.integers(1, 5).map(Discrete),
    st.sampled_from(SHAPES).map(lambda shape: MultiDiscrete(1 + np.arange(math.prod(shape)).reshape(shape))),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3).map(Tuple) | st.dictionaries(st.sampled_from("abc"), inner).map(Dict),
    max_leaves=4,
)


def flatten(space: Any) -> list[Any]:
    """The leaves in the order of ``jax.tree.leaves``: keys are sorted there."""
    if isinstance(space, Dict):
        return [leaf for key in sorted(space.spaces) for leaf in flatten(space.spaces[key])]
    return [leaf for child in space.spaces for leaf in flatten(child)] if isinstance(space, Tuple) else [space]


def limits(space: Any) -> tuple[Any, Any]:
    """The least and the largest legal number of each component: of integers as Python's, exact."""
    if isinstance(space, Discrete | MultiDiscrete):
        top = np.asarray(space.n if isinstance(space, Discrete) else space.nvec)
        return np.zeros(top.shape, object), np.array(top - 1, object)
    low, high = (np.broadcast_to(np.array(x, object), space.shape) for x in (space.low, space.high))
    if space.dtype in (np.float32, jnp.bfloat16):
        with np.errstate(over="ignore"):
            return low.astype(space.dtype).astype(float), high.astype(space.dtype).astype(float)
    least, most = (0, 1) if space.dtype == np.bool_ else (np.iinfo(space.dtype).min, np.iinfo(space.dtype).max)
    return tuple(
        np.array([rounded(min(max(x, least), most)) for x in bound.ravel()], object).reshape(space.shape)
        for bound, rounded in ((low, math.ceil), (high, math.floor))
    )


def nearest(space: Any, x: np.ndarray) -> np.ndarray:
    """The legal value next to ``x``, in float64 and Python's integers."""
    low, high = limits(space)
    if low.dtype == object:
        rows = zip(x.ravel().tolist(), low.ravel(), high.ravel(), strict=True)
        return np.array([min(max(round(number), least), most) for number, least, most in rows], object).reshape(x.shape)
    with np.errstate(over="ignore"):
        return np.clip(x.astype(space.dtype).astype(float), low, high)


@settings(max_examples=150)
@given(TREES, st.integers(0, 2**31 - 1))
def test_samples_have_the_structure_shapes_and_dtypes_of_the_space_and_lie_in_it(space: Any, seed: int) -> None:
    leaves, value = spaces.read(space), spaces.sample(space, jax.random.key(seed))
    assert jax.tree.structure(leaves) == jax.tree.structure(value)
    assert spaces.contains(space, value)
    for leaf, box, x in zip(jax.tree.leaves(leaves), flatten(space), jax.tree.leaves(value), strict=True):
        assert (leaf.shape, leaf.dtype) == (x.shape, x.dtype) == (box.shape, box.dtype)
        low, high = limits(box)
        x = np.asarray(x).astype(object if low.dtype == object else float)
        assert np.all((low <= x) & (x <= high))
        assert np.all(np.isfinite(x.astype(float)))
        assert leaf.low.shape == leaf.high.shape == x.shape
        assert leaf.kind == {Box: "box", Discrete: "discrete", MultiDiscrete: "multi_discrete"}[type(box)]
        declared = (box.low, box.high) if leaf.num_categories is None else (low, high)
        for found, bound in zip((leaf.low, leaf.high), declared, strict=True):
            bound = np.broadcast_to(np.asarray(bound, float), x.shape)
            np.testing.assert_array_equal(found, np.where(np.abs(bound) > 1.1e30, np.copysign(INF, bound), bound))
        if leaf.num_categories is not None:
            np.testing.assert_array_equal(leaf.num_categories, high.astype(int) + 1)


@settings(max_examples=150)
@given(TREES, st.sampled_from([-1e30, -7.0, -0.5, 0.3, 2.5, 1e6, 1e6 + 0.5, 2.0**24 + 2.0, 3e38]))
def test_the_nearest_legal_value(space: Any, number: float) -> None:
    boxes = [box for box in flatten(space) if isinstance(box, Box)]
    raw = jax.tree.map(lambda leaf: np.full(leaf.shape, number if leaf.kind == "box" else 0, np.float32), spaces.read(space))
    batch = jax.tree.map(lambda x: np.stack([x, x]), raw)
    legal, legal_batch = spaces.legalize(space, raw), spaces.legalize(space, batch)
    assert spaces.contains(space, legal)
    for box, before, x, two in zip(flatten(space), *map(jax.tree.leaves, (raw, legal, legal_batch)), strict=True):
        if box not in boxes:
            assert x is before
            continue
        assert x.dtype == box.dtype
        np.testing.assert_array_equal(np.asarray(x).astype(float), nearest(box, before).astype(float))
        np.testing.assert_array_equal(two, np.stack([x, x]))
    again = spaces.legalize(space, legal)
    jax.tree.map(np.testing.assert_array_equal, again, legal)


@settings(max_examples=100)
@given(boxes(), st.data())
def test_a_value_that_is_out_of_bounds_by_more_than_rounding_is_not_in_the_space(box: Box, data: Any) -> None:
    low, high = limits(box)
    where = data.draw(st.integers(0, max(0, math.prod(box.shape) - 1)))
    is_upper = data.draw(st.booleans())
    bound = float(np.ravel(high if is_upper else low)[where])
    width = min(float(np.ravel(high)[where]) - float(np.ravel(low)[where]), 1.0)
    value = np.array(spaces.sample(box, jax.random.key(0))).astype(np.float64).ravel()
    value[where] = bound + (1 if is_upper else -1) * max(0.01 * width, 2e-6 * abs(bound), 1e-30)
    if low.dtype == object or not np.isfinite(bound) or box.dtype == jnp.bfloat16 or abs(bound) > 1e30:
        return
    assert not spaces.contains(box, value.reshape(box.shape).astype(np.float32))
    value[where] = bound
    assert spaces.contains(box, value.reshape(box.shape).astype(np.float32))


NOT_IN = {
    "another shape": (Box(0, 1, (2,)), jnp.zeros(1)),
    "half a category": (Discrete(3), 0.5),
    "a category too many": (MultiDiscrete([2, 3]), jnp.array([1, 3])),
    "a fraction among integers": (Box(0, 4, (), np.int32), 1.5),
    "an integer too large for float32 to tell": (Box(0, 2**24, (), np.int32), jnp.int32(2**24 + 1)),
    "nan": (Box(-INF, INF, ()), jnp.nan),
    "a key is missing": (Dict({"a": Discrete(2), "b": Discrete(2)}), {"a": 0}),
    "another length": (Tuple([Discrete(2)]), (0, 0)),
    "no tree": (Dict({"a": Discrete(2)}), jnp.int32(0)),
    "one leaf of several": (Tuple([Discrete(2), Box(0, 1, ())]), (1, 2.0)),
}


@pytest.mark.parametrize("case", NOT_IN)
def test_what_is_not_in_a_space(case: str) -> None:
    assert not spaces.contains(*NOT_IN[case])


REFUSED = {
    "another kind": (lambda: Dict({"a": Tuple([Discrete(2), Space()])}), r"space\['a'\]\[1\] is a Space; it must be a gymnax"),
    "no space": (lambda: (3,), "space is a tuple; it must be a gymnax space"),
    "order": (lambda: Box(1.0, np.array([2.0, 0.0]), (2,)), "space has a bound that is NaN, or a lower one above the upper"),
    "no integer": (lambda: Box(0.2, 0.8, (), np.int32), "space takes int32, but there is no whole number between its bounds"),
    "nan": (lambda: Tuple([Box(np.nan, 1.0, ())]), r"space\[0\] has a bound that is NaN"),
    "shape": (
        lambda: Box(np.zeros(3), 1.0, (2,)),
        r"bounds of the shapes \(3,\) and \(\), which do not broadcast to its own, \(2,\)",
    ),
    "no categories": (lambda: Discrete(0), "space has no categories; at least 1 is needed"),
    "nvec": (lambda: MultiDiscrete([2, 0]), r"nvec = \[2, 0\]; each component needs a whole number of categories, at least 1"),
    "floats for nvec": (lambda: MultiDiscrete([2.0]), r"nvec = \[2.0\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_space_is_refused_in_one_line(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        spaces.read(make())
    assert "\n" not in str(caught.value)


def test_an_action_of_another_structure_is_refused_in_one_line() -> None:
    space = Dict({"a": Tuple([Box(0, 1, ())]), "b": Discrete(2)})
    with pytest.raises(ValueError, match=r"space takes a dict with the keys \['a', 'b'\], but the value has the structure"):
        spaces.legalize(space, {"a": (0.0,)})
    with pytest.raises(ValueError, match=r"space\['a'\] takes 1 parts, but the value has the structure"):
        spaces.legalize(space, {"a": 0.0, "b": 1})


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, np.bool_])
def test_bounds_may_be_traced_but_not_where_they_are_read(dtype: Any) -> None:
    @jax.jit
    def serve(low: Any, high: Any) -> Any:
        space = Tuple([Box(low, high, (3,), dtype)])
        action = spaces.legalize(space, (jnp.array([-9.0, 0.0, 300.0]),))
        drawn = spaces.sample(space, jax.random.key(0))
        return action, drawn, spaces.contains(space, action) & spaces.contains(space, drawn)

    (action,), (drawn,), inside = serve(0.0, 1.0)
    assert action.dtype == drawn.dtype == dtype
    np.testing.assert_array_equal(action, np.array([0, 0, 1], dtype))
    assert inside
    with pytest.raises(ValueError, match="space has bounds that are traced, "):
        jax.jit(lambda low: spaces.read(Box(low, 1.0, (3,))))(0.0)


def test_samples_are_uniform_where_both_bounds_are_and_normal_elsewhere() -> None:
    low, high = np.repeat([[10.0, 0.0, -INF, 5.0]], 4000, 0), np.repeat([[20.0, INF, INF, 5.0]], 4000, 0)
    x = np.asarray(spaces.sample(Box(low, high, (4000, 4)), jax.random.key(0)))
    np.testing.assert_allclose(x.mean(0), [15.0, 0.5 * np.sqrt(2 / np.pi), 0.0, 5.0], atol=0.2)
    np.testing.assert_allclose(x.std(0), [np.sqrt(100 / 12), np.sqrt(0.5 - 0.5 / np.pi), 1.0, 0.0], atol=0.1)
    for space, categories in (
        (Box(-1, 3, (5000,), np.int32), range(-1, 4)),
        (Box(0, 1, (5000,), np.bool_), range(2)),
        (MultiDiscrete(np.full(5000, 5)), range(5)),
    ):
        x = np.asarray(spaces.sample(space, jax.random.key(1))).astype(int)
        counts = np.array([np.sum(x == category) for category in categories])
        assert counts.sum() == 5000
        np.testing.assert_allclose(counts / 5000, 1.0 / len(counts), atol=0.03)


def test_each_leaf_draws_on_its_own() -> None:
    a, b = spaces.sample(Tuple([Box(0.0, 1.0, (8,))] * 2), jax.random.key(0))
    assert not np.any(np.asarray(a) == np.asarray(b))


def test_every_environment_of_gymnax_has_spaces_that_can_be_read() -> None:
    for name in ("CartPole-v1", "Pendulum-v1", "FrozenLake-misc", "Catch-bsuite", "SimpleBandit-bsuite", "FourRooms-misc"):
        env = jaxpg.make(name)
        params = env.default_params
        space = spaces.observation_space(env, params)
        assert spaces.read(space).shape == jax.eval_shape(env.reset, jax.random.key(0), params)[0].shape
        assert spaces.contains(env.action_space(params), spaces.sample(env.action_space(params), jax.random.key(0)))
