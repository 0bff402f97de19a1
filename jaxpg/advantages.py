"""Estimators of the advantage Psi_t, from the most variance to the least.

An estimator is a function ``(trajectory, value, next_value, hp) -> (psi, target)`` of arrays ``[T, B]``; ``target`` is what the
critic is trained to predict. See ``jaxpg.Algorithm(advantage=...)``.
"""

from jaxpg.core.advantages import (
    NStep,
    Standardized,
    batch_mean_baseline,
    constant_baseline,
    gae,
    learned_baseline,
    leave_one_out_baseline,
    one_step_td,
    reward_to_go,
    total_return,
)

__all__ = [
    "NStep",
    "Standardized",
    "batch_mean_baseline",
    "constant_baseline",
    "gae",
    "learned_baseline",
    "leave_one_out_baseline",
    "one_step_td",
    "reward_to_go",
    "total_return",
]
