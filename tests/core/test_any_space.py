"""Any space of observations and actions: training runs with legal actions, or is refused in one line."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import jaxpg
from jaxpg.core import spaces
from jaxpg.core.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from jaxpg.envs import FunctionalEnv

IS_LONG = "JAXPG_FAULTS" in os.environ  # 300 spaces, of which each algorithm compiles a program: part of `make test-faults`

shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
numbers = st.sampled_from([0.0, -1.0, 1.0, 10.0, -1e6, 1e6, 1e6 + 1.0, 1e-6, -1e30, 1e30, -np.inf, np.inf, 3e38])


@st.composite
def boxes(draw: Any) -> Box:
    low, high = sorted([draw(numbers), draw(numbers)])
    dtype = draw(st.sampled_from([jnp.float32, jnp.float32, jnp.int32, jnp.uint8, jnp.bool_, jnp.bfloat16]))
    if dtype == jnp.bool_:
        low, high = 0, 1
    elif jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        low, high = (int(np.clip(x, max(info.min, -(2.0**30)), min(info.max, 2.0**30))) for x in (low, high))
    elif (np.isinf(low) and low > 0) or (np.isinf(high) and high < 0):
        low, high = 0.0, 1.0
    return Box(low, high, draw(shapes), dtype)


leaf_spaces = st.one_of(
    boxes(), st.integers(1, 5).map(Discrete), st.lists(st.integers(1, 4), min_size=1, max_size=3).map(MultiDiscrete)
)
any_space = st.recursive(
    leaf_spaces,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=2).map(Dict),
        st.lists(inner, min_size=1, max_size=2).map(Tuple),
    ),
    max_leaves=4,
)


def make_env(obs_space: Any, action_space: Any) -> FunctionalEnv:
    """Random observations; the reward is 1 for a legal action, and -100 for any other."""

    def observe(key: jax.Array) -> Any:
        return spaces.sample(obs_space, key)

    def reset(key: jax.Array, params: Any) -> Any:
        return observe(key), jnp.zeros(())

    def step(key: jax.Array, state: jax.Array, action: Any, params: Any) -> Any:
        return observe(key), state, jnp.where(spaces.contains(action_space, action), 1.0, -100.0), False

    return FunctionalEnv(reset, step, action_space, max_steps=4, obs_space=obs_space)


SMALL = {"num_envs": 2, "num_steps": 4, "hidden": (4,)}
EXTRA = {"a2c": {}, "ppo": {"epochs": 2, "minibatches": 2}, "trpo": {"epochs": 1, "minibatches": 1}}


def one_line(error: ValueError) -> None:
    assert "\n" not in str(error), str(error)
    assert len(str(error)) < 400, str(error)


@hypothesis.settings(max_examples=300 if IS_LONG else 6)
@hypothesis.example("a2c", Discrete(1), Box(0.0, 0.0, (0,)))  # no number at all
@hypothesis.given(name=st.sampled_from([*EXTRA]), obs_space=any_space, action_space=any_space)
def test_an_algorithm_trains_with_legal_actions_or_refuses_in_one_line(name: str, obs_space: Any, action_space: Any) -> None:
    try:
        algo = getattr(jaxpg, name)(make_env(obs_space, action_space), **SMALL, **EXTRA[name])
        jax.eval_shape(algo.init, jax.random.key(0))
    except ValueError as error:
        one_line(error)
        return

    @jax.jit
    def train(key: jax.Array) -> Any:
        state = algo.init(key)
        rewards = algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, 4)[1].reward
        return rewards, algo.update(state)

    rewards, (state, metrics) = train(jax.random.key(0))
    assert np.all(np.asarray(rewards) == 1.0), "an action was not legal"
    assert np.isfinite(metrics["policy_loss"]), metrics
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


@hypothesis.settings(max_examples=300 if IS_LONG else 6)
@hypothesis.given(obs_space=any_space, action_space=any_space)
def test_check_env_accepts_an_environment_that_keeps_its_spaces(obs_space: Any, action_space: Any) -> None:
    try:
        jaxpg.check_env(make_env(obs_space, action_space), num_steps=8, bounds=True)
    except ValueError as error:
        one_line(error)
        raise AssertionError(f"{obs_space}, {action_space}: {error}") from error
