"""The records that pass between modules, and the protocols of what can be exchanged."""

from jaxpg.core.types import Actor as Actor
from jaxpg.core.types import ActorCritic as ActorCritic
from jaxpg.core.types import AdvantageFn as AdvantageFn
from jaxpg.core.types import Array as Array
from jaxpg.core.types import Batch as Batch
from jaxpg.core.types import CriticLossFn as CriticLossFn
from jaxpg.core.types import Distribution as Distribution
from jaxpg.core.types import Env as Env
from jaxpg.core.types import EnvLoop as EnvLoop
from jaxpg.core.types import Losses as Losses
from jaxpg.core.types import Metrics as Metrics
from jaxpg.core.types import Network as Network
from jaxpg.core.types import Normalizer as Normalizer
from jaxpg.core.types import ObjectiveFn as ObjectiveFn
from jaxpg.core.types import Optimizer as Optimizer
from jaxpg.core.types import Params as Params
from jaxpg.core.types import PyTree as PyTree
from jaxpg.core.types import ReductionFn as ReductionFn
from jaxpg.core.types import RolloutFn as RolloutFn
from jaxpg.core.types import ScheduleFn as ScheduleFn
from jaxpg.core.types import TrainState as TrainState
from jaxpg.core.types import Trajectory as Trajectory
from jaxpg.core.types import UpdateRule as UpdateRule
