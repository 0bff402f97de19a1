"""Update rules: how losses move parameters. Frozen and hashable; every array they keep is in ``opt_state``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxpg.core._shuffle import permutations
from jaxpg.core.hparams import HParams, reads
from jaxpg.core.types import Array, Batch, Losses, Metrics, Optimizer, Params, PyTree

Loss = Callable[[PyTree, Batch], tuple[Array, Metrics]]


def clipped_adam(learning_rate: Array, max_grad_norm: Array) -> optax.GradientTransformation:
    """Adam on a gradient no longer than ``max_grad_norm``. A gradient of zero has finite hyperparameter gradients too."""
    return flattened(optax.chain(clip_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5, eps_root=1e-12)))


def flattened(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """``inner`` on all parameters as one vector: few large operations in place of many small ones."""

    def init(params: PyTree) -> PyTree:
        return inner.init(ravel_pytree(params)[0])

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        flat, unravel = ravel_pytree(updates)
        moves, state = inner.update(flat, state, None if params is None else ravel_pytree(params)[0])
        return unravel(jnp.asarray(moves)), state

    return optax.GradientTransformation(init, update)


def clip_norm(max_norm: Array) -> optax.GradientTransformation:
    """g * min(1, max_norm / |g|), smooth at g = 0, where ``optax.clip_by_global_norm`` has no derivative.

    A gradient whose squares overflow (from 1e19 in float32) counts as infinitely long: what is left of it is 0.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        scale = jnp.minimum(1.0, max_norm / jnp.sqrt(optax.tree.norm(updates, squared=True) + 1e-16))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@reads("learning_rate", "max_grad_norm")
def adam(hp: HParams) -> optax.GradientTransformation:
    """One clipped Adam over all parameters it is given."""
    return clipped_adam(hp.learning_rate, hp.max_grad_norm)


@reads("critic_learning_rate", "max_grad_norm")
def critic_adam(hp: HParams) -> optax.GradientTransformation:
    """A clipped Adam with the critic's learning rate."""
    return clipped_adam(hp.critic_learning_rate, hp.max_grad_norm)


@reads("learning_rate", "critic_learning_rate", "max_grad_norm")
def actor_critic_adam(hp: HParams) -> optax.GradientTransformation:
    """A clipped Adam for each network of :class:`Params`: neither loss scales down the other's gradient.

    That is why there is no value-loss coefficient: under Adam and a norm of its own, it would do nothing.
    """
    parts = Params(adam(hp), critic_adam(hp))

    def init(params: PyTree) -> PyTree:
        return Params(*(part.init(p) for part, p in zip(parts, params, strict=True)))

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        pairs = [part.update(g, s) for part, g, s in zip(parts, updates, state, strict=True)]
        return Params(*(g for g, _ in pairs)), Params(*(s for _, s in pairs))

    return optax.GradientTransformation(init, update)


def length(grads: PyTree) -> Array:
    """|g|, from the vectors that :func:`flattened` makes, so that XLA computes them and their squares once."""
    parts = grads if isinstance(grads, Params) else (grads,)
    return jnp.sqrt(sum(optax.tree.norm(ravel_pytree(part)[0], squared=True) for part in parts))


