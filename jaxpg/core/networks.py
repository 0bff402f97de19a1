"""Networks that ship with jaxpg (flax.linen): encoders and heads, of which policies and critics are made.

An encoder maps observations ``[N, ...]``, any pytree, to features ``[N, F]``; a head maps features to a distribution, a value
or both. ``Feedforward`` joins the two, ``jaxpg.networks.Recurrent`` puts memory between them. A module of your own, from
observations ``[N, ...]`` to a distribution or to values ``[N]``, is used in the same way.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxpg.core import spaces
from jaxpg.core.distributions import Beta, Bound, Categorical, DiagGaussian, Joint, MultiCategorical, TanhGaussian
from jaxpg.core.types import Array, Distribution, PyTree

ACTION_MASK = "action_mask"  # the key of an observation for the mask of legal actions, which heads read and encoders do not


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """An initialiser: a random matrix with orthonormal rows or columns (Haar distribution), times ``scale``.

    The usual initialiser calls LAPACK for a QR factorisation, and vmapped over seeds those calls deadlock XLA's CPU thread
    pool; this one needs matrix products only.

    Args:
        scale: Factor of the matrix.

    Returns:
        ``(key, shape, dtype) -> array``, as flax's layers take it.

    Source: Saxe et al. 2014.

    Examples:
        >>> import jax
        >>> from jaxpg import networks
        >>> w = networks.orthogonal()(jax.random.key(0), (3, 3))
        >>> round(float((w @ w.T).trace()), 3)
        3.0
    """

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        if math.prod(shape) == 0:  # no inputs at all
            return jnp.zeros(shape, dtype)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q = orthonormal(jax.random.normal(key, (min(rows, columns), max(rows, columns)), dtype))
        return scale * (q if rows <= columns else q.T).reshape(shape)

    return init


def orthonormal(x: Array) -> Array:
    """Orthonormalise the rows of ``x`` by Gram and Schmidt. The result has the Haar distribution if ``x`` is normal.

    Every projection is done twice, which is enough for the precision of the numbers [Giraud et al. 2005].
    """

    def next_row(q: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        i, v = row
        for _ in range(2):
            v = v - jnp.matmul(jnp.matmul(q, v, precision="highest"), q, precision="highest")
        return q.at[i].set(v / jnp.linalg.norm(v)), None

    return jax.lax.scan(next_row, jnp.zeros_like(x), (jnp.arange(x.shape[0]), x))[0]


class MLP(nn.Module):
    """Dense layers of widths ``hidden``, each followed by ``activation``: features ``[N, hidden[-1]]``.

    All leaves of an observation are flattened and concatenated. Weights are orthogonal at first, with scale sqrt(2).

    Attributes:
        hidden: Widths of the layers, by default (64, 64).
        activation: By default tanh.
        layer_norm: Layer normalisation before each activation, by default off.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import MLP
        >>> MLP(hidden=(8,)).init_with_output(jax.random.key(0), jnp.zeros((3, 4)))[0].shape
        (3, 8)
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: Callable[[Array], Array] = nn.tanh
    layer_norm: bool = False  # before each activation

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        x = concatenate(obs)
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=orthogonal(math.sqrt(2.0)), param_dtype=x.dtype)(x)
            x = nn.LayerNorm(param_dtype=x.dtype)(x) if self.layer_norm else x
            x = self.activation(x)
        return x


