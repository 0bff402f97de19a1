"""Networks that ship with jaxpg (flax.linen): encoders and heads, of which policies and critics are made.

An encoder maps observations ``[N, ...]``, any pytree, to features ``[N, F]``; a head maps features to a distribution, a value
or both. :class:`Feedforward` joins the two, :class:`jaxpg.networks.Recurrent` puts memory between them. A module of your own,
from observations ``[N, ...]`` to a distribution or to values ``[N]``, is as good as any of these.
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

ACTION_MASK = "action_mask"  # this key of an observation says which actions are legal: for heads, not for encoders


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """A random matrix with orthonormal rows or columns (Haar), times ``scale`` [Saxe et al. 2014].

    The QR factorisation of the usual initialiser is a LAPACK call, and vmapped over seeds those calls deadlock XLA's CPU thread
    pool; :func:`orthonormal` needs matrix products only.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        if math.prod(shape) == 0:  # no inputs at all
            return jnp.zeros(shape, dtype)
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
    """Dense layers of widths ``hidden``, each followed by ``activation``: features ``[N, hidden[-1]]``.

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

    Integer images are divided by 255, booleans are 0 and 1. The defaults suit the 10 x 10 images of MinAtar [Young & Tian
    2019]; ``CNN.nature()`` has the sizes of Mnih et al. (2015) for 84 x 84. Borders are padded: any size will do.

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
        """32 channels of 8 x 8 in steps of 4, 64 of 4 x 4 in steps of 2, 64 of 3 x 3."""
        return cls((32, 64, 64), (8, 4, 3), (4, 2, 1), hidden, **options)

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        x = obs.astype(float) / 255.0 if jnp.issubdtype(obs.dtype, jnp.integer) else obs.astype(float)
        for width, kernel, stride in zip(self.channels, self.kernels, self.strides, strict=True):
            x = self.activation(Conv(width, kernel, stride)(x))
        return MLP(self.hidden, self.activation, self.layer_norm)(x)


class Encoder(nn.Module):
    """Features of a pytree of observations, each leaf by its kind, all of them together through ``body``.

    ``kinds`` has one entry a leaf, in the order of ``jax.tree.leaves``: ``"image"`` goes through a ``cnn`` of its own, an
    integer ``n`` means ``n`` categories, one-hot; ``"flat"`` is taken as it is. The key ``action_mask`` is left out.
    :func:`make_encoder` reads the kinds from a space.
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
    """softmax over ``num_actions``; nearly uniform at the start."""

    num_actions: int

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Categorical:
        return Categorical(linear(self.num_actions, 0.01, x), mask)


class MultiCategoricalHead(nn.Module):
    """One softmax for each component of an array of ``shape``; component ``i`` has ``num_categories[i]`` choices."""

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

    ``center`` and ``scale`` have one number a component, or one for all: with those of a Box, the network works in its units.
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
    """Like :class:`GaussianHead`, but the log standard deviation depends on x, within ``log_std_bounds``; 0 at the start."""

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
    """:class:`TanhGaussian` on ``[low, high]`` for actions of ``shape``; the log standard deviation of u is a parameter.

    The bounds are a number for all components, or nested tuples with one each. Every action is in the middle at the start, but
    for the noise.

    >>> policy = Feedforward(MLP(), TanhGaussianHead((1,), low=-2.0, high=2.0))  # jaxpg.ppo(env, policy=policy)
    >>> policy.init_with_output(jax.random.key(0), jnp.zeros((3, 4)))[0].mode().shape
    (3, 1)
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
    """:class:`Beta` on ``[low, high]`` for actions of ``shape``, with alpha, beta = 1 + softplus(w x + b) [Chou et al. 2017].

    Both are above 1, so the density has one maximum within the bounds, which are as in :class:`TanhGaussianHead`.

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
    """A :class:`Joint` distribution over a dict of actions with the keys ``names``, or over a tuple of them; one head for each.

    A mask is a dict with some of the keys, or a tuple.
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
    """v = w x + b: ``[N]``."""

    @nn.compact
    def __call__(self, x: Array, mask: None = None) -> Array:
        return linear(1, 1.0, x)[..., 0]


class PolicyAndValueHead(nn.Module):
    """Both of the same features, for :class:`jaxpg.Shared`: the distribution of ``policy``, and a value."""

    policy: nn.Module

    @nn.compact
    def __call__(self, x: Array, mask: PyTree = None) -> tuple[Distribution, Array]:
        return self.policy(x) if mask is None else self.policy(x, mask), ValueHead()(x)


class Feedforward(nn.Module):
    """head(encoder(obs)), for observations ``[N, ...]``. A head that takes a mask gets ``obs["action_mask"]``.

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


def CategoricalPolicy(num_actions: int, hidden: tuple[int, ...] = (64, 64)) -> Feedforward:
    """pi(.|s) = softmax(MLP(s)) over ``num_actions``."""
    return Feedforward(MLP(hidden), CategoricalHead(num_actions))


def GaussianPolicy(num_dims: int, hidden: tuple[int, ...] = (64, 64), initial_log_std: float = 0.0) -> Feedforward:
    """pi(.|s) = N(MLP(s), diag(exp(log_std))^2) over ``num_dims`` dimensions; log_std is a parameter, equal in all states."""
    return Feedforward(MLP(hidden), GaussianHead((num_dims,), initial_log_std=initial_log_std))


def Critic(hidden: tuple[int, ...] = (64, 64)) -> Feedforward:
    """v(s) = w MLP(s) + b."""
    return Feedforward(MLP(hidden), ValueHead())


