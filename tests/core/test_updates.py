"""Update rules against things computed another way: exact Fisher matrices, linear solves, hand-made losses."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg.core import optimizers
from jaxpg.core._shuffle import permutations
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.sgd import SGD, above_target_kl, minimize
from jaxpg.core.trust_region import TrustRegion, conjugate_gradients, fisher_vector_product
from jaxpg.core.types import Batch, Losses, Params

N, DIM, ACTIONS = 12, 3, 4


def batch_of(dist: Any, obs: jax.Array, action: jax.Array, advantage: jax.Array) -> Batch:
    """Sequences of one step, ``[1, N, ...]``."""
    zero = jnp.zeros(obs.shape[0], obs.dtype)
    rows = Batch(obs, action, dist.log_prob(action), dist, zero, advantage, zero, zero + 1.0, zero > 0, ())
    return jax.tree.map(lambda x: x[None], rows)


@pytest.fixture
def problem(x64: None) -> tuple[Params, Batch, Losses]:
    """A linear softmax policy, a batch from it, and losses written out here."""
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.normal(size=(DIM, ACTIONS)))
    obs = jnp.asarray(rng.normal(size=(N, DIM)))
    action, advantage = jnp.asarray(rng.integers(ACTIONS, size=N)), jnp.asarray(rng.normal(size=N))
    batch = batch_of(Categorical(obs @ theta), obs, action, advantage)

    def policy(params: Params, batch: Batch) -> Any:
        ratio = jnp.exp(Categorical(batch.obs @ params.policy).log_prob(batch.action) - batch.log_prob)
        return -jnp.mean(ratio * batch.advantage), {}

    def kl(params: Params, batch: Batch) -> jax.Array:
        return jnp.mean(batch.dist.kl(Categorical(batch.obs @ params.policy)))

    return Params(theta, jnp.zeros(2)), batch, Losses(policy, policy, lambda p, b: (jnp.sum(p.critic**2), {}), kl)


HP = HParams(max_kl=0.01, cg_damping=0.0, critic_learning_rate=0.1, max_grad_norm=1.0, adam_eps=1e-5)


def exact_fisher(theta: jax.Array, batch: Batch) -> np.ndarray:
    """mean_s E_{a ~ pi}[score score^T], from the definition."""
    obs = np.asarray(batch.obs[0])
    pi = np.asarray(jax.nn.softmax(obs @ theta))
    fisher = np.zeros((theta.size, theta.size))
    for n in range(N):
        for a in range(ACTIONS):
            score = np.outer(obs[n], np.eye(ACTIONS)[a] - pi[n]).ravel()
            fisher += pi[n, a] * np.outer(score, score) / N
    return fisher


def test_fisher_vector_product_is_the_fisher_matrix_and_the_hessian_of_kl(problem: Any) -> None:
    params, batch, losses = problem
    theta, kl = params.policy, lambda policy: losses.kl(params._replace(policy=policy), batch)
    v = jnp.asarray(np.random.default_rng(1).normal(size=theta.size))
    product = fisher_vector_product(kl, theta, v)
    np.testing.assert_allclose(product, exact_fisher(theta, batch) @ v, rtol=1e-10)
    hessian = jax.hessian(kl)(theta).reshape(theta.size, theta.size)
    np.testing.assert_allclose(product, hessian @ v, rtol=1e-10)


def test_conjugate_gradients_solve_also_under_vmap(x64: None) -> None:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(16, 6, 6))
    matrices, b = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(6), rng.normal(size=(16, 6))
    solve = jax.vmap(lambda a, b: conjugate_gradients(lambda v: a @ v, b, 30))
    np.testing.assert_allclose(
        solve(jnp.asarray(matrices), jnp.asarray(b)), np.linalg.solve(matrices, b[..., None])[..., 0], rtol=1e-6
    )


def test_the_trust_region_step_is_the_natural_gradient_at_the_largest_length(problem: Any) -> None:
    params, batch, losses = problem
    theta = params.policy
    hp = HP.replace(cg_damping=1e-3, max_kl=1e-6)  # so small that the quadratic model is exact
    moved, metrics = TrustRegion(cg_iterations=30).policy_step(losses, params, batch, hp)
    g = -np.asarray(jax.grad(losses.policy, has_aux=True)(params, batch)[0].policy).ravel()
    fisher = exact_fisher(theta, batch) + 1e-3 * np.eye(theta.size)
    x = np.linalg.solve(fisher, g)
    expected = x * np.sqrt(2 * 1e-6 / (x @ fisher @ x))
    assert metrics["accepted"] == 1.0
    steps = np.asarray(moved - theta).ravel() / expected
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)  # the direction
    assert np.min(np.abs(steps[0] - 0.5 ** np.arange(10))) < 1e-4  # the full length, or a halving of it


@pytest.mark.parametrize("max_kl", [1e-4, 1e-2, 1.0])
def test_accepted_steps_keep_the_kl_and_improve(problem: Any, max_kl: float) -> None:
    params, batch, losses = problem
    moved, metrics = TrustRegion().policy_step(losses, params, batch, HP.replace(max_kl=max_kl, cg_damping=0.1))
    assert metrics["accepted"] == 1.0
    after = params._replace(policy=moved)
    assert 0.0 < losses.kl(after, batch) <= max_kl
    assert losses.policy(after, batch)[0] < losses.policy(params, batch)[0]


@pytest.mark.parametrize("reason", ["nothing to gain", "every step worse"])
def test_a_failed_line_search_leaves_the_policy_bit_for_bit(problem: Any, reason: str) -> None:
    params, batch, losses = problem
    if reason == "nothing to gain":
        batch = batch.replace(advantage=jnp.zeros((1, N)))
    else:  # a loss whose value rises along its own negative gradient

        def policy(candidate: Params, batch: Batch) -> Any:
            theta = candidate.policy
            moved = jnp.sum((theta - params.policy) ** 2)
            return jnp.sum(theta) - jnp.sum(jax.lax.stop_gradient(theta)) + 1e9 * moved, {}

        losses = losses._replace(policy=policy)
    result, metrics = TrustRegion().policy_step(losses, params, batch, HP.replace(cg_damping=0.1))
    assert metrics["accepted"] == 0.0
    np.testing.assert_array_equal(result, params.policy)


def precisions(platform: str, function: Any, *arguments: Any) -> set[str]:
    """With what precision a program for ``platform``, which need not be here, asks for its products."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    found = re.findall(r"stablehlo\.dot_general .* precision = \[(\w+), (\w+)\]", text)
    assert len(found) == text.count("stablehlo.dot_general ") > 0
    return set(itertools.chain(*found))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_trpo_steps_the_policy_with_float32_products_and_nothing_else(platform: str, network: str) -> None:
    options = {"num_envs": 4, "num_steps": 4, "hidden": (4,), "minibatches": 1, "network": network}
    algo = jaxpg.trpo(jaxpg.make("CartPole-v1"), **options)
    state = jax.eval_shape(algo.init, jax.random.key(0))

    def collect(state: Any) -> Batch:
        key = jax.random.key(0)
        _, trajectory = algo.rollout(key, algo.env, state.env_params, algo.actor(state), state.loop, algo.num_steps)
        return algo.batch(state, trajectory, algo.hparams)

    def step(state: Any, batch: Batch) -> Any:
        return algo.update_rule.policy_step(algo.losses(state, state.hparams), state.params, batch, state.hparams)

    def fit(state: Any, batch: Batch) -> Any:
        critic, losses = algo.update_rule.critic, algo.losses(state, state.hparams)
        loss = lambda x, batch: losses.critic(state.params._replace(critic=x), batch)  # noqa: E731
        adam = critic.optimizer(state.hparams)
        return minimize(state.key, loss, adam, state.params.critic, state.opt_state, batch, critic.epochs, critic.minibatches)

    batch = jax.eval_shape(collect, state)
    assert precisions(platform, step, state, batch) == {"HIGHEST"}
    assert precisions(platform, collect, state) == precisions(platform, fit, state, batch) == {"DEFAULT"}
    with jax.default_matmul_precision("bfloat16"):  # what a user asks for is for the rest
        assert precisions(platform, step, state, batch) == {"HIGHEST"}


