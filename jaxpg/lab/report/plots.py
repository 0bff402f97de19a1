"""The learning curve of an experiment, and helpers for all figures. pyplot, which has global state, is not used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from jaxpg.lab.report.rows import all_numbers
from jaxpg.lab.report.text import printable

COLOR, INK = "#2a5caa", "#444444"
DASHED: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (5, 4)), "zorder": 1}  # a threshold
MAX_LINES = 8  # the most that a reader can tell apart
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6bb1")  # after Okabe and Ito
MARKERS = "os^DvPX*"
ORDERED = ListedColormap(
    colormaps["viridis"](np.linspace(0.0, 0.9, 256))
)  # without the yellow end, which is too light for a line


def learning_curve(env_steps: np.ndarray, returns: np.ndarray, title: str, threshold: float | None = None) -> Figure:
    """Draw the return over environment steps: seeds as thin lines, their median bold, their middle half shaded.

    ``env_steps`` is ``[points]``; ``returns`` is ``[points, S]``, NaN where no episode ended; ``threshold`` is dashed.
    """
    figure, axes = blank()
    draw_curve(axes, env_steps, returns, COLOR, every_seed=True)
    if threshold is not None:
        axes.axhline(threshold, **DASHED, label=f"solved: {threshold:g}")
    over_steps(axes, printable(title))
    axes.set_xlim(left=0)
    legend(figure, axes, axes.get_legend_handles_labels()[1])
    return figure


def blank(height: float = 4.0) -> tuple[Figure, Axes]:
    """Make an empty figure of ``6.4 x height`` inches and its axes."""
    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def draw_curve(
    axes: Axes, env_steps: np.ndarray, returns: np.ndarray, color: str, label: str = "median", *, every_seed: bool = False
) -> None:
    """Draw a curve: median and middle half over the seeds that have finished an episode, and optionally each seed."""
    filled = without_gaps(returns)
    known = ~np.all(np.isnan(filled), axis=1)
    steps, filled = env_steps[known], filled[known]
    if not steps.size:
        return
    low, median, high = np.nanquantile(filled, [0.25, 0.5, 0.75], axis=1)
    marker = "o" if steps.size == 1 else None
    if every_seed:
        names = ["each seed"] + [None] * (filled.shape[1] - 1)
        for name, column in zip(names, filled.T, strict=True):
            axes.plot(steps, column, color=color, linewidth=0.6, alpha=0.3, label=name, zorder=2)
    if filled.shape[1] > 1:
        band = "middle half of seeds" if every_seed else None  # in a comparison of curves, the caption says it once
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0, label=band, zorder=3)
    axes.plot(steps, median, color=color, linewidth=2.2, label=label, marker=marker, solid_capstyle="round", zorder=4)


def without_gaps(returns: np.ndarray) -> np.ndarray:
    """Fill NaN in ``returns``, ``[points, S]``: interpolate between numbers, repeat the last one; NaN before the first stay.

    >>> without_gaps(np.array([[np.nan], [1.0], [np.nan], [3.0], [np.nan]])).ravel().tolist()
    [nan, 1.0, 2.0, 3.0, 3.0]
    """
    points = np.arange(len(returns))
    columns = [np.full(len(returns), np.nan)] * returns.shape[1]
    for seed, column in enumerate(returns.T):
        known = np.flatnonzero(~np.isnan(column))
        if known.size:
            columns[seed] = np.interp(points, known, column[known], left=np.nan)
    return np.stack(columns, axis=1)


def dress(axes: Axes, title: str) -> None:
    """Format axes for a curve over environment steps: labels, a light grid, no frame, and a legend if a line has a label."""
    over_steps(axes, title)
    axes.set_xlim(left=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def over_steps(axes: Axes, title: str) -> None:
    """Format axes for a curve over environment steps, without a legend."""
    bare(axes, title, "environment steps per seed", "episode return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.01)


def bare(axes: Axes, title: str, x: str, y: str) -> None:
    """Format axes: title, labels, a light grid and no frame."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    axes.set_xlabel(x, color=INK, parse_math=False)
    axes.set_ylabel(y, color=INK, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors=INK, length=0, which="both")
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def styles(count: int, is_ordered: bool) -> list[dict[str, Any]]:
    """Colour and marker for each of ``count`` lines, at most eight; ordered lines get colours from dark to light."""
    colors = ORDERED(np.linspace(0.0, 1.0, count)) if is_ordered else COLORS
    each = zip(range(count), colors, MARKERS, strict=False)
    return [{"color": color, "marker": marker, "markersize": 5.0, "linewidth": 2.0, "zorder": 4} for _, color, marker in each]


