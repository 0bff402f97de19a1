"""Search for hyperparameters: settings sampled from ranges, and the rule of successive halving. NumPy and SciPy, no JAX.

``sample`` draws the settings that ``vary`` of ``jaxpg.run`` and ``jaxpg.sweep`` takes. ``rungs`` and ``rank`` are the rule by
which ``jaxpg.run(..., halving=...)`` and ``jaxpg sweep --halving`` stop settings early.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg import stats

__all__ = ["Range", "lin", "log", "rank", "rungs", "sample"]

METHODS = ("sobol", "random")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, both included, drawn uniformly, or with ``log`` uniformly in their logarithm.

    Args:
        low: The smallest number.
        high: The largest number, above ``low``.
        log: Uniform in the logarithm, for positive numbers.
        integer: Only integers; ``low`` and ``high`` are as probable as the others.

    Raises:
        ValueError: For an empty range, and one that has no logarithm.

    Examples:
        >>> from jaxpg import search
        >>> search.Range(1e-5, 1e-2, log=True) == search.log(1e-5, 1e-2)
        True
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        text = f"range from {self.low} to {self.high}"
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"{text}: low and high must be finite numbers, low below high")
        if self.log and self.low <= 0:
            raise ValueError(f"{text}: a logarithmic range needs a positive low")
        if self.integer and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"{text}: a range of integers needs integers as low and high")

    @property
    def size(self) -> float:
        """How many different values it has."""
        return self.high - self.low + 1 if self.integer else math.inf

    def value(self, u: float) -> float | int:
        """The value at ``u`` in [0, 1), rounded to 12 significant digits or to an integer."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
        x = low * (high / low) ** u if self.log else low + (high - low) * u
        x = min(max(round(x) if self.integer else float(f"{x:.12g}"), self.low), self.high)
        return int(x) if self.integer else float(x)


def lin(low: float, high: float, *, integer: bool = False) -> Range:
    """Numbers from ``low`` to ``high``, drawn uniformly.

    Args:
        low: The smallest number.
        high: The largest number.
        integer: Only integers.

    Returns:
        The range, for ``sample`` and ``jaxpg.optimize_study``.

    Raises:
        ValueError: For an empty range.

    Examples:
        >>> from jaxpg import search
        >>> search.lin(0.9, 0.999)
        Range(low=0.9, high=0.999, log=False, integer=False)
    """
    return Range(low, high, integer=integer)


def log(low: float, high: float, *, integer: bool = False) -> Range:
    """Positive numbers from ``low`` to ``high``, drawn uniformly in their logarithm.

    Args:
        low: The smallest number.
        high: The largest number.
        integer: Only integers.

    Returns:
        The range, for ``sample`` and ``jaxpg.optimize_study``.

    Raises:
        ValueError: For an empty range, and for numbers that are not positive.

    Examples:
        >>> from jaxpg import search
        >>> search.log(1e-5, 1e-2)
        Range(low=1e-05, high=0.01, log=True, integer=False)
    """
    return Range(low, high, log=True, integer=integer)


def sample(
    space: Mapping[str, Range | Sequence[Any]], count: int, *, method: str = "sobol", seed: int = 0
) -> list[dict[str, Any]]:
    """``count`` different settings from a space, by a scrambled Sobol sequence or independently.

    Sobol points fill the space more evenly than independent ones: the projection on each hyperparameter of the first 2^m points
    has one point in each of 2^m equal intervals. It is a randomised sequence: another ``seed`` gives other points. A setting
    that was already drawn, which happens with lists and integers, is drawn again.

    Args:
        space: For each hyperparameter a range, ``lin`` or ``log``, or a list of values, which are equally probable.
        count: How many settings; with ``sobol`` a power of two fills the space most evenly.
        method: ``sobol`` or ``random``.
        seed: The same seed gives the same settings.

    Returns:
        The settings, for ``vary``.

    Raises:
        ValueError: For an empty space, an unknown method, and more settings than there are.

    Source: Sobol' 1967; Owen 1998; Bergstra and Bengio 2012.

    Examples:
        >>> from jaxpg import search
        >>> space = {"learning_rate": search.log(1e-5, 1e-2), "num_steps": [64, 128]}
        >>> settings = search.sample(space, 4)
        >>> sorted(setting["num_steps"] for setting in settings)
        [64, 64, 128, 128]
    """
    check_space(space)
    if method not in METHODS:
        raise ValueError(f"method = {method!r:.80} must be {' or '.join(METHODS)}")
    if type(count) is not int or count < 1:
        raise ValueError(f"count = {count!r:.80} must be an integer of at least 1")
    sizes = [values.size if isinstance(values, Range) else len(values) for values in space.values()]
    if count > math.prod(sizes):
        raise ValueError(f"count = {count} is more than the {math.prod(sizes):.0f} different settings of the space; give fewer")
    drawn = 1 << (count - 1).bit_length()
    while True:  # the first points are the same however many are drawn
        points = draw_points(method, drawn, len(space), seed)
        settings = list({repr(setting): setting for setting in (place_in(space, point) for point in points)}.values())
        if len(settings) >= count:
            return settings[:count]
        drawn *= 2


