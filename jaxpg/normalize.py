"""Scaling of observations and rewards.

Statistics are shared by all environments and change only after an update.
"""

from jaxpg.core.normalize import (
    BoundedObservation,
    Chain,
    ConstantReward,
    Identity,
    RunningObservation,
    RunningReward,
    identity,
)

__all__ = ["BoundedObservation", "Chain", "ConstantReward", "Identity", "RunningObservation", "RunningReward", "identity"]
