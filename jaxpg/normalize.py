"""Scaling of observations and rewards. Statistics are shared by all environments and change only after an update.

A normaliser (:class:`jaxpg.types.Normalizer`) maps raw observations and rewards to what the networks see; :class:`Chain` joins
two.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg.hparams import HParams
from jaxpg.types import Array, Normalizer, PyTree, Trajectory


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
    """Count, mean and mean squared deviation of everything seen so far."""

    count: Array
    mean: PyTree
    variance: PyTree


def merge(moments: Moments, values: PyTree, weight: Array) -> Moments:
    """The moments with ``values [T, B, ...]`` of weights ``[T, B]`` added [Chan et al. 1979]."""
    added = jnp.sum(weight)
    total = moments.count + added
    share = added / jnp.maximum(total, 1.0)

    def one(mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        w = weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim)) / jnp.maximum(added, 1.0)
        batch_mean = jnp.sum(w * x, axis=(0, 1))
        batch_variance = jnp.sum(w * (x - batch_mean) ** 2, axis=(0, 1))
        delta = batch_mean - mean
        return mean + delta * share, variance + (batch_variance - variance) * share + delta**2 * share * (1.0 - share)

    leaves, treedef = jax.tree.flatten(values)
    pairs = [one(*row) for row in zip(jax.tree.leaves(moments.mean), jax.tree.leaves(moments.variance), leaves, strict=True)]
    mean, variance = (jax.tree.unflatten(treedef, column) for column in zip(*pairs, strict=True))
    return Moments(total, mean, variance)


@dataclasses.dataclass(frozen=True)
class RunningObservation(Identity):
    """(obs - mean) / deviation of all observations so far, clipped to ``[-clip, clip]``; mean 0 and deviation 1 at first."""

    clip: float = 10.0

    def init(self, obs: PyTree) -> Moments:
        """Mean 0 and variance 1 with no weight."""
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], jnp.result_type(float)), obs)
        return Moments(jnp.zeros((), jnp.result_type(float)), zero, jax.tree.map(jnp.ones_like, zero))

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
        zero = jnp.zeros((), jnp.result_type(float))
        return Moments(zero, zero, jnp.ones_like(zero)), jnp.zeros(jax.tree.leaves(obs)[0].shape[0], zero.dtype)

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