class Conv(nn.Module):
    """A convolution with a square ``kernel`` and zeros around the image: the numbers and parameters of ``flax.linen.Conv``.

    It is one product of all patches with the weights. XLA's own convolution is, inside a ``scan`` on a CPU, five times slower.
    """

    features: int
    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        weights = self.param("kernel", orthogonal(math.sqrt(2.0)), shape, x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), x.dtype)
        sizes = [-(-n // self.stride) for n in x.shape[1:3]]  # of the result
        spans = [(n - 1) * self.stride + 1 for n in sizes]
        missing = [max(span - 1 + self.kernel - n, 0) for span, n in zip(spans, x.shape[1:3], strict=True)]
        x = jnp.pad(x, [(0, 0), *[(n // 2, n - n // 2) for n in missing], (0, 0)])
        offsets = itertools.product(range(self.kernel), repeat=2)
        patches = [x[:, i : i + spans[0] : self.stride, j : j + spans[1] : self.stride] for i, j in offsets]
        return jnp.concatenate(patches, axis=-1) @ weights.reshape(math.prod(shape[:3]), self.features) + bias


class CNN(nn.Module):
    """Convolutions over images ``[N, H, W, C]``, then dense layers ``hidden``: features ``[N, hidden[-1]]``.

    Integer images are divided by 255; booleans become 0 and 1. The defaults suit the 10 x 10 images of MinAtar [Young & Tian
    2019]; ``CNN.nature()`` has the sizes of Mnih et al. (2015) for 84 x 84. Borders are padded, so images may have any size.

    Attributes:
        channels: Output channels of each convolution, by default (16,).
        kernels: Sizes of the square kernels, by default (3,).
        strides: Strides, by default (1,).
        hidden: Widths of the dense layers, by default (128,).
        activation: By default ReLU.
        layer_norm: Layer normalisation in the dense layers, by default off.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import CNN
        >>> CNN().init_with_output(jax.random.key(0), jnp.zeros((3, 10, 10, 4)))[0].shape
        (3, 128)
    """

    channels: tuple[int, ...] = (16,)
    kernels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)
    hidden: tuple[int, ...] = (128,)
    activation: Callable[[Array], Array] = nn.relu
    layer_norm: bool = False

    @classmethod
    def nature(cls, hidden: tuple[int, ...] = (512,), **options: Any) -> CNN:
        """Three convolutions: 32 channels of 8 x 8 with stride 4, 64 of 4 x 4 with stride 2, 64 of 3 x 3 with stride 1."""
        return cls((32, 64, 64), (8, 4, 3), (4, 2, 1), hidden, **options)

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        x = obs.astype(float) / 255.0 if jnp.issubdtype(obs.dtype, jnp.integer) else obs.astype(float)
        for width, kernel, stride in zip(self.channels, self.kernels, self.strides, strict=True):
            x = self.activation(Conv(width, kernel, stride)(x))
        return MLP(self.hidden, self.activation, self.layer_norm)(x)


class Encoder(nn.Module):
    """Features of a pytree of observations, each leaf encoded by its kind, all of them together through ``body``.

    The key ``action_mask`` of an observation is left out. ``jaxpg.networks.make_encoder`` reads the kinds from a space.

    Attributes:
        kinds: One entry for each leaf, in the order of ``jax.tree.leaves``: ``"image"`` is encoded by a ``cnn`` of its own, an
            integer ``n`` means ``n`` categories, one-hot, and ``"flat"`` is taken as it is.
        body: The module that maps all of them to features.
        cnn: The module for images, by default ``CNN(hidden=())``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import MLP, Encoder
        >>> encoder = Encoder(kinds=(5, "flat"), body=MLP((8,)))
        >>> obs = {"gear": jnp.zeros(3, jnp.int32), "speed": jnp.zeros((3, 2))}
        >>> encoder.init_with_output(jax.random.key(0), obs)[0].shape
        (3, 8)
    """

    kinds: tuple[str | int, ...]
    body: nn.Module
    cnn: nn.Module = CNN(hidden=())

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        parts = []
        for kind, x in zip(self.kinds, jax.tree.leaves(without_mask(obs)), strict=True):
            if kind == "image":
                parts.append(self.cnn.copy(name=f"cnn_{len(parts)}")(x))
            else:
                parts.append(jax.nn.one_hot(x, kind, dtype=float) if isinstance(kind, int) else x)
        return self.body(parts)


class CategoricalHead(nn.Module):
    """A ``Categorical`` distribution over ``num_actions``; nearly uniform at the start.

    Attributes:
        num_actions: How many actions.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import CategoricalHead
        >>> CategoricalHead(2).init_with_output(jax.random.key(0), jnp.zeros((3, 8)))[0].logits.shape
        (3, 2)
    """

    num_actions: int

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Categorical:
        return Categorical(linear(self.num_actions, 0.01, x), mask)


class MultiCategoricalHead(nn.Module):
    """A ``MultiCategorical`` distribution over arrays of ``shape``.

    Attributes:
        num_categories: How many choices each component has, in the order of an array of ``shape``.
        shape: The shape of one action.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import MultiCategoricalHead
        >>> head = MultiCategoricalHead(num_categories=(2, 3), shape=(2,))
        >>> head.init_with_output(jax.random.key(0), jnp.zeros((5, 8)))[0].mode().shape
        (5, 2)
    """

    num_categories: tuple[int, ...]
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> MultiCategorical:
        most = max(self.num_categories)
        logits = linear(len(self.num_categories) * most, 0.01, x).reshape(x.shape[0], *self.shape, most)
        exists = jnp.arange(most) < jnp.array(self.num_categories).reshape(*self.shape, 1)
        legal = jnp.broadcast_to(exists, logits.shape) if mask is None else exists & mask
        return MultiCategorical(logits, legal, event_rank=len(self.shape))


class GaussianHead(nn.Module):
    """N(center + scale mean(x), (scale std)^2) for actions of ``shape``; the log standard deviation is a parameter.

    With ``center`` and ``scale`` of a ``Box``, the network works in its units.

    Attributes:
        shape: The shape of one action.
        center: Where the mean starts: one number for each component, or one for all; 0 by default.
        scale: The unit of actions, likewise; 1 by default.
        initial_log_std: The log standard deviation at the start, in units of ``scale``; 0 by default.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import GaussianHead
        >>> head = GaussianHead((1,), center=15.0, scale=5.0)
        >>> head.init_with_output(jax.random.key(0), jnp.zeros((3, 8)))[0].mode().ravel()
        Array([15., 15., 15.], dtype=float32)
    """

    shape: tuple[int, ...]
    center: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, x: Array, mask: None = None) -> DiagGaussian:
        mean = linear(math.prod(self.shape), 0.01, x).reshape(x.shape[0], *self.shape)
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), self.shape, mean.dtype)
        return scaled_gaussian(self, mean, jnp.broadcast_to(log_std, mean.shape))


class StateDependentGaussianHead(nn.Module):
    """Like ``GaussianHead``, but the log standard deviation depends on the features, within ``log_std_bounds``; 0 at the start.

    Attributes:
        shape: The shape of one action.
        center: Where the mean starts: one number for each component, or one for all; 0 by default.
        scale: The unit of actions, likewise; 1 by default.
        log_std_bounds: The smallest and the largest log standard deviation, in units of ``scale``; by default (-5, 2).

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import StateDependentGaussianHead
        >>> head = StateDependentGaussianHead((2,))
        >>> head.init_with_output(jax.random.key(0), jnp.zeros((3, 8)))[0].log_std.shape
        (3, 2)
    """

    shape: tuple[int, ...]
    center: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    log_std_bounds: tuple[float, float] = (-5.0, 2.0)

    @nn.compact
    def __call__(self, x: Array, mask: None = None) -> DiagGaussian:
        mean, raw = jnp.split(linear(2 * math.prod(self.shape), 0.01, x), 2, axis=-1)
        low, high = self.log_std_bounds
        middle = math.atanh(-(low + high) / (high - low))  # a raw output of 0 is a log_std of 0
        log_std = low + 0.5 * (high - low) * (1.0 + jnp.tanh(raw + middle))
        return scaled_gaussian(self, mean.reshape(x.shape[0], *self.shape), log_std.reshape(x.shape[0], *self.shape))


class TanhGaussianHead(nn.Module):
    """A ``TanhGaussian`` distribution on ``[low, high]`` for actions of ``shape``.

    The log standard deviation of u is a parameter. At the start the mode is in the middle of the bounds.

    Attributes:
        shape: The shape of one action.
        low: The lower bound: a number for all components, or nested tuples with one for each; -1 by default.
        high: The upper bound, likewise; 1 by default.
        initial_log_std: The log standard deviation of u at the start; 0 by default.

    Examples:
        >>> import jaxpg
        >>> from jaxpg.networks import MLP, Feedforward, TanhGaussianHead
        >>> policy = Feedforward(MLP(), TanhGaussianHead((1,), low=-2.0, high=2.0))
        >>> algo = jaxpg.ppo(jaxpg.make("Pendulum-v1"), policy=policy)
        >>> algo.network.policy.head.high
        2.0
    """

    shape: tuple[int, ...]
    low: Bound = -1.0
    high: Bound = 1.0
    initial_log_std: float = 0.0

    @nn.compact
    def __call__(self, x: Array, mask: None = None) -> TanhGaussian:
        mean = linear(math.prod(self.shape), 0.01, x).reshape(x.shape[0], *self.shape)
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), self.shape, mean.dtype)
        return TanhGaussian(mean, jnp.broadcast_to(log_std, mean.shape), self.low, self.high, event_rank=len(self.shape))


