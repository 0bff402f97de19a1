"""Returns and advantages as recursions over time."""

from jaxpg.core.returns import discounted_return as discounted_return
from jaxpg.core.returns import generalized_advantage as generalized_advantage
from jaxpg.core.returns import lambda_return as lambda_return
from jaxpg.core.returns import n_step_return as n_step_return
from jaxpg.core.returns import td_error as td_error
