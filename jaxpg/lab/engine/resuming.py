"""Going on with a run that was interrupted, or that is to go further: ``jaxpg resume DIR``."""

from __future__ import annotations

from jaxpg.lab.engine import devices, runner, saving
from jaxpg.lab.store import checkpoint, writers
from jaxpg.lab.store.checkpoint import Say, Snapshot
from jaxpg.lab.store.stored import CONFIG


def resume(job: runner.Job, writer: writers.RunWriter, warn: Say) -> Snapshot | None:
    """From where ``job`` goes on, ``None`` for its start. Rows of the log that will be written again are dropped.

    The newest checkpoint that is sound, and up to which the log is whole; any other is put aside and named.
    """
    course, seeds, shapes = job.course(), job.config.seeds, job.traced.shapes
    found = list(writers.whole_log_points(writer.directory, course.log_points, seeds))
    last = found[-1][0] if found else 0
    limit = course.total if last == course.total else course.next_log_point(last) - 1
    spec = saving.expected(shapes, seeds)
    snapshot = checkpoint.newest(writer.directory / checkpoint.FOLDER, lambda _: spec, warn, limit)
    step = snapshot.step if snapshot else 0
    writer.cut(max((size for update, size in found if update <= step), default=0))
    writer.json(CONFIG, runner.described(job))
    if snapshot:
        saving.compare(snapshot.meta.get("machine"), devices.machine(job.traced.mesh), warn)
    return snapshot
