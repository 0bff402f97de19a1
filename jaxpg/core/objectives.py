r"""THE POLICY GRADIENT THEOREM, and the objectives that descend from it.

The aim is J(theta) = E[sum_t gamma^t r_t] over trajectories tau of the policy pi_theta. A trajectory has the probability
P(tau) = rho(s_0) prod_t pi_theta(a_t|s_t) P(s_{t+1}|s_t, a_t), where only the policy knows theta. With grad P = P grad log P,

    grad J = E[ sum_t  grad log pi_theta(a_t|s_t)  Psi_t ]

where Psi_t is any of: the total return, the reward that follows a_t, that minus a baseline b(s_t), a TD error, GAE: see
:mod:`jaxpg.advantages`. A baseline changes nothing in the mean, since E_a[grad log pi(a|s) b(s)] = b(s) grad 1 = 0.
[Williams 1992; Sutton et al. 2000; Schulman et al. 2016, eq. 1]

An *objective* is a function ``(dist, batch, hp) -> [rows]`` whose weighted mean is maximised. ``dist`` is pi_theta(.|obs), the
only thing that depends on theta: advantages, targets and old log-probabilities are data of the batch.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxpg.core._shapes import check_floats
from jaxpg.core.hparams import HParams, reads
from jaxpg.core.types import Array, Batch, CriticLossFn, Distribution, ObjectiveFn


@reads()
def policy_gradient(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """log pi(a|s) Psi: its gradient is the theorem's summand, the score times the advantage [Williams 1992]."""
    log_prob = dist.log_prob(batch.action)
    check_floats("[N]", log_prob=log_prob, advantage=batch.advantage)
    return log_prob * batch.advantage


@reads()
def surrogate(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """pi(a|s) / pi_old(a|s) Psi: equal in value and gradient to the theorem at pi = pi_old [Schulman et al. 2015, eq. 14]."""
    return ratio(dist, batch) * batch.advantage


@reads("clip_eps")
def clipped_surrogate(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """min(r Psi, clip(r, 1 - eps, 1 + eps) Psi), r = pi / pi_old: nothing is gained outside [Schulman et al. 2017, eq. 7]."""
    r = ratio(dist, batch)
    return jnp.minimum(r * batch.advantage, jnp.clip(r, 1 - hp.clip_eps, 1 + hp.clip_eps) * batch.advantage)


@dataclasses.dataclass(frozen=True)
class Standardized:
    """Another objective, with (Psi - mean) / (deviation + 1e-8) in the place of Psi, over the real rows of each minibatch.

    As CleanRL, Stable-Baselines3 and brax do by default; :class:`jaxpg.advantages.Standardized` does it once for a rollout. A
    minibatch of one row learns nothing: its advantage becomes 0.
    """

    objective: ObjectiveFn

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What the inner objective reads."""
        return getattr(self.objective, "reads", None)

    def __call__(self, dist: Distribution, batch: Batch, hp: HParams) -> Array:
        return self.objective(dist, batch.replace(advantage=standardize(batch.advantage, batch.weight)), hp)


@reads("entropy_coef")
def entropy_bonus(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """beta H(pi(.|s)), a regulariser that keeps the policy from becoming deterministic early [Williams & Peng 1991]."""
    return hp.entropy_coef * dist.entropy()


@reads()
def squared_error(value: Array, batch: Batch, hp: HParams) -> Array:
    """(1/2) (target - v(s))^2, the critic's loss."""
    check_floats("[N]", value=value, target=batch.target)
    return 0.5 * (batch.target - value) ** 2


@reads("value_clip")
def clipped_squared_error(value: Array, batch: Batch, hp: HParams) -> Array:
    """(1/2) max((target - v)^2, (target - v_clip)^2), v_clip = v_old + clip(v - v_old, -value_clip, value_clip).

    Nothing is gained by a value that has moved farther from v_old, which the rollout had: the counterpart of the clipped
    surrogate in OpenAI's baselines. On in CleanRL, at 0.2; off in Stable-Baselines3 and brax, and here. ``value_clip`` has the
    unit of returns: it must fit the scale of the rewards.
    """
    check_floats("[N]", value=value, old_value=batch.value, target=batch.target)
    clipped = batch.value + jnp.clip(value - batch.value, -hp.value_clip, hp.value_clip)
    return 0.5 * jnp.maximum((batch.target - value) ** 2, (batch.target - clipped) ** 2)


@dataclasses.dataclass(frozen=True)
class Weighted:
    """``value_coef`` times another critic loss: for a network that policy and critic share.

    0.5 in Stable-Baselines3, CleanRL and brax. Separate networks, each with its own Adam, need none: it would change nothing.
    """

    loss: CriticLossFn

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The coefficient, and what the inner loss reads."""
        inner = getattr(self.loss, "reads", None)
        return None if inner is None else (*inner, "value_coef")

    def __call__(self, value: Array, batch: Batch, hp: HParams) -> Array:
        return hp.value_coef * self.loss(value, batch, hp)


@reads()
def no_critic_loss(value: Array, batch: Batch, hp: HParams) -> Array:
    """0: for algorithms without a critic."""
    return jnp.zeros_like(value)


def ratio(dist: Distribution, batch: Batch) -> Array:
    """pi(a|s) / pi_old(a|s), the importance weight of a sample: 1 as long as the policy has not moved."""
    log_prob = dist.log_prob(batch.action)
    check_floats("[N]", log_prob=log_prob, old_log_prob=batch.log_prob, advantage=batch.advantage)
    return jnp.exp(log_prob - batch.log_prob)


def mean_over_steps(x: Array, weight: Array, num_steps: int) -> Array:
    """sum(w x) / sum(w), the default: the size of an update does not depend on how long episodes are."""
    return weighted_mean(x, weight)


def sum_over_steps(x: Array, weight: Array, num_steps: int) -> Array:
    """The sum over the rows of an environment, averaged over environments: the theorem's own scale."""
    check_floats("[N]", x=x, weight=weight)
    return num_steps * jnp.mean(weight * x)


def weighted_mean(x: Array, weight: Array) -> Array:
    """sum(w x) / sum(w) over all axes; 0 where there is no weight at all."""
    check_floats("[...]", x=x, weight=weight)
    return jnp.sum(weight * x) / total_weight(weight)


def deviations(x: Array, weight: Array) -> tuple[Array, Array]:
    """(x - mean, variance), weighted, in two passes; exactly 0 where all real samples are equal, NaN where squares overflow.

    The rounded mean of equal numbers is off by a little, which would be all their deviation; the second pass sees that it is,
    and takes it off the others too [the corrected two passes of Chan et al. 1983].
    """
    check_floats("[...]", x=x, weight=weight)
    total = total_weight(weight)  # once: sharing environments, each sum is a number that travels
    first = x - jnp.sum(weight * x) / total
    error, square = jnp.sum(weight * first) / total, jnp.sum(weight * first**2) / total
    variance = jnp.where(square < jnp.inf, square - error**2, jnp.nan)
    nothing = variance <= 0.01 * square  # false for NaN, which goes on
    return jnp.where(nothing, 0.0, first - error), jnp.where(nothing, 0.0, variance)


def standardize(x: Array, weight: Array) -> Array:
    """(x - mean) / (deviation + 1e-8), weighted; exactly 0 where all real samples are equal, as a single one is."""
    deviation, variance = deviations(x, weight)
    return deviation / (jnp.sqrt(variance + 1e-16) + 1e-8)


def total_weight(weight: Array) -> Array:
    """sum(w), or 1 where that is 0."""
    total = jnp.sum(weight)
    return jnp.where(total > 0, total, 1.0)
