"""Figures over hyperparameters, of one run that varies them. Each is a figure and its caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jaxpg import stats
from jaxpg.lab.report import plots
from jaxpg.lab.report.figures import GREEDY, Picture, dashed
from jaxpg.lab.report.plots import MAX_LINES, legend, lowest, spread, styles, sunk, ticks
from jaxpg.lab.report.rows import (
    Row,
    all_numbers,
    brief,
    described,
    digits,
    grouped,
    losses,
    on,
    ordered,
    rank,
    rows,
    seeds,
    varied,
)
from jaxpg.lab.store.results import Results


def sensitivity(run: Results, name: str) -> Picture:
    """Greedy return against one hyperparameter: interquartile mean, its 95 % interval as bars, each seed as a dot.

    A line for each combination of the others that vary; of more than eight, one line: at each value the best of them.
    """
    figure, axes = plots.blank()
    table, others = rows([run]), [other for other in varied(run) if other != name]
    values, at_value = ordered([row.setting[name] for row in table]), grouped(table, [name])
    places, scale = spread(values)
    lines = grouped(table, others)
    best = len(lines) > MAX_LINES
    if best:
        lines = {"": [max(group, key=rank) for group in at_value.values()]}
    is_ordered = len(others) == 1 and all_numbers([row.setting[others[0]] for row in table])
    floor = lowest(row.scores for row in table)
    for i, (style, (label, line)) in enumerate(zip(styles(len(lines), is_ordered), lines.items(), strict=True)):
        shifted = [places[values.index(row.setting[name])] + 0.015 * (i - (len(lines) - 1) / 2) for row in line]
        draw_scores(axes, np.array(shifted), line, floor, label=label, **style)
    plots.bare(axes, title(table[0], name), f"{name}{scale}", GREEDY)
    axes.set_xlim(-0.07, 1.07)
    at, labels = ticks(places, [marked(value, at_value[described({name: value})]) for value in values])
    axes.set_xticks(at, labels, parse_math=False)
    if len(lines) > 1:
        legend(figure, axes, [*lines])
    if run.diverged.any():
        axes.set_ylim(bottom=floor)
    sizes = [row.scores.size for row in table]
    says = f"Interquartile mean of the greedy return over {seeds(sizes)}"
    says += " with its 95 % bootstrap interval; dots: each seed." if max(sizes) > 1 else "."
    if best:
        says += f" At each value, the best combination of {' and '.join(others)}: a little optimistic."
    return figure, " ".join([says, *dashed(axes.axhline, table), *losses(table)])


def heat_map(run: Results, x: str, y: str) -> Picture:
    """Interquartile mean of the greedy return for each pair of values of two hyperparameters, as colour and as number.

    Where others vary too, a cell is the best of them.
    """
    table = rows([run])
    columns, lines = (ordered([row.setting[name] for row in table]) for name in (x, y))
    cells = {words: max(group, key=rank) for words, group in grouped(table, [x, y]).items()}
    grid = [[cells.get(described({x: column, y: line})) for column in columns] for line in lines]
    values = np.array([[np.nan if row is None else row.iqm for row in line] for line in grid])
    figure, axes = plots.blank(float(np.clip(1.4 + 0.5 * len(lines), 3.0, 8.0)))
    known = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 1.0])
    image = axes.imshow(values, origin="lower", aspect="auto", cmap="viridis", vmin=known.min(), vmax=known.max())
    for i, j in np.ndindex(values.shape):
        dark = np.isfinite(values[i, j]) and float(image.norm(values[i, j])) < 0.6  # pyright: ignore[reportArgumentType]
        size = 9 if len(columns) <= 8 else 6
        axes.text(
            j, i, cell(grid[i][j], digits(values)), ha="center", va="center", fontsize=size, color="white" if dark else "black"
        )
    plots.bare(axes, title(table[0], f"{x} and {y}"), x, y)
    axes.grid(visible=False)
    axes.set_facecolor("#eeeeee")
    axes.set_xticks(range(len(columns)), list(map(brief, columns)), parse_math=False)
    axes.set_yticks(range(len(lines)), list(map(brief, lines)), parse_math=False)
    plots.scale(figure, axes, image, "IQM of the greedy return")
    says = f"Interquartile mean (IQM) of the greedy return over {seeds(row.scores.size for row in table)}."
    others = [name for name in varied(run) if name not in (x, y)]
    if others:
        says += f" In each cell, the best combination of {' and '.join(others)}: a little optimistic."
    return figure, " ".join([says, *losses(table)])


def title(row: Row, names: str) -> str:
    """What was run, if it is known, and what varies."""
    return ": ".join(filter(None, (on(row.algo, row.env), names)))


def draw_scores(axes: Axes, places: np.ndarray, line: Sequence[Row], floor: float, **style: Any) -> None:
    """One line of :func:`sensitivity`, its points ordered by ``places``."""
    line, places = [line[i] for i in np.argsort(places)], np.sort(places)
    for row, place in zip(line, places, strict=True):
        dots = {"color": style["color"], "markersize": 3.0, "alpha": 0.25, "linewidth": 0.0, "zorder": 2}
        axes.plot(np.full(row.scores.size, place), row.scores, "o", **dots)
    intervals = [stats.bootstrap_interval(row.scores) if row.scores.size else (np.nan, np.nan) for row in line]
    low, high = np.array(intervals).T
    axes.vlines(places, sunk(low, high, floor), high, color=style["color"], linewidth=1.4, zorder=3)
    axes.plot(places, [row.iqm for row in line], **style)


def marked(value: Any, group: Sequence[Row]) -> str:
    """The label of a value on an axis: how many of its runs diverged stands below it."""
    lost, runs = sum(row.diverged.sum() for row in group), sum(row.done.sum() for row in group)
    return f"{brief(value)}\n{lost} of {runs}\ndiverged" if lost else brief(value)


def cell(row: Row | None, decimals: int) -> str:
    """What is printed in a cell of :func:`heat_map`."""
    if row is None or not row.done.any():
        return "" if row is None else "not done"
    return "diverged" if np.isnan(row.iqm) else f"{row.iqm:.{decimals}f}"
