"""What the policy maximises and what the critic minimises.

An objective is a function ``(dist, batch, hp) -> [N]``, a critic loss a function ``(value, batch, hp) -> [N]``.
"""

from jaxpg.core.objectives import (
    Standardized,
    Weighted,
    clipped_squared_error,
    clipped_surrogate,
    entropy_bonus,
    mean_over_steps,
    no_critic_loss,
    policy_gradient,
    ratio,
    squared_error,
    sum_over_steps,
    surrogate,
    weighted_mean,
)

__all__ = [
    "Standardized",
    "Weighted",
    "clipped_squared_error",
    "clipped_surrogate",
    "entropy_bonus",
    "mean_over_steps",
    "no_critic_loss",
    "policy_gradient",
    "ratio",
    "squared_error",
    "sum_over_steps",
    "surrogate",
    "weighted_mean",
]
