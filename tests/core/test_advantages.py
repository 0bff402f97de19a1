"""Advantages, schedules and normalisers as pieces: what the theorem's enumeration does not look at."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg.core import advantages, schedules
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Trajectory

HP = HParams(gamma=0.9, gae_lambda=0.8, baseline=1.5)


def trajectory(seed: int = 0, shape: tuple[int, int] = (7, 5), **fields: Any) -> Trajectory:
    rng = np.random.default_rng(seed)
    zeros = jnp.zeros(shape)
    flags = {name: jnp.asarray(rng.random(shape) < 0.2) for name in ("terminated", "truncated")}
    weight = jnp.asarray(rng.random(shape) < 0.7, float)
    row = {"reward": jnp.asarray(rng.normal(size=shape), float), "weight": weight} | flags | fields
    blank = dict.fromkeys(("obs", "action", "next_obs", "episode_return", "episode_length"), zeros)
    return Trajectory(dist=Categorical(zeros[..., None]), memory=(), next_memory=(), **blank | row)


VALUE, NEXT_VALUE = (jnp.asarray(np.random.default_rng(s).normal(size=(7, 5)), float) for s in (1, 2))


def test_standardised_advantages_have_mean_zero_and_deviation_one_over_real_samples() -> None:
    t = trajectory()
    psi, target = advantages.Standardized(advantages.gae)(t, VALUE, NEXT_VALUE, HP)
    raw, raw_target = advantages.gae(t, VALUE, NEXT_VALUE, HP)
    real = np.asarray(t.weight) > 0
    np.testing.assert_allclose(np.asarray(psi)[real].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(psi)[real].std(), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(target, raw_target)  # the critic's task stays as it is
    assert np.corrcoef(np.asarray(psi)[real], np.asarray(raw)[real])[0, 1] > 0.99999


def test_constant_advantages_standardise_to_zero_with_finite_gradients() -> None:
    t = trajectory(reward=jnp.ones((7, 5)), terminated=jnp.ones((7, 5), bool))
    gradient = jax.grad(lambda hp: advantages.Standardized(advantages.gae)(t, VALUE * 0, VALUE * 0, hp)[0].sum())(HP)
    np.testing.assert_allclose(advantages.Standardized(advantages.gae)(t, VALUE * 0, VALUE * 0, HP)[0], 0.0, atol=1e-6)
    assert all(np.isfinite(x) for x in jax.tree.leaves(gradient))


def test_no_weight_at_all_is_defined() -> None:
    t = trajectory(weight=jnp.zeros((7, 5)))
    for choice in (advantages.batch_mean_baseline, advantages.Standardized(advantages.gae)):
        assert np.isfinite(choice(t, VALUE, NEXT_VALUE, HP)[0]).all()


def test_baselines_shift_the_reward_to_go_by_what_their_names_say() -> None:
    t = trajectory()
    g = np.asarray(advantages.reward_to_go(t, VALUE, NEXT_VALUE, HP)[0])
    w = np.asarray(t.weight)
    shift = {
        advantages.constant_baseline: np.full(5, 1.5),
        advantages.batch_mean_baseline: np.full(5, (w * g).sum() / w.sum()),
        advantages.leave_one_out_baseline: np.array(
            [np.delete(w * g, b, axis=1).sum() / np.delete(w, b, axis=1).sum() for b in range(5)]
        ),
        advantages.learned_baseline: np.asarray(VALUE),
    }
    for choice, baseline in shift.items():
        psi, target = choice(t, VALUE, NEXT_VALUE, HP)
        np.testing.assert_allclose(g - psi, np.broadcast_to(baseline, g.shape), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(target, g)


def test_the_running_mean_baseline_is_a_critic_of_one_parameter() -> None:
    """0.95 old + 0.05 new: a plain step of 0.05 on half the squared error."""
    critic = jaxpg.networks.ConstantCritic()
    params = critic.init(jax.random.key(0), jnp.zeros((1, 2)))
    b = 0.0
    for reward in (1.0, -3.0, 2.0):
        loss = lambda p: 0.5 * jnp.mean((reward - critic.apply(p, jnp.zeros((4, 2)))) ** 2)  # noqa: B023, E731
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params))
        b = 0.95 * b + 0.05 * reward
        np.testing.assert_allclose(critic.apply(params, jnp.zeros((1, 2))), b, rtol=1e-5)


@pytest.mark.parametrize("num_updates", [1, 7, 400])
def test_a_linear_schedule_starts_at_the_base_and_ends_above_zero(num_updates: int) -> None:
    schedule = schedules.Linear(("learning_rate", "clip_eps"), num_updates)
    hp = HParams(learning_rate=2.0, clip_eps=0.2, gamma=0.9)
    values = np.array([float(schedule(hp, jnp.int32(step)).learning_rate) for step in range(num_updates)])
    np.testing.assert_allclose(values, 2.0 * (1 - np.arange(num_updates) / num_updates), rtol=1e-5)
    assert values[-1] > 0
    assert float(schedule(hp, jnp.int32(num_updates + 5)).learning_rate) == 0.0
    assert float(schedule(hp, jnp.int32(0)).clip_eps) == np.float32(0.2)
    assert schedule(hp, jnp.int32(3)).gamma == 0.9


@pytest.mark.parametrize("num_updates", [1, 7, 400, 2**31 - 1])
def test_a_cosine_schedule_starts_at_the_base_and_ends_above_zero(num_updates: int) -> None:
    schedule = schedules.Scaled(("learning_rate",), schedules.Cosine(num_updates))
    steps = sorted({0, num_updates // 3, num_updates // 2, num_updates - 1})
    found = [float(jax.jit(schedule)(HParams(learning_rate=2.0), jnp.int32(step)).learning_rate) for step in steps]
    np.testing.assert_allclose(found, [2.0 * np.cos(0.5 * np.pi * step / num_updates) ** 2 for step in steps], rtol=2e-6)
    assert found[0] == 2.0
    assert found[-1] > 0.0
    assert float(schedule(HParams(learning_rate=2.0), jnp.int32(num_updates)).learning_rate) == 0.0


@pytest.mark.parametrize("num_updates", [1, 4, 2**31 - 1])
def test_warming_up_ends_exactly_at_the_base(num_updates: int) -> None:
    schedule = schedules.Scaled(("learning_rate",), schedules.WarmUp(num_updates))
    rates = {step: float(schedule(HParams(learning_rate=2.0), jnp.int32(step)).learning_rate) for step in (0, num_updates)}
    np.testing.assert_allclose(rates[0], 2.0 / (num_updates + 1), rtol=1e-6)
    assert rates[num_updates] == 2.0
    assert float(schedule(HParams(learning_rate=2.0), jnp.int32(2**31 - 1)).learning_rate) == 2.0


def test_any_schedule_of_optax_scales_a_base_that_stays_traced() -> None:
    decay = optax.exponential_decay(1.0, transition_steps=2, decay_rate=0.25)
    schedule = schedules.Scaled(("clip_eps",), decay)
    value, slope = jax.value_and_grad(lambda base: schedule(HParams(clip_eps=base, gamma=0.5), jnp.int32(3)).clip_eps)(0.2)
    np.testing.assert_allclose((value, slope), (0.2 * 0.125, 0.125), rtol=1e-6)
    with pytest.raises(ValueError, match="clip_eps cannot be annealed: this algorithm reads only gamma"):
        schedule(HParams(gamma=0.5), jnp.int32(3))


def test_warming_up_and_annealing_are_multiplied_and_leave_the_rest() -> None:
    options = {"num_envs": 2, "num_steps": 4, "hidden": (4,), "total_steps": 80}
    env = jaxpg.make("CartPole-v1")
    algo = jaxpg.ppo(env, warmup=3, anneal=("learning_rate", "clip_eps"), anneal_shape="cosine", minibatches=1, **options)
    for step in range(10):
        now, base = algo.schedule(algo.hparams, jnp.int32(step)), algo.hparams
        cosine, rise = np.cos(0.05 * np.pi * step) ** 2, min(1.0, (step + 1) / 4)
        np.testing.assert_allclose(now.learning_rate, base.learning_rate * cosine * rise, rtol=1e-5)
        np.testing.assert_allclose(now.critic_learning_rate, base.critic_learning_rate * rise, rtol=1e-5)
        np.testing.assert_allclose(now.clip_eps, base.clip_eps * cosine, rtol=1e-5)
        assert now.gamma == base.gamma
    assert jaxpg.trpo(env, warmup=3).schedule == schedules.Scaled(("critic_learning_rate",), schedules.WarmUp(3))
    assert jaxpg.ppo(env, warmup=3, shared=True).schedule == schedules.Scaled(("learning_rate",), schedules.WarmUp(3))


def test_annealing_reaches_the_update_and_ends_with_the_budget() -> None:
    options = {"num_envs": 2, "num_steps": 4, "hidden": (4,), "total_steps": 33}
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), anneal=("learning_rate",), **options)
    assert algo.schedule == schedules.Linear(("learning_rate",), 5)  # 33 steps are 5 updates of 8
    state, update = algo.init(jax.random.key(0)), jax.jit(algo.update)
    moved = []
    for step in (0, 4, 5):
        after, _ = update(state.replace(step=jnp.int32(step)))
        difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params.policy, after.params.policy)
        moved.append(float(max(jax.tree.leaves(difference))))
    np.testing.assert_allclose(moved, [moved[0], 0.2 * moved[0], 0.0], rtol=1e-3)
