"""The results of an experiment as arrays, read from its directory. This module needs NumPy, but not JAX.

``config.json`` and the ``result.json`` of each batch of runs are read at once. So are the logs where they are small; otherwise
each is read, and its seal checked, when curves of its runs are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxpg.core.hparams import printable
from jaxpg.lab.store import columns, frames, log, remote
from jaxpg.lab.store.columns import KINDS, MODES
from jaxpg.lab.store.files import BATCH, BATCHES, CONFIG, METRICS, RESULT, TABLE, Damaged, read_json, storable
from jaxpg.lab.store.stored import make_config, read_content, report_damage

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SECONDS = ("compile", "train")
AT_ONCE = 2**26  # bytes of all logs of an experiment, up to which they are read together with the results


class Deferred(Mapping[str, np.ndarray]):
    """Arrays by name, which ``read(names)`` reads from the disk when they are asked for; then they are kept."""

    def __init__(self, names: Collection[str], read: Callable[..., Mapping[str, np.ndarray]]) -> None:
        self.names, self.read = tuple(names), read
        self.kept: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.kept:
            if name not in self.names:
                raise KeyError(name)
            self.kept |= self.read([name])
        return self.kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Deferred({', '.join(self.names)})"


@dataclasses.dataclass(frozen=True)
class Results:
    """Results of S settings with N seeds and P log points. An experiment that varies nothing has one setting, ``{}``.

    ``env_steps`` is ``[S, P]``; a setting with fewer log points than others ends in NaN, as its metrics do. ``metrics`` are
    ``[S, N, P]``, NaN where no episode ended. ``returns`` are ``[S, N]``, of the evaluation at the end, NaN for a run that
    diverged or is not finished. ``diverged_at`` is ``[S, N]``: the update at which a run diverged, 0 if it did not.
    ``digests`` are ``[S, N]``: SHA-256 of the final state of each run. ``seconds`` are the times of compiling and training.
    ``evaluation_steps [S, E]`` and ``evaluations [S, N, E]`` are from the evaluations during training, if there were any.

    Where the logs are large (more than 64 MiB), ``metrics`` and ``evaluations`` are read from the disk, and checked, when they
    are asked for by name; ``select`` reads those of some settings only.

    Printed, and in a notebook, it is a table of scores. ``to_pandas``, ``to_xarray`` and ``to_parquet`` give all of it.
    """

    name: str
    config: Mapping[str, Any]
    settings: Sequence[Mapping[str, Any]]
    env_steps: np.ndarray
    metrics: Mapping[str, np.ndarray]
    returns: Mapping[str, np.ndarray]
    diverged_at: np.ndarray
    evaluation_steps: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    evaluations: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    digests: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), str))
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def diverged(self) -> np.ndarray:
        """Which runs diverged, ``[S, N]``."""
        return self.diverged_at > 0

    def select(self, settings: Sequence[int], names: Collection[str] | None = None) -> Results:
        """The results of some settings: of the logs, only those that hold them are read.

        Args:
            settings: Their indices; they are numbered anew in the results.
            names: The metrics and evaluations to read; by default all.

        Returns:
            The results, with all arrays in memory.

        Raises:
            IndexError: For an index that is out of range.
        """
        chosen = [range(len(self.settings))[i] for i in settings]

        def take(values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            wanted = [name for name in values if names is None or name in names]
            if isinstance(values, Deferred):
                return values.read(wanted, chosen) if wanted else {}
            return {name: values[name][chosen] for name in wanted}

        def rows(x: np.ndarray) -> np.ndarray:
            return x[chosen] if len(x) == len(self.settings) else x  # an array that is left out is empty

        return dataclasses.replace(
            self,
            settings=[self.settings[i] for i in chosen],
            env_steps=self.env_steps[chosen],
            metrics=take(self.metrics),
            returns={mode: values[chosen] for mode, values in self.returns.items()},
            diverged_at=self.diverged_at[chosen],
            evaluation_steps=rows(self.evaluation_steps),
            evaluations=take(self.evaluations),
            digests=rows(self.digests),
        )

    def __repr__(self) -> str:
        """Sizes and scores as text, without the arrays."""
        return frames.show(self)

    def _repr_html_(self) -> str:
        """The HTML table that notebooks show."""
        return frames.show_html(self)

    def to_pandas(self, table: Literal["metrics", "returns", "evaluations"] = "metrics") -> pd.DataFrame:
        """A data frame with a row for each observation, as seaborn and ``groupby`` want it; needs ``jaxpg[frames]``.

        Args:
            table: ``metrics``: a row for each run and log point, with the column ``env_steps``; ``evaluations``: likewise for
                each evaluation during training; ``returns``: a row for each run, with its evaluation at the end and
                ``diverged_at``.

        Returns:
            Columns ``setting`` and ``seed``, counted from 0, one for each hyperparameter that varies, and the values. A tuple
            of sizes is text, ``64x64``.

        Raises:
            ImportError: Without pandas.
            ValueError: For another ``table``.
        """
        return frames.make_frame(self, table)

    def to_xarray(self) -> xr.Dataset:
        """A dataset with the dimensions ``setting``, ``seed``, ``point`` and, if there are any, ``evaluation``.

        Needs ``jaxpg[frames]``. Metrics are ``[setting, seed, point]`` with the coordinate ``env_steps [setting, point]``;
        returns and ``diverged_at`` are ``[setting, seed]``; evaluations during training are ``evaluation_greedy_return``, ...,
        ``[setting, seed, evaluation]`` with ``evaluation_steps``. Hyperparameters that vary are coordinates of ``setting``.
        ``ImportError`` without xarray.
        """
        return frames.make_dataset(self)

    def to_parquet(self, path: str | Path, table: Literal["metrics", "returns", "evaluations"] = "metrics") -> Path:
        """Write the table that ``to_pandas`` would give to a Parquet file, some settings at a time; needs ``jaxpg[parquet]``.

        Args:
            path: The file, which is replaced if it exists.
            table: As for ``to_pandas``.

        Returns:
            The path. Columns are ``setting`` and ``seed`` as 32 bit integers, one for each hyperparameter that varies, then
            ``env_steps`` and ``diverged_at`` as 64 bit integers and all else as 64 bit floats; null for NaN.

        Raises:
            ImportError: Without pyarrow.
            ValueError: For another ``table``.
        """
        return frames.write_parquet(self, Path(path), table)


@dataclasses.dataclass(frozen=True)
class Part:
    """Results of some runs: run ``r`` is setting ``r // N`` with seed ``r % N``. ``metrics`` are ``[R, P]``, others ``[R]``.

    ``metrics`` and ``evaluations`` may be ``Deferred``.
    """

    runs: np.ndarray
    env_steps: np.ndarray  # [P]
    metrics: Mapping[str, np.ndarray]
    evaluation_steps: np.ndarray  # [E]
    evaluations: Mapping[str, np.ndarray]  # [R, E]
    returns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    diverged_at: np.ndarray | None = None
    digests: np.ndarray | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def join(
    name: str, config: Mapping[str, Any], settings: Sequence[Mapping[str, Any]], seeds: int, parts: Sequence[Part]
) -> Results:
    """Join the parts of an experiment; runs that are in no part are NaN."""
    shape = (len(settings), seeds)
    returns = {mode: np.full(shape, np.nan) for mode in MODES}
    diverged_at, digests = np.zeros(shape, int), np.full(shape, "", object)
    for part in parts:
        place = np.divmod(part.runs, seeds)
        if part.diverged_at is not None:
            diverged_at[place] = part.diverged_at
            for mode, values in part.returns.items():
                returns[mode][place] = np.where(part.diverged_at > 0, np.nan, values)
        if part.digests is not None:
            digests[place] = part.digests
    seconds = {kind: sum(part.seconds.get(kind, 0.0) for part in parts) for kind in SECONDS}
    env_steps, evaluation_steps = (gather_steps(shape, parts, steps) for steps in ("env_steps", "evaluation_steps"))
    metrics = join_curves(shape, parts, "metrics", env_steps.shape[1])
    evaluations = join_curves(shape, parts, "evaluations", evaluation_steps.shape[1])
    evaluated = evaluation_steps, evaluations
    return Results(name, config, settings, env_steps, metrics, returns, diverged_at, *evaluated, digests, seconds)


def gather_steps(shape: tuple[int, int], parts: Sequence[Part], steps: str) -> np.ndarray:
    """Join the steps of all parts, ``[S, P]``; missing ones are NaN."""
    points = max((getattr(part, steps).size for part in parts), default=0)
    all_steps = np.full((shape[0], points), np.nan)
    for part in parts:
        given = getattr(part, steps)
        all_steps[np.unique(part.runs // shape[1]), : given.size] = given
    return all_steps


def join_curves(shape: tuple[int, int], parts: Sequence[Part], kind: str, points: int) -> Mapping[str, np.ndarray]:
    """Join the curves of all parts, ``[S, N, P]`` by name; ``Deferred`` if those of some part are."""
    curves = [getattr(part, kind) for part in parts]
    names = list(dict.fromkeys(name for each in curves for name in each))
    holders: dict[int, list[int]] = {}  # the parts that hold runs of a setting
    for number, part in enumerate(parts):
        for setting in np.unique(part.runs // shape[1]).tolist():
            holders.setdefault(setting, []).append(number)
    gathered = functools.partial(gather, shape, parts, kind, points, holders)
    return Deferred(names, gathered) if any(isinstance(each, Deferred) for each in curves) else gathered(names)


def gather(
    shape: tuple[int, int],
    parts: Sequence[Part],
    kind: str,
    points: int,
    holders: Mapping[int, Sequence[int]],
    names: Sequence[str],
    settings: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Join the curves ``names`` of some settings, by default of all, ``[S, N, P]``; missing ones are NaN."""
    settings = range(shape[0]) if settings is None else settings
    row = np.full(shape[0], -1)
    row[list(settings)] = np.arange(len(settings))
    values = {name: np.full((len(settings), shape[1], points), np.nan) for name in names}
    for number in dict.fromkeys(number for setting in settings for number in holders.get(setting, ())):
        setting, seed = np.divmod(parts[number].runs, shape[1])
        is_wanted, curves = row[setting] >= 0, getattr(parts[number], kind)
        wanted = [name for name in names if name in curves]
        read = curves.read(wanted) if isinstance(curves, Deferred) else curves
        for name in (name for name in wanted if name in read):
            at = row[setting[is_wanted]], seed[is_wanted]
            values[name][(*at, slice(read[name].shape[1]))] = read[name][is_wanted]
    return values


