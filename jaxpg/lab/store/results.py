"""The results of an experiment as arrays, read from its directory. This module needs NumPy, but not JAX."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxpg.core.hparams import printable
from jaxpg.lab.store import frames, log
from jaxpg.lab.store.files import BATCH, BATCHES, CONFIG, METRICS, RESULT, Damaged, read_json, storable
from jaxpg.lab.store.stored import make_config, read_content, report_damage

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

MODES = ("greedy_return", "sampled_return")
SECONDS = ("compile", "train")


@dataclasses.dataclass(frozen=True)
class Results:
    """Results of S settings with N seeds and P log points. An experiment that varies nothing has one setting, ``{}``.

    ``env_steps`` is ``[S, P]``; a setting with fewer log points than others ends in NaN, as its metrics do. ``metrics`` are
    ``[S, N, P]``, NaN where no episode ended. ``returns`` are ``[S, N]``, of the evaluation at the end, NaN for a run that
    diverged or is not finished. ``diverged_at`` is ``[S, N]``: the update at which a run diverged, 0 if it did not.
    ``digests`` are ``[S, N]``: SHA-256 of the final state of each run. ``seconds`` are the times of compiling and training.
    ``evaluation_steps [S, E]`` and ``evaluations [S, N, E]`` are from the evaluations during training, if there were any.

    Printed, and in a notebook, it is a table of scores; ``to_pandas`` and ``to_xarray`` give all of it.
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


@dataclasses.dataclass(frozen=True)
class Part:
    """Results of some runs: run ``r`` is setting ``r // N`` with seed ``r % N``. ``metrics`` are ``[R, P]``, others ``[R]``."""

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
    env_steps, metrics = gather(shape, parts, "env_steps", "metrics")
    evaluation_steps, evaluations = gather(shape, parts, "evaluation_steps", "evaluations")
    for part in parts:
        place = np.divmod(part.runs, seeds)
        if part.diverged_at is not None:
            diverged_at[place] = part.diverged_at
            for mode, values in part.returns.items():
                returns[mode][place] = np.where(part.diverged_at > 0, np.nan, values)
        if part.digests is not None:
            digests[place] = part.digests
    seconds = {kind: sum(part.seconds.get(kind, 0.0) for part in parts) for kind in SECONDS}
    evaluated = evaluation_steps, evaluations
    return Results(name, config, settings, env_steps, metrics, returns, diverged_at, *evaluated, digests, seconds)


def gather(shape: tuple[int, int], parts: Sequence[Part], steps: str, what: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Join steps ``[S, P]`` and values ``[S, N, P]`` of all parts; missing ones are NaN."""
    points = max((getattr(part, steps).size for part in parts), default=0)
    all_steps = np.full((shape[0], points), np.nan)
    values: dict[str, np.ndarray] = {}
    for part in parts:
        setting, seed = np.divmod(part.runs, shape[1])
        last = getattr(part, steps).size
        all_steps[setting, :last] = getattr(part, steps)
        for key, given in getattr(part, what).items():
            values.setdefault(key, np.full((*shape, points), np.nan))[setting, seed, :last] = given
    return all_steps, values


def tabulate(runs: Sequence[int], seeds: int, rows: Sequence[log.Row]) -> Part:
    """Convert the rows of a log to arrays, indexed by setting, seed and update."""
    place = {run: i for i, run in enumerate(runs)}
    kinds: tuple[list[log.Row], list[log.Row]] = ([], [])
    for row in rows:
        if row["setting"] * seeds + row["seed"] in place and 0 <= row["seed"] < seeds:
            kinds[MODES[0] in row].append(row)

    def table(rows: Sequence[log.Row]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        steps = {row["update"]: row["env_steps"] for row in rows}
        column = {update: p for p, update in enumerate(sorted(steps))}
        at = [place[row["setting"] * seeds + row["seed"]] for row in rows], [column[row["update"]] for row in rows]
        names = dict.fromkeys(name for row in rows for name in row if name not in log.PLACE)
        values = {name: np.full((len(runs), len(column)), np.nan) for name in names}
        for name, table in values.items():
            table[at] = np.array([row.get(name) for row in rows], float)
        return np.array([steps[update] for update in column], float), values

    return Part(np.array(runs, int), *table(kinds[False]), *table(kinds[True]))


def read_result(folder: Path, identity: str, num_runs: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read the description of a batch, and its result if it is finished; ``Damaged`` if it cannot be used."""
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
        if log.seal_of(folder / METRICS, result["log"]["bytes"]) != result["log"]:
            raise Damaged(f"{printable(folder / METRICS)} was changed since its runs were finished")
    finished_arrays(folder, result, len(runs))
    return about, result


def finished_arrays(folder: Path, result: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Convert the result of ``count`` runs to arrays; ``Damaged`` if it is not valid."""
    with report_damage(folder / RESULT):
        returns = {mode: np.array(result["returns"][mode], float) for mode in MODES}
        diverged_at, digests = np.array(result["diverged_at"], int), np.array(result["digests"], str)
        if any(values.shape != (count,) for values in (*returns.values(), diverged_at, digests)):
            raise Damaged(f"{printable(folder / RESULT)} was not written by jaxpg")
        seconds = {name: float(result["seconds"][name]) for name in SECONDS}
    return {"returns": returns, "diverged_at": diverged_at, "digests": digests, "seconds": seconds}


def read_part(folder: Path, identity: str, seeds: int, num_runs: int) -> Part:
    """Read a batch of runs, finished or not; ``Damaged`` if it cannot be used."""
    about, result = read_result(folder, identity, num_runs)
    runs = about["runs"]
    part = tabulate(runs, seeds, log.rows_of(folder / METRICS, result["log"]["bytes"] if result else None))
    return part if result is None else dataclasses.replace(part, **finished_arrays(folder, result, len(runs)))


def folders(directory: Path) -> list[Path]:
    """The folders of the batches of an experiment, in the order of their first runs."""
    return sorted(path for path in (directory / BATCHES).glob("*") if path.name.isdecimal() and path.is_dir())


def read(directory: str | Path) -> Results:
    """Read the results in a directory of ``jaxpg.run``, ``jaxpg train`` or ``jaxpg sweep``, finished or not.

    A batch of runs with damaged files is left out with a warning. ``ValueError`` for a directory without an experiment.
    """
    directory = Path(directory)
    content = read_content(directory)
    config = make_config(directory, content)
    as_read = {name: value for name, value in storable(config.to_dict()).items() if name != "run_dir"}
    about = [content.get(name, {}) for name in ("device", "versions", "flags")]
    if any(content.get(name, value) != value for name, value in as_read.items()) or not all(
        isinstance(x, Mapping) for x in about
    ):
        raise Damaged(f"{printable(directory / CONFIG)} was not written by jaxpg")
    parts = []
    for folder in folders(directory):
        try:
            part = read_part(folder, content["identity"], config.seeds, len(config.settings) * config.seeds)
        except ValueError as error:
            warnings.warn(f"a batch of runs is left out: {error}; the same command trains it again", stacklevel=2)
        else:
            parts.append(part)
    return join(directory.resolve().name, content, config.settings, config.seeds, parts)
