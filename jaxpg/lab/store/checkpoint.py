"""Checkpoints of a batch of runs: written beside the training, sealed with checksums, reported once they are complete.

``BATCH/checkpoints/STEP/`` is an orbax checkpoint of three items: ``params`` (all that a policy needs: parameters and the
statistics that scale its observations), ``rest`` (all else that the runs need to continue bit for bit) and ``meta`` (JSON).
Orbax finds no flipped bit, casts dtypes in silence and has no lock, so there is more: ``SHA256SUMS`` over every file, which
``sha256sum -c`` reads too, written last; in ``meta`` the dtype, shape and key generator of every array, a digest, and the
identity of the experiment. Orbax is imported with the first checkpoint, while training is under way already.
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
META_BYTES = 2**26  # a larger ``meta`` is none of ours: it has some kilobytes

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What runs need to continue after update ``step``: ``arrays``; ``spec`` says what they are; ``meta`` is for JSON."""

    step: int
    arrays: Arrays
    spec: Spec
    meta: Mapping[str, Any]


class Checkpoints:
    """Writes the snapshots of a batch into ``directory``, one at a time, on a thread of its own. It must be the only writer.

    The latest ``keep`` stay (two at least: the newest is not sealed at once), and the one with the best score. ``say`` gets a
    line when a step is complete on the disk, ``warn`` one when it could not be written: training continues then, and what was
    there before stays. ``first`` is called before each write: what a checkpoint counts on must be on the disk before it.
    """

    def __init__(self, directory: Path, keep: int, say: Say, warn: Say, first: Callable[[], None] = lambda: None) -> None:
        self.directory, self.keep, self.say, self.warn, self.first = directory.absolute(), keep, say, warn, first
        self.thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.under_way: concurrent.futures.Future[None] | None = None
        self.manager: ocp.CheckpointManager | None = None
        self.failure = ""  # why the newest snapshot is not on the disk
        self.latest = next(iter(reversed(steps(directory))), 0)  # update of the newest checkpoint on the disk

    def save(self, snapshot: Snapshot, score: float) -> None:
        """Begin to write; returns at once, unless the snapshot before is still being written. ``score`` is finite."""
        self.wait()
        if snapshot.step != self.latest:
            self.under_way = self.thread.submit(self.write, snapshot, score)

    def wait(self) -> None:
        """Until what was begun is on the disk, or has failed."""
        if self.under_way is not None:
            self.under_way.result()

    def close(self) -> None:
        """Wait, and let go."""
        self.wait()
        self.thread.shutdown()
        if self.manager is not None:
            self.manager.close()

    def write(self, snapshot: Snapshot, score: float) -> None:
        """On the thread: write, seal, report."""
        import orbax.checkpoint as ocp

        try:
            self.first()
            self.directory.mkdir(exist_ok=True)  # not its parents, as orbax would: a run that was removed stays removed
            self.manager = self.manager or self.open()
            full = {name: x for name, x in snapshot.arrays.items() if x.size}  # orbax takes no others
            reserve(self.directory / ".reserve", sum(x.nbytes for x in full.values()))
            items: dict[str, Any] = {item: ocp.args.StandardSave(arrays) for item, arrays in parts(full).items()}
            items["meta"] = ocp.args.JsonSave(about(snapshot))
            if not self.manager.save(snapshot.step, args=ocp.args.Composite(**items), metrics={"score": score}):
                raise OSError("this update or a later one is already saved")
            self.seal(self.directory / str(snapshot.step))
        except Exception as error:  # whatever orbax and the disk raise: a run is worth more than a checkpoint of it
            self.manager, self.failure = None, brief(error)
            self.warn(f"update {snapshot.step:,} was not saved ({self.failure}); what was saved before stays")
        else:
            self.latest, self.failure = snapshot.step, ""
            self.say(f"update {snapshot.step:,} is saved")

    def seal(self, step: Path) -> None:
        """Seal a step, or remove it: what is not sealed must never displace what is."""
        try:
            seal(step)
        except OSError:
            shutil.rmtree(step, ignore_errors=True)
            raise

    def open(self) -> ocp.CheckpointManager:
        """Orbax's manager."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        def score(metrics: Any) -> float:
            return metrics["score"]

        best = policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=score,  # or the scores would not be stored, and the best lost when the run is resumed
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self.keep), best]),
            enable_async_checkpointing=False,  # our own thread is asynchronous enough, and knows when all is done
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(self.directory, options=options)


def parts(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What belongs to ``params``, and the ``rest``."""
    params = {name: x for name, x in arrays.items() if ".".join(name.split(".")[:2]) in PARAMS}
    return {"params": params, "rest": {name: x for name, x in arrays.items() if name not in params}}


