"""Estimators of the advantage Psi_t, from the most variance to the least.

An estimator is a function ``(trajectory, value, next_value, hp) -> (psi, target)`` of arrays ``[T, B]``: ``T`` steps of ``B``
environments. ``target`` is what the critic is trained to predict. An estimator without configuration is a function; one with
configuration is a frozen dataclass. An episode that was cut by a time limit, or by the end of the rollout, continues with the
value of its last observation; after a termination nothing follows.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxpg.core import returns
from jaxpg.core._shapes import check_floats
from jaxpg.core.hparams import HParams, reads
from jaxpg.core.objectives import standardize, weighted_mean
from jaxpg.core.types import AdvantageFn, Array, Trajectory


def check(trajectory: Trajectory, value: Array, next_value: Array) -> None:
    """Rewards, weights and values are floats ``[T, B]``."""
    check_floats("[T, B]", reward=trajectory.reward, weight=trajectory.weight, value=value, next_value=next_value)


def continuation(trajectory: Trajectory, gamma: Array, trace_decay: Array | float = 1.0) -> tuple[Array, Array]:
    """The flags as numbers: ``discount = gamma (1 - terminated)`` and ``trace = trace_decay (1 - done)``."""
    return gamma * (1.0 - trajectory.terminated), trace_decay * (1.0 - trajectory.done)


@reads("gamma")
def reward_to_go(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t, the discounted sum of the rewards from step t on; earlier rewards do not depend on a_t.

    Args:
        trajectory: A rollout, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``; not used.
        next_value: v(s_{t+1}), ``[T, B]``; used where an episode is cut.
        hp: Hyperparameters; reads ``gamma``.

    Returns:
        Psi and the critic's target, both G_t, ``[T, B]``.

    Raises:
        ValueError: For arrays that are not floats of one shape ``[T, B]``.

    Source: Williams 1992.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))  # two steps of one environment
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> psi, target = advantages.reward_to_go(rows, zeros, zeros, HParams(gamma=0.5))
        >>> psi.tolist()
        [[3.0], [4.0]]
    """
    check(trajectory, value, next_value)
    discount, trace = continuation(trajectory, hp.gamma)
    g = returns.lambda_return(trajectory.reward, discount, trace, next_value)
    return g, g


