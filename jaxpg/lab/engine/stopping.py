"""How a run is asked to stop (SIGINT, SIGTERM, SIGUSR1, or by another process of its sweep), and who may write a directory."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
LOCK = ".lock"
SAVING = "finishing the updates in flight and saving"


class Stopped(BaseException):
    """The run was asked to stop, and has. ``code`` is what the process ends with: 128 + the signal.

    No ``Exception``, as ``KeyboardInterrupt`` is none: it may be raised anywhere, and nobody should take it for an error.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number
        self.then = ""  # what to say after it


class Stop:
    """Whether somebody asked to stop. A signal raises :class:`Stopped` where it comes, or after what must be finished first."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self.patience = ""  # what is being finished first

    def request(self, number: int) -> None:
        """Ask; who has work to save looks at ``number`` between chunks."""
        self.number = self.number or number

    def check(self) -> None:
        """Raise :class:`Stopped` if somebody asked."""
        if self.number:
            raise Stopped(self.number)

    @contextlib.contextmanager
    def patiently(self, what: str = SAVING) -> Iterator[None]:
        """``what`` must be finished inside: signals are only noted. They are answered at the end, if not before."""
        self.patience = what
        try:
            yield
        finally:
            self.patience = ""
        self.check()

    def imports(self, *rooms: str) -> None:
        """Import modules of the lab. Signals wait for that: C extensions do not survive what is raised while they load."""
        with self.patiently("stopping once everything is imported"):
            for room in rooms:
                importlib.import_module(f"jaxpg.lab.{room}")


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Signals ask to stop; a second Ctrl-C ends the process at once, even from within a compilation.

    Python tells the main thread of a signal only when that comes back from what it is in; a thread of its own hears it at once.
    """
    stop = Stop()
    heard, said = os.pipe()
    os.set_blocking(said, False)

    def note(number: int, _: FrameType | None) -> None:
        stop.request(number)
        if not stop.patience:
            stop.check()

    def listen() -> None:
        interrupts = 0
        while number := os.read(heard, 1):
            if number[0] == signal.SIGINT:
                interrupts += 1
            if interrupts > 1:
                os.write(2, b"\njaxpg: stopped at once; what was announced as saved is on the disk\n")
                os._exit(128 + signal.SIGINT)
            if stop.patience and number[0] in SIGNALS:
                os.write(2, f"\njaxpg: {stop.patience}; Ctrl-C (again) stops at once\n".encode())

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    wakeup = signal.set_wakeup_fd(said, warn_on_full_buffer=False)
    before: dict[int, Any] = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(said)
        thread.join()
        os.close(heard)


@contextlib.contextmanager
def alone(directory: Path, name: str = LOCK) -> Iterator[None]:
    """Nobody else writes ``directory`` meanwhile: ``ValueError`` if somebody does. The lock ends with the process, however."""
    with open(directory / name, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"run_dir = {directory} is being written by another process; wait for it, or stop it") from None
        yield
