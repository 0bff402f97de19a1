"""Several processes that share a sweep: who they are, and what happens when one of them is gone.

Processes exchange nothing but files in the run directory, which all of them must see. JAX's distributed runtime gives each its
number (SLURM, Kubernetes, Open MPI and TPU pods are found by it) and its devices. The coordinator has **no authentication**:
whoever reaches its port can take part. It listens on the address that is named and no other: name one of a private network.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax

SIGNS = ".alive"  # in the run directory: a file for each process, touched every second as long as it lives
PATIENCE = 6  # times the silence after which others are given up: what a process itself may take from one log point to the next
ADDRESS = re.compile(r"(?P<address>.+:\d+),(?P<count>\d+),(?P<index>\d+)")


@dataclasses.dataclass(frozen=True)
class Place:
    """Process ``index`` of ``count``; given up by the others after ``silence`` seconds without a sign of life."""

    index: int = 0
    count: int = 1
    silence: float = 100.0

    def share(self, total: int) -> range:
        """This process's share of ``total`` things: consecutive ones, and the same whatever is finished already.

        >>> [Place(i, 3).share(8) for i in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]
        """
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)


def parse(where: str) -> tuple[str, int, int] | None:
    """``HOST:PORT,COUNT,INDEX`` in its parts; ``None`` for ``auto``.

    >>> parse("10.0.0.1:1234,2,0")
    ('10.0.0.1:1234', 2, 0)
    """
    if where == "auto":
        return None
    found = ADDRESS.fullmatch(where)
    if not found or not int(found["index"]) < int(found["count"]):
        mend = "HOST:PORT,COUNT,INDEX with INDEX from 0 to COUNT - 1, e.g. 10.0.0.1:1234,2,0"
        raise ValueError(f"distributed = {where} must be auto or {mend}")
    return found["address"], int(found["count"]), int(found["index"])


def join(where: str, silence: float) -> Place:
    """Take part in the processes at ``where`` (see :func:`parse`). Call it before JAX looks for devices.

    ``ValueError`` if nothing was found to take part in, or the others did not come within ``silence`` seconds.
    """
    named = parse(where)
    times: dict[str, Any] = {
        "initialization_timeout": max(int(silence), 1),
        "heartbeat_timeout_seconds": max(int(2 * silence), 2),
    }
    try:
        if named is None:
            jax.distributed.initialize(**times)
        else:
            address, count, index = named
            jax.distributed.initialize(address, count, index, coordinator_bind_address=address, **times)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"distributed = {where}: no other processes within {silence:g} s: {reason}") from None
    return Place(jax.process_index(), jax.process_count(), silence)


class Watch:
    """Tells the others that this process lives, ends it when one of them does not, or when it does not get on itself.

    A context manager. ``alive()`` says that this process got on: without it for ``PATIENCE`` times ``silence`` the process
    dumps the stack of every thread and ends with exit code 1, even from within a call that never returns. So it does, after a
    line that says why, when another process gave no sign of life for ``silence`` seconds.
    """

    def __init__(self, directory: Path, place: Place) -> None:
        self.place = place
        folder = directory / SIGNS
        folder.mkdir(exist_ok=True)
        self.own = folder / str(place.index)
        self.others = {i: folder / str(i) for i in range(place.count) if i != place.index}
        self.directory, self.over = directory, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self) -> Watch:
        self.alive()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """This process got on."""
        faulthandler.dump_traceback_later(PATIENCE * self.place.silence, exit=True)

    def look(self) -> None:
        """Touch the own file and look at the others' every second. By change, not by time: clocks of hosts differ."""
        seen = {i: (touched(path), time.monotonic()) for i, path in self.others.items()}
        while not self.over.wait(1.0):
            self.own.touch()
            for i, path in self.others.items():
                stamp, since = touched(path), time.monotonic()
                if stamp != seen[i][0]:
                    seen[i] = stamp, since
                elif since - seen[i][1] > self.place.silence:
                    self.give_up(i)

    def give_up(self, lost: int) -> None:
        """End this process, with the stack of every thread."""
        faulthandler.dump_traceback(all_threads=True)
        sys.stderr.write(
            f"jaxpg: error: process {lost} of {self.place.count} gave no sign of life for {self.place.silence:g} s; "
            f"what is finished is in {self.directory}, the same command does the rest\n"
        )
        sys.stderr.flush()
        os._exit(1)


def touched(path: Path) -> int | None:
    """When ``path`` was last touched, by the clock of its disk; ``None`` if it never was."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
