"""Hyperparameters as functions of the updates done: ``(base values, updates done) -> values now``."""

from jaxpg.core.schedules import Chain, Cosine, Linear, Scaled, WarmUp, constant

__all__ = ["Chain", "Cosine", "Linear", "Scaled", "WarmUp", "constant"]
