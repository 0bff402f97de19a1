"""Scaling of observations and rewards. Statistics are shared by all environments and change only after an update.

A normaliser (``jaxpg.types.Normalizer``) maps raw observations and rewards to what the networks see; ``Chain`` joins two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments.spaces import Discrete
from jax.flatten_util import ravel_pytree

from jaxpg.core import _compensated as compensated
from jaxpg.core import spaces
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Array, Normalizer, PyTree, Trajectory

Leaves = tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Identity:
    """Changes nothing and keeps no statistics; a base class for normalisers, which override what they change.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import normalize
        >>> class Halved(normalize.Identity):
        ...     def observation(self, stats, obs):
        ...         return obs / 2
        >>> Halved().observation((), jnp.array([4.0]))
        Array([2.], dtype=float32)
    """

    reads = ()

    def init(self, obs: PyTree) -> PyTree:
        """No statistics."""
        return ()

    def observation(self, stats: PyTree, obs: PyTree) -> PyTree:
        """The raw observation."""
        return obs

    def reward(self, stats: PyTree, reward: Array, hp: HParams) -> Array:
        """The raw reward."""
        return reward

    def update(self, stats: PyTree, trajectory: Trajectory, hp: HParams) -> PyTree:
        """The same statistics."""
        return stats


identity = Identity()
"""The normaliser that changes nothing, the default of ``jaxpg.Algorithm``."""


def map_scaled(function: Callable[..., Array], names: Leaves, obs: PyTree, *trees: PyTree) -> PyTree:
    """Map ``function(leaf, *leaves of trees)`` over the leaves that are scaled, the only ones in ``trees``; keep the others."""
    flat, structure = jax.tree_util.tree_flatten_with_path(obs)
    columns = [iter(jax.tree.leaves(tree)) for tree in trees]
    scaled = [function(x, *map(next, columns)) if is_scaled(names, path, x) else x for path, x in flat]
    return structure.unflatten(scaled)


def is_scaled(names: Leaves, path: Any, x: Any) -> bool:
    """Whether a leaf is scaled: if it is among the given names, or, without names, if it holds floats."""
    return jnp.issubdtype(x.dtype, jnp.inexact) if names is None else name_of(path) in names


def name_of(path: Any) -> str:
    """The name of a leaf: its keys, joined by ``/``; empty for an observation that is one array."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_names(names: Leaves, obs: PyTree) -> None:
    """Raise ``ValueError`` for a name that no leaf of ``obs`` has."""
    there = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(obs)]
    for name in () if names is None else names:
        if name not in there:
            raise ValueError(f"leaves has {name!r}, but the observation has the leaves {', '.join(map(repr, there)) or 'none'}")


