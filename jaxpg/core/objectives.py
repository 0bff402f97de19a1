"""The policy gradient theorem, and the objectives that follow from it.

The aim is J(theta) = E[sum_t gamma^t r_t] over trajectories tau of the policy pi_theta. A trajectory has the probability
P(tau) = rho(s_0) prod_t pi_theta(a_t|s_t) P(s_{t+1}|s_t, a_t), where only the policy depends on theta. With
grad P = P grad log P,

    grad J = E[ sum_t  grad log pi_theta(a_t|s_t)  Psi_t ]

where Psi_t is any of: the total return, the rewards that follow a_t, those minus a baseline b(s_t), a TD error, GAE; see
``jaxpg.advantages``. A baseline does not change the mean, since E_a[grad log pi(a|s) b(s)] = b(s) grad 1 = 0.
Sources: Williams 1992; Sutton et al. 2000; Schulman et al. 2016, eq. 1.

An *objective* is a function ``(dist, batch, hp) -> [N]`` whose weighted mean is maximised. ``dist`` is pi_theta(.|obs), the
only argument that depends on theta: advantages, targets and old log-probabilities are data of the batch.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxpg.core._shapes import check_floats
from jaxpg.core.hparams import HParams, reads
from jaxpg.core.types import Array, Batch, CriticLossFn, Distribution, ObjectiveFn


@reads()
def policy_gradient(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """log pi(a|s) Psi: its gradient is the summand of the policy gradient theorem, the score times the advantage.

    Args:
        dist: pi_theta(.|obs), with batch shape ``[N]``.
        batch: The rows of a minibatch, leaves ``[N, ...]``; reads ``action`` and ``advantage``.
        hp: Hyperparameters; reads none.

    Returns:
        The objective of each row, ``[N]``, to be maximised.

    Raises:
        ValueError: For log-probabilities or advantages that are not floats ``[N]``.

    Source: Williams 1992.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, distributions, objectives
        >>> dist = distributions.Categorical(jnp.log(jnp.array([[0.25, 0.75]])))
        >>> batch = SimpleNamespace(action=jnp.array([1]), advantage=jnp.array([2.0]))
        >>> f"{objectives.policy_gradient(dist, batch, HParams())[0]:.3f}"  # 2 log 0.75
        '-0.575'
    """
    log_prob = dist.log_prob(batch.action)
    check_floats("[N]", log_prob=log_prob, advantage=batch.advantage)
    return log_prob * batch.advantage


@reads()
def surrogate(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """pi(a|s) / pi_old(a|s) Psi: at pi = pi_old its gradient is that of the policy gradient theorem.

    Args:
        dist: pi_theta(.|obs), with batch shape ``[N]``.
        batch: The rows of a minibatch, leaves ``[N, ...]``; reads ``action``, ``log_prob`` and ``advantage``.
        hp: Hyperparameters; reads none.

    Returns:
        The objective of each row, ``[N]``, to be maximised.

    Raises:
        ValueError: For log-probabilities or advantages that are not floats ``[N]``.

    Source: Schulman et al. 2015, eq. 14.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, distributions, objectives
        >>> dist = distributions.Categorical(jnp.log(jnp.array([[0.25, 0.75]])))
        >>> batch = SimpleNamespace(action=jnp.array([1]), log_prob=jnp.log(jnp.array([0.5])), advantage=jnp.array([2.0]))
        >>> f"{objectives.surrogate(dist, batch, HParams())[0]:.2f}"  # 0.75 / 0.5 * 2
        '3.00'
    """
    return ratio(dist, batch) * batch.advantage


@reads("clip_eps")
def clipped_surrogate(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """min(r Psi, clip(r, 1 - eps, 1 + eps) Psi), with the ratio r = pi(a|s) / pi_old(a|s): PPO's objective.

    Moving a ratio farther than eps from 1 gains nothing.

    Args:
        dist: pi_theta(.|obs), with batch shape ``[N]``.
        batch: The rows of a minibatch, leaves ``[N, ...]``; reads ``action``, ``log_prob`` and ``advantage``.
        hp: Hyperparameters; reads ``clip_eps``, the eps of the formula.

    Returns:
        The objective of each row, ``[N]``, to be maximised.

    Raises:
        ValueError: For log-probabilities or advantages that are not floats ``[N]``.

    Source: Schulman et al. 2017, eq. 7.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, distributions, objectives
        >>> dist = distributions.Categorical(jnp.log(jnp.array([[0.25, 0.75]])))
        >>> batch = SimpleNamespace(action=jnp.array([1]), log_prob=jnp.log(jnp.array([0.5])), advantage=jnp.array([2.0]))
        >>> f"{objectives.clipped_surrogate(dist, batch, HParams(clip_eps=0.2))[0]:.2f}"  # 1.2 * 2, not 1.5 * 2
        '2.40'
    """
    r = ratio(dist, batch)
    return jnp.minimum(r * batch.advantage, jnp.clip(r, 1 - hp.clip_eps, 1 + hp.clip_eps) * batch.advantage)


@dataclasses.dataclass(frozen=True)
class Standardized:
    """Another objective, with (Psi - mean) / (standard deviation + 1e-8) in place of Psi, over the real rows of each minibatch.

    CleanRL, Stable-Baselines3 and Brax do this by default; ``jaxpg.advantages.Standardized`` standardises once for a rollout. A
    minibatch of one row learns nothing: its advantage becomes 0.

    Args:
        objective: The objective that gets the standardised advantages.

    Examples:
        >>> import dataclasses
        >>> import jaxpg
        >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), advantage_norm="none")
        >>> algo = dataclasses.replace(algo, objective=jaxpg.objectives.Standardized(algo.objective))
        >>> algo.objective.reads
        ('clip_eps',)
    """

    objective: ObjectiveFn

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The hyperparameters that the inner objective reads."""
        return getattr(self.objective, "reads", None)

    def __call__(self, dist: Distribution, batch: Batch, hp: HParams) -> Array:
        return self.objective(dist, batch.replace(advantage=standardize(batch.advantage, batch.weight)), hp)


