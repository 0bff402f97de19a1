"""The files of a run directory: JSON with a seal, written as a unit, and one checked way in.

A directory may come from anywhere. Every command that reads one calls ``check_directory`` first: what is there must be
plain files and folders, so that nothing outside is read or written by way of a link, and nothing waits for a pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxpg.core.hparams import printable, shown

CONFIG, SUMMARY, TIMING, CURVES, BATCHES = "config.json", "summary.json", "timing.json", "curves.png", "batches"
METRICS, RESULT, BATCH, CHECKPOINTS, ASIDE = "metrics.jsonl", "result.json", "batch.json", "checkpoints", "damaged"
LOCK, SEAL = ".lock", "sha256"
JSON_BYTES = 2**28  # a larger file of JSON is none of ours


class Damaged(ValueError):
    """A file that must not be used, and why, in one line."""


def check_directory(directory: str | Path, *, to_write: bool = False) -> Path:
    """The path of a run directory that holds plain files and folders only; ``ValueError``, naming the first that is not.

    With ``to_write`` a file with a second name (a hard link) is refused as well: writing it would change the other.
    """
    directory = Path(directory)
    try:
        for path, status in walk(directory) if directory.is_dir() else ():
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
                raise ValueError(f"{printable(path)} is {kind}; a run directory may hold only regular files: remove it")
            if to_write and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                name = printable(path)
                raise ValueError(f"{name} has a second name elsewhere (a hard link); copy the directory, then continue")
    except OSError as error:  # no permission; a name that no file can have
        raise ValueError(f"{printable(error.filename or directory)} cannot be read: {error.strerror}") from None
    return directory


def walk(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below and what it is, links not followed; without what a running writer removes meanwhile."""
    for folder, folders, files in os.walk(directory, onerror=raise_error):
        for name in (*folders, *files):
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):
                yield path, path.lstat()


def raise_error(error: OSError) -> None:
    """``os.walk`` would leave out what cannot be read."""
    if not isinstance(error, FileNotFoundError):
        raise error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """``content`` and its seal as a file: complete or not at all, and on the disk itself when this returns.

    The seal is the SHA-256 of the content as compact JSON with sorted keys; NaN and the infinities are ``null``.
    """
    content = dict(storable(content))
    text = json.dumps(content | {SEAL: digest(content)}, indent=2) + "\n"
    write_atomically(path, text.encode())


def write_atomically(path: Path, data: bytes) -> None:
    """A file that is complete or not there at all, flushed to the disk before it has its name."""
    unfinished = path.with_name(f".{path.name}.part")
    with open(unfinished, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote; ``Damaged`` if it is missing, not ours, or not what was written."""
    content = load_json(path)
    if SEAL not in content:
        raise Damaged(f"{printable(path)} has no seal; it is not of this version of jaxpg")
    seal = content.pop(SEAL)
    if seal != digest(content):
        raise Damaged(f"{printable(path)} was changed since it was written; restore it, or start again in another directory")
    return content


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of any origin; ``Damaged`` if there is none."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > JSON_BYTES:
                raise ValueError("it is too large")
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Damaged(f"{printable(path)} cannot be read ({shown(why)})") from None
    if not isinstance(content, dict):
        raise Damaged(f"{printable(path)} was not written by jaxpg")
    return content


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def storable(content: Any) -> Any:
    """``content`` as plain data, with ``None`` for what JSON has no number for: NaN and the infinities, however deep.

    >>> storable({"hidden": (64, 64), "mean": float("nan")})
    {'hidden': [64, 64], 'mean': None}
    """
    if isinstance(content, Mapping):
        return {str(name): storable(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [storable(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """What the disk refuses inside is a ``ValueError``."""
    try:
        yield
    except OSError as error:
        name = printable(directory)
        raise ValueError(f"run_dir = {name} cannot be written: {error.strerror}; give another --run-dir") from None


def check_writable(directory: Path) -> None:
    """Refuse a path where no directory can be."""
    for path in (directory, *directory.parents):
        try:
            there = path.exists()
        except (OSError, ValueError) as error:  # a name that no file can have
            raise ValueError(
                f"run_dir = {printable(directory)} is not a possible path: {error.args[-1]}; give another --run-dir"
            ) from None
        if there:
            name = printable(directory)
            if not path.is_dir():
                raise ValueError(f"run_dir = {name} cannot be made: {printable(path)} is a file; give another --run-dir")
            if not os.access(path, os.W_OK | os.X_OK):
                why = f"no permission in {printable(path)}"
                raise ValueError(f"run_dir = {name} cannot be written: {why}; give another --run-dir")
            return


@contextlib.contextmanager
def lock(directory: Path, name: str = LOCK) -> Iterator[None]:
    """Nobody else writes ``directory`` meanwhile: ``ValueError`` if somebody does. The lock ends with the process, however."""
    with open(os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            where = printable(directory)
            raise ValueError(f"run_dir = {where} is being written by another process; wait for it, or stop it") from None
        yield
