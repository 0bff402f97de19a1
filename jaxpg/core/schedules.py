"""Schedules: ``(base values, updates done) -> values now``. Any hyperparameter; the base values stay traced and sweepable."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxpg.core.hparams import HParams, given
from jaxpg.core.types import MAX_COUNT, Array


def constant(hp: HParams, step: Array) -> HParams:
    """The base values, always."""
    return hp


@dataclasses.dataclass(frozen=True)
class Linear:
    """value(step) = base * (left + end * step) / num_updates, with left = num_updates - step, for the named hyperparameters.

    ``end`` is a fraction of the base. With ``end = 0`` the last update still uses ``base / num_updates``: zero would be reached
    just after it. What is left is counted in integers, so that the last of 2**31 - 1 updates is as accurate as the first.

    >>> float(Linear(("learning_rate",), num_updates=4)(HParams(learning_rate=1.0), 3).learning_rate)
    0.25
    """

    names: tuple[str, ...]
    num_updates: int
    end: float = 0.0

    def __post_init__(self) -> None:
        if self.num_updates < 1:
            raise ValueError(f"num_updates = {self.num_updates}; a schedule needs at least one update")
        if self.num_updates > MAX_COUNT:
            raise ValueError(f"num_updates = {self.num_updates}; a run has at most 2**31 - 1 updates, make each one larger")

    def __call__(self, hp: HParams, step: Array) -> HParams:
        values = given(hp)
        missing = [name for name in self.names if name not in values]
        if missing:
            raise ValueError(f"{missing[0]} cannot be annealed: this algorithm reads only {', '.join(values)}")
        step = jnp.clip(step, 0, self.num_updates)
        fraction = ((self.num_updates - step) + self.end * step) / self.num_updates
        return hp.replace(**{name: values[name] * fraction for name in self.names})
