"""How advantages are estimated: the choices of Psi."""

from jaxpg.core.advantages import NStep as NStep
from jaxpg.core.advantages import Standardized as Standardized
from jaxpg.core.advantages import batch_mean_baseline as batch_mean_baseline
from jaxpg.core.advantages import constant_baseline as constant_baseline
from jaxpg.core.advantages import gae as gae
from jaxpg.core.advantages import learned_baseline as learned_baseline
from jaxpg.core.advantages import leave_one_out_baseline as leave_one_out_baseline
from jaxpg.core.advantages import one_step_td as one_step_td
from jaxpg.core.advantages import reward_to_go as reward_to_go
from jaxpg.core.advantages import total_return as total_return
