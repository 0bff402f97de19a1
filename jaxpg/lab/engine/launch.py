"""Train the batches of an experiment in worker processes, on engines that others maintain: Ray, or SLURM with submitit.

The process that was started plans the batches, hands them out, shows the progress and writes the summary. A worker trains a
batch and seals it in the directory, which all of them must see. So nothing is lost with a worker, nor with this process: the
same command again, with any launcher, trains what is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from jaxpg.core.hparams import printable, unknown_name
from jaxpg.lab.config import Config, Part, parse_pairs
from jaxpg.lab.engine import experiment, tasks
from jaxpg.lab.engine.packing import Outcome
from jaxpg.lab.engine.progress import TaskProgress, warn
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.engine.tasks import Worker
from jaxpg.lab.report.text import print_line
from jaxpg.lab.store import remote, results
from jaxpg.lab.store.files import CONFIG, LOCK, digest, lock
from jaxpg.lab.store.stored import read_content

BATCH_SIZE = 64  # runs of a task where no batch size is given: two blocks on each of two CPU devices
LAUNCHERS = {
    "local": "train in this process",
    "ray": "train on a Ray cluster: ray starts one on this machine, ray:ADDRESS uses one that is running",
    "slurm": "submit an array of SLURM jobs and wait for them",
}
Task = tuple[int, ...]  # the runs of a batch
Train = Callable[[Task], Outcome]


class Launcher(Protocol):
    """An engine that runs functions in other processes."""

    def connect(self) -> None:
        """Reach the engine; ``ValueError`` of one line if it cannot be used. Called before anything is written."""
        ...

    def map(self, train: Train, work: Sequence[Task], directory: Path, stop: Stop) -> Iterator[Outcome]:
        """Call ``train`` with each task in a worker; outcomes in the order in which the tasks end.

        Engines that write files do so in ``directory``, that of the experiment. A task whose worker is lost is repeated. If
        ``stop`` is requested, the workers are asked to save and end; then
        ``Stopped`` is raised.
        """
        ...


def make_launcher(name: str, resources: Mapping[str, Any]) -> Launcher | None:
    """The launcher of ``--launcher``; ``None`` for ``local``. ``ValueError`` of one line if it cannot be used here.

    ``resources`` are what each worker gets, in the words of the engine.
    """
    kind, _, address = name.partition(":")
    if kind not in LAUNCHERS:
        raise ValueError(unknown_name("launcher", kind, LAUNCHERS))
    if address and kind != "ray":
        raise ValueError(f"launcher = {printable(name)}: only ray takes an address; give {kind}")
    if kind == "ray":
        from jaxpg.lab.engine.with_ray import Ray

        return Ray(address, resources)
    if kind == "slurm":
        from jaxpg.lab.engine.with_slurm import Slurm

        return Slurm(resources)
    if resources:
        raise ValueError("resources are given to workers; choose them with --launcher ray or --launcher slurm")
    return None


def check_workers(config: Config, launcher: Launcher | None, part: Part | None) -> None:
    """Raise ``ValueError`` for options that do not work in several processes."""
    if launcher is None and part is None:
        return
    name = "--part" if launcher is None else "--launcher"
    if launcher is not None and part is not None:
        raise ValueError("part: the workers of --launcher train all parts; give one of the two")
    if part is not None and not config.run_dir:
        raise ValueError(f"part = {part.index}/{part.count} needs --run-dir, the same for all parts")
    if config.log:
        raise ValueError(f"log: loggers need a single process; leave it out with {name}, metrics.jsonl has all rows")


def parse_resources(texts: Sequence[str]) -> dict[str, Any]:
    """Read texts ``NAME=VALUE``; numbers become numbers.

    >>> parse_resources(["num_gpus=1", "slurm_partition=gpu"])
    {'num_gpus': 1, 'slurm_partition': 'gpu'}
    """
    pairs = parse_pairs("resources", texts, "NAME=VALUE, e.g. num_gpus=1", "give it once")

    def value(text: str) -> Any:
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if number.is_integer() else number if math.isfinite(number) else text

    return {name: value(text) for name, text in pairs.items()}


def run(
    job: experiment.Job,
    launcher: Launcher,
    screen: Console,
    stop: Stop,
    make: Any = None,
    train: Train | None = None,
    copy: remote.OnDisk = remote.HERE,
) -> results.Results:
    """Train the missing runs of an experiment in workers, and write its summary.

    Call ``launcher.connect`` and ``experiment.claim`` first.

    ``make`` is the user's own algorithm, if it is one. ``train`` is what a worker does, by default a ``tasks.Worker``.
    ``copy`` is that of a directory at an address, which the workers open themselves. ``OSError`` if some batches failed;
    everything that is sealed is kept.
    """
    directory = Path(job.config.run_dir)
    size = job.config.batch_size or BATCH_SIZE
    if train is None:
        seal = digest(read_content(directory))
        train = Worker(copy.name if copy.is_remote else str(directory.resolve()), seal, make, size)
    with lock(directory / LOCK):
        copy.publish(remote.EXPERIMENT_ID, CONFIG)
        work = list(tasks.plan_tasks(job, size, functools.partial(experiment.put_aside, screen, copy)))
        failed: list[Outcome] = []
        trained: list[str] = []
        if work:
            runs, count = sum(map(len, work)), f"{len(work):,} batch{'es' * (len(work) > 1)}"
            print_line(screen, f"plan: {runs:,} run{'s' * (runs > 1)} in {count} of up to {max(map(len, work)):,}")
            progress = TaskProgress(screen, len(work), runs)
            with stop.patiently("the workers finish their updates in flight and save"), progress:
                failed = follow(launcher.map(train, work, directory, stop), progress, screen, trained)
        if failed:
            first = failed[0]
            error = OSError(f"{len(failed):,} of {len(work):,} batches failed; the one of run {first.runs[0]}: {first.failure}")
            if first.trace:
                error.add_note(f"In the worker:\n{first.trace}")
            raise error
        copy.fetch_results(trained)
        return experiment.finish(job, copy)[0]


def follow(outcomes: Iterable[Outcome], progress: TaskProgress, screen: Console, trained: list[str]) -> list[Outcome]:
    """Show outcomes as they arrive, with what the workers warned of; those that failed. Batches are added to ``trained``."""
    failed, said = [], set()
    for outcome in outcomes:
        for line in outcome.warnings:
            if line not in said:  # every worker would say the same of its machine
                warn(screen, line)
        said.update(outcome.warnings)
        trained += outcome.batches
        if outcome.failure:
            failed.append(dataclasses.replace(outcome, warnings=()))
        progress.advance(len(outcome.runs), outcome.score, len(failed))
    return failed
