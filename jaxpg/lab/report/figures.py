"""Figures that compare rows: learning curves and performance profiles.

Each is a figure and its caption. A run that diverged counts as the worst of all, as everywhere in :mod:`jaxpg.stats`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxpg import stats
from jaxpg.lab.report import plots
from jaxpg.lab.report.plots import MAX_LINES, ORDERED, legend, lowest, spread, styles, sunk, ticks
from jaxpg.lab.report.rows import Row, all_numbers, brief, losses, on, ordered, rank, seeds

Picture = tuple[Figure, str]  # and its caption
BEHIND: dict[str, Any] = {"color": "#cccccc", "linewidth": 0.9, "zorder": 2}
GREEDY = "greedy return per episode"
REPLICATES = 1000  # of the bootstrap, at each point of a band


def compare(table: Sequence[Row]) -> Picture:
    """Return over environment steps, a line for each row: interquartile mean bold, its 95 % interval shaded.

    Of more than eight rows the eight best are in colour, the others grey; if one number tells them apart, colour is that.
    """
    figure, axes = plots.blank()
    plots.over_steps(axes, on("Learning curves", table[0].env))
    threshold = dashed(axes.axhline, table)
    table = [row for row in table if np.isfinite(row.curve).any()]
    front, keyed = choose(table)
    floor = lowest(row.curve for row in table)
    for row in table:
        if row not in front:
            axes.plot(*middle(row, band=False)[:2], **BEHIND)
    for i, (row, style) in enumerate(zip(front, painted(front, keyed), strict=True)):
        steps, centre, low, high = middle(row, band=not keyed)
        if not keyed:
            axes.fill_between(steps, sunk(low, high, floor), high, color=style["color"], alpha=0.16, linewidth=0, zorder=3)
        axes.plot(steps, centre, label=row.label, markevery=apart(i, len(front), steps.size), **style)
    explain(figure, axes, front, keyed)
    axes.set_xlim(left=0)
    if any(row.diverged.any() for row in table):
        axes.set_ylim(bottom=floor)
    sizes = [row.curve.shape[1] for row in table]
    says = f"Return of the training episodes; bold: interquartile mean over {seeds(sizes)}"
    says += "." if keyed or max(sizes, default=1) == 1 else ", shaded: its 95 % bootstrap interval."
    return figure, " ".join([says, *threshold, *selection(table, front), *losses(table)])


def profile(table: Sequence[Row]) -> Picture:
    """Share of the seeds with a greedy return above tau, a line for each row; its 95 % bootstrap interval shaded.

    Rows of which no seed is done are left out; of more than eight, colours are as in :func:`compare`.
    """
    figure, axes = plots.blank()
    plots.bare(axes, on("Performance profile", table[0].env), f"tau, {GREEDY}", "share of seeds above tau")
    threshold = dashed(axes.axvline, table)
    table = [row for row in table if row.done.any()]
    front, keyed = choose(table)
    taus = thresholds(table)
    for row in table:
        if row not in front:
            axes.plot(taus, stats.performance_profile(row.scores, taus), **BEHIND)
    for i, (row, style) in enumerate(zip(front, painted(front, keyed), strict=True)):
        if not keyed and row.scores.size > 1:
            axes.fill_between(taus, *shares(row, taus), color=style["color"], alpha=0.13, linewidth=0, zorder=3)
        share = stats.performance_profile(row.scores, taus)
        axes.plot(taus, share, label=row.label, markevery=apart(i, len(front), taus.size), **style)
    axes.set(xlim=(taus[0], taus[-1]), ylim=(-0.02, 1.02))
    explain(figure, axes, front, keyed)
    sizes = [row.scores.size for row in table]
    says = f"Share of {seeds(sizes)} with a greedy return above tau; higher is better"
    says += "." if keyed or max(sizes, default=1) == 1 else "; shaded: its 95 % bootstrap interval."
    return figure, " ".join([says, *threshold, *selection(table, front), *losses(table)])


def choose(table: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """The rows to draw in colour, and the number that tells them apart if they are too many for a legend, or ``""``."""
    if len(table) <= MAX_LINES or number(table):
        return table, number(table) if len(table) > MAX_LINES else ""
    best = sorted(table, key=rank)[-MAX_LINES:]
    return [row for row in table if row in best], ""


def number(table: Sequence[Row]) -> str:
    """The only hyperparameter that varies, if it is a number and all rows are of one run; else ``""``."""
    names = {name for row in table for name in row.setting}
    alone = len({row.run for row in table}) == len(names) == 1
    return next((name for name in names if alone and all_numbers([row.setting[name] for row in table])), "")


def painted(front: Sequence[Row], keyed: str) -> list[dict[str, Any]]:
    """Colour and marker of each row's line; where they are ``keyed``, by that number and thin."""
    if not keyed:
        return styles(len(front), bool(number(front)))
    values = ordered([row.setting[keyed] for row in front])
    places, _ = spread(values)
    colors = [ORDERED(places[values.index(row.setting[keyed])]) for row in front]
    return [{"color": color, "linewidth": 1.3, "zorder": 4} for color in colors]


