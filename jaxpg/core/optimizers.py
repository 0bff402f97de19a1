"""Optimisers: functions of the hyperparameters to an optax transformation, rebuilt in every trace and never stored."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxpg.core.hparams import HParams, reads
from jaxpg.core.types import Array, Params, PyTree


def clipped_adam(learning_rate: Array, max_grad_norm: Array) -> optax.GradientTransformation:
    """Adam on a gradient no longer than ``max_grad_norm``. A gradient of zero has finite hyperparameter gradients too."""
    return flattened(optax.chain(clip_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5, eps_root=1e-12)))


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
    parts = Params(*map(optax.with_extra_args_support, (adam(hp), critic_adam(hp))))

    def init(params: PyTree) -> PyTree:
        return Params(*(part.init(p) for part, p in zip(parts, params, strict=True)))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        pairs = [part.update(g, s, None, **extra) for part, g, s in zip(parts, updates, state, strict=True)]
        return Params(*(g for g, _ in pairs)), Params(*(s for _, s in pairs))

    return optax.GradientTransformationExtraArgs(init, update)


def global_norm(grads: PyTree) -> Array:
    """|g|, from the vectors that :func:`flattened` makes, so that XLA computes them and their squares once."""
    parts = grads if isinstance(grads, Params) else (grads,)
    return jnp.sqrt(sum(optax.tree.norm(ravel_pytree(part)[0], squared=True) for part in parts))
