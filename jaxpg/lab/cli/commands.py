"""The ``jaxpg`` command. JAX is imported only after the options are checked, so that ``--help`` is fast."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxpg import __version__
from jaxpg.algorithms.presets import convert
from jaxpg.core.hparams import printable
from jaxpg.lab.cli import options
from jaxpg.lab.cli.deferred import defer
from jaxpg.lab.cli.streams import AbortFilter, quiet_streams
from jaxpg.lab.config import Config, Part, check_range
from jaxpg.lab.engine import stopping
from jaxpg.lab.store import remote, searches
from jaxpg.lab.store.files import CONFIG, SUMMARY, TIMING, read_json
from jaxpg.lab.store.objects import is_address
from jaxpg.lab.store.stored import make_config, read_config, read_content, report_damage

ABOUT = "Policy gradients in JAX, from REINFORCE to TRPO."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit codes: 0 success, 1 disk or store failed, 2 wrong input, 128 + the signal if interrupted."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    commands = {
        "train": train,
        "sweep": sweep,
        "resume": resume,
        "evaluate": evaluate,
        "render": render,
        "export": export,
        "report": report,
        "envs": envs,
    }
    with quiet_streams():
        try:
            if command == "--version":
                print(f"jaxpg {__version__}")
                return 0
            with refusing():
                options.choose("jaxpg", "command", command, options.COMMANDS, ABOUT)
            with stopping.listen() as stop:
                return commands[command](rest, stop)
        except remote.Unreachable as error:
            print(printable(f"jaxpg: error: {error}"), file=sys.stderr)
            return 1
        except Refusal as refusal:
            print(printable(f"jaxpg: error: {refusal}"), file=sys.stderr)
            return refusal.code
        except stopping.Stopped as asked:
            print(printable(f"jaxpg: interrupted ({asked}){asked.then}"), file=sys.stderr)
            return asked.code


class Refusal(Exception):
    """An error to report in one line. ``code`` is the exit code: 2 for wrong input, 1 for a failed disk."""

    def __init__(self, reason: object, code: int = 2) -> None:
        super().__init__(reason)
        self.code = code


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn a ``ValueError`` of one line, which is about the input, into a ``Refusal``. Longer ones are bugs and raised."""
    try:
        yield
    except ValueError as error:
        if "\n" in str(error):
            raise
        raise Refusal(error) from error


@contextlib.contextmanager
def starting(screen: Console, stop: stopping.Stop, *modules: str) -> Iterator[None]:
    """Show that the command is starting, import ``modules`` of the lab, and report errors inside in one line.

    A signal that arrives while JAX imports one of its modules may get lost, or cause an import error. Therefore ``stop`` is
    checked at the end and after an error.
    """
    with refusing(), screen.status("starting"):
        try:
            stop.import_modules("engine.devices")  # nothing else yet: importing gymnax already uses the devices
            from jaxpg.lab.engine import devices

            devices.use_all_cores()
            devices.keep_programs()
            devices.check_platform()
            defer("seaborn", "matplotlib.pyplot")  # which gymnax imports
            logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs each error, with its traceback, and raises it
            stop.import_modules(*modules)
            yield
        except Exception:
            stop.check()
            raise
        stop.check()