@reads("entropy_coef")
def entropy_bonus(dist: Distribution, batch: Batch, hp: HParams) -> Array:
    """beta H(pi(.|s)), a regulariser that keeps the policy from becoming deterministic too early.

    Args:
        dist: pi_theta(.|obs), with batch shape ``[N]``.
        batch: The rows of a minibatch; not used.
        hp: Hyperparameters; reads ``entropy_coef``, the beta of the formula.

    Returns:
        The bonus of each row in nats times beta, ``[N]``, to be maximised.

    Source: Williams & Peng 1991.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, distributions, objectives
        >>> dist = distributions.Categorical(jnp.zeros((1, 2)))
        >>> f"{objectives.entropy_bonus(dist, None, HParams(entropy_coef=0.1))[0]:.4f}"  # 0.1 log 2
        '0.0693'
    """
    return hp.entropy_coef * dist.entropy()


@reads()
def squared_error(value: Array, batch: Batch, hp: HParams) -> Array:
    """(1/2) (target - v(s))^2, the critic's loss.

    Args:
        value: v(s), ``[N]``.
        batch: The rows of a minibatch, leaves ``[N, ...]``; reads ``target``.
        hp: Hyperparameters; reads none.

    Returns:
        The loss of each row, ``[N]``, to be minimised.

    Raises:
        ValueError: For values or targets that are not floats ``[N]``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, objectives
        >>> batch = SimpleNamespace(target=jnp.array([3.0]))
        >>> objectives.squared_error(jnp.array([1.0]), batch, HParams())
        Array([2.], dtype=float32)
    """
    check_floats("[N]", value=value, target=batch.target)
    return 0.5 * (batch.target - value) ** 2


