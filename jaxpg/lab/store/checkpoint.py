"""Checkpoints of a batch of runs: written in the background, sealed with checksums, reported when complete.

``BATCH/checkpoints/STEP/`` is an orbax checkpoint of three items: ``params`` (all that a policy needs: parameters and the
statistics that scale its observations), ``rest`` (all else that the runs need to continue bit for bit) and ``meta`` (JSON).
Orbax does not detect flipped bits, casts dtypes silently and has no lock. Therefore ``SHA256SUMS`` holds a checksum of every
file, in the format of ``sha256sum -c``, and is written last; ``meta`` holds the dtype, shape and key generator of every array,
a digest, and the identity of the experiment. Orbax is imported with the first checkpoint, during training.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpg.core.hparams import printable
from jaxpg.lab.store import leaves
from jaxpg.lab.store.files import ASIDE, Damaged
from jaxpg.lab.store.leaves import Arrays, Spec

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

SEAL = "SHA256SUMS"
# Names of the arrays of the item ``params``, or of what holds them.
PARAMS = (
    "state.params",
    "state.constants",
    "state.normalizer",
    "state.env_params",
    "state.step",
)
META_BYTES = 2**26  # ``meta`` has some kilobytes: a larger one was not written by jaxpg

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What runs need to continue after update ``step``: ``arrays``, their description ``spec``, and ``meta`` for JSON."""

    step: int
    arrays: Arrays
    spec: Spec
    meta: Mapping[str, Any]


class Checkpoints:
    """Write the snapshots of a batch into ``directory``, one at a time, in a background thread. It must be the only writer.

    The newest ``keep`` checkpoints are kept (at least two, because the newest may not be sealed yet), and the one with the best
    score. ``say`` is called with a line when a checkpoint is complete on the disk, ``warn`` when it could not be written: then
    training continues, and earlier checkpoints are kept. ``first`` is called before each write, to sync files that the
    checkpoint refers to, and ``publish`` after it, to upload the checkpoint, which is complete only then.
    """

    def __init__(
        self,
        directory: Path,
        keep: int,
        say: Say,
        warn: Say,
        first: Callable[[], None] = lambda: None,
        publish: Callable[[Snapshot], None] = lambda _: None,
    ) -> None:
        self.directory, self.keep, self.say, self.warn = directory.absolute(), keep, say, warn
        self.first, self.publish = first, publish
        self.thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.under_way: concurrent.futures.Future[None] | None = None
        self.manager: ocp.CheckpointManager | None = None
        self.failure = ""  # why the newest snapshot is not on the disk
        self.latest = next(iter(reversed(steps(directory))), 0)  # update of the newest checkpoint on the disk

    def save(self, snapshot: Snapshot, score: float) -> None:
        """Start writing and return, after the previous snapshot is written. ``score`` must be finite."""
        self.wait()
        if snapshot.step != self.latest:
            self.under_way = self.thread.submit(self.write, snapshot, score)

    @property
    def is_busy(self) -> bool:
        """Whether a snapshot is being written or uploaded: the next one would wait for it."""
        return self.under_way is not None and not self.under_way.done()

    def wait(self) -> None:
        """Wait until the snapshot being written is on the disk, or has failed."""
        if self.under_way is not None:
            self.under_way.result()

    def close(self) -> None:
        """Wait, and release the thread and orbax."""
        self.wait()
        self.thread.shutdown()
        if self.manager is not None:
            self.manager.close()

    def write(self, snapshot: Snapshot, score: float) -> None:
        """In the background thread: write, seal, publish and report a snapshot."""
        try:
            self.first()
            if not (self.directory / str(snapshot.step) / SEAL).exists():  # it may be here, and not be published
                self.write_files(snapshot, score)
            self.publish(snapshot)
        except Exception as error:  # any error of orbax or the disk: training continues without this checkpoint
            self.manager, self.failure = None, brief(error)
            self.warn(f"update {snapshot.step:,} was not saved ({self.failure}); everything saved before is kept")
        else:
            self.latest, self.failure = snapshot.step, ""
            self.say(f"update {snapshot.step:,} is saved")

    def write_files(self, snapshot: Snapshot, score: float) -> None:
        """Write and seal a snapshot."""
        import orbax.checkpoint as ocp

        self.directory.mkdir(exist_ok=True)  # orbax would also make the parents of a run directory that was removed
        self.manager = self.manager or self.open()
        full = {name: x for name, x in snapshot.arrays.items() if x.size}  # orbax does not take empty arrays
        reserve(self.directory / ".reserve", sum(x.nbytes for x in full.values()))
        items: dict[str, Any] = {item: ocp.args.StandardSave(arrays) for item, arrays in parts(full).items()}
        items["meta"] = ocp.args.JsonSave(about(snapshot))
        if not self.manager.save(snapshot.step, args=ocp.args.Composite(**items), metrics={"score": score}):
            raise OSError("this update or a later one is already saved")
        self.seal(self.directory / str(snapshot.step))

    def seal(self, step: Path) -> None:
        """Seal a checkpoint, or remove it: an unsealed checkpoint must not replace a sealed one."""
        try:
            seal(step)
        except OSError:
            shutil.rmtree(step, ignore_errors=True)
            raise

    def open(self) -> ocp.CheckpointManager:
        """Open orbax's manager of checkpoints."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        def score(metrics: Any) -> float:
            return metrics["score"]

        best = policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=score,  # so that scores are stored, and the best checkpoint is known after a resume
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self.keep), best]),
            enable_async_checkpointing=False,  # our own thread runs in the background already
            cleanup_tmp_directories=True,
            create=False,  # ``write`` makes it
            multiprocessing_options=alone(),
        )
        return ocp.CheckpointManager(self.directory, options=options)


def alone() -> ocp.options.MultiprocessingOptions:
    """Let orbax wait for no other process: one of them writes, and each reads by itself."""
    import jax
    import orbax.checkpoint as ocp

    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own}, barrier_sync_key_prefix=str(own))


def parts(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Split arrays into the items ``params`` and ``rest``."""
    params = {name: x for name, x in arrays.items() if ".".join(name.split(".")[:2]) in PARAMS}
    return {"params": params, "rest": {name: x for name, x in arrays.items() if name not in params}}


