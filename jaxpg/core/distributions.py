"""Action distributions as pytrees: an action is ``dist.sample(dist.noise(key))``.

The noise does not depend on the parameters (the reparameterisation trick made general), so that a rollout draws all of it in
one call before its scan. Leaves carry leading batch axes; log-probabilities, entropies and KL divergences are in nats.

Everything is computed in float32 at least: outputs of a network in bfloat16 or float16 are widened first, so that actions are
drawn with the probabilities that ``log_prob`` states. ``event_rank`` is the number of trailing axes that make one action: 0 for
a number, 1 for a vector, 2 for a matrix. The components are independent; log-probabilities, entropies and KL sum over them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.special import betaln, digamma, log_ndtr

from jaxpg.core import _platform as platform
from jaxpg.core.types import Array, Distribution, PyTree

Bound = float | tuple[Any, ...]  # one for all components, or nested tuples that broadcast to the shape of an action


def _widen(x: Array) -> Array:
    """``x`` in float32, or in float64 if it is."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sum_event(x: Array, event_rank: int) -> Array:
    """The sum over the components of each action: ``[..., *event]`` to ``[...]``."""
    return jnp.sum(x, axis=tuple(range(-event_rank, 0)))


class Categorical(struct.PyTreeNode):
    """pi(a) = softmax(logits)_a over the legal ones of ``A`` actions.

    Actions are int32 ``[...]``.

    Attributes:
        logits: ``[..., A]``; ``-inf`` forbids an action, like the mask.
        mask: Booleans ``[..., A]``, true where an action is legal, or ``None``: all are. An illegal action has probability 0
            and no gradient, whatever its logit. Where no action is legal, as in rows of padding, the mask is ignored.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.distributions import Categorical
        >>> f"{Categorical(jnp.log(jnp.array([0.7, 0.3]))).log_prob(jnp.array(0)):.4f}"
        '-0.3567'
        >>> Categorical(jnp.zeros(4), jnp.array([True, False, True, False])).entropy() == jnp.log(2.0)
        Array(True, dtype=bool)
    """

    logits: Array
    mask: Array | None = None

    def _legal_logits(self) -> Array:
        """The logits, ``-inf`` where an action is illegal."""
        logits = _widen(self.logits)
        if self.mask is None:
            return logits
        return jnp.where(self.mask | ~jnp.any(self.mask, axis=-1, keepdims=True), logits, -jnp.inf)

    def noise(self, key: Array) -> Array:
        """u ~ Uniform[0, 1), one number for each action, ``[...]``."""
        return jax.random.uniform(key, self.logits.shape[:-1], _widen(self.logits).dtype)

    def sample(self, noise: Array) -> Array:
        """The inverse of the cumulative distribution at ``u``; an action of probability 0 is never drawn."""
        return platform.draw(self._legal_logits(), noise)

    def log_prob(self, action: Array) -> Array:
        """log pi(a) = logits_a - log sum exp(logits), ``[...]``; ``-inf`` for an illegal action."""
        chosen = action[..., None] == jnp.arange(self.logits.shape[-1])
        return platform.total(jnp.where(chosen, jax.nn.log_softmax(self._legal_logits()), 0.0))

    def entropy(self) -> Array:
        """H = -sum_a pi(a) log pi(a), ``[...]``, between 0 and log A."""
        log_p = jax.nn.log_softmax(self._legal_logits())
        return -platform.total(jnp.exp(log_p) * jnp.where(log_p > -jnp.inf, log_p, 0.0))

    def kl(self, other: Self) -> Array:
        """KL(pi || other) = sum_a pi(a) (log pi(a) - log other(a)), ``[...]``.

        It is infinite where only ``other`` forbids an action.
        """
        log_p, log_q = jax.nn.log_softmax(self._legal_logits()), jax.nn.log_softmax(other._legal_logits())
        possible = log_p > -jnp.inf
        log_ratio = jnp.where(possible, log_p, 0.0) - jnp.where(possible, log_q, 0.0)
        return platform.total(jnp.exp(log_p) * log_ratio)

    def mode(self) -> Array:
        """The most probable action; the first of equals."""
        return jnp.argmax(self._legal_logits(), axis=-1).astype(jnp.int32)


