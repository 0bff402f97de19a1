"""How training is asked to stop: by SIGINT, SIGTERM, SIGHUP or SIGUSR1, or by another process of its experiment."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
TWICE = 0.5  # seconds within which two signals are one: some programs send each of theirs to the process and to its group
SAVING = "finishing the updates in flight and saving"


class Stopped(BaseException):
    """Training was asked to stop, and has. ``code`` is what the process ends with: 128 + the signal; 1 where it was not saved.

    No ``Exception``, as ``KeyboardInterrupt`` is none: it may be raised anywhere, and nobody should take it for an error.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.code, self.then = number, 128 + number, ""  # ``then``: what to say after it

    def fail(self, why: str) -> None:
        """Take note that what was to be saved first could not be."""
        self.code, self.then = 1, why


class Stop:
    """Whether somebody asked to stop. A signal raises ``Stopped`` where it comes, or after what must be finished first."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self.patience = ""  # what is being finished first

    def request(self, number: int) -> None:
        """Ask; who has work to save looks at ``number`` between chunks."""
        self.number = self.number or number

    def check(self) -> None:
        """Raise ``Stopped`` if somebody asked."""
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

    def import_modules(self, *names: str) -> None:
        """Import modules of the lab. Signals wait for that: C extensions do not survive what is raised while they load."""
        with self.patiently("stopping once everything is imported"):
            for name in names:
                importlib.import_module(f"jaxpg.lab.{name}")


@contextlib.contextmanager
def listen(*, hard: bool = True) -> Iterator[Stop]:
    """Signals ask to stop; a second Ctrl-C ends the process at once, even from within a compilation, unless ``hard`` is false.

    Python tells the main thread of a signal only when that comes back from what it is in; a thread of its own hears it at once.
    In any other thread than the main one, which alone may handle signals, nothing is changed and only others ask to stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    stop = Stop()
    heard, said = os.pipe()
    os.set_blocking(said, False)

    def note(number: int, _: FrameType | None) -> None:
        stop.request(number)
        if not stop.patience:
            stop.check()

    def hear() -> None:
        first = math.inf
        while number := os.read(heard, 1):
            now = time.monotonic()
            if number[0] == signal.SIGINT and hard and now - first > TWICE:
                tell("stopped at once; what was reported as saved is on the disk")
                os._exit(128 + signal.SIGINT)
            if number[0] == signal.SIGINT:
                first = min(first, now)
            if stop.patience and number[0] in SIGNALS:
                tell(f"{stop.patience}; Ctrl-C (again) stops at once" if hard else stop.patience)

    thread = threading.Thread(target=hear, name="signals", daemon=True)
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


def tell(text: str) -> None:
    """A line on standard error from another thread, if there is anybody to read it."""
    with contextlib.suppress(OSError):  # a closed pipe, a full disk: nothing depends on the line
        os.write(2, f"\njaxpg: {text}\n".encode())