def make_encoder(
    obs: PyTree,
    space: Any = None,
    hidden: tuple[int, ...] = (64, 64),
    activation: Callable[[Array], Array] = nn.tanh,
    layer_norm: bool = False,
) -> nn.Module:
    """The default encoder for one observation like ``obs`` (arrays, or their shapes), of a gymnax ``space`` if it is declared.

    What is ``Discrete`` or ``MultiDiscrete`` in the space becomes one-hot: its number is a name, not a size. Arrays of three
    axes are images ``[H, W, C]`` and get a :class:`CNN`, that of MinAtar, or that of the Nature paper from 36 x 36 on. All else
    is taken as numbers. The features go through an :class:`MLP`.

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
    """How :class:`Encoder` takes each array of an observation: ``"image"``, ``"flat"``, or the number of categories."""
    rest = without_mask(obs)
    leaves, declared = jax.tree.leaves(rest), declared_leaves(space, rest)
    return tuple(kind_of(x, leaf) for x, leaf in zip(leaves, declared, strict=True))


def declared_leaves(space: Any, obs: PyTree) -> list[spaces.Leaf | None]:
    """What ``space`` says of each array of ``obs``; nothing where it is not declared, or is of another structure."""
    count = len(jax.tree.leaves(obs))
    if not isinstance(space, spaces.KINDS):
        return [None] * count
    leaves = without_mask(spaces.read(space))
    return jax.tree.leaves(leaves) if jax.tree.structure(leaves) == jax.tree.structure(obs) else [None] * count


def kind_of(x: Any, leaf: spaces.Leaf | None) -> str | int:
    """How :class:`Encoder` takes an array of which a space says ``leaf``."""
    counts = None if leaf is None or x.shape != leaf.shape else leaf.num_categories
    if counts is not None and jnp.issubdtype(x.dtype, jnp.integer):
        return int(counts.max())
    return "image" if len(x.shape) == 3 else "flat"


def make_action_head(space: Any) -> nn.Module:
    """The default head for actions in a gymnax ``space``, any tree of ``Box``, ``Discrete`` and ``MultiDiscrete``.

    Softmax for what is discrete. In a ``Box``, of any shape, a Gaussian in its units: the mean starts in the middle, with a
    deviation of half the width; 0 and 1 where a bound is missing. What it draws beyond the bounds is clipped for the
    environment, and rounded in a ``Box`` of integers.

    >>> from gymnax.environments.spaces import Box
    >>> make_action_head(Box(10.0, 20.0, (1,))).center
    (15.0,)
    """
    return head_of(spaces.read(space))


def head_of(leaf: PyTree) -> nn.Module:
    """The head for what was read of a space."""
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
    """A flax.nnx module as a network: see :func:`from_nnx`."""

    build: Callable[[nnx.Rngs], nnx.Module]

    def init(self, key: Array, *inputs: PyTree) -> dict[str, PyTree]:
        """The module's parameters, trained, and all its other state, which stays as it is."""
        _, params, others = nnx.split(self.build(nnx.Rngs(key)), nnx.Param, ...)
        return {"params": nnx.to_pure_dict(params), "constants": nnx.to_pure_dict(others)}

    def apply(self, variables: Mapping[str, PyTree], *inputs: PyTree) -> Any:
        """The module of these variables, called."""
        graph, *_ = jax.eval_shape(lambda: nnx.split(self.build(nnx.Rngs(0)), nnx.Param, ...))
        return nnx.merge(graph, variables["params"], variables["constants"])(*inputs)


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> FromNNX:
    """A network from a function that makes a flax.nnx module; it is called with fresh random numbers for every seed.

    The module maps observations ``[N, ...]`` to a distribution or to values ``[N]``. Its ``nnx.Param`` are trained.

    >>> from jaxpg.core.distributions import Categorical
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
    """A linear layer of the calling module."""
    return nn.Dense(features, kernel_init=orthogonal(scale), param_dtype=x.dtype)(x)


def scaled_gaussian(head: Any, mean: Array, log_std: Array) -> DiagGaussian:
    """The Gaussian in the units of a head's ``center`` and ``scale``."""
    numbers = head.center, head.scale, np.log(head.scale)
    center, scale, log_scale = (np.reshape(x, head.shape) if np.ndim(x) else x for x in numbers)
    center, scale, log_scale = (jnp.asarray(x, mean.dtype) for x in (center, scale, log_scale))
    return DiagGaussian(center + scale * mean, log_std + log_scale, event_rank=len(head.shape))


def concatenate(obs: PyTree) -> Array:
    """All leaves ``[N, ...]`` as floats, flat and side by side: ``[N, F]``."""
    return jnp.concatenate(
        [jnp.reshape(x, (x.shape[0], math.prod(x.shape[1:]))).astype(float) for x in jax.tree.leaves(obs)], axis=-1
    )


def masks_in(obs: PyTree) -> tuple[PyTree, ...]:
    """The action mask of an observation as the only item, or nothing."""
    return (obs[ACTION_MASK],) if isinstance(obs, Mapping) and ACTION_MASK in obs else ()


def without_mask(obs: PyTree) -> PyTree:
    """An observation less its action mask."""
    return {name: x for name, x in obs.items() if name != ACTION_MASK} if masks_in(obs) else obs


def merge_time(tree: PyTree) -> PyTree:
    """``[T, B, ...]`` to ``[T * B, ...]``."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)
