"""The ``jaxpg`` command. JAX is imported only once the command is known to be right, so that ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from jaxpg import __version__
from jaxpg.lab import options, stopping
from jaxpg.lab.config import check_range, convert
from jaxpg.lab.stored import extended, read_config
from jaxpg.lab.sweep_config import SweepConfig, parse_vary

ABOUT = "Policy gradients in JAX, from REINFORCE to TRPO."
VARY = "NAME=V1,V2,... or NAME=log:LOW:HIGH:COUNT or NAME=lin:...; again for each further name (hidden: 64x64,32x32)"
Append = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(help=VARY, metavar="NAME=VALUES")]
SWEEP: list[options.Field] = [
    ("vary", Append, ()),
    options.option("memory", 0.0, "GiB that a device may spend; 0: what it has free"),
    options.option("distributed", "", "share it with other processes: auto, or HOST:PORT,COUNT,INDEX (no authentication)"),
    options.option("silence", 100.0, "seconds without a sign of life after which another process counts as lost"),
]
Directories = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="what jaxpg train and jaxpg sweep wrote")]
Directory = Annotated[str, tyro.conf.Positional, tyro.conf.arg(help="the directory of the run", metavar="DIR")]
REPORT: list[options.Field] = [
    ("directories", Directories, ()),
    options.option("out", "report.html", "the page, which needs no other file and no network"),
]
RESUME: list[options.Field] = [
    ("directory", Directory, ""),
    options.option("total_steps", 0, "environment steps per seed in all, to go further than planned; 0: as planned"),
]
EVALUATE: list[options.Field] = [
    ("directory", Directory, ""),
    options.option("episodes", 0, "episodes per seed; 0: as many as at the end of the run"),
    options.option("step", 0, "the checkpoint after this update; 0: the newest"),
    options.option("greedy", False, "only the most probable actions"),
    options.option("sampled", False, "only sampled actions"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit code: 0 done; 1 failed, 2 refused, one line says why; 128 + signal when asked to stop."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    commands = {"train": train, "sweep": sweep, "resume": resume, "evaluate": evaluate, "report": report}
    try:
        if command == "--version":
            print(f"jaxpg {__version__}")
            return 0
        with refusing():
            options.choose("jaxpg", "command", command, options.COMMANDS, ABOUT)
        return commands[command](rest)
    except Refusal as refusal:
        print(f"jaxpg: error: {refusal}", file=sys.stderr)
        return refusal.code


class Refusal(Exception):
    """What was wrong, in one line; ``code`` is 2 where it was the input, 1 where it was the disk."""

    def __init__(self, reason: object, code: int = 2) -> None:
        super().__init__(reason)
        self.code = code


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """A ``ValueError`` inside is about the input. One of many lines is not, but a bug of ours, and goes on."""
    try:
        yield
    except ValueError as error:
        if "\n" in str(error):
            raise
        raise Refusal(error) from error


@contextlib.contextmanager
def writing(directory: str) -> Iterator[stopping.Stop]:
    """Inside, ``directory`` is written. What the disk refuses is said in one line, and so is how to go on after a signal."""
    with stopping.listening() as stop:
        try:
            yield stop
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            then = f"what was saved before stays; jaxpg resume {directory} goes on from there"
            raise Refusal(f"{where}{error.strerror or error}; {then}", code=1) from error


def stopped(stop: stopping.Stopped, directory: str) -> int:
    """Say that a run was interrupted; the exit code."""
    began = (Path(directory) / "config.json").exists()
    then = f"what was done is saved; jaxpg resume {directory} goes on" if began else "nothing was written"
    print(f"jaxpg: interrupted ({stop}); {then}", file=sys.stderr)
    return stop.code


@contextlib.contextmanager
def starting(screen: Console) -> Iterator[None]:
    """Imports, checks and traces go on inside; what they refuse is one line."""
    with refusing(), screen.status("starting"):
        from jaxpg.lab import devices

        devices.use_all_cores()
        yield


def train(arguments: Sequence[str]) -> int:
    """``jaxpg train``: check, run, show what came of it."""
    with refusing():
        config, _ = options.read("train", arguments)
    screen = Console(stderr=True)
    try:
        with writing(config.run_dir) as stop:
            with starting(screen):
                from jaxpg.lab import progress, runner

                job = runner.prepare(config)
                writer = runner.claim(job)
            summary = runner.run(job, writer, progress.Progress(screen, config.env_steps, config.seeds), stop)
    except stopping.Stopped as stop:
        return stopped(stop, config.run_dir)
    progress.show_summary(Console(), summary, config.run_dir)
    return 0


def sweep(arguments: Sequence[str]) -> int:
    """``jaxpg sweep``: the same for many settings; what an earlier try finished is not done again."""
    with refusing():
        config, own = read_sweep(arguments)
    return run_sweep(config, own)


def run_sweep(config: SweepConfig, own: dict[str, Any]) -> int:
    """A sweep, with how it is to be run, and what came of it."""
    screen = Console(stderr=True)
    directory = config.base.run_dir
    try:
        with writing(directory) as stop:
            with refusing(), screen.status("starting"):
                from jaxpg.lab import devices, peers

                where = own["distributed"]
                place = peers.join(where, own["silence"]) if where else peers.Place(silence=own["silence"])
                devices.use_all_cores()
                from jaxpg.lab import progress, sweep_runner

                groups = sweep_runner.prepare(config)
            with refusing():
                memory = int(own["memory"] * 2**30) or None
                found = sweep_runner.run(config, groups, place, memory, screen, stop)
    except stopping.Stopped as stop:
        return stopped(stop, directory)
    if place.index == 0:
        progress.show_sweep(Console(), found, directory)
    return 0


def resume(arguments: Sequence[str]) -> int:
    """``jaxpg resume``: the rest of a run or a sweep, or more of a run."""
    with refusing():
        own = options.read_own("resume", arguments, RESUME)
        directory, total_steps = one(own["directory"]), convert("total_steps", own["total_steps"], 0)
        check_range("total_steps", total_steps, 0, 2**53)
        config = read_config(directory)
        if isinstance(config, SweepConfig):
            if total_steps:
                raise ValueError("total_steps: a sweep goes no further than planned; start another with jaxpg sweep")
            return run_sweep(config, numbers({name: default for name, _, default in SWEEP[1:]}))
        config = extended(config, total_steps) if total_steps else config
    screen = Console(stderr=True)
    try:
        with writing(directory) as stop:
            with starting(screen):
                from jaxpg.lab import progress, resuming, runner

                done = resuming.finished(config)
                if done:
                    print(f"jaxpg: {directory} is finished; more with --total-steps", file=sys.stderr)
                    progress.show_summary(Console(), done, directory)
                    return 0
                job = runner.build(config)
                writer = runner.reopen(job)
            shown = progress.Progress(screen, config.env_steps, config.seeds)
            snapshot = resuming.resume(job, writer, shown.warn)
            summary = runner.run(job, writer, shown, stop, snapshot)
    except stopping.Stopped as stop:
        return stopped(stop, directory)
    progress.show_summary(Console(), summary, directory)
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """``jaxpg evaluate``: how good the policies of a run are."""
    with refusing():
        own = options.read_own("evaluate", arguments, EVALUATE)
        directory = one(own["directory"])
        episodes, step = (convert(name, own[name], 0) for name in ("episodes", "step"))
        for name, value in (("episodes", episodes), ("step", step)):
            check_range(name, value, 0, 2**31 - 1)
        if own["greedy"] and own["sampled"]:
            raise ValueError("greedy and sampled: give one of them, or neither for both")
        modes = [name for name in ("greedy", "sampled") if own[name] or not (own["greedy"] or own["sampled"])]
        screen = Console(stderr=True)
        with starting(screen):
            from jaxpg.lab import loading, progress

            found = loading.evaluate(directory, episodes or None, step or None, modes)
    progress.show_evaluation(Console(), found)
    return 0


def one(directory: str) -> str:
    """The directory that must be named."""
    if not directory:
        raise ValueError("the directory of a run is missing, e.g. runs/lr")
    return directory


def read_sweep(arguments: Sequence[str]) -> tuple[SweepConfig, dict[str, Any]]:
    """The sweep that a command line asks for, and how it is to be run."""
    base, own = options.read("sweep", arguments, SWEEP)
    vary = parse_vary(own.pop("vary"))
    return SweepConfig(base, vary), numbers(own)


def numbers(own: dict[str, Any]) -> dict[str, Any]:
    """How a sweep is to be run, checked."""
    own = own | {name: convert(name, own[name], 0.0) for name in ("memory", "silence")}
    check_range("memory", own["memory"], 0, 10**9)
    check_range("silence", own["silence"], 1, 10**9)
    return own


def report(arguments: Sequence[str]) -> int:
    """``jaxpg report``: one page for several runs."""
    with refusing():
        own = options.read_own("report", arguments, REPORT)
        if not own["directories"]:
            raise ValueError("report needs the directory of a run or a sweep")
        from jaxpg.lab import report

        print(report.write(own["directories"], Path(own["out"])))
    return 0
