"""Hyperparameters as functions of the updates done."""

from jaxpg.core.schedules import Linear as Linear
from jaxpg.core.schedules import constant as constant
