"""The ``jaxpg`` command. JAX is imported only once the command is known to be right, so that ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxpg import __version__
from jaxpg.lab.cli import options
from jaxpg.lab.config import RunConfig, check_range, convert
from jaxpg.lab.engine import stopping
from jaxpg.lab.store.stored import CONFIG, SUMMARY, extended, finished, ours, read_config
from jaxpg.lab.sweep_config import SweepConfig, parse_vary

ABOUT = "Policy gradients in JAX, from REINFORCE to TRPO."
MODULES = (
    "policies.loading",
    "engine.progress",
    "policies.render",
    "engine.resuming",
    "engine.sweep_runner",
)  # they import all others


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit code: 0 done; 1 failed, 2 refused, one line says why; 128 + signal when asked to stop."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    commands = {"train": train, "sweep": sweep, "resume": resume, "evaluate": evaluate, "render": render, "report": report}
    try:
        if command == "--version":
            print(f"jaxpg {__version__}")
            return 0
        with refusing():
            options.choose("jaxpg", "command", command, options.COMMANDS, ABOUT)
        with stopping.listening() as stop:
            return commands[command](rest, stop)
    except Refusal as refusal:
        print(f"jaxpg: error: {refusal}", file=sys.stderr)
        return refusal.code
    except stopping.Stopped as asked:
        print(f"jaxpg: interrupted ({asked}){asked.then}", file=sys.stderr)
        return asked.code


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
def writing(directory: str) -> Iterator[None]:
    """Inside, ``directory`` is written. What the disk refuses is said in one line, and so is how to go on after a signal."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        then = f"what was saved before stays; jaxpg resume {directory} goes on from there"
        raise Refusal(f"{where}{error.strerror or error}; {then}", code=1) from error
    except stopping.Stopped as asked:
        began = (Path(directory) / CONFIG).exists()
        asked.then = f"; what was done is saved; jaxpg resume {directory} goes on" if began else "; nothing was written"
        raise


@contextlib.contextmanager
def starting(screen: Console, stop: stopping.Stop) -> Iterator[None]:
    """Checks and traces go on inside; what they refuse is one line, and nothing is written yet.

    A signal within a late import, of JAX's own, may be swallowed, or come out as an error of it: it is heard at the end.
    """
    with refusing(), screen.status("starting"):
        try:
            stop.imports("engine.devices")  # and no more yet: gymnax computes on the devices when it is imported
            from jaxpg.lab.engine import devices

            devices.use_all_cores()
            devices.keep_programs()
            stop.imports(*MODULES)
            logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs errors with their stacks, and then raises them
            yield
        except Exception:
            stop.check()
            raise
        stop.check()


