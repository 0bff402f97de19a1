"""Figures over the hyperparameters that a sweep varies. Each function returns a figure and its caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxpg import stats
from jaxpg.lab.report import plots
from jaxpg.lab.report.figures import GREEDY, REPLICATES, Picture, draw_threshold
from jaxpg.lab.report.plots import MAX_LINES, extend_to_floor, find_floor, legend, place_values, styles, thin_ticks
from jaxpg.lab.report.rows import (
    Row,
    all_numbers,
    count_diverged,
    count_seeds,
    find_done,
    group_rows,
    list_options,
    rank,
    rows,
    sort_values,
    varied,
)
from jaxpg.lab.report.text import count, describe, name_env, name_task, printable, score_format, shorten_value
from jaxpg.lab.store.results import Results

MAX_VALUES, GROUPS = 16, 10  # of more values of a number, ``marginal`` makes so many groups


def sensitivity(run: Results, name: str) -> Picture:
    """Draw greedy return against one hyperparameter: interquartile mean, its 95 % interval as bars, each seed as a dot.

    There is a line for each combination of the other hyperparameters. If these are more than eight, there is only one line,
    with the best combination at each value.
    """
    figure, axes = plots.blank()
    table, others = rows([run]), [other for other in varied(run) if other != name]
    values, at_value = sort_values(row.setting[name] for row in table), group_rows(table, [name])
    places, scale = place_values(values)
    lines = group_rows(table, others)
    best = len(lines) > MAX_LINES
    if best:
        lines = {"": [max(group, key=rank) for group in at_value.values()]}
    is_ordered = len(others) == 1 and all_numbers(row.setting[others[0]] for row in table)
    floor = find_floor(row.scores for row in table)
    for i, (style, (label, line)) in enumerate(zip(styles(len(lines), is_ordered), lines.items(), strict=True)):
        shifted = [places[values.index(row.setting[name])] + 0.015 * (i - (len(lines) - 1) / 2) for row in line]
        draw_scores(axes, np.array(shifted), line, floor, label=label, **style)
    plots.bare(axes, title(table[0], [name]), f"{printable(name)}{scale}", GREEDY)
    axes.set_xlim(-0.07, 1.07)
    at, labels = thin_ticks(places, [label_value(value, at_value[describe({name: value})]) for value in values])
    axes.set_xticks(at, labels, parse_math=False)
    if len(lines) > 1:
        legend(figure, axes, [*lines])
    if run.diverged.any():
        axes.set_ylim(bottom=floor)
    sizes = [row.scores.size for row in table]
    says = f"Interquartile mean of the greedy return over {count_seeds(sizes)}"
    says += " with its 95 % bootstrap interval; dots: each seed." if max(sizes) > 1 else "."
    chosen = best_of("At each value", others) if best else []
    return figure, " ".join([says, *chosen, *draw_threshold(axes.axhline, table), *count_diverged(table)])


def marginal(run: Results, name: str, summaries: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw the effect of one hyperparameter, on average over all settings that share its value.

    ``summaries`` are those of ``rows.summarize_settings``. Many values of a number are divided into groups of equal size.
    """
    figure, axes = plots.blank()
    options, is_done = list_options(run), find_done(run).any(axis=1)
    given = [options[i][name] for i in np.flatnonzero(is_done).tolist()]
    scores = np.array([summaries[i]["iqm"] for i in np.flatnonzero(is_done).tolist()])
    groups = group_values(given)
    group_of = {identify(value): g for g, (_, group) in enumerate(groups) for value in group}
    member = np.array([group_of[identify(value)] for value in given])
    lines = [scores[member == g] for g in range(len(groups))]
    places, scale = place_values([group[len(group) // 2] for _, group in groups])
    centre = np.array([stats.iqm(line) for line in lines])
    low, high = np.array([stats.bootstrap_interval(line, num_replicates=REPLICATES) for line in lines]).T
    ranked = [np.sort(np.nan_to_num(line, nan=-np.inf)) for line in lines]
    lower, upper = np.array([(line[line.size // 4], line[-1 - line.size // 4]) for line in ranked]).T
    floor = find_floor([scores])
    color = plots.COLOR
    axes.vlines(places, np.maximum(lower, floor), np.maximum(upper, floor), color=color, alpha=0.2, linewidth=9, zorder=2)
    axes.vlines(places, extend_to_floor(low, high, floor), high, color=color, linewidth=1.6, zorder=3)
    axes.plot(places, centre, color=color, marker="o", markersize=5.0, linewidth=2.0, zorder=4)
    axes.plot(places, [line[-1] for line in ranked], "^", color=plots.INK, markersize=5.0, zorder=4)
    algo, env = printable(run.config.get("algo", "")), name_env(run.config)
    heading = ": ".join(filter(None, (name_task(algo, env), printable(name))))
    plots.bare(axes, heading, f"{printable(name)}{scale}", "IQM of the greedy return")
    axes.set_xlim(-0.07, 1.07)
    axes.set_xticks(*thin_ticks(places, [label for label, _ in groups]), parse_math=False)
    sizes = [line.size for line in lines]
    settings = count(max(sizes), "setting") if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,} settings"
    says = f"Interquartile mean over {settings} at each value, of the interquartile means of their greedy returns over seeds. "
    says += (
        "Thin: its 95 % bootstrap interval, settings resampled; wide: the middle half of the settings; triangles: the best. "
    )
    lost = int(np.isnan(scores).sum())
    diverged = f" {count(lost, 'setting')} diverged and counted as the worst." if lost else ""
    return figure, says.rstrip() + diverged


def identify(value: Any) -> Any:
    """A key for a value; numbers that differ in any digit have different ones.

    >>> identify(1e-4) == identify(1.00001e-4), identify(1) == identify(1.0), identify([64, 64])
    (False, True, '[64, 64]')
    """
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)


def group_values(values: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """The distinct values with their labels; more than ``MAX_VALUES`` numbers are divided into groups of neighbours.

    >>> group_values([0.5, 0.1, 0.1])
    [('0.1', [0.1]), ('0.5', [0.5])]
    """
    distinct = list({identify(value): value for value in values}.values())
    distinct = sorted(distinct) if all_numbers(distinct) else distinct
    if len(distinct) <= MAX_VALUES or not all_numbers(distinct):
        return [(shorten_value(value), [value]) for value in distinct]
    groups = [distinct[i * len(distinct) // GROUPS : (i + 1) * len(distinct) // GROUPS] for i in range(GROUPS)]
    return [(f"{shorten_value(group[0])} to\n{shorten_value(group[-1])}", group) for group in groups]


def heat_map(run: Results, x: str, y: str) -> Picture:
    """Draw the interquartile mean of the greedy return for each pair of values of two hyperparameters, as colour and number.

    If other hyperparameters vary too, each cell shows the best combination of them.
    """
    table = rows([run])
    columns, lines = (sort_values(row.setting[name] for row in table) for name in (x, y))
    cells = {words: max(group, key=rank) for words, group in group_rows(table, [x, y]).items()}
    grid = [[cells.get(describe({x: column, y: line})) for column in columns] for line in lines]
    values = np.array([[np.nan if row is None else row.iqm for row in line] for line in grid])
    figure, axes = plots.blank(float(np.clip(1.4 + 0.5 * len(lines), 3.0, 8.0)))
    known = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 1.0])
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis", vmin=known.min(), vmax=known.max())
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9 if len(columns) <= 8 else 6}
    spec = score_format(row.summary for row in cells.values())
    for i, j in np.ndindex(values.shape):
        dark = np.isfinite(values[i, j]) and float(image.norm(values[i, j])) < 0.6  # pyright: ignore[reportArgumentType]
        axes.text(j, i, format_cell(grid[i][j], spec), color="white" if dark else "black", **look)
    plots.bare(axes, title(table[0], [x, y]), printable(x), printable(y))
    axes.grid(visible=False)
    axes.set_facecolor("#eeeeee")
    axes.set_xticks(range(len(columns)), list(map(shorten_value, columns)), parse_math=False)
    axes.set_yticks(range(len(lines)), list(map(shorten_value, lines)), parse_math=False)
    plots.colorbar(figure, axes, image, "IQM of the greedy return")
    says = f"Interquartile mean (IQM) of the greedy return over {count_seeds(row.scores.size for row in table)}."
    chosen = best_of("In each cell", [name for name in varied(run) if name not in (x, y)])
    return figure, " ".join([says, *chosen, *count_diverged(table)])


def title(row: Row, names: Sequence[str]) -> str:
    """The title: algorithm and environment, if known, and the hyperparameters that vary."""
    return ": ".join(filter(None, (name_task(row.algo, row.env), " and ".join(map(printable, names)))))


def best_of(where: str, others: Sequence[str]) -> list[str]:
    """A sentence that the best combination of the ``others`` is shown, if there are any."""
    return [
        f"{where}, the best combination of {' and '.join(map(printable, others))} (a little overestimated by the choice)."
    ] * bool(others)


def draw_scores(axes: Axes, places: np.ndarray, line: Sequence[Row], floor: float, **style: Any) -> None:
    """Draw one line of ``sensitivity``, with its points ordered by ``places``."""
    line, places = [line[i] for i in np.argsort(places)], np.sort(places)
    for row, place in zip(line, places, strict=True):
        dots = {"color": style["color"], "markersize": 3.0, "alpha": 0.25, "linewidth": 0.0, "zorder": 2}
        axes.plot(np.full(row.scores.size, place), row.scores, "o", **dots)
    low, high = np.array([row.summary["ci95"] for row in line]).T
    axes.vlines(places, extend_to_floor(low, high, floor), high, color=style["color"], linewidth=1.4, zorder=3)
    axes.plot(places, [row.iqm for row in line], **style)


def label_value(value: Any, runs: Sequence[Row]) -> str:
    """The label of a value on an axis, with the number of its runs that diverged below it."""
    diverged, done = sum(row.diverged.sum() for row in runs), sum(row.done.sum() for row in runs)
    return f"{shorten_value(value)}\n{diverged} of {done}\ndiverged" if diverged else shorten_value(value)


def format_cell(row: Row | None, spec: str) -> str:
    """The text in a cell of ``heat_map``; ``spec`` is a format from ``number_format``."""
    if row is None or not row.done.any():
        return "" if row is None else "not finished"
    return "diverged" if np.isnan(row.iqm) else format(row.iqm, f"z{spec}")
