"""Figures that compare rows: learning curves and performance profiles.

Each function returns a figure and its caption. A run that diverged counts as the worst, as in ``jaxpg.stats``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxpg import stats
from jaxpg.lab.report import plots
from jaxpg.lab.report.plots import MAX_LINES, ORDERED, extend_to_floor, find_floor, legend, place_values, styles, thin_ticks
from jaxpg.lab.report.rows import Row, all_numbers, count_diverged, count_seeds, rank, sort_values
from jaxpg.lab.report.text import name_task, printable, shorten_value

Picture = tuple[Figure, str]  # and its caption
Curve = Callable[[Row, bool], tuple[np.ndarray, ...]]  # (row, with_interval) -> x, y, low and high end
BEHIND: dict[str, Any] = {"color": "#cccccc", "linewidth": 0.9, "zorder": 2}
GREEDY = "greedy return per episode"
REPLICATES = 1000  # of the bootstrap, at each point of a band


def compare(table: Sequence[Row]) -> Picture:
    """Draw the return over environment steps, a line for each row: interquartile mean bold, its 95 % interval shaded.

    With more than eight rows, the best eight are in colour and the others grey; a single varied number sets the colour.
    """
    figure, axes = plots.blank()
    plots.over_steps(axes, name_task("Learning curves", table[0].env))
    shown = [row for row in table if np.isfinite(row.curve).any()]
    floor = find_floor(row.curve for row in shown)
    draw_rows(figure, axes, shown, mean_curve, floor)
    axes.set_xlim(left=0)
    if any(row.diverged.any() for row in shown):
        axes.set_ylim(bottom=floor)
    sizes = [row.curve.shape[1] for row in shown]
    says = f"Return of the training episodes: interquartile mean over {count_seeds(sizes)}"
    return figure, caption(says, ",", sizes, shown, draw_threshold(axes.axhline, table))


def profile(table: Sequence[Row]) -> Picture:
    """Draw the share of seeds with a greedy return above tau, a line for each row; its 95 % bootstrap interval shaded.

    Rows without a finished seed are left out. Colours are as in ``compare``.
    """
    figure, axes = plots.blank()
    plots.bare(axes, name_task("Performance profile", table[0].env), f"tau, {GREEDY}", "share of seeds above tau")
    shown = [row for row in table if row.done.any()]
    taus, mean = choose_taus(shown), functools.partial(np.mean, axis=-1)

    def share(row: Row, with_interval: bool) -> tuple[np.ndarray, ...]:
        above = row.scores > taus[:, None]  # the mean over seeds is the share
        ends = [stats.bootstrap_interval(x, mean, REPLICATES) for x in above] if with_interval else []
        return taus, stats.performance_profile(row.scores, taus), *np.array(ends, float).reshape(-1, 2).T

    draw_rows(figure, axes, shown, share)
    axes.set(xlim=(taus[0], taus[-1]), ylim=(-0.02, 1.02))
    sizes = [row.scores.size for row in shown]
    says = f"Share of {count_seeds(sizes)} with a greedy return above tau; higher is better"
    return figure, caption(says, ";", sizes, shown, draw_threshold(axes.axvline, table))


def caption(says: str, mark: str, sizes: Sequence[int], table: Sequence[Row], threshold: Sequence[str]) -> str:
    """Write a caption: what the figure ``says``, then its bands, its threshold and its colours, if there are any.

    ``sizes`` are the numbers of seeds of the rows of ``table``; ``mark`` is the text before the sentence on the bands.
    """
    front, keyed = choose(table)
    says += "." if keyed or max(sizes, default=1) == 1 else f"{mark} shaded: its 95 % bootstrap interval."
    best = [f"In colour: the best {len(front)} of {len(table)} by their greedy return."] * (len(front) < len(table))
    return " ".join([says, *threshold, *best, *count_diverged(table)])


def draw_rows(figure: Figure, axes: Axes, table: Sequence[Row], curve: Curve, floor: float = 0.0) -> None:
    """Draw a line for each row, and a legend or colour bar; an interval without a lower end is drawn down to ``floor``."""
    front, keyed = choose(table)
    if not keyed:
        looks = dict(zip(front, styles(len(front), bool(find_number(front))), strict=True))
    else:  # thin lines, coloured by the number in which rows differ
        values = sort_values(row.setting[keyed] for row in front)
        places, scale = place_values(values)
        colors = {row: ORDERED(places[values.index(row.setting[keyed])]) for row in front}
        looks = {row: {"color": color, "linewidth": 1.3, "zorder": 4} for row, color in colors.items()}
        bar = plots.colorbar(figure, axes, ScalarMappable(Normalize(0.0, 1.0), ORDERED), f"{printable(keyed)}{scale}")
        at, labels = thin_ticks(places, list(map(shorten_value, values)), letter=0.0)
        bar.set_ticks(at, labels=labels)
    for i, row in enumerate(table):
        has_band = row in looks and not keyed
        x, y, *ends = curve(row, has_band)
        if has_band:
            low, high = ends
            band = {"color": looks[row]["color"], "alpha": 0.15, "linewidth": 0, "zorder": 3}
            axes.fill_between(x, extend_to_floor(low, high, floor), high, **band)
        step = max(1, -(-x.size // 8))  # about eight markers, shifted for each line
        axes.plot(x, y, label=row.label, markevery=(i % MAX_LINES * step // MAX_LINES, step), **looks.get(row, BEHIND))
    if not keyed:
        legend(figure, axes, [row.label for row in front])


def choose(table: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """The rows to draw in colour, and the hyperparameter that sets the colours if a legend would be too long, else ``""``."""
    number = find_number(table)
    if len(table) <= MAX_LINES or number:
        return table, number if len(table) > MAX_LINES else ""
    best = sorted(table, key=rank)[-MAX_LINES:]
    return [row for row in table if row in best], ""


def find_number(table: Sequence[Row]) -> str:
    """The only hyperparameter that varies, if it is a number and all rows are from one directory; else ``""``."""
    names = {name for row in table for name in row.setting}
    alone = len({row.run for row in table}) == len(names) == 1
    return next((name for name in names if alone and all_numbers(row.setting[name] for row in table)), "")


def mean_curve(row: Row, with_interval: bool) -> tuple[np.ndarray, ...]:
    """Steps, interquartile mean and both ends of its 95 % interval, where some seed has finished an episode.

    A seed that diverged counts as the worst from then on.
    """
    filled = plots.without_gaps(row.curve)
    if row.diverged.any():
        later = np.cumsum(~np.isnan(row.curve[::-1]), axis=0)[::-1] == 0
        filled[later & row.diverged] = -np.inf
    known = ~np.all(np.isnan(filled), axis=1)
    points = [values[~np.isnan(values)] for values in filled[known]]
    ends = [stats.bootstrap_interval(values, num_replicates=REPLICATES) for values in points] if with_interval else []
    return row.env_steps[known], np.array([stats.iqm(values) for values in points]), *np.array(ends, float).reshape(-1, 2).T


def choose_taus(table: Sequence[Row]) -> np.ndarray:
    """Values of tau, ``[K]``, from just below to just above all scores and the threshold."""
    solved = [row.threshold for row in table[:1] if row.threshold is not None]
    known = np.concatenate([*(row.scores[np.isfinite(row.scores)] for row in table), solved])
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    margin = 0.03 * (high - low or 1.0)
    return np.linspace(low - margin, high + margin, 161)


def draw_threshold(line: Callable[..., Any], table: Sequence[Row]) -> list[str]:
    """Draw the return that counts as solved, if known, with ``axhline`` or ``axvline``; return a sentence for the caption."""
    threshold = table[0].threshold
    if threshold is None:
        return []
    line(threshold, **plots.DASHED)
    return [f"Dashed: {threshold:g}, solved."]
