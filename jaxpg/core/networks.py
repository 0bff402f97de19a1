"""Policy and critic networks (flax.linen). An observation may be any pytree; its leaves have one leading batch axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpg.core.distributions import Categorical, DiagGaussian
from jaxpg.core.types import Array, PyTree


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """A random matrix with orthonormal rows or columns (Haar), times ``scale`` [Saxe et al. 2014].

    The QR factorisation of the usual initialiser is a LAPACK call, and vmapped over seeds those calls deadlock XLA's CPU thread
    pool; :func:`orthonormal` needs matrix products only.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q = orthonormal(jax.random.normal(key, (min(rows, columns), max(rows, columns)), dtype))
        return scale * (q if rows <= columns else q.T).reshape(shape)

    return init


def orthonormal(x: Array) -> Array:
    """The rows of ``x``, each without its share in those before, at length 1: Gram and Schmidt. Haar, if ``x`` is normal.

    Every projection is done twice, which is enough for the precision of the numbers [Giraud et al. 2005].
    """

    def next_row(q: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        i, v = row
        for _ in range(2):
            v = v - jnp.matmul(jnp.matmul(q, v, precision="highest"), q, precision="highest")
        return q.at[i].set(v / jnp.linalg.norm(v)), None

    return jax.lax.scan(next_row, jnp.zeros_like(x), (jnp.arange(x.shape[0]), x))[0]


class MLP(nn.Module):
    """Dense layers ``hidden`` with ``activation`` between them, then a linear layer of ``features`` outputs: ``[N, features]``.

    >>> MLP(hidden=(8,), features=2).init_with_output(jax.random.key(0), jnp.zeros((3, 4)))[0].shape
    (3, 2)
    """

    features: int
    hidden: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        x = jnp.concatenate([jnp.reshape(x, (x.shape[0], -1)).astype(float) for x in jax.tree.leaves(obs)], axis=-1)
        for width in self.hidden:
            x = self.activation(nn.Dense(width, kernel_init=orthogonal(math.sqrt(2.0)), param_dtype=x.dtype)(x))
        return nn.Dense(self.features, kernel_init=orthogonal(self.output_scale), param_dtype=x.dtype)(x)


class CategoricalPolicy(nn.Module):
    """pi(.|s) = softmax(MLP(s)) over ``num_actions``; nearly uniform at the start.

    >>> CategoricalPolicy(2).init_with_output(jax.random.key(0), jnp.zeros((3, 4)))[0].logits.shape
    (3, 2)
    """

    num_actions: int
    hidden: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, obs: PyTree) -> Categorical:
        return Categorical(MLP(self.num_actions, self.hidden, output_scale=0.01)(obs))


class GaussianPolicy(nn.Module):
    """pi(.|s) = N(MLP(s), diag(exp(log_std))^2) over ``num_dims`` dimensions; log_std is a parameter, equal in all states."""

    num_dims: int
    hidden: tuple[int, ...] = (64, 64)
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, obs: PyTree) -> DiagGaussian:
        mean = MLP(self.num_dims, self.hidden, output_scale=0.01)(obs)
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (self.num_dims,), mean.dtype)
        return DiagGaussian(mean, jnp.broadcast_to(log_std, mean.shape))


class StateDependentGaussianPolicy(nn.Module):
    """pi(.|s) = N(mean(s), diag(std(s))^2): one MLP gives both. The log standard deviation stays within ``log_std_bounds``."""

    num_dims: int
    hidden: tuple[int, ...] = (64, 64)
    log_std_bounds: tuple[float, float] = (-5.0, 2.0)

    @nn.compact
    def __call__(self, obs: PyTree) -> DiagGaussian:
        mean, raw = jnp.split(MLP(2 * self.num_dims, self.hidden, output_scale=0.01)(obs), 2, axis=-1)
        low, high = self.log_std_bounds
        middle = math.atanh(-(low + high) / (high - low))  # a raw output of 0 is a log_std of 0
        return DiagGaussian(mean, low + 0.5 * (high - low) * (1.0 + jnp.tanh(raw + middle)))


class Critic(nn.Module):
    """v(s) = MLP(s): ``[N]``."""

    hidden: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        return MLP(1, self.hidden)(obs)[..., 0]


class ConstantCritic(nn.Module):
    """v(s) = b, one parameter: a running mean.

    A plain gradient step of 0.05 on half the squared error makes it 0.95 old + 0.05 new.
    """

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        b = self.param("b", nn.initializers.zeros, (), jnp.result_type(float))
        return jnp.broadcast_to(b, (jax.tree.leaves(obs)[0].shape[0],))


class NoCritic(nn.Module):
    """v(s) = 0, no parameters."""

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        return jnp.zeros(jax.tree.leaves(obs)[0].shape[0])
