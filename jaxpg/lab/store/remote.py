"""Run directories that are not on this machine: ``s3://bucket/lr``, ``gs://...``, any address of fsspec.

The engine and the readers work on files. So an experiment at an address has a local copy, and what is sealed is uploaded:

* ``writing``: the copy is kept in ``$XDG_CACHE_HOME/jaxpg/runs``. What is at the address is fetched before anything is trained,
  and it counts: a local file is used only if it has the checksum of the object. ``lease`` keeps other writers away.
* ``reading``: the copy is a temporary folder of this process, and holds only what is read.

Objects have the names of the files, so that a download of all of them is a run directory. Each batch of runs also has a
``manifest.json``: names, sizes and SHA-256 of the files that belong together. It is written after them, so that it never names
what is not there, and its name follows from the first run of the batch, so that no listing is needed to find it. A listing is
used once, to find batches, and one that lags hides new ones for a while. Where an object does not have its checksum, the copy
gets it as it is, and whoever reads the copy says what is damaged, as for any run directory.

This module does not import JAX.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxpg.core.hparams import printable
from jaxpg.lab.store.files import (
    ASIDE,
    BATCH,
    BATCHES,
    CHECKPOINTS,
    CONFIG,
    LOCK,
    METRICS,
    RESULT,
    SEAL,
    SUMMARY,
    TIMING,
    Damaged,
    check_directory,
    digest,
    lock,
    read_json,
)
from jaxpg.lab.store.objects import Lease, Objects, Say, Unreachable, check_address, is_address, local_path, together

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
EXPERIMENT_ID = "wandb/experiment_id"
EMPTY = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}

Entry = dict[str, Any]  # ``bytes`` and ``sha256`` of a file
Wanted = Callable[[str], bool]  # by the name of a file in the folder of a batch


class OnDisk:
    """A run directory on this machine: nothing is fetched, and nothing published.

    ``directory`` is where its files are, ``name`` what the user calls it, ``run_dir`` the option of the engine, which may be
    empty.
    """

    is_remote = False
    where = "on the disk"  # where saved updates are
    note = ""  # what to add to an error: where files are that are not saved

    def __init__(self, directory: str | Path) -> None:
        self.run_dir = self.name = local_path(directory)
        self.directory = Path(self.run_dir)

    def fetch(self, *names: str) -> None:
        """Fetch files of the experiment, e.g. ``config.json``, by name."""

    def fetch_results(self, batches: Iterable[str] = ()) -> None:
        """Fetch what the results are made of: of all batches everything but the checkpoints.

        ``batches`` are names that the caller knows, because a listing may not show new ones yet.
        """

    def fetch_policies(self) -> None:
        """Fetch what says which runs are in which batch, and which checkpoints there are."""

    def fetch_checkpoint(self, batch: str, step: int) -> None:
        """Fetch one checkpoint."""

    def fetch_batch(self, batch: str) -> bool:
        """Fetch everything about a batch, by name; ``True`` if there is one that was not here."""
        return False

    def publish(self, *names: str) -> None:
        """Upload files of the experiment that exist, e.g. ``config.json``, one after the other."""

    def publish_batch(self, folder: Path, log: Mapping[str, Any]) -> None:
        """Upload what is new in the folder of a batch; ``log`` is the seal of the part of its log that belongs to it."""

    def publish_summary(self) -> None:
        """Upload the figures and all else in the directory itself, and then the summary: the experiment is finished."""

    def publish_events(self) -> None:
        """Upload what TensorBoard reads."""

    def put_aside(self, batch: str) -> None:
        """Move the objects of a batch to ``damaged/``."""

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name the directory in the errors inside as the user does."""
        yield


HERE = OnDisk("")  # any directory on this machine


