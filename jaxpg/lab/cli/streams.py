"""Standard output and error that may be closed or full: what cannot be written is dropped, and training continues."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO


class Tolerant:
    """A text stream that drops what it cannot write; all else is that of the ``stream``, ``None`` where that is closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream, self.is_broken = stream or open(os.devnull, "w"), False  # noqa: SIM115 - as long as the process

    def write(self, text: str) -> int:
        """Write and flush, or drop."""
        if not self.is_broken:
            try:
                self.stream.write(text)
                self.stream.flush()
            except (OSError, ValueError):  # a closed pipe, a full disk; a stream that was closed
                self.is_broken = True
        return len(text)

    def flush(self) -> None:
        """Nothing is left to flush."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def quiet_streams() -> Iterator[None]:
    """Inside, output never raises, and what other libraries warn of, or a thread of theirs fails with, is one line."""
    occupy_standard_files()
    before = sys.stdout, sys.stderr, threading.excepthook
    sys.stdout, sys.stderr = ours = Tolerant(sys.stdout), Tolerant(sys.stderr)  # pyright: ignore[reportAttributeAccessIssue]
    threading.excepthook = say_failure
    try:
        with warnings.catch_warnings():
            warnings.showwarning = say_warning
            yield
    finally:
        sys.stdout, sys.stderr, threading.excepthook = before
        for stream in ours:
            if stream.is_broken:
                silence(stream.stream)


def occupy_standard_files() -> None:
    """Open the null device where standard input, output or error are closed: else another file would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning in one line."""
    print(f"jaxpg: warning: {' '.join(str(message).split())}", file=sys.stderr)


def say_failure(failed: threading.ExceptHookArgs) -> None:
    """What ended a thread, in one line."""
    name, why = failed.thread.name if failed.thread else "a thread", " ".join(str(failed.exc_value).split())[:160]
    print(f"jaxpg: warning: {name} failed: {failed.exc_type.__name__}: {why}", file=sys.stderr)


def silence(stream: TextIO) -> None:
    """Let a broken stream end in nothing: Python flushes it once more when it exits, and would complain."""
    with contextlib.suppress(OSError, ValueError):  # it has no file, as in a test
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
