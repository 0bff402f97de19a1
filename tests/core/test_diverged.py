"""Bad numbers: a run that diverges stays at its last finite state, says when, and no other run notices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces

import jaxpg
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.store import leaves
from jaxpg.loops import many as sweeping

RUNS, UPDATES = 6, 12


@struct.dataclass
class Poison:
    """Beyond ``limit``, the reward is multiplied by ``reward``, the observation by ``obs``."""

    limit: float = 1e9
    reward: float = 1.0
    obs: float = 1.0


def reset(key, params):
    x = 0.1 * jax.random.normal(key)
    return x[None], x


def step(key, x, action, params):
    x = x + 0.2 * action - 0.1 + 0.05 * jax.random.normal(key)
    beyond = jnp.abs(x) > params.limit
    obs, reward = jnp.where(beyond, x * params.obs, x), jnp.where(beyond, params.reward, 1.0) - jnp.abs(x)
    return obs[None], x, reward, jnp.abs(x) > 2.0


ENV = FunctionalEnv(reset, step, spaces.Discrete(2), max_steps=20, default_params=Poison())
SIZES = {"num_envs": 2, "num_steps": 8, "hidden": (8,)}
ALGORITHMS = {
    "ppo": jaxpg.ppo(ENV, **SIZES, epochs=2, minibatches=2, observation="running"),
    "trpo": jaxpg.trpo(ENV, **SIZES, epochs=2, minibatches=2),
    "reinforce": jaxpg.reinforce(ENV, num_envs=2, num_steps=20, hidden=(8,)),
}


@functools.cache
def programs(name):
    """``start() -> runs`` and ``advance(number of updates, runs) -> (runs, log point)`` of one algorithm, compiled once."""
    algo = ALGORITHMS[name]
    hparams = jax.tree.map(lambda x: np.full(RUNS, x, np.float32), algo.hparams)
    runs = jax.jit(functools.partial(sweeping.start, algo, jax.random.key(0)))(np.arange(RUNS), hparams)
    advance = jax.jit(functools.partial(sweeping.advance, algo, RUNS))
    return runs, lambda count, runs: advance(np.int32(count), np.bool_(True), runs)


def poisoned(runs, rows, **values):
    """The environments of ``rows`` are poisoned."""
    params = runs.state.env_params
    changed = {name: getattr(params, name).at[jnp.array(rows)].set(value) for name, value in values.items()}
    return runs.replace(state=runs.state.replace(env_params=params.replace(**changed)))


def bits(runs, row):
    """Everything that row ``row`` holds but what was poisoned."""
    state = runs.state.replace(env_params=(), hparams=())
    arrays = leaves.flatten({"state": state, "window": runs.window}, RUNS)
    return {name: x[row].tobytes() for name, x in arrays.items()}


def assert_frozen(name, start, row):
    """Twelve updates from ``start``: ``row`` diverges on the way, and only that row."""
    runs, advance = programs(name)
    end, metrics = advance(UPDATES, start)
    sound, expected = advance(UPDATES, runs)
    assert np.array_equal(expected["step"], [UPDATES] * RUNS)
    last = int(metrics["step"][row])
    assert last < UPDATES
    for other in set(range(RUNS)) - {row}:
        assert bits(end, other) == bits(sound, other), f"row {other} changed"
        for key, values in metrics.items():
            assert np.array_equal(values[other], expected[key][other], equal_nan=True), key
    before, _ = advance(last, start)
    assert int(before.state.step[row]) == last, "it was finite until then"
    held = {key: value for key, value in bits(end, row).items() if key.startswith("state.")}
    assert held == {key: value for key, value in bits(before, row).items() if key.startswith("state.")}
    for leaf in jax.tree.leaves((end.state.params, end.state.normalizer)):
        assert np.isfinite(leaf[row]).all()
    further, after = advance(3, end)
    assert int(after["step"][row]) == last, "it stays"
    assert {key: value for key, value in bits(further, row).items() if key.startswith("state.")} == held
    assert int(after["episodes"][row]) == int(after["sampled_steps"][row]) == 0, "it does nothing any more"
    assert np.isnan([after[key][row] for key in ("policy_loss", "entropy", "episode_return")]).all()
    assert not np.isnan(after["policy_loss"][(row + 1) % RUNS])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["reward", "obs"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_through_the_environment(name, what, value):
    runs, _ = programs(name)
    assert_frozen(name, poisoned(runs, [2], limit=0.5, **{what: value}), 2)


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_through_a_hyperparameter(name):
    runs, _ = programs(name)
    hparams = runs.state.hparams
    rates = hparams.learning_rate.at[4].set(3e38)
    assert_frozen(name, runs.replace(state=runs.state.replace(hparams=hparams.replace(learning_rate=rates))), 4)


def test_however_many_updates_are_done_at_once_results_are_the_same_bits():
    runs, advance = programs("ppo")
    start = poisoned(runs, [1], limit=0.6, reward=np.nan)
    at_once, _ = advance(UPDATES, start)
    step_by_step = start
    for _ in range(UPDATES):
        step_by_step, _ = advance(1, step_by_step)
    for row in range(RUNS):
        one, two = bits(at_once, row), bits(step_by_step, row)
        assert {k: v for k, v in one.items() if k.startswith("state")} == {
            k: v for k, v in two.items() if k.startswith("state")
        }


def test_a_log_point_is_the_summary_of_its_updates():
    """However many chunks they came in; against ``jaxpg.train`` of the same updates."""
    runs, _ = programs("ppo")
    algo = ALGORITHMS["ppo"]
    advance = jax.jit(functools.partial(sweeping.advance, algo, RUNS))
    state = runs
    for count, is_new in ((3, True), (1, False), (2, False)):
        state, metrics = advance(np.int32(count), np.bool_(is_new), state)
    _, expected = jax.jit(jax.vmap(lambda s: jaxpg.train(algo, s, 6, 6)))(runs.state)
    for name, values in expected.items():
        np.testing.assert_allclose(metrics[name], values[:, 0], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.array_equal(metrics["step"], [6] * RUNS)
