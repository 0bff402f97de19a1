"""Update rules against things computed another way: exact Fisher matrices, linear solves, hand-made losses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg.core import optimizers
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.sgd import SGD, minimize
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


HP = HParams(max_kl=0.01, cg_damping=0.0, critic_learning_rate=0.1, max_grad_norm=1.0)


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
    hp = HParams(learning_rate=0.1, critic_learning_rate=0.01, max_grad_norm=0.5)
    params = Params(jnp.array([1.0, 2.0]), jnp.array([3.0]))
    grads = Params(jnp.array([0.3, -0.1]), jnp.array([1e6]))  # a huge critic gradient must not touch the policy
    optimizer = optimizers.actor_critic_adam(hp)
    step, _ = optimizer.update(grads, optimizer.init(params), params)
    for rate, grad, got in ((0.1, grads.policy, step.policy), (0.01, grads.critic, step.critic)):
        alone = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, eps=1e-5))
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
