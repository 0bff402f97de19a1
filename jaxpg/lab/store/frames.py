"""Show results on a screen and in a notebook, and convert them to pandas, xarray and Parquet."""

from __future__ import annotations

import html
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpg import stats
from jaxpg.core.hparams import printable, shown
from jaxpg.lab.store.stored import as_text

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from jaxpg.lab.store.results import Results

WIDTH, ROWS = 100, 15  # characters of a line, and settings that are shown
TABLES = ("metrics", "returns", "evaluations")
NUMBERS = 2**24  # about so many are written at a time


def show(found: Results) -> str:
    """Format results as text: a title, a line of scores for each setting, and the names of the metrics; at most 25 lines."""
    lines = score_table(found)
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    first = min(first, WIDTH - 2 - sum(width + 2 for width in others))
    labels = (textwrap.shorten(label, first, placeholder="...").ljust(first) for label, *_ in lines)
    cells = ("".join(f"  {cell:>{width}}" for cell, width in zip(rest, others, strict=True)) for _, *rest in lines)
    table = [f"  {label}{rest}" for label, rest in zip(labels, cells, strict=True)]
    under = [textwrap.fill(note, WIDTH, max_lines=3, initial_indent="  ", subsequent_indent="    ") for note in notes(found)]
    return "\n".join([textwrap.shorten(title(found), WIDTH, placeholder=" ..."), *table, *under])


