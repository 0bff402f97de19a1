"""Workers on a Ray cluster, or on a Ray of this machine alone, which listens on the loopback only."""

from __future__ import annotations

import logging
import math
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpg.core.hparams import printable, shown, unknown_name
from jaxpg.lab.engine import devices
from jaxpg.lab.engine.packing import Outcome, Packed, pack
from jaxpg.lab.engine.stopping import Stop

if TYPE_CHECKING:
    from jaxpg.lab.engine.launch import Task, Train

RETRIES = 10  # times that a task is repeated whose worker, or node, was lost
AHEAD = 4  # tasks handed to Ray for each that can run, so that a worker never waits
FAREWELL = 60.0  # seconds that workers have to save after a stop
OPTIONS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # of a task, and what a node calls them
STORE_BYTES = 2**27  # of the object store of a Ray of our own: tasks and outcomes are a few hundred bytes


class Ray:
    """A Ray cluster: the one at ``address`` (``auto``, or ``HOST:PORT``), or one on this machine, for this process only.

    ``resources`` of each worker are those of ``ray.remote``: ``num_cpus``, ``num_gpus``, ``memory`` in bytes, and others by the
    names that the cluster gives them. By default a worker has one GPU if the cluster has any, else one CPU.
    """

    def __init__(self, address: str, resources: Mapping[str, Any]) -> None:
        for name, amount in resources.items():
            if not isinstance(amount, int | float) or not 0 <= amount < math.inf:
                raise ValueError(f"resources {printable(name)} = {shown(amount)} must be a number of at least 0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics of its use
        if not address:  # Ray reads it when it is imported: its servers listen on 127.0.0.1, as on a Mac, and not everywhere
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            import ray
        except ImportError:
            raise ValueError("launcher = ray needs Ray: pip install 'jaxpg[ray]'") from None
        self.ray, self.address, self.resources, self.is_ours = ray, address, dict(resources), False

    @property
    def cores(self) -> int:
        """The CPU devices that a worker uses: at least two, because XLA optimises, and rounds, differently for a single one."""
        return max(2, int(self.resources.get("num_cpus", 1)))

    def connect(self) -> None:
        """Connect to the cluster, or start one, unless the program has done so."""
        if not self.ray.is_initialized():
            self.start()
        self.check_resources()

    def start(self) -> None:
        """Connect to the cluster at the address, or start one for this process."""
        check_reachable(self.address)
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
        own: dict[str, Any] = {"num_cpus": devices.num_cores(), "object_store_memory": STORE_BYTES, "include_dashboard": False}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "os.fork")  # of JAX: Ray forks to start other programs, which is safe
                if not self.address:  # it would advise how to do without the token that only this command uses
                    logging.getLogger("ray").setLevel(logging.ERROR)
                self.ray.init(address=self.address or "local", **quiet, **({} if self.address else own))
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            why = printable(" ".join(str(error).split())[:200])
            raise ValueError(f"launcher = ray:{printable(self.address)}: {why}") from None
        self.is_ours = True
        if not self.address and (ip := self.ray.util.get_node_ip_address()) != "127.0.0.1":
            fix = "set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Ray is imported"
            warnings.warn(f"Ray was imported before jaxpg chose where it listens: on all addresses ({ip}); {fix}", stacklevel=2)

    def check_resources(self) -> None:
        """Check that some node has the resources of a worker: Ray would wait for one without a message.

        ``ValueError`` of one line if this machine is the only node; a warning on a cluster, which may grow.
        """
        known, others = self.choose_resources()
        wanted = {OPTIONS[name]: amount for name, amount in known.items()} | others
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            return
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
        there = ", ".join(f"{printable(name)} = {amount:g}" for name, amount in most.items())
        asked = ", ".join(f"{printable(name)} = {amount:g}" for name, amount in self.resources.items())
        found = f"resources {asked}: no node of Ray has that (at most {there})"
        if self.is_ours and not self.address:
            self.ray.shutdown()
            unknown = [name for name in others if not most[name]]
            raise ValueError(unknown_name("resource", unknown[0], OPTIONS) if unknown else f"{found}; ask for less")
        warnings.warn(f"{found}; training begins when one joins the cluster", stacklevel=3)

    def choose_resources(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The resources of a worker that Ray has options for, and the others."""
        known = {name: value for name, value in self.resources.items() if name in OPTIONS}
        if not known:
            known = {"num_gpus": 1, "num_cpus": 0} if self.ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        return known, {name: value for name, value in self.resources.items() if name not in OPTIONS}

    def map(self, train: Train, work: Sequence[Task], directory: Path, stop: Stop) -> Iterator[Outcome]:
        """See ``launch.Launcher.map``."""
        ray = self.ray
        try:
            (known, others), total = self.choose_resources(), ray.cluster_resources()
            remote = ray.remote(call).options(**known, resources=others, max_retries=RETRIES, name="jaxpg")
            packed = ray.put(pack(train, ray.cloudpickle, self.cores))
            slots = int(max(total.get("GPU", 0) / known["num_gpus"] if known.get("num_gpus") else total.get("CPU", 1), 1))
            left, running = iter(work), {}
            try:
                while True:
                    for _, task in zip(range(AHEAD * slots - len(running)), left, strict=False):
                        running[remote.remote(packed, task)] = task
                    if not running:
                        return
                    yield from self.collect(running, timeout=0.5)
                    stop.check()
            finally:
                self.end(running)
        finally:
            if self.is_ours:
                ray.shutdown()

    def collect(self, running: dict[Any, Task], timeout: float) -> Iterator[Outcome]:
        """Wait for at least one task; the outcomes of those that ended."""
        ready, rest = self.ray.wait(list(running), timeout=timeout)
        if rest:
            ready += self.ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for reference in ready:
            task = running.pop(reference)
            try:
                yield self.ray.get(reference)
            except self.ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                yield Outcome(task, failure=printable(lines[-1][:300]))

    def end(self, running: dict[Any, Task]) -> None:
        """Ask the tasks that are left to save and end, and wait for them."""
        for reference in running:
            self.ray.cancel(reference, force=False)  # the worker gets a SIGINT
        if running:
            self.ray.wait(list(running), num_returns=len(running), timeout=FAREWELL)


def check_reachable(address: str) -> None:
    """Raise ``ValueError`` if nothing listens at ``HOST:PORT``; Ray would try for two minutes and print what fails."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass
    except (OSError, ValueError) as error:
        raise ValueError(f"launcher = ray:{printable(address)}: nothing answers there ({printable(error)})") from None


def call(train: Packed, task: Task) -> Outcome:
    """In a worker: train a task."""
    return train(task)
