"""The run directory: ``config.json``, ``metrics.jsonl``, ``summary.json``, ``curves.png``. Readable at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxpg.hparams import shown
from jaxpg.lab.engine.stopping import alone
from jaxpg.lab.store.stored import CONFIG, FILES, METRICS


def check_free(directory: str | Path) -> None:
    """Refuse (``ValueError``) a directory that holds a run, or a path where no directory can be."""
    directory = Path(directory)
    try:
        held = [name for name in FILES if (directory / name).exists()]
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ValueError(f"run_dir = {shown(directory)} cannot be: {error.args[-1]}; give another --run-dir") from None
    if held:
        raise ValueError(f"run_dir = {directory} already holds a run ({', '.join(held)}); give another --run-dir")
    for path in (directory, *directory.parents):
        if path.exists():
            if not path.is_dir():
                raise ValueError(f"run_dir = {directory} cannot be made: {path} is a file; give another --run-dir")
            if not os.access(path, os.W_OK | os.X_OK):
                raise ValueError(f"run_dir = {directory} cannot be written: no permission in {path}; give another --run-dir")
            return


class RunWriter:
    """Writes one run, and is the only one who does: rows as they come, JSON files whole or not at all. A context manager."""

    def __init__(self, directory: Path, file: FileIO, lock: contextlib.ExitStack) -> None:
        """Made by :meth:`create` and :meth:`reopen`, which have opened the log and taken the ``lock``."""
        self.directory, self.file, self.lock = directory, file, lock

    @classmethod
    def create(cls, directory: str | Path, config: Mapping[str, Any]) -> Self:
        """Claim the directory and write ``config.json``; ``ValueError``, and nothing written, if it holds a run."""
        check_free(directory)
        directory = Path(directory)
        with contextlib.ExitStack() as lock, writable(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock.enter_context(alone(directory))
            check_free(directory)  # of two runs at once, one is refused
            write_json(directory / CONFIG, config)
            return cls(directory, FileIO(directory / METRICS, "ab+"), lock.pop_all())

    @classmethod
    def reopen(cls, directory: str | Path) -> Self:
        """Go on with a run; ``ValueError`` if somebody else writes it."""
        directory = Path(directory)
        with contextlib.ExitStack() as lock, writable(directory):
            lock.enter_context(alone(directory))
            return cls(directory, FileIO(directory / METRICS, "ab+"), lock.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.lock.close()

    def rows(self, update: int, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        """One line per seed; ``metrics`` are ``[S]``; a NaN (no episode ended) is written as ``null``."""
        columns = {name: plain(values) for name, values in sorted(metrics.items())}
        lines = (
            json.dumps({"update": update, "env_steps": env_steps, "seed": seed} | dict(zip(columns, values, strict=True)))
            for seed, values in enumerate(zip(*columns.values(), strict=True))
        )
        unwritten = memoryview("".join(line + "\n" for line in lines).encode())
        while unwritten:
            unwritten = unwritten[self.file.write(unwritten) :]
        if not os.fstat(self.file.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "it was removed under way", str(self.directory / METRICS))

    def sync(self) -> None:
        """Rows reach the disk itself."""
        os.fsync(self.file.fileno())

    def cut(self, size: int) -> None:
        """Drop all rows but the first ``size`` bytes."""
        self.file.truncate(size)

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """``content`` as the file ``name``."""
        write_json(self.directory / name, content)


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """What the disk refuses inside is a ``ValueError``."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"run_dir = {directory} cannot be written: {error.strerror}; give another --run-dir") from None


def whole_log_points(directory: Path, points: Iterable[int], seeds: int) -> Iterator[tuple[int, int]]:
    """Of ``points``, in order, those of which every seed has its row: ``(update, bytes up to there)``, until the first gap."""
    size = 0
    with open(directory / METRICS, "rb") as file:
        for update in points:
            for seed in range(seeds):
                line = file.readline()
                if identity(line) != (update, seed):
                    return
                size += len(line)
            yield update, size


def identity(line: bytes) -> tuple[Any, Any] | None:
    """Update and seed of a row; ``None`` if it is not whole."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else {}
        return row["update"], row["seed"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """``content`` as a file: written beside it first, then moved there in one step."""
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(json.dumps(storable(content), indent=2) + "\n")
    os.replace(unfinished, path)


def storable(content: Any) -> Any:
    """``content`` with ``None`` for what JSON has no number for: NaN and the infinities, however deep."""
    if isinstance(content, Mapping):
        return {name: storable(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [storable(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def plain(values: np.ndarray) -> list[float | int | None]:
    """Python numbers that print as short as their precision allows; ``None`` for what JSON has no number for.

    >>> plain(np.array([0.1, np.nan], np.float32))
    [0.1, None]
    """
    floating = np.issubdtype(values.dtype, np.floating)
    return storable([float(text) for text in values.astype(str)] if floating else values.tolist())


def read_metrics(directory: str | Path) -> dict[str, np.ndarray]:
    """The metrics of a run as arrays ``[points, S]``, ``null`` as NaN, and ``env_steps`` as ``[points]``.

    Works on a run that still goes on or was interrupted: the last log point is left out unless every seed has its row.
    """
    lines = (Path(directory) / METRICS).read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    num_seeds = 1 + max((row["seed"] for row in rows), default=0)
    rows = rows[: len(rows) // num_seeds * num_seeds]
    names = [name for name in rows[0] if name != "seed"] if rows else ["env_steps"]
    columns = {name: np.array([row[name] for row in rows], float).reshape(-1, num_seeds) for name in names}
    return columns | {"env_steps": columns["env_steps"][:, 0]}
