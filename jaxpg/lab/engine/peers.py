"""Several processes that share a sweep: how they get their numbers, and what happens when one of them is lost.

Processes communicate only through files in the run directory, which all of them must see. JAX's distributed runtime gives each
process its number (it detects SLURM, Kubernetes, Open MPI and TPU pods) and is shut down at once: then each process uses JAX
alone. The coordinator has **no authentication**: anyone who reaches its port while the processes connect can take part. It
listens only on the given address (with ``auto``: on all addresses of the host), so give an address of a private network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import jax
from jax._src.distributed import global_state  # no public API gives the process number before JAX looks for devices

from jaxpg.lab.engine.stopping import Stop

SIGNS = ".alive"  # a folder of the run directory: a file for each process, which it touches as long as it is alive
PATIENCE = 6  # a process may take this many times the silence from one log point to the next
ADDRESS = re.compile(r"(?P<address>\S+:(?P<port>\d{1,5})),(?P<count>\d+),(?P<index>\d+)")


@dataclasses.dataclass(frozen=True)
class Place:
    """Process ``index`` of ``count``. The others count it as lost after ``silence`` seconds without a sign of life."""

    index: int = 0
    count: int = 1
    silence: float = 100.0

    def share(self, total: int) -> range:
        """The share of this process of ``total`` items: consecutive ones, independent of which are already finished.

        >>> [Place(i, 3).share(8) for i in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]
        """
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)


def parse(where: str) -> tuple[str, int, int] | None:
    """Split ``HOST:PORT,COUNT,INDEX`` into its parts; ``None`` for ``auto``.

    >>> parse("10.0.0.1:1234,2,0")
    ('10.0.0.1:1234', 2, 0)
    """
    if where == "auto":
        return None
    found = ADDRESS.fullmatch(where)
    if not found or not int(found["index"]) < int(found["count"]) or not 0 < int(found["port"]) < 2**16:
        form = "HOST:PORT,COUNT,INDEX with INDEX from 0 to COUNT - 1, e.g. 10.0.0.1:1234,2,0"
        raise ValueError(f"distributed = {where} must be auto or {form}")
    return found["address"], int(found["count"]), int(found["index"])


def join(where: str, silence: float) -> Place:
    """Connect to the processes at ``where`` (see ``parse``) to get our number. Call it before JAX looks for devices.

    ``ValueError`` if the connection fails. Ends this process, with one line and exit code 2, if the others did not start within
    ``silence`` seconds, because JAX waits for them in a call that cannot be interrupted, and then aborts.
    """
    named = parse(where)
    fix = "start all of them at about the same time, or allow more time with --silence"
    reason = f"distributed = {where}: the other processes did not start within {silence:g} s; {fix}"
    late = threading.Timer(silence, end, (reason, 2))
    late.daemon = True
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM
    times: dict[str, Any] = {name: int(silence) + 60 for name in ("initialization_timeout", "shutdown_timeout_seconds")}
    late.start()
    try:
        if named is None:
            jax.distributed.initialize(**times)
        else:
            address, count, index = named
            if index == 0:
                check_free(address)
            jax.distributed.initialize(address, count, index, coordinator_bind_address=address, **times)
        jax.distributed.shutdown()  # before JAX looks for devices: so it uses only our own, and survives the others
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"distributed = {where}: {' '.join(str(error).split())[:160]}") from None
    finally:
        late.cancel()
    place = Place(global_state.process_id, global_state.num_processes, silence)
    global_state.process_id, global_state.num_processes = 0, 1  # otherwise orbax would wait for the others at each checkpoint
    return place


def check_free(address: str) -> None:
    """Raise ``OSError`` if nothing can listen on ``HOST:PORT``, where JAX may crash."""
    host, _, port = address.rpartition(":")
    family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    with contextlib.closing(socket.create_server(place[:2], family=family)):  # pyright: ignore[reportArgumentType]
        pass


def end(reason: str, code: int) -> None:
    """End this process at once, with one line that says why."""
    sys.stderr.write(f"jaxpg: error: {reason}\n")
    sys.stderr.flush()
    os._exit(code)


class Watch:
    """Heartbeat of this process, and a watch over the others.

    A context manager. Call ``alive()`` whenever this process makes progress: if it is not called for ``PATIENCE`` times
    ``silence`` seconds, the process prints the stack of every thread and ends with exit code 1, even inside a call that never
    returns. It also ends if another process gives no sign of life for ``silence`` seconds. Processes stop together: a process
    that was asked to stop touches a file; the others see it, request a ``stop`` too, save and end.
    """

    def __init__(self, directory: Path, place: Place, stop: Stop) -> None:
        self.place, self.stop = place, stop
        folder = directory / SIGNS
        folder.mkdir(exist_ok=True)
        self.own = folder / str(place.index)
        self.others = {i: folder / str(i) for i in range(place.count) if i != place.index}
        self.word = folder / "stop"
        self.heard = read_mtime(self.word)  # a file from an earlier start does not count
        self.directory, self.over = directory, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self) -> Watch:
        self.own.write_text(str(self.place.count))
        self.alive()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        if self.stop.number and read_mtime(self.word) == self.heard:
            self.word.touch()
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """Report that this process makes progress."""
        faulthandler.dump_traceback_later(PATIENCE * self.place.silence, exit=True)

    def look(self) -> None:
        """Touch the file of this process and look at those of the others, at least once a second.

        Counts looks without a change instead of comparing times, because the clocks of hosts differ, and because a process that
        was suspended itself must not count the others as lost.
        """
        pace = min(1.0, self.place.silence / 5)
        seen = {i: (read_mtime(path), 0) for i, path in self.others.items()}
        while not self.over.wait(pace):
            self.own.touch()
            if read_mtime(self.word) != self.heard:
                self.stop.request(signal.SIGTERM)
            for i, path in self.others.items():
                (before, looks), stamp = seen[i], read_mtime(path)
                seen[i] = stamp, looks + 1 if stamp == before else 0
                if stamp != before and path.read_text() not in ("", str(self.place.count)):
                    said = f"process {i} counts {path.read_text()} processes and this one {self.place.count}"
                    end(f"{said}; start all of them with the same --distributed", 2)
                if seen[i][1] * pace > self.place.silence:
                    self.give_up(i)

    def give_up(self, lost: int) -> None:
        """End this process because another one is lost; print the stack of every thread."""
        faulthandler.dump_traceback(all_threads=True)
        missed = f"process {lost} of {self.place.count} gave no sign of life for {self.place.silence:g} s"
        end(f"{missed}; finished work is in {self.directory}; start the same command again to continue", 1)


def read_mtime(path: Path) -> int | None:
    """When ``path`` was last touched, by the clock of its disk; ``None`` if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
