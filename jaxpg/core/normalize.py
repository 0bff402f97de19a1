"""Scaling of observations and rewards. Statistics are shared by all environments and change only after an update.

A normaliser (:class:`jaxpg.types.Normalizer`) maps raw observations and rewards to what the networks see; :class:`Chain` joins
two.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree

from jaxpg.core import _compensated as compensated
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Array, Normalizer, PyTree, Trajectory


@dataclasses.dataclass(frozen=True)
class Identity:
    """Changes nothing, remembers nothing; the others override what they change."""

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


@dataclasses.dataclass(frozen=True)
class BoundedObservation(Identity):
    """2 (obs - low) / (high - low) - 1: observations from their declared bounds to [-1, 1].

    ``low`` and ``high`` hold one bound a component, in the order of an array of ``shape``.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, env: Any) -> BoundedObservation:
        """The bounds that a gymnax environment declares; a ``ValueError`` where one of them is infinite."""
        space = env.observation_space(env.default_params)
        low, high = (np.broadcast_to(np.asarray(b, np.float64), space.shape).ravel() for b in (space.low, space.high))
        if not np.all(high - low < 1e30):
            raise ValueError(f"observation = bounds: {env.name} declares no finite bounds; use running or none")
        return cls(tuple(low.tolist()), tuple(high.tolist()), tuple(space.shape))

    def init(self, obs: Array) -> PyTree:
        """No statistics; a ``ValueError`` where observations do not have the declared shape."""
        if obs.shape[1:] != self.shape:
            declared = f"the environment declares observations of shape {self.shape}, but gives {obs.shape[1:]}"
            raise ValueError(f"observation = bounds: {declared}; use running or none")
        return ()

    def observation(self, stats: PyTree, obs: Array) -> Array:
        """Observations in [-1, 1]."""
        low, high = (jnp.asarray(b, float).reshape(self.shape) for b in (self.low, self.high))
        return 2.0 * (obs - low) / (high - low) - 1.0


class Moments(struct.PyTreeNode):
    """Count, mean and mean squared deviation of everything seen so far, as compensated sums: right after 10**12 steps too."""

    count: Array
    mean: PyTree
    variance: PyTree
    compensation: Array  # what rounding has taken from all of the above, in one vector; see jaxpg.compensated

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
    """sum(w x) / sum(w) over the two axes of ``weight``, of each of ``values``; 0 where there is no weight at all.

    Over time all in one pass, which takes a third of the time of a sum of each.
    """
    share = weight / jnp.maximum(jnp.sum(weight), 1.0)
    weighted = [share.reshape(share.shape + (1,) * (x.ndim - 2)) * x for x in values]
    zeros = [jnp.zeros((), x.dtype) for x in weighted]
    return [jnp.sum(x, axis=0) for x in jax.lax.reduce(weighted, zeros, functools.partial(jax.tree.map, jnp.add), (0,))]


@dataclasses.dataclass(frozen=True)
class RunningObservation(Identity):
    """(obs - mean) / deviation of all observations so far, clipped to ``[-clip, clip]``; mean 0 and deviation 1 at first."""

    clip: float = 10.0

    def init(self, obs: PyTree) -> Moments:
        """Mean 0 and variance 1 with no weight."""
        return Moments.start(jax.tree.map(lambda x: x[0], obs))

    def observation(self, stats: Moments, obs: PyTree) -> PyTree:
        """Standardised observations."""

        def one(x: Array, mean: Array, variance: Array) -> Array:
            return jnp.clip((x - mean) * jax.lax.rsqrt(variance + 1e-8), -self.clip, self.clip)

        return jax.tree.map(one, obs, stats.mean, stats.variance)

    def update(self, stats: Moments, trajectory: Trajectory, hp: HParams) -> Moments:
        """Adds the rollout's observations."""
        return merge(stats, trajectory.obs, trajectory.weight)


@dataclasses.dataclass(frozen=True)
class ConstantReward(Identity):
    """reward * reward_scale: leaves the task as it is and moves the values that the critic must learn to a better size."""

    reads = ("reward_scale",)

    def reward(self, stats: PyTree, reward: Array, hp: HParams) -> Array:
        """The scaled reward."""
        return reward * hp.reward_scale


@dataclasses.dataclass(frozen=True)
class RunningReward(Identity):
    """reward / deviation of the running discounted return sum_k gamma^k r_{t-k}, clipped to ``[-clip, clip]``; the mean stays.

    The running return of an environment starts from zero with each episode [Engstrom et al. 2020, less their leak].
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
        """Adds the rollout's running returns."""

        def forward(running: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
            reward, length = row
            running = hp.gamma * running * (length > 1) + reward
            return running, running

        moments, running = stats
        running, seen = jax.lax.scan(forward, running, (trajectory.reward, trajectory.episode_length))
        return merge(moments, seen, trajectory.weight), running


@dataclasses.dataclass(frozen=True)
class Chain:
    """First one normaliser, then the other; the second sees what the first returns, its statistics are those of raw data."""

    first: Normalizer
    second: Normalizer

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What either reads; ``None`` (anything) where one of them does not say."""
        first, second = (getattr(normalizer, "reads", None) for normalizer in (self.first, self.second))
        return None if first is None or second is None else (*first, *second)

    def init(self, obs: PyTree) -> tuple[PyTree, PyTree]:
        """Both statistics."""
        return self.first.init(obs), self.second.init(obs)

    def observation(self, stats: tuple[PyTree, PyTree], obs: PyTree) -> PyTree:
        """Both maps."""
        return self.second.observation(stats[1], self.first.observation(stats[0], obs))

    def reward(self, stats: tuple[PyTree, PyTree], reward: Array, hp: HParams) -> Array:
        """Both maps."""
        return self.second.reward(stats[1], self.first.reward(stats[0], reward, hp), hp)

    def update(self, stats: tuple[PyTree, PyTree], trajectory: Trajectory, hp: HParams) -> tuple[PyTree, PyTree]:
        """Both updates."""
        return self.first.update(stats[0], trajectory, hp), self.second.update(stats[1], trajectory, hp)