def test_the_pieces_of_trpo_have_float32_products_of_their_own() -> None:
    theta, rows = jnp.ones((DIM, ACTIONS)), jnp.ones((N, DIM))

    def kl(theta: jax.Array) -> jax.Array:
        return jnp.sum((rows @ theta) ** 2)

    assert precisions("cuda", lambda v: fisher_vector_product(kl, theta, v), jnp.ones(theta.size)) == {"HIGHEST"}
    assert precisions("cuda", lambda a, b: conjugate_gradients(lambda v: a @ v, b, 3), jnp.eye(4), jnp.ones(4)) == {"HIGHEST"}


def quadratic(params: jax.Array, batch: Batch) -> Any:
    """Linear in the data and the parameters: its gradient is the mean of the rows."""
    return params @ jnp.mean(batch.obs, axis=(0, 1)), {}


@pytest.mark.parametrize("minibatches", [1, 2, 3, 6])
def test_every_row_is_used_once_in_each_epoch(problem: Any, minibatches: int) -> None:
    _, batch, _ = problem
    start, epochs = jnp.zeros(DIM), 3
    end, _, metrics = minimize(
        jax.random.key(0), quadratic, optax.sgd(1.0), start, optax.sgd(1.0).init(start), batch, epochs, minibatches
    )
    np.testing.assert_allclose(end, -epochs * minibatches * np.mean(batch.obs, axis=(0, 1)), rtol=1e-12)
    assert metrics["grad_norm"] > 0