class BetaHead(nn.Module):
    """A ``Beta`` distribution on ``[low, high]`` for actions of ``shape``, with alpha, beta = 1 + softplus(w x + b).

    Both are above 1, so that the density has one maximum within the bounds.

    Attributes:
        shape: The shape of one action.
        low: The lower bound: a number for all components, or nested tuples with one for each; -1 by default.
        high: The upper bound, likewise; 1 by default.

    Source: Chou et al. 2017.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import MLP, BetaHead, Feedforward
        >>> policy = Feedforward(MLP(), BetaHead((1,), low=0.0, high=1.0))
        >>> policy.init_with_output(jax.random.key(0), jnp.zeros((3, 4)))[0].mode().ravel()
        Array([0.5, 0.5, 0.5], dtype=float32)
    """

    shape: tuple[int, ...]
    low: Bound = -1.0
    high: Bound = 1.0

    @nn.compact
    def __call__(self, x: Array, mask: None = None) -> Beta:
        raw = linear(2 * math.prod(self.shape), 0.01, x)
        alpha, beta = (1.0 + nn.softplus(part.reshape(x.shape[0], *self.shape)) for part in jnp.split(raw, 2, axis=-1))
        return Beta(alpha, beta, self.low, self.high, event_rank=len(self.shape))


class JointHead(nn.Module):
    """A ``Joint`` distribution over a dict of actions with the keys ``names``, or over a tuple; one head for each part.

    A mask is a dict with some of the keys, or a tuple.

    Attributes:
        heads: The heads of the parts.
        names: The keys of a dict, or ``None`` for a tuple.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import CategoricalHead, GaussianHead, JointHead
        >>> head = JointHead((GaussianHead((2,)), CategoricalHead(5)), names=("gas", "gear"))
        >>> dist, _ = head.init_with_output(jax.random.key(0), jnp.zeros((3, 8)))
        >>> jax.tree.map(jnp.shape, dist.mode())
        {'gas': (3, 2), 'gear': (3,)}
    """

    heads: tuple[nn.Module, ...]
    names: tuple[str, ...] | None = None

    @nn.compact
    def __call__(self, x: Array, mask: PyTree = None) -> Joint:
        masks = (None,) * len(self.heads) if mask is None else mask
        if self.names is not None:
            masks = [(mask or {}).get(name) for name in self.names]
        pairs = zip(self.heads, masks, strict=True)
        dists = [head(x) if mask is None else head(x, mask) for head, mask in pairs]
        parts = [dist.parts if isinstance(dist, Joint) else dist for dist in dists]
        return Joint(tuple(parts) if self.names is None else dict(zip(self.names, parts, strict=True)))


