"""Action distributions as pytrees: an action is ``dist.sample(dist.noise(key))``.

The noise does not depend on the parameters (the reparameterisation trick made general), so that a rollout draws all of
it in one call before its scan. Leaves carry leading batch axes; quantities are in nats.
"""

from __future__ import annotations

import math
from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from jaxpg.core.types import Array


class Categorical(struct.PyTreeNode):
    """pi(a) = softmax(logits)_a over ``A`` actions; logits ``[..., A]`` (``-inf`` forbids an action), actions int32 ``[...]``.

    >>> f"{Categorical(jnp.log(jnp.array([0.7, 0.3]))).log_prob(jnp.array(0)):.4f}"
    '-0.3567'
    """

    logits: Array

    def noise(self, key: Array) -> Array:
        """u ~ Uniform[0, 1): one number an action, ``[...]``."""
        return jax.random.uniform(key, self.logits.shape[:-1], self.logits.dtype)

    def sample(self, noise: Array) -> Array:
        """The inverse of the cumulative distribution at ``u``; an action of probability 0 is never drawn."""
        cumulative = jnp.cumsum(jax.nn.softmax(self.logits), axis=-1)
        return jnp.sum(cumulative <= noise[..., None] * cumulative[..., -1:], axis=-1, dtype=jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """log pi(a) = logits_a - log sum exp(logits)."""
        chosen = action[..., None] == jnp.arange(self.logits.shape[-1])
        return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(self.logits), 0.0), axis=-1)

    def entropy(self) -> Array:
        """H = -sum_a pi(a) log pi(a), between 0 and log A."""
        log_p = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * jnp.where(log_p > -jnp.inf, log_p, 0.0), axis=-1)

    def kl(self, other: Self) -> Array:
        """KL(pi || other) = sum_a pi(a) (log pi(a) - log other(a))."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        return jnp.sum(jnp.exp(log_p) * jnp.where(log_p > -jnp.inf, log_p - log_q, 0.0), axis=-1)

    def mode(self) -> Array:
        """The most probable action; the first of equals."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)


class DiagGaussian(struct.PyTreeNode):
    """N(mean, diag(exp(log_std))^2): leaves ``[..., D]``, actions float ``[..., D]``. Densities sum over the ``D`` dimensions.

    >>> f"{DiagGaussian(jnp.zeros(2), jnp.zeros(2)).log_prob(jnp.zeros(2)):.4f}"
    '-1.8379'
    """

    mean: Array
    log_std: Array

    def noise(self, key: Array) -> Array:
        """eps ~ N(0, I): ``[..., D]``."""
        return jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def sample(self, noise: Array) -> Array:
        """mean + exp(log_std) * eps, differentiable in the parameters."""
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob(self, action: Array) -> Array:
        """-(1/2) sum_d [((a - mean) / std)^2 + 2 log std + log 2 pi]."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -0.5 * jnp.sum(z**2 + 2 * self.log_std + math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Array:
        """sum_d [log std + (1/2) log(2 pi e)]; negative where the Gaussian is narrow."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: Self) -> Array:
        """sum_d [log(std'/std) + (std^2 + (mean - mean')^2) / (2 std'^2) - 1/2]."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return 0.5 * jnp.sum(ratio + distance - 1.0 - 2 * (self.log_std - other.log_std), axis=-1)

    def mode(self) -> Array:
        """The mean."""
        return self.mean