def check_space(space: Mapping[str, Range | Sequence[Any]]) -> None:
    """Raise ``ValueError`` unless every hyperparameter of ``space`` has a range, or a list of different values."""
    if not isinstance(space, Mapping) or not space:
        raise ValueError("space must be names and their ranges or lists, e.g. {'learning_rate': jaxpg.search.log(1e-5, 1e-2)}")
    for name, values in space.items():
        if isinstance(values, Range):
            continue
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"{name} = {values!r:.80} must be a list of values, or a range: jaxpg.search.lin or log")
        if len({repr(value) for value in values}) < len(values):
            raise ValueError(f"{name} = {values!r:.80}: give every value once")


def draw_points(method: str, count: int, dimensions: int, seed: int) -> np.ndarray:
    """``count`` points, a power of two, in the unit cube [0, 1)^dimensions."""
    generator = np.random.default_rng(seed)
    if method == "random":
        return generator.random((count, dimensions))
    from scipy.stats import qmc  # takes a second to import, and nothing else here needs it

    return qmc.Sobol(dimensions, rng=generator).random_base2(count.bit_length() - 1)


def place_in(space: Mapping[str, Range | Sequence[Any]], point: np.ndarray) -> dict[str, Any]:
    """The setting at a point of the unit cube."""
    return {
        name: values.value(u) if isinstance(values, Range) else values[int(u * len(values))]
        for (name, values), u in zip(space.items(), point.tolist(), strict=True)
    }


def rungs(settings: int, total_steps: int, eta: int = 3, num_rungs: int = 3) -> list[tuple[int, int]]:
    """The rungs of successive halving: ceil(settings / eta^k) settings trained to ceil(total_steps / eta^(num_rungs - 1 - k)).

    Runs continue from rung to rung, so that the cost relative to the grid is about (1 + (num_rungs - 1) (1 - 1 / eta)) /
    eta^(num_rungs - 1): 26 % for three rungs with ``eta = 3``, 16 % with ``eta = 4``.

    Args:
        settings: How many settings begin; at least 2.
        total_steps: Environment steps of a run that is never stopped.
        eta: One of ``eta`` settings continues; at least 2.
        num_rungs: How many rungs; at least 2.

    Returns:
        For each rung, the number of settings and the environment steps of their runs, counted from the start of training.

    Raises:
        ValueError: For numbers out of range, and for more rungs than there are settings or steps.

    Source: Jamieson and Talwalkar 2016.

    Examples:
        >>> from jaxpg import search
        >>> search.rungs(64, 90_000, eta=3, num_rungs=3)
        [(64, 10000), (22, 30000), (8, 90000)]
    """
    for name, value, low in (
        ("settings", settings, 2),
        ("total_steps", total_steps, 1),
        ("eta", eta, 2),
        ("rungs", num_rungs, 2),
    ):
        if type(value) is not int or value < low:
            raise ValueError(f"{name} = {value!r:.80} must be an integer of at least {low} for successive halving")
    if eta ** (num_rungs - 2) >= min(settings, total_steps):
        what = f"{settings} settings and {total_steps} steps"
        raise ValueError(
            f"rungs = {num_rungs} with eta = {eta} are too many for {what}: one rung would be as the next; give fewer"
        )
    return [(-(-settings // eta**k), -(-total_steps // eta ** (num_rungs - 1 - k))) for k in range(num_rungs)]


def rank(*scores: Any) -> np.ndarray:
    """The settings, best first: by the interquartile mean over seeds, ties by the mean, then by the next of ``scores``.

    As in reports, a diverged run (NaN) counts as the worst: a setting with one has no mean, and with more than a quarter of
    them no interquartile mean either. A setting without comes after all that have one; of these, fewer diverged runs are
    better. What remains equal keeps its order.

    Args:
        *scores: ``[settings, seeds]`` each, the most important first; higher is better.

    Returns:
        Indices of settings, ``[settings]``.

    Raises:
        ValueError: For other shapes.

    Examples:
        >>> import numpy as np
        >>> from jaxpg import search
        >>> search.rank([[1.0, 2.0], [9.0, np.nan], [3.0, 5.0]]).tolist()  # a NaN is the worst
        [2, 0, 1]
        >>> search.rank([[5.0], [5.0]], [[1.0], [2.0]]).tolist()
        [1, 0]
    """
    tables = [np.asarray(each, float) for each in scores]
    if not tables or tables[0].ndim != 2 or any(table.shape != tables[0].shape for table in tables):
        raise ValueError("scores must be one or more arrays [settings, seeds] of the same shape")
    means = [mean for table in tables for mean in (stats.iqm(table), np.mean(table, axis=1))]
    keys = [-np.nan_to_num(mean, nan=-np.inf, neginf=-np.inf, posinf=np.inf) for mean in means]
    keys.insert(2, np.isnan(tables[0]).sum(axis=1))
    return np.lexsort(keys[::-1])  # whose last key is the most important; stable