class ValueHead(nn.Module):
    """v = w x + b: features ``[N, F]`` to values ``[N]``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import ValueHead
        >>> ValueHead().init_with_output(jax.random.key(0), jnp.zeros((3, 8)))[0].shape
        (3,)
    """

    @nn.compact
    def __call__(self, x: Array, mask: None = None) -> Array:
        return linear(1, 1.0, x)[..., 0]


class PolicyAndValueHead(nn.Module):
    """A distribution and a value from the same features, for ``jaxpg.Shared``.

    Attributes:
        policy: The head of the policy; that of the value is a ``ValueHead``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import CategoricalHead, PolicyAndValueHead
        >>> head = PolicyAndValueHead(CategoricalHead(2))
        >>> (dist, value), _ = head.init_with_output(jax.random.key(0), jnp.zeros((3, 8)))
        >>> dist.logits.shape, value.shape
        ((3, 2), (3,))
    """

    policy: nn.Module

    @nn.compact
    def __call__(self, x: Array, mask: PyTree = None) -> tuple[Distribution, Array]:
        return self.policy(x) if mask is None else self.policy(x, mask), ValueHead()(x)


class Feedforward(nn.Module):
    """head(encoder(obs)), for observations ``[N, ...]``. A head that takes a mask gets ``obs["action_mask"]``.

    Attributes:
        encoder: From observations to features ``[N, F]``.
        head: From features to a distribution, values ``[N]``, or both.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import MLP, CategoricalHead, Feedforward
        >>> policy = Feedforward(MLP(), CategoricalHead(2))
        >>> policy.init_with_output(jax.random.key(0), jnp.zeros((3, 4)))[0].logits.shape
        (3, 2)
    """

    encoder: nn.Module
    head: nn.Module

    @nn.compact
    def __call__(self, obs: PyTree) -> Any:
        return self.head(self.encoder(obs), *masks_in(obs))