@reads("value_clip")
def clipped_squared_error(value: Array, batch: Batch, hp: HParams) -> Array:
    """(1/2) max((target - v)^2, (target - v_clip)^2), with v_clip = v_old + clip(v - v_old, -value_clip, value_clip).

    A value that has moved farther than ``value_clip`` from v_old, its value in the rollout, gains nothing by moving farther.
    This is the counterpart of the clipped surrogate in OpenAI's baselines: on in CleanRL, at 0.2; off in Brax and here, and in
    Stable-Baselines3, whose option takes v_clip alone, without the maximum.

    Args:
        value: v(s), ``[N]``.
        batch: The rows of a minibatch, leaves ``[N, ...]``; reads ``value`` (v_old) and ``target``.
        hp: Hyperparameters; reads ``value_clip``, which has the unit of returns and must fit the scale of the rewards.

    Returns:
        The loss of each row, ``[N]``, to be minimised.

    Raises:
        ValueError: For values or targets that are not floats ``[N]``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, objectives
        >>> batch = SimpleNamespace(value=jnp.array([0.0]), target=jnp.array([3.0]))
        >>> objectives.clipped_squared_error(jnp.array([2.0]), batch, HParams(value_clip=1.0))  # as if v were 1
        Array([2.], dtype=float32)
    """
    check_floats("[N]", value=value, old_value=batch.value, target=batch.target)
    clipped = batch.value + jnp.clip(value - batch.value, -hp.value_clip, hp.value_clip)
    return 0.5 * jnp.maximum((batch.target - value) ** 2, (batch.target - clipped) ** 2)


@dataclasses.dataclass(frozen=True)
class Weighted:
    """``value_coef`` times another critic loss, for a network that policy and critic share.

    0.5 in CleanRL and Brax; Stable-Baselines3's 0.5 weighs the squared error without the one half, which is 1 here. Separate
    networks, each with its own Adam, need no coefficient: it would change nothing.

    Args:
        loss: The critic loss that is scaled.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, objectives
        >>> loss = objectives.Weighted(objectives.squared_error)
        >>> loss(jnp.array([1.0]), SimpleNamespace(target=jnp.array([3.0])), HParams(value_coef=0.5))
        Array([1.], dtype=float32)
    """

    loss: CriticLossFn

    @property
    def reads(self) -> tuple[str, ...] | None:
        """``value_coef``, and the hyperparameters that the inner loss reads."""
        inner = getattr(self.loss, "reads", None)
        return None if inner is None else (*inner, "value_coef")

    def __call__(self, value: Array, batch: Batch, hp: HParams) -> Array:
        return hp.value_coef * self.loss(value, batch, hp)


@reads()
def no_critic_loss(value: Array, batch: Batch, hp: HParams) -> Array:
    """0, for algorithms without a critic.

    Args:
        value: Values, ``[N]``; only their shape is used.
        batch: The rows of a minibatch; not used.
        hp: Hyperparameters; reads none.

    Returns:
        Zeros, ``[N]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, objectives
        >>> objectives.no_critic_loss(jnp.ones(2), None, HParams())
        Array([0., 0.], dtype=float32)
    """
    return jnp.zeros_like(value)


def ratio(dist: Distribution, batch: Batch) -> Array:
    """pi(a|s) / pi_old(a|s), the importance weight of a sample: 1 as long as the policy has not moved.

    Args:
        dist: pi_theta(.|obs), with batch shape ``[N]``.
        batch: The rows of a minibatch, leaves ``[N, ...]``; reads ``action`` and ``log_prob``.

    Returns:
        The ratio of each row, ``[N]``.

    Raises:
        ValueError: For log-probabilities or advantages that are not floats ``[N]``.

    Examples:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> from jaxpg import distributions, objectives
        >>> dist = distributions.Categorical(jnp.log(jnp.array([[0.25, 0.75]])))
        >>> batch = SimpleNamespace(action=jnp.array([1]), log_prob=jnp.log(jnp.array([0.5])), advantage=jnp.array([2.0]))
        >>> f"{objectives.ratio(dist, batch)[0]:.2f}"
        '1.50'
    """
    log_prob = dist.log_prob(batch.action)
    check_floats("[N]", log_prob=log_prob, old_log_prob=batch.log_prob, advantage=batch.advantage)
    return jnp.exp(log_prob - batch.log_prob)


