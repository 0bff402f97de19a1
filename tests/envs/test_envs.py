"""Adapters of environments: legal actions, masks, functions, time limits; each against stepping by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment, spaces

import jaxpg
from jaxpg.core import _resets as resets
from jaxpg.core.spaces import MultiDiscrete, contains, sample
from jaxpg.envs import (
    FunctionalEnv,
    LegalActions,
    WithActionMask,
    horizon,
    legalize,
    time_limit,
    with_action_mask,
    with_legal_actions,
)

KEY = jax.random.key(0)


def echo(space: Any, **options: Any) -> FunctionalEnv:
    """Observes the last action."""
    start = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: sample(space, KEY)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), start)
    return FunctionalEnv(
        lambda key, params: (zeros, jnp.int32(0)),
        lambda key, n, action, params: (action, n + 1, 0.0, False),
        space,
        9,
        **options,
    )


def test_the_environment_receives_the_legal_action_with_the_dtype_of_each_leaf() -> None:
    space = spaces.Dict({
        "gear": spaces.Discrete(3),
        "push": spaces.Tuple([spaces.Box(0, 4, (2,), jnp.int32), spaces.Box(10.0, 20.0, ())]),
        "keys": MultiDiscrete([2, 2]),
    })  # fmt: skip
    env = with_legal_actions(echo(space))
    assert env == LegalActions(env.env)
    assert with_legal_actions(env) is env
    raw = {"gear": jnp.int32(2), "push": (jnp.array([2.6, -7.0]), jnp.float32(0.0)), "keys": jnp.array([1, 0])}
    state = env.reset(KEY, None)[1]
    seen = env.step(KEY, state, raw, None)[0]
    assert contains(space, seen)
    assert [x.dtype for x in jax.tree.leaves(seen)] == [jnp.int32, jnp.int32, jnp.int32, jnp.float32]
    assert jax.tree.map(lambda x: x.tolist(), seen) == {"gear": 2, "push": ([3, 0], 10.0), "keys": [1, 0]}
    jax.tree.map(np.testing.assert_array_equal, legalize(env.env, raw, None), seen)
    jax.tree.map(np.testing.assert_array_equal, legalize(env, raw, None), seen)


@struct.dataclass
class Strength:
    most: Any = 1.0


@dataclasses.dataclass(frozen=True)
class Varying(FunctionalEnv):
    """Actions are bounded by a parameter."""

    def action_space(self, params: Any) -> Any:
        return spaces.Box(-params.most, params.most, (1,))


def test_actions_lie_within_the_bounds_of_the_parameters_that_are_used() -> None:
    plain = echo(spaces.Box(-1.0, 1.0, (1,)), default_params=Strength())
    env = with_legal_actions(Varying(**vars(plain)))
    state = env.reset(KEY, Strength())[1]
    step = jax.jit(lambda params: env.step(KEY, state, jnp.array([5.0]), params)[0])
    assert [float(step(Strength(most))[0]) for most in (1.0, 3.0, 7.0)] == [1.0, 3.0, 5.0]
    many = jax.vmap(lambda params: env.step(KEY, state, jnp.array([5.0]), params)[0])(Strength(jnp.array([1.0, 3.0])))
    np.testing.assert_array_equal(many, [[1.0], [3.0]])


class NoSpace:
    default_params = None


def test_environments_whose_actions_are_legal_anyway_are_left_as_they_are() -> None:
    for env in (jaxpg.make("CartPole-v1"), NoSpace(), echo(MultiDiscrete([2])), echo(spaces.Tuple([spaces.Discrete(2)]))):
        assert with_legal_actions(env) is env
        assert legalize(env, "raw", None) == "raw"


def countdown(**options: Any) -> FunctionalEnv:
    """Truncated where two steps are left, and terminated at 0; each action says how many to go down."""

    def step(key: Any, left: Any, action: Any, params: Any) -> Any:
        left = left - action
        return left[None], left, 1.0, left <= 0, left == 2

    return FunctionalEnv(lambda key, params: (jnp.array([9]), jnp.int32(9)), step, spaces.Discrete(4), 5, **options)


def test_a_function_may_truncate_besides_the_time_limit() -> None:
    def episode(actions: list[int]) -> list[tuple[bool, bool, int, int]]:
        env = countdown()
        state, rows = env.reset(KEY, None)[1], []
        for action in actions:
            obs, state, _, terminated, truncated, info = env.step(KEY, state, action, None)
            assert terminated.dtype == truncated.dtype == bool
            rows.append((bool(terminated), bool(truncated), int(info["final_observation"][0]), int(obs[0])))
        return rows

    assert episode([3, 3, 1, 3]) == [(False, False, 6, 6), (False, False, 3, 3), (False, True, 2, 9), (False, False, 6, 6)]
    assert episode([3, 3, 3])[-1] == (True, False, 0, 9)
    assert episode([0] * 5) == [(False, False, 9, 9)] * 4 + [(False, True, 9, 9)]


def test_what_is_not_given_is_not_there() -> None:
    assert not hasattr(countdown(), "observation_space")
    assert not hasattr(countdown(), "action_mask")
    assert not hasattr(WithActionMask(countdown(mask_fn=few)), "observation_space")
    space = spaces.Box(-9, 9, (1,), jnp.int32)
    assert countdown(obs_space=space).observation_space(None) is space

    class Own(FunctionalEnv):
        def observation_space(self, params: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return space

    assert Own(**vars(countdown())).observation_space(None) is space


def few(left: Any, params: Any) -> Any:
    """No step further than what is left."""
    return jnp.arange(4) <= left


@struct.dataclass
class Place:
    left: Any
    time: Any


class Staircase(environment.Environment):
    """The same without the cut at 2, as a class of gymnax's."""

    @property
    def default_params(self) -> Any:
        return environment.EnvParams(max_steps_in_episode=5)

    def reset_env(self, key: Any, params: Any) -> Any:
        return jnp.array([9]), Place(jnp.int32(9), jnp.int32(0))

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        left = state.left - action
        return left[None], Place(left, state.time + 1), jnp.float32(1.0), left <= 0, {}

    def action_space(self, params: Any) -> Any:
        return spaces.Discrete(4)

    def observation_space(self, params: Any) -> Any:
        return spaces.Box(-3, 9, (1,), jnp.int32)

    def action_mask(self, state: Any, params: Any) -> Any:
        return few(state.left, params)


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Hands on a step, and nothing of its parts."""

    env: Any

    def __getattr__(self, name: str) -> Any:
        if name in ("env", "halves"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def step(self, *given: Any) -> Any:
        return self.env.step(*given)


def named(env: FunctionalEnv) -> FunctionalEnv:
    """Observations are dicts."""
    wrap = lambda obs: {"left": obs}  # noqa: E731
    space = spaces.Dict({"left": env.obs_space}) if env.obs_space else None
    return dataclasses.replace(
        env,
        reset_fn=lambda key, params: (wrap(env.reset_fn(key, params)[0]), env.reset_fn(key, params)[1]),
        step_fn=lambda *given: (wrap(env.step_fn(*given)[0]), *env.step_fn(*given)[1:]),
        obs_space=space,
    )


WALK = countdown(mask_fn=few, obs_space=spaces.Box(-3, 9, (1,), jnp.int32))
MASKED = {
    "functions": (WALK, "obs", True),
    "dicts": (named(WALK), "left", True),
    "gymnax": (Staircase(), "obs", True),
    "legal actions inside": (LegalActions(WALK), "obs", True),
    "opaque": (Opaque(WALK), "obs", False),
}


@pytest.mark.parametrize("name", MASKED)
def test_observations_have_the_mask_of_their_state(name: str) -> None:
    inner, key, parts_are_known = MASKED[name]
    env = with_action_mask(inner)
    assert env == WithActionMask(inner)
    assert with_action_mask(env) is env
    params = env.default_params
    draw, step = resets.halves(env)
    obs, state = env.reset(KEY, params)
    assert contains(env.observation_space(params), obs)
    ends = 0
    for action in [3, 3, 2, 1, 3, 3, 3, 0, 0, 0, 0, 0, 2]:
        result = env.step(KEY, state, action, params)
        again = step(draw(KEY, params), state, action, params)
        jax.tree.map(np.testing.assert_array_equal, result, again)
        jax.tree.map(np.testing.assert_array_equal, result[2:5], inner.step(KEY, state, action, params)[2:5])
        obs, state, _, terminated, truncated, info = result
        final, done = info["final_observation"], bool(terminated | truncated)
        assert set(obs) == set(final) == {key, "action_mask"}
        assert contains(env.observation_space(params), obs) & contains(env.observation_space(params), final)
        np.testing.assert_array_equal(obs["action_mask"], np.arange(4) <= int(obs[key][0]))
        known = parts_are_known or not done
        np.testing.assert_array_equal(final["action_mask"], np.arange(4) <= int(final[key][0]) if known else [True] * 4)
        ends += done
    assert ends >= 3
    jaxpg.check_env(inner)
    jaxpg.check_env(env, bounds=True)


def test_a_mask_that_is_there_already_is_not_added_again() -> None:
    env = dataclasses.replace(WALK, reset_fn=lambda key, params: ({"action_mask": jnp.ones(4)}, jnp.int32(9)))
    with pytest.raises(ValueError, match="the observation has a key 'action_mask' already; pass the environment as it is"):
        WithActionMask(env).reset(KEY, None)
    plain = countdown()
    assert with_action_mask(plain) is plain


def test_the_time_limit_is_that_of_the_parameters() -> None:
    env = jaxpg.make("CartPole-v1")
    params = env.default_params
    assert time_limit(env, params) == horizon(env, params) == horizon(env) == 500
    assert horizon(env, params.replace(max_steps_in_episode=1000)) == 1000
    assert horizon(env, params.replace(max_steps_in_episode=jnp.array([7, 9, 8]))) == 9
    assert time_limit(env, params.replace(max_steps_in_episode=np.inf)) is None
    assert time_limit(countdown(), None) == horizon(LegalActions(countdown())) == 5
    found = []
    with pytest.raises(ValueError, match=r"env_params.max_steps_in_episode is traced, so it is not known yet; pass max_steps"):
        jax.jit(lambda params: found.append(time_limit(env, params)) or horizon(env, params))(params)
    assert found == [None]
    with pytest.raises(ValueError, match="the environment declares no time limit"):
        horizon(NoSpace(), None)