class ConstantCritic(nn.Module):
    """v(s) = b, one parameter: a running mean of returns.

    A plain gradient step of 0.05 on half the squared error makes it 0.95 old + 0.05 new.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import ConstantCritic
        >>> ConstantCritic().init_with_output(jax.random.key(0), jnp.zeros((3, 4)))[0]
        Array([0., 0., 0.], dtype=float32)
    """

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        b = self.param("b", nn.initializers.zeros, (), jnp.result_type(float))
        return jnp.broadcast_to(b, (jax.tree.leaves(obs)[0].shape[0],))


class NoCritic(nn.Module):
    """v(s) = 0, without parameters.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import NoCritic
        >>> NoCritic().apply({}, jnp.zeros((3, 4)))
        Array([0., 0., 0.], dtype=float32)
    """

    @nn.compact
    def __call__(self, obs: PyTree) -> Array:
        return jnp.zeros(jax.tree.leaves(obs)[0].shape[0])


def CategoricalPolicy(num_actions: int, hidden: tuple[int, ...] = (64, 64)) -> Feedforward:
    """pi(.|s) = softmax(MLP(s)) over ``num_actions``.

    Args:
        num_actions: How many actions.
        hidden: Widths of the hidden layers.

    Returns:
        A flax module from observations ``[N, ...]`` to a ``Categorical``.

    Examples:
        >>> import jaxpg
        >>> policy = jaxpg.networks.CategoricalPolicy(2, hidden=(32,))
        >>> jaxpg.ppo(jaxpg.make("CartPole-v1"), policy=policy).network.policy == policy
        True
    """
    return Feedforward(MLP(hidden), CategoricalHead(num_actions))


def GaussianPolicy(num_dims: int, hidden: tuple[int, ...] = (64, 64), initial_log_std: float = 0.0) -> Feedforward:
    """pi(.|s) = N(MLP(s), diag(exp(log_std))^2); log_std is a parameter, the same in all states.

    Args:
        num_dims: Components of an action.
        hidden: Widths of the hidden layers.
        initial_log_std: log_std at the start.

    Returns:
        A flax module from observations ``[N, ...]`` to a ``DiagGaussian``.

    Examples:
        >>> import jaxpg
        >>> policy = jaxpg.networks.GaussianPolicy(1, hidden=(32,))
        >>> jaxpg.ppo(jaxpg.make("Pendulum-v1"), policy=policy).network.policy == policy
        True
    """
    return Feedforward(MLP(hidden), GaussianHead((num_dims,), initial_log_std=initial_log_std))


def Critic(hidden: tuple[int, ...] = (64, 64)) -> Feedforward:
    """v(s) = w MLP(s) + b.

    Args:
        hidden: Widths of the hidden layers.

    Returns:
        A flax module from observations ``[N, ...]`` to values ``[N]``.

    Examples:
        >>> import jaxpg
        >>> critic = jaxpg.networks.Critic(hidden=(256, 256))
        >>> jaxpg.ppo(jaxpg.make("CartPole-v1"), critic=critic).network.critic == critic
        True
    """
    return Feedforward(MLP(hidden), ValueHead())