def about(snapshot: Snapshot) -> dict[str, Any]:
    """The item ``meta``."""
    digests = {name: leaves.digest(arrays) for name, arrays in parts(snapshot.arrays).items()}
    return {"step": snapshot.step, "spec": snapshot.spec, "digest": digests, "meta": dict(snapshot.meta)}


def reserve(path: Path, size: int) -> None:
    """``OSError`` where the disk has no space for ``size`` bytes: orbax would fail half-way, in many threads and at length."""
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # a system that has no such call: the disk will say so itself
            pass
        finally:
            path.unlink()


def seal(step: Path) -> None:
    """Write the checksums of every file of a step, to the disk itself."""
    unfinished = step.parent / f".{step.name}.{SEAL}"
    with open(unfinished, "w") as file:
        file.write(checksums(step))
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, step / SEAL)


def checksums(step: Path) -> str:
    """``SHA-256  path`` of every file in a step but the seal; ``Damaged`` for anything that is neither file nor folder."""
    lines = []
    for path in sorted(step.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Damaged(f"{printable(path.relative_to(step))} is not a regular file")
        if path.is_file() and path != step / SEAL:
            with open(path, "rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(step).as_posix()}\n")
    return "".join(lines)


def steps(directory: Path) -> list[int]:
    """The updates of which something lies in ``directory``, sound or not."""
    names = [path.name for path in directory.glob("*") if path.is_dir() and not path.is_symlink()]
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and name == str(int(name)))


def read(directory: Path, step: int, expected: Spec, items: tuple[str, ...] = ("params", "rest")) -> Snapshot:
    """One checkpoint, complete and with the ``expected`` arrays; ``Damaged`` otherwise, whatever is wrong with it."""
    path = directory.absolute() / str(step)
    try:
        found = checksums(path)  # first: it refuses a pipe, which would be waited for
        if (path / SEAL).read_bytes() != found.encode():
            raise Damaged("its checksums are wrong")
        return read_sealed(path, step, expected, items)
    except Damaged:
        raise
    except FileNotFoundError as error:
        raise Damaged(f"{printable(Path(error.filename or path).name)} is missing") from None
    except Exception as error:  # whatever a file of somebody else's makes of orbax
        raise Damaged(f"it cannot be read ({brief(error)})") from None


def read_sealed(path: Path, step: int, expected: Spec, items: tuple[str, ...]) -> Snapshot:
    """The same once the seal is known to hold: what is read is asked for by our own names, dtypes and shapes, never by its."""
    import orbax.checkpoint as ocp

    if sum(file.stat().st_size for file in (path / "meta").rglob("*")) > META_BYTES:
        raise Damaged("its metadata is too large")
    wanted = {item: spec for item, spec in parts(expected).items() if item in items}
    blank = {item: leaves.empty(spec) for item, spec in wanted.items()}
    full = {item: {name: x for name, x in arrays.items() if x.size} for item, arrays in blank.items()}
    restore: dict[str, Any] = {item: ocp.args.StandardRestore(arrays) for item, arrays in full.items()}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
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
    """The newest sound checkpoint, to continue from; those that are damaged are put aside and named.

    ``belongs`` is asked about its ``meta`` and raises ``Damaged`` for one of another experiment. Only for the one who
    writes here: what is put aside lies beside ``directory``, in ``damaged/``.
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
    """Move a file or folder out of the way: into ``damaged/`` beside the folder it is in, under a name that nothing has yet."""
    folder = path.parent.parent / ASIDE
    folder.mkdir(exist_ok=True)
    os.rename(path, folder / f"{path.name}-{time.time_ns()}")


def brief(error: BaseException) -> str:
    """An error in a line of bounded length."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    text = " ".join(text.split())
    if " [os_error_code=" in text:  # of the disk, by way of tensorstore: the last words of a long tale of paths
        text = text.split(" [os_error_code=")[0].rsplit(": ", 1)[-1]
    return printable(text[:160])
