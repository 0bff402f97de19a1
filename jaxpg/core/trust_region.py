"""TRPO's update rule: a natural gradient step and a line search for the policy, gradient steps for the critic."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxpg.core.hparams import HParams
from jaxpg.core.optimizers import critic_adam
from jaxpg.core.sgd import SGD, minimize
from jaxpg.core.types import Array, Batch, Losses, Metrics, Params, PyTree


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """max surrogate subject to mean KL(pi_old || pi) <= max_kl: TRPO's policy step; the critic is trained by gradient descent.

    The policy's direction x solves (F + damping I) x = g by conjugate gradients, with Hessian-vector products of the KL for F
    v. A line search begins with the longest step that the quadratic model allows and halves it until the surrogate improves and
    the KL constraint holds. If no step does, the policy stays as it is, bit for bit; the metric ``accepted`` is then 0.

    All products of the policy's step are computed in float32, those of your own network too, also where a GPU's default is TF32
    and a TPU's is bfloat16: conjugate gradients amplify rounding errors, and the line search compares numbers that hardly
    differ. The critic's steps use the default precision.

    Args:
        cg_iterations: Iterations of conjugate gradients.
        backtracks: Steps that the line search tries, each half of the one before.
        critic: How the critic is trained.

    Raises:
        ValueError: In ``init``, for a network that policy and critic share: the constraint is on the policy alone.

    Source: Schulman et al. 2015, appendix C.

    Examples:
        >>> import dataclasses
        >>> import jaxpg
        >>> algo = jaxpg.trpo(jaxpg.make("CartPole-v1"))
        >>> rule = jaxpg.TrustRegion(cg_iterations=20, critic=algo.update_rule.critic)
        >>> dataclasses.replace(algo, update_rule=rule).update_rule.cg_iterations
        20
    """

    cg_iterations: int = 10
    backtracks: int = 10
    critic: SGD = SGD(optimizer=critic_adam)

    @property
    def reads(self) -> tuple[str, ...] | None:
        """``max_kl``, ``cg_damping``, and the hyperparameters that the critic's optimiser reads."""
        inner = self.critic.reads
        return None if inner is None else ("max_kl", "cg_damping", *inner)

    @property
    def minibatches(self) -> int:
        """The number of parts into which the critic's minibatches divide the rows."""
        return self.critic.minibatches

    def init(self, params: PyTree, hp: HParams) -> PyTree:
        """The state of the critic's optimiser; a ``ValueError`` for a network that policy and critic share."""
        if not isinstance(params, Params):
            fix = "the constraint is on the policy's parameters alone: use jaxpg.Separate(policy, critic)"
            raise ValueError(f"TrustRegion (TRPO) takes no shared network; {fix}")
        return self.critic.optimizer(hp).init(params.critic)

    def update(
        self, key: Array, losses: Losses, params: Params, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[Params, PyTree, Metrics]:
        """One policy step, then the critic's epochs. The metric ``accepted`` is 1 where the line search found a step."""
        policy, policy_metrics = self.policy_step(losses, params, batch, hp)
        critic, opt_state, metrics = minimize(
            key,
            lambda critic, batch: losses.critic(params._replace(critic=critic), batch),
            self.critic.optimizer(hp),
            params.critic,
            opt_state,
            batch,
            self.critic.epochs,
            self.critic.minibatches,
        )
        return Params(policy, critic), opt_state, metrics | policy_metrics

    def policy_step(self, losses: Losses, params: Params, batch: Batch, hp: HParams) -> tuple[PyTree, Metrics]:
        """The policy's parameters after the constrained step."""
        with exact_products():
            return self._policy_step(losses, params, batch, hp)

    def _policy_step(self, losses: Losses, params: Params, batch: Batch, hp: HParams) -> tuple[PyTree, Metrics]:
        def policy_loss(policy: PyTree) -> tuple[Array, Metrics]:
            return losses.policy(params._replace(policy=policy), batch)

        def kl(policy: PyTree) -> Array:
            return losses.kl(params._replace(policy=policy), batch)

        (loss, metrics), grads = jax.value_and_grad(policy_loss, has_aux=True)(params.policy)
        g, _ = ravel_pytree(grads)
        flat, unravel = ravel_pytree(params.policy)

        def damped_fisher(v: Array) -> Array:
            return fisher_vector_product(kl, params.policy, v) + hp.cg_damping * v

        x = conjugate_gradients(damped_fisher, -g, self.cg_iterations)
        length = jnp.sqrt(2.0 * hp.max_kl / jnp.maximum(jnp.vdot(x, damped_fisher(x)), 1e-12))

        def attempt(carry: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
            best, accepted = carry
            candidate = flat + length * 0.5**k * x
            policy = unravel(candidate)
            good = (policy_loss(policy)[0] < loss) & (kl(policy) <= hp.max_kl) & ~accepted
            return (jnp.where(good, candidate, best), accepted | good), None

        (flat, accepted), _ = jax.lax.scan(attempt, (flat, jnp.array(False)), jnp.arange(self.backtracks))
        return unravel(flat), metrics | {"accepted": accepted.astype(loss.dtype), "grad_norm": jnp.linalg.norm(g)}


def fisher_vector_product(kl: Callable[[PyTree], Array], policy: PyTree, v: Array) -> Array:
    """F v, flat: the Hessian of KL(pi_old || pi) at pi_old is the Fisher matrix [Schulman et al. 2015, appendix C.1]."""
    flat, unravel = ravel_pytree(policy)
    gradient = jax.grad(lambda theta: kl(unravel(theta)))
    with exact_products():
        return jax.jvp(gradient, (flat,), (v,))[1]


def conjugate_gradients(product: Callable[[Array], Array], b: Array, iterations: int) -> Array:
    """x with ``product(x) = b`` approximately, for a positive definite ``product`` [Hestenes & Stiefel 1952].

    A fixed number of iterations (those after convergence change nothing), so that it is differentiable and the rows of a vmap
    do not wait for each other.
    """

    def iterate(carry: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], None]:
        x, residual, direction, rho = carry
        image = product(direction)
        alpha = rho / jnp.maximum(jnp.vdot(direction, image), 1e-30)
        residual = residual - alpha * image
        new_rho = jnp.vdot(residual, residual)
        return (x + alpha * direction, residual, residual + new_rho / jnp.maximum(rho, 1e-30) * direction, new_rho), None

    with exact_products():
        return jax.lax.scan(iterate, (jnp.zeros_like(b), b, b, jnp.vdot(b, b)), length=iterations)[0][0]


def exact_products() -> contextlib.AbstractContextManager[None]:
    """Products that are traced inside have the precision of their numbers on every device."""
    return jax.default_matmul_precision("highest")