def legend(figure: Figure, axes: Axes, labels: Sequence[str]) -> None:
    """Draw a legend of ``labels`` below the axes: in one line if they fit, else in columns."""
    if not labels:
        return
    by_label = {artist.get_label(): artist for artist in (*axes.lines, *axes.collections)}
    shown = [f" {label}" if label.startswith("_") else label for label in labels]  # matplotlib hides labels that begin with _
    widths = [8 + len(label) for label in labels]  # in characters, of which 88 fit
    columns = len(labels) if sum(widths) <= 88 else max(1, min(4, 88 // max(widths)))
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.2 * -(-len(labels) // columns))
    look: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": 9, "labelcolor": INK}
    box = figure.legend([by_label[label] for label in labels], shown, loc="outside lower center", **look)
    for text in box.get_texts():
        text.set_parse_math(False)


def place_values(values: Sequence[Any]) -> tuple[np.ndarray, str]:
    """The positions of sorted ``values`` on an axis from 0 to 1, and a note on its scale.

    Numbers that span a factor of ten or more get a log scale; text, and numbers that would overlap, get equal distances.

    >>> place_values([0.001, 0.01, 0.1])
    (array([0. , 0.5, 1. ]), ' (log scale)')
    >>> place_values(["none", "running"])
    (array([0., 1.]), '')
    """
    even = np.linspace(0.0, 1.0, len(values))
    if len(values) < 2 or not all_numbers(values):
        return even, ""
    wide = min(values) > 0 and max(values) / min(values) >= 10
    places = np.log10(values) if wide else np.array(values, float)
    places = (places - places[0]) / (places[-1] - places[0])
    if len(values) <= MAX_LINES and np.min(np.diff(places)) < 0.5 * even[1]:
        return even, " (not to scale)"
    return places, " (log scale)" if wide else ""


def colorbar(figure: Figure, axes: Axes, colors: ScalarMappable, label: str) -> Colorbar:
    """Draw a colour bar beside the axes."""
    bar = figure.colorbar(colors, ax=axes)
    bar.set_label(label, color=INK, parse_math=False)
    bar.ax.tick_params(length=0, labelsize=9, colors=INK)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return bar


def thin_ticks(places: np.ndarray, labels: Sequence[str], letter: float = 0.016) -> tuple[Sequence[float], Sequence[str]]:
    """Drop ``places`` and ``labels`` that would overlap the one before; ``letter`` is the width of a character."""
    widths = [letter * max(map(len, label.split("\n"))) for label in labels]
    kept: list[int] = []
    for i, place in enumerate(places):
        if not kept or place - places[kept[-1]] > 0.02 + (widths[i] + widths[kept[-1]]) / 2:
            kept.append(i)
    return [places[i] for i in kept], [labels[i] for i in kept]


def find_floor(scores: Iterable[np.ndarray]) -> float:
    """The lower end of an axis: a little below the lowest score."""
    known = np.concatenate([values[np.isfinite(values)] for values in scores] or [np.zeros(0)])
    return known.min() - 0.05 * (np.ptp(known) or 1.0) if known.size else 0.0


def extend_to_floor(low: np.ndarray, high: np.ndarray, floor: float) -> np.ndarray:
    """Lower ends of intervals, with minus infinity (NaN where ``high`` is a number) replaced by ``floor``.

    >>> extend_to_floor(np.array([1.0, np.nan, np.nan]), np.array([2.0, 3.0, np.nan]), floor=-5.0)
    array([ 1., -5., nan])
    """
    return np.where(np.isnan(low) & ~np.isnan(high), floor, low)


def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` to a file, in the format of the ending of ``path``."""
    figure.savefig(path, dpi=160)
