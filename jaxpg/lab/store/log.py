"""The log of a batch of runs, ``metrics.jsonl``: one row for each run and log point."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from jaxpg.core.hparams import printable
from jaxpg.lab.store.files import Damaged, storable, write_atomically

PLACE = ("setting", "seed", "update", "env_steps")  # the index of a row; everything else in it was measured
Row = dict[str, Any]


class Log:
    """The log of one batch of runs, to which rows are appended. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab+")
        self.size, self.rows, self.hash = 0, 0, hashlib.sha256()
        self.file.seek(0)
        while block := self.file.read(2**20):
            self.add(block)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, data: bytes) -> None:
        """Update size, number of rows and hash with bytes that are in the file."""
        self.size += len(data)
        self.rows += data.count(b"\n")
        self.hash.update(data)

    @property
    def seal(self) -> dict[str, Any]:
        """A description of the file so far: its size, its number of rows and its SHA-256."""
        return {"bytes": self.size, "rows": self.rows, "sha256": self.hash.hexdigest()}

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; ``OSError`` if they cannot be written, or if the file was removed during training."""
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        unwritten = memoryview(data)
        while unwritten:
            unwritten = unwritten[self.file.write(unwritten) :]
        self.add(data)
        if not os.fstat(self.file.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "it was removed during training", str(self.path))

    def sync(self) -> None:
        """Sync the rows to the disk."""
        os.fsync(self.file.fileno())


def seal_of(path: Path, size: Any) -> dict[str, Any] | None:
    """The ``Log.seal`` of the first ``size`` bytes; ``None`` if ``size`` is invalid, or the file is shorter or unreadable."""
    if type(size) is not int or size < 0:
        return None
    total, left, rows = hashlib.sha256(), size, 0
    try:
        with open(path, "rb") as file:
            while left and (block := file.read(min(left, 2**20))):
                left -= len(block)
                rows += block.count(b"\n")
                total.update(block)
    except OSError:
        return None
    return None if left else {"bytes": size, "rows": rows, "sha256": total.hexdigest()}


def restore(path: Path, seal: Mapping[str, Any] | None, update: int, tail: Sequence[Row] = ()) -> int:
    """Restore the log to its state when ``update`` was saved. Returns the number of lost rows, -1 if the file is intact.

    Later rows are removed, and those in ``tail``, which are not part of the seal: they will be written again. If the file is
    damaged, the rows that can be read are kept.
    """
    if seal is None:
        write_atomically(path, b"")
        return -1
    if seal_of(path, seal.get("bytes")) == dict(seal):
        os.truncate(path, seal["bytes"])
        return -1
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows = [row for row in map(parse, lines) if row and row["update"] <= update and row not in tail]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return max(0, seal.get("rows", 0) - len(rows))


def parse(line: bytes) -> Row | None:
    """Parse a line of the log; ``None`` if it is not a row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if is_row(row) else None


def is_row(row: Any) -> bool:
    """Whether ``row``, from a file, is valid: it has an index, and all else is numbers or ``None``."""
    if not isinstance(row, dict) or not all(type(row.get(name)) is int and 0 <= row[name] < 2**63 for name in PLACE):
        return False
    measured = (value for name, value in row.items() if name not in PLACE)
    return all(value is None or (type(value) in (int, float) and abs(value) < 1e300) for value in measured)


def rows_of(path: Path, size: int | None = None) -> list[Row]:
    """Read the rows of a log, or of its first ``size`` bytes; lines that are incomplete or not rows are left out.

    No rows if there is no file; ``Damaged`` if it cannot be read.
    """
    return list(read_rows(path, size))


def read_rows(path: Path, size: int | None = None) -> Iterator[Row]:
    """``rows_of``, one row at a time."""
    return (row for line in lines_of(path, size) if (row := parse(line)) is not None)


def lines_of(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The complete lines of a log, or of its first ``size`` bytes; ``Damaged`` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            for line in file:
                size = None if size is None else size - len(line)
                if (size is not None and size < 0) or not line.endswith(b"\n"):
                    return
                yield line
    except FileNotFoundError:
        return
    except OSError as error:
        raise Damaged(f"{printable(path)} cannot be read ({error.strerror})") from None


def rows(runs: Iterable[tuple[int, int]], update: int, env_steps: int, metrics: Mapping[str, np.ndarray]) -> list[Row]:
    """Make one row for each of ``runs``, pairs of setting and seed. ``metrics`` are ``[R]``; NaN becomes ``None``."""
    columns = {name: plain(values) for name, values in sorted(metrics.items())}
    return [
        {"update": update, "env_steps": env_steps, "setting": setting, "seed": seed} | dict(zip(columns, values, strict=True))
        for (setting, seed), values in zip(runs, zip(*columns.values(), strict=True), strict=True)
    ]


def plain(values: np.ndarray) -> list[float | int | None]:
    """Convert to Python numbers, with as few digits as their dtype needs; NaN and infinities become ``None``.

    >>> plain(np.array([0.1, np.nan], np.float32))
    [0.1, None]
    """
    floating = np.issubdtype(values.dtype, np.floating)
    return storable([float(text) for text in values.astype(str)] if floating else values.tolist())
