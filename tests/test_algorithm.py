"""What every algorithm of the ladder must satisfy as a pure function: each row of this file runs for all six."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.advantages import Standardized
from jaxpg.envs import FunctionalEnv
from jaxpg.normalize import Chain, ConstantReward, RunningObservation
from jaxpg.objectives import ratio
from jaxpg.presets import ALGORITHMS

SMALL = {
    "reinforce": {"num_envs": 4, "num_steps": 16},
    "reinforce_baseline": {"num_envs": 4, "num_steps": 16},
    "actor_critic": {"num_envs": 4, "num_steps": 8},
    "a2c": {"num_envs": 4, "num_steps": 8},
    "ppo": {"num_envs": 4, "num_steps": 8, "epochs": 2, "minibatches": 2},
    "trpo": {"num_envs": 4, "num_steps": 8, "epochs": 2, "minibatches": 2},
}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def small(name: str, env: Any = None, **options: Any) -> jaxpg.Algorithm:
    return getattr(jaxpg, name)(env or jaxpg.make("CartPole-v1"), hidden=(8,), **SMALL[name] | options)


@functools.cache
def prepared(name: str) -> tuple[jaxpg.Algorithm, Any, Any]:
    """An algorithm, its compiled update, and a state that is two updates old."""
    algo = small(name)
    update = jax.jit(algo.update)
    state = jax.jit(algo.init)(jax.random.key(0))
    for _ in range(2):
        state, _ = update(state)
    return algo, update, state


def leaves(tree: Any) -> list[np.ndarray]:
    """All arrays of a state, keys as integers."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def assert_same(one: Any, two: Any, tolerance: float = 0.0) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(leaves(one), leaves(two), strict=True):
        if tolerance:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


@every_algorithm
def test_the_state_is_a_fixed_point_in_structure_shape_dtype_and_weak_type(name: str) -> None:
    algo = small(name)
    state = algo.init(jax.random.key(0))
    after, metrics = jax.eval_shape(algo.update, state)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert [jax.typeof(x) for x in jax.tree.leaves(state)] == [
        jax.core.ShapedArray(x.shape, x.dtype, weak_type=x.weak_type) for x in jax.tree.leaves(after)
    ]
    assert all(x.shape == () for x in jax.tree.leaves(metrics))


@every_algorithm
def test_jit_equals_no_jit(name: str) -> None:
    algo, update, state = prepared(name)
    assert_same(update(state), algo.update(state), 1e-5)


@every_algorithm
def test_scan_equals_repeated_update(name: str) -> None:
    algo, update, state = prepared(name)
    scanned, metrics = jaxpg.train(algo, state, 3)
    for i in range(3):
        state, one = update(state)
        np.testing.assert_allclose(one["policy_loss"], metrics["policy_loss"][i], rtol=1e-5, atol=1e-6)
    assert_same(state, scanned, 1e-5)


@every_algorithm
def test_a_row_of_vmap_equals_a_single_run(name: str) -> None:
    algo, update, state = prepared(name)
    states = []
    for i in range(3):
        hparams = jax.tree.map(lambda x: x * np.float32(1.0 - 0.1 * i), state.hparams)  # noqa: B023
        states.append(state.replace(hparams=hparams, key=jax.random.key(i)))
    rows = jax.jit(jax.vmap(algo.update))(jax.tree.map(lambda *x: jnp.stack(x), *states))
    for i in range(3):
        assert_same(jax.tree.map(lambda x: x[i], rows), update(states[i]), 1e-5)  # noqa: B023


@every_algorithm
def test_hyperparameter_values_never_recompile(name: str) -> None:
    _, update, state = prepared(name)
    update(state)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "/jax/core/compile/" in event else None
    )
    results = []
    for scale in (0.5, 0.9):
        hparams = jax.tree.map(lambda x: x * np.float32(scale), state.hparams)  # noqa: B023
        compiled.clear()
        results.append(update(state.replace(hparams=hparams))[0].params)
        assert not compiled
    assert any((a != b).any() for a, b in zip(leaves(results[0]), leaves(results[1]), strict=True))


@every_algorithm
def test_a_state_that_was_stored_continues_bit_for_bit(name: str) -> None:
    _, update, state = prepared(name)
    arrays = [x.copy() for x in leaves(state)]
    keyed = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state)]
    back = [jax.random.wrap_key_data(x) if k else jnp.asarray(x) for x, k in zip(arrays, keyed, strict=True)]
    restored = jax.tree.unflatten(jax.tree.structure(state), back)
    assert_same(update(state), update(restored))


@every_algorithm
def test_keys_are_used_once(name: str) -> None:
    algo = small(name)
    with jax.debug_key_reuse(True):  # looks at the traced program
        jax.jit(lambda key: algo.update(algo.init(key))).lower(jax.random.key(0))


def smooth_env() -> FunctionalEnv:
    """A point pushed left or right, in whatever float type is on."""

    def reset(key: jax.Array, params: Any) -> Any:
        x = jax.random.uniform(key, (2,), float)
        return x, x

    def step(key: jax.Array, x: jax.Array, action: jax.Array, params: Any) -> Any:
        x = x + 0.1 * (2.0 * action - 1.0)
        return x, x, -jnp.sum(x**2), jnp.any(jnp.abs(x) > 1.5)

    return FunctionalEnv(reset, step, spaces.Discrete(2), max_steps=6)


