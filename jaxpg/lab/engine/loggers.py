"""Loggers of an experiment besides its own files: TensorBoard, Weights & Biases, or one of the user's own.

Their packages are imported, and needed, only if they are used.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import struct
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os.path import join
from pathlib import Path
from typing import Any, Protocol

from jaxpg import stats
from jaxpg.core.hparams import shown, unknown_name

MAX_RUNS = 100  # with more runs, only aggregates over the seeds of each setting are logged, not single runs
INDEX = ("setting", "seed", "update", "env_steps")  # the index of a row; everything else in it is measured
RETURNS, STATISTICS = ("greedy_return", "sampled_return"), ("mean", "median", "iqm")

Row = Mapping[str, Any]
Warn = Callable[[str], None]


class Logger(Protocol):
    """Receives the rows of an experiment while it trains.

    One of your own takes ten lines:

    >>> class Printer:
    ...     def write(self, rows):
    ...         for row in rows:
    ...             print(f"seed {row['seed']}, {row['env_steps']} steps: {row['episode_return']}")
    ...
    ...     def close(self, summary):
    ...         print("interrupted" if summary is None else "finished")
    >>> logger: Logger = Printer()
    >>> logger.write([{"setting": 0, "seed": 3, "update": 8, "env_steps": 4096, "episode_return": 21.5}])
    seed 3, 4096 steps: 21.5
    """

    def write(self, rows: Sequence[Row]) -> None:
        """Called at every log point of a batch of runs, with one row for each run.

        A row holds ``setting``, ``seed``, ``update`` and ``env_steps``, which are integers, and the metrics, each a float, or
        ``None`` where nothing was measured. The rows of an evaluation hold ``greedy_return`` and ``sampled_return`` in place of
        the metrics of training. After a resume, the rows since the last checkpoint are written again.
        """
        ...

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """Called when the experiment ends, with the content of ``summary.json``, or ``None`` if training was interrupted."""
        ...


class Loggers:
    """Several loggers as one that never raises: if a logger fails, ``warn`` is called and the logger is not used any more."""

    def __init__(self, loggers: Sequence[Logger], warn: Warn) -> None:
        self._loggers, self._warn = list(loggers), warn

    def write(self, rows: Sequence[Row]) -> None:
        self._call_all("write", rows)

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self._call_all("close", summary)

    def _call_all(self, method: str, argument: Any) -> None:
        for logger in list(self._loggers):
            try:
                getattr(logger, method)(argument)
            except Exception as error:
                self._loggers.remove(logger)
                why = f"{type(error).__name__}: {_one_line(error)}"
                self._warn(f"logger {type(logger).__name__} failed and is not used any more ({why})")


NO_LOGGER = Loggers([], lambda _: None)


def check_loggers(names: Sequence[str]) -> None:
    """Raise ``ValueError`` for an unknown logger, or one whose package is missing."""
    for name in names:
        if name not in LOGGERS:
            raise ValueError(unknown_name("log", name, LOGGERS))
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ValueError(f"log = {name}: {PACKAGES[name]} is not installed; pip install 'jaxpg[{name}]'")


def open_loggers(
    names: Sequence[str], directory: Path, config: Mapping[str, Any], resumed: bool, warn: Warn = warnings.warn
) -> list[Logger]:
    """Open the loggers ``names``, keys of ``LOGGERS``, for the experiment in ``directory``.

    ``config`` is the content of ``config.json``: ``algo``, ``env``, ``seeds``, ``seed``, ``options`` and ``settings``, a list
    of the values that each setting varies, ``[{}]`` if nothing varies. ``resumed`` says that loggers wrote here before.
    ``ValueError`` for an unknown name, a missing package, or a service that cannot be reached.
    """
    check_loggers(names)
    count = _count(config)
    if names and count > MAX_RUNS:
        listed = " and ".join(dict.fromkeys(names))
        series = "the interquartile means over the seeds of each setting, but not each run"
        warn(f"{count} runs are more than {MAX_RUNS}: {series}, are logged to {listed}")
    return [LOGGERS[name](Path(directory), config, resumed) for name in dict.fromkeys(names)]


class TensorBoard:
    """Event files under ``directory/tensorboard``, for ``tensorboard --logdir``; the x axis is ``env_steps``.

    Each run is a TensorBoard run, e.g. ``learning_rate=0.001/seed3``, or ``seed3`` where nothing is varied. ``all seeds`` next
    to it has the interquartile mean of every metric over the seeds, the hyperparameters, and the final evaluation. For a batch
    with only some of the seeds it is called, e.g., ``seeds 0-7``.

    No file stays open, so that the number of runs is not limited by open files. No thread writes, so that a full disk raises
    an error in the call.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], resumed: bool) -> None:
        """``ValueError`` without tensorboardX, or where the folder is a link to another place."""
        self._record = _import("tensorboardX.record_writer", "tensorboard")
        self._event = _import("tensorboardX.proto.event_pb2", "tensorboard")
        self._summary = _import("tensorboardX.proto.summary_pb2", "tensorboard").Summary
        self._directory, self._resumed, self._seeds = directory, resumed, config["seeds"]
        self._names = name_settings(config["settings"])
        self._has_single_runs = _count(config) <= MAX_RUNS
        self._files: dict[str, Path] = {}  # by TensorBoard run
        self._env_steps: dict[int, int] = {}  # by setting
        hparams = _import("tensorboardX.summary", "tensorboard").hparams
        metrics = [f"final/{name}_{statistic}" for name in RETURNS for statistic in STATISTICS]
        for setting, name in enumerate(self._names):
            *started, self._ended = hparams(_hyperparameters(config, setting), dict.fromkeys(metrics, 0.0))
            if not any((directory / "tensorboard" / name / "all seeds").glob("*tfevents*")):
                self._append(join(name, "all seeds"), *({"summary": summary} for summary in started))

    def write(self, rows: Sequence[Row]) -> None:
        for setting, group in _by_setting(rows).items():
            name, self._env_steps[setting] = self._names[setting], group[0]["env_steps"]
            if self._has_single_runs:
                for row in group:
                    self._log(join(name, f"seed{row['seed']}"), row, measured(row))
            self._log(join(name, _name_seeds(group, self._seeds)), group[0], aggregate(group))

    def close(self, summary: Mapping[str, Any] | None) -> None:
        for setting, scores in enumerate(summary["settings"] if summary else ()):
            name, step = self._names[setting], self._env_steps.get(setting, 0)
            final = {"step": step, "summary": self._scalars(_final(scores))}
            self._append(join(name, "all seeds"), final, {"step": step, "summary": self._ended})
            for seed in range(self._seeds if self._has_single_runs else 0):
                final = {"step": step, "summary": self._scalars(_final_of_seed(scores, seed))}
                self._append(join(name, f"seed{seed}"), final)

    def _log(self, run: str, row: Row, values: Mapping[str, float]) -> None:
        """Write a row. Before the first row after a resume, TensorBoard is told to discard the steps that are written again."""
        events: list[dict[str, Any]] = [{"step": row["env_steps"], "summary": self._scalars(values)}]
        if self._resumed and run not in self._files:
            is_evaluation = any(name in row for name in RETURNS)  # the training row with the same env_steps is already written
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            events.insert(0, {"step": row["env_steps"] + is_evaluation, "session_log": start})
        self._append(run, *events)

    def _scalars(self, values: Mapping[str, float]) -> Any:
        return self._summary(value=[self._summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def _append(self, run: str, *events: Mapping[str, Any]) -> None:
        """Append ``events``, fields of TensorBoard's ``Event``, to a file of this session."""
        if run not in self._files:
            path = _inside(self._directory, self._directory / "tensorboard" / run)
            path.mkdir(parents=True, exist_ok=True)
            self._files[run] = (
                path / f"events.out.tfevents.{time.time_ns()}"
            )  # TensorBoard reads files in the order of their names
            events = ({"file_version": "brain.Event:2"}, *events)
        with open(self._files[run], "ab") as file:
            file.write(b"".join(self._frame(self._event.Event(wall_time=time.time(), **event)) for event in events))

    def _frame(self, event: Any) -> bytes:
        """A record: length, checksum of the length, the event, its checksum; little-endian."""
        content = event.SerializeToString()
        length, checksum = struct.pack("<Q", len(content)), self._record.masked_crc32c
        return length + struct.pack("<I", checksum(length)) + content + struct.pack("<I", checksum(content))


class WeightsAndBiases:
    """One W&B run for each setting, in a group named as ``directory``, in the project ``jaxpg`` or ``$WANDB_PROJECT``.

    Seeds are trained in parallel and are series of one W&B run, e.g. ``seed3/episode_return``; ``episode_return`` is the
    interquartile mean over the seeds. One W&B run per seed would need hundreds of connections, which take minutes to open.
    The x axis is ``env_steps``; the final evaluation is in the summary, as ``final/greedy_return_iqm``.

    ``WANDB_MODE=offline`` needs no network and no account. A resumed experiment continues the same W&B runs; the rows since
    its last checkpoint appear twice, at the same ``env_steps``.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], resumed: bool) -> None:
        """``ValueError`` without wandb, without an account, for too many settings, or for a damaged ``wandb/experiment_id``."""
        self._wandb = _import("wandb", "wandb")
        self._directory, self._config = directory, config
        self._names = name_settings(config["settings"])
        if len(self._names) > MAX_RUNS:
            fix = f"at most {MAX_RUNS} are possible; vary less, or use tensorboard"
            raise ValueError(f"log = wandb: {len(self._names)} settings need as many W&B runs at once, but {fix}")
        self._has_single_runs = _count(config) <= MAX_RUNS
        self._id = self._read_id(resumed)
        self._runs: dict[int, Any] = {}  # by setting
        try:
            self._open(0)
        except self._wandb.Error as error:
            fix = "WANDB_MODE=offline needs no account and no network"
            raise ValueError(f"log = wandb: {_one_line(error).rstrip('.')}; {fix}") from None

    def write(self, rows: Sequence[Row]) -> None:
        for setting, group in _by_setting(rows).items():
            seeds = _name_seeds(group, self._config["seeds"])
            prefix = "" if seeds == "all seeds" else f"{seeds}/"
            values = {f"{prefix}{name}": value for name, value in aggregate(group).items()}
            if self._has_single_runs:
                for row in group:
                    values |= {f"seed{row['seed']}/{name}": value for name, value in measured(row).items()}
            self._open(setting).log({"env_steps": group[0]["env_steps"], **values})

    def close(self, summary: Mapping[str, Any] | None) -> None:
        for setting, scores in enumerate(summary["settings"] if summary else ()):
            self._open(setting).summary.update(_final(scores))
        for run in self._runs.values():
            run.finish(exit_code=0 if summary else 1)

    def _open(self, setting: int) -> Any:
        """Open the W&B run of a setting. It does not capture standard output; only the first run prints its address."""
        if setting not in self._runs:
            experiment = self._directory.resolve().name
            run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "jaxpg"),
                group=experiment,
                name=self._names[setting] or experiment,
                id=f"{self._id}-{setting}",
                resume="allow",
                reinit="create_new",
                dir=self._directory,
                config=_hyperparameters(self._config, setting),
                settings=self._wandb.Settings(console="off", quiet=True, silent=setting > 0),
            )
            run.define_metric("*", step_metric="env_steps")
            self._runs[setting] = run
        return self._runs[setting]

    def _read_id(self, resumed: bool) -> str:
        """The id of the experiment, from which the ids of its W&B runs are made; stored on disk for a resume."""
        path = _inside(self._directory, self._directory / "wandb" / "experiment_id")
        if resumed and path.is_file():
            with open(path, encoding="ascii", errors="replace") as file:
                found = file.read(80).strip()
            if not re.fullmatch(r"[0-9a-f]{8}", found):
                raise ValueError(f"{path} holds {shown(found)}, which is not an id; delete it for new W&B runs")
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        new = uuid.uuid4().hex[:8]
        path.write_text(f"{new}\n")
        return new


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any], bool], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


def measured(row: Row) -> dict[str, float]:
    """The metrics of ``row`` that are finite numbers.

    >>> measured({"setting": 0, "seed": 1, "update": 8, "env_steps": 64, "entropy": 0.5, "episode_return": None})
    {'entropy': 0.5}
    """
    return {name: value for name, value in row.items() if name not in INDEX and value is not None and math.isfinite(value)}


def aggregate(rows: Sequence[Row]) -> dict[str, float]:
    """The interquartile mean of each metric over those of ``rows`` where it is a finite number.

    >>> aggregate([{"entropy": 0.5, "episode_return": None}, {"entropy": 1.0, "episode_return": 20.0}])
    {'entropy': 0.75, 'episode_return': 20.0}
    """
    found = [measured(row) for row in rows]
    names = dict.fromkeys(name for values in found for name in values)
    return {name: float(stats.iqm([values[name] for values in found if name in values])) for name in names}


def name_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A unique name for each setting that can be part of a path; its index if its values give no such name.

    >>> name_settings([{"learning_rate": 0.001, "hidden": [64, 64]}, {"learning_rate": 0.001, "hidden": [32, 32]}])
    ['learning_rate=0.001,hidden=64x64', 'learning_rate=0.001,hidden=32x32']
    >>> name_settings([{}])
    ['']
    """
    names = [",".join(f"{name}={_say(value)}" for name, value in setting.items()) for setting in settings]
    names = [re.sub(r"[^\w.=,+-]", "_", name) for name in names]
    count = Counter(names)
    return [name if len(name) <= 200 and count[name] == 1 else f"setting{n}" for n, name in enumerate(names)]


def _say(value: Any) -> str:
    """A value of a hyperparameter, a list as ``64x64``."""
    return "x".join(map(_say, value)) if isinstance(value, list | tuple) else str(value)


def _name_seeds(rows: Sequence[Row], seeds: int) -> str:
    """Name the seeds that the ``rows`` of one setting belong to."""
    present = [row["seed"] for row in rows]
    return "all seeds" if len(present) == seeds else f"seeds {min(present)}-{max(present)}"


def _by_setting(rows: Sequence[Row]) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["setting"], []).append(row)
    return groups


def _hyperparameters(config: Mapping[str, Any], setting: int) -> dict[str, Any]:
    """All options and values of a setting, as numbers and text."""
    general = {name: config[name] for name in ("algo", "env", "seeds", "seed")}
    values = general | config["options"] | config["settings"][setting]
    return {name: _say(value) if isinstance(value, list | tuple) else value for name, value in values.items()}


def _final(scores: Mapping[str, Any]) -> dict[str, float]:
    """The final evaluation of a setting, over its seeds, without values that are ``None`` because runs diverged."""
    found = {f"final/{name}_{key}": scores[name][key] for name in RETURNS if name in scores for key in STATISTICS}
    return measured(found)


def _final_of_seed(scores: Mapping[str, Any], seed: int) -> dict[str, float]:
    """The final evaluation of one run."""
    return measured({f"final/{name}": scores[name]["per_seed"][seed] for name in RETURNS if name in scores})


def _count(config: Mapping[str, Any]) -> int:
    """The number of runs."""
    return len(config["settings"]) * config["seeds"]


def _inside(directory: Path, path: Path) -> Path:
    """``path``; ``ValueError`` if it is not inside ``directory``."""
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"{path} points outside the run directory; remove the link")
    return path


def _import(module: str, extra: str) -> Any:
    """Import ``module``, which the optional dependencies ``extra`` install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"log = {extra}: {_one_line(error)}; pip install 'jaxpg[{extra}]'") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
