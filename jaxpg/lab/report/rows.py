"""Rows: every setting of every run, as figures draw it and a report lists it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg import stats
from jaxpg.lab.config import SOLVED
from jaxpg.lab.store.results import Results


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One setting of one run: a line of a figure, a row of a table. N seeds, P log points."""

    run: str
    label: str  # of its own in a list of rows
    algo: str
    env: str
    setting: Mapping[str, Any]  # what its run varies
    env_steps: np.ndarray  # [P]
    curve: np.ndarray  # [P, N], return of training episodes, NaN where none ended
    returns: np.ndarray  # [N], greedy return, NaN for a seed that diverged or is not done
    diverged_at: np.ndarray  # [N], update at which a seed diverged, 0 for one that did not

    @property
    def diverged(self) -> np.ndarray:
        """``[N]``: the seeds that diverged."""
        return self.diverged_at > 0

    @property
    def done(self) -> np.ndarray:
        """``[N]``: the seeds that came to their end, well or not."""
        return self.diverged | ~np.isnan(self.returns)

    @property
    def scores(self) -> np.ndarray:
        """Greedy returns of the seeds that are done; NaN for one that diverged."""
        return np.where(self.diverged, np.nan, self.returns)[self.done]

    @property
    def iqm(self) -> float:
        """Interquartile mean of the scores; NaN where there is none."""
        return float(stats.iqm(self.scores)) if self.done.any() else math.nan

    @property
    def threshold(self) -> float | None:
        """Return from which the environment counts as solved; ``None`` where no number is in use."""
        return SOLVED.get(self.env)


def rows(runs: Sequence[Results]) -> list[Row]:
    """All settings of all runs. A label names the hyperparameters that vary, and the run where there are several."""
    table = []
    for run in runs:
        names = varied(run)
        shape = len(run.settings), run.config["seeds"]
        returns = run.returns.get("greedy_return", np.full(shape, np.nan))
        curves = run.metrics.get("episode_return", np.full((*shape, run.env_steps.shape[1]), np.nan))
        for i, setting in enumerate(run.settings):
            chosen = {name: value(run, setting, name) for name in names}
            parts = [run.name] * (len(runs) > 1 or not names) + [described(chosen)] * bool(names)
            algo, env = run.config.get("algo", ""), run.config.get("env", "")  # a sweep in Python knows neither
            known = ~np.isnan(run.env_steps[i])  # a setting may have fewer log points than others
            arrays = run.env_steps[i, known], curves[i][:, known].T, returns[i], run.diverged_at[i]
            table.append(Row(run.name, ": ".join(parts), algo, env, chosen, *arrays))
    return table


def varied(run: Results) -> list[str]:
    """Names of the hyperparameters that differ between the settings of ``run``."""
    names = dict.fromkeys(name for setting in run.settings for name in setting)
    return [name for name in names if len({word(value(run, setting, name)) for setting in run.settings}) > 1]


def value(run: Results, setting: Mapping[str, Any], name: str) -> Any:
    """What ``name`` is in one of the settings of ``run``: where it is silent, what the run gives all of them."""
    return setting.get(name, run.config.get("options", {}).get(name, "default"))


def described(setting: Mapping[str, Any]) -> str:
    """A setting in words.

    >>> described({"learning_rate": 0.001, "hidden": [64, 64]})
    'learning_rate = 0.001, hidden = 64x64'
    """
    return ", ".join(f"{name} = {word(value)}" for name, value in setting.items())


def word(value: Any) -> str:
    """A value of a hyperparameter as text.

    >>> word(0.0003), word([64, 64]), word(()), word(150000), word(["learning_rate", "clip_eps"])
    ('0.0003', '64x64', 'none', '150000', 'learning_rate clip_eps')
    """
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(item, int) for item in value) else " ").join(map(word, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def brief(value: Any) -> str:
    """:func:`word` in a little room: three digits of a number with many.

    >>> brief(0.000116591), brief(0.9995), brief(150000)
    ('0.000117', '0.9995', '150000')
    """
    return f"{value:.3g}" if isinstance(value, float) and len(word(value)) > 7 else word(value)


def ordered(values: Sequence[Any]) -> list[Any]:
    """``values`` without repetition, numbers by size; anything else stays in its order."""
    unique = list({word(value): value for value in values}.values())
    return sorted(unique) if all_numbers(unique) else unique


def all_numbers(values: Sequence[Any]) -> bool:
    """Whether ``values`` can lie on an axis by size."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def grouped(table: Sequence[Row], names: Sequence[str]) -> dict[str, list[Row]]:
    """Rows that share the values of ``names``, by :func:`described`."""
    groups: dict[str, list[Row]] = {}
    for row in table:
        groups.setdefault(described({name: row.setting[name] for name in names}), []).append(row)
    return groups


def rank(row: Row) -> tuple[Any, ...]:
    """What orders rows, the best last: finished ones, then by IQM, then by mean; what does not exist is the worst."""
    centre = [row.iqm, float(np.mean(row.scores)) if row.done.any() else math.nan]
    return bool(row.done.all()), *(-math.inf if math.isnan(x) else x for x in centre)


def digits(values: Any) -> int:
    """Decimals with which the largest of ``values`` has four digits; at most three.

    >>> digits([1.0, -487.3]), digits([0.04]), digits([math.nan])
    (1, 3, 1)
    """
    largest = max((abs(x) for x in np.ravel(values) if math.isfinite(x) and x), default=100.0)
    return int(np.clip(3 - math.floor(math.log10(largest)), 0, 3))


def on(what: str, env: str) -> str:
    """A title: ``what``, and the environment if its name is known.

    >>> on("ppo", "CartPole-v1"), on("learning curves", "")
    ('ppo on CartPole-v1', 'learning curves')
    """
    return f"{what} on {env}" if env else what


def seeds(sizes: Iterable[int]) -> str:
    """How many seeds stand behind each number that there is.

    >>> seeds([16, 16]), seeds([16, 4, 0]), seeds([1])
    ('16 seeds', '4 to 16 seeds', '1 seed')
    """
    low, *_, high = sorted([size for size in sizes if size] * 2) or (0, 0)
    return f"{high} seed{'s' * (high != 1)}" if low == high else f"{low} to {high} seeds"


def losses(table: Sequence[Row]) -> list[str]:
    """A sentence on the runs that diverged, if any did."""
    lost, runs = sum(int(row.diverged.sum()) for row in table), sum(int(row.done.sum()) for row in table)
    return [f"{lost} of {runs} runs diverged; they count as the worst."] if lost else []
