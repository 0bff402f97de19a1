"""Numbers and sizes at the edge of what makes sense: what an update does with them is defined, and stays in its own run."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.algorithms.presets import ALGORITHMS
from jaxpg.core import advantages, objectives, rollout
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams, given
from jaxpg.core.optimizers import clip_norm
from jaxpg.core.types import Trajectory
from jaxpg.envs import FunctionalEnv

every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
SMALL = {"num_envs": 4, "num_steps": 8, "hidden": (8,)}
MORE = {
    "a2c": {"learning_rate": 3e-4, "critic_learning_rate": 2e-3},  # those of actor_critic
    "ppo": {"epochs": 2, "minibatches": 2},
    "trpo": {"epochs": 2, "minibatches": 2},
}


def reset(key: Any, params: Any) -> Any:
    x = jax.random.uniform(key, (2,), float, -1.0, 1.0)
    return x, x


def step(key: Any, x: Any, action: Any, params: Any) -> Any:
    """A point that is pushed, and ends beyond ``edge``; about every third observation and reward has something added to it."""
    x = x + 0.3 * (2.0 * action - 1.0)
    obs, reward = (jnp.where(jax.random.uniform(key) < 0.3, params[name], 0.0) for name in ("obs", "reward"))
    return x + obs, x, reward - jnp.sum(x**2), jnp.any(jnp.abs(x) > params["edge"])


ENV = FunctionalEnv(reset, step, spaces.Discrete(2), max_steps=1000)
CLEAN = {"obs": 0.0, "reward": 0.0, "edge": 1.2}
ENDLESS = {"no episode": {"edge": np.inf}}
WRONG = {
    "reward NaN": {"reward": np.nan},
    "reward inf": {"reward": np.inf},
    "reward -inf": {"reward": -np.inf},
    "reward 1e30": {"reward": 1e30},  # a number, but its square is none
    "observation NaN": {"obs": np.nan},
    "observation inf": {"obs": np.inf},
}
EDGES = {
    "gamma 0": {"gamma": 0.0},
    "gamma 0, lambda 0": {"gamma": 0.0, "gae_lambda": 0.0},
    "gamma 1": {"gamma": 1.0},
    "gamma 1, lambda 1": {"gamma": 1.0, "gae_lambda": 1.0},
    "lambda 0, no bonus": {"gae_lambda": 0.0, "entropy_coef": 0.0},
    "learning rate 0": {"learning_rate": 0.0},
    "critic's learning rate 0": {"critic_learning_rate": 0.0},
}
ROWS = ["plain", *ENDLESS, *WRONG, *EDGES]


def small(name: str, **options: Any) -> jaxpg.Algorithm:
    sizes = SMALL | MORE.get(name, {}) | options
    algo = getattr(jaxpg, name)(ENV, **sizes | ({"num_steps": ENV.max_steps} if "reinforce" in name else {}))
    return dataclasses.replace(algo, num_steps=sizes["num_steps"])  # REINFORCE too, though episodes may be longer


def start(algo: jaxpg.Algorithm) -> Any:
    return algo.init(jax.random.key(0), env_params=CLEAN)


@functools.cache
def two_updates(name: str) -> tuple[Any, Any, Any, Any]:
    """``(parameters before, state after, metrics of both updates, state after without the wrong numbers)``, a row each case."""
    algo = small(name)
    state = start(algo)
    params = [CLEAN | ENDLESS.get(row, WRONG.get(row, {})) for row in ROWS]
    chosen = [{k: v for k, v in EDGES.get(row, {}).items() if k in given(algo.hparams)} for row in ROWS]
    stack = lambda *x: jnp.array(x, jnp.float32)  # noqa: E731
    before = jax.tree.map(lambda x: jnp.stack([x] * len(ROWS)), state)
    before = before.replace(hparams=jax.tree.map(stack, *(algo.hparams.replace(**row) for row in chosen)))
    update, results = jax.jit(jax.vmap(algo.update)), []
    for rows in (params, [row | {"obs": 0.0, "reward": 0.0} for row in params]):
        after, first = update(before.replace(env_params=jax.tree.map(stack, *rows)))
        after, second = update(after)
        results.append((after, (first, second)))
    (after, metrics), (clean, _) = results
    return jax.device_get((before.params, after, metrics, clean.replace(env_params=after.env_params)))


def bits(tree: Any) -> list[np.ndarray]:
    """All arrays as integers, so that a NaN equals itself and -0 is not 0."""
    raw = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    arrays = [np.atleast_1d(np.asarray(raw(x))) for x in jax.tree.leaves(tree)]
    return [x.view(f"u{x.dtype.itemsize}") for x in arrays]


def same(one: Any, two: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(bits(one), bits(two), strict=True))


def finite(tree: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def row_of(tree: Any, row: str) -> Any:
    return jax.tree.map(lambda x: x[ROWS.index(row)], tree)


@every_algorithm
def test_wrong_numbers_raise_nothing_show_in_their_own_run_and_change_no_other(name: str) -> None:
    before, after, metrics, clean = two_updates(name)
    for row in ROWS:
        losses = [x for m in row_of(metrics, row) for key, x in m.items() if key.endswith("_loss")]
        assert finite((row_of(after.params, row), losses)) == (row not in WRONG), row
        assert same(row_of(after, row), row_of(clean, row)) == (row not in WRONG), row
        if name == "trpo" and row in WRONG:  # the line search takes no step whose gain is no number
            assert same(row_of(after.params.policy, row), row_of(before.policy, row)), row


@every_algorithm
def test_where_no_episode_ended_its_metrics_are_nan_and_the_run_learns(name: str) -> None:
    before, after, metrics, _ = two_updates(name)
    for m in row_of(metrics, "no episode"):
        assert m["episodes"] == 0.0
        assert {key for key, x in m.items() if np.isnan(x)} == {"episode_return", "episode_length"}
    assert max(m["episodes"] for m in row_of(metrics, "plain")) > 0.0
    assert finite(row_of(after.params, "no episode"))
    assert not same(row_of(after.params.policy, "no episode"), row_of(before.policy, "no episode"))


@every_algorithm
def test_hyperparameters_at_the_ends_of_their_ranges(name: str) -> None:
    before, after, _, _ = two_updates(name)
    still = {"learning rate 0": {"policy"}, "critic's learning rate 0": {"critic"}}
    for row in EDGES:
        assert finite(row_of(after, row).params), row
        for part in ("policy", "critic"):
            one, two = (row_of(getattr(params, part), row) for params in (before, after.params))
            reads = name != "trpo" or part == "critic" or row != "learning rate 0"  # a trust region has no learning rate
            unmoved = not jax.tree.leaves(one) or (part in still.get(row, ()) and reads)
            assert same(one, two) == unmoved, (row, part)


def test_at_the_ends_of_their_ranges_algorithms_become_others() -> None:
    """With gamma = 0 no lambda matters; A2C with lambda = 0 and no bonus is actor-critic."""
    _, a2c, _, _ = two_updates("a2c")
    assert same(row_of(a2c.params, "gamma 0"), row_of(a2c.params, "gamma 0, lambda 0"))
    assert not same(row_of(a2c.params, "gamma 1"), row_of(a2c.params, "gamma 1, lambda 1"))
    _, actor_critic, _, _ = two_updates("actor_critic")
    pairs = zip(*(jax.tree.leaves(row_of(x.params, "lambda 0, no bonus")) for x in (a2c, actor_critic)), strict=True)
    for one, two in pairs:
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert not same(row_of(a2c.params, "plain"), row_of(a2c.params, "lambda 0, no bonus"))


@pytest.mark.parametrize(("name", "sizes"), [
    ("reinforce_baseline", {}),
    ("trpo", {"minibatches": 1}),
    ("ppo", {"num_steps": 4, "minibatches": 4}),
])  # fmt: skip
def test_one_environment_one_step_and_one_row_a_minibatch(name: str, sizes: dict[str, int]) -> None:
    """A single advantage is standardised to 0, so that the policy stays; where nothing is standardised, it moves."""
    algo = small(name, **{"num_envs": 1, "num_steps": 1, "hidden": ()} | sizes)
    before = start(algo)
    after, metrics = jax.jit(algo.update)(before)
    assert finite(after.params)
    assert not same(before.params.critic, after.params.critic)
    alone = algo.num_steps == 1 and isinstance(algo.advantage, advantages.Standardized)
    assert same(before.params.policy, after.params.policy) == alone
    assert np.isfinite(metrics["explained_variance"]) == (algo.num_steps > 1)


def one_row(key: Any, env: Any, params: Any, *rest: Any) -> Any:
    """A rollout of which a single row counts; rewards on which its advantage does not depend have something added to them."""
    loop, trajectory = rollout.continuing(key, env, params, *rest)
    counts = jnp.zeros_like(trajectory.weight).at[3, 2].set(1.0)
    elsewhere = jnp.ones_like(trajectory.weight).at[3:, 2].set(0.0)
    return loop, trajectory.replace(weight=counts, reward=trajectory.reward + params["elsewhere"] * elsewhere)


@pytest.mark.parametrize("name", ["a2c", "ppo"])
def test_rows_without_weight_do_not_count(name: str) -> None:
    """Most minibatches of PPO then have no weight at all."""
    algo = dataclasses.replace(small(name, hidden=()), rollout=one_row)
    before, update = start(algo), jax.jit(algo.update)
    one, two = (update(before.replace(env_params=CLEAN | {"elsewhere": jnp.float32(x)})) for x in (0.0, 7.0))
    assert same(one[0].params, two[0].params)
    assert one[1]["sampled_steps"] == 1.0
    assert finite(one[0].params)
    assert not same(before.params.critic, one[0].params.critic)
    assert same(before.params.policy, one[0].params.policy) == (name == "ppo"), "one advantage alone is standardised to 0"


def trajectory(reward: Any, weight: Any = 1.0) -> Trajectory:
    """Episodes of one step: every advantage with ``v = 0`` is the reward."""
    x = jnp.zeros(jnp.shape(reward))
    dist = Categorical(x[..., None])
    weights, reward = jnp.broadcast_to(weight, x.shape) + x, jnp.asarray(reward, float)
    return Trajectory(x, x, dist, reward, x == 0, x != 0, x, x, x, weights, (), ())


def psi(choice: Any, reward: Any, weight: Any = 1.0) -> Any:
    t = trajectory(reward, weight)
    return choice(t, jnp.zeros_like(t.reward), jnp.zeros_like(t.reward), HParams(gamma=0.9))[0]


STANDARDIZED = advantages.Standardized(advantages.reward_to_go)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (7, 5), (128, 16), (500, 8)])
def test_equal_advantages_are_standardised_to_exactly_zero_with_finite_gradients(shape: tuple[int, int]) -> None:
    """The mean of 2048 numbers 0.3 is not 0.3 in float32: that difference must not become an advantage of 1."""
    standardise = jax.jit(lambda reward: psi(STANDARDIZED, reward))
    gradient = jax.jit(jax.grad(lambda reward: jnp.sum(psi(STANDARDIZED, reward) ** 2 + psi(STANDARDIZED, reward))))
    for constant in (0.0, 0.1, -0.3, 1e-20, 33.3, -200.7, 1e9):
        np.testing.assert_array_equal(standardise(jnp.full(shape, constant)), 0.0)
        assert finite(gradient(jnp.full(shape, constant)))


def test_padding_is_no_deviation() -> None:
    weight = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(psi(STANDARDIZED, jnp.array([[0.3, 0.3], [99.0, 0.3]]), weight), 0.0)


@pytest.mark.parametrize("offset", [0.0, 100.0, -1e4])
def test_standardised_advantages_keep_their_digits_beside_a_large_mean(offset: float) -> None:
    reward = (offset + np.random.default_rng(0).normal(size=(128, 16))).astype(np.float32)
    exact = reward.astype(float)
    np.testing.assert_allclose(psi(STANDARDIZED, reward), (exact - exact.mean()) / exact.std(), rtol=1e-4, atol=1e-4)


def test_advantages_whose_squares_overflow_are_no_numbers() -> None:
    for values in ([1e30, 0.0], [1e30, -1e30, 1.0], [np.inf, 1.0], [np.nan, 1.0]):
        reward = jnp.array([values])
        assert np.isnan(psi(STANDARDIZED, reward)).all()
        assert np.isnan(objectives.deviations(reward, jnp.ones_like(reward))[1])


def test_without_others_there_is_no_mean_to_leave_one_out_of() -> None:
    weight = jnp.zeros((2, 3)).at[:, 1].set(1.0)
    result = psi(advantages.leave_one_out_baseline, jnp.arange(6.0).reshape(2, 3), weight)
    np.testing.assert_array_equal(result[:, 1], [1.0, 4.0])
    assert finite(result)


def test_an_endless_gradient_moves_nothing_and_one_that_is_no_number_says_so() -> None:
    clipped = lambda *g: np.asarray(clip_norm(jnp.float32(0.5)).update(jnp.array(g), ())[0])  # noqa: E731
    np.testing.assert_array_equal(clipped(1e25, -1e25), 0.0)
    assert np.isnan(clipped(np.inf, 1.0)[0])
    assert np.isnan(clipped(np.nan, 1.0)).all()