def about(snapshot: Snapshot) -> dict[str, Any]:
    """The item ``meta``."""
    digests = {name: leaves.digest(arrays) for name, arrays in parts(snapshot.arrays).items()}
    return {"step": snapshot.step, "spec": snapshot.spec, "digest": digests, "meta": dict(snapshot.meta)}


def reserve(path: Path, size: int) -> None:
    """Raise ``OSError`` if the disk has no space for ``size`` bytes: orbax would fail half-way, with long errors."""
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # a system without this call: writing will raise the error
            pass
        finally:
            path.unlink()


def seal(step: Path) -> None:
    """Write the checksums of all files of a checkpoint, and sync them to the disk."""
    unfinished = step.parent / f".{step.name}.{SEAL}"
    with open(unfinished, "w") as file:
        file.write(checksums(step))
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, step / SEAL)


def checksums(step: Path) -> str:
    """``SHA-256  path`` for each file of a checkpoint except the seal; ``Damaged`` for anything but files and folders."""
    lines = []
    for path in sorted(step.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Damaged(f"{printable(path.relative_to(step))} is not a regular file")
        if path.is_file() and path != step / SEAL:
            with open(path, "rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(step).as_posix()}\n")
    return "".join(lines)


def steps(directory: Path) -> list[int]:
    """The updates that have a checkpoint in ``directory``, damaged or not."""
    names = [path.name for path in directory.glob("*") if path.is_dir() and not path.is_symlink()]
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name)))


