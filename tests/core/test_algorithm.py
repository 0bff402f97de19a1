"""What every algorithm must satisfy as a pure function: each row of this file runs for all six."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg import envs
from jaxpg.algorithms.presets import ALGORITHMS
from jaxpg.core import _checks as checks
from jaxpg.core.advantages import Standardized
from jaxpg.core.hparams import given
from jaxpg.core.normalize import Chain, ConstantReward, RunningObservation
from jaxpg.core.objectives import ratio
from jaxpg.envs import FunctionalEnv

SMALL = {
    "reinforce": {"num_envs": 4, "num_steps": 16},
    "reinforce_baseline": {"num_envs": 4, "num_steps": 16},
    "actor_critic": {"num_envs": 4, "num_steps": 8},
    "a2c": {"num_envs": 4, "num_steps": 8},
    "ppo": {"num_envs": 4, "num_steps": 8, "epochs": 2, "minibatches": 2},
    "trpo": {"num_envs": 4, "num_steps": 8, "epochs": 2, "minibatches": 2},
}
LEARNED = [name for name in ALGORITHMS if name not in ("reinforce", "trpo")]  # whose critic may share the policy's network
VARIANTS = [f"{name} gru" for name in ALGORITHMS] + [f"{name} shared" for name in LEARNED] + ["ppo lstm shared", "a2c cnn"]
VARIANTS += ["ppo options", "ppo shared options"]
DETAILS: dict[str, Any] = {  # of PPO, all at once; so much KL that the learning rate is adapted and updates stop early
    "learning_rate": 0.018,
    "target_kl": 4e-3,
    "desired_kl": 1e-3,
    "value_clip": 0.2,
    "advantage_norm": "minibatch",
    "reward_norm": "running",
    "observation": "running",
    "obs_clip": 2.0,
    "max_grad_norm": 0.0,
    "adam_eps": 1e-3,
    "warmup": 3,
    "anneal": ("learning_rate", "clip_eps", "value_clip", "target_kl"),
    "anneal_shape": "cosine",
}
every_algorithm = pytest.mark.parametrize("name", [*ALGORITHMS, *VARIANTS])


def small(name: str, env: Any = None, **options: Any) -> jaxpg.Algorithm:
    """An algorithm, with ``gru``, ``lstm``, ``cnn``, ``shared`` or ``options`` after its name; episodes of 16 steps."""
    name, *kinds = name.split()
    options = DETAILS | options if "options" in kinds else options
    kinds = [kind for kind in kinds if kind != "options"]
    options = {"shared": True} | options if "shared" in kinds else options
    options = {"network": kinds[0]} | options if kinds[:1] != ["shared"] and kinds else options
    if env is None:
        env = envs.with_params(jaxpg.make("Catch-bsuite" if "cnn" in kinds else "CartPole-v1"), {"max_steps_in_episode": 16})
        env = Image(env) if "cnn" in kinds else env
    return getattr(jaxpg, name)(env, hidden=(8,), **SMALL[name] | options)


@dataclasses.dataclass(frozen=True)
class Image:
    """Observations as images of one channel."""

    env: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, key: Any, params: Any) -> Any:
        obs, state = self.env.reset(key, params)
        return obs[..., None], state

    def step(self, *given: Any) -> Any:
        obs, *rest, info = self.env.step(*given)
        return obs[..., None], *rest, {**info, "final_observation": info["final_observation"][..., None]}


@functools.cache
def prepared(name: str) -> tuple[jaxpg.Algorithm, Any, Any]:
    """An algorithm, its compiled update, and a state that is two updates old."""
    algo = small(name)
    update, state = jax.jit(algo.update), algo.init(jax.random.key(0))
    for _ in range(2):
        state, _ = update(state)
    return algo, update, state


def plain(tree: Any) -> Any:
    """The tree with keys as integers."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def assert_close(one: Any, two: Any) -> None:
    chex.assert_trees_all_close(plain(one), plain(two), rtol=1e-5, atol=1e-5)


@every_algorithm
def test_the_state_is_a_fixed_point_in_structure_shape_dtype_and_weak_type(name: str) -> None:
    algo, _, state = prepared(name)
    after, metrics = jax.eval_shape(algo.update, state)
    assert jax.tree.structure(state) == jax.tree.structure(after)
    assert [jax.typeof(x) for x in jax.tree.leaves(state)] == [
        jax.core.ShapedArray(x.shape, x.dtype, weak_type=x.weak_type) for x in jax.tree.leaves(after)
    ]
    assert all(x.shape == () for x in jax.tree.leaves(metrics))


@pytest.mark.parametrize("name", ["reinforce", "ppo", "ppo shared", "ppo gru", "ppo options"])
def test_jit_equals_no_jit(name: str) -> None:
    algo, update, state = prepared(name)
    assert_close(update(state), algo.update(state))


@every_algorithm
def test_rows_of_vmap_and_scan_are_single_runs_update_by_update_in_one_program(name: str) -> None:
    """Hyperparameters of the rows differ; no value of them compiles the update of a single run again."""
    algo, update, state = prepared(name)
    runs = []
    for i in range(2):
        hparams = jax.tree.map(lambda x: x * np.float32(1.0 - 0.3 * i), state.hparams)  # noqa: B023
        runs.append(state.replace(hparams=hparams, key=jax.random.key(i)))
    rows, metrics = jax.jit(jax.vmap(lambda run: jaxpg.train(algo, run, 2)))(jax.tree.map(lambda *x: jnp.stack(x), *runs))
    for i, run in enumerate(runs):
        run, first = update(run)
        run, second = update(run)
        assert_close(run, jax.tree.map(lambda x: x[i], rows))  # noqa: B023
        expected = {k: np.stack([first[k], second[k]]) for k in first}
        assert_close(expected, jax.tree.map(lambda x: x[i], metrics))  # noqa: B023
    assert update._cache_size() == 1