@every_algorithm
def test_hyperparameter_gradients_are_finite_and_agree_with_finite_differences(name: str, x64: None) -> None:
    algo = small(name, smooth_env())
    state = algo.init(jax.random.key(3))

    @jax.jit
    @jax.value_and_grad
    def outer(hp: jaxpg.HParams) -> jax.Array:
        params = algo.update(state.replace(hparams=hp))[0].params
        return sum((jnp.sum(jnp.sin(3.0 * x)) for x in jax.tree.leaves(params)), start=jnp.zeros(()))

    _, gradients = outer(state.hparams)
    for field, gradient in vars(gradients).items():
        if gradient is None:
            continue
        value, h = getattr(state.hparams, field), 1e-6
        above, below = (outer(state.hparams.replace(**{field: value + d}))[0] for d in (h, -h))
        difference = (above - below) / (2 * h)
        assert np.isfinite(gradient), field
        np.testing.assert_allclose(gradient, difference, rtol=2e-3, atol=1e-5, err_msg=field)


@pytest.mark.parametrize("name", ["reinforce_baseline", "ppo"])
def test_memory_does_not_grow_with_the_number_of_updates(name: str) -> None:
    algo = small(name)
    state = algo.init(jax.random.key(0))

    def temporary_bytes(num_updates: int) -> int:
        return jaxpg.train.lower(algo, state, num_updates, num_updates // 2).compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(8), temporary_bytes(16)
    metrics_rows = 4 * 16  # one float per metric and inner update
    assert many - few <= metrics_rows * 8


def test_a2c_equals_ppo_with_one_epoch_and_no_standardisation() -> None:
    shared = {
        "num_envs": 4,
        "num_steps": 16,
        "gae_lambda": 1.0,
        "entropy_coef": 0.01,
        "learning_rate": 1e-3,
        "gamma": 0.9,
        "hidden": (8,),
    }
    env = jaxpg.make("CartPole-v1")
    a2c = jaxpg.a2c(env, critic_learning_rate=1e-3, **shared)
    ppo = jaxpg.ppo(env, critic_learning_rate=1e-3, epochs=1, minibatches=1, **shared)
    assert isinstance(ppo.advantage, Standardized)
    ppo = dataclasses.replace(ppo, advantage=ppo.advantage.advantage)
    states = []
    for algo in (a2c, ppo):
        state, _ = jaxpg.train(algo, algo.init(jax.random.key(0)), 5)
        states.append(state.params)
    assert_same(states[0], states[1], 1e-5)


def test_the_first_ratio_is_one_with_running_normalisation() -> None:
    algo = small("ppo", observation="running")
    assert algo.normalizer == Chain(RunningObservation(), ConstantReward())
    state, _ = jaxpg.train(algo, algo.init(jax.random.key(0)), 5)
    actor = algo.actor(state)
    _, trajectory = algo.rollout(jax.random.key(1), algo.env, state.env_params, actor, state.loop, 32)
    batch = algo.judge(state, trajectory, state.hparams)
    first = ratio(algo.policy.apply(state.params.policy, batch.obs), batch)
    np.testing.assert_allclose(first, 1.0, rtol=0, atol=5e-7)  # a few float32 roundings of log-probabilities
    assert float(jnp.std(batch.obs)) > 0.3  # the statistics had moved


@every_algorithm
def test_every_hyperparameter_is_read(name: str) -> None:
    """Each leaf of ``hparams`` enters some operation of the traced update: none is dead."""
    algo = small(name)
    state = algo.init(jax.random.key(0))
    program = jax.make_jaxpr(algo.update)(state).jaxpr
    used = {id(variable) for equation in program.eqns for variable in equation.invars}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    hparams = {p: v for p, v in zip(paths, program.invars, strict=True) if p.startswith(".hparams")}
    assert len(hparams) == len(jaxpg.hparams.given(algo.hparams))
    assert [path for path, variable in hparams.items() if id(variable) not in used] == []


def test_a_sweep_of_64_seeds_starts_and_steps() -> None:
    """In a process of its own, optimised and with a time-out: batched LAPACK calls used to hang here on two cores."""
    code = """
import jax, jaxpg
algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=4, epochs=1)
state = jax.jit(jax.vmap(algo.init))(jax.random.split(jax.random.key(0), 64))
state, metrics = jax.jit(jax.vmap(algo.update))(state)
print(metrics["policy_loss"].shape)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert result.stdout.strip() == "(64,)", result.stderr


@pytest.mark.parametrize("name", ["a2c", "ppo", "trpo"])
def test_entropy_and_kl_say_what_the_whole_update_did(name):
    step = {"learning_rate": 1e-2} if name != "trpo" else {"max_kl": 1e-2}
    algo = getattr(jaxpg, name)(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=16, **step)
    state = algo.init(jax.random.key(2))
    after, metrics = jax.jit(algo.update)(state)
    _, key, _ = jax.random.split(state.key, 3)
    _, trajectory = algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, 16)
    obs = algo.normalizer.observation(state.normalizer, trajectory.obs.reshape(64, 4))
    old, new = (np.asarray(algo.policy.apply(s.params.policy, obs).logits, float) for s in (state, after))
    old, new = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in (old, new))
    np.testing.assert_allclose(metrics["entropy"], -(np.exp(new) * new).sum(-1).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], (np.exp(old) * (old - new)).sum(-1).mean(), rtol=0.02)
    assert metrics["kl"] > 1e-5