def make_encoder(
    obs: PyTree,
    space: Any = None,
    hidden: tuple[int, ...] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    layer_norm: bool = False,
) -> nn.Module:
    """The default encoder for observations like ``obs``.

    A ``Discrete`` or ``MultiDiscrete`` leaf becomes one-hot: its number is a name, not a size. Arrays of three axes are images
    ``[H, W, C]`` and are encoded by a ``CNN``: the one for MinAtar, or from 36 x 36 on that of the Nature paper. All else is
    taken as numbers. The features pass through an ``MLP``.

    Args:
        obs: One observation, without a batch axis: arrays, or their shapes.
        space: The gymnax space of observations, if one is declared.
        hidden: Widths of the hidden layers.
        activation: Activation of the hidden layers; a CNN has ReLU.
        layer_norm: Layer normalisation before each activation.

    Returns:
        A flax module from observations ``[N, ...]`` to features ``[N, hidden[-1]]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import make_encoder
        >>> make_encoder(jnp.zeros(4), hidden=(8,)).hidden, make_encoder(jnp.zeros((10, 10, 4)), hidden=(8,)).channels
        ((8,), (16,))
    """
    kinds = kinds_of(obs, space)
    body = MLP(hidden, activation, layer_norm)
    if all(kind == "flat" for kind in kinds) and not masks_in(obs):
        return body
    leaves = jax.tree.leaves(without_mask(obs))
    images = [x.shape for x, kind in zip(leaves, kinds, strict=True) if kind == "image"]
    is_large = bool(images) and min(min(shape[:2]) for shape in images) >= 36
    if kinds == ("image",) and jax.tree.structure(obs) == jax.tree.structure(0):
        return CNN.nature(hidden, layer_norm=layer_norm) if is_large else CNN(hidden=hidden, layer_norm=layer_norm)
    return Encoder(kinds, body, CNN.nature(()) if is_large else CNN(hidden=()))


def kinds_of(obs: PyTree, space: Any = None) -> tuple[str | int, ...]:
    """How ``Encoder`` takes each array of an observation: ``"image"``, ``"flat"``, or the number of categories."""
    rest = without_mask(obs)
    leaves, declared = jax.tree.leaves(rest), declared_leaves(space, rest)
    return tuple(kind_of(x, leaf) for x, leaf in zip(leaves, declared, strict=True))


def declared_leaves(space: Any, obs: PyTree) -> list[spaces.Leaf | None]:
    """The leaves of ``space`` for each array of ``obs``; ``None`` if the space is not declared or has another structure."""
    count = len(jax.tree.leaves(obs))
    if not isinstance(space, spaces.KINDS):
        return [None] * count
    leaves = without_mask(spaces.read(space))
    return jax.tree.leaves(leaves) if jax.tree.structure(leaves) == jax.tree.structure(obs) else [None] * count


def kind_of(x: Any, leaf: spaces.Leaf | None) -> str | int:
    """How ``Encoder`` takes an array with the space ``leaf``."""
    counts = None if leaf is None or x.shape != leaf.shape else leaf.num_categories
    if counts is not None and jnp.issubdtype(x.dtype, jnp.integer):
        return int(counts.max())
    return "image" if len(x.shape) == 3 else "flat"


def make_action_head(space: Any) -> nn.Module:
    """The default head for actions in ``space``: softmax for discrete ones, a Gaussian for a ``Box``.

    The Gaussian is in the units of the ``Box``: its mean starts in the middle, with a standard deviation of half the width; 0
    and 1 where a bound is missing. Actions beyond the bounds are clipped for the environment, and rounded in a ``Box`` of
    integers.

    Args:
        space: A gymnax space, any tree of ``Box``, ``Discrete`` and ``MultiDiscrete``.

    Returns:
        A flax module from features ``[N, F]`` to a distribution.

    Raises:
        ValueError: For any other kind of space, or unusable bounds.

    Examples:
        >>> from jaxpg.networks import make_action_head
        >>> from jaxpg.spaces import Box
        >>> make_action_head(Box(10.0, 20.0, (1,))).center
        (15.0,)
    """
    return head_of(spaces.read(space))


