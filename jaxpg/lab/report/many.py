"""The part of the page about an environment with hundreds of settings or more.

The best settings have a table and curves, each hyperparameter has a figure of its effect on average, and all settings are in a
table to search. Of the logs, only those of the best settings are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg.lab.report import figures, landscape, text
from jaxpg.lab.report.figures import Picture
from jaxpg.lab.report.markup import escape, picture
from jaxpg.lab.report.plots import MAX_LINES
from jaxpg.lab.report.rows import Row, find_done, list_options, varied
from jaxpg.lab.report.search import search_table
from jaxpg.lab.store.results import Results

TOP = 20  # settings in the table of the best

Summaries = Sequence[Sequence[Mapping[str, Any]]]  # of each setting of each run


def list_budgets(runs: Sequence[Results]) -> list[tuple[float, str]]:
    """The environment steps per seed of each finished setting, and its name."""
    return [
        (float(np.nanmax(run.env_steps[i])), f"{text.printable(run.name)}: setting {i}" if len(runs) > 1 else f"setting {i}")
        for run in runs
        for i in np.flatnonzero(find_done(run).all(axis=1) & ~np.isnan(run.env_steps).all(axis=1))
    ]


def pictures(runs: Sequence[Results], summaries: Summaries, best: Sequence[Row]) -> Iterator[str]:
    """Curves and performance profiles of the best settings, and the effect of each hyperparameter of each run."""
    total, shown = sum(len(run.settings) for run in runs), best[:MAX_LINES]
    if any(np.isfinite(row.curve).any() for row in shown):
        yield picture(*of_best(figures.compare(shown), len(shown), total))
    if any(row.done.any() for row in shown):
        yield picture(*of_best(figures.profile(shown), len(shown), total))
    for run, each in zip(runs, summaries, strict=True):
        names = varied(run) if find_done(run).any() else []
        if names and len(runs) > 1:
            yield f"<h3>{escape(run.name)}</h3>\n"
        yield from (picture(*landscape.marginal(run, name, each)) for name in names)


def of_best(drawn: Picture, count: int, total: int) -> Picture:
    """Say in a caption that only the best settings are drawn."""
    figure, caption = drawn
    return figure, f"The best {count} of {text.count(total, 'setting')}. {caption}"


def table_of_all(runs: Sequence[Results], summaries: Summaries) -> str:
    """The table of all settings, the best first: their numbers, hyperparameters and scores."""
    columns: dict[str, list[Any]] = {"setting": []}
    columns |= {"run": []} if len(runs) > 1 else {}
    names = list(dict.fromkeys(name for run in runs for name in varied(run)))
    columns |= {name: [] for name in names} | {head: [] for head in ("IQM", "low", "high", "mean", "done", "diverged")}
    spec = text.score_format(summary for each in summaries for summary in each)
    for run, each in zip(runs, summaries, strict=True):
        columns["setting"] += range(len(run.settings))
        if len(runs) > 1:
            columns["run"] += [run.name] * len(run.settings)
        options = list_options(run)
        for name in names:
            columns[name] += [text.format_value(given.get(name, text.NONE)) for given in options]
        scores = [(summary["iqm"], *summary["ci95"], summary["mean"]) for summary in each]
        for head, values in zip(("IQM", "low", "high", "mean"), zip(*scores, strict=True), strict=True):
            columns[head] += [float(format(value, spec)) for value in values]
        columns["done"] += find_done(run).sum(axis=1).tolist()
        columns["diverged"] += run.diverged.sum(axis=1).tolist()
    order = np.argsort(-np.nan_to_num(columns["IQM"], nan=-np.inf), kind="stable")
    caption = "All settings: interquartile mean of the greedy return over seeds, low and high: the ends of its 95 % interval"
    return search_table(caption, {head: [values[i] for i in order] for head, values in columns.items()})