class MultiCategorical(struct.PyTreeNode):
    """pi(a) = prod_i softmax(logits_i)_(a_i): an independent categorical distribution for each component of an action.

    Actions are int32 ``[..., *event]``.

    Attributes:
        logits: ``[..., *event, A]``. Components with fewer than ``A`` choices are padded, see ``MultiCategorical.of``.
        mask: Booleans like the logits, true where a choice is legal, or ``None``, as in ``Categorical``.
        event_rank: The number of axes of one action, by default 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.distributions import MultiCategorical
        >>> MultiCategorical.of([jnp.zeros(2), jnp.zeros(3)]).log_prob(jnp.array([1, 2])) == -jnp.log(6.0)
        Array(True, dtype=bool)
    """

    logits: Array
    mask: Array | None = None
    event_rank: int = struct.field(pytree_node=False, default=1)

    @classmethod
    def of(cls, logits: Sequence[Array]) -> Self:
        """From the logits of each component, ``[..., A_i]``; choices that a component does not have are masked."""
        sizes = np.array([x.shape[-1] for x in logits])
        padded = [jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, sizes.max() - x.shape[-1])]) for x in logits]
        stacked = jnp.stack(padded, axis=-2)
        return cls(stacked, jnp.broadcast_to(np.arange(sizes.max()) < sizes[:, None], stacked.shape))

    def _components(self) -> Categorical:
        return Categorical(self.logits, self.mask)

    def noise(self, key: Array) -> Array:
        """u ~ Uniform[0, 1), one number for each component, ``[..., *event]``."""
        return self._components().noise(key)

    def sample(self, noise: Array) -> Array:
        """The inverse of the cumulative distribution of each component."""
        return self._components().sample(noise)

    def log_prob(self, action: Array) -> Array:
        """sum_i log pi_i(a_i), ``[...]``."""
        return _sum_event(self._components().log_prob(action), self.event_rank)

    def entropy(self) -> Array:
        """sum_i H(pi_i), ``[...]``."""
        return _sum_event(self._components().entropy(), self.event_rank)

    def kl(self, other: Self) -> Array:
        """sum_i KL(pi_i || other_i), ``[...]``."""
        return _sum_event(self._components().kl(other._components()), self.event_rank)

    def mode(self) -> Array:
        """The most probable choice of each component."""
        return self._components().mode()


class DiagGaussian(struct.PyTreeNode):
    """N(mean, diag(exp(log_std))^2).

    Actions are floats ``[..., *event]``.

    Attributes:
        mean: ``[..., *event]``.
        log_std: The logarithm of the standard deviation, ``[..., *event]``.
        event_rank: The number of axes of one action, by default 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.distributions import DiagGaussian
        >>> f"{DiagGaussian(jnp.zeros(2), jnp.zeros(2)).log_prob(jnp.zeros(2)):.4f}"
        '-1.8379'
        >>> f"{DiagGaussian(jnp.zeros(()), jnp.zeros(()), event_rank=0).log_prob(jnp.zeros(())):.4f}"
        '-0.9189'
    """

    mean: Array
    log_std: Array
    event_rank: int = struct.field(pytree_node=False, default=1)

    def noise(self, key: Array) -> Array:
        """eps ~ N(0, I): ``[..., *event]``."""
        return jax.random.normal(key, self.mean.shape, _widen(self.mean).dtype)

    def sample(self, noise: Array) -> Array:
        """mean + exp(log_std) eps, differentiable in the parameters."""
        return _widen(self.mean) + jnp.exp(_widen(self.log_std)) * noise

    def log_prob(self, action: Array) -> Array:
        """-(1/2) sum_d [((a - mean) / std)^2 + 2 log std + log 2 pi], ``[...]``."""
        log_std = _widen(self.log_std)
        z = (action - _widen(self.mean)) * jnp.exp(-log_std)
        return -0.5 * _sum_event(z**2 + 2 * log_std + math.log(2 * math.pi), self.event_rank)

    def entropy(self) -> Array:
        """sum_d [log std + (1/2) log(2 pi e)], ``[...]``; negative where the Gaussian is narrow."""
        return _sum_event(_widen(self.log_std) + 0.5 * math.log(2 * math.pi * math.e), self.event_rank)

    def kl(self, other: Self) -> Array:
        """sum_d [log(std'/std) + (std^2 + (mean - mean')^2) / (2 std'^2) - 1/2], ``[...]``."""
        log_std, other_log_std = _widen(self.log_std), _widen(other.log_std)
        ratio = jnp.exp(2 * (log_std - other_log_std))
        distance = ((_widen(self.mean) - _widen(other.mean)) * jnp.exp(-other_log_std)) ** 2
        return 0.5 * _sum_event(ratio + distance - 1.0 - 2 * (log_std - other_log_std), self.event_rank)

    def mode(self) -> Array:
        """The mean."""
        return _widen(self.mean)