def test_rows_do_divide(problem: Any) -> None:
    _, batch, _ = problem
    with pytest.raises(ValueError, match="the 12 sequences of an update are not divisible by minibatches = 5"):
        minimize(jax.random.key(0), quadratic, optax.sgd(1.0), jnp.zeros(DIM), (), batch, 1, 5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_clipping_is_optax_s_by_global_norm_and_has_a_derivative_at_zero(scale: float) -> None:
    grads = {"a": scale * jnp.array([3.0, 4.0]), "b": scale * jnp.ones((2, 2))}
    ours, _ = optimizers.clip_norm(jnp.float32(0.5)).update(grads, optax.EmptyState())
    theirs, _ = optax.clip_by_global_norm(0.5).update(grads, optax.EmptyState())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    clip = lambda g: optimizers.clip_norm(jnp.float32(0.5)).update(g, optax.EmptyState())[0].sum()  # noqa: E731
    assert np.isfinite(jax.grad(clip)(jnp.zeros(3))).all()


def test_each_network_has_an_adam_of_its_own() -> None:
    hp = HParams(learning_rate=0.1, critic_learning_rate=0.01, max_grad_norm=0.5, adam_eps=1e-3)
    params = Params(jnp.array([1.0, 2.0]), jnp.array([3.0]))
    grads = Params(jnp.array([0.3, -0.1]), jnp.array([1e6]))  # a huge critic gradient must not touch the policy
    optimizer = optimizers.actor_critic_adam(hp)
    step, _ = optimizer.update(grads, optimizer.init(params), params)
    for rate, grad, got in ((0.1, grads.policy, step.policy), (0.01, grads.critic, step.critic)):
        alone = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-3))
        np.testing.assert_allclose(got, alone.update(grad, alone.init(grad))[0], rtol=1e-4)


def test_any_optax_optimizer_is_taken_as_it_is() -> None:
    env = jaxpg.make("CartPole-v1")
    rule = SGD(optimizer=lambda hp: optax.sgd(hp.learning_rate, momentum=0.9))
    algo = jaxpg.Algorithm(
        env,
        jaxpg.ppo(env).network,
        4,
        4,
        HParams(learning_rate=0.1, gamma=0.9, gae_lambda=0.9),
        update_rule=rule,
    )
    state = algo.init(jax.random.key(0))
    after, _ = jax.jit(algo.update)(state)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, after.params)
    assert all(0 < x < 10 for x in jax.tree.leaves(moved.critic))


def total_of(losses: Losses) -> Any:
    """The policy's loss with its KL among the metrics, as :class:`jaxpg.Algorithm` gives it."""
    return lambda params, batch: (losses.policy(params, batch)[0], {"kl": losses.kl(params, batch)})


def score_steps(theta: Any, batch: Batch, minibatches: np.ndarray) -> Any:
    """(KL before the step, gradient of the surrogate) along a list of minibatches, in NumPy; ``send`` it each new theta."""

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    obs, action, advantage = (np.asarray(x[0]) for x in (batch.obs, batch.action, batch.advantage))
    old = log_softmax(obs @ np.asarray(theta))
    for rows in minibatches:
        new = log_softmax(obs[rows] @ theta)
        kl = (np.exp(old[rows]) * (old[rows] - new)).sum(-1).mean()
        taken = np.eye(ACTIONS)[action[rows]]
        ratio = np.exp(((new - old[rows]) * taken).sum(-1))
        gradient = -obs[rows].T @ ((ratio * advantage[rows])[:, None] * (taken - np.exp(new))) / len(rows)
        theta = yield kl, gradient


