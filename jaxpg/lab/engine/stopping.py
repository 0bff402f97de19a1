"""Requests to stop training: SIGINT, SIGTERM, SIGHUP and SIGUSR1, or another process of the experiment."""

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
TWICE = 0.5  # seconds within which two signals count as one: some programs signal both the process and its group
SAVING = "finishing the updates in flight and saving"


class Stopped(BaseException):
    """Training stopped on request. ``code`` is the exit code of the process: 128 + the signal; 1 if saving failed.

    Like ``KeyboardInterrupt`` it is not an ``Exception``, because it can be raised anywhere and must not be caught as an error.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.code, self.then = number, 128 + number, ""  # ``then``: what to print after it

    def fail(self, why: str) -> None:
        """Record that saving failed, and why."""
        self.code, self.then = 1, why


class Stop:
    """Whether training was asked to stop. A signal raises ``Stopped`` at once, or after a section that must be finished."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal, 0 if there was none
        self.patience = ""  # the section that must be finished

    def request(self, number: int) -> None:
        """Ask training to stop. It checks ``number`` between chunks, so that it can save first."""
        self.number = self.number or number

    def check(self) -> None:
        """Raise ``Stopped`` if training was asked to stop."""
        if self.number:
            raise Stopped(self.number)

    @contextlib.contextmanager
    def patiently(self, what: str = SAVING) -> Iterator[None]:
        """Delay signals until the section inside is finished, or checks for them; ``what`` describes it."""
        self.patience = what
        try:
            yield
        finally:
            self.patience = ""
        self.check()

    def import_modules(self, *names: str) -> None:
        """Import modules of the lab. Signals are delayed, because an exception while a C extension loads would break it."""
        with self.patiently("stopping once everything is imported"):
            for name in names:
                importlib.import_module(f"jaxpg.lab.{name}")


@contextlib.contextmanager
def listen(*, hard: bool = True) -> Iterator[Stop]:
    """Let signals ask training to stop. With ``hard``, a second Ctrl-C ends the process at once, even during a compilation.

    Python handles signals in the main thread, and only after the running C call; therefore another thread listens as well.
    Called from a thread other than the main one, which cannot handle signals, it changes nothing.
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
    """Print a line on standard error, from any thread."""
    with contextlib.suppress(OSError):  # a closed pipe or a full disk must not stop training
        os.write(2, f"\njaxpg: {text}\n".encode())