class _OnInterval:
    """What distributions on ``[low, high]`` share: checked bounds, and the affine map between ``[0, 1]`` and the interval.

    The bounds are static, so that the leaves are the parameters alone; arrays are converted to tuples.
    """

    low: Bound
    high: Bound

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, _static(getattr(self, name)))
        low, width = self._low_and_width()
        if not np.all(np.isfinite(low) & np.isfinite(width) & (width > 0)):
            name, bounds = type(self).__name__, f"low={self.low}, high={self.high}"
            raise ValueError(f"{name}: needs finite bounds with low < high, but has {bounds}; DiagGaussian needs none")

    def _low_and_width(self) -> tuple[np.ndarray, np.ndarray]:
        """``low`` and ``high - low``, in float64."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return low, high - low

    def _log_width(self, dtype: Any) -> np.ndarray:
        """log(high - low), as ``dtype``."""
        return np.log(self._low_and_width()[1]).astype(dtype)

    def _from_unit(self, x: Array) -> Array:
        """low + (high - low) x, computed from the nearer bound: 0 and 1 are the bounds, to the bit."""
        width = self._low_and_width()[1].astype(x.dtype)
        low, high = (np.asarray(bound, x.dtype) for bound in (self.low, self.high))
        return jnp.where(x < 0.5, low + width * x, high - width * (1.0 - x))

    def _to_unit(self, action: Array, dtype: Any) -> Array:
        """(a - low) / (high - low), as ``dtype``."""
        low, width = (x.astype(dtype) for x in self._low_and_width())
        return (jnp.asarray(action, dtype) - low) / width


def _static(bound: Any) -> Bound:
    """A bound as a float or as nested tuples of floats, which are hashable."""
    if isinstance(bound, float):
        return bound
    try:
        values = np.asarray(bound, np.float64).tolist()
    except jax.errors.TracerArrayConversionError:
        raise ValueError(
            f"low and high are static, but one is traced ({jax.typeof(bound)}); use numbers or a NumPy array"
        ) from None
    return tuple(map(_static, values)) if isinstance(values, list) else values


MAX_ABS_LOG_STD = 40.0  # beyond, squares of z and of 1 / std would leave the range of float32
NODES = np.linspace(-5.0, 5.0, 64)  # of a trapezoidal rule for means under N(0, 1)
WEIGHTS = np.exp(-0.5 * NODES**2) / np.sum(np.exp(-0.5 * NODES**2))


class TanhGaussian(_OnInterval, struct.PyTreeNode):
    """a = low + (high - low) (1 + tanh u) / 2 with u ~ N(mean, diag(exp(log_std))^2): actions within bounds.

    Actions are floats ``[..., *event]``. Near a bound, floating point cannot tell actions apart that differ in u. All those
    within 64 floating-point steps of the bound (|u| > 6.2 for [-1, 1] in float32) count as one: ``sample`` returns the bound
    itself, and ``log_prob`` is the log of their joint probability over the length of that piece. So log-probabilities are
    finite and the score has mean 0, which it does not have where u is computed as tanh^-1 of a clipped action.

    Attributes:
        mean: The mean of u, ``[..., *event]``.
        log_std: The log standard deviation of u, ``[..., *event]``; clipped to [-40, 40].
        low: The lower bound: a number for all components, or one each, as an array or as nested tuples ``[*event]``. Static; -1
            by default.
        high: The upper bound, likewise; 1 by default.
        event_rank: The number of axes of one action, by default 1.

    Raises:
        ValueError: For bounds that are traced, not finite, or not in order.

    Source: Haarnoja et al. 2018, appendix C; for clipped actions Fujita & Maeda 2018.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.distributions import TanhGaussian
        >>> dist = TanhGaussian(jnp.array([0.0, 50.0]), jnp.zeros(2), low=10.0, high=20.0)
        >>> dist.mode()
        Array([15., 20.], dtype=float32)
        >>> f"{dist.log_prob(dist.mode()):.4f}"
        '6.9525'
    """

    mean: Array
    log_std: Array
    low: Bound = struct.field(pytree_node=False, default=-1.0)
    high: Bound = struct.field(pytree_node=False, default=1.0)
    event_rank: int = struct.field(pytree_node=False, default=1)

    def _gaussian(self, event_rank: int = 0) -> DiagGaussian:
        """The distribution of u."""
        log_std = jnp.clip(_widen(self.log_std), -MAX_ABS_LOG_STD, MAX_ABS_LOG_STD)
        return DiagGaussian(_widen(self.mean), log_std, event_rank)

    def _edge(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """The share of the interval next to a bound that is one action, and the u > 0 where it begins."""
        low, width = self._low_and_width()
        step = jnp.finfo(dtype).eps / 2 * np.maximum(1.0, np.maximum(abs(low), abs(low + width)) / width)
        share = np.minimum(64 * step, 0.25)
        return share.astype(dtype), (0.5 * (np.log1p(-share) - np.log(share))).astype(dtype)

    def _squash(self, u: Array) -> Array:
        edge = self._edge(u.dtype)[1]
        return self._from_unit(jnp.where(abs(u) < edge, jax.nn.sigmoid(2.0 * u), u > 0))

    def noise(self, key: Array) -> Array:
        """eps ~ N(0, I): ``[..., *event]``."""
        return self._gaussian().noise(key)

    def sample(self, noise: Array) -> Array:
        """The squashed mean + exp(log_std) eps, differentiable in the parameters within the bounds."""
        return self._squash(self._gaussian().sample(noise))

    def log_prob(self, action: Array) -> Array:
        """sum_d [log N(u; mean, std^2) - log(da/du)], ``[...]``, with da/du = (high - low) (1 - tanh(u)^2) / 2."""
        gaussian = self._gaussian()
        dtype = gaussian.mean.dtype
        share, edge = self._edge(dtype)
        x = self._to_unit(action, dtype)  # (1 + tanh u) / 2
        sign = jnp.where(x < 0.5, -1.0, 1.0).astype(dtype)
        at_bound = (
            abs(x - 0.5) > 0.5 - 0.5 * share
        )  # half-way from the largest action inside to the bound, so that rounding does not matter

        x = jnp.where(at_bound, 0.5, x)
        log_x, log_rest = jnp.log(x), jnp.log1p(-x)
        u = jnp.where(at_bound, gaussian.mean, 0.5 * (log_x - log_rest))
        within = gaussian.log_prob(u) - (log_x + log_rest + math.log(2.0))
        beyond = (sign * gaussian.mean - edge) * jnp.exp(-gaussian.log_std)
        log_prob = jnp.where(at_bound, log_ndtr(beyond) - np.log(share), within)
        return _sum_event(log_prob - self._log_width(dtype), self.event_rank)

    def entropy(self) -> Array:
        """sum_d [log std + (1/2) log(2 pi e) + E log(da/du)], ``[...]``, the mean by a trapezoidal rule over u with 64 nodes.

        Its error is below 1e-3 for std <= e^2; Gauss-Hermite quadrature would need 256 nodes, because the poles of tanh are
        near. This is the entropy of the density without rounding: it falls without limit as actions gather at the bounds.
        """
        gaussian = self._gaussian()
        dtype = gaussian.mean.dtype
        u = gaussian.mean[..., None] + jnp.exp(gaussian.log_std)[..., None] * NODES.astype(dtype)
        log_cosh = jnp.sum(WEIGHTS.astype(dtype) * jnp.logaddexp(u, -u), axis=-1) - math.log(2.0)
        return _sum_event(gaussian.entropy() - 2.0 * log_cosh + self._log_width(dtype) - math.log(2.0), self.event_rank)

    def kl(self, other: Self) -> Array:
        """The KL divergence of the two Gaussians, ``[...]``: it does not change under a one-to-one map that both share."""
        return self._gaussian(self.event_rank).kl(other._gaussian(other.event_rank))

    def mode(self) -> Array:
        """The squashed mean, which is the median; the density may be higher elsewhere."""
        return self._squash(self._gaussian().mean)


class Beta(_OnInterval, struct.PyTreeNode):
    """a = low + (high - low) x with x ~ Beta(alpha, beta): p(x) = x^(alpha - 1) (1 - x)^(beta - 1) / B(alpha, beta).

    Actions are floats ``[..., *event]``. ``log_prob`` keeps them 1.2e-7 of the interval (in float32) away from the bounds,
    where the density may be 0 or infinite.

    Attributes:
        alpha: ``[..., *event]``, positive. Where alpha and beta are above 1, the density has one maximum within the bounds.
        beta: ``[..., *event]``, positive.
        low: The lower bound: a number for all components, or one each, as an array or as nested tuples ``[*event]``. Static; -1
            by default.
        high: The upper bound, likewise; 1 by default.
        event_rank: The number of axes of one action, by default 1.

    Raises:
        ValueError: For bounds that are traced, not finite, or not in order.

    Source: Chou et al. 2017.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg.distributions import Beta
        >>> f"{Beta(jnp.array([2.0]), jnp.array([1.0])).log_prob(jnp.array([0.0])):.4f}"  # p(x) = 2 x, and x = (1 + a) / 2
        '-0.6931'
    """

    alpha: Array
    beta: Array
    low: Bound = struct.field(pytree_node=False, default=-1.0)
    high: Bound = struct.field(pytree_node=False, default=1.0)
    event_rank: int = struct.field(pytree_node=False, default=1)

    def _batch_rank(self) -> int:
        return self.alpha.ndim - self.event_rank

    def noise(self, key: Array) -> Array:
        """One key for each action, ``[...]``: how many numbers a draw takes depends on the parameters."""
        return jax.random.split(key, self.alpha.shape[: self._batch_rank()])

    def sample(self, noise: Array) -> Array:
        """x = g / (g + g') of two Gamma variables; differentiable in the parameters.

        Drawn by rejection [Marsaglia & Tsang 2000].
        """

        def draw(key: Array, alpha: Array, beta: Array) -> Array:
            return jax.random.beta(key, alpha, beta, dtype=alpha.dtype)

        for _ in range(self._batch_rank()):
            draw = jax.vmap(draw)
        return self._from_unit(draw(noise, _widen(self.alpha), _widen(self.beta)))

    def log_prob(self, action: Array) -> Array:
        """sum_d [(alpha - 1) log x + (beta - 1) log(1 - x) - log B(alpha, beta) - log(high - low)], ``[...]``."""
        alpha, beta = _widen(self.alpha), _widen(self.beta)
        eps = jnp.finfo(alpha.dtype).eps
        x = jnp.clip(self._to_unit(action, alpha.dtype), eps, 1.0 - eps)
        log_prob = (alpha - 1.0) * jnp.log(x) + (beta - 1.0) * jnp.log1p(-x) - betaln(alpha, beta)
        return _sum_event(log_prob - self._log_width(alpha.dtype), self.event_rank)

    def entropy(self) -> Array:
        """sum_d [log B(alpha, beta) - (alpha - 1) E log x - (beta - 1) E log(1 - x) + log(high - low)].

        E log x = psi(alpha) - psi(alpha + beta), with the digamma function psi; E log(1 - x) likewise.
        """
        alpha, beta = _widen(self.alpha), _widen(self.beta)
        total = digamma(alpha + beta)
        mean_log = (alpha - 1.0) * (digamma(alpha) - total) + (beta - 1.0) * (digamma(beta) - total)
        return _sum_event(betaln(alpha, beta) - mean_log + self._log_width(alpha.dtype), self.event_rank)

    def kl(self, other: Self) -> Array:
        """sum_d [log B' - log B + (alpha - alpha') E log x + (beta - beta') E log(1 - x)], ``[...]``."""
        alpha, beta, other_alpha, other_beta = map(_widen, (self.alpha, self.beta, other.alpha, other.beta))
        total = digamma(alpha + beta)
        moved = (alpha - other_alpha) * (digamma(alpha) - total) + (beta - other_beta) * (digamma(beta) - total)
        return _sum_event(betaln(other_alpha, other_beta) - betaln(alpha, beta) + moved, self.event_rank)

    def mode(self) -> Array:
        """x = (alpha - 1) / (alpha + beta - 2) where alpha and beta are above 1.

        Where only one of them is above 1: the bound at which the density is highest. Where neither is, the density has no
        maximum or is highest at both bounds, and the action is the mean, x = alpha / (alpha + beta).
        """
        alpha, beta = _widen(self.alpha), _widen(self.beta)
        p, q = jnp.maximum(alpha - 1.0, 0.0), jnp.maximum(beta - 1.0, 0.0)
        has_peak = p + q > 0
        return self._from_unit(jnp.where(has_peak, p, alpha) / jnp.where(has_peak, p + q, alpha + beta))


class Joint(struct.PyTreeNode):
    """Independent distributions in a pytree (nested dicts, tuples, ...); an action is the same pytree of actions.

    Attributes:
        parts: A pytree of distributions with the same batch axes.

    Raises:
        ValueError: When used, for a pytree that holds something else, or nothing.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.distributions import Categorical, DiagGaussian, Joint
        >>> gas, gear = DiagGaussian(jnp.zeros((3, 2)), jnp.zeros((3, 2))), Categorical(jnp.zeros((3, 5)))
        >>> dist = Joint({"gas": gas, "gear": gear})
        >>> jax.tree.map(jnp.shape, dist.sample(dist.noise(jax.random.key(0))))
        {'gas': (3, 2), 'gear': (3,)}
        >>> dist.entropy().shape
        (3,)
    """

    parts: PyTree

    def _flatten(self) -> tuple[list[Any], Any]:
        """The distributions, and their tree."""
        parts, tree = jax.tree.flatten(self.parts, is_leaf=lambda x: isinstance(x, Distribution))
        wrong = [type(part).__name__ for part in parts if not isinstance(part, Distribution)]
        if wrong or not parts:
            raise ValueError(f"Joint: parts must be a pytree of distributions, but has {', '.join(wrong) or 'none'}")
        return parts, tree

    def _total(self, method: str, *trees: PyTree) -> Array:
        """The sum over the parts of a method of theirs, each with its part of the arguments."""
        parts, tree = self._flatten()
        columns = [tree.flatten_up_to(x) for x in trees]
        return functools.reduce(jnp.add, (getattr(part, method)(*args) for part, *args in zip(parts, *columns, strict=True)))

    def noise(self, key: Array) -> PyTree:
        """The noise of each part, each from its own key."""
        parts, tree = self._flatten()
        return tree.unflatten([part.noise(k) for part, k in zip(parts, jax.random.split(key, len(parts)), strict=True)])

    def sample(self, noise: PyTree) -> PyTree:
        """The action of each part."""
        parts, tree = self._flatten()
        return tree.unflatten([part.sample(x) for part, x in zip(parts, tree.flatten_up_to(noise), strict=True)])

    def log_prob(self, action: PyTree) -> Array:
        """sum_i log pi_i(a_i), ``[...]``."""
        return self._total("log_prob", action)

    def entropy(self) -> Array:
        """sum_i H(pi_i), ``[...]``."""
        return self._total("entropy")

    def kl(self, other: Self) -> Array:
        """sum_i KL(pi_i || other_i), ``[...]``."""
        return self._total("kl", other.parts)

    def mode(self) -> PyTree:
        """The mode of each part."""
        parts, tree = self._flatten()
        return tree.unflatten([part.mode() for part in parts])
