"""Format text for a reader: names without markup, numbers with only their significant digits."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from jaxpg.core.hparams import printable

NONE = "-"  # stands for a missing number


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print ``line`` as it is: ``printable``, no markup, no emoji codes, no line break at the end of the terminal."""
    console.print(Text(printable(line), style), soft_wrap=True)


def print_columns(console: Console, lines: Sequence[Sequence[str]], bold: Collection[int] = ()) -> None:
    """Print ``lines`` of cells in columns; ``bold`` are the indices of lines in bold."""
    cells = [list(map(printable, line)) for line in lines]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for i, line in enumerate(cells):
        padded = "  ".join(map(set_cell_size, line, widths))
        print_line(console, padded.rstrip(), "bold" if i in bold else "")


def format_value(value: Any) -> str:
    """Format a value of a hyperparameter.

    >>> format_value(0.0003), format_value([64, 64]), format_value(()), format_value(150000), format_value(["gamma", "max_kl"])
    ('0.0003', '64x64', 'none', '150000', 'gamma max_kl')
    """
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(item, int) for item in value) else " ").join(map(format_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else printable(value)


def shorten_value(value: Any) -> str:
    """Like ``format_value``, but a number with many digits is rounded to three.

    >>> shorten_value(0.000116591), shorten_value(0.9995), shorten_value(150000)
    ('0.000117', '0.9995', '150000')
    """
    return f"{value:.3g}" if isinstance(value, float) and len(format_value(value)) > 7 else format_value(value)


def describe(setting: Mapping[str, Any]) -> str:
    """Format the values of some hyperparameters.

    >>> describe({"learning_rate": 0.001, "hidden": [64, 64]})
    'learning_rate = 0.001, hidden = 64x64'
    """
    return ", ".join(f"{printable(name)} = {format_value(value)}" for name, value in setting.items())


def name_env(about: Mapping[str, Any]) -> str:
    """The environment in a configuration or a summary, with the parameters that were changed.

    >>> name_env({"env": "CartPole-v1", "env_params": {"gravity": 5}}), name_env({})
    ('CartPole-v1 (gravity = 5)', '')
    """
    env, params = printable(about.get("env", "")), describe(about.get("env_params", {}))
    return f"{env} ({params})" if params else env


def name_task(algo: str, env: str) -> str:
    """Name an algorithm and its environment, if known.

    >>> name_task("ppo", "CartPole-v1"), name_task("Learning curves", "")
    ('ppo on CartPole-v1', 'Learning curves')
    """
    return " on ".join(filter(None, (algo, env)))


def count(number: int, noun: str) -> str:
    """Format a count with its noun.

    >>> count(1, "run"), count(1200, "seed")
    ('1 run', '1,200 seeds')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def number_format(values: Iterable[float | None], intervals: Iterable[Sequence[float | None]] = ()) -> str:
    """The format for the numbers of a table, with only significant digits; ``values`` and ``intervals`` may hold NaN or None.

    The last digit shown is the second digit of the half-width of the narrowest interval or, without intervals, the fourth digit
    of the largest number. The largest number has two to four digits, and an exponent below 1e-4 and from 1e7 on.

    >>> number_format([487.31, 480.2], [(480.1, 493.2), (430.0, 500.0)]), number_format([487.31], [(420.0, 500.0)])
    ('.1f', '.0f')
    >>> format(-0.04123, number_format([-0.04123], [(-0.0455, -0.0371)]))
    '-0.0412'
    >>> format(1.234e-5, number_format([1.234e-5], [(0.1e-5, 2.4e-5)]))
    '1.2e-05'
    >>> number_format([500.0], [(500.0, 500.0)]), number_format([0.0, float("nan"), None])
    ('.1f', '.1f')
    """
    ends = np.array([*intervals], float).reshape(-1, 2)
    known = np.abs(np.concatenate([np.array([*values], float), ends.ravel()]))
    known = known[np.isfinite(known) & (known > 0)]
    if not known.size:
        return ".1f"
    half_width = (ends[:, 1] - ends[:, 0]) / 2
    half_width = half_width[half_width > 0]  # neither zero nor NaN
    first = math.floor(math.log10(known.max()))  # the powers of ten of the first and of the last digit of the largest number
    last = math.floor(math.log10(half_width.min())) - 1 if half_width.size else -math.inf
    last = int(np.clip(last, first - 3, first - 1))
    return f".{max(0, -last)}f" if -4 <= first < 7 else f".{first - last}e"


def format_number(value: float | None, spec: str) -> str:
    """Format ``value`` by a ``number_format``; a dash if it is missing.

    >>> format_number(487.31, ".1f"), format_number(-0.01, ".1f"), format_number(None, ".1f")
    ('487.3', '0.0', '-')
    """
    return NONE if value is None or math.isnan(value) else f"{value:z{spec}}"


def format_interval(ends: Sequence[float | None], spec: str) -> str:
    """Format both ends of an interval. A missing lower end is minus infinity, which is the score of a diverged seed.

    >>> format_interval([1.0, 2.0], ".1f"), format_interval([None, 2.0], ".1f"), format_interval([None, None], ".1f")
    ('1.0 to 2.0', '-inf to 2.0', '-')
    """
    low, high = (math.nan if end is None else end for end in ends)
    if math.isnan(high):
        return NONE
    return f"{'-inf' if math.isnan(low) else format_number(low, spec)} to {format_number(high, spec)}"


SCORE = {"mean": "mean", "median": "median", "IQM": "iqm", "95 % interval": "ci95"}  # columns, and their names in a summary


def score_format(scores: Iterable[Mapping[str, Any]]) -> str:
    """The ``number_format`` of results of ``jaxpg.stats.summarize``, computed or read from a file."""
    scores = list(scores)
    centres = [score[name] for score in scores for name in ("mean", "median", "iqm")]
    return number_format(centres, [score["ci95"] for score in scores])


def format_score(score: Mapping[str, Any], spec: str) -> list[str]:
    """Format a result of ``jaxpg.stats.summarize`` for the columns ``SCORE``."""
    *centre, ends = (score[name] for name in SCORE.values())
    return [*(format_number(value, spec) for value in centre), format_interval(ends, spec)]
