"""Rows: each setting of each experiment, as a line in figures and tables. A run here is one experiment directory."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg import stats
from jaxpg.lab.config import SOLVED
from jaxpg.lab.report.text import count, describe, format_value, name_env, printable
from jaxpg.lab.store.results import Results

MANY = 100  # of more settings, tables and figures show the best ones and averages
NO_SCORE: Mapping[str, Any] = {
    "mean": math.nan,
    "median": math.nan,
    "iqm": math.nan,
    "ci95": (math.nan, math.nan),
    "diverged": [],
}


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One setting of one experiment, with N seeds and P log points. Its texts are printable."""

    run: str
    label: str  # unique in a list of rows
    algo: str
    env: str
    setting: Mapping[str, Any]  # the hyperparameters that differ between the settings of its run
    options: Mapping[str, Any]  # all hyperparameters that are known
    env_steps: np.ndarray  # [P]
    curve: np.ndarray  # [P, N], return of training episodes, NaN where none ended
    returns: np.ndarray  # [N], greedy return, NaN for a seed that diverged or is not finished
    diverged_at: np.ndarray  # [N], update at which a seed diverged, 0 for one that did not
    known: Mapping[str, Any] | None = None  # the summary, if it was computed with those of other settings

    @property
    def diverged(self) -> np.ndarray:
        """``[N]``: the seeds that diverged."""
        return self.diverged_at > 0

    @property
    def done(self) -> np.ndarray:
        """``[N]``: the seeds that are finished or diverged."""
        return self.diverged | ~np.isnan(self.returns)

    @property
    def scores(self) -> np.ndarray:
        """Greedy returns of the seeds that are done; NaN for one that diverged."""
        return np.where(self.diverged, np.nan, self.returns)[self.done]

    @property
    def iqm(self) -> float:
        """Interquartile mean of the scores; NaN if there are none."""
        return float(stats.iqm(self.scores)) if self.done.any() else math.nan

    @functools.cached_property
    def summary(self) -> Mapping[str, Any]:
        """``jaxpg.stats.summarize`` of the scores; NaN if there are none."""
        return self.known or (stats.summarize(self.scores) if self.done.any() else NO_SCORE)

    @property
    def budget(self) -> float:
        """Environment steps per seed; NaN for a row that is not finished."""
        return float(self.env_steps[-1]) if self.done.all() and self.env_steps.size else math.nan

    @property
    def threshold(self) -> float | None:
        """Return from which the environment counts as solved; ``None`` if there is no common number."""
        return SOLVED.get(self.env)


def rows(runs: Sequence[Results]) -> list[Row]:
    """Make the rows of all settings. Labels name the hyperparameters that vary, and the run if there are several."""
    return [row for run in runs for row in make_rows(run, list_options(run), varied(run), several=len(runs) > 1)]


def make_rows(run: Results, options: Sequence[Mapping[str, Any]], names: Sequence[str], *, several: bool) -> list[Row]:
    """The rows of one experiment, whose settings have the ``options`` and differ in ``names``."""
    title, algo, env = printable(run.name), printable(run.config.get("algo", "")), name_env(run.config)
    table, returns = [], greedy_returns(run)
    curves = run.metrics.get("episode_return", np.full((*run.diverged_at.shape, run.env_steps.shape[1]), np.nan))
    for i, given in enumerate(options):
        chosen = {name: given[name] for name in names}
        label = ": ".join([title] * (several or not names) + [describe(chosen)] * bool(names))
        known = ~np.isnan(run.env_steps[i])  # a setting may have fewer log points than others
        arrays = run.env_steps[i, known], curves[i][:, known].T, returns[i], run.diverged_at[i]
        table.append(Row(title, label, algo, env, chosen, given, *arrays))
    return table


def greedy_returns(run: Results) -> np.ndarray:
    """``[S, N]``: the greedy returns; NaN for a run that diverged or is not finished."""
    return run.returns.get("greedy_return", np.full(run.diverged_at.shape, np.nan))


def find_done(run: Results) -> np.ndarray:
    """``[S, N]``: the runs that are finished or diverged."""
    return run.diverged | ~np.isnan(greedy_returns(run))


