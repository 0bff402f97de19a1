"""The log of a batch of runs as columns: made from its rows, written to ``metrics.parquet``, and read from there.

The Parquet table has a row for each run and each update in the log, sorted by ``setting``, ``seed`` and ``update``. ``setting``
and ``seed`` are 32 bit integers, ``update`` and ``env_steps`` have 64 bits. Each metric and score is a 64 bit float: the very
number of ``metrics.jsonl``, null where the log has none. pyarrow is imported where it is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpg.core.hparams import printable
from jaxpg.lab.store import log
from jaxpg.lab.store.files import Damaged, write_atomically
from jaxpg.lab.store.log import PLACE, Row

MODES = ("greedy_return", "sampled_return")  # a row of the log that has the first was written by an evaluation
KINDS = ("metrics", "evaluations")
INSTALL = "pip install 'jaxpg[parquet]'"


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the log of R runs holds at P updates: ``updates`` and ``env_steps`` are ``[P]``, ``values`` ``[R, P]`` by name."""

    updates: np.ndarray
    env_steps: np.ndarray
    values: Mapping[str, np.ndarray]


def is_installed() -> bool:
    """Whether Parquet can be written and read here."""
    return importlib.util.find_spec("pyarrow") is not None


def require_pyarrow(what: str) -> None:
    """Raise ``ValueError`` of one line without pyarrow; the option ``what`` needs it."""
    if not is_installed():
        raise ValueError(f"{what} needs pyarrow: {INSTALL}")


def tabulate(runs: Sequence[int], seeds: int, rows: Iterable[Row]) -> tuple[Columns, Columns]:
    """Make columns of the rows of a log: of its metrics and of its evaluations. Rows of other runs are left out.

    ``rows`` may be an iterator: only those of one update, which follow each other in a log, are in memory at a time.
    """
    place = {run: i for i, run in enumerate(runs)}
    ours = (row for row in rows if row["setting"] * seeds + row["seed"] in place and 0 <= row["seed"] < seeds)
    steps: tuple[dict[int, int], dict[int, int]] = ({}, {})  # of metrics and of evaluations
    values: tuple[dict[str, dict[int, np.ndarray]], dict[str, dict[int, np.ndarray]]] = ({}, {})  # by name and update
    for (is_evaluation, update), group in itertools.groupby(ours, key=lambda row: (MODES[0] in row, row["update"])):
        alike = list(group)
        at = [place[row["setting"] * seeds + row["seed"]] for row in alike]
        steps[is_evaluation][update] = alike[-1]["env_steps"]
        for name in dict.fromkeys(name for row in alike for name in row if name not in PLACE):
            values[is_evaluation].setdefault(name, {})
        for name, by_update in values[is_evaluation].items():
            found = by_update.setdefault(update, np.full(len(runs), np.nan))
            found[at] = np.array([row.get(name) for row in alike], float)

    def make(steps: Mapping[int, int], values: Mapping[str, Mapping[int, np.ndarray]]) -> Columns:
        updates, nothing = sorted(steps), np.full(len(runs), np.nan)
        columns = {name: np.stack([found.get(u, nothing) for u in updates], axis=1) for name, found in values.items()}
        return Columns(np.array(updates, int), np.array([steps[u] for u in updates], float), columns)

    return make(steps[0], values[0]), make(steps[1], values[1])


def describe_points(metrics: Columns, evaluations: Columns) -> dict[str, Any]:
    """``find_points`` of columns."""
    both = zip(KINDS, (metrics, evaluations), strict=True)
    return {
        kind: {"names": [*x.values], "updates": x.updates.tolist(), "env_steps": x.env_steps.astype(int).tolist()}
        for kind, x in both
    }


def find_points(path: Path, size: int) -> dict[str, Any]:
    """The updates, environment steps and names that the first ``size`` bytes of a log hold, by kind of row.

    Only one row of each update and kind is parsed.
    """
    first: dict[tuple[bytes, bool], Row] = {}
    mark = f'"{MODES[0]}"'.encode()
    for line in log.lines_of(path, size):
        key = line.partition(b', "setting"')[0], mark in line
        if key not in first and (row := log.parse(line)) is not None:
            first[key] = row
    found = {}
    for kind, is_evaluation in zip(KINDS, (False, True), strict=True):
        rows = sorted((row for key, row in first.items() if key[1] is is_evaluation), key=lambda row: row["update"])
        names = dict.fromkeys(name for row in rows for name in row if name not in PLACE)
        steps = {row["update"]: row["env_steps"] for row in rows}
        found[kind] = {"names": [*names], "updates": [*steps], "env_steps": [*steps.values()]}
    return found