class Bounds(NamedTuple):
    """The declared bounds of one leaf: one number a component, in the order of an array of ``shape``."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class BoundedObservation(Identity):
    """(obs - middle) / (half the width): observations from their declared bounds to [-1, 1]; 0 where both bounds are equal.

    ``BoundedObservation.of(env)`` reads the bounds of an environment. Only floats are scaled; other leaves (images, masks,
    numbers of states) stay as they are.

    Args:
        bounds: The bounds of the leaves that are scaled, in the order of ``jax.tree.leaves``.
        leaves: Names of the leaves to scale, their keys joined by ``/``, whatever their dtype; ``None``: all floats.
        clip: Observations outside of the bounds are clipped to ``[-clip, clip]`` after scaling, if given.

    Raises:
        ValueError: In ``of``, where the environment declares no finite bounds; in ``init``, where observations do not have the
            declared shapes.

    Examples:
        >>> import jaxpg
        >>> import jax.numpy as jnp
        >>> scaling = jaxpg.normalize.BoundedObservation.of(jaxpg.make("MountainCar-v0"))
        >>> low, high = scaling.bounds[0].low, scaling.bounds[0].high
        >>> scaling.observation((), jnp.array([low, high])).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """

    bounds: tuple[Bounds, ...]
    leaves: Leaves = None
    clip: float | None = None

    @classmethod
    def of(cls, env: Any, leaves: Leaves = None, clip: float | None = None) -> BoundedObservation:
        """From the bounds that an environment declares for its default parameters.

        Args:
            env: The environment.
            leaves: Names of the leaves to scale, their keys joined by ``/``; ``None``: all floats.
            clip: Observations are clipped to ``[-clip, clip]`` after scaling, if given.

        Raises:
            ValueError: Where the environment declares no bounds, none for a leaf that is scaled, or bounds more than 1e30
                apart, and where observations have another structure than it declares.
        """
        name = getattr(env, "name", type(env).__name__)
        space = spaces.observation_space(env, env.default_params)
        instead = "use running or none"
        if space is None or isinstance(space, Discrete | spaces.MultiDiscrete):
            raise ValueError(f"observation = bounds: {name} declares no bounds; {instead}")
        obs = jax.eval_shape(env.reset, jax.random.key(0), env.default_params)[0]
        check_names(leaves, obs)
        declared, structure = jax.tree.flatten(spaces.read(space))
        if structure != jax.tree.structure(obs):
            raise ValueError(
                f"observation = bounds: {name} declares observations of another structure than it gives; {instead}"
            )
        found = []
        for leaf, (path, x) in zip(declared, jax.tree_util.tree_leaves_with_path(obs), strict=True):
            if not is_scaled(leaves, path, x):
                continue
            which = f" for {name_of(path)}" if path else ""
            if not np.all(leaf.high - leaf.low <= spaces.UNBOUNDED):
                raise ValueError(f"observation = bounds: {name} declares no finite bounds{which}; {instead}")
            found.append(Bounds(tuple(leaf.low.ravel().tolist()), tuple(leaf.high.ravel().tolist()), leaf.shape))
        return cls(tuple(found), leaves, clip)

    def init(self, obs: PyTree) -> PyTree:
        """No statistics; a ``ValueError`` where observations do not have the declared shapes."""
        flat = jax.tree_util.tree_leaves_with_path(obs)
        given = [x.shape[1:] for path, x in flat if is_scaled(self.leaves, path, x)]
        declared = [bounds.shape for bounds in self.bounds]
        if given != declared:
            shapes = ["{} {}".format("shape" if len(x) == 1 else "shapes", ", ".join(map(str, x))) for x in (declared, given)]
            found = f"the environment declares observations of {shapes[0]}, but gives {shapes[1]}"
            raise ValueError(f"observation = bounds: {found}; use running or none")
        return ()

    def observation(self, stats: PyTree, obs: PyTree) -> PyTree:
        """Observations in [-1, 1]."""
        bounds = iter(self.bounds)
        return map_scaled(lambda x: clipped(to_unit(x, next(bounds)), self.clip), self.leaves, obs)


def to_unit(x: Array, bounds: Bounds) -> Array:
    """(x - middle) / half: the middle as a sum of two floats, so that bounds far from 0 cost no digits; 0 where half is 0.

    A width below the smallest normal number counts as 0: devices flush what is smaller.
    """
    dtype = jnp.promote_types(x.dtype, jnp.result_type(float))
    low, high = (np.reshape(np.array(b, np.float64), bounds.shape) for b in (bounds.low, bounds.high))
    middle, half = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
    near = middle.astype(dtype)
    rest = (middle - near.astype(np.float64)).astype(dtype)
    is_wide = half >= np.finfo(dtype).tiny
    scaled = ((x.astype(dtype) - near) - rest) / np.where(is_wide, half, 1.0).astype(dtype)
    return jnp.where(is_wide, scaled, 0.0)


def clipped(x: Array, clip: float | None) -> Array:
    """Clip to ``[-clip, clip]``, unless ``clip`` is ``None``."""
    return x if clip is None else jnp.clip(x, -clip, clip)


class Moments(struct.PyTreeNode):
    """Count, mean and mean squared deviation of everything seen so far, as compensated sums: right after 10**12 steps too."""

    count: Array
    mean: PyTree
    variance: PyTree
    compensation: Array  # the rounding errors of all of the above, in one vector; see jaxpg.core._compensated

    @classmethod
    def start(cls, shapes: PyTree) -> Moments:
        """Mean 0 and variance 1 with no weight; ``shapes`` are arrays, or have ``shape``, like one value."""
        mean = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.result_type(float)), shapes)
        count, variance = jnp.zeros((), jnp.result_type(float)), jax.tree.map(jnp.ones_like, mean)
        return cls(count, mean, variance, jnp.zeros_like(ravel_pytree((count, mean, variance))[0]))


def merge(moments: Moments, values: PyTree, weight: Array) -> Moments:
    """The moments with ``values [T, B, ...]`` of weights ``[T, B]`` added [Chan et al. 1979].

    With m and v the moments so far, means over the new values, and s their share of all weight,

        delta = mean(x - m),  excess = mean((x - m)^2 - v) - delta^2,  m += s delta,  v += s (excess + (1 - s) delta^2).

    Means of the values themselves would hide a small change of a large number, and a large mean a small variance; for this
    reason the first values of all are compared with the mean of their first step that has weight.
    """
    added = jnp.sum(weight)
    share = added / jnp.maximum(moments.count + added, 1.0)
    is_first = (moments.count == 0) & (added > 0)
    step = jnp.argmax(jnp.sum(weight, axis=1) > 0)
    start = jax.tree.map(
        lambda m, x: jnp.where(is_first, average(weight[step][None], x[step][None])[0], m), moments.mean, values
    )
    spread = jax.tree.map(lambda v: jnp.where(is_first, 0.0, v), moments.variance)
    numbers, unravel = ravel_pytree((moments.count, start, spread))
    _, start_low, _ = unravel(moments.compensation)

    def changes(x: Array, m: Array, m_low: Array, v: Array) -> tuple[Array, Array]:
        deviation = (x - m) - m_low
        delta, excess = average(weight, deviation, deviation**2 - v)
        excess = jnp.maximum(excess - delta**2, -v)
        return share * delta, share * (excess + (1.0 - share) * delta**2)

    pairs = [changes(*row) for row in zip(*map(jax.tree.leaves, (values, start, start_low, spread)), strict=True)]
    change, _ = ravel_pytree((added, *zip(*pairs, strict=True)))
    numbers, compensation = compensated.add(numbers, moments.compensation, change)
    count, mean, variance = unravel(numbers)
    return Moments(count, mean, variance, compensation)


def average(weight: Array, *values: Array) -> list[Array]:
    """sum(w x) / sum(w) over the two axes of ``weight``, of each of ``values``; 0 if all weights are 0.

    Over time all in one pass, which takes a third of the time of a sum of each.
    """
    share = weight / jnp.maximum(jnp.sum(weight), 1.0)
    weighted = [share.reshape(share.shape + (1,) * (x.ndim - 2)) * x for x in values]
    zeros = [jnp.zeros((), x.dtype) for x in weighted]
    return [jnp.sum(x, axis=0) for x in jax.lax.reduce(weighted, zeros, functools.partial(jax.tree.map, jnp.add), (0,))]


@dataclasses.dataclass(frozen=True)
class RunningObservation(Identity):
    """(obs - mean) / standard deviation of all observations so far, clipped to ``[-clip, clip]``.

    Mean 0 and deviation 1 at first. Only floats are scaled; other leaves (images, masks, numbers of states) stay as they are. A
    component that has never changed is 0 after the first update.

    Args:
        clip: The largest scaled observation; ``None`` does not clip.
        leaves: Names of the leaves to scale, their keys joined by ``/``, whatever their dtype; ``None``: all floats.

    Raises:
        ValueError: In ``init``, for a name that no leaf has.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import normalize
        >>> scaling = normalize.RunningObservation(clip=5.0)
        >>> stats = scaling.init(jnp.zeros((3, 2)))
        >>> scaling.observation(stats, jnp.array([1.0, 9.0]))
        Array([1., 5.], dtype=float32)
    """

    clip: float | None = 10.0
    leaves: Leaves = None

    def init(self, obs: PyTree) -> Moments:
        """Mean 0 and variance 1 with weight 0, for the leaves that are scaled; a ``ValueError`` for a name that no leaf has."""
        check_names(self.leaves, obs)
        return Moments.start(jax.tree.map(lambda x: x[0], self.scaled(obs)))

    def observation(self, stats: Moments, obs: PyTree) -> PyTree:
        """Standardised observations."""

        def one(x: Array, mean: Array, variance: Array) -> Array:
            return clipped((x - mean) * jax.lax.rsqrt(variance + 1e-8), self.clip)

        return map_scaled(one, self.leaves, obs, stats.mean, stats.variance)

    def scaled(self, obs: PyTree) -> PyTree:
        """The leaves that are scaled, with ``None`` in place of the others."""
        return jax.tree_util.tree_map_with_path(lambda path, x: x if is_scaled(self.leaves, path, x) else None, obs)

    def update(self, stats: Moments, trajectory: Trajectory, hp: HParams) -> Moments:
        """Statistics that include the rollout's observations."""
        return merge(stats, self.scaled(trajectory.obs), trajectory.weight)