def show_html(found: Results) -> str:
    """Format results as an HTML table, with all text escaped."""
    heads, *body = ([html.escape(cell) for cell in line] for line in score_table(found))
    lines = "".join(f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>" for first, *rest in body)
    top = "".join(f"<th>{head}</th>" for head in heads)
    caption = f'<caption style="text-align: left">{html.escape(title(found))}</caption>'
    under = "".join(f"<div>{html.escape(note)}</div>" for note in notes(found))
    return f"<table>{caption}<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>{under}"


def title(found: Results) -> str:
    """The title: the algorithm, the environment, and the numbers of settings, seeds and steps."""
    names = (found.config.get("algo"), found.config.get("env"))
    task = " on ".join(printable(name) for name in names if name and name != "own")  # an algorithm without a name
    settings, seeds = found.diverged_at.shape
    steps = sorted(np.nan_to_num(found.env_steps).max(axis=1, initial=0.0))
    span = " to ".join(dict.fromkeys(f"{end:,.0f}" for end in (steps[0], steps[-1])))
    size = f"{settings} setting{'s' * (settings != 1)} x {seeds} seed{'s' * (seeds != 1)}, {span} environment steps per run"
    return f"Results of {printable(found.name)}{f' ({task})' * bool(task)}: {size}"


def score_table(found: Results) -> list[list[str]]:
    """Column heads, and a line for each setting: interquartile mean, lowest and highest return of its finished runs.

    With more than ``ROWS`` settings, only the best by the first kind of return. A run that diverged counts as the worst.
    """
    modes, chosen = list(found.returns), range(len(found.settings))
    if len(chosen) > ROWS:
        centre = [centre_of(found, modes[0], i) for i in chosen]
        chosen = np.argsort(-np.nan_to_num(centre, nan=-np.inf), kind="stable")[:ROWS].tolist()
    heads = [head for mode in modes for head in (f"{mode.removesuffix('_return')} IQM", "min", "max")]
    lines = [["setting", *heads, "done", "diverged"]]
    for i in chosen:
        cells = [number(x) for mode in modes for x in (centre_of(found, mode, i), *extremes_of(found, mode, i))]
        done = max((scores(found, mode, i).size for mode in modes), default=0)
        lines.append([describe(found.settings[i]), *cells, str(done), str(found.diverged[i].sum())])
    return lines


def scores(found: Results, mode: str, i: int) -> np.ndarray:
    """The returns of the finished runs of setting ``i``; NaN for a run that diverged."""
    values = np.where(found.diverged[i], np.nan, found.returns[mode][i])
    return values[found.diverged[i] | ~np.isnan(values)]


def centre_of(found: Results, mode: str, i: int) -> float:
    """The interquartile mean of ``scores``; NaN if there are none."""
    values = scores(found, mode, i)
    return float(stats.iqm(values)) if values.size else np.nan


def extremes_of(found: Results, mode: str, i: int) -> tuple[float, float]:
    """The lowest and the highest of ``scores`` without NaN; NaN if there are none."""
    values = scores(found, mode, i)
    values = values[~np.isnan(values)]
    return (values.min(), values.max()) if values.size else (np.nan, np.nan)


def number(x: float) -> str:
    """Format a number with four digits; a dash for NaN.

    >>> number(487.312), number(12345.6), number(float("nan"))
    ('487.3', '12,346', '-')
    """
    return "-" if np.isnan(x) else f"{x:,.0f}" if 1e4 <= abs(x) < 1e9 else f"{x:.4g}"


def describe(setting: Mapping[str, Any]) -> str:
    """Format the hyperparameters of a setting.

    >>> describe({"learning_rate": 0.001, "hidden": (64, 64)}), describe({})
    ('learning_rate=0.001 hidden=64x64', 'all')
    """
    return " ".join(f"{printable(name)}={printable(cell(value))}" for name, value in setting.items()) or "all"


def notes(found: Results) -> list[str]:
    """Notes on what the table of scores does not show."""
    count, points, evaluated = len(found.settings), found.env_steps.shape[1], found.evaluation_steps.shape[1]
    names = ", ".join(map(printable, found.metrics))
    texts = [f"the best {ROWS} of {count} settings are shown"] * (count > ROWS)
    texts += [f"metrics at {points} log points: {names}"] * bool(names)
    return texts + [f"{evaluated} evaluations during training"] * bool(evaluated)


def cell(value: Any) -> Any:
    """Convert a value of a hyperparameter to one number or text; a tuple becomes ``64x64``."""
    return as_text(tuple(value)) if isinstance(value, list | tuple) else value


def columns_of_settings(found: Results) -> dict[str, list[Any]]:
    """Each hyperparameter that varies, with its value in each setting; NaN if a setting does not give it."""
    names, options = dict.fromkeys(name for setting in found.settings for name in setting), found.config.get("options", {})
    known = [{**options, **setting} for setting in found.settings]
    return {name: [cell(one.get(name, np.nan)) for one in known] for name in names}


def check_table(table: str) -> None:
    """Raise ``ValueError`` for an unknown table."""
    if table not in TABLES:
        raise ValueError(f"table = {shown(table)} must be one of {', '.join(TABLES)}")


def columns_of_table(found: Results, table: str) -> dict[str, np.ndarray]:
    """The columns of a table but for the hyperparameters: a row for each run, and each point of its setting."""
    steps, values = {
        "metrics": (found.env_steps, found.metrics),
        "returns": (np.zeros((len(found.settings), 1)), {name: x[..., None] for name, x in found.returns.items()}),
        "evaluations": (found.evaluation_steps, found.evaluations),
    }[table]
    places = np.indices((*found.diverged_at.shape, steps.shape[1])).reshape(3, -1)
    setting, seed, point = places[:, ~np.isnan(steps[places[0], places[2]])]
    columns = {"setting": setting, "seed": seed}
    columns |= {"env_steps": steps[setting, point].astype(int)} if table != "returns" else {}
    columns |= {name: x[setting, seed, point] for name, x in values.items()}
    return columns | ({"diverged_at": found.diverged_at[setting, seed]} if table == "returns" else {})


def make_frame(found: Results, table: str) -> pd.DataFrame:
    """See ``jaxpg.lab.store.results.Results.to_pandas``."""
    check_table(table)
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ImportError(f"to_pandas: {error}; pip install 'jaxpg[frames]'") from None
    columns = columns_of_table(found.select(range(len(found.settings)), names_of_table(found, table)), table)
    setting = columns.pop("setting")
    varied = {name: [x[i] for i in setting] for name, x in columns_of_settings(found).items()}
    return pd.DataFrame({"setting": setting} | varied | columns)


def names_of_table(found: Results, table: str) -> list[str]:
    """The names of the curves in a table."""
    return [*found.metrics] if table == "metrics" else [*found.evaluations] if table == "evaluations" else []


def write_parquet(found: Results, path: Path, table: str) -> Path:
    """See ``jaxpg.lab.store.results.Results.to_parquet``."""
    check_table(table)
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ImportError(f"to_parquet: {error}; pip install 'jaxpg[parquet]'") from None

    def plain(values: list[Any]) -> pa.Array:
        """Numbers, or text where some value is text."""
        kinds = {type(value) for value in values}
        return pa.array(values if not kinds & {str} else [None if x != x else str(x) for x in values], from_pandas=True)

    varied = {name: plain(values) for name, values in columns_of_settings(found).items()}
    names, unfinished = names_of_table(found, table), path.with_name(f".{path.name}.part")
    size = max(1, NUMBERS // max(1, found.diverged_at.shape[1] * found.env_steps.shape[1] * max(1, len(names))))
    writer = None
    try:
        for begin in range(0, len(found.settings), size):
            block = found.select(range(begin, min(begin + size, len(found.settings))), names)
            columns = {name: pa.array(x, from_pandas=True) for name, x in columns_of_table(block, table).items()}
            setting = pa.array(np.asarray(columns.pop("setting")) + begin, pa.int32())
            columns = {"setting": setting} | {name: x.take(setting) for name, x in varied.items()} | columns
            columns["seed"] = columns["seed"].cast(pa.int32())
            rows = pa.table(columns)
            writer = writer or parquet.ParquetWriter(unfinished, rows.schema, compression="zstd")
            writer.write_table(rows)
    finally:
        if writer is not None:
            writer.close()
    os.replace(unfinished, path)
    return path


def make_dataset(found: Results) -> xr.Dataset:
    """See ``jaxpg.lab.store.results.Results.to_xarray``."""
    try:
        import xarray as xr
    except ModuleNotFoundError as error:
        raise ImportError(f"to_xarray: {error}; pip install 'jaxpg[frames]'") from None
    found, runs = found.select(range(len(found.settings))), ("setting", "seed")
    data = {name: ((*runs, "point"), x) for name, x in found.metrics.items()}
    data |= {name: (runs, x) for name, x in found.returns.items()} | {"diverged_at": (runs, found.diverged_at)}
    data |= {f"evaluation_{name}": ((*runs, "evaluation"), x) for name, x in found.evaluations.items()}
    coords = {name: ("setting", np.array(x)) for name, x in columns_of_settings(found).items()}
    coords |= {name: (name, np.arange(size)) for name, size in zip(runs, found.diverged_at.shape, strict=True)}
    coords |= {"env_steps": (("setting", "point"), found.env_steps)}
    if found.evaluations:
        coords |= {"evaluation_steps": (("setting", "evaluation"), found.evaluation_steps)}
    about = {"name": found.name} | {key: found.config[key] for key in ("algo", "env") if key in found.config}
    return xr.Dataset(data, coords, about)
