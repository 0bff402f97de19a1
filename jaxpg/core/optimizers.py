"""Optimisers: functions of the hyperparameters to an optax transformation, rebuilt in every trace and never stored."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxpg.core.hparams import HParams
from jaxpg.core.types import Array, Optimizer, Params, PyTree


def flattened(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """``inner`` on all parameters as one vector: few large operations in place of many small ones."""

    def init(params: PyTree) -> PyTree:
        return inner.init(ravel_pytree(params)[0])

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        flat, unravel = ravel_pytree(updates)
        moves, state = inner.update(flat, state, None if params is None else ravel_pytree(params)[0], **extra)
        return unravel(jnp.asarray(moves)), state

    inner = optax.with_extra_args_support(inner)
    return optax.GradientTransformationExtraArgs(init, update)


def clip_norm(max_norm: Array) -> optax.GradientTransformation:
    """g * min(1, max_norm / |g|), smooth at g = 0, where ``optax.clip_by_global_norm`` has no derivative.

    A gradient whose squares overflow (from 1e19 in float32) counts as infinitely long: what is left of it is 0.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        scale = jnp.minimum(1.0, max_norm / jnp.sqrt(optax.tree.norm(updates, squared=True) + 1e-16))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam on a gradient no longer than ``max_grad_norm``; one for all parameters it is given [Kingma & Ba 2015].

    A gradient of zero has finite hyperparameter gradients too. ``adam_eps`` is 1e-5 by default, as in CleanRL and in
    Stable-Baselines3; brax has optax's 1e-8. ``max_grad_norm`` is 0.5, as in the first two; brax has none.

    Args:
        learning_rate: The name of the hyperparameter that is the step size.
        is_clipped: False: gradients of any length, and ``max_grad_norm`` is not read.
    """

    learning_rate: str = "learning_rate"
    is_clipped: bool = True

    @property
    def reads(self) -> tuple[str, ...]:
        """The step size, Adam's epsilon, and the longest gradient where there is one."""
        return (self.learning_rate, "adam_eps", *["max_grad_norm"] * self.is_clipped)

    def __call__(self, hp: HParams) -> optax.GradientTransformation:
        steps = optax.adam(getattr(hp, self.learning_rate), eps=hp.adam_eps, eps_root=1e-12)
        return flattened(optax.chain(clip_norm(hp.max_grad_norm), steps) if self.is_clipped else steps)


@dataclasses.dataclass(frozen=True)
class ForEach:
    """An optimiser for each network of :class:`Params`: neither loss scales down the other's gradient.

    That is why there is no value-loss coefficient: under Adam and a norm of its own, it would do nothing.
    """

    policy: Optimizer
    critic: Optimizer

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What either reads; ``None`` (anything) where one of them does not say."""
        policy, critic = (getattr(part, "reads", None) for part in (self.policy, self.critic))
        return None if policy is None or critic is None else (*policy, *critic)

    def __call__(self, hp: HParams) -> optax.GradientTransformation:
        parts = Params(*(optax.with_extra_args_support(part(hp)) for part in (self.policy, self.critic)))

        def init(params: PyTree) -> PyTree:
            return Params(*(part.init(p) for part, p in zip(parts, params, strict=True)))

        def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
            pairs = [part.update(g, s, None, **extra) for part, g, s in zip(parts, updates, state, strict=True)]
            return Params(*(g for g, _ in pairs)), Params(*(s for _, s in pairs))

        return optax.GradientTransformationExtraArgs(init, update)


adam = Adam()
critic_adam = Adam("critic_learning_rate")
actor_critic_adam = ForEach(adam, critic_adam)


class KLAdaptiveState(NamedTuple):
    """The factor of the step size, and the state of the inner optimiser."""

    scale: Array
    inner: PyTree


@dataclasses.dataclass(frozen=True)
class KLAdaptive:
    """Another optimiser whose step size follows KL(pi_old || pi), measured on each minibatch before its step.

        rate = max(1e-5, rate / 1.5) where KL > 2 desired_kl,  min(1e-2, 1.5 rate) where 0 < KL < desired_kl / 2

    This is rsl_rl's rule, bounds included; there it is on by default, at ``desired_kl`` = 0.01. rl_games and skrl have the same
    factors, and brax an option like it. Off by default here; CleanRL and Stable-Baselines3 have none. The KL is exact. What is
    kept is a factor of ``learning_rate``, so that annealing and warming up still work on that; a rate that they have taken out
    of the bounds stays as it is.

    Args:
        optimizer: One whose steps are proportional to ``learning_rate``. In :class:`ForEach` it is the policy's alone: the KL
            says nothing about the critic.
    """

    optimizer: Optimizer

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The KL to keep, the step size, and what the inner optimiser reads."""
        inner = getattr(self.optimizer, "reads", None)
        return None if inner is None else (*inner, "learning_rate", "desired_kl")

    def __call__(self, hp: HParams) -> optax.GradientTransformation:
        inner = optax.with_extra_args_support(self.optimizer(hp))

        def init(params: PyTree) -> KLAdaptiveState:
            return KLAdaptiveState(jnp.ones((), float), inner.init(params))

        def update(
            updates: PyTree, state: Any, params: PyTree = None, *, kl: Any = None, **extra: Any
        ) -> tuple[PyTree, KLAdaptiveState]:
            if kl is None:
                raise ValueError("kl is None, but KLAdaptive needs it; use it in SGD, whose loss measures it")
            scale = adapt_scale(state.scale, hp.learning_rate, kl, hp.desired_kl)
            moves, after = inner.update(updates, state.inner, params, kl=kl, **extra)
            return jax.tree.map(lambda x: scale * x, moves), KLAdaptiveState(scale, after)

        return optax.GradientTransformationExtraArgs(init, update)


def adapt_scale(scale: Array, learning_rate: Array, kl: Array, desired_kl: Array) -> Array:
    """The factor of ``learning_rate`` after one step of :class:`KLAdaptive`'s rule."""
    rate = scale * learning_rate
    lower = jnp.maximum(rate / 1.5, jnp.minimum(rate, 1e-5))
    higher = jnp.minimum(rate * 1.5, jnp.maximum(rate, 1e-2))
    new = jnp.where(kl > 2.0 * desired_kl, lower, jnp.where((kl > 0.0) & (kl < 0.5 * desired_kl), higher, rate))
    return scale * jnp.where(rate > 0.0, new / jnp.where(rate > 0.0, rate, 1.0), 1.0)


def global_norm(grads: PyTree) -> Array:
    """|g|, from the vectors that :func:`flattened` makes, so that XLA computes them and their squares once."""
    parts = grads if isinstance(grads, Params) else (grads,)
    return jnp.sqrt(sum(optax.tree.norm(ravel_pytree(part)[0], squared=True) for part in parts))