@reads("gamma")
def total_return(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G(tau) = sum_k gamma^k r_k, the return of the complete episode, the same for each of its steps.

    For rollouts of complete episodes (``jaxpg.rollout.episodic``): each environment holds one episode. The padding after its
    end gets the same number and has weight 0.

    Args:
        trajectory: A rollout, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``; not used.
        next_value: v(s_{t+1}), ``[T, B]``; used where an episode is cut.
        hp: Hyperparameters; reads ``gamma``.

    Returns:
        Psi, and the critic's target G_t, ``[T, B]``.

    Raises:
        ValueError: For arrays that are not floats of one shape ``[T, B]``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> advantages.total_return(rows, zeros, zeros, HParams(gamma=0.5))[0].tolist()
        [[3.0], [3.0]]
    """
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return jnp.broadcast_to(g[:1], g.shape), g


@reads("gamma", "baseline")
def constant_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - b, with the hyperparameter ``baseline`` for b.

    Args:
        trajectory: A rollout, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``; not used.
        next_value: v(s_{t+1}), ``[T, B]``; used where an episode is cut.
        hp: Hyperparameters; reads ``gamma`` and ``baseline``, which has the unit of returns.

    Returns:
        Psi, and the critic's target G_t, ``[T, B]``.

    Raises:
        ValueError: For arrays that are not floats of one shape ``[T, B]``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> advantages.constant_baseline(rows, zeros, zeros, HParams(gamma=0.5, baseline=2.0))[0].tolist()
        [[1.0], [2.0]]
    """
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return g - hp.baseline, g


@reads("gamma")
def batch_mean_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - mean(G), the mean over all steps of the rollout.

    The mean contains the sample itself, which scales the gradient by 1 - 1/B.

    Args:
        trajectory: A rollout, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``; not used.
        next_value: v(s_{t+1}), ``[T, B]``; used where an episode is cut.
        hp: Hyperparameters; reads ``gamma``.

    Returns:
        Psi, and the critic's target G_t, ``[T, B]``.

    Raises:
        ValueError: For arrays that are not floats of one shape ``[T, B]``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> advantages.batch_mean_baseline(rows, zeros, zeros, HParams(gamma=0.5))[0].tolist()
        [[-0.5], [0.5]]
    """
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return g - weighted_mean(g, trajectory.weight), g


@reads("gamma")
def leave_one_out_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - mean of G in the *other* environments: an unbiased baseline from the batch.

    The mean is 0 where the other environments have no weight.

    Args:
        trajectory: A rollout of at least two environments, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``; not used.
        next_value: v(s_{t+1}), ``[T, B]``; used where an episode is cut.
        hp: Hyperparameters; reads ``gamma``.

    Returns:
        Psi, and the critic's target G_t, ``[T, B]``.

    Raises:
        ValueError: For fewer than two environments, and for arrays that are not floats of one shape ``[T, B]``.

    Source: Kool et al. 2019.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((1, 3))  # one step of three environments
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0, 2.0, 6.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> advantages.leave_one_out_baseline(rows, zeros, zeros, HParams(gamma=0.5))[0].tolist()
        [[-3.0, -1.5, 4.5]]
    """
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    if g.shape[1] < 2:
        raise ValueError(f"num_envs = {g.shape[1]}; leave_one_out_baseline needs at least 2 environments")
    total, weight = jnp.sum(g * trajectory.weight, axis=0), jnp.sum(trajectory.weight, axis=0)
    others = jnp.sum(weight) - weight
    return g - (jnp.sum(total) - total) / jnp.where(others > 0, others, 1.0), g


@reads("gamma")
def learned_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - v(s_t), the return minus the critic's value.

    With ``jaxpg.networks.ConstantCritic`` the baseline is a running mean of returns.

    Args:
        trajectory: A rollout, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``.
        next_value: v(s_{t+1}), ``[T, B]``; used where an episode is cut.
        hp: Hyperparameters; reads ``gamma``.

    Returns:
        Psi, and the critic's target G_t, ``[T, B]``.

    Raises:
        ValueError: For arrays that are not floats of one shape ``[T, B]``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> advantages.learned_baseline(rows, zeros + 2, zeros, HParams(gamma=0.5))[0].tolist()
        [[1.0], [2.0]]
    """
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return g - value, g


@reads("gamma")
def one_step_td(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = delta_t = r_t + gamma v(s_{t+1}) - v(s_t): the least variance; biased as far as v is wrong.

    Args:
        trajectory: A rollout, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``.
        next_value: v(s_{t+1}), ``[T, B]``.
        hp: Hyperparameters; reads ``gamma``.

    Returns:
        Psi, and the critic's target r_t + gamma v(s_{t+1}), ``[T, B]``.

    Raises:
        ValueError: For arrays that are not floats of one shape ``[T, B]``.

    Source: Sutton & Barto 2018, section 13.5.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> advantages.one_step_td(rows, zeros + 1, zeros + 2, HParams(gamma=0.5))[0].tolist()
        [[1.0], [4.0]]
    """
    check(trajectory, value, next_value)
    discount, _ = continuation(trajectory, hp.gamma)
    delta = returns.td_error(trajectory.reward, discount, value, next_value)
    return delta, delta + value


@dataclasses.dataclass(frozen=True)
class NStep:
    """Psi_t = r_t + gamma r_{t+1} + ... + gamma^n v(s_{t+n}) - v(s_t), with n rewards.

    There are fewer where an episode or the rollout ends. It reads the hyperparameter ``gamma``. Called like the other
    estimators, it returns Psi and the critic's target Psi + v(s_t).

    Args:
        n: How many rewards; at least 1. The cost is ``n`` passes over the rollout.

    Raises:
        ValueError: For ``n`` below 1.

    Source: Sutton & Barto 2018, section 7.1.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((3, 1))
        >>> rows = SimpleNamespace(reward=zeros + 1, terminated=zeros, done=zeros, weight=zeros + 1)
        >>> advantages.NStep(2)(rows, zeros, zeros, HParams(gamma=0.5))[0].tolist()
        [[1.5], [1.5], [1.0]]
    """

    n: int
    reads = ("gamma",)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n = {self.n}; an n-step advantage needs n >= 1")

    def __call__(self, trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
        check(trajectory, value, next_value)
        discount, trace = continuation(trajectory, hp.gamma)
        g = returns.n_step_return(trajectory.reward, discount, trace, next_value, self.n)
        return g - value, g


@reads("gamma", "gae_lambda")
def gae(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = sum_k (gamma lambda)^k delta_{t+k}, with delta_t = r_t + gamma v(s_{t+1}) - v(s_t), known as GAE.

    Args:
        trajectory: A rollout, leaves ``[T, B, ...]``.
        value: v(s_t), ``[T, B]``.
        next_value: v(s_{t+1}), ``[T, B]``.
        hp: Hyperparameters; reads ``gamma`` and ``gae_lambda``, both in [0, 1].

    Returns:
        Psi, and the critic's target Psi_t + v(s_t), ``[T, B]``.

    Raises:
        ValueError: For arrays that are not floats of one shape ``[T, B]``.

    Source: Schulman et al. 2016, eq. 16.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> psi, target = advantages.gae(rows, zeros, zeros, HParams(gamma=0.5, gae_lambda=0.5))
        >>> psi.tolist()
        [[2.0], [4.0]]
    """
    check(trajectory, value, next_value)
    discount, trace = continuation(trajectory, hp.gamma, hp.gae_lambda)
    advantage = returns.generalized_advantage(trajectory.reward, discount, trace, value, next_value)
    return advantage, advantage + value


@dataclasses.dataclass(frozen=True)
class Standardized:
    """(Psi - mean) / (standard deviation + 1e-8) of another estimator, over the real samples of the rollout.

    The result does not depend on minibatches. It is exactly 0 where all advantages are equal, e.g. for a single sample, and NaN
    where their squares overflow (from 1e19 in float32).

    Args:
        advantage: The estimator whose Psi is standardised.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, advantages
        >>> zeros = jnp.zeros((2, 1))
        >>> rows = SimpleNamespace(reward=jnp.array([[1.0], [4.0]]), terminated=zeros, done=zeros, weight=zeros + 1)
        >>> estimator = advantages.Standardized(advantages.one_step_td)
        >>> estimator(rows, zeros, zeros, HParams(gamma=0.5))[0].tolist()
        [[-1.0], [1.0]]
    """

    advantage: AdvantageFn

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The hyperparameters that the inner estimator reads."""
        return getattr(self.advantage, "reads", None)

    def __call__(self, trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
        psi, target = self.advantage(trajectory, value, next_value, hp)
        return standardize(psi, trajectory.weight), target
