"""The engine: from a configuration to a finished directory. Plain training is an experiment that varies nothing.

``prepare`` checks everything and writes nothing; ``claim`` makes the directory; ``run`` trains the missing runs, batch by
batch, and ``conclude`` writes the summary and the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxpg import envs
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import printable, shown
from jaxpg.lab.config import Config
from jaxpg.lab.engine import batches, devices, plan, programs
from jaxpg.lab.engine.batches import Batch, Keeper
from jaxpg.lab.engine.groups import Group, Make, arrange, describe, difference, make_named, make_own
from jaxpg.lab.engine.loggers import NO_LOGGER, Logger
from jaxpg.lab.engine.peers import Place, Watch
from jaxpg.lab.engine.progress import Progress, warn
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.engine.summary import conclude
from jaxpg.lab.report.text import print_line
from jaxpg.lab.store import checkpoint, results
from jaxpg.lab.store.files import (
    ASIDE,
    CONFIG,
    LOCK,
    Damaged,
    check_directory,
    check_writable,
    lock,
    storable,
    writable,
    write_json,
)
from jaxpg.lab.store.stored import FORMAT, IDENTITY, check_no_search, identity, make_config, read_content, without_budget
from jaxpg.loops import many as sweeping
from jaxpg.loops import sharding

TIGHT = 0.5  # memory share above which the evaluation is compiled, and its memory counted, before training begins
HEADROOM = 4  # first guess: a run needs about this many times its state and rollout; later XLA reports the real number


@dataclasses.dataclass(frozen=True)
class Job:
    """An experiment that has been checked completely, including all shapes. Nothing is compiled, computed or written yet."""

    config: Config
    groups: Sequence[Group]
    algorithm: Any  # a description of the algorithm, in plain data
    place: Place = Place()
    traced: dict[tuple[int, int], programs.Programs] = dataclasses.field(default_factory=dict)  # by group and width

    @property
    def identity(self) -> str:
        """The digest that two starts of the same experiment share."""
        return identity(self.config, self.algorithm)

    @property
    def num_runs(self) -> int:
        """Settings times seeds."""
        return len(self.config.settings) * self.config.seeds

    def runs_of(self, group: Group) -> list[int]:
        """The runs of a group that belong to this process."""
        share, seeds = self.place.share(self.num_runs), self.config.seeds
        runs = (setting * seeds + seed for setting in group.hparams for seed in range(seeds))
        return [run for run in runs if run in share]

    def programs(self, number: int, width: int) -> programs.Programs:
        """The programs of a group for ``width`` runs, traced at the first call."""
        if (number, width) not in self.traced:
            algo, config = self.groups[number].algo, self.config
            mesh = devices.env_mesh() if config.shard_envs else devices.seed_mesh(width)
            keys = sweeping.keys(config.seed, config.rng)
            precision = config.matmul_precision
            self.traced[number, width] = programs.trace(algo, keys, config.eval_episodes, width, mesh, precision)
        return self.traced[number, width]

    def plan(self, number: int, runs: int, bytes_per_run: int) -> plan.Plan:
        """Plan how many of ``runs`` are trained at once."""
        config = self.config
        free = config.memory_bytes or devices.bytes_free()
        num_devices = 1 if config.shard_envs else devices.seed_mesh(runs).size
        return plan.make(runs, num_devices, bytes_per_run, free)


@dataclasses.dataclass(frozen=True)
class Session:
    """What training reports to: the screen, the logger, ``stop`` (whether to stop) and ``alive`` (a heartbeat)."""

    screen: Console
    stop: Stop
    logger: Logger = NO_LOGGER
    alive: Callable[[], None] = lambda: None


def prepare(config: Config, make: Make | Algorithm | None = None, place: Place = Place()) -> Job:  # noqa: B008 - it is frozen
    """Check everything about an experiment and trace it: ``ValueError`` of one line for any error, before anything is written.

    ``make`` is the user's own algorithm, or a function from sizes to it.
    """
    there = None
    if config.run_dir:
        check_writable(Path(config.run_dir))
        check_directory(config.run_dir, to_write=True)
        check_no_search(Path(config.run_dir))
    if config.run_dir and (Path(config.run_dir) / CONFIG).exists():
        there = read_content(config.run_dir)
        before = make_config(config.run_dir, there)
        if before.total_steps == config.total_steps:  # it may have been extended: the log keeps its interval
            config = dataclasses.replace(config, base_steps=before.base_steps)
    make = make_named(config) if make is None else make_own(config, make)
    groups = arrange(config, make)
    if config.shard_envs:
        mesh = devices.env_mesh()
        groups = [dataclasses.replace(group, algo=sharding.shard_envs(group.algo, mesh)) for group in groups]
    for group in groups:
        envs.horizon(group.algo.env)  # the evaluation needs a horizon
    job = Job(config, groups, describe(make()), place)
    if there is not None:
        check_same(job, there)
    for number, (begun, missing) in enumerate(find_work(job)):
        widths = [batch.width for batch in begun]
        if missing:
            widths.append(job.plan(number, len(missing), HEADROOM * sweeping.footprint(groups[number].algo)).width)
        if widths and not job.traced:  # trace the first programs, so that their errors appear before anything is written
            job.programs(number, widths[0])
    return job


def check_same(job: Job, there: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, with the first difference, if the directory holds another experiment than ``job``."""
    directory = printable(job.config.run_dir)
    old = make_config(job.config.run_dir, there)
    if old.total_steps == job.config.total_steps and there["algorithm"] == job.algorithm and job.identity == there["identity"]:
        return
    here, before = ({**c.to_dict(), "algorithm": a} for c, a in ((job.config, job.algorithm), (old, there["algorithm"])))
    if job.config.base_steps:  # it was extended
        here["options"] = {**here["options"], "total_steps": old.total_steps}
        here["algorithm"], before["algorithm"] = map(without_budget, (here["algorithm"], before["algorithm"]))
    for name in (*IDENTITY, "algorithm"):
        if before[name] != here[name]:
            then, now = difference(before[name], here[name])
            fix = "give another --run-dir"
            if str(then).startswith("total_steps = ") and old.total_steps < job.config.total_steps:
                fix = f"jaxpg resume {directory} --total-steps {job.config.total_steps} trains it further"
            what = f"{name}:" if isinstance(before[name], Mapping) else f"{name} is"
            other = f"{what} {shown(then)} there and {shown(now)} here"
            raise ValueError(f"run_dir = {directory} holds another experiment: {other}; {fix}")