def head_of(leaf: PyTree) -> nn.Module:
    """The default head for the leaves of a space."""
    if isinstance(leaf, dict):
        return JointHead(tuple(map(head_of, leaf.values())), tuple(leaf))
    if isinstance(leaf, tuple):
        return JointHead(tuple(map(head_of, leaf)))
    if leaf.kind == "discrete":
        return CategoricalHead(int(leaf.num_categories))
    if leaf.kind == "multi_discrete":
        return MultiCategoricalHead(tuple(leaf.num_categories.ravel().tolist()), leaf.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        bounded = np.isfinite(leaf.high - leaf.low)
        center = np.where(bounded, leaf.low + (leaf.high - leaf.low) / 2.0, 0.0).ravel()
        scale = np.where(bounded & (leaf.high > leaf.low), (leaf.high - leaf.low) / 2.0, 1.0).ravel()
    return GaussianHead(leaf.shape, tuple(center.tolist()), tuple(np.maximum(scale, 1e-15).tolist()))


@dataclasses.dataclass(frozen=True)
class FromNNX:
    """A flax.nnx module as a network: see ``from_nnx``."""

    build: Callable[[nnx.Rngs], nnx.Module]

    def init(self, key: Array, *inputs: PyTree) -> dict[str, PyTree]:
        """The module's parameters, trained, and all its other state, which stays as it is."""
        _, params, others = nnx.split(self.build(nnx.Rngs(key)), nnx.Param, ...)
        return {"params": nnx.to_pure_dict(params), "constants": nnx.to_pure_dict(others)}

    def apply(self, variables: Mapping[str, PyTree], *inputs: PyTree) -> Any:
        """Call the module with these variables."""
        graph, *_ = jax.eval_shape(lambda: nnx.split(self.build(nnx.Rngs(0)), nnx.Param, ...))
        return nnx.merge(graph, variables["params"], variables["constants"])(*inputs)


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> FromNNX:
    """A network from a function that makes a flax.nnx module.

    The module maps observations ``[N, ...]`` to a distribution or to values ``[N]``. Its ``nnx.Param`` variables are trained,
    its other state stays as it is.

    Args:
        build: From ``nnx.Rngs`` to the module; called with new random numbers for every seed.

    Returns:
        A ``jaxpg.types.Network``, for ``policy=``, ``critic=``, ``jaxpg.Separate`` or ``jaxpg.Shared``.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxpg.distributions import Categorical
        >>> from jaxpg.networks import from_nnx
        >>> class Policy(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.layer = nnx.Linear(4, 2, rngs=rngs)
        ...     def __call__(self, obs):
        ...         return Categorical(self.layer(obs))
        >>> network = from_nnx(lambda rngs: Policy(rngs))
        >>> network.apply(network.init(jax.random.key(0)), jnp.zeros((3, 4))).logits.shape
        (3, 2)
    """
    return FromNNX(build)


def linear(features: int, scale: float, x: Array) -> Array:
    """Make a linear layer in the calling module."""
    return nn.Dense(features, kernel_init=orthogonal(scale), param_dtype=x.dtype)(x)


def scaled_gaussian(head: Any, mean: Array, log_std: Array) -> DiagGaussian:
    """The Gaussian in the units of a head's ``center`` and ``scale``."""
    numbers = head.center, head.scale, np.log(head.scale)
    center, scale, log_scale = (np.reshape(x, head.shape) if np.ndim(x) else x for x in numbers)
    center, scale, log_scale = (jnp.asarray(x, mean.dtype) for x in (center, scale, log_scale))
    return DiagGaussian(center + scale * mean, log_std + log_scale, event_rank=len(head.shape))


def concatenate(obs: PyTree) -> Array:
    """Flatten and concatenate all leaves ``[N, ...]`` as floats: ``[N, F]``."""
    return jnp.concatenate(
        [jnp.reshape(x, (x.shape[0], math.prod(x.shape[1:]))).astype(float) for x in jax.tree.leaves(obs)], axis=-1
    )


def masks_in(obs: PyTree) -> tuple[PyTree, ...]:
    """A tuple with the action mask of an observation, or an empty one."""
    return (obs[ACTION_MASK],) if isinstance(obs, Mapping) and ACTION_MASK in obs else ()


def without_mask(obs: PyTree) -> PyTree:
    """An observation without its action mask."""
    return {name: x for name, x in obs.items() if name != ACTION_MASK} if masks_in(obs) else obs


def merge_time(tree: PyTree) -> PyTree:
    """``[T, B, ...]`` to ``[T * B, ...]``."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)
