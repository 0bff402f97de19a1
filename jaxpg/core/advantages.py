"""The choices of Psi_t, from the most to the least variance.

An advantage function is ``(trajectory, value, next_value, hp) -> (Psi, target)``; all arrays are ``[T, B]``.
``target`` is what the critic regresses on. Pieces without configuration are functions; those with some are frozen dataclasses.
An episode cut by a time limit, or by the end of the rollout, continues with the value of its last observation; one that
terminated is worth nothing from there on.
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
    """Psi_t = G_t, the discounted rewards from t on: what came before a_t is not its doing [Williams 1992]."""
    check(trajectory, value, next_value)
    discount, trace = continuation(trajectory, hp.gamma)
    g = returns.lambda_return(trajectory.reward, discount, trace, next_value)
    return g, g


@reads("gamma")
def total_return(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G(tau) = sum_k gamma^k r_k of the whole episode, the same for each of its steps. For whole-episode rollouts.

    A rollout holds one episode in each environment; padding after its end gets the same number and has weight 0.
    """
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return jnp.broadcast_to(g[:1], g.shape), g


@reads("gamma", "baseline")
def constant_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - b with the hyperparameter ``baseline``."""
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return g - hp.baseline, g


@reads("gamma")
def batch_mean_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - mean of all G. The mean contains the sample itself, which shrinks the gradient by a factor 1 - 1/B."""
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return g - weighted_mean(g, trajectory.weight), g


@reads("gamma")
def leave_one_out_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - mean of G in the *other* environments: unbiased. Needs two environments or more [Kool et al. 2019].

    The mean is 0 where the others have no weight at all.
    """
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    if g.shape[1] < 2:
        raise ValueError(f"num_envs = {g.shape[1]}; leave_one_out_baseline needs at least 2 environments")
    total, weight = jnp.sum(g * trajectory.weight, axis=0), jnp.sum(trajectory.weight, axis=0)
    others = jnp.sum(weight) - weight
    return g - (jnp.sum(total) - total) / jnp.where(others > 0, others, 1.0), g


@reads("gamma")
def learned_baseline(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = G_t - v(s_t). With :class:`jaxpg.networks.ConstantCritic` this is the running-mean baseline."""
    g, _ = reward_to_go(trajectory, value, next_value, hp)
    return g - value, g


@reads("gamma")
def one_step_td(trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
    """Psi_t = delta_t = r_t + gamma v(s_{t+1}) - v(s_t): least variance, biased as far as v is wrong."""
    check(trajectory, value, next_value)
    discount, _ = continuation(trajectory, hp.gamma)
    delta = returns.td_error(trajectory.reward, discount, value, next_value)
    return delta, delta + value


@dataclasses.dataclass(frozen=True)
class NStep:
    """Psi_t = r_t + ... + gamma^n v(s_{t+n}) - v(s_t) with ``n`` rewards; fewer where an episode or the rollout ends."""

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
    """Psi_t = sum_k (gamma lambda)^k delta_{t+k}, target Psi_t + v(s_t)  [Schulman et al. 2016]."""
    check(trajectory, value, next_value)
    discount, trace = continuation(trajectory, hp.gamma, hp.gae_lambda)
    advantage = returns.generalized_advantage(trajectory.reward, discount, trace, value, next_value)
    return advantage, advantage + value


@dataclasses.dataclass(frozen=True)
class Standardized:
    """(Psi - mean) / (deviation + 1e-8) of another choice, over the real samples of the whole rollout.

    It does not depend on minibatches. The result is exactly 0 where all advantages are equal, as a single one is, and NaN where
    their squares overflow (from 1e19 in float32).
    """

    advantage: AdvantageFn

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What the inner choice reads."""
        return getattr(self.advantage, "reads", None)

    def __call__(self, trajectory: Trajectory, value: Array, next_value: Array, hp: HParams) -> tuple[Array, Array]:
        psi, target = self.advantage(trajectory, value, next_value, hp)
        return standardize(psi, trajectory.weight), target
