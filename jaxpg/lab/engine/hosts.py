"""One experiment computed by several processes, on one host or on several, each with its own devices.

All processes run the same program on one global mesh (``jax.distributed``). Process 0 decides everything that depends on a
clock, on a signal or on the disk, and alone writes; the others get its decisions from the key-value store of JAX's coordinator,
which needs no device. Every process reports once a second that it is alive: the coordinator notices a lost process only after
minutes, and then aborts the others with the stack of a C++ thread.

The coordinator has **no authentication**: anyone who reaches its port can take part. It listens on ``HOST:PORT`` only; with
``auto`` on all addresses of its host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
from jax._src.distributed import global_state  # no public API gives the key-value store of the coordinator

import jaxpg
from jaxpg.core.hparams import printable, shown
from jaxpg.lab.engine import stopping
from jaxpg.lab.store.files import storable

START = 300  # seconds that the processes may take until all of them have started
SILENCE = 15  # seconds without a sign of life after which a process counts as lost
PATIENCE = 600  # seconds that training may take from one chunk of updates to the next
FAREWELL = 5  # seconds after the end of a process, in which the others may end by themselves
KEPT = "everything saved is kept; start the same command again to continue"


@dataclasses.dataclass(frozen=True)
class Place:
    """Process ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"process {self.index} of {self.count}"


def join(address: str, place: Place) -> None:
    """Connect to the other processes at ``HOST:PORT``, or where JAX detects them (``auto``, for which ``place`` is not used).

    Call it before JAX looks for devices; ``ValueError`` of one line if it fails. Ends this process, with one line and exit code
    2, if the others do not start within ``START`` seconds, because JAX waits for them in a call that cannot be interrupted, and
    then aborts.
    """
    where = f"coordinator = {address}"
    reason = f"{where}: not all processes started within {START} s; start all of them at about the same time"
    late = threading.Timer(START, end, (reason, 2))
    late.daemon = True
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM
    if jax.config.jax_num_cpu_devices < 0:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_num_cpu_devices", 1)  # several in each process wait for each other for ever
    times: dict[str, Any] = {"initialization_timeout": START + 60, "shutdown_timeout_seconds": START}
    late.start()
    try:
        if address == "auto":
            jax.distributed.initialize(**times)
        else:
            if place.index == 0:
                check_free(address)
            jax.distributed.initialize(address, place.count, place.index, coordinator_bind_address=address, **times)
        check_same("start", {"processes": own_place().count, "jaxpg": jaxpg.__version__, "jax": jax.__version__})
    except (OSError, RuntimeError, ValueError) as error:
        fix = "" if jax.distributed.is_initialized() or address != "auto" else "; where JAX detects no cluster, give HOST:PORT"
        raise ValueError(f"{where}: {' '.join(str(error).split())[:200].rstrip('.')}{fix}") from None
    finally:
        late.cancel()


def check_free(address: str) -> None:
    """Raise ``OSError`` if nothing can listen on ``HOST:PORT``, where JAX may crash."""
    host, _, port = address.rpartition(":")
    family, _, _, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    with contextlib.closing(socket.create_server(place[:2], family=family)):  # pyright: ignore[reportArgumentType]
        pass


def own_place() -> Place:
    """The place of this process, as JAX knows it without looking for devices."""
    return Place(global_state.process_id, global_state.num_processes)


