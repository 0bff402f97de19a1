"""The ``jaxpg`` command. JAX is imported only once the command is known to be right, so that ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from jaxpg import __version__
from jaxpg.hparams import unknown_name
from jaxpg.lab import options
from jaxpg.lab.config import convert
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
REPORT: list[options.Field] = [
    ("directories", Directories, ()),
    options.option("out", "report.html", "the page, which needs no other file and no network"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit code: 0 done; 2 refused, one line says why and nothing is written; 130 interrupted."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if command == "--version":
            print(f"jaxpg {__version__}")
            return 0
        with refusing():
            options.choose("jaxpg", "command", command, options.COMMANDS, ABOUT)
        return {"train": train, "sweep": sweep, "report": report}[command](rest)
    except Refusal as refusal:
        print(f"jaxpg: error: {refusal}", file=sys.stderr)
        return 2


class Refusal(Exception):
    """What was wrong with the input, in one line."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """A ``ValueError`` inside is about the input. One of many lines is not, but a bug of ours, and goes on."""
    try:
        yield
    except ValueError as error:
        if "\n" in str(error):
            raise
        raise Refusal(error) from error


def train(arguments: Sequence[str]) -> int:
    """``jaxpg train``: check, run, show what came of it."""
    with refusing():
        config, _ = options.read("train", arguments)
    screen = Console(stderr=True)
    where = "nothing was written"
    try:
        with refusing(), screen.status("starting"):
            from jaxpg.lab import devices

            devices.use_all_cores()
            from jaxpg.lab import progress, runner

            job = runner.prepare(config)
            writer = runner.claim(job)
        where = f"what was written until then is in {config.run_dir}"
        summary = runner.run(job, writer, progress.Progress(screen, config.env_steps, config.seeds))
    except KeyboardInterrupt:
        print(f"jaxpg: interrupted; {where}", file=sys.stderr)
        return 130
    progress.show_summary(Console(), summary, config.run_dir)
    return 0


def sweep(arguments: Sequence[str]) -> int:
    """``jaxpg sweep``: the same for many settings; what an earlier try finished is not done again."""
    with refusing():
        config, own = read_sweep(arguments)
    screen = Console(stderr=True)
    try:
        with refusing(), screen.status("starting"):
            from jaxpg.lab import devices, peers

            where = own["distributed"]
            place = peers.join(where, own["silence"]) if where else peers.Place(silence=own["silence"])
            devices.use_all_cores()
            from jaxpg.lab import progress, sweep_runner

            groups = sweep_runner.prepare(config)
        with refusing():
            memory = int(own["memory"] * 2**30) or None
            found = sweep_runner.run(config, groups, place, memory, screen)
    except KeyboardInterrupt:
        again = "the same command with this --run-dir does the rest"
        print(f"jaxpg: interrupted; what was finished is in {config.base.run_dir}; {again}", file=sys.stderr)
        return 130
    if place.index == 0:
        progress.show_sweep(Console(), found, config.base.run_dir)
    return 0


def read_sweep(arguments: Sequence[str]) -> tuple[SweepConfig, dict[str, Any]]:
    """The sweep that a command line asks for, and how it is to be run."""
    base, own = options.read("sweep", arguments, SWEEP)
    own |= {name: convert(name, own[name], 0.0) for name in ("memory", "silence")}
    for name, low in (("memory", 0.0), ("silence", 1.0)):
        if not low <= own[name] <= 1e9:
            raise ValueError(f"{name} = {own[name]:g} must be at least {low:g} and at most 1e9")
    return SweepConfig(base, parse_vary(own.pop("vary"))), own


def report(arguments: Sequence[str]) -> int:
    """``jaxpg report``: one page for several runs."""
    with refusing():
        directories, out = read_report(arguments)
        from jaxpg.lab import report

        print(report.write(directories, Path(out)))
    return 0


def read_report(arguments: Sequence[str]) -> tuple[Sequence[str], str]:
    """The directories, and where the page goes."""
    kind = dataclasses.make_dataclass("report", REPORT)
    parsed, unknown = options.called(kind, "jaxpg report", options.COMMANDS["report"], arguments)
    if unknown:
        raise ValueError(unknown_name("option", unknown[0].lstrip("-"), ["out"]))
    if not parsed.directories:
        raise ValueError("report needs the directory of a run or a sweep")
    return parsed.directories, parsed.out