def summarize_settings(run: Results) -> list[Mapping[str, Any]]:
    """``Row.summary`` of each setting, computed together: fast for thousands."""
    done, scores = find_done(run), np.where(run.diverged, np.nan, greedy_returns(run))
    counts, found = done.sum(axis=1), [NO_SCORE] * len(done)
    for size in np.unique(counts[counts > 0]):
        alike = np.flatnonzero(counts == size)
        for i, summary in zip(alike, stats.summarize_rows(scores[alike][done[alike]].reshape(-1, size)), strict=True):
            found[i] = summary
    return found


def best_rows(runs: Sequence[Results], summaries: Sequence[Sequence[Mapping[str, Any]]], count: int) -> list[Row]:
    """The rows of the best settings, the best first; of the logs, only theirs are read. Their labels are their numbers.

    ``summaries`` are those of ``summarize_settings`` for each run.
    """
    places = [(r, i) for r, run in enumerate(runs) for i in range(len(run.settings))]
    is_done = np.concatenate([find_done(run).all(axis=1) for run in runs])
    scores = [[summary[name] for each in summaries for summary in each] for name in ("mean", "iqm")]
    best = np.lexsort([*np.nan_to_num(scores, nan=-np.inf), is_done])[::-1][:count]
    table: dict[tuple[int, int], Row] = {}
    for r, run in enumerate(runs):
        chosen = sorted(places[at][1] for at in best if places[at][0] == r)
        options, names = list_options(run), varied(run)
        found = (
            make_rows(run.select(chosen, ["episode_return"]), [options[i] for i in chosen], names, several=False)
            if chosen
            else []
        )
        for i, row in zip(chosen, found, strict=True):
            label = f"{row.run}: setting {i}" if len(runs) > 1 else f"setting {i}"
            given = {
                "setting": {"setting": i, **row.setting},
                "options": {**row.options, "setting": i},
                "known": summaries[r][i],
            }
            table[r, i] = dataclasses.replace(row, label=label, **given)
    return [table[places[at]] for at in best]


def list_options(run: Results) -> list[dict[str, Any]]:
    """The hyperparameters of each setting of ``run``: its own values, and the common ones for all others."""
    names = dict.fromkeys(name for setting in run.settings for name in setting)
    return [dict.fromkeys(names, "default") | {**run.config.get("options", {}), **setting} for setting in run.settings]


def varied(run: Results) -> list[str]:
    """Names of the hyperparameters that differ between the settings of ``run``."""
    first, *others = list_options(run)
    return [name for name in first if any(format_value(other[name]) != format_value(first[name]) for other in others)]


def sort_values(values: Iterable[Any]) -> list[Any]:
    """Remove duplicates from ``values`` and sort numbers; other values keep their order."""
    unique = list({format_value(value): value for value in values}.values())
    return sorted(unique) if all_numbers(unique) else unique


def all_numbers(values: Iterable[Any]) -> bool:
    """Whether all ``values`` are numbers, which have an order on an axis."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def group_rows(table: Sequence[Row], names: Sequence[str]) -> dict[str, list[Row]]:
    """Group rows by their values of ``names``, as described by ``text.describe``."""
    groups: dict[str, list[Row]] = {}
    for row in table:
        groups.setdefault(describe({name: row.setting[name] for name in names}), []).append(row)
    return groups


def rank(row: Row) -> tuple[Any, ...]:
    """The sort key of rows, the best last: finished rows last, then by IQM, then by mean; missing numbers are the worst."""
    centre = [row.iqm, float(np.mean(row.scores)) if row.done.any() else math.nan]
    return bool(row.done.all()), *(-math.inf if math.isnan(x) else x for x in centre)


def count_seeds(sizes: Iterable[int]) -> str:
    """Describe how many seeds a statistic is over, without rows that have none.

    >>> count_seeds([16, 16]), count_seeds([16, 4, 0]), count_seeds([1])
    ('16 seeds', '4 to 16 seeds', '1 seed')
    """
    low, *_, high = sorted([size for size in sizes if size] * 2) or (0, 0)
    return count(high, "seed") if low == high else f"{low} to {high} seeds"


def count_diverged(table: Sequence[Row]) -> list[str]:
    """A sentence on the runs that diverged, if any did."""
    diverged, runs = sum(int(row.diverged.sum()) for row in table), sum(int(row.done.sum()) for row in table)
    return [f"{diverged} of {runs} runs diverged; they count as the worst."] if diverged else []