def find_work(job: Job, put_aside: Callable[[Path, ValueError], None] = lambda *_: None) -> list[tuple[list[Batch], list[int]]]:
    """The work of this process, by group: batches that were begun, with their runs unchanged, and runs that are in no batch.

    A batch is continued by the process whose share contains its first run, even if the number of processes has changed.
    """
    found, share = list(find_batches(job, put_aside)), job.place.share(job.num_runs)
    taken = {run for _, batch, _ in found for run in batch.runs}
    return [
        (
            [batch for at, batch, is_finished in found if at == number and not is_finished and batch.runs[0] in share],
            [run for run in job.runs_of(group) if run not in taken],
        )
        for number, group in enumerate(job.groups)
    ]


def find_batches(job: Job, put_aside: Callable[[Path, ValueError], None]) -> Iterator[tuple[int, Batch, bool]]:
    """The batches in the directory, of all processes: the number of the group, the batch, whether it is finished.

    For each batch of this process that cannot be used, ``put_aside`` is called with its folder and the error; its runs are
    trained again.
    """
    group_of = {setting: number for number, group in enumerate(job.groups) for setting in group.hparams}
    seeds, share = job.config.seeds, job.place.share(job.num_runs)
    for folder in results.folders(Path(job.config.run_dir)) if job.config.run_dir else ():
        try:
            about, result = results.read_result(folder, job.identity, job.num_runs)
            number, *others = {group_of[run // seeds] for run in about["runs"]}
            if others or int(folder.name) != about["runs"][0]:
                raise Damaged(f"{printable(folder)} does not belong to this experiment")
        except ValueError as error:
            if int(folder.name) in share:
                put_aside(folder, error)
            continue
        batch = job.groups[number].batch(about["runs"], seeds, about["width"])
        yield number, batch, result is not None and result["num_updates"] == batch.course.total


def claim(job: Job) -> Job:
    """Make the directory of an experiment, with its ``config.json``, unless it exists.

    ``ValueError`` if it holds another experiment or cannot be written. Process 0 writes; the others wait for it.
    """
    directory = Path(job.config.run_dir) if job.config.run_dir else make_directory(job.config)
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, run_dir=str(directory)))
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        check_directory(directory, to_write=True)
        if job.place.index == 0:
            content, there = content_of(job), read_content(directory) if (directory / CONFIG).exists() else None
            if there is not None:
                check_same(job, there)
            if there != storable(content):
                write_json(directory / CONFIG, content)
    deadline = time.monotonic() + job.place.silence
    while not (directory / CONFIG).exists():
        if time.monotonic() > deadline:
            raise ValueError(f"run_dir = {directory} was not made by process 0; all processes must see the same disk")
        time.sleep(0.1)
    check_same(job, read_content(directory))
    return job


def make_directory(config: Config) -> Path:
    """Make a new directory under ``runs/``, with the date and time in its name."""
    stem = f"{config.algo}_{config.env}_seed{config.seed}_{datetime.datetime.now():%Y%m%d-%H%M%S}"
    stem = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in stem)
    with writable(Path("runs")):
        Path("runs").mkdir(exist_ok=True)
        for count in range(1, 1000):
            directory = Path("runs") / (stem if count == 1 else f"{stem}-{count}")
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                return directory
    raise ValueError("run_dir: 1,000 run directories were made in this second; choose one with --run-dir")


def content_of(job: Job) -> dict[str, Any]:
    """What ``config.json`` holds."""
    config = {name: value for name, value in job.config.to_dict().items() if name != "run_dir"}
    head = {"format": FORMAT, "identity": job.identity}
    return head | config | {"algorithm": job.algorithm} | machine(job) | {"processes": job.place.count}


