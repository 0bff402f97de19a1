"""Objects of a store such as S3: read and written completely, by name, each request with retries; and the lease of a writer.

An address is ``PROTOCOL://BUCKET/PATH``; fsspec finds the package for the protocol, and that package the credentials, e.g. in
the environment. An object store has no rename, and a listing may lag, but a PUT is atomic and a GET by name sees it.
fsspec is imported with the first address. This module does not import JAX.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from jaxpg.core.hparams import printable, shown

PATIENCE = 30.0  # seconds after its first failure until a request is given up
DELAYS = (0.25, 8.0)  # seconds between attempts: doubled from the first to the second, with jitter
PARALLEL = 8  # requests at once
RENEW, STALE = 20.0, 70.0  # seconds between renewals of a lease, and without one until it counts as abandoned
SETTLE = 1.0  # seconds after which a lease that was taken over is read again

# Our own retries would multiply with those of s3fs and botocore; a request that hangs must end; and a damaged object must be
# readable, so that it can be named and put aside: our checksums are in the manifests, and not all stores know botocore's.
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "retries": {"total_max_attempts": 1},
            "connect_timeout": 10,
            "read_timeout": 20,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        "max_concurrency": 1,  # with more, each GET is preceded by a HEAD; here objects are read in parallel, not their parts
    }
}
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
LOCAL = ("file://", "local://")

Say = Callable[[str], None]
T = TypeVar("T")


class Unreachable(OSError):
    """A store did not answer, or refused a request, until our patience ended. The message is one line without secrets."""


def is_address(directory: str | Path) -> bool:
    """Whether ``directory`` is an address and not a path on this machine; ``file://`` is a path.

    >>> is_address("s3://bucket/lr"), is_address("runs/lr"), is_address("file:///tmp/lr")
    (True, False, False)
    """
    if isinstance(directory, Path) and re.match(r"[a-z][a-z0-9+.-]+:/", str(directory)):
        raise ValueError(f"directory = {shown(str(directory))}: a Path cannot hold an address; give it as text, s3://...")
    return "://" in str(directory) and not str(directory).startswith(LOCAL)


def local_path(directory: str | Path) -> str:
    """A path on this machine as text, without ``file://``.

    >>> local_path("file:///lr"), local_path("runs/lr")
    ('/lr', 'runs/lr')
    """
    text = str(directory)
    return next((text.removeprefix(start) for start in LOCAL if text.startswith(start)), text)


def check_address(address: str) -> str:
    """``address`` without slashes at its end; ``ValueError`` if it cannot be one, or holds a password.

    >>> check_address("s3://bucket/lr/")
    's3://bucket/lr'
    """
    protocol, _, path = address.partition("://")
    host, _, _ = path.partition("/")
    if ":" in host.rpartition("@")[0]:
        fix = "remove them, and put them into environment variables or a file of its package, e.g. ~/.aws/credentials"
        raise ValueError(f"the address {protocol}://... has credentials in it: {fix}")
    parts = path.rstrip("/").split("/")
    if not re.fullmatch("[a-z][a-z0-9+.-]*", protocol) or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{shown(address)} is not the address of a directory, e.g. s3://bucket/lr")
    if set("?#*[") & set(path) or not path.isprintable():
        raise ValueError(f"{shown(address)} has letters that the address of a directory cannot have, e.g. ? or *")
    return f"{protocol}://{'/'.join(parts)}"


class Objects:
    """The objects below ``address``, by name. A request is repeated for ``PATIENCE`` seconds before it is ``Unreachable``."""

    def __init__(self, address: str) -> None:
        self.address, self.answers = address, True  # whether the last request was answered
        self.store, self.root = open_store(address)

    def get(self, name: str) -> bytes | None:
        """The content of an object; ``None`` if there is none."""
        try:
            return self.request(self.store.cat_file, self.path(name))
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        """Write an object: completely or not at all; ``ValueError`` if there is no such bucket."""
        with self.in_bucket():
            self.request(self.store.pipe_file, self.path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that must not exist; ``False`` if it does. Atomic where the store has conditional writes."""
        try:
            with self.in_bucket():
                self.request(self.store.pipe_file, self.path(name), data, mode="create")
        except FileExistsError:
            return self.get(name) == data  # a request that was repeated may have found what it wrote
        return True

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""
        with contextlib.suppress(FileNotFoundError):  # then nothing is left to do
            self.request(self.store.rm_file, self.path(name))

    def copy(self, name: str, to: str) -> None:
        """Copy an object within the store, if it exists."""
        with contextlib.suppress(FileNotFoundError):  # a listing that lags still names what was removed
            self.request(self.store.cp_file, self.path(name), self.path(to))

    def folders(self, name: str) -> list[str]:
        """The names of the folders in a folder. A listing may lag: what was written a moment ago may be missing."""
        return [path.rsplit("/", 1)[-1] for path, kind in self.list(name) if kind == "directory"]

    def files(self, name: str) -> list[str]:
        """The names, relative to a folder, of all objects below it. A listing may lag."""
        try:
            found = self.request(self.store.find, self.path(name))
        except FileNotFoundError:
            return []
        return [path.split(f"{self.path(name)}/", 1)[-1] for path in found]

    def list(self, name: str) -> list[tuple[str, str]]:
        """Paths and kinds of what is in a folder."""
        try:
            found = self.request(self.store.ls, self.path(name), detail=True)
        except FileNotFoundError:
            return []
        return [(entry["name"].rstrip("/"), entry["type"]) for entry in found]

    def path(self, name: str) -> str:
        """The path of an object as fsspec wants it."""
        return f"{self.root}/{name}"

    @contextlib.contextmanager
    def in_bucket(self) -> Iterator[None]:
        """Turn the error of a store that has no such bucket into a ``ValueError``."""
        try:
            yield
        except FileNotFoundError:
            raise ValueError(f"{self.address} cannot be written: there is no such bucket; make it, or give another") from None

    def request(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a method of the store, again after a failure. ``FileNotFoundError`` and ``FileExistsError`` are answers."""
        delay, longest = DELAYS
        give_up = 0.0
        while True:
            try:
                result = call(*arguments, **options)
                self.answers = True
                return result
            except (FileNotFoundError, FileExistsError):
                self.answers = True
                raise
            except Exception as error:  # each package has errors of its own
                if "recondition" in str(error):  # of a conditional write
                    raise FileExistsError(*arguments[:1]) from error
                give_up = give_up or time.monotonic() + PATIENCE
                if is_final(error) or time.monotonic() + delay > give_up:
                    self.answers = False
                    raise Unreachable(f"{self.address} {describe(error)}") from error
            time.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - so that processes do not repeat at the same time
            delay = min(2 * delay, longest)


def together(call: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Call a function with each item, several at once; the first error is raised, and what was not begun is left out."""
    with concurrent.futures.ThreadPoolExecutor(PARALLEL, thread_name_prefix="objects") as pool:
        return list(pool.map(call, items))


def open_store(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it; ``ValueError`` for an unknown protocol or a missing package."""
    protocol = address.partition("://")[0]
    install = "pip install 'jaxpg[cloud]'" if protocol in PACKAGES else f"install the package of fsspec for {protocol}"
    try:
        import fsspec
        from fsspec.config import conf
    except ImportError:
        raise ValueError(f"{printable(address)}: fsspec is not installed; pip install 'jaxpg[cloud]'") from None
    protocol = "s3" if protocol == "s3a" else protocol
    configured: dict[str, Any] = conf.get(protocol, {})
    options = {name: value | configured.get(name, {}) if isinstance(value, dict) else configured.get(name, value)
               for name, value in OPTIONS.get(protocol, {}).items()}  # fmt: skip
    try:
        store = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **options)
    except ImportError:
        package = PACKAGES.get(protocol, "its package")
        raise ValueError(f"{printable(address)}: {package} is not installed; {install}") from None
    except ValueError as error:
        known = "known are s3://, gs:// and what fsspec lists in fsspec.available_protocols()"
        raise ValueError(f"{printable(address)}: {printable(error)}; {known}") from None
    if protocol == "s3":
        store.retries = 1
    return store, store._strip_protocol(address).rstrip("/")


def is_final(error: Exception) -> bool:
    """Whether repeating a request cannot help: no permission, no credentials, or not what the store can do."""
    kind = type(error).__name__
    return isinstance(error, PermissionError | NotImplementedError) or "Credential" in kind or "ParamValidation" in kind


def describe(error: Exception) -> str:
    """Say in one short line, without passwords, why a request failed."""
    text = " ".join((str(error) or type(error).__name__).split())
    text = re.sub(r"//[^/@\s]*@", "//...@", text)
    what = "refuses a request" if is_final(error) else "does not answer"
    return f"{what} ({printable(text[:100])})"


class Lease:
    """The right to write below an address: the object ``name``, renewed every ``RENEW`` seconds by a thread. A context manager.

    Another process that finds a lease waits: if the lease is renewed, the process gives up; if it is not for ``STALE`` seconds,
    or if its owner was on this machine with the same ``copy`` (which is locked, so that the owner has ended), it takes over.

    What it cannot do: a process that was cut off for ``STALE`` seconds may still write until its next renewal or manifest, when
    it finds the lease of the other; what it writes is then a state of the same experiment. Where a store has no conditional
    writes (``If-None-Match``), two processes that start within the same second may both believe that they have the lease, until
    the first of them renews it.
    """

    def __init__(self, objects: Objects, name: str, copy: Path, say: Say) -> None:
        self.objects, self.name, self.say = objects, name, say
        self.about = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "copy": str(copy)}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        there = self.read()
        if there is None:
            if not self.objects.create(self.name, self.content()):
                raise ValueError(self.taken)
        else:
            if any(there.get(name) != self.about[name] for name in ("host", "copy")):
                self.wait(there)
            host = shown(there.get("host"))
            self.say(f"{self.objects.address} was being written by a process on {host} that ended; continuing")
            self.objects.put(self.name, self.content())
            time.sleep(SETTLE if there.get("host") != self.about["host"] else 0)
            if not self.is_ours(self.read()):
                raise ValueError(self.taken)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.objects.answers:  # else the lease stays, and the next process takes it over
            self.thread.join()
            with contextlib.suppress(OSError):  # it was lost, and is not ours to delete; or it stays, and ends by itself
                self.check()
                self.objects.delete(self.name)

    @property
    def taken(self) -> str:
        """Say that another process is writing."""
        return f"run_dir = {self.objects.address} is being written by another process; wait for it, or stop it"

    def content(self) -> bytes:
        """What the object holds; it differs after each renewal."""
        return json.dumps(self.about | {"time": time.time(), "renewal": uuid.uuid4().hex}).encode()

    def read(self) -> dict[str, Any] | None:
        """The lease that is there; ``None`` if there is none."""
        data = self.objects.get(self.name)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = {}
        return found if isinstance(found, dict) else {}

    def wait(self, there: dict[str, Any]) -> None:
        """Return when a lease was not renewed for ``STALE`` seconds; ``ValueError`` if it is. Clocks are not compared."""
        host = shown(there.get("host"))
        self.say(f"{self.objects.address} has a lease of a process on {host}; waiting {STALE:.0f} s whether it is renewed")
        end = time.monotonic() + STALE
        while time.monotonic() < end:
            time.sleep(min(5.0, STALE / 10))
            now = self.read()
            if now is None:
                return
            if now != there:
                raise ValueError(self.taken)

    def is_ours(self, there: dict[str, Any] | None) -> bool:
        """Whether a lease is that of this process."""
        return there is not None and there.get("owner") == self.about["owner"]

    def check(self) -> None:
        """Raise ``Unreachable`` if the lease is lost."""
        there = self.read()
        if not self.is_ours(there):
            why = "is being written by another process, which took over" if there else "was removed, with the lease in it"
            raise Unreachable(f"{self.objects.address} {why}")

    def keep(self) -> None:
        """In a thread: renew the lease until the end, or until it is lost. A failure is found out by the next upload."""
        while not self.ended.wait(RENEW):
            with contextlib.suppress(OSError):  # each upload checks the lease again, and reports the loss
                self.check()
                self.objects.put(self.name, self.content())