def write(path: Path, runs: Sequence[int], seeds: int, metrics: Columns, evaluations: Columns) -> dict[str, Any]:
    """Write the columns of a log as a Parquet file, atomically; its seal: its size and SHA-256."""
    if both := metrics.values.keys() & evaluations.values.keys():
        fix = "give the metric another name, or train without parquet"
        raise ValueError(f"{path.name}: {printable(min(both))} is a metric and an evaluation; {fix}")
    import pyarrow as pa
    from pyarrow import parquet

    order, updates = np.argsort(runs), np.union1d(metrics.updates, evaluations.updates).astype(int)
    setting, seed = np.divmod(np.asarray(runs, int)[order], seeds)
    steps = np.zeros(updates.size, int)
    for kind in (metrics, evaluations):
        steps[np.searchsorted(updates, kind.updates)] = kind.env_steps
    places = np.repeat(setting, updates.size), np.repeat(seed, updates.size), np.tile(updates, len(runs))
    types = pa.int32(), pa.int32(), pa.int64(), pa.int64()
    arrays = (*places, np.tile(steps, len(runs)))
    columns = {name: pa.array(x, kind) for name, x, kind in zip(("setting", "seed", *PLACE[2:]), arrays, types, strict=True)}
    for kind in (metrics, evaluations):
        for name, values in kind.values.items():
            full = np.full((len(runs), updates.size), np.nan)
            full[:, np.searchsorted(updates, kind.updates)] = values[order]
            columns[name] = pa.array(full.ravel(), pa.float64(), from_pandas=True)  # null for NaN
    file = io.BytesIO()
    index: Any = [*PLACE]  # only these repeat; its type there is bool
    parquet.write_table(pa.table(columns), file, compression="zstd", use_dictionary=index)
    write_atomically(path, file.getvalue())
    return seal(file.getvalue())


def seal(data: bytes) -> dict[str, Any]:
    """The size and the SHA-256 of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read(
    path: Path, sealed: Any, points: Mapping[str, Any], runs: Sequence[int], names: Collection[str] | None = None
) -> tuple[Columns, Columns]:
    """Read the columns ``names`` (by default all) that ``write`` wrote; ``Damaged`` for a file with another seal.

    ``points`` are those of ``find_points`` for the same log.
    """
    from pyarrow import ArrowException, BufferReader, parquet

    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{printable(path)} cannot be read ({error.strerror})") from None
    if seal(data) != sealed:
        raise Damaged(f"{printable(path)} was changed since its runs were finished")
    updates = np.union1d(*(np.array(points[kind]["updates"], int) for kind in KINDS))
    chosen = [[name for name in points[kind]["names"] if names is None or name in names] for kind in KINDS]
    rank = np.argsort(np.argsort(runs))  # from the order of the table to that of ``runs``
    try:
        with parquet.ParquetFile(BufferReader(data)) as file:
            if file.metadata.num_rows != len(runs) * updates.size:
                raise Damaged(f"{printable(path)} was not written by jaxpg")
            table = file.read([*chosen[0], *chosen[1]])
        arrays = {name: table[name].to_numpy() for name in table.column_names}
    except ArrowException as error:
        raise Damaged(f"{printable(path)} cannot be read ({printable(error)[:160]})") from None

    def make(kind: str, wanted: Sequence[str]) -> Columns:
        own, steps = (np.array(points[kind][name]) for name in ("updates", "env_steps"))
        at = np.searchsorted(updates, own)
        values = {name: arrays[name].reshape(len(runs), -1)[rank][:, at].astype(float) for name in wanted}
        return Columns(own.astype(int), steps.astype(float), values)

    metrics, evaluations = map(make, KINDS, chosen)
    return metrics, evaluations