def mean_over_steps(x: Array, weight: Array, num_steps: int) -> Array:
    """sum(w x) / sum(w), the default reduction: the size of an update does not depend on the length of episodes.

    Args:
        x: Terms of a loss or an objective, ``[N]``.
        weight: 1 for a real sample, 0 for padding, ``[N]``.
        num_steps: Steps of the rollout; not used.

    Returns:
        A scalar; 0 where all weights are 0.

    Raises:
        ValueError: For arrays that are not floats of one shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import objectives
        >>> float(objectives.mean_over_steps(jnp.array([1.0, 3.0, 9.0]), jnp.array([1.0, 1.0, 0.0]), num_steps=3))
        2.0
    """
    return weighted_mean(x, weight)


def sum_over_steps(x: Array, weight: Array, num_steps: int) -> Array:
    """The sum over the steps of an environment, averaged over environments: the scale of the policy gradient theorem.

    Args:
        x: Terms of a loss or an objective, ``[N]``.
        weight: 1 for a real sample, 0 for padding, ``[N]``.
        num_steps: Steps ``T`` of the rollout.

    Returns:
        A scalar, ``num_steps`` times the mean of ``weight * x``.

    Raises:
        ValueError: For arrays that are not floats ``[N]``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import objectives
        >>> float(objectives.sum_over_steps(jnp.array([1.0, 3.0]), jnp.ones(2), num_steps=2))
        4.0
    """
    check_floats("[N]", x=x, weight=weight)
    return num_steps * jnp.mean(weight * x)


def weighted_mean(x: Array, weight: Array) -> Array:
    """sum(w x) / sum(w) over all axes; 0 where all weights are 0.

    Args:
        x: Numbers of any shape ``[...]``.
        weight: Their weights, at least 0, of the same shape.

    Returns:
        A scalar.

    Raises:
        ValueError: For arrays that are not floats of one shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import objectives
        >>> float(objectives.weighted_mean(jnp.array([1.0, 3.0]), jnp.array([3.0, 1.0])))
        1.5
    """
    check_floats("[...]", x=x, weight=weight)
    return jnp.sum(weight * x) / total_weight(weight)


def deviations(x: Array, weight: Array) -> tuple[Array, Array]:
    """(x - mean, variance), weighted, in two passes; exactly 0 where all real samples are equal, NaN where squares overflow.

    The rounded mean of equal numbers is off by a little, which would be all their deviation; the second pass sees that it is,
    and takes it off the others too [the corrected two passes of Chan et al. 1983].
    """
    check_floats("[...]", x=x, weight=weight)
    total = total_weight(weight)  # computed once: with environments on several devices each sum is exchanged
    first = x - jnp.sum(weight * x) / total
    error, square = jnp.sum(weight * first) / total, jnp.sum(weight * first**2) / total
    variance = jnp.where(square < jnp.inf, square - error**2, jnp.nan)
    nothing = variance <= 0.01 * square  # false for NaN, which stays
    return jnp.where(nothing, 0.0, first - error), jnp.where(nothing, 0.0, variance)


def standardize(x: Array, weight: Array) -> Array:
    """(x - mean) / (deviation + 1e-8), weighted; exactly 0 where all real samples are equal, as a single one is."""
    deviation, variance = deviations(x, weight)
    return deviation / (jnp.sqrt(variance + 1e-16) + 1e-8)


def total_weight(weight: Array) -> Array:
    """sum(w), or 1 where that is 0."""
    total = jnp.sum(weight)
    return jnp.where(total > 0, total, 1.0)