def minibatches_of(key: jax.Array, epochs: int, minibatches: int) -> np.ndarray:
    """The rows of each step."""
    return np.asarray(permutations(key, epochs, N)).reshape(epochs * minibatches, N // minibatches)


@pytest.mark.parametrize("target_kl", [1e-9, 3e-3, 0.02, 1e3])
def test_from_the_first_minibatch_above_the_target_kl_nothing_changes(problem: Any, target_kl: float) -> None:
    """Against a loop in NumPy that breaks; and bit for bit the optimiser's state after as many steps without a target."""
    params, batch, losses = problem
    key, rate, epochs, parts = jax.random.key(0), 0.5, 4, 3
    theta, velocity, taken = np.asarray(params.policy), 0.0, 0
    steps = score_steps(theta, batch, minibatches_of(key, epochs, parts))
    kl, gradient = next(steps)
    for _ in range(epochs * parts):
        if kl > target_kl:
            break
        velocity = gradient + 0.9 * velocity
        theta, taken = theta - rate * velocity, taken + 1
        try:
            kl, gradient = steps.send(theta)
        except StopIteration:
            break
    hp = HParams(learning_rate=rate, target_kl=target_kl)
    rule = SGD(epochs, parts, lambda hp: optax.sgd(hp.learning_rate, momentum=0.9), above_target_kl)
    given_losses = losses._replace(total=total_of(losses))
    after, opt_state, metrics = rule.update(key, given_losses, params, rule.init(params, hp), batch, hp)
    np.testing.assert_allclose(after.policy, theta, rtol=1e-9)
    np.testing.assert_allclose(metrics["stopped"], 1.0 - taken / 12, rtol=1e-12)
    assert set(metrics) == {"grad_norm", "stopped"}
    if target_kl == 1e3:
        assert taken == 12
        free, free_state, _ = dataclasses.replace(rule, stop=None).update(
            key, given_losses, params, rule.init(params, hp), batch, hp
        )
        jax.tree.map(np.testing.assert_array_equal, (after, opt_state), (free, free_state))
    elif target_kl > 1e-8:
        assert 1 < taken < 12
    still = rule.update(jax.random.key(1), given_losses, after, opt_state, batch, hp.replace(target_kl=1e-12))
    jax.tree.map(np.testing.assert_array_equal, still[:2], (after, opt_state))


def rsl_rl_rate(rate: float, kl: float, desired: float) -> float:
    """The rule as rsl_rl documents it."""
    if kl > 2.0 * desired:
        return max(1e-5, rate / 1.5)
    if 0.0 < kl < desired / 2.0:
        return min(1e-2, rate * 1.5)
    return rate


@pytest.mark.parametrize("rate", [1e-3, 1.2e-5, 8e-3])
def test_the_learning_rate_follows_the_kl_as_in_rsl_rl(rate: float, x64: None) -> None:
    hp = HParams(learning_rate=rate, desired_kl=0.01)
    optimizer = optimizers.KLAdaptive(lambda hp: optax.sgd(hp.learning_rate))(hp)
    state, expected = optimizer.init(jnp.zeros(2)), rate
    kls = [0.03, 0.0201, 0.03, 0.01, 0.0, -1e-9, 0.02, 0.005, *[0.001] * 12, 0.0049, np.nan, *[1.0] * 20, 0.004]
    for kl in kls:
        step, state = optimizer.update(jnp.array([1.0, -2.0]), state, kl=jnp.float64(kl))
        expected = rsl_rl_rate(expected, kl, 0.01)
        np.testing.assert_allclose(step, [-expected, 2.0 * expected], rtol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 1e-7, 0.3])
def test_a_rate_out_of_the_bounds_stays_and_has_finite_gradients(rate: float) -> None:
    """As annealing makes it; a step into the bounds is taken."""

    def step(rate: Any, kl: float) -> Any:
        optimizer = optimizers.KLAdaptive(lambda hp: optax.sgd(hp.learning_rate))(HParams(learning_rate=rate, desired_kl=0.01))
        return -optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())), kl=jnp.float32(kl))[0]

    for kl, factor in ((1.0, 1.0 if rate < 1e-5 else 1 / 1.5), (1e-3, 1.5 if rate < 1e-5 else 1.0)):
        value, slope = jax.value_and_grad(step)(jnp.float32(rate), kl)
        np.testing.assert_allclose(value, rate * factor, rtol=1e-6)
        assert np.isfinite(slope)