def train(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg train``: check, run, show what came of it."""
    with refusing():
        config, _ = options.read("train", arguments)
    screen = Console(stderr=True)
    with writing(config.run_dir):
        with starting(screen, stop):
            from jaxpg.lab.engine import progress, runner

            job = runner.prepare(config)
        with refusing():
            writer = runner.claim(job)
        summary = runner.run(job, writer, progress.Progress(screen, config.env_steps, config.seeds), stop)
    progress.show_summary(Console(), summary, config.run_dir)
    return 0


def sweep(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg sweep``: the same for many settings; what an earlier try finished is not done again."""
    with refusing():
        config, own = read_sweep(arguments)
    return run_sweep(config, own, stop)


def run_sweep(config: SweepConfig, own: dict[str, Any], stop: stopping.Stop) -> int:
    """A sweep, with how it is to be run, and what came of it."""
    screen = Console(stderr=True)
    directory = config.base.run_dir
    with writing(directory):
        with refusing():
            stop.imports("engine.peers")  # and no more: others meet before anything looks for devices
            from jaxpg.lab.engine import peers

            where = own["distributed"]
            place = peers.join(where, own["silence"]) if where else peers.Place(silence=own["silence"])
        with starting(screen, stop):
            from jaxpg.lab.engine import progress, sweep_runner

            groups = sweep_runner.prepare(config)
        with refusing():
            memory = int(own["memory"] * 2**30) or None
            found = sweep_runner.run(config, groups, place, memory, screen, stop)
    if place.index == 0:
        progress.show_sweep(Console(), found, directory)
    return 0


def resume(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg resume``: the rest of a run or a sweep, or more of a run."""
    with refusing():
        own = options.read_own("resume", arguments, options.RESUME)
        directory, total_steps = options.named(own["directory"]), convert("total_steps", own["total_steps"], 0)
        check_range("total_steps", total_steps, 0, 2**53)
        config = read_config(directory)
        if isinstance(config, SweepConfig):
            if total_steps:
                raise ValueError("total_steps: a sweep goes no further than planned; start another with jaxpg sweep")
            return run_sweep(config, numbers({name: default for name, _, default in options.SWEEP[1:]}), stop)
        config = extended(config, total_steps) if total_steps else config
        done = finished(config)
        if done:
            from jaxpg.lab.engine import progress

            print(f"jaxpg: {directory} is finished; more with --total-steps", file=sys.stderr)
            with ours(Path(directory) / SUMMARY):
                progress.show_summary(Console(), done, directory)
            return 0
    return run_again(config, stop)


def run_again(config: RunConfig, stop: stopping.Stop) -> int:
    """The rest of a run."""
    screen = Console(stderr=True)
    with writing(config.run_dir):
        with starting(screen, stop):
            from jaxpg.lab.engine import progress, resuming, runner

            job = runner.build(config)
        with refusing():
            writer = runner.reopen(job)
        shown = progress.Progress(screen, config.env_steps, config.seeds)
        summary = runner.run(job, writer, shown, stop, resuming.resume(job, writer, shown.warn))
    progress.show_summary(Console(), summary, config.run_dir)
    return 0


def evaluate(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg evaluate``: how good the policies of a run are."""
    with refusing():
        own = options.read_own("evaluate", arguments, options.EVALUATE)
        directory = options.named(own["directory"])
        episodes, step = (convert(name, own[name], 0) for name in ("episodes", "step"))
        for name, value in (("episodes", episodes), ("step", step)):
            check_range(name, value, 0, 2**31 - 1)
        if own["greedy"] and own["sampled"]:
            raise ValueError("greedy and sampled: give one of them, or neither for both")
        modes = [name for name in ("greedy", "sampled") if own[name] or not (own["greedy"] or own["sampled"])]
        read_config(directory)  # what is wrong there is said at once
        with starting(Console(stderr=True), stop):
            from jaxpg.lab.engine import progress
            from jaxpg.lab.policies import loading

            found = loading.evaluate(directory, episodes or None, step or None, modes)
    progress.show_evaluation(Console(), found)
    return 0


def render(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg render``: what a policy of a run does, to look at."""
    with refusing():
        own = options.read_own("render", arguments, options.RENDER)
        directory = options.named(own["directory"])
        for name, low, high in (("seed", 0, 2**31 - 1), ("step", 0, 2**31 - 1), ("steps", 1, 10_000), ("fps", 1, 50)):
            own[name] = convert(name, own[name], 0)
            check_range(name, own[name], low, high)
        read_config(directory)  # what is wrong there is said at once
        with starting(Console(stderr=True), stop):
            from jaxpg.lab.policies import render

            path = render.write(directory, Path(own["out"]), own["seed"], own["step"] or None, own["steps"], own["fps"])
    print(path)
    return 0


def read_sweep(arguments: Sequence[str]) -> tuple[SweepConfig, dict[str, Any]]:
    """The sweep that a command line asks for, and how it is to be run."""
    base, own = options.read("sweep", arguments, options.SWEEP)
    vary = parse_vary(own.pop("vary"))
    return SweepConfig(base, vary), numbers(own)


def numbers(own: dict[str, Any]) -> dict[str, Any]:
    """How a sweep is to be run, checked."""
    own = own | {name: convert(name, own[name], 0.0) for name in ("memory", "silence")}
    check_range("memory", own["memory"], 0, 10**9)
    check_range("silence", own["silence"], 1, 10**9)
    return own


def report(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg report``: one page for several runs."""
    with refusing():
        own = options.read_own("report", arguments, options.REPORT)
        if not own["directories"]:
            raise ValueError("report needs the directory of a run or a sweep")
        stop.imports("report.page")
        from jaxpg.lab.report import page as report

        print(report.write(own["directories"], Path(own["out"])))
    return 0