def minimize(
    key: Array,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    opt_state: PyTree,
    batch: Batch,
    epochs: int,
    minibatches: int,
) -> tuple[PyTree, PyTree, Metrics]:
    """``epochs`` passes over the batch, a new permutation each, one optimiser step per minibatch: one scan.

    Metrics are means over the steps; ``grad_norm`` is that before clipping.
    """
    n = batch.advantage.shape[0]
    if n % minibatches:
        raise ValueError(f"num_envs * num_steps = {n} is not divisible by minibatches = {minibatches}")

    def step(carry: tuple[PyTree, PyTree], rows: Array | None) -> tuple[tuple[PyTree, PyTree], Metrics]:
        params, opt_state = carry
        part = batch if rows is None else jax.tree.map(lambda x: x[rows], batch)
        grads, metrics = jax.grad(loss, has_aux=True)(params, part)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), metrics | {"grad_norm": length(grads)}

    steps = epochs * minibatches
    rows = None if minibatches == 1 else permutations(key, epochs, n).reshape(steps, n // minibatches)  # else in any order
    (params, opt_state), metrics = jax.lax.scan(step, (params, opt_state), rows, length=steps)
    return params, opt_state, jax.tree.map(jnp.mean, metrics)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient steps on the total loss: ``epochs`` passes over the data in ``minibatches`` parts each.

    ``optimizer(hp)`` gives any optax transformation over :class:`Params`; it is rebuilt in every trace, so that its step size
    stays a traced number.
    """

    epochs: int = 1
    minibatches: int = 1
    optimizer: Optimizer = actor_critic_adam

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}; at least 1 is needed")

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What the optimiser reads."""
        return getattr(self.optimizer, "reads", None)

    def init(self, params: Params, hp: HParams) -> PyTree:
        """The optimiser's state."""
        return self.optimizer(hp).init(params)

    def update(
        self, key: Array, losses: Losses, params: Params, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[Params, PyTree, Metrics]:
        """All epochs."""
        return minimize(key, losses.total, self.optimizer(hp), params, opt_state, batch, self.epochs, self.minibatches)


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """max surrogate subject to mean KL(pi_old || pi) <= max_kl: a natural gradient step and a line search; the critic by SGD.

    The direction x solves (F + damping I) x = g with ``cg_iterations`` of conjugate gradients; F v is a Hessian-vector product
    of the KL. The longest step that the quadratic model allows is halved up to ``backtracks - 1`` times until it improves the
    surrogate and keeps the KL; if none does, the policy stays as it is, bit for bit [Schulman et al. 2015, appendix C].
    """

    cg_iterations: int = 10
    backtracks: int = 10
    critic: SGD = SGD(optimizer=critic_adam)

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The trust region's own, and what the critic's optimiser reads."""
        inner = self.critic.reads
        return None if inner is None else ("max_kl", "cg_damping", *inner)

    @property
    def minibatches(self) -> int:
        """Into how many parts the rows must divide."""
        return self.critic.minibatches

    def init(self, params: Params, hp: HParams) -> PyTree:
        """The state of the critic's optimiser."""
        return self.critic.optimizer(hp).init(params.critic)

    def update(
        self, key: Array, losses: Losses, params: Params, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[Params, PyTree, Metrics]:
        """One policy step, then the critic's epochs. ``accepted`` is 1 where the line search found a step."""
        policy, policy_metrics = self.policy_step(losses, params.policy, batch, hp)
        critic, opt_state, metrics = minimize(
            key,
            losses.critic,
            self.critic.optimizer(hp),
            params.critic,
            opt_state,
            batch,
            self.critic.epochs,
            self.critic.minibatches,
        )
        return Params(policy, critic), opt_state, metrics | policy_metrics

    def policy_step(self, losses: Losses, policy: PyTree, batch: Batch, hp: HParams) -> tuple[PyTree, Metrics]:
        """The constrained step from ``policy``."""
        (loss, metrics), grads = jax.value_and_grad(losses.policy, has_aux=True)(policy, batch)
        g, unravel = ravel_pytree(grads)
        flat, _ = ravel_pytree(policy)

        def damped_fisher(v: Array) -> Array:
            return fisher_vector_product(losses.kl, policy, batch, v) + hp.cg_damping * v

        x = conjugate_gradients(damped_fisher, -g, self.cg_iterations)
        length = jnp.sqrt(2.0 * hp.max_kl / jnp.maximum(jnp.vdot(x, damped_fisher(x)), 1e-12))

        def attempt(carry: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], None]:
            best, accepted = carry
            candidate = flat + length * 0.5**k * x
            new_loss, kl = losses.policy(unravel(candidate), batch)[0], losses.kl(unravel(candidate), batch)
            good = (new_loss < loss) & (kl <= hp.max_kl) & ~accepted
            return (jnp.where(good, candidate, best), accepted | good), None

        (flat, accepted), _ = jax.lax.scan(attempt, (flat, jnp.array(False)), jnp.arange(self.backtracks))
        return unravel(flat), metrics | {"accepted": accepted.astype(loss.dtype), "grad_norm": jnp.linalg.norm(g)}


def fisher_vector_product(kl: Callable[[PyTree, Batch], Array], policy: PyTree, batch: Batch, v: Array) -> Array:
    """F v, flat: the Hessian of KL(pi_old || pi) at pi_old is the Fisher matrix [Schulman et al. 2015, appendix C.1]."""
    flat, unravel = ravel_pytree(policy)
    gradient = jax.grad(lambda theta: kl(unravel(theta), batch))
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

    return jax.lax.scan(iterate, (jnp.zeros_like(b), b, b, jnp.vdot(b, b)), length=iterations)[0][0]