def check_same(name: str, values: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, in every process, if one of them has other ``values``."""
    own = json.loads(json.dumps(storable(values)))
    for index, other in enumerate(exchange(name, own)):
        different = next((key for key in own if other.get(key) != own[key]), None)
        if different:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 ends last, because the others read from it
                client().wait_at_barrier(f"jaxpg/{name}", 5000)
            both = f"{different} = {shown(own[different])} in this process and {shown(other.get(different))} in process {index}"
            raise ValueError(f"{both}; start all processes with the same command and the same versions")


def exchange(name: str, value: Any) -> Iterator[Any]:
    """The ``value`` of each process, in all of them."""
    place = own_place()
    client().key_value_set(f"jaxpg/{name}/{place.index}", json.dumps(value))
    return (receive(f"jaxpg/{name}/{index}") for index in range(place.count))


def client() -> Any:
    """The client of JAX's coordinator."""
    return global_state.client


def receive(key: str) -> Any:
    """Wait for the value of ``key``, in short calls, because Python handles no signal during a call.

    If the process that sends it is lost, the watch ends this process.
    """
    while True:
        try:
            return json.loads(client().blocking_key_value_get(key, 1000))
        except jax.errors.JaxRuntimeError:  # not yet
            time.sleep(0.1)
        if _open and not _open[-1].stop.patience:
            _open[-1].stop.check()


class Watch:
    """The signs of life of the processes of an experiment. A context manager.

    The sign of a process is the number of its ``beat``, the signal ``stop`` that asks for the end of training, and the line
    that says why it has ``left``. Two threads: one exchanges signs with the coordinator and may block, the other decides.
    """

    def __init__(self, place: Place, stop: stopping.Stop, end: Callable[[str, int], None], name: str) -> None:
        self.place, self.stop, self.end, self.name = place, stop, end, name
        self.sign: dict[str, Any] = {"beat": 0, "stop": 0, "left": None, "code": 0}
        self.signs: dict[int, dict[str, Any]] = {}
        self.looks = {index: (0, 0) for index in range(place.count) if index != place.index}
        self.deadline = math.inf  # of the next chunk of updates
        self.counter = itertools.count()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.beat, self.watch)]

    def beat(self) -> None:
        """Send our sign and receive those of the others, every second."""
        while not self.over.wait(1.0):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone: no beat is heard
                self.send()
                self.hear()

    def send(self) -> None:
        """Send our sign."""
        self.sign |= {"beat": self.sign["beat"] + 1, "stop": self.stop.number}
        client().key_value_set(f"jaxpg/{self.name}/signs/{self.place.index}", json.dumps(self.sign), True)

    def hear(self) -> None:
        """Receive the signs of all processes. If one was asked to stop, so are we."""
        signs = client().key_value_dir_get(f"jaxpg/{self.name}/signs/")
        self.signs = {int(key.rpartition("/")[2]): json.loads(value) for key, value in signs}
        for sign in self.signs.values():
            if sign["stop"]:
                self.stop.request(sign["stop"])

    def watch(self) -> None:
        """Look once a second, and end this process if it cannot continue."""
        while not self.over.wait(1.0):
            if why := self.look(time.monotonic()):
                self.end(*why)

    def look(self, now: float) -> tuple[str, int] | None:
        """Why this process cannot continue, and its exit code.

        Counts looks without a beat, because the clocks of hosts differ, and a process that was suspended counts none.
        """
        for index, (beat, looks) in self.looks.items():
            sign = self.signs.get(index, {"beat": 0, "left": None})
            has_left, silence = sign["left"] is not None, SILENCE if sign["beat"] else START
            more = 2 * (self.place.index == 0)  # process 0 ends last, because the others learn from it which one was lost
            looks = looks + 1 if sign["beat"] == beat or has_left else 0
            self.looks[index] = sign["beat"], looks
            other = Place(index, self.place.count)
            if sign["left"] and looks > FAREWELL + more:
                return f"{other} ended: {sign['left']}", sign["code"]
            if not has_left and looks > silence + more:
                return f"{other} was lost, without a sign of life for {silence} s; {KEPT}", 1
        if now > self.deadline:
            return f"this process, {self.place}, made no progress for {PATIENCE} s; {KEPT}", 1
        return None

    def expect(self, seconds: float = PATIENCE) -> None:
        """End this process if this is not called again within ``seconds``."""
        self.deadline = time.monotonic() + seconds

    def __enter__(self) -> Self:
        self.send()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self.deadline = math.inf
        if error is not None and is_of_another(error):
            time.sleep(SILENCE + FAREWELL)  # the watch finds out which one was lost, and ends this process
        self.over.set()
        for thread in self.threads:
            thread.join(FAREWELL)
        left, code = describe(error)
        self.sign |= {"left": left, "code": code}
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone, and nobody is left to tell
            self.send()
            if error is not None and self.place.index == 0:
                self.wait_for_others()

    def wait_for_others(self) -> None:
        """Wait until the others know that process 0 ends, because the coordinator ends with it."""
        for _ in range(2 * FAREWELL):
            self.hear()
            self.look(0.0)
            is_gone = [
                self.signs.get(index, {}).get("left") is not None or looks > FAREWELL // 2
                for index, (_, looks) in self.looks.items()
            ]
            if all(is_gone):
                return
            time.sleep(1.0)