def explain(figure: Figure, axes: Axes, front: Sequence[Row], keyed: str) -> None:
    """What the colours mean: a legend below the axes, or a scale beside them."""
    if not keyed:
        legend(figure, axes, [row.label for row in front])
        return
    values = ordered([row.setting[keyed] for row in front])
    places, scale = spread(values)
    bar = plots.scale(figure, axes, ScalarMappable(Normalize(0.0, 1.0), ORDERED), f"{keyed}{scale}")
    at, labels = ticks(places, list(map(brief, values)), room=0.0)
    bar.set_ticks(at, labels=labels)


def middle(row: Row, band: bool = True) -> tuple[np.ndarray, ...]:
    """Steps, interquartile mean and the ends of its 95 % interval, where a seed has finished an episode.

    A diverged seed is the worst of all after the last number that it has.
    """
    filled = plots.without_gaps(row.curve)
    if row.diverged.any():
        later = np.cumsum(~np.isnan(row.curve[::-1]), axis=0)[::-1] == 0
        filled[later & row.diverged] = -np.inf
    known = ~np.all(np.isnan(filled), axis=1)
    points = [values[~np.isnan(values)] for values in filled[known]]
    centre = np.array([stats.iqm(values) for values in points], float)
    ends = [stats.bootstrap_interval(values, num_replicates=REPLICATES) for values in points] if band else np.zeros((0, 2))
    return row.env_steps[known], centre, *np.array(ends, float).reshape(-1, 2).T


def apart(index: int, count: int, points: int) -> tuple[int, int]:
    """Which points have a marker: about eight, at other places than those of the other lines."""
    step = max(1, -(-points // 8))
    return index * step // count, step


def thresholds(table: Sequence[Row]) -> np.ndarray:
    """``[K]``: from a little below to a little above all scores and the return that counts as solved."""
    scores = [row.scores[np.isfinite(row.scores)] for row in table]
    solved = [row.threshold for row in table[:1] if row.threshold is not None]
    known = np.concatenate([*scores, solved])
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    margin = 0.03 * (high - low or 1.0)
    return np.linspace(low - margin, high + margin, 161)


def shares(row: Row, taus: np.ndarray) -> np.ndarray:
    """``[2, K]``: the 95 % interval of the share of seeds above each tau."""
    scores = row.scores

    def share(tau: float) -> tuple[float, float]:
        return stats.bootstrap_interval(scores > tau, lambda above: np.mean(above, axis=-1), REPLICATES)

    return np.array([share(tau) for tau in taus]).T


def dashed(line: Callable[..., Any], table: Sequence[Row]) -> list[str]:
    """Draw the threshold of the environment, if it has one, and say so."""
    threshold = table[0].threshold
    if threshold is None:
        return []
    line(threshold, **plots.DASHED)
    return [f"Dashed: {threshold:g}, solved."]


def selection(table: Sequence[Row], front: Sequence[Row]) -> list[str]:
    """A sentence on the rows in grey, if there are any."""
    return [] if len(front) == len(table) else [f"In colour: the best {len(front)} of {len(table)} by their greedy return."]