def tabulate(runs: Sequence[int], seeds: int, rows: Iterable[log.Row]) -> Part:
    """Convert the rows of a log to arrays, indexed by setting, seed and update."""
    return make_part(runs, *columns.tabulate(runs, seeds, rows))


def make_part(runs: Sequence[int], metrics: columns.Columns, evaluations: columns.Columns) -> Part:
    """The curves of some runs as a part of an experiment."""
    evaluated = evaluations.env_steps, evaluations.values
    return Part(np.array(runs, int), metrics.env_steps, metrics.values, *evaluated)


def read_result(folder: Path, identity: str, num_runs: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read the description of a batch, and its result if it is finished; ``Damaged`` if it cannot be used.

    The log of a finished batch is read to its end, because its seal is checked.
    """
    about, result = read_sealed(folder, identity, num_runs)
    if result is not None:
        check_log(folder, result)
    return about, result


def read_sealed(folder: Path, identity: str, num_runs: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """``read_result`` without a look at the log."""
    about = read_json(folder / BATCH)
    with report_damage(folder / BATCH):
        runs, width = about["runs"], about["width"]
        is_ours = all(type(number) is int for number in (*runs, width)) and 1 <= len(set(runs)) == len(runs) <= width
        if about["identity"] != identity or not is_ours or not 0 <= min(runs) <= max(runs) < num_runs:
            raise Damaged(f"{printable(folder)} belongs to another experiment")
    if not (folder / RESULT).exists():
        return about, None
    result = read_json(folder / RESULT)
    with report_damage(folder / RESULT):
        if result["identity"] != identity or result["runs"] != runs or result["num_updates"] < 1:
            raise Damaged(f"{printable(folder / RESULT)} belongs to other runs")
    finished_arrays(folder, result, len(runs))
    return about, result


def check_log(folder: Path, result: Mapping[str, Any]) -> None:
    """Raise ``Damaged`` if the log of a finished batch was changed."""
    with report_damage(folder / RESULT):
        if log.seal_of(folder / METRICS, result["log"]["bytes"]) != result["log"]:
            raise Damaged(f"{printable(folder / METRICS)} was changed since its runs were finished")


def finished_arrays(folder: Path, result: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Convert the result of ``count`` runs to arrays; ``Damaged`` if it is not valid."""
    with report_damage(folder / RESULT):
        returns = {mode: np.array(result["returns"][mode], float) for mode in MODES}
        diverged_at, digests = np.array(result["diverged_at"], int), np.array(result["digests"], str)
        if any(values.shape != (count,) for values in (*returns.values(), diverged_at, digests)):
            raise Damaged(f"{printable(folder / RESULT)} was not written by jaxpg")
        seconds = {name: float(result["seconds"][name]) for name in SECONDS}
    return {"returns": returns, "diverged_at": diverged_at, "digests": digests, "seconds": seconds}


def read_part(folder: Path, identity: str, seeds: int, num_runs: int, *, defer: bool = False) -> Part:
    """Read a batch of runs, finished or not; ``Damaged`` if it cannot be used.

    With ``defer`` the log of a finished batch is not read yet, if its result says what the log holds.
    """
    about, result = read_sealed(folder, identity, num_runs)
    runs = about["runs"]
    if result is None:
        return tabulate(runs, seeds, log.rows_of(folder / METRICS))
    with report_damage(folder / RESULT):
        can_wait = defer and "points" in result
        part = defer_part(folder, result, seeds) if can_wait else make_part(runs, *read_log(folder, result, seeds))
    return dataclasses.replace(part, **finished_arrays(folder, result, len(runs)))


def defer_part(folder: Path, result: Mapping[str, Any], seeds: int) -> Part:
    """The curves of a finished batch, which are read when they are asked for."""
    points = result["points"]
    kept = {name: result[name] for name in ("runs", "log", "points", "parquet") if name in result}
    metrics, evaluations = (
        Deferred(points[kind]["names"], functools.partial(read_later, folder, kept, seeds, i)) for i, kind in enumerate(KINDS)
    )
    env_steps, evaluation_steps = (np.array(points[kind]["env_steps"], float) for kind in KINDS)
    return Part(np.array(result["runs"], int), env_steps, metrics, evaluation_steps, evaluations)


def read_later(
    folder: Path, result: Mapping[str, Any], seeds: int, kind: int, names: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """Read some curves of a finished batch; none, with a warning, if its log is damaged."""
    try:
        with report_damage(folder / RESULT):
            found = read_log(folder, result, seeds, names)[kind]
            if found.env_steps.tolist() != result["points"][KINDS[kind]]["env_steps"]:
                raise Damaged(f"{printable(folder / METRICS)} was not written by jaxpg")
            return found.values
    except Damaged as error:
        warnings.warn(f"the curves of a batch of runs are left out: {error}", stacklevel=2)
        return {}


def read_log(
    folder: Path, result: Mapping[str, Any], seeds: int, names: Collection[str] | None = None
) -> tuple[columns.Columns, columns.Columns]:
    """Read the log of a finished batch: as Parquet, where it is there and intact and pyarrow is installed, else as rows."""
    if "parquet" in result and columns.is_installed():
        try:
            return columns.read(folder / TABLE, result["parquet"], result["points"], result["runs"], names)
        except Damaged as error:
            warnings.warn(f"{error}; {METRICS} is read in its place", stacklevel=2)
    check_log(folder, result)
    return columns.tabulate(result["runs"], seeds, log.read_rows(folder / METRICS, result["log"]["bytes"]))


def batch_name(first: int) -> str:
    """The name of the folder of a batch, from its first run.

    >>> batch_name(16)
    '0000016'
    """
    return f"{first:07d}"


def folder_of(directory: Path, first: int) -> Path:
    """The folder of the batch whose first run is ``first``."""
    return directory / BATCHES / batch_name(first)


def folders(directory: Path) -> list[Path]:
    """The folders of the batches of an experiment, in the order of their first runs."""
    try:
        with os.scandir(directory / BATCHES) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.name.isdecimal() and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def size_of_logs(directory: Path) -> int:
    """The bytes of all logs of an experiment."""
    logs = (folder / METRICS for folder in folders(directory))
    return sum(path.stat().st_size for path in logs if path.exists())


def load_results(directory: str | Path) -> Results:
    """The results of an experiment, finished or not, from a directory of ``jaxpg.run`` or of the command line.

    ``config.json`` and the results of the runs are read, and their seals checked. If all logs have more than 64 MiB together,
    each is read and checked when curves of its runs are asked for: ``found.metrics["entropy"]`` reads one metric of all runs,
    ``found.select([3, 8]).metrics`` all metrics of two settings. ``metrics.parquet`` is read where it is there and intact and
    pyarrow is installed, else ``metrics.jsonl``, which has the same numbers.

    Args:
        directory: What ``jaxpg train``, ``jaxpg sweep`` or ``jaxpg.run`` wrote.

    Returns:
        ``settings``, a list of S dicts; ``returns[mode]``, ``[S, N]``, of the evaluation at the end, and ``diverged_at``;
            ``metrics[name]``, ``[S, N, P]`` at ``env_steps``, ``[S, P]``. ``to_pandas()``, ``to_xarray()`` and
            ``to_parquet(path)`` make one table of all runs. Printed, it is a table of scores.

    Raises:
        ValueError: For a directory without an experiment. A batch of runs with damaged files is left out with a warning.

    Examples:
        >>> import tempfile
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
        >>> directory = f"{tempfile.mkdtemp()}/mine"
        >>> vary = {"learning_rate": [1e-3, 1e-2]}
        >>> _ = jaxpg.run(algo, directory=directory, vary=vary, seeds=2, total_steps=64, eval_episodes=2)
        >>> found = jaxpg.load_results(directory)
        >>> found.returns["greedy_return"].shape, found.select([1]).metrics["entropy"].shape
        ((2, 2), (1, 2, 2))
    """
    return read(directory)


def read(directory: str | Path) -> Results:
    """Read the results in a directory of ``jaxpg.run``, ``jaxpg train`` or ``jaxpg sweep``, finished or not.

    A batch of runs with damaged files is left out with a warning. ``ValueError`` for a directory without an experiment.
    """
    with remote.reading(directory) as copy:
        copy.fetch(CONFIG)
        copy.fetch_results()
        return read_on_disk(copy.directory)


def read_on_disk(directory: Path) -> Results:
    """``read`` of a directory on this machine."""
    content = read_content(directory)
    config = make_config(directory, content)
    as_read = {name: value for name, value in storable(config.to_dict()).items() if name != "run_dir"}
    about = [content.get(name, {}) for name in ("device", "versions", "flags")]
    if any(content.get(name, value) != value for name, value in as_read.items()) or not all(
        isinstance(x, Mapping) for x in about
    ):
        raise Damaged(f"{printable(directory / CONFIG)} was not written by jaxpg")
    parts, defer, num_runs = [], size_of_logs(directory) > AT_ONCE, len(config.settings) * config.seeds
    for folder in folders(directory):
        try:
            part = read_part(folder, content["identity"], config.seeds, num_runs, defer=defer)
        except ValueError as error:
            warnings.warn(f"a batch of runs is left out: {error}; the same command trains it again", stacklevel=3)
        else:
            parts.append(part)
    return join(directory.resolve().name, content, config.settings, config.seeds, parts)
