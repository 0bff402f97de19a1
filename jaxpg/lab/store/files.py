"""The files of a run directory: JSON files with a seal, which is a checksum of the content, written atomically.

A directory may come from an unknown source. Therefore each command that reads one first calls ``check_directory``, which allows
only regular files and folders: a link could lead outside the directory, and reading a pipe would never end.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxpg.core.hparams import printable, shown

CONFIG, SUMMARY, TIMING, CURVES, BATCHES = "config.json", "summary.json", "timing.json", "curves.png", "batches"
METRICS, RESULT, BATCH, CHECKPOINTS, ASIDE = "metrics.jsonl", "result.json", "batch.json", "checkpoints", "damaged"
TABLE = "metrics.parquet"
LOCK, LOCKS, SEAL = ".lock", ".locks", "sha256"
SEARCH = "search.json"  # of a directory whose rung_0, rung_1, ... are experiments
JSON_BYTES = 2**28  # a larger JSON file was not written by jaxpg


class Damaged(ValueError):
    """A file is damaged or foreign and must not be used; the message says why in one line."""


def check_directory(directory: str | Path, *, to_write: bool = False) -> Path:
    """Check that a run directory holds only regular files and folders; ``ValueError`` names the first that is not.

    With ``to_write``, hard links are errors too, because writing one would change a file elsewhere.
    """
    directory = Path(directory)
    try:
        for entry in walk(directory) if directory.is_dir() else ():
            is_file = entry.is_file(follow_symlinks=False)
            if not (is_file or entry.is_dir(follow_symlinks=False)) and count_names(entry):
                kind = "a link" if entry.is_symlink() else "not a regular file"
                raise ValueError(f"{printable(entry.path)} is {kind}; a run directory may hold only regular files: remove it")
            if to_write and is_file and count_names(entry) > 1:
                name = printable(entry.path)
                raise ValueError(f"{name} has a second name elsewhere (a hard link); copy the directory, then continue")
    except OSError as error:  # no permission, or an impossible file name
        raise ValueError(f"{printable(error.filename or directory)} cannot be read: {error.strerror}") from None
    return directory


def walk(directory: str | Path) -> Iterator[os.DirEntry[str]]:
    """All entries below a folder, without following links; what is removed meanwhile is skipped.

    The kind of an entry comes with the listing of its folder, without a look at each file: there can be a million.
    """
    folders = [os.fspath(directory)]
    while folders:
        folder = folders.pop()
        try:
            os.stat(f"{folder}/.")  # whether its files may be opened: a listing alone does not need that
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    yield entry
        except FileNotFoundError:
            continue


def count_names(entry: os.DirEntry[str]) -> int:
    """The number of names (hard links) of a file; 0 if it was removed meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_nlink
    except FileNotFoundError:
        return 0


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` and its seal to a file atomically, and sync it to the disk.

    The seal is the SHA-256 of the content as compact JSON with sorted keys; NaN and the infinities are ``null``.
    """
    content = dict(storable(content))
    parts = json.JSONEncoder(indent=2).iterencode(content | {SEAL: digest(content)})  # the text of a summary can be large
    write_atomically(path, (part.encode() for part in itertools.chain(parts, "\n")))


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file so that it is complete or absent: it is synced to the disk before it gets its name."""
    unfinished = path.with_name(f".{path.name}.part")
    with open(unfinished, "wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of ``write_json``; ``Damaged`` if it is missing, was changed, or was not written by ``write_json``."""
    content = load_json(path)
    if SEAL not in content:
        raise Damaged(f"{printable(path)} has no checksum; it was not written by this version of jaxpg")
    seal = content.pop(SEAL)
    if seal != digest(content):
        raise Damaged(f"{printable(path)} was changed since it was written; restore it, or start again in another directory")
    return content


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of unknown origin; ``Damaged`` if it holds none."""
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
    """The SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def storable(content: Any) -> Any:
    """Convert ``content`` to plain data for JSON; NaN and infinities, at any depth, become ``None``.

    Parts that are plain data already are shared, not copied: a summary has a part for each of thousands of settings.

    >>> storable({"hidden": (64, 64), "mean": float("nan")})
    {'hidden': [64, 64], 'mean': None}
    """
    if isinstance(content, Mapping):
        plain = {str(name): storable(value) for name, value in content.items()}
        return content if isinstance(content, dict) and content == plain else plain
    if isinstance(content, list | tuple):
        values = [storable(value) for value in content]
        return content if content == values else values
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside into a ``ValueError`` of one line."""
    try:
        yield
    except OSError as error:
        name = printable(directory)
        raise ValueError(f"run_dir = {name} cannot be written: {error.strerror}; give another --run-dir") from None


def check_writable(directory: Path) -> None:
    """Raise ``ValueError`` if ``directory`` cannot be made or written."""
    for path in (directory, *directory.parents):
        try:
            there = path.exists()
        except (OSError, ValueError) as error:  # an impossible file name
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
def lock(path: Path, *, shared: bool = False, patience: float = 0.0) -> Iterator[None]:
    """Lock the file ``path`` against other writers. The lock ends with the process.

    Several processes may hold a ``shared`` lock, and none an exclusive one then. ``ValueError`` if another process still holds
    it after ``patience`` seconds.
    """
    path.parent.mkdir(exist_ok=True)
    kind, deadline = fcntl.LOCK_SH if shared else fcntl.LOCK_EX, time.monotonic() + patience
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+") as file:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    where = printable(path.parent.parent if path.parent.name == LOCKS else path.parent)
                    raise ValueError(
                        f"run_dir = {where} is being written by another process; wait for it, or stop it"
                    ) from None
                time.sleep(0.05)
        yield
