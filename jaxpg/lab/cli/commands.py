"""The ``jaxpg`` command. JAX is imported only after the options are checked, so that ``--help`` is fast."""

from __future__ import annotations

import contextlib
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
from jaxpg.lab.cli.streams import quiet_streams
from jaxpg.lab.config import Config, check_range
from jaxpg.lab.engine import stopping
from jaxpg.lab.store import searches
from jaxpg.lab.store.files import CONFIG, SUMMARY, TIMING, read_json
from jaxpg.lab.store.stored import make_config, read_config, read_content, report_damage

ABOUT = "Policy gradients in JAX, from REINFORCE to TRPO."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit codes: 0 success, 1 the disk failed, 2 wrong input, 128 + the signal if interrupted."""
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
        config, own = options.read("train", arguments, options.PROCESSES)
        check_silence(own)
    return execute(config, own, stop)


def sweep(arguments: Sequence[str], stop: stopping.Stop) -> int:
    """``jaxpg sweep``: ``jaxpg train`` for many settings."""
    with refusing():
        config, own = options.read("sweep", arguments, [options.VARY, *options.SEARCH, *options.PROCESSES])
        if not config.vary:
            raise ValueError("a sweep needs something to vary, e.g. --vary learning_rate=1e-4,1e-3")
        check_silence(own)
        if own["halving"] and own["distributed"]:
            raise ValueError("halving: a search needs a single process; leave out --distributed")
        rule = searches.read_rule(own["halving"]) if own["halving"] else None
    return search(config, rule, stop) if rule else execute(config, own, stop)


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
        own = options.read_own("resume", arguments, [*options.RESUME, *options.PROCESSES])
        directory, total_steps = options.require_directory(own["directory"]), convert("total_steps", own["total_steps"], 0)
        check_range("total_steps", total_steps, 0, 2**53)
        check_silence(own)
        if searches.is_search(directory):
            return resume_search(directory, total_steps, stop)
        there = read_content(directory)
        config = make_config(directory, there)
        config = config.extended(total_steps) if total_steps else config
        if is_finished(config, there["identity"]):
            more = "" if config.own or config.stop_at else "; more with --total-steps"
            print(f"jaxpg: {printable(directory)} is finished{more}", file=sys.stderr)
            show(directory)
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


def check_silence(own: dict[str, Any]) -> None:
    """Convert the number in ``--silence`` and check its range."""
    own["silence"] = convert("silence", own["silence"], 0.0)
    check_range("silence", own["silence"], 1, 10**9)


def check_named(config: Config) -> None:
    """Raise ``ValueError`` for an experiment with an algorithm of the user's own, which only their program can make."""
    if config.own:
        call = "jaxpg.run(algorithm, directory=...) continues it, jaxpg.load_policy(directory, algo=...) loads its policies"
        raise ValueError(f"{printable(config.run_dir)} was trained with an algorithm of your own, which is not stored; {call}")


def is_finished(config: Config, identity: str) -> bool:
    """Whether the directory holds the summary of this experiment, with its checksum intact."""
    try:
        summary = read_json(Path(config.run_dir) / SUMMARY)
    except ValueError:
        return False
    return summary.get("identity") == identity and summary.get("total_steps") == config.total_steps


def execute(config: Config, own: dict[str, Any], stop: stopping.Stop) -> int:
    """Train the missing part of an experiment, and print the results."""
    screen = Console(stderr=True)
    directory = config.run_dir
    is_continued = bool(directory) and (Path(directory) / CONFIG).exists()

    with ending(lambda: directory):
        with refusing():
            stop.import_modules("engine.peers")  # nothing else yet: processes connect before JAX looks for devices
            from jaxpg.lab.engine import peers

            where, silence = own["distributed"], own["silence"]
            place = peers.join(where, silence) if where else peers.Place(silence=silence)
        with starting(screen, stop, "engine.experiment", "engine.loggers"):
            from jaxpg.lab.engine import experiment, loggers, progress

            warn = functools.partial(progress.warn, screen)
            loggers.check_loggers(config.log)
            if config.log and place.count > 1:
                raise ValueError(
                    "log: loggers need a single process; leave it out with --distributed, metrics.jsonl has all rows"
                )
            job = experiment.prepare(config, place=place)
        with refusing():
            job = experiment.claim(job)
            directory = job.config.run_dir
            try:
                opened = loggers.open_loggers(config.log, Path(directory), read_content(directory), is_continued, warn)
            except ValueError:
                if not is_continued:  # nothing was trained: leave the directory free for another command
                    (Path(directory) / CONFIG).unlink()
                raise
            experiment.run(job, screen, stop, loggers.Loggers(opened, warn))
    if place.index == 0:
        show(directory)
    return 0


@contextlib.contextmanager
def ending(directory: Callable[[], str]) -> Iterator[None]:
    """Say, where training was stopped or the disk failed, which command continues from what ``directory`` holds."""
    try:
        yield
    except OSError as error:
        where = f"{printable(error.filename)}: " if error.filename else ""
        then = say_resume(directory(), "everything saved before is kept")
        raise Refusal(f"{where}{error.strerror or error}; {then}", code=1) from error
    except stopping.Stopped as asked:
        asked.then = "; " + say_resume(directory(), asked.then or "what was done is saved")
        raise


def say_resume(directory: str, saved: str) -> str:
    """Say what is saved and which command continues from there, or that nothing was written."""
    if not directory or not ((Path(directory) / CONFIG).exists() or searches.is_search(directory)):
        return "nothing was written"
    return f"{saved}; jaxpg resume {shlex.quote(directory)} continues"


def show(directory: str) -> None:
    """Print the results of a finished experiment, and where its files are."""
    from jaxpg.lab.report import terminal
    from jaxpg.lab.store import results

    with refusing(), report_damage(Path(directory) / f"{SUMMARY} or {TIMING}"):
        summary = read_json(Path(directory) / SUMMARY) | read_json(Path(directory) / TIMING)
        terminal.show(Console(), results.read(directory), summary, directory)


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
