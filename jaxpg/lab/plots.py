"""Figures of a run. Matplotlib's objects only, no global state: safe beside figures of the caller's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

COLOR, INK = "#2a5caa", "#444444"


def learning_curve(env_steps: np.ndarray, returns: np.ndarray, title: str, threshold: float | None = None) -> Figure:
    """Return over environment steps: every seed thin, their median bold, their middle half shaded.

    ``env_steps`` is ``[points]``; ``returns`` is ``[points, S]``, NaN where no episode ended; ``threshold`` is dashed.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_curve(axes, env_steps, returns, COLOR, every_seed=True)
    if threshold is not None:
        axes.axhline(threshold, color=INK, linewidth=0.9, linestyle=(0, (5, 4)), label=f"solved: {threshold:g}", zorder=1)
    dress(axes, title)
    return figure


def draw_curve(
    axes: Axes, env_steps: np.ndarray, returns: np.ndarray, color: str, label: str = "median", *, every_seed: bool = False
) -> None:
    """One algorithm's curve: median and middle half over the seeds that have finished an episode, and each seed if wanted."""
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
        band = "middle half of seeds" if every_seed else None  # where curves are compared, the caption says it once
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0, label=band, zorder=3)
    axes.plot(steps, median, color=color, linewidth=2.2, label=label, marker=marker, solid_capstyle="round", zorder=4)


def without_gaps(returns: np.ndarray) -> np.ndarray:
    """``returns``, ``[points, S]``: a NaN between two numbers lies on their line, one after the last is that; others stay.

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
    """Labels, a light grid and no frame."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel("environment steps per seed", color=INK)
    axes.set_ylabel("episode return", color=INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors=INK, length=0)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.set_xlim(left=0)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def save(figure: Figure, path: str | Path) -> None:
    """``figure`` as a file, its kind by the ending of ``path``."""
    figure.savefig(path, dpi=160)
