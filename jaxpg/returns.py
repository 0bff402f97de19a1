"""Returns and advantages as recursions over time: arrays ``[T, ...]`` in, arrays ``[T, ...]`` out.

``discount`` is gamma (1 - terminated), ``trace`` is lambda (1 - done).
"""

from jaxpg.core.returns import discounted_return, generalized_advantage, lambda_return, n_step_return, td_error

__all__ = ["discounted_return", "generalized_advantage", "lambda_return", "n_step_return", "td_error"]