class Copy(OnDisk):
    """The local copy of a run directory at an address."""

    is_remote = True

    def __init__(self, address: str, directory: Path, objects: Objects, say: Say, lease: Lease | None = None) -> None:
        self.name, self.directory, self.run_dir = address, directory, str(directory)
        self.objects, self.say, self.lease = objects, say, lease
        self.where = f"in {printable(address)}"
        self.note = f"; what is not there is in the local copy {printable(directory)}"
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def is_written(self) -> bool:
        """Whether this process trains in the copy; a copy for reading is what the manifests say and nothing else."""
        return self.lease is not None

    def fetch(self, *names: str) -> None:
        for name in names:
            data = self.objects.get(name)
            if data is None:
                (self.directory / name).unlink(missing_ok=True)
            elif not (path := self.directory / name).exists() or path.read_bytes() != data:
                write(path, data)

    def fetch_results(self, batches: Iterable[str] = ()) -> None:
        self.fetch_batches(lambda name: not name.startswith((f"{CHECKPOINTS}/", f"{ASIDE}/")), batches)

    def fetch_policies(self) -> None:
        self.fetch_batches(lambda name: name == BATCH)

    def fetch_checkpoint(self, batch: str, step: int) -> None:
        self.fetch_files(batch, lambda name: name == BATCH or name.startswith(f"{CHECKPOINTS}/{step}/"))

    def fetch_batch(self, batch: str) -> bool:
        was_here = (self.directory / BATCHES / batch).exists()
        is_there = self.fetch_files(batch, lambda name: not name.startswith(f"{ASIDE}/"))
        if self.is_written and self.known_files(self.directory / BATCHES / batch):
            self.delete_strays(batch)
        return is_there and not was_here

    def fetch_batches(self, wanted: Wanted, known: Iterable[str] = ()) -> None:
        """Fetch the ``wanted`` files of all batches: those in the listing, and those that are ``known`` or here."""
        found = {path.name for path in (self.directory / BATCHES).glob("*")}.union(known, self.objects.folders(BATCHES))
        names = sorted(name for name in found if name.isascii() and name.isdecimal())
        together(lambda name: self.fetch_files(name, wanted), names)

    def fetch_files(self, batch: str, wanted: Wanted) -> bool:
        """Make the folder of a batch what its manifest says, but fetch only ``wanted`` files; ``False`` if there is none.

        If the manifest is the one that was written or fetched here before, files that it does not name were not uploaded yet.
        They are kept, but for a result, which the engine computes again from its checkpoint. Otherwise they are removed.
        """
        folder, before = self.directory / BATCHES / batch, None
        while True:
            data = self.objects.get(f"{BATCHES}/{batch}/{MANIFEST}")
            if data is None:
                if not self.is_written or (folder / MANIFEST).exists():  # it was removed from the store
                    shutil.rmtree(folder, ignore_errors=True)
                return False
            is_known = (folder / MANIFEST).exists() and (folder / MANIFEST).read_bytes() == data
            files = parse_manifest(data)
            if files is None:
                self.say(
                    f"{self.name}/{BATCHES}/{batch}/{MANIFEST} was changed since it was written; a listing is used instead"
                )
                files, data = self.list_objects(batch), b""
            clean(folder, files, wanted, keep_new=is_known and self.is_written, keep_old=is_known or self.is_written)
            fetched = together(functools.partial(self.fetch_file, folder, files, is_known), filter(wanted, files))
            for name in files:  # to a reader, an empty folder says that there is a checkpoint to fetch
                if name.startswith(f"{CHECKPOINTS}/") and not self.is_written:
                    (folder / CHECKPOINTS / name.split("/")[1]).mkdir(parents=True, exist_ok=True)
            if all(fetched) or data == before:  # an object that still has another checksum is damaged
                write(folder / MANIFEST, data)
                return True
            before = data  # it may have been replaced by a later one: read the manifest again

    def fetch_file(self, folder: Path, files: Mapping[str, Entry | None], is_known: bool, name: str) -> bool:
        """Fetch a file, unless it is here; ``False`` if the object is missing or does not have its checksum."""
        path, entry = folder / name, files[name]
        if entry is not None and matches(path, entry):
            if not (is_known and self.is_written) and path.stat().st_size > entry["bytes"]:
                os.truncate(path, entry["bytes"])  # rows of the log that are not at the address
            return True
        data = self.objects.get(f"{BATCHES}/{folder.name}/{name}")
        if data is None:
            path.unlink(missing_ok=True)
            return False
        data = data[: entry["bytes"]] if entry is not None and name == METRICS else data
        write(path, data)
        return entry is None or describe(data) == entry

    def list_objects(self, batch: str) -> dict[str, None]:
        """The files of a batch in a listing, without checksums."""
        names = self.objects.files(f"{BATCHES}/{batch}")
        return {name: None for name in names if is_inside(name) and name != MANIFEST and not name.startswith(".")}

    def publish(self, *names: str) -> None:
        for name in names:
            if (self.directory / name).exists():
                self.objects.put(name, (self.directory / name).read_bytes())

    def publish_batch(self, folder: Path, log: Mapping[str, Any]) -> None:
        prefix, known = f"{BATCHES}/{folder.name}", self.known_files(folder)
        files = list_files(folder, known, log)
        new = [name for name in files if known.get(name) != files[name]]
        if not new and files.keys() == known.keys():
            return
        for kind in (False, True):  # the checksums of a checkpoint after its files
            together(
                lambda name: self.objects.put(f"{prefix}/{name}", read_sealed(folder / name, files[name])),
                [name for name in new if name.endswith(f"/{SUMS}") == kind],
            )
        if self.lease is not None:
            self.lease.check()
        content = {"published": uuid.uuid4().hex, "files": files}
        data = (json.dumps(content | {SEAL: digest(content)}, indent=1) + "\n").encode()
        self.objects.put(f"{prefix}/{MANIFEST}", data)
        write(folder / MANIFEST, data)
        with contextlib.suppress(Unreachable):  # the batch is saved; what stays is removed by ``delete_strays``
            together(lambda name: self.objects.delete(f"{prefix}/{name}"), known.keys() - files.keys())

    def known_files(self, folder: Path) -> Mapping[str, Entry]:
        """The files in the manifest that was written or fetched last."""
        try:
            return read_json(folder / MANIFEST)["files"]
        except Damaged:  # there is none, or it was damaged at the address: everything is uploaded again
            return {}

    def publish_summary(self) -> None:
        names = [path.name for path in files_in(self.directory) if path.name != SUMMARY]
        self.publish(*names, SUMMARY)

    def publish_events(self) -> None:
        events = (self.directory / "tensorboard").rglob("*tfevents*")
        self.publish(*(path.relative_to(self.directory).as_posix() for path in events))

    def put_aside(self, batch: str) -> None:
        prefix, aside = f"{BATCHES}/{batch}", f"{ASIDE}/{batch}-{time.time_ns()}"
        named = parse_manifest(self.objects.get(f"{prefix}/{MANIFEST}") or b"") or {}
        names = named.keys() | self.list_objects(batch).keys()
        together(lambda name: self.objects.copy(f"{prefix}/{name}", f"{aside}/{name}"), names)
        self.objects.delete(f"{prefix}/{MANIFEST}")
        together(lambda name: self.objects.delete(f"{prefix}/{name}"), names)

    def delete_strays(self, batch: str) -> None:
        """Remove checkpoints that the manifest does not name: an upload or a removal was interrupted."""
        prefix, known = f"{BATCHES}/{batch}", self.known_files(self.directory / BATCHES / batch)
        names = [name for name in self.list_objects(batch) if name.startswith(f"{CHECKPOINTS}/") and name not in known]
        together(lambda name: self.objects.delete(f"{prefix}/{name}"), names)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        def rename(error: BaseException) -> None:
            if isinstance(error, ValueError):
                here, there = str(self.directory), self.name
                error.args = tuple(arg.replace(here, there) if isinstance(arg, str) else arg for arg in error.args)
            for inner in error.args:
                if isinstance(inner, ValueError):
                    rename(inner)

        try:
            yield
        except Unreachable:
            raise
        except OSError as error:
            if self.is_written:
                raise
            why = error.strerror or error
            raise ValueError(f"{self.name} cannot be copied to {printable(self.directory)} to be read: {why}") from None
        except Exception as error:
            rename(error)
            raise