def train(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg train``: check the options, train, print the results. The same command again continues its experiment."""
    with refusing():
        config, own = options.read("train", arguments, [*options.WORKERS, *options.HOSTS])
    return execute(config, own, stop)


def sweep(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg sweep``: ``jaxpg train`` for many settings."""
    with refusing():
        config, own = options.read("sweep", arguments, [options.VARY, *options.SEARCH, *options.WORKERS, *options.HOSTS])
        if not config.vary:
            raise ValueError("a sweep needs something to vary, e.g. --vary learning_rate=1e-4,1e-3")
        rule = searches.read_rule(own["halving"]) if own["halving"] else None
        if rule:
            check_alone(config, own)
    return search(config, rule, stop) if rule else execute(config, own, stop)


def check_alone(config: Config, own: dict[str, Any]) -> None:
    """Raise ``ValueError`` for options of several processes or machines, which a search does not have."""
    if own["launcher"] != "local" or own["part"] or own["coordinator"]:
        raise ValueError("halving: a search needs a single process; leave out --launcher, --part and --coordinator")
    if is_address(config.run_dir):
        raise ValueError(f"run_dir = {printable(config.run_dir)}: a search needs a directory on this machine")


def search(config: Config, rule: tuple[int, int], stop: stopping.Stop) -> int:
    """Train the missing part of a search by successive halving, and print its results."""
    screen, directory = Console(stderr=True), config.run_dir
    with ending(lambda: directory):
        with starting(screen, stop, "engine.halving"):
            from jaxpg.lab.engine import halving, loggers

            loggers.check_loggers(config.log)
            found = halving.prepare(config, rule)
        with refusing():
            found = halving.claim(found)
            directory = found.config.run_dir
            halving.run(found, screen, stop)
    show_search(directory)
    return 0


def resume(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg resume``: continue an experiment to its end, or train it further."""
    with refusing():
        own = options.read_own("resume", arguments, [*options.RESUME, *options.WORKERS, *options.HOSTS])
        directory, total_steps = options.require_directory(own["directory"]), convert("total_steps", own["total_steps"], 0)
        check_range("total_steps", total_steps, 0, 2**53)
        if searches.is_search(directory):
            return resume_search(directory, total_steps, stop)
        there = read_content(directory)
        config = make_config(directory, there)
        config = config.extended(total_steps) if total_steps else config
        if is_finished(config, there["identity"]):
            more = "" if config.own or config.stop_at else "; more with --total-steps"
            print(f"jaxpg: {printable(directory)} is finished{more}", file=sys.stderr)
            hosts = options.parse_hosts(own["coordinator"], own["process"])
            if not hosts or hosts[1] == 0:
                with remote.reading(directory) as copy:
                    copy.fetch_results()
                    show(copy.directory, copy.name)
            return 0
        check_named(config)
        if searches.is_search(parent := Path(directory).absolute().parent):
            raise ValueError(
                f"{printable(directory)} is a rung of a search; jaxpg resume {shlex.quote(str(parent))} continues it"
            )
    return execute(config, own, stop)


def resume_search(directory: str, total_steps: int, stop: stopping.Stop) -> int:
    """``jaxpg resume`` for a search."""
    config, rule = searches.grid_config(directory, there := searches.read_search(directory))
    if total_steps:
        raise ValueError("total_steps: a search cannot be trained further; train its best setting by itself")
    if is_finished(config, there["identity"]):
        print(f"jaxpg: {printable(directory)} is finished", file=sys.stderr)
        show_search(directory)
        return 0
    check_named(config)
    return search(config, rule, stop)


def check_named(config: Config) -> None:
    """Raise ``ValueError`` for an experiment with an algorithm of the user's own, which only their program can make."""
    if config.own:
        call = "jaxpg.run(algorithm, directory=...) continues it, jaxpg.load_policy(directory, algo=...) loads its policies"
        raise ValueError(f"{printable(config.run_dir)} was trained with an algorithm of your own, which is not stored; {call}")


def is_finished(config: Config, identity: str) -> bool:
    """Whether the directory holds the summary of this experiment, with its checksum intact."""
    try:
        with remote.reading(config.run_dir) as copy:
            copy.fetch(SUMMARY, TIMING)
            summary = read_json(copy.directory / SUMMARY)
    except ValueError:
        return False
    return summary.get("identity") == identity and summary.get("total_steps") == config.total_steps


def execute(config: Config, own: dict[str, Any], stop: stopping.Stop) -> int:
    """Train the missing part of an experiment, perhaps together with other processes, and print the results."""
    with refusing():
        part = Part.parse(own["part"]) if own["part"] else None
        found = options.parse_hosts(own["coordinator"], own["process"])
        if not found:
            return execute_in_directory(config, own, part, stop)
        if part is not None or own["launcher"] != "local":
            raise ValueError("coordinator: the processes train together; leave out --launcher and --part")
        if is_address(config.run_dir):
            raise ValueError(
                f"run_dir = {printable(config.run_dir)}: processes that train together need a directory on a shared disk"
            )
        stop.import_modules("engine.hosts")  # nothing else yet: processes connect before JAX looks for devices
        from jaxpg.lab.engine import hosts

        address, index, count = found
        hosts.join(address, hosts.Place(index, count))
    screen = AbortFilter(hosts.end_without_first)
    try:
        with hosts.together(stop):
            return execute_in_directory(config, own, None, stop, is_first=hosts.place().index == 0)
    except BaseException as error:
        screen.leave(getattr(error, "code", 1))
        raise


def execute_in_directory(
    config: Config, own: dict[str, Any], part: Part | None, stop: stopping.Stop, *, is_first: bool = True
) -> int:
    """Open the run directory, which may be at an address, and train there."""
    say = lambda text: print(printable(f"jaxpg: {text}"), file=sys.stderr)  # noqa: E731
    with refusing(), remote.writing(config.run_dir, say, part=part.name if part else "") as copy:
        return execute_in(copy, dataclasses.replace(config, run_dir=copy.run_dir), own, part, stop, is_first)


def execute_in(
    copy: remote.OnDisk, config: Config, own: dict[str, Any], part: Part | None, stop: stopping.Stop, is_first: bool
) -> int:
    """Train in a directory here, which may be the ``copy`` of one at an address. The first process logs and prints."""
    screen = Console(stderr=True, quiet=not is_first)
    directory = config.run_dir
    is_continued = bool(directory) and (Path(directory) / CONFIG).exists()

    with ending(lambda: directory, copy):
        with starting(screen, stop, "engine.experiment", "engine.launch", "engine.loggers"):
            from jaxpg.lab.engine import experiment, launch, loggers, progress

            warn = functools.partial(progress.warn, screen)
            launcher = launch.make_launcher(own["launcher"], launch.parse_resources(own["resources"]))
            launch.check_workers(config, launcher, part)
            loggers.check_loggers(config.log)
            job = experiment.prepare(config, part=part, trains_here=launcher is None)
            if launcher is not None:
                launcher.connect()
        with refusing():
            job = experiment.claim(job)
            directory = job.config.run_dir
            if launcher is not None:
                launch.run(job, launcher, screen, stop, copy=copy)
            else:
                try:
                    names = config.log if is_first else ()
                    opened = loggers.open_loggers(names, Path(directory), read_content(directory), is_continued, warn)
                except ValueError:
                    if not is_continued:  # nothing was trained: leave the directory free for another command
                        (Path(directory) / CONFIG).unlink()
                    raise
                experiment.run(job, screen, stop, loggers.Loggers(opened, warn), copy)
    with refusing():
        if part is not None and not is_finished(job.config, job.identity):
            missing = job.num_runs - experiment.count_finished(job)
            print(f"jaxpg: part {own['part']} is finished; {missing:,} runs of other parts are not", file=sys.stderr)
            return 0
    if is_first:
        show(directory, copy.name or directory)
    return 0


@contextlib.contextmanager
def ending(directory: Callable[[], str], copy: remote.OnDisk = remote.HERE) -> Iterator[None]:
    """Say, where training was stopped or the disk failed, which command continues from what ``directory`` holds."""
    try:
        yield
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        then = say_resume(directory(), copy.name or directory(), "everything saved before is kept" + copy.note)
        raise Refusal(f"{where}{error.strerror or error}; {then}", code=1) from error
    except stopping.Stopped as asked:
        saved = asked.then + copy.note if asked.then else "what was done is saved"
        asked.then = "; " + say_resume(directory(), copy.name or directory(), saved)
        raise


def say_resume(directory: str, name: str, saved: str) -> str:
    """Say what is saved and which command continues from there, or that nothing was written."""
    if not directory or not ((Path(directory) / CONFIG).exists() or searches.is_search(directory)):
        return "nothing was written"
    return f"{saved}; jaxpg resume {shlex.quote(name)} continues"


def show(directory: str | Path, name: str) -> None:
    """Print the results of a finished experiment, and where its files are."""
    from jaxpg.lab.report import terminal
    from jaxpg.lab.store import results

    with refusing(), report_damage(Path(directory) / f"{SUMMARY} or {TIMING}"):
        summary = read_json(Path(directory) / SUMMARY) | read_json(Path(directory) / TIMING)
        terminal.show(Console(), results.read(directory), summary, name)


def show_search(directory: str) -> None:
    """Print the results of a finished search."""
    from jaxpg.lab.report import rungs

    with refusing():
        rungs.show(Console(), directory)


def evaluate(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg evaluate``: evaluate the policies of a setting."""
    with refusing():
        own = options.read_own("evaluate", arguments, options.EVALUATE)
        directory = options.require_directory(own["directory"])
        episodes, step, setting = (convert(name, own[name], 0) for name in ("episodes", "step", "setting"))
        for name, value in (("episodes", episodes), ("step", step), ("setting", setting)):
            check_range(name, value, 0, 2**31 - 1)
        if own["greedy"] and own["sampled"]:
            raise ValueError("greedy and sampled: give one of them, or neither for both")
        modes = [name for name in ("greedy", "sampled") if own[name] or not (own["greedy"] or own["sampled"])]
        check_named(read_config(directory))  # what is wrong there is said at once
        which = {"setting": setting, "episodes": episodes or None, "step": step or None, "modes": modes}
        with starting(Console(stderr=True), stop, "policies.elsewhere" if own["in_"] else "policies.loading"):
            from jaxpg.lab.policies import loading
            from jaxpg.lab.report import terminal

            if own["in_"]:
                from jaxpg.lab.policies import elsewhere

                found = elsewhere.evaluate(directory, own["in_"], **which)
            else:
                found = loading.evaluate(directory, **which)
    if own["json"]:
        print(json.dumps(terminal.evaluation_json(found), indent=2))
    else:
        terminal.show_evaluation(Console(), found)
    return 0


def render(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg render``: draw what a policy does."""
    with refusing():
        own = options.read_own("render", arguments, options.RENDER)
        directory = options.require_directory(own["directory"])
        limits = {
            "setting": (0, 2**31 - 1),
            "seed": (0, 2**31 - 1),
            "step": (0, 2**31 - 1),
            "steps": (1, 10_000),
            "fps": (1, 50),
        }
        for name, (low, high) in limits.items():
            own[name] = convert(name, own[name], 0)
            check_range(name, own[name], low, high)
        check_named(read_config(directory))  # what is wrong there is said at once
        with starting(Console(stderr=True), stop, "policies.render"):
            from jaxpg.lab.policies import render

            which = {"setting": own["setting"], "seed": own["seed"], "step": own["step"] or None}
            path = render.write(directory, Path(own["out"]), **which, steps=own["steps"], fps=own["fps"])
    print(printable(path))
    return 0


def export(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg export``: write a policy for programs without jaxpg."""
    with refusing():
        own = options.read_own("export", arguments, options.EXPORT)
        directory = options.require_directory(own["directory"])
        for name in ("setting", "seed", "step"):
            own[name] = convert(name, own[name], 0)
            check_range(name, own[name], 0, 2**31 - 1)
        check_named(read_config(directory))  # what is wrong there is said at once
        with starting(Console(stderr=True), stop, "policies.exporting"):
            from jaxpg.lab.policies import exporting

            which = {"setting": own["setting"], "seed": own["seed"], "step": own["step"] or None}
            path = exporting.export_policy(directory, Path(own["out"]), **which, sampled=own["sampled"])
    print(printable(path))
    return 0


def report(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg report``: write one page about several experiments."""
    with refusing():
        own = options.read_own("report", arguments, options.REPORT)
        if not own["directories"]:
            raise ValueError("report needs the directory of an experiment, e.g. runs/lr")
        stop.import_modules("report.page")
        from jaxpg.lab.report import page

        print(printable(page.write(own["directories"], Path(own["out"]))))
    return 0


def envs(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg envs [SUITE]``: list environments."""
    with refusing():
        suite = options.read_own("envs", arguments, options.ENVS)["suite"]
        with starting(Console(stderr=True), stop, "cli.environments"):
            from jaxpg.lab.cli import environments
        environments.show(Console(), suite)
    return 0
