"""The policy gradient theorem and the objectives that descend from it; critic losses."""

from jaxpg.core.objectives import Standardized as Standardized
from jaxpg.core.objectives import Weighted as Weighted
from jaxpg.core.objectives import clipped_squared_error as clipped_squared_error
from jaxpg.core.objectives import clipped_surrogate as clipped_surrogate
from jaxpg.core.objectives import entropy_bonus as entropy_bonus
from jaxpg.core.objectives import mean_over_steps as mean_over_steps
from jaxpg.core.objectives import no_critic_loss as no_critic_loss
from jaxpg.core.objectives import policy_gradient as policy_gradient
from jaxpg.core.objectives import ratio as ratio
from jaxpg.core.objectives import squared_error as squared_error
from jaxpg.core.objectives import sum_over_steps as sum_over_steps
from jaxpg.core.objectives import surrogate as surrogate
from jaxpg.core.objectives import weighted_mean as weighted_mean