def read(directory: Path, step: int, expected: Spec, items: tuple[str, ...] = ("params", "rest")) -> Snapshot:
    """Read a checkpoint; ``Damaged`` if it is incomplete, changed, or does not have the ``expected`` arrays."""
    path = directory.absolute() / str(step)
    try:
        found = checksums(path)  # first, because it raises for a pipe, from which reading would never end
        if (path / SEAL).read_bytes() != found.encode():
            raise Damaged("its checksums are wrong")
        return read_sealed(path, step, expected, items)
    except Damaged:
        raise
    except FileNotFoundError as error:
        raise Damaged(f"{printable(Path(error.filename or path).name)} is missing") from None
    except Exception as error:  # a file of unknown origin can raise any error in orbax
        raise Damaged(f"it cannot be read ({brief(error)})") from None


def read_sealed(path: Path, step: int, expected: Spec, items: tuple[str, ...]) -> Snapshot:
    """Read a checkpoint with correct checksums. Names, dtypes and shapes come from ``expected``, never from the file."""
    import orbax.checkpoint as ocp

    if sum(file.stat().st_size for file in (path / "meta").rglob("*")) > META_BYTES:
        raise Damaged("its metadata is too large")
    wanted = {item: spec for item, spec in parts(expected).items() if item in items}
    blank = {item: leaves.empty(spec) for item, spec in wanted.items()}
    full = {item: {name: x for name, x in arrays.items() if x.size} for item, arrays in blank.items()}
    restore: dict[str, Any] = {item: ocp.args.StandardRestore(arrays) for item, arrays in full.items()}
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone()))
    with ocp.Checkpointer(handler, multiprocessing_options=alone()) as reader:
        found = reader.restore(path, ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        if not isinstance(found, dict) or found.get("step") != step or not isinstance(found.get("meta"), dict):
            raise Damaged("its metadata was not written by jaxpg")
        there = found.get("spec")
        there = (
            {name: spec for item in wanted for name, spec in parts(there)[item].items()} if isinstance(there, dict) else there
        )
        different = leaves.difference(there, expected)
        if different:
            raise Damaged(f"it belongs to another run: {different}")
        loaded = reader.restore(path, ocp.args.Composite(**restore))
    arrays: Arrays = {}
    for item in wanted:
        arrays |= blank[item] | loaded[item]
        if leaves.digest(blank[item] | loaded[item]) != found["digest"][item]:
            raise Damaged(f"the digest of {item} is wrong")
    return Snapshot(step, arrays, {name: expected[name] for name in arrays}, found["meta"])


def newest(directory: Path, expected: Spec, belongs: Callable[[Mapping[str, Any]], None], say: Say) -> Snapshot | None:
    """Read the newest checkpoint that is not damaged; move newer ones to ``damaged/`` beside ``directory``, with a warning.

    ``belongs`` is called with the ``meta`` of a checkpoint and raises ``Damaged`` if it is from another experiment. Call this
    only in the process that writes to ``directory``.
    """
    for step in reversed(steps(directory)):
        try:
            snapshot = read(directory, step, expected)
            belongs(snapshot.meta)
        except Damaged as error:
            put_aside(directory / str(step))
            say(f"the checkpoint of update {step:,} was put aside in {ASIDE}/: {error}")
        else:
            return snapshot
    return None


def put_aside(path: Path) -> None:
    """Move a file or folder into ``damaged/`` beside its parent folder, under a new name."""
    folder = path.parent.parent / ASIDE
    folder.mkdir(exist_ok=True)
    os.rename(path, folder / f"{path.name}-{time.time_ns()}")


def brief(error: BaseException) -> str:
    """Format an error as one line of limited length."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    text = " ".join(text.split())
    if " [os_error_code=" in text:  # an error of the disk in tensorstore: only its last part is not a path
        text = text.split(" [os_error_code=")[0].rsplit(": ", 1)[-1]
    return printable(text[:160])
