"""Schedules: ``(base values, updates done) -> values now``, for any hyperparameter; the base values may be traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from jaxpg.core.hparams import HParams, given
from jaxpg.core.types import MAX_COUNT, Array, ScheduleFn


def constant(hp: HParams, step: Array) -> HParams:
    """The base values, at every update.

    Args:
        hp: The base values.
        step: Updates done; not used.

    Returns:
        ``hp``.

    Examples:
        >>> from jaxpg import HParams, schedules
        >>> schedules.constant(HParams(gamma=0.9), 100).gamma
        0.9
    """
    return hp


@dataclasses.dataclass(frozen=True)
class Linear:
    """base (left + end * step) / num_updates, with left = num_updates - step, for the named hyperparameters.

    With ``end = 0`` the last update still uses ``base / num_updates``; zero would be reached just after it. The remaining
    updates are counted in integers, so that the last of 2**31 - 1 updates is as accurate as the first.

    Args:
        names: Hyperparameters that the algorithm reads.
        num_updates: Updates until the end, 1 to 2**31 - 1.
        end: The value at the end, as a fraction of the base.

    Raises:
        ValueError: For ``num_updates`` out of range, and when called for a hyperparameter that the algorithm does not read.

    Examples:
        >>> from jaxpg import HParams, schedules
        >>> anneal = schedules.Linear(("learning_rate",), num_updates=4)
        >>> [float(anneal(HParams(learning_rate=1.0), step).learning_rate) for step in range(4)]
        [1.0, 0.75, 0.5, 0.25]
    """

    names: tuple[str, ...]
    num_updates: int
    end: float = 0.0

    def __post_init__(self) -> None:
        check_num_updates(self.num_updates)

    def __call__(self, hp: HParams, step: Array) -> HParams:
        step = jnp.clip(step, 0, self.num_updates)
        return scale(hp, self.names, ((self.num_updates - step) + self.end * step) / self.num_updates)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """base * schedule(step) for the named hyperparameters.

    Args:
        names: Hyperparameters that the algorithm reads.
        schedule: From the updates done, a traced number, to a factor: ``Cosine``, ``WarmUp``, or a schedule of optax. Two
            schedules of optax are never equal, so an algorithm with a new one is compiled again.

    Raises:
        ValueError: When called for a hyperparameter that the algorithm does not read.

    Examples:
        >>> import optax
        >>> from jaxpg import HParams, schedules
        >>> halving = schedules.Scaled(("learning_rate",), optax.exponential_decay(1.0, transition_steps=1, decay_rate=0.5))
        >>> float(halving(HParams(learning_rate=1.0), 3).learning_rate)
        0.125
    """

    names: tuple[str, ...]
    schedule: Callable[[Array], Array]

    def __call__(self, hp: HParams, step: Array) -> HParams:
        return scale(hp, self.names, self.schedule(step))


@dataclasses.dataclass(frozen=True)
class Cosine:
    """(1 + cos(pi step / num_updates)) / 2, from 1 at the first update to 0 just after the last; a factor for ``Scaled``.

    Computed as sin^2(pi left / (2 num_updates)) from the remaining updates, so that the factor of the last update is small and
    not 0.

    Args:
        num_updates: Updates until the end, 1 to 2**31 - 1.

    Raises:
        ValueError: For ``num_updates`` out of range.

    Examples:
        >>> from jaxpg import schedules
        >>> [round(float(schedules.Cosine(4)(step)), 3) for step in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    num_updates: int

    def __post_init__(self) -> None:
        check_num_updates(self.num_updates)

    def __call__(self, step: Array) -> Array:
        left = self.num_updates - jnp.clip(step, 0, self.num_updates)
        return jnp.sin((0.5 * jnp.pi) * (left / self.num_updates)) ** 2


@dataclasses.dataclass(frozen=True)
class WarmUp:
    """min(1, (step + 1) / (num_updates + 1)): the first ``num_updates`` updates are below the base value, none is at 0.

    A factor for ``Scaled``.

    Args:
        num_updates: Updates below the base value, 1 to 2**31 - 1.

    Raises:
        ValueError: For ``num_updates`` out of range.

    Examples:
        >>> from jaxpg import schedules
        >>> [round(float(schedules.WarmUp(3)(step)), 3) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    num_updates: int

    def __post_init__(self) -> None:
        check_num_updates(self.num_updates)

    def __call__(self, step: Array) -> Array:
        return (jnp.clip(step, 0, self.num_updates) + 1.0) / (self.num_updates + 1.0)


@dataclasses.dataclass(frozen=True)
class Chain:
    """One schedule after the other: the second gets the values of the first, so that factors of a hyperparameter multiply.

    Args:
        first: The first schedule.
        second: The schedule that gets its values.

    Examples:
        >>> from jaxpg import HParams, schedules
        >>> warm_up = schedules.Scaled(("learning_rate",), schedules.WarmUp(3))
        >>> anneal = schedules.Linear(("learning_rate",), num_updates=4)
        >>> float(schedules.Chain(warm_up, anneal)(HParams(learning_rate=1.0), 1).learning_rate)  # 0.5 * 0.75
        0.375
    """

    first: ScheduleFn
    second: ScheduleFn

    def __call__(self, hp: HParams, step: Array) -> HParams:
        return self.second(self.first(hp, step), step)


def scale(hp: HParams, names: tuple[str, ...], factor: Array) -> HParams:
    """The named hyperparameters times ``factor``; ``ValueError`` for one that the algorithm does not read."""
    values = given(hp)
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{missing[0]} cannot be annealed: this algorithm reads only {', '.join(values)}")
    return hp.replace(**{name: values[name] * factor for name in names})


def check_num_updates(num_updates: int) -> None:
    """``ValueError`` for less than one update, or more than a run has."""
    if num_updates < 1:
        raise ValueError(f"num_updates = {num_updates}; a schedule needs at least one update")
    if num_updates > MAX_COUNT:
        raise ValueError(f"num_updates = {num_updates}; a run has at most 2**31 - 1 updates, make each one larger")