def test_only_the_rate_of_the_policy_follows_the_kl(problem: Any) -> None:
    params, batch, losses = problem
    key, hp = jax.random.key(0), HParams(learning_rate=1e-3, critic_learning_rate=1e-3, adam_eps=1e-5, desired_kl=1e-7)
    policy, critic = optimizers.Adam(is_clipped=False), optimizers.Adam("critic_learning_rate", is_clipped=False)
    both = losses._replace(
        total=lambda p, b: (losses.policy(p, b)[0] + jnp.sum((p.critic - 1.0) ** 2), {"kl": losses.kl(p, b)})
    )

    def train(optimizer: Any) -> Any:
        rule = SGD(4, 3, optimizer)
        return rule.update(key, both, params, rule.init(params, hp), batch, hp)

    (one, state, _), (two, _, _) = (
        train(optimizers.ForEach(optimizers.KLAdaptive(policy), critic)),
        train(optimizers.ForEach(policy, critic)),
    )
    np.testing.assert_array_equal(one.critic, two.critic)
    assert np.abs(one.policy - two.policy).max() > 1e-5
    assert 1e-2 <= state.policy.scale < 0.2  # 1e-5 / 1e-3 at least


def test_an_optimizer_that_needs_the_kl_says_so_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="kl is None, but KLAdaptive needs it"):
        optimizers.KLAdaptive(optimizers.adam)(
            HParams(learning_rate=1.0, max_grad_norm=1.0, adam_eps=1.0, desired_kl=1.0)
        ).update(jnp.ones(2), None, kl=None)


def test_without_clipping_a_gradient_may_be_of_any_length() -> None:
    hp = HParams(learning_rate=0.1, adam_eps=1e-3)
    grads = {"a": jnp.array([3e3, 0.1]), "b": jnp.zeros(2)}
    optimizer = optimizers.Adam(is_clipped=False)(hp)
    step, _ = optimizer.update(grads, optimizer.init(grads))
    expected, _ = optax.adam(0.1, eps=1e-3).update(grads, optax.adam(0.1).init(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), step, expected)


def test_an_optimizer_that_wants_the_loss_is_given_it(problem: Any) -> None:
    """optax's reduction on a plateau, against the same steps by hand."""
    params, batch, losses = problem
    plateau = optax.contrib.reduce_on_plateau(patience=1, factor=0.5, rtol=0.5)
    key, hp = jax.random.key(0), HParams(learning_rate=0.1)
    rule = SGD(5, 2, lambda hp: optax.chain(optax.sgd(hp.learning_rate), plateau))
    after, state, _ = rule.update(key, losses._replace(total=total_of(losses)), params, rule.init(params, hp), batch, hp)
    by_hand, optimizer = params, optax.chain(optax.sgd(0.1), plateau)
    hand_state = optimizer.init(by_hand)
    for rows in minibatches_of(key, 5, 2):
        part = jax.tree.map(lambda x: x[:, rows], batch)  # noqa: B023
        value, grads = jax.value_and_grad(lambda p: losses.policy(p, part)[0])(by_hand)  # noqa: B023
        moves, hand_state = optimizer.update(grads, hand_state, by_hand, value=value)
        by_hand = optax.apply_updates(by_hand, moves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), (after, state), (by_hand, hand_state))
    assert float(state[1].scale) < 1.0


def test_reduction_on_a_plateau_works_in_an_algorithm() -> None:
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(4,))
    algo = dataclasses.replace(
        algo,
        hparams=algo.hparams.replace(critic_learning_rate=None, max_grad_norm=None, adam_eps=None),
        update_rule=SGD(optimizer=lambda hp: optax.chain(optax.adam(hp.learning_rate), optax.contrib.reduce_on_plateau())),
    )
    state = algo.init(jax.random.key(0))
    after, metrics = jax.jit(algo.update)(state)
    assert float(after.opt_state[1].best_value) == pytest.approx(
        float(metrics["policy_loss"] + metrics["critic_loss"]), rel=1e-5
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
