"""The ``jaxpg`` command. JAX is imported only once the command is known to be right, so that ``--help`` answers at once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NoReturn, Union

import tyro
from rich.console import Console

from jaxpg import __version__, presets
from jaxpg.hparams import HParams, unknown_name
from jaxpg.lab.config import RunConfig

ABOUT = "Policy gradients in JAX, from REINFORCE to TRPO."
COMMANDS = {"train": "Train an algorithm on an environment, many seeds at once."}
ALGORITHMS = {
    "reinforce": "whole episodes, weighted with the return that followed each action",
    "reinforce_baseline": "REINFORCE minus a learned value of each state",
    "actor_critic": "one-step bootstrapping in place of whole returns",
    "a2c": "actor-critic with longer returns and an entropy bonus",
    "ppo": "A2C with the clipped surrogate and many gradient steps on the same data",
    "trpo": "A2C with steps of bounded KL divergence in place of gradient steps",
}
NOTHING = {"run_dir": "a new one in runs/"}  # what an empty default stands for, where it is not just none


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. The exit code: 0 done; 2 refused, one line says why and nothing is written; 130 interrupted."""
    try:
        return train(read(list(sys.argv[1:] if arguments is None else arguments)))
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


def train(config: RunConfig) -> int:
    """``jaxpg train``: check, run, show what came of it."""
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


@refusing()
def read(arguments: list[str]) -> RunConfig:
    """The configuration that a command line asks for; ``SystemExit`` after ``--help`` or ``--version``."""
    command, *rest = arguments or ["--help"]
    if command == "--version":
        print(f"jaxpg {__version__}")
        raise SystemExit(0)
    choose("jaxpg", "command", command, COMMANDS, ABOUT)
    if not rest:
        raise ValueError(f"train needs an algorithm: {', '.join(ALGORITHMS)}")
    algo, *options = rest
    choose("jaxpg train", "algorithm", algo, ALGORITHMS, COMMANDS["train"])
    return parse(algo, options)


def choose(prog: str, kind: str, name: str, known: dict[str, str], about: str) -> None:
    """Pass a known name; ``--help`` lists them."""
    if name in ("-h", "--help"):
        menu = [Annotated[Any, tyro.conf.subcommand(k, description=v, constructor=dict)] for k, v in known.items()]
        padding = Annotated[None, tyro.conf.Suppress]  # a union has two members at least
        tyro.cli(Union[*menu, padding], prog=prog, description=about, args=["--help"])  # pyright: ignore
    if name not in known:
        raise ValueError(unknown_name(kind, name, known))


def parse(algo: str, arguments: list[str]) -> RunConfig:
    """The configuration of ``jaxpg train ALGO ...``; defaults are the presets of the environment that is asked for."""
    *_, env = RunConfig.env, *re.findall(r"^--env(?:=|\n)(.+)", "\n".join(arguments), re.MULTILINE)
    options = option_fields(algo, env)
    kind = dataclasses.make_dataclass(algo, [*run_fields(), *options])
    about = f"{algo}: {ALGORITHMS[algo]}. Defaults are those for {env}."
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            parsed, unknown = tyro.cli(
                kind, prog=f"jaxpg train {algo}", description=about, args=arguments, return_unknown_args=True
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(unboxed(boxed.getvalue())) from None
    if unknown:
        refuse(algo, unknown, [field.name for field in dataclasses.fields(kind)])
    values = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    run = {name: values.pop(name) for name, *_ in run_fields()}
    return RunConfig(algo, **run, options=values)


def run_fields() -> list[tuple[str, Any, Any]]:
    """The options that every algorithm has, as fields for tyro."""
    return [option(f.name, f.default, f.metadata["help"]) for f in dataclasses.fields(RunConfig) if f.metadata]


def option_fields(algo: str, env: str) -> list[tuple[str, Any, Any]]:
    """The options of ``algo`` with their defaults on ``env``: sizes first, then hyperparameters."""
    helps = presets.SIZES | {f.name: f.metadata["help"] for f in dataclasses.fields(HParams)}
    defaults = presets.options(algo, env)
    return [option(name, defaults[name], help) for name, help in helps.items() if name in defaults]


def option(name: str, default: Any, help: str) -> tuple[str, Any, Any]:
    """One field for tyro: text, because :class:`RunConfig` converts and checks every value, wherever it comes from."""
    many = isinstance(default, tuple)
    like = (default or ("",))[0] if many else default
    word = {int: "INT", float: "FLOAT", str: "TEXT"}[type(like)]
    hint = None if default not in ((), "") else f"(default: {NOTHING.get(name, 'none')})"
    settings = tyro.conf.arg(help=help, metavar=f"[{word} ...]" if many else word, help_behavior_hint=hint)
    if many:
        return name, Annotated[tuple[str, ...], settings], tuple(map(str, default))
    return name, Annotated[str, settings], str(default)


def refuse(algo: str, unknown: Sequence[str], known: Sequence[str]) -> NoReturn:
    """``ValueError`` for arguments that ``algo`` has no use for."""
    name, _, value = unknown[0].lstrip("-").replace("-", "_").partition("=")
    if not unknown[0].startswith("-"):
        raise ValueError(f"unexpected {unknown[0]!r}; an option starts with --, see jaxpg train {algo} --help")
    if any(name in rows["default"] for rows in presets.PRESETS.values()):
        presets.options(algo, None, **{name: value or " ".join(unknown[1:2])})  # another algorithm's: it says so
    raise ValueError(unknown_name("option", name, known))


def unboxed(text: str) -> str:
    """The words of tyro's error box in one line, without its frame, its title and its footer."""
    lines = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    body = itertools.takewhile(lambda line: not line.startswith("──"), lines)
    return " ".join(body) or " ".join(text.split())
