"""Standard output and error that may be closed or full: text that cannot be written is dropped, and training continues."""

from __future__ import annotations

import atexit
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


class AbortFilter:
    """Call ``end``, which must end the process, when JAX aborts it because process 0 was lost, in place of what JAX prints.

    JAX writes errors and the stack of a C++ thread to the file of standard error, and aborts; nothing can be set to prevent
    that. Therefore this file becomes a pipe, of which a thread copies the other lines, and a thread that aborts first sleeps
    for as many seconds as the number of its signal, 6. What C++ writes to the file of standard output goes there too.
    """

    def __init__(self, end: Callable[[], object]) -> None:
        self.end, self.code = end, 0  # the exit code, once ``leave`` was called
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGABRT, libc.sleep)
        self.files, (self.source, pipe) = {1: os.dup(1), 2: os.dup(2)}, os.pipe()
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            ours = os.fdopen(self.files[number], "w", encoding=stream.encoding, closefd=False)
            stream.stream = ours  # pyright: ignore[reportAttributeAccessIssue] - it is a Tolerant
            os.dup2(pipe, number)
        os.close(pipe)
        self.thread = threading.Thread(target=self.copy, name="standard error", daemon=True)
        self.thread.start()

    def copy(self) -> None:
        """Copy lines until nothing has the pipe open."""
        with open(self.source, "rb") as lines:
            for line in lines:
                if ABORT in line and self.code:  # all processes end, and process 0 was faster
                    os._exit(self.code)
                if ABORT in line:
                    self.end()
                if not any(noise in line for noise in NOISE):
                    os.write(self.files[2], line)

    def leave(self, code: int) -> None:
        """End the process with ``code`` when Python exits: JAX would wait there for processes that may be lost."""

        def leave() -> None:
            for number, file in self.files.items():
                os.dup2(file, number)
            self.thread.join(5)
            os._exit(code)

        self.code = code
        atexit.register(leave)


def silence(stream: TextIO) -> None:
    """Redirect a broken stream to the null device: Python flushes it once more at exit, which would print an error."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file, as in tests
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
