"""Optimisers: from hyperparameters to an optax transformation, which is rebuilt in every trace and never stored."""

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
    """g min(1, max_norm / |g|): gradient clipping that is differentiable at g = 0, where ``optax.clip_by_global_norm`` is not.

    A gradient whose squares overflow (from 1e19 in float32) counts as infinitely long: it becomes 0.

    Args:
        max_norm: The longest gradient, above 0; may be traced.

    Returns:
        An optax transformation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import updates
        >>> clip = updates.clip_norm(1.0)
        >>> gradient, _ = clip.update(jnp.array([3.0, 4.0]), clip.init(jnp.zeros(2)))
        >>> [f"{g:.2f}" for g in gradient]
        ['0.60', '0.80']
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        scale = jnp.minimum(1.0, max_norm / jnp.sqrt(optax.tree.norm(updates, squared=True) + 1e-16))
        return jax.tree.map(lambda g: g * scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with gradient clipping at ``max_grad_norm``, on all the parameters that it is given.

    Derivatives with respect to hyperparameters are finite also for a gradient of zero. The presets have ``adam_eps`` = 1e-5, as
    in CleanRL and Stable-Baselines3 (Brax has optax's 1e-8), and ``max_grad_norm`` = 0.5, as in the first two (Brax has none).

    Args:
        learning_rate: The name of the hyperparameter that is the step size.
        is_clipped: False: gradients of any length, and ``max_grad_norm`` is not read.

    Source: Kingma & Ba 2015.

    Examples:
        >>> from jaxpg import updates
        >>> updates.Adam("critic_learning_rate", is_clipped=False).reads
        ('critic_learning_rate', 'adam_eps')
    """

    learning_rate: str = "learning_rate"
    is_clipped: bool = True

    @property
    def reads(self) -> tuple[str, ...]:
        """The step size, ``adam_eps``, and ``max_grad_norm`` where gradients are clipped."""
        return (self.learning_rate, "adam_eps", *["max_grad_norm"] * self.is_clipped)

    def __call__(self, hp: HParams) -> optax.GradientTransformation:
        steps = optax.adam(getattr(hp, self.learning_rate), eps=hp.adam_eps, eps_root=1e-12)
        return flattened(optax.chain(clip_norm(hp.max_grad_norm), steps) if self.is_clipped else steps)


@dataclasses.dataclass(frozen=True)
class ForEach:
    """One optimiser for each network of ``jaxpg.types.Params``, so that neither loss scales down the other's gradient.

    For this reason there is no coefficient between the losses: under Adam with gradient clipping of its own, it would change
    nothing.

    Args:
        policy: The policy's optimiser.
        critic: The critic's optimiser.

    Examples:
        >>> from jaxpg import updates
        >>> pair = updates.ForEach(updates.adam, updates.Adam("critic_learning_rate", is_clipped=False))
        >>> pair.reads
        ('learning_rate', 'adam_eps', 'max_grad_norm', 'critic_learning_rate', 'adam_eps')
    """

    policy: Optimizer
    critic: Optimizer

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The hyperparameters that either reads; ``None`` (any) where one of them does not say."""
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
"""Adam with the policy's step size, ``learning_rate``."""

critic_adam = Adam("critic_learning_rate")
"""Adam with the critic's step size, ``critic_learning_rate``."""

actor_critic_adam = ForEach(adam, critic_adam)
"""Both, each for its own network: the default of ``jaxpg.SGD``."""


class KLAdaptiveState(NamedTuple):
    """The factor of the step size, and the state of the inner optimiser."""

    scale: Array
    inner: PyTree


@dataclasses.dataclass(frozen=True)
class KLAdaptive:
    """Another optimiser whose step size follows KL(pi_old || pi), measured on each minibatch before its step.

        rate = max(1e-5, rate / 1.5)  where KL > 2 desired_kl
        rate = min(1e-2, rate * 1.5)  where 0 < KL < desired_kl / 2

    This is the rule of rsl_rl, with its bounds; there it is on by default, at ``desired_kl`` = 0.01. rl_games and skrl use the
    same factors, and Brax has a similar option. It is off by default here; CleanRL and Stable-Baselines3 have none. The KL is
    exact. The state holds a factor of ``learning_rate``, so that annealing and warm-up still act on that; a rate that they have
    taken out of the bounds stays as it is.

    Args:
        optimizer: An optimiser whose steps are proportional to ``learning_rate``. In ``ForEach`` use it for the policy alone:
            the KL says nothing about the critic.

    Examples:
        >>> from jaxpg import updates
        >>> updates.KLAdaptive(updates.adam).reads
        ('learning_rate', 'adam_eps', 'max_grad_norm', 'learning_rate', 'desired_kl')
    """

    optimizer: Optimizer

    @property
    def reads(self) -> tuple[str, ...] | None:
        """``desired_kl``, ``learning_rate``, and the hyperparameters that the inner optimiser reads."""
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
    """The factor of ``learning_rate`` after one step of ``KLAdaptive``'s rule."""
    rate = scale * learning_rate
    lower = jnp.maximum(rate / 1.5, jnp.minimum(rate, 1e-5))
    higher = jnp.minimum(rate * 1.5, jnp.maximum(rate, 1e-2))
    new = jnp.where(kl > 2.0 * desired_kl, lower, jnp.where((kl > 0.0) & (kl < 0.5 * desired_kl), higher, rate))
    return scale * jnp.where(rate > 0.0, new / jnp.where(rate > 0.0, rate, 1.0), 1.0)


def global_norm(grads: PyTree) -> Array:
    """|g|, from the vectors that ``flattened`` makes, so that XLA computes them and their squares once."""
    parts = grads if isinstance(grads, Params) else (grads,)
    return jnp.sqrt(sum(optax.tree.norm(ravel_pytree(part)[0], squared=True) for part in parts))
