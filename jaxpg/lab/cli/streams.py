"""Standard output and error that may be closed or full: text that cannot be written is dropped, and training continues."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Tolerant:
    """A wrapper of the text stream ``stream`` that drops text it cannot write. ``None`` stands for a closed stream."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream, self.is_broken = stream or open(os.devnull, "w"), False  # noqa: SIM115 - as long as the process

    def write(self, text: str) -> int:
        """Write and flush ``text``; drop it if that fails."""
        if not self.is_broken:
            try:
                self.stream.write(text)
                self.stream.flush()
            except (OSError, ValueError):  # a closed pipe, a full disk, or a closed stream
                self.is_broken = True
        return len(text)

    def flush(self) -> None:
        """Nothing is left to flush."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def quiet_streams() -> Iterator[None]:
    """Inside, printing never raises, and warnings and failed threads of other libraries are reported in one line each."""
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
    """Open the null device in place of a closed standard input, output or error: another file would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def say_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning in one line."""
    print(f"jaxpg: warning: {' '.join(str(message).split())}", file=sys.stderr)


def say_failure(failed: threading.ExceptHookArgs) -> None:
    """Print the exception that ended a thread, in one line."""
    name, why = failed.thread.name if failed.thread else "a thread", " ".join(str(failed.exc_value).split())[:160]
    print(f"jaxpg: warning: {name} failed: {failed.exc_type.__name__}: {why}", file=sys.stderr)


ABORT = b"Terminating process because the JAX distributed service detected fatal errors"
NOISE = (b"coordination_service", b"Additional GRPC error information", b":UNKNOWN:Error received from peer", b"[Gloo] Rank")


def watch_for_abort(end: Callable[[], object]) -> None:
    """Call ``end``, which must end the process, when JAX aborts it because process 0 was lost, in place of what JAX prints.

    JAX writes errors and the stack of a C++ thread to the file of standard error, and aborts; nothing can be set to prevent
    that. Therefore this file becomes a pipe, of which a thread copies the other lines, and a thread that aborts first sleeps
    for as many seconds as the number of its signal, 6. What C++ writes to the file of standard output goes there too.
    """
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc.sleep)
    screen, (source, pipe) = os.dup(2), os.pipe()
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.stream = os.fdopen(os.dup(number), "w", encoding=stream.encoding)  # pyright: ignore[reportAttributeAccessIssue]
        os.dup2(pipe, number)
    os.close(pipe)

    def copy() -> None:
        with open(source, "rb") as lines:
            for line in lines:
                if ABORT in line:
                    end()
                if not any(noise in line for noise in NOISE):
                    os.write(screen, line)

    threading.Thread(target=copy, name="standard error", daemon=True).start()


def silence(stream: TextIO) -> None:
    """Redirect a broken stream to the null device: Python flushes it once more at exit, which would print an error."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file, as in tests
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