def is_of_another(error: BaseException) -> bool:
    """Whether the cause of an error may be that another process was lost: a collective operation failed."""
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def describe(error: BaseException | None) -> tuple[str, int]:
    """What the other processes say if this one ends with ``error``, and their exit code; nothing if all is well."""
    if error is None:
        return "", 0
    if isinstance(error, stopping.Stopped):
        return f"it was asked to stop ({error}); {KEPT}", error.code
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return printable(text), getattr(error, "code", 2 if isinstance(error, ValueError) else 1)


def end(reason: str, code: int) -> None:
    """End this process at once, with one line that says why."""
    with contextlib.suppress(OSError, ValueError):  # a closed pipe must not keep the process alive
        sys.stderr.write(f"jaxpg: error: {reason}\n")
        sys.stderr.flush()
    os._exit(code)


def end_without_first() -> None:
    """End this process because JAX is about to abort it: the coordinator is gone, and with it process 0."""
    end(f"{Place(0, own_place().count)} was lost; {KEPT}", 1)


_open: list[Watch] = []  # the watch of the experiment that is computed together
_names = map(str, itertools.count())


@contextlib.contextmanager
def together(stop: stopping.Stop) -> Iterator[None]:
    """Compute an experiment together with the other processes, if there are any; all of them must enter and leave it.

    ``ValueError`` if JAX is not ready for it.
    """
    if not jax.distributed.is_initialized() or own_place().count == 1:
        yield
        return
    with Watch(own_place(), stop, end, next(_names)) as watch:
        _open.append(watch)
        try:
            if jax.local_devices()[0].platform == "cpu" and jax.local_device_count() > 1:
                many = f"JAX_NUM_CPU_DEVICES = {jax.local_device_count()} must be 1 where several processes compute together"
                raise ValueError(f"{many}; start more processes")
            yield
        finally:
            _open.pop()


def place() -> Place:
    """The place of this process among those that compute the experiment."""
    return _open[-1].place if _open else Place()


def agree(decide: Callable[[], Any]) -> Any:
    """What process 0 decides, in all processes: plain data for JSON. The others do not call ``decide``.

    All processes must call it in the same order.
    """
    if not _open:
        return decide()
    watch = _open[-1]
    number = next(watch.counter)
    key = f"jaxpg/{watch.name}/decisions/{number}"
    if watch.place.index:
        return receive(key)
    decision = decide()
    client().key_value_set(key, json.dumps(decision))
    if number >= 100:  # all have read it: each chunk of updates ends with a collective operation
        client().key_value_delete(f"jaxpg/{watch.name}/decisions/{number - 100}")
    return decision


def gather(value: Any) -> list[Any]:
    """The ``value`` of each process, in all of them: plain data for JSON."""
    if not _open:
        return [value]
    return list(exchange(f"{_open[-1].name}/gathered/{next(_open[-1].counter)}", value))


def count_here() -> int:
    """The number of processes on this host."""
    return gather(platform.node()).count(platform.node())


def wait_for_file(path: Path) -> None:
    """Wait until this host sees a file that process 0 has written; ``ValueError`` if it does not."""
    deadline = time.monotonic() + START
    while not path.exists():
        if time.monotonic() > deadline:
            raise ValueError(f"{printable(path)}, which process 0 wrote, is not here; all processes must see the same disk")
        time.sleep(0.1)


def check_command(values: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, in every process, if they do not compute the same experiment."""
    if _open:
        check_same(f"{_open[-1].name}/command", values)


def expect_progress(is_training: bool) -> None:
    """Say that training makes progress, or that something else begins, which may take any time."""
    if _open:
        _open[-1].expect(PATIENCE if is_training else math.inf)