@every_algorithm
def test_a_state_that_was_stored_continues_bit_for_bit(name: str) -> None:
    _, update, state = prepared(name)
    stored = jax.tree.map(np.copy, plain(state))
    restored = jax.tree.map(jnp.asarray, stored).replace(key=jax.random.wrap_key_data(stored.key))
    chex.assert_trees_all_equal(plain(update(state)), plain(update(restored)), strict=True)


def smooth_env() -> FunctionalEnv:
    """A point pushed left or right, in whatever float type is on."""

    def reset(key: jax.Array, params: Any) -> Any:
        x = jax.random.uniform(key, (2,), float)
        return x, x

    def step(key: jax.Array, x: jax.Array, action: jax.Array, params: Any) -> Any:
        x = x + 0.1 * (2.0 * action - 1.0)
        return x, x, -jnp.sum(x**2), jnp.any(jnp.abs(x) > 1.5)

    return FunctionalEnv(reset, step, spaces.Discrete(2), max_steps=6)


@pytest.mark.parametrize(
    "name", ["reinforce_baseline", "ppo", "trpo", "ppo shared", "ppo gru", "trpo lstm", "ppo options", "ppo shared options"]
)  # each piece that has a hyperparameter
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
        value = getattr(state.hparams, field)
        h = min(1e-6, 1e-4 * float(value)) if field == "adam_eps" else 1e-6  # of a number of 1e-5, 1e-6 is no small part
        above, below = (outer(state.hparams.replace(**{field: value + d}))[0] for d in (h, -h))
        difference = (above - below) / (2 * h)
        assert np.isfinite(gradient), field
        np.testing.assert_allclose(gradient, difference, rtol=2e-3, atol=1e-5, err_msg=field)


def test_memory_does_not_grow_with_the_number_of_updates() -> None:
    algo, _, state = prepared("a2c")

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
    env = smooth_env()
    a2c = jaxpg.a2c(env, critic_learning_rate=1e-3, **shared)
    ppo = jaxpg.ppo(env, critic_learning_rate=1e-3, epochs=1, minibatches=1, **shared)
    assert isinstance(ppo.advantage, Standardized)
    ppo = dataclasses.replace(ppo, advantage=ppo.advantage.advantage)
    start = a2c.init(jax.random.key(0))
    one, two = (
        jaxpg.train(algo, start.replace(hparams=checks.as_arrays(algo, algo.hparams)), 5)[0].params for algo in (a2c, ppo)
    )
    assert_close(one, two)
    assert any((x != y).any() for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(start.params), strict=True))


def test_the_first_ratio_is_one_with_running_normalisation() -> None:
    algo = small("ppo", observation="running")
    assert algo.normalizer == Chain(RunningObservation(), ConstantReward())

    @jax.jit
    def first_ratio(state: Any) -> Any:
        state, _ = jaxpg.train(algo, state, 5)
        _, trajectory = algo.rollout(jax.random.key(1), algo.env, state.env_params, algo.actor(state), state.loop, 32)
        batch = algo.batch(state, trajectory, state.hparams)
        rows = jax.tree.map(lambda x: x[0], batch)  # sequences of one step
        dist, _ = algo.predict(state, trajectory.obs.reshape(-1, 4))
        return ratio(dist, rows), jnp.std(rows.obs)

    first, deviation = first_ratio(algo.init(jax.random.key(0)))
    np.testing.assert_allclose(first, 1.0, rtol=0, atol=5e-7)  # a few float32 roundings of log-probabilities
    assert float(deviation) > 0.3  # the statistics had moved


@every_algorithm
def test_every_hyperparameter_is_read(name: str) -> None:
    """Each leaf of ``hparams`` enters some operation of the traced update: none is dead."""
    algo, _, state = prepared(name)
    program = jax.make_jaxpr(algo.update)(state).jaxpr
    used = {id(variable) for equation in program.eqns for variable in equation.invars}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    hparams = {p: v for p, v in zip(paths, program.invars, strict=True) if p.startswith(".hparams")}
    assert len(hparams) == len(given(algo.hparams))
    assert [path for path, variable in hparams.items() if id(variable) not in used] == []


def test_a_sweep_of_64_seeds_starts_and_steps() -> None:
    """Batched LAPACK calls used to hang here on two cores: there are none, which is looked at before anything runs."""
    algo, _, _ = prepared("a2c")
    keys = jax.random.split(jax.random.key(0), 64)
    program = jax.jit(jax.vmap(lambda key: algo.update(algo.init(key)))).lower(keys)
    assert "custom_call" not in program.as_text()
    _, metrics = program.compile()(keys)
    assert metrics["policy_loss"].shape == (64,)


@pytest.mark.parametrize("name", ["a2c", "ppo", "trpo"])
def test_entropy_and_kl_say_what_all_of_the_update_did(name):
    algo, update, state = prepared(name)
    step = {"learning_rate": 1e-2} if name != "trpo" else {"max_kl": 1e-2}
    state = state.replace(hparams=state.hparams.replace(**jax.tree.map(jnp.float32, step)))
    after, metrics = update(state)

    @jax.jit
    def observations(state):
        _, key, _ = jax.random.split(state.key, 3)
        return algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, algo.num_steps)[1].obs

    obs = observations(state).reshape(-1, 4)
    old, new = (np.asarray(algo.predict(state.replace(params=s.params), obs)[0].logits, float) for s in (state, after))
    old, new = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in (old, new))
    np.testing.assert_allclose(metrics["entropy"], -(np.exp(new) * new).sum(-1).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], (np.exp(old) * (old - new)).sum(-1).mean(), rtol=0.02)
    assert metrics["kl"] > 1e-5
