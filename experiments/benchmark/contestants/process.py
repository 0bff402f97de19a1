"""The side of the benchmark that asks: a contestant's process, and the virtual environment that it runs in."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SETTINGS = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several share a GPU
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what compilation takes is reported
}
GRACE = 2.0  # seconds that a contestant has to end


class Failed(Exception):
    """A contestant gives no number, and why."""


class Child:
    """It answers every order with one JSON object, and waits on its input in between."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self.timeout = timeout
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | SETTINGS,
            start_new_session=True,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.orders, self.lines = self.process.stdin, self.process.stdout
        self.answers: queue.Queue[str] = queue.Queue()
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self) -> None:
        """Every line to the queue; an empty one is the end."""
        for line in self.lines:
            self.answers.put(line)
        self.answers.put("")

    def answer(self) -> dict[str, Any]:
        """The next one; :class:`Failed` if there is none in time."""
        try:
            line = self.answers.get(timeout=self.timeout)
        except queue.Empty:
            raise Failed(f"no answer within {self.timeout:g} s; {self.last_words()}") from None
        if not line:
            raise Failed(self.last_words())
        return json.loads(line)

    def ask(self, order: str) -> dict[str, Any]:
        """The answer to ``order``."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            self.orders.write(f"{order}\n")
            self.orders.flush()
        return self.answer()

    def last_words(self) -> str:
        """The last line of its standard error."""
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"

    def close(self) -> None:
        """End it, and what it started: at the end of its input it cleans up and ends by itself."""
        with contextlib.suppress(OSError):
            self.orders.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=GRACE)
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.listener.join(timeout=10)
        for stream in (self.lines, self.errors):
            with contextlib.suppress(OSError):
                stream.close()


def environment(packages: str, directory: Path) -> str:
    """The interpreter of a virtual environment that holds what the file ``packages`` lists, made where it is not there yet."""
    wanted = (HERE / packages).read_text()
    place = directory / Path(packages).stem
    python, mark = place / "bin" / "python", place / "installed.txt"
    if not mark.exists() or mark.read_text() != wanted:
        print(f"installing {packages} into {place}", file=sys.stderr, flush=True)
        make = [sys.executable, "-m", "venv", "--clear", str(place)]
        install = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(HERE / packages)]
        for command in (make, install):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode:
                why = [line for line in done.stdout.splitlines() if line.startswith("ERROR")] or done.stdout.splitlines()
                raise Failed(f"{packages} cannot be installed: {(why or ['no reason given'])[-1]}")
        mark.write_text(wanted)
    return str(python)
