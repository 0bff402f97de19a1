"""Scaling of observations and rewards."""

from jaxpg.core.normalize import BoundedObservation as BoundedObservation
from jaxpg.core.normalize import Chain as Chain
from jaxpg.core.normalize import ConstantReward as ConstantReward
from jaxpg.core.normalize import Identity as Identity
from jaxpg.core.normalize import RunningObservation as RunningObservation
from jaxpg.core.normalize import RunningReward as RunningReward
from jaxpg.core.normalize import identity as identity
