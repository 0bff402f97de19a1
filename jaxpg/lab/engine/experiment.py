"""The engine: from a configuration to a finished directory. Plain training is an experiment that varies nothing.

``prepare`` checks everything and writes nothing; ``claim`` makes the directory; ``run`` trains the missing runs, batch by
batch, and ``finish`` writes the summary and the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxpg import envs
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import printable, shown
from jaxpg.lab.config import Config, Part
from jaxpg.lab.engine import batches, devices, hosts, plan, programs
from jaxpg.lab.engine.batches import Batch, Keeper
from jaxpg.lab.engine.groups import Group, Make, arrange, describe, difference, make_named, make_own
from jaxpg.lab.engine.loggers import NO_LOGGER, Logger
from jaxpg.lab.engine.progress import Progress, warn
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.engine.summary import conclude
from jaxpg.lab.report.text import print_line
from jaxpg.lab.store import checkpoint, columns, remote, results
from jaxpg.lab.store.files import (
    ASIDE,
    CONFIG,
    LOCK,
    LOCKS,
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
PATIENCE = 60.0  # seconds to wait while another process writes a file that belongs to all
HEADROOM = 4  # first guess: a run needs about this many times its state and rollout; later XLA reports the real number


@dataclasses.dataclass(frozen=True)
class Job:
    """An experiment that has been checked completely, including all shapes. Nothing is compiled, computed or written yet."""

    config: Config
    groups: Sequence[Group]
    algorithm: Any  # a description of the algorithm, in plain data
    part: Part | None = None  # of several processes; ``None``: this process trains all runs
    traced: dict[tuple[int, int], programs.Programs] = dataclasses.field(default_factory=dict)  # by group and width

    @functools.cached_property
    def identity(self) -> str:
        """The digest that two starts of the same experiment share."""
        return identity(self.config, self.algorithm)

    @property
    def num_runs(self) -> int:
        """Settings times seeds."""
        return len(self.config.settings) * self.config.seeds

    @property
    def share(self) -> range:
        """The runs that this process trains."""
        return self.part.share(self.num_runs) if self.part else range(self.num_runs)

    def runs_of(self, number: int, share: Collection[int]) -> list[int]:
        """The runs of a group that are in ``share``."""
        seeds = self.config.seeds
        if len(share) < self.num_runs:
            return [run for run in sorted(share) if self.group_of[run // seeds] == number]
        return [setting * seeds + seed for setting in self.groups[number].hparams for seed in range(seeds)]

    @functools.cached_property
    def group_of(self) -> dict[int, int]:
        """The number of the group of each setting."""
        return {setting: number for number, group in enumerate(self.groups) for setting in group.hparams}

    def programs(self, number: int, width: int) -> programs.Programs:
        """The programs of a group for ``width`` runs, traced at the first call."""
        if (number, width) not in self.traced:
            algo, config = self.groups[number].algo, self.config
            mesh = devices.env_mesh() if config.shard_envs else devices.seed_mesh(width)
            keys = sweeping.keys(config.seed, config.rng)
            precision = config.matmul_precision
            self.traced[number, width] = programs.trace(algo, keys, config.eval_episodes, width, mesh, precision)
        return self.traced[number, width]

    def num_at_once(self, number: int, missing: int) -> int:
        """How many runs of a group are to be trained at once, if they fit: with a batch size whatever is missing."""
        return min(self.config.batch_size, len(self.runs_of(number, range(self.num_runs)))) or missing

    def plan(self, number: int, runs: int, bytes_per_run: int) -> plan.Plan:
        """Plan how many of ``runs`` are trained at once, in all processes."""
        config = self.config
        frees, sizes = zip(*hosts.gather((config.memory_bytes or devices.bytes_free(), bytes_per_run)), strict=True)
        num_devices = 1 if config.shard_envs else devices.seed_mesh(runs).size
        planned = plan.make(runs, num_devices, max(sizes), min(frees))
        return dataclasses.replace(planned, width=devices.fit_width(planned.width))


@dataclasses.dataclass(frozen=True)
class Session:
    """What training reports to: the screen, the logger, and ``stop``, whether to stop."""

    screen: Console
    stop: Stop
    logger: Logger = NO_LOGGER
    copy: remote.OnDisk = remote.HERE


def prepare(config: Config, make: Make | Algorithm | None = None, part: Part | None = None, *, trains_here: bool = True) -> Job:
    """Check everything about an experiment and trace it: ``ValueError`` of one line for any error, before anything is written.

    ``make`` is the user's own algorithm, or a function from sizes to it. Unless this process ``trains_here``, nothing is
    compiled.
    """
    there = None
    if config.parquet:
        columns.require_pyarrow("parquet")
    if config.run_dir:
        check_writable(Path(config.run_dir))
        check_directory(config.run_dir, to_write=True)
        check_no_search(Path(config.run_dir))
    if config.run_dir and (Path(config.run_dir) / CONFIG).exists():
        there = read_content(config.run_dir)
        before = make_config(config.run_dir, there)
        if before.total_steps == config.total_steps:  # it may have been extended: the log keeps its interval
            config = dataclasses.replace(config, base_steps=before.base_steps)
    job = make_job(config, make, part)
    if there is not None:
        check_same(job, there)
    if not trains_here:
        programs.check_shapes(job.groups[0].algo, sweeping.keys(config.seed, config.rng)[0])
        return job
    for number, (begun, missing) in enumerate(agree_on_work(job)):
        widths = [batch.width for batch in begun]
        if missing:
            footprint = HEADROOM * sweeping.footprint(job.groups[number].algo)
            widths.append(job.plan(number, job.num_at_once(number, len(missing)), footprint).width)
        if widths and not job.traced:  # trace the first programs, so that their errors appear before anything is written
            job.programs(number, widths[0])
    return job


def make_job(config: Config, make: Make | Algorithm | None = None, part: Part | None = None) -> Job:
    """Make the algorithms of an experiment and arrange its settings, without looking at its directory."""
    make = make_named(config) if make is None else make_own(config, make)
    groups = arrange(config, make)
    if config.shard_envs:
        mesh = devices.env_mesh()
        groups = [dataclasses.replace(group, algo=sharding.shard_envs(group.algo, mesh)) for group in groups]
    for group in groups:
        envs.horizon(group.algo.env)  # the evaluation needs a horizon
    job = Job(config, groups, describe(make()), part)
    hosts.check_command({**dataclasses.asdict(config), **config.options, "algorithm": job.algorithm, "options": None})
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


def find_work(
    job: Job, put_aside: Callable[[Path, ValueError], None] = lambda *_: None, runs: Collection[int] | None = None
) -> list[tuple[list[Batch], list[int]]]:
    """The work of this process, by group: batches that were begun, with their runs unchanged, and runs that are in no batch.

    A batch is continued by the process whose share contains its first run, even if the number of processes has changed. With
    ``runs``, a batch that another process has planned, only these are looked at.
    """
    share = job.share if runs is None else runs
    found = list(find_batches(job, put_aside, runs))
    taken = {run for _, batch, _ in found for run in batch.runs}
    return [
        (
            [batch for at, batch, is_finished in found if at == number and not is_finished and batch.runs[0] in share],
            [run for run in job.runs_of(number, share) if run not in taken],
        )
        for number in range(len(job.groups))
    ]


def agree_on_work(
    job: Job, put_aside: Callable[[Path, ValueError], None] = lambda *_: None
) -> list[tuple[list[Batch], list[int]]]:
    """The work of all processes that compute together, which process 0 finds."""
    seeds = job.config.seeds

    def find() -> list[tuple[list[tuple[tuple[int, ...], int]], list[int]]]:
        return [([(batch.runs, batch.width) for batch in begun], missing) for begun, missing in find_work(job, put_aside)]

    return [
        ([group.batch(runs, seeds, width) for runs, width in begun], missing)
        for group, (begun, missing) in zip(job.groups, hosts.agree(find), strict=True)
    ]


def find_batches(
    job: Job, put_aside: Callable[[Path, ValueError], None], runs: Collection[int] | None = None
) -> Iterator[tuple[int, Batch, bool]]:
    """The batches in the directory, of all processes: the number of the group, the batch, whether it is finished.

    With ``runs`` only batches whose first run is one of them. For each batch of this process that cannot be used,
    ``put_aside`` is called with its folder and the error; its runs are trained again.
    """
    directory = Path(job.config.run_dir)
    if runs is None:
        folders = results.folders(directory) if job.config.run_dir else []
    else:
        folders = [folder for folder in (results.folder_of(directory, run) for run in sorted(runs)) if folder.is_dir()]
    share = job.share if runs is None else runs
    for folder in folders:
        try:
            yield read_batch(job, folder)
        except ValueError as error:
            if int(folder.name) in share:
                put_aside(folder, error)


def read_batch(job: Job, folder: Path) -> tuple[int, Batch, bool]:
    """The number of the group of a batch, the batch, and whether it is finished; ``Damaged`` if it cannot be used."""
    about, result = results.read_result(folder, job.identity, job.num_runs)
    number, *others = {job.group_of[run // job.config.seeds] for run in about["runs"]}
    if others or int(folder.name) != about["runs"][0]:
        raise Damaged(f"{printable(folder)} does not belong to this experiment")
    batch = job.groups[number].batch(about["runs"], job.config.seeds, about["width"])
    return number, batch, result is not None and result["num_updates"] == batch.course.total


def claim(job: Job) -> Job:
    """Make the directory of an experiment, with its ``config.json``, unless it exists.

    ``ValueError`` if it holds another experiment or cannot be written. Several processes may call it at once.
    """
    directory = Path(hosts.agree(lambda: job.config.run_dir or str(make_directory(job.config))))
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, run_dir=str(directory)))
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        check_directory(directory, to_write=True)
        if hosts.place().index == 0:
            write_config(job)
    if hosts.agree(lambda: True) and hosts.place().index:
        hosts.wait_for_file(directory / CONFIG)
        check_same(job, read_content(directory))
    return job


def write_config(job: Job) -> None:
    """Write ``config.json``, unless it is there; ``ValueError`` if it is that of another experiment."""
    directory = Path(job.config.run_dir)
    with lock(directory / LOCKS / "files", patience=PATIENCE):
        content, there = content_of(job), read_content(directory) if (directory / CONFIG).exists() else None
        if there is not None:
            check_same(job, there)
        if there is None or (job.part is None and there != storable(content)):
            write_json(directory / CONFIG, content)


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
    return head | config | {"algorithm": job.algorithm} | machine(job) | {"processes": hosts.place().count}


def machine(job: Job) -> dict[str, Any]:
    """The hardware and software that bit-for-bit results depend on."""
    mesh = devices.env_mesh() if job.config.shard_envs else devices.seed_mesh(job.num_runs)
    return devices.machine(mesh)


def run(
    job: Job, screen: Console, stop: Stop, logger: Logger = NO_LOGGER, copy: remote.OnDisk = remote.HERE
) -> results.Results:
    """Train the missing runs of this process, and write the summary unless runs of other processes are missing.

    Call ``claim`` first. Raises ``Stopped`` if asked to stop, after saving. ``copy`` is that of a directory at an address.
    """
    summary, is_first = None, hosts.place().index == 0
    with lock_share(job) if is_first else contextlib.nullcontext():
        try:
            copy.publish(remote.EXPERIMENT_ID, CONFIG)
            aside = functools.partial(put_aside, screen, copy)
            left = agree_on_work(job, aside)
            while any(copy.fetch_batch(results.batch_name(missing[0])) for _, missing in left if missing):
                left = find_work(job, aside)  # a listing had not shown this batch
            if any(begun or missing for begun, missing in left) and is_first:
                warn_of_bits(machine(job), screen)
            train_work(job, left, Session(screen, stop, logger, copy))
            found, summary = finish(job, copy) if is_first else (results.read(job.config.run_dir), None)
            hosts.agree(lambda: True)
            return found
        finally:
            logger.close(summary)


@contextlib.contextmanager
def lock_share(job: Job) -> Iterator[None]:
    """Lock the directory for this process alone; if it trains a part, for processes that train other parts."""
    directory = Path(job.config.run_dir)
    own = lock(directory / LOCKS / f"part-{job.part.index}") if job.part else contextlib.nullcontext()
    with lock(directory / LOCK, shared=job.part is not None), own:
        yield


def finish(job: Job, copy: remote.OnDisk = remote.HERE) -> tuple[results.Results, dict[str, Any] | None]:
    """Read the results, and write the summary and the figures, or ``None`` if runs of another process are missing."""
    directory = Path(job.config.run_dir)
    with lock(directory / LOCKS / "files", patience=PATIENCE):  # the last two parts may end at the same time
        if job.part is not None:
            copy.fetch_results()
        found = results.read(directory)
        if job.part is not None and count_finished(job) < job.num_runs:
            return found, None
        summary = conclude(job.config, job.groups, found)
        copy.publish_summary()
        return found, summary


def put_aside(screen: Console, copy: remote.OnDisk, folder: Path, error: ValueError) -> None:
    """Put a damaged batch of runs aside, with a warning."""
    checkpoint.put_aside(folder)
    copy.put_aside(folder.name)
    warn(screen, f"a batch of runs was put aside in {ASIDE}/ and is trained again: {error}")


def warn_of_bits(machine: Mapping[str, Any], screen: Console) -> None:
    """Warn if, with these devices and flags, a resumed run may not be bit for bit the same as an uninterrupted one."""
    platform, flags = machine["device"]["platform"], machine["flags"]["XLA_FLAGS"]
    if doubt := devices.find_nondeterminism(platform, flags, devices.are_kernels_kept()):
        warn(screen, doubt)


def count_finished(job: Job) -> int:
    """The number of finished runs of all processes."""
    return sum(len(batch.runs) for _, batch, is_finished in find_batches(job, lambda *_: None) if is_finished)


def train_work(job: Job, work: Sequence[tuple[Sequence[Batch], Sequence[int]]], session: Session) -> None:
    """Train the work that ``find_work`` found, group by group."""
    for number, (begun, missing) in enumerate(work):
        train_group(job, number, begun, missing, session)


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
    at_once = job.num_at_once(number, len(runs))
    planned = job.plan(number, at_once, HEADROOM * sweeping.footprint(job.groups[number].algo))
    compiled = compile_programs(job, number, planned.width, session)
    if planned.batches > 1 or planned.share > TIGHT:
        compiled.prepare_evaluation().result()
    measured = job.plan(number, at_once, compiled.bytes_per_run)
    width = min(planned, measured, key=lambda plan: plan.width).width
    size = min(width, job.config.batch_size or width)
    if len(runs) > 1:
        print_line(session.screen, f"plan: {dataclasses.replace(measured, runs=len(runs), width=size)}")
    return [job.groups[number].batch(runs[i : i + size], job.config.seeds, width) for i in range(0, len(runs), size)]


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
    name = results.batch_name(batch.runs[0])
    if session.copy.fetch_batch(name):  # a listing had not shown it when the runs were divided
        raise ValueError(f"run_dir = {config.run_dir}: another process began the batch {name}; start the same command again")
    names = [f"seed {seed}" + f" of setting {setting}" * (len(config.settings) > 1) for setting, seed in batch.places]
    progress = Progress(session.screen, batch.env_steps, len(batch.runs), names=names)
    if hosts.place().index:
        with progress, batches.Follower(Path(config.run_dir), batch, compiled) as follower:
            complete(follower, batch, compiled, progress, session)
        return
    with batches.lock_batch(Path(config.run_dir), batch):
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
            parquet=config.parquet,
            logger=session.logger,
            copy=session.copy,
        )
        with progress, keeper:
            keeper.publish_start()
            complete(keeper, batch, compiled, progress, session)


def complete(
    keeper: Keeper | batches.Follower, batch: Batch, compiled: programs.Programs, progress: Progress, session: Session
) -> None:
    """Train a batch to its end, and let ``keeper`` write its result."""
    finished, seconds = batches.train(batch, compiled, keeper, progress, session.stop)
    keeper.finish(finished, compiled.take_seconds(), seconds)
