"""Several processes that share a sweep: who they are, and what happens when one of them is gone.

Processes exchange nothing but files in the run directory, which all of them must see. JAX's distributed runtime gives each its
number (SLURM, Kubernetes, Open MPI and TPU pods are found by it) and is left at once: each has a JAX of its own.
The coordinator has **no authentication**: anyone who reaches its port while the processes meet can take part. It listens on the
address that is named and no other (with ``auto``: on all of the host): name one of a private network.
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
from jax._src.distributed import global_state  # no public name says who one is before the devices are looked for

from jaxpg.lab.engine.stopping import Stop

SIGNS = ".alive"  # in the run directory: a file for each process, touched again and again as long as it lives
PATIENCE = 6  # times the silence after which others are given up: what a process itself may take from one log point to the next
ADDRESS = re.compile(r"(?P<address>\S+:(?P<port>\d{1,5})),(?P<count>\d+),(?P<index>\d+)")


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
    if not found or not int(found["index"]) < int(found["count"]) or not 0 < int(found["port"]) < 2**16:
        form = "HOST:PORT,COUNT,INDEX with INDEX from 0 to COUNT - 1, e.g. 10.0.0.1:1234,2,0"
        raise ValueError(f"distributed = {where} must be auto or {form}")
    return found["address"], int(found["count"]), int(found["index"])


def join(where: str, silence: float) -> Place:
    """Agree with the processes at ``where`` (see ``parse``) who is who. Call it before JAX looks for devices.

    ``ValueError`` if there is nothing to take part in. Ends this process, with one line and exit code 2, if the others did not
    come within ``silence`` seconds: JAX waits for them in a call that no exception leaves, and would abort.
    """
    named = parse(where)
    fix = "start all of them at about the same time, or allow for more with --silence"
    reason = f"distributed = {where}: the others did not come within {silence:g} s; {fix}"
    late = threading.Timer(silence, end, (reason, 2))
    late.daemon = True
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
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
        jax.distributed.shutdown()  # before there are devices: they are this process's alone, and no loss of another aborts it
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"distributed = {where}: {' '.join(str(error).split())[:160]}") from None
    finally:
        late.cancel()
    place = Place(global_state.process_id, global_state.num_processes, silence)
    global_state.process_id, global_state.num_processes = 0, 1  # or orbax would wait for the others with every checkpoint
    return place


def check_free(address: str) -> None:
    """``OSError`` if nothing can listen on ``HOST:PORT``: JAX may crash where it cannot."""
    host, _, port = address.rpartition(":")
    family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    with contextlib.closing(socket.create_server(place[:2], family=family)):  # pyright: ignore[reportArgumentType]
        pass


def end(reason: str, code: int) -> None:
    """End this process at once, whatever it does, with one line that says why."""
    sys.stderr.write(f"jaxpg: error: {reason}\n")
    sys.stderr.flush()
    os._exit(code)


class Watch:
    """Tells the others that this process lives, ends it when one of them does not, or when it does not get on itself.

    A context manager. ``alive()`` says that this process got on: without it for ``PATIENCE`` times ``silence`` the process
    dumps the stack of every thread and ends with exit code 1, even from within a call that never returns. So it does, after a
    line that says why, when another process gave no sign of life for ``silence`` seconds. Processes stop together: one that was
    asked to leaves word for the others, who ask themselves to ``stop``, save and end in the same way.
    """

    def __init__(self, directory: Path, place: Place, stop: Stop) -> None:
        self.place, self.stop = place, stop
        folder = directory / SIGNS
        folder.mkdir(exist_ok=True)
        self.own = folder / str(place.index)
        self.others = {i: folder / str(i) for i in range(place.count) if i != place.index}
        self.word = folder / "stop"
        self.heard = touched(self.word)  # what was left there before is no word for us
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
        if self.stop.number and touched(self.word) == self.heard:
            self.word.touch()
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """This process got on."""
        faulthandler.dump_traceback_later(PATIENCE * self.place.silence, exit=True)

    def look(self) -> None:
        """Touch the own file and look at the others', every second or more often.

        Judges by change, since the clocks of hosts differ, and counts looks: a process that was itself suspended blames nobody.
        """
        pace = min(1.0, self.place.silence / 5)
        seen = {i: (touched(path), 0) for i, path in self.others.items()}
        while not self.over.wait(pace):
            self.own.touch()
            if touched(self.word) != self.heard:
                self.stop.request(signal.SIGTERM)
            for i, path in self.others.items():
                (before, looks), stamp = seen[i], touched(path)
                seen[i] = stamp, looks + 1 if stamp == before else 0
                if stamp != before and path.read_text() not in ("", str(self.place.count)):
                    said = f"process {i} counts {path.read_text()} processes and this one {self.place.count}"
                    end(f"{said}; start all of them with the same --distributed", 2)
                if seen[i][1] * pace > self.place.silence:
                    self.give_up(i)

    def give_up(self, lost: int) -> None:
        """End this process, with the stack of every thread."""
        faulthandler.dump_traceback(all_threads=True)
        missed = f"process {lost} of {self.place.count} gave no sign of life for {self.place.silence:g} s"
        end(f"{missed}; what is finished is in {self.directory}, the same command does the rest", 1)


def touched(path: Path) -> int | None:
    """When ``path`` was last touched, by the clock of its disk; ``None`` if it never was."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