@dataclasses.dataclass(frozen=True)
class ConstantReward(Identity):
    """reward * reward_scale.

    It leaves the task as it is and gives the values that the critic must learn a better scale.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, normalize
        >>> normalize.ConstantReward().reward((), jnp.array([10.0]), HParams(reward_scale=0.1))
        Array([1.], dtype=float32)
    """

    reads = ("reward_scale",)

    def reward(self, stats: PyTree, reward: Array, hp: HParams) -> Array:
        """The scaled reward."""
        return reward * hp.reward_scale


@dataclasses.dataclass(frozen=True)
class RunningReward(Identity):
    """reward / standard deviation of the running discounted return sum_k gamma^k r_{t-k}, clipped to ``[-clip, clip]``.

    The mean is not subtracted. The running return of an environment starts from zero with each episode; in the code of Engstrom
    et al. it leaks into the next one. Floats are precise enough however long the run: each step forgets 1 - gamma of the sum,
    rounding errors too, which stay below 2**-23 / (1 - gamma) of the largest return. With gamma = 1 the length of an episode
    takes the place of 1 / (1 - gamma).

    Args:
        clip: The largest scaled reward.

    Source: Engstrom et al. 2020.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, normalize
        >>> scaling = normalize.RunningReward(clip=5.0)
        >>> stats = scaling.init(jnp.zeros((3, 2)))
        >>> scaling.reward(stats, jnp.array([1.0, 9.0]), HParams(gamma=0.9))
        Array([1., 5.], dtype=float32)
    """

    clip: float = 10.0
    reads = ("gamma",)

    def init(self, obs: PyTree) -> tuple[Moments, Array]:
        """The moments of the running returns, and the running returns themselves, ``[B]``."""
        running = jnp.zeros(jax.tree.leaves(obs)[0].shape[0], jnp.result_type(float))
        return Moments.start(running[0]), running

    def reward(self, stats: tuple[Moments, Array], reward: Array, hp: HParams) -> Array:
        """The scaled reward."""
        return jnp.clip(reward * jax.lax.rsqrt(stats[0].variance + 1e-8), -self.clip, self.clip)

    def update(self, stats: tuple[Moments, Array], trajectory: Trajectory, hp: HParams) -> tuple[Moments, Array]:
        """Statistics that include the rollout's running returns."""

        def forward(running: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
            reward, length = row
            running = hp.gamma * running * (length > 1) + reward
            return running, running

        moments, running = stats
        running, seen = jax.lax.scan(forward, running, (trajectory.reward, trajectory.episode_length))
        return merge(moments, seen, trajectory.weight), running


@dataclasses.dataclass(frozen=True)
class Chain:
    """One normaliser after the other: the second gets what the first returns; the statistics of both are those of raw data.

    Args:
        first: The first normaliser.
        second: The normaliser that gets its results.

    Examples:
        >>> import dataclasses
        >>> import jaxpg
        >>> from jaxpg.normalize import Chain, ConstantReward, RunningObservation
        >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"))
        >>> algo = dataclasses.replace(algo, normalizer=Chain(RunningObservation(), ConstantReward()))
        >>> algo.normalizer.reads
        ('reward_scale',)
    """

    first: Normalizer
    second: Normalizer

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The hyperparameters that either reads; ``None`` (any) where one of them does not say."""
        first, second = (getattr(normalizer, "reads", None) for normalizer in (self.first, self.second))
        return None if first is None or second is None else (*first, *second)

    def init(self, obs: PyTree) -> tuple[PyTree, PyTree]:
        """The statistics of both."""
        return self.first.init(obs), self.second.init(obs)

    def observation(self, stats: tuple[PyTree, PyTree], obs: PyTree) -> PyTree:
        """Observations scaled by both."""
        return self.second.observation(stats[1], self.first.observation(stats[0], obs))

    def reward(self, stats: tuple[PyTree, PyTree], reward: Array, hp: HParams) -> Array:
        """Rewards scaled by both."""
        return self.second.reward(stats[1], self.first.reward(stats[0], reward, hp), hp)

    def update(self, stats: tuple[PyTree, PyTree], trajectory: Trajectory, hp: HParams) -> tuple[PyTree, PyTree]:
        """The statistics of both, with the trajectory."""
        return self.first.update(stats[0], trajectory, hp), self.second.update(stats[1], trajectory, hp)