def machine(job: Job) -> dict[str, Any]:
    """The hardware and software that bit-for-bit results depend on."""
    mesh = devices.env_mesh() if job.config.shard_envs else devices.seed_mesh(job.num_runs)
    return devices.machine(mesh)


def run(job: Job, screen: Console, stop: Stop, logger: Logger = NO_LOGGER) -> results.Results:
    """Train the missing runs of this process and wait for the other processes; process 0 writes the summary.

    Call ``claim`` first. Raises ``Stopped`` if asked to stop, after saving.
    """
    directory = Path(job.config.run_dir)
    with lock(directory, f"{LOCK}-{job.place.index}"):
        summary = None
        try:

            def put_aside(folder: Path, error: ValueError) -> None:
                checkpoint.put_aside(folder)
                warn(screen, f"a batch of runs was put aside in {ASIDE}/ and is trained again: {error}")

            with watch(directory, job.place, stop) as alive:
                session = Session(screen, stop, logger, alive)
                left = find_work(job, put_aside)
                if any(begun or missing for begun, missing in left) and job.place.index == 0:
                    warn_of_bits(machine(job), screen)
                for number, (begun, missing) in enumerate(left):
                    train_group(job, number, begun, missing, session)
                while count_finished(job) < job.num_runs:
                    alive()  # wait for the others as long as they are alive
                    stop.check()
                    time.sleep(0.5)
            found = results.read(directory)
            if job.place.index == 0:
                summary = conclude(job.config, job.groups, found)
            return found
        finally:
            logger.close(summary)


def warn_of_bits(machine: Mapping[str, Any], screen: Console) -> None:
    """Warn if, with these devices and flags, a resumed run may not be bit for bit the same as an uninterrupted one."""
    platform, flags = machine["device"]["platform"], machine["flags"]["XLA_FLAGS"]
    if doubt := devices.find_nondeterminism(platform, flags, devices.are_kernels_kept()):
        warn(screen, doubt)


def count_finished(job: Job) -> int:
    """The number of finished runs of all processes."""
    if job.place.count == 1:
        return job.num_runs
    return sum(len(batch.runs) for _, batch, is_finished in find_batches(job, lambda *_: None) if is_finished)


@contextlib.contextmanager
def watch(directory: Path, place: Place, stop: Stop) -> Iterator[Callable[[], None]]:
    """A function to call as a heartbeat whenever this process makes progress. It does nothing if there is only one process."""
    if place.count == 1:
        yield lambda: None
    else:
        with Watch(directory, place, stop) as watching:
            yield watching.alive


def train_group(job: Job, number: int, begun: Sequence[Batch], missing: Sequence[int], session: Session) -> None:
    """Train the missing runs of a group: first the batches that were begun, then new batches."""
    group = job.groups[number]
    if len(job.groups) > 1 and (begun or missing):
        sizes = "".join(f", {name} = {value}" for name, value in group.sizes.items())
        print_line(session.screen, f"program {number + 1} of {len(job.groups)}{sizes}")
    for batch in begun:
        train_batch(job, number, batch, session)
    for batch in divide_runs(job, number, missing, session):
        train_batch(job, number, batch, session)


def divide_runs(job: Job, number: int, runs: Sequence[int], session: Session) -> list[Batch]:
    """Divide runs into batches: planned from shapes, compiled, and planned again if XLA needs more memory."""
    if not runs:
        return []
    planned = job.plan(number, len(runs), HEADROOM * sweeping.footprint(job.groups[number].algo))
    compiled = compile_programs(job, number, planned.width, session)
    if planned.batches > 1 or planned.share > TIGHT:
        compiled.prepare_evaluation().result()
    measured = job.plan(number, len(runs), compiled.bytes_per_run)
    width = min(planned, measured, key=lambda plan: plan.width).width
    if len(runs) > 1:
        print_line(session.screen, f"plan: {dataclasses.replace(measured, width=width)}")
    return [job.groups[number].batch(runs[i : i + width], job.config.seeds, width) for i in range(0, len(runs), width)]


def compile_programs(job: Job, number: int, width: int, session: Session) -> programs.Programs:
    """Compile the programs of a group, unless that was done, and print how long it takes."""
    compiled = job.programs(number, width)
    if not compiled.is_compiled:
        with Progress.waiting(session.screen, "compiling the update"):
            compiled.compile()
        session.stop.check()
    return compiled


def train_batch(job: Job, number: int, batch: Batch, session: Session) -> None:
    """Train a batch and write its result."""
    config = job.config
    compiled = compile_programs(job, number, batch.width, session)
    names = [f"seed {seed}" + f" of setting {setting}" * (len(config.settings) > 1) for setting, seed in batch.places]
    progress = Progress(session.screen, batch.env_steps, len(batch.runs), names=names)
    keeper = Keeper(
        Path(config.run_dir),
        batch,
        compiled,
        progress,
        session.stop,
        identity=job.identity,
        machine=machine(job),
        every=config.checkpoint_every,
        keep=config.keep,
        logger=session.logger,
        alive=session.alive,
    )
    with progress, keeper:
        finished, seconds = batches.train(batch, compiled, keeper, progress, session.stop)
        keeper.finish(finished, compiled.seconds, seconds)
