"""A delay of none is A2C itself, a delay of two is what a list of old parameters gives, and a long one costs return."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from experiments import staleness


@pytest.fixture(scope="module")
def algo():
    return jaxpg.a2c(
        jaxpg.make("CartPole-v1"), hidden=(4,), num_envs=2, num_steps=4, learning_rate=0.05, critic_learning_rate=0.05
    )


@pytest.fixture(scope="module")
def updated(algo):
    """``(delay, lag_of_data, updates) -> state`` with a ring of four."""
    step = jax.jit(lambda run, delay, lag: staleness.update(algo, run, delay, lag)[0])

    def run(delay, lag_of_data, updates):
        delayed = staleness.start(algo.init(jax.random.key(0)), longest=3)
        for _ in range(updates):
            delayed = step(delayed, jnp.int32(delay), jnp.float32(lag_of_data))
        return delayed.state

    return run


def same(one, other, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lag_of_data", [0.0, 1.0])
def test_no_delay_is_the_update_of_a2c(algo, updated, lag_of_data):
    state, update = algo.init(jax.random.key(0)), jax.jit(algo.update)
    for _ in range(5):
        state, _ = update(state)
    found = updated(0, lag_of_data, 5)
    same((state.params, state.opt_state, state.loop), (found.params, found.opt_state, found.loop))
    assert jnp.all(jax.random.key_data(state.key) == jax.random.key_data(found.key))


@pytest.mark.parametrize("lag_of_data", [0.0, 1.0])
def test_a_delay_of_two_reads_a_list_of_old_parameters(algo, updated, lag_of_data):
    """More updates than the ring has places; the gradient and the optimiser are written out here."""
    state, past = algo.init(jax.random.key(0)), []
    optimizer = algo.update_rule.optimizer(state.hparams)

    @jax.jit
    def by_hand(state, held):
        key, key_rollout, _ = jax.random.split(state.key, 3)
        worker = state.replace(params=held)
        loop, trajectory = algo.rollout(key_rollout, algo.env, state.env_params, algo.actor(worker), state.loop, 4)
        at = state.params if lag_of_data else held
        grads = jax.grad(algo.losses(state, state.hparams).total, has_aux=True)(
            at, algo.batch(worker, trajectory, state.hparams)
        )[0]
        moves, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return state.replace(key=key, loop=loop, opt_state=opt_state, params=optax.apply_updates(state.params, moves))

    for n in range(7):
        past.append(state.params)
        state = by_hand(state, past[max(n - 2, 0)])
    same(state.params, updated(2, lag_of_data, 7).params, 1e-4)


def test_the_kinds_differ_where_there_is_a_delay(updated):
    gradients, data = (updated(3, lag, 6).params.policy for lag in (0.0, 1.0))
    assert max(jnp.max(jnp.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (gradients, data)), strict=True)) > 1e-5


def test_a_long_delay_costs_return(tmp_path, monkeypatch):
    monkeypatch.setattr(staleness, "DELAYS", (0, 32))
    monkeypatch.setattr(staleness, "RATES", (1.0,))
    staleness.main(seeds=2, updates=80, points=4, out=tmp_path)
    study = json.loads((tmp_path / "staleness.json").read_text())
    assert study["env_steps"] == [256 * 20 * n for n in (1, 2, 3, 4)]
    for kind in staleness.KINDS:
        fresh, stale = study["curves"][kind]["1"]
        assert fresh["median"][-1] > 1.2 * stale["median"][-1]
        assert stale["kl"] > 3 * fresh["kl"]  # the policy that acted is far from the one that learned
    assert (tmp_path / "staleness.png").stat().st_size > 10_000
