"""Hyperparameters as functions of the updates done."""

from jaxpg.core.schedules import Chain as Chain
from jaxpg.core.schedules import Cosine as Cosine
from jaxpg.core.schedules import Linear as Linear
from jaxpg.core.schedules import Scaled as Scaled
from jaxpg.core.schedules import WarmUp as WarmUp
from jaxpg.core.schedules import constant as constant