@contextlib.contextmanager
def writing(directory: str | Path, say: Say, *, batch: str = "", part: str = "") -> Iterator[OnDisk]:
    """Open a run directory to train in it, and fetch its configuration and results, or those of one ``batch``.

    At an address it is leased until the end; ``ValueError`` if another process has the lease, ``Unreachable`` if the store does
    not answer. ``say`` is called with warnings. Processes that share an experiment give the name of their ``batch``, or of
    their ``part`` of the runs; each of those has a lease and a copy of its own.
    """
    if not is_address(directory):
        yield OnDisk(directory)
        return
    address = check_address(str(directory))
    objects = Objects(address)
    own = batch or part
    folder = cache_folder() / "-".join(filter(None, (hashlib.sha256(address.encode()).hexdigest()[:16], own)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "set XDG_CACHE_HOME to a folder for the local copy"
        raise ValueError(f"{printable(folder)} cannot be made: {error.strerror}; {fix}") from None
    local = folder / base_name(address)
    lease = Lease(objects, f"{LOCK}-{own}" if own else LOCK, local, say)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(folder / LOCK))
        except ValueError:
            raise ValueError(lease.taken) from None
        stack.enter_context(lease)
        copy = Copy(address, local, objects, say, lease)
        stack.enter_context(copy.named())
        check_directory(local, to_write=True)
        if objects.get(CONFIG) is None and (local / CONFIG).exists():
            aside = local.with_name(f"{local.name}-{time.time_ns()}")
            local.rename(aside)
            local.mkdir()
            say(f"{printable(address)} holds no experiment any more; its local copy was put aside as {printable(aside)}")
        copy.fetch(CONFIG, SUMMARY, TIMING, EXPERIMENT_ID)
        copy.fetch_batch(batch) if batch else copy.fetch_results()
        try:
            yield copy
        finally:
            try:
                copy.publish_events()
            except Unreachable as error:
                say(f"the files of TensorBoard were not uploaded ({error}); they are in {printable(local)}")


COPIES: dict[str, Copy] = {}  # for reading, of this process


def open_copy(directory: str | Path) -> OnDisk:
    """Open a run directory to read it. The copy of an address is a temporary folder, which lasts as long as the process."""
    if not is_address(directory):
        return OnDisk(directory)
    address = check_address(str(directory))
    if address not in COPIES:
        objects, folder = Objects(address), tempfile.mkdtemp(prefix="jaxpg-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        COPIES[address] = Copy(address, Path(folder) / base_name(address), objects, warnings.warn)
    return COPIES[address]


@contextlib.contextmanager
def reading(directory: str | Path) -> Iterator[OnDisk]:
    """``open_copy``; the errors inside name ``directory``."""
    copy = open_copy(directory)
    with copy.named():
        yield copy


def cache_folder() -> Path:
    """Where local copies are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpg" / "runs"


def base_name(address: str) -> str:
    """The last part of an address, as the name of a folder.

    >>> base_name("s3://bucket/sweeps/lr")
    'lr'
    """
    return re.sub(r"[^\w.-]", "-", address.rsplit("/", 1)[-1])


def parse_manifest(data: bytes) -> dict[str, Entry | None] | None:
    """The files that a manifest of unknown origin names; ``None`` if it was changed since it was written."""
    try:
        content = json.loads(data)
        seal, files = content.pop(SEAL), content["files"]
        folders = {str(folder) for name in files for folder in PurePosixPath(name).parents}
        if seal != digest(content) or not all(map(is_inside, files)) or folders & files.keys():
            return None
        return {name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])} for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def list_files(folder: Path, known: Mapping[str, Entry], log: Mapping[str, Any]) -> dict[str, Entry]:
    """What belongs to a batch now: sealed checkpoints, the log, description and result, and what was put aside.

    Checksums are those of the seals, so that a file that was damaged since is not uploaded; see ``read_sealed``.
    """
    files: dict[str, Entry] = {name: entry for name, entry in known.items() if name.startswith(f"{ASIDE}/")}
    for seal in folder.glob(f"{CHECKPOINTS}/*/{SUMS}"):
        step = f"{CHECKPOINTS}/{seal.parent.name}/"
        if f"{step}{SUMS}" in known:  # a checkpoint does not change
            files |= {name: entry for name, entry in known.items() if name.startswith(step)}
            continue
        sums = seal.read_bytes()
        for line in sums.decode().splitlines():
            sha256, _, name = line.partition("  ")
            files[step + name] = {"bytes": (seal.parent / name).stat().st_size, "sha256": sha256}
        files[f"{step}{SUMS}"] = describe(sums)
    for path in (*files_in(folder), *(folder / ASIDE).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (*files, METRICS, MANIFEST):
            files[name] = describe(path.read_bytes())
    if log["bytes"]:
        files[METRICS] = {"bytes": log["bytes"], "sha256": log["sha256"]}
    return files


def files_in(folder: Path) -> list[Path]:
    """The files in a folder itself, but for hidden ones, such as locks and what is being written."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def read_sealed(path: Path, entry: Entry) -> bytes:
    """The content of a file up to its size when it was sealed; ``OSError`` if it was changed since."""
    with open(path, "rb") as file:
        data = file.read(entry["bytes"])
    if describe(data) != entry:
        raise OSError(f"{printable(path)} was changed since it was written")
    return data


def clean(folder: Path, files: Mapping[str, Any], wanted: Wanted, *, keep_new: bool, keep_old: bool) -> None:
    """Remove what a manifest does not name, unless ``keep_new``, and what it names but is not wanted, unless ``keep_old``."""
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
        elif name in files:
            if not keep_old and not wanted(name):
                path.unlink()
        elif name != MANIFEST and not name.startswith(f"{ASIDE}/") and (name == RESULT or not keep_new):
            path.unlink()


def matches(path: Path, entry: Entry) -> bool:
    """Whether a file begins with the content that ``entry`` describes; only a log may be longer."""
    try:
        size = path.stat().st_size
        if size < entry["bytes"] or (size > entry["bytes"] and path.name != METRICS):
            return False
        with open(path, "rb") as file:
            return describe(file.read(entry["bytes"])) == entry
    except FileNotFoundError:
        return False


def describe(data: bytes) -> Entry:
    """The entry of a manifest for a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def is_inside(name: object) -> bool:
    """Whether ``name``, from a manifest of unknown origin, is that of a file below a folder.

    >>> is_inside("checkpoints/8/meta"), is_inside("../lr/config.json"), is_inside("/etc/passwd")
    (True, False, False)
    """
    return isinstance(name, str) and name.isprintable() and not {"", ".", ".."} & set(name.replace("\\", "/").split("/"))


def write(path: Path, data: bytes) -> None:
    """Write a file of the copy, completely or not at all. It is not synced: its checksum is checked whenever it is used."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(data)
    os.replace(unfinished, path)
