"""JAX's own watchmen find nothing: keys used twice, NaN, silent transfers, leaked tracers, divisions by zero."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from jax.experimental import checkify

import jaxpg
from jaxpg import envs
from jaxpg.algorithms.presets import ALGORITHMS
from jaxpg.core import rollout
from jaxpg.core.algorithm import rollout_metrics
from jaxpg.core.distributions import Categorical
from jaxpg.core.types import Batch, Trajectory
from jaxpg.envs import FunctionalEnv

SIZES = {"num_envs": 4, "num_steps": 8, "hidden": (8,)}
MORE = {"ppo": {"epochs": 2, "minibatches": 2}, "trpo": {"epochs": 2, "minibatches": 2}}
LIMIT = 5  # steps of an episode: some end in every update, and metrics of episodes are numbers


WATCHMEN: dict[str, Callable[[], Any]] = {
    "keys": lambda: jax.debug_key_reuse(True),
    "nans": lambda: jax.debug_nans(True),
    "transfers": lambda: jax.transfer_guard("disallow"),
    "leaks": jax.checking_leaks,
}


@contextlib.contextmanager
def watched(*names: str) -> Iterator[None]:
    """Under these watchmen, all at once: a program is then compiled once for all of them."""
    with contextlib.ExitStack() as stack:
        for name in names or WATCHMEN:
            stack.enter_context(WATCHMEN[name]())
        yield


def prepared(name: str, env: Any, **sizes: Any) -> tuple[jaxpg.Algorithm, Any]:
    """A small algorithm, and its state with short episodes."""
    algo = getattr(jaxpg, name)(env, **SIZES | MORE.get(name, {}) | sizes)
    params = env.default_params
    short = params if params is None else params.replace(max_steps_in_episode=LIMIT)
    return algo, algo.init(jax.random.key(0), env_params=short)


def step(key: Any, x: Any, action: Any, params: Any) -> Any:
    x = x + 0.5 * action
    return x[None], x, 1.0, x > 1.5


LINE = FunctionalEnv(lambda key, params: (jnp.zeros(1), jnp.zeros(())), step, spaces.Discrete(2), LIMIT)  # compiles fast


LADDER = [(name, "CartPole-v1") for name in ALGORITHMS] + [("ppo", "Pendulum-v1")]


@pytest.mark.parametrize(("name", "env"), LADDER)
def test_no_watchman_finds_anything(name: str, env: str) -> None:
    algo, state = prepared(name, envs.with_params(jaxpg.make(env), {"max_steps_in_episode": 8}))
    key = jax.random.key(1)
    with watched():
        update = jax.jit(algo.update)
        state, _ = update(state)
        state, metrics = update(state)
        result = jaxpg.evaluate(algo, state, key, 3, greedy=False, max_steps=LIMIT)
    assert metrics["episodes"] >= 1
    assert result["episode_finished"].all()


def same_key_twice(key: Any, *rest: Any) -> Any:
    """A rollout that draws one more number from its key."""
    loop, trajectory = rollout.continuing(key, *rest)
    return loop, trajectory.replace(reward=trajectory.reward + jax.random.uniform(key))


def on_the_host(state: Any) -> Any:
    """A state one of whose arrays still has to be moved to the device."""
    return state.replace(step=np.asarray(state.step))


@pytest.mark.parametrize(("watchman", "broken", "start", "error", "says"), [
    ("keys", same_key_twice, lambda state: state, jax.errors.KeyReuseError, "already consumed"),
    ("transfers", rollout.continuing, on_the_host, jax.errors.JaxRuntimeError, "Disallowed host-to-device transfer"),
])  # fmt: skip
def test_a_watchman_is_awake(watchman: str, broken: Any, start: Any, error: type[Exception], says: str) -> None:
    algo, state = prepared("actor_critic", LINE, hidden=())
    algo, state = dataclasses.replace(algo, rollout=broken), start(state)
    with pytest.raises(error, match=says), watched(watchman):
        jax.jit(algo.update)(state)


def test_the_watchmen_of_leaks_and_of_nan_are_awake() -> None:
    """In short functions: their reports on a whole update take half a minute."""
    kept: list[Any] = []
    with pytest.raises(Exception, match="Leaked"), watched("leaks"):
        jax.jit(kept.append)(jnp.zeros(()))
    arguments = rows(0.3, ended=False)  # its metrics of episodes are NaN on purpose
    with pytest.raises(FloatingPointError, match="nan"), watched("nans"):
        jax.jit(rollout_metrics)(*arguments)


def division_by_zero(function: Callable, *arguments: Any) -> str | None:
    """A division by zero anywhere inside ``function``; ``jax.debug_nans`` looks only at what comes out."""
    found, _ = jax.jit(checkify.checkify(function, errors=checkify.div_checks))(*arguments)
    return found.get()


@pytest.mark.parametrize(("name", "sizes"), [("a2c", {}), ("trpo", {"minibatches": 1})])
def test_nothing_inside_an_update_divides_by_zero(name: str, sizes: dict[str, int]) -> None:
    algo, state = prepared(name, LINE, hidden=(), **sizes)
    assert division_by_zero(algo.update, state) is None


def rows(value: float, ended: bool) -> tuple[Trajectory, Batch]:
    """A rollout of equal numbers."""
    x = jnp.full((3, 2), value)
    dist = Categorical(jnp.zeros((3, 2, 2)))
    trajectory = Trajectory(x, x, dist, x, x > 0, x > jnp.inf, x, x, x, jnp.ones_like(x), (), ())
    flat = x.ravel()[None]  # sequences of one step
    batch = Batch(flat, flat, flat, dist, flat, flat, flat, flat * 0 + 1, flat > jnp.inf, ())
    return trajectory.replace(terminated=jnp.full((3, 2), ended)), batch


@pytest.mark.parametrize("ended", [False, True])
def test_nothing_divides_by_zero_where_no_episode_ended_and_all_targets_are_equal(ended: bool) -> None:
    arguments = rows(0.3, ended)
    assert division_by_zero(rollout_metrics, *arguments) is None
    metrics = rollout_metrics(*arguments)
    assert np.isnan(metrics["explained_variance"])  # there is nothing to explain
    assert metrics["episodes"] == 6 * ended
    for name in ("episode_return", "episode_length"):
        np.testing.assert_allclose(metrics[name], 0.3 if ended else np.nan, rtol=1e-6)


def test_a_division_by_zero_that_nobody_sees_is_found() -> None:
    hidden = lambda x: jnp.where(x > 0, 1.0 / x, 0.0)  # noqa: E731
    assert "division by zero" in (division_by_zero(hidden, jnp.zeros(())) or "")
    with jax.debug_nans(True):
        assert jax.jit(hidden)(jnp.zeros(())) == 0.0
