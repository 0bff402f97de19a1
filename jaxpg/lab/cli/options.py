"""Reading the command line: which options there are, their help and defaults, and what is said of those that are wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn, Union

import tyro

from jaxpg.algorithms import presets
from jaxpg.core.hparams import HParams, unknown_name
from jaxpg.lab.config import Config, parse_env_params, parse_vary

Field = tuple[str, Any, Any]  # name, annotation, default

COMMANDS = {
    "train": "Train an algorithm on an environment, many seeds at once.",
    "sweep": "Train it with many values of its hyperparameters, many seeds each, as one program.",
    "resume": "Continue what was interrupted, or train further than planned.",
    "evaluate": "Evaluate trained policies.",
    "render": "Draw a trained policy, before training and after, as a GIF, or as a page for environments of Brax.",
    "export": "Write a trained policy as a program that needs no jaxpg, StableHLO, with a model card.",
    "report": "Put experiments on one page: tables, figures, configurations.",
    "envs": "List the environments of gymnax or of another suite: spaces, time limits, presets.",
}
ALGORITHMS = {
    "reinforce": "complete episodes, weighted with the return that followed each action",
    "reinforce_baseline": "REINFORCE minus a learned value of each state",
    "actor_critic": "one-step bootstrapping in place of complete returns",
    "a2c": "actor-critic with longer returns and an entropy bonus",
    "ppo": "A2C with the clipped surrogate and many gradient steps on the same data",
    "trpo": "A2C with steps of bounded KL divergence in place of gradient steps",
}
NOTHING = {"run_dir": "a new one in runs/"}  # what an empty default stands for, where it is not just none


def choose(prog: str, kind: str, name: str, known: Mapping[str, str], about: str) -> None:
    """Pass a known name; ``--help`` lists them."""
    if name in ("-h", "--help"):
        menu = [Annotated[Any, tyro.conf.subcommand(k, description=v, constructor=dict)] for k, v in known.items()]
        padding = Annotated[None, tyro.conf.Suppress]  # a union has two members at least
        tyro.cli(Union[*menu, padding], prog=prog, description=about, args=["--help"])  # pyright: ignore
    if name not in known:
        raise ValueError(unknown_name(kind, name, known))


def read(command: str, arguments: Sequence[str], own: Sequence[Field] = ()) -> tuple[Config, dict[str, Any]]:
    """The experiment that ``jaxpg COMMAND ALGO --OPTION ...`` asks for, and the values of the command's ``own`` options.

    ``ValueError``, of one line, for anything that will not do; ``SystemExit`` after ``--help``.
    """
    algo, *options = arguments or [""]
    if not algo:
        raise ValueError(f"{command} needs an algorithm: {', '.join(ALGORITHMS)}")
    choose(f"jaxpg {command}", "algorithm", algo, ALGORITHMS, COMMANDS[command])
    return parse(command, algo, options, own)


def parse(command: str, algo: str, arguments: list[str], own: Sequence[Field]) -> tuple[Config, dict[str, Any]]:
    """The options of one algorithm; defaults are the presets of the environment that is asked for."""
    if sum(text.partition("=")[0].replace("_", "-") == "--env-params" for text in arguments) > 1:
        raise ValueError("env_params is given twice; put all NAME=VALUE after one --env-params")
    *_, env = Config.env, *re.findall(r"^--env(?:=|\n)(.+)", "\n".join(arguments), re.MULTILINE)
    options = option_fields(algo, env)
    kind = dataclasses.make_dataclass(algo, [*own, ENV_PARAMS, *config_fields(), *options])
    about = f"{algo}: {ALGORITHMS[algo]}. Defaults are those for {env}."
    parsed, unknown = called(kind, f"jaxpg {command} {algo}", about, arguments)
    if unknown:
        refuse(command, algo, unknown, [field.name for field in dataclasses.fields(kind)])
    values = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    mine = {name: values.pop(name) for name, *_ in own}
    env_params = parse_env_params(values.pop("env_params"))
    fields = {name: values.pop(name) for name, *_ in config_fields()}
    return Config(algo, **fields, env_params=env_params, options=values, vary=parse_vary(mine.pop("vary", ()))), mine


def read_own(command: str, arguments: Sequence[str], own: Sequence[Field]) -> dict[str, Any]:
    """The values of a command's options, where it has no others."""
    kind = dataclasses.make_dataclass(command, own)
    parsed, unknown = called(kind, f"jaxpg {command}", COMMANDS[command], arguments)
    if unknown and not unknown[0].startswith("-"):
        raise ValueError(f"unexpected {unknown[0]!r}; see jaxpg {command} --help")
    if unknown:
        raise ValueError(unknown_name("option", unknown[0].lstrip("-"), [name.rstrip("_") for name, *_ in own[1:]]))
    return {name: getattr(parsed, name) for name, *_ in own}


def called(kind: Any, prog: str, about: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """``kind`` made by tyro of the command line, and the arguments that it has no use for; its complaints as ``ValueError``."""
    boxed = io.StringIO()
    if arguments and arguments[0].replace("_", "-").startswith("--tyro"):  # its own: writes completions for a shell, or fails
        raise ValueError(unknown_name("option", arguments[0].lstrip("-_"), [field.name for field in dataclasses.fields(kind)]))
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(kind, prog=prog, description=about, args=list(arguments), return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(unboxed(boxed.getvalue())) from None


def config_fields() -> list[Field]:
    """The options that every algorithm has, as fields for tyro."""
    return [option(f.name, f.default, f.metadata["help"]) for f in dataclasses.fields(Config) if f.metadata]


def option_fields(algo: str, env: str) -> list[Field]:
    """The options of ``algo`` with their defaults on ``env``: sizes first, then hyperparameters."""
    helps = presets.SIZES | {f.name: f.metadata["help"] for f in dataclasses.fields(HParams)}
    helps |= {name: f"{helps[name]}; {off}" for name, off in presets.SWITCHES.items()}
    defaults = presets.options(algo, env)
    return [option(name, defaults[name], help) for name, help in helps.items() if name in defaults]


def option(name: str, default: Any, help: str) -> Field:
    """One field for tyro: text, because :class:`Config` converts and checks every value, wherever it comes from."""
    if isinstance(default, bool):
        return name, Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=help)], default
    many = isinstance(default, tuple)
    like = (default or ("",))[0] if many else default
    word = {int: "INT", float: "FLOAT", str: "TEXT"}[type(like)]
    hint = None if default not in ((), "") else f"(default: {NOTHING.get(name, 'none')})"
    settings = tyro.conf.arg(help=help, metavar=f"[{word} ...]" if many else word, help_behavior_hint=hint)
    if many:
        return name, Annotated[tuple[str, ...], settings], tuple(map(str, default))
    return name, Annotated[str, settings], str(default)


def refuse(command: str, algo: str, unknown: Sequence[str], known: Sequence[str]) -> NoReturn:
    """``ValueError`` for arguments that ``algo`` has no use for."""
    name, _, value = unknown[0].lstrip("-").replace("-", "_").partition("=")
    if not unknown[0].startswith("-"):
        raise ValueError(f"unexpected {unknown[0]!r}; an option starts with --, see jaxpg {command} {algo} --help")
    if name == "vary":
        raise ValueError(f"{command} trains one setting; jaxpg sweep {algo} --vary ... trains several")
    if any(name in rows["default"] for rows in presets.PRESETS.values()):
        presets.options(algo, None, **{name: value or " ".join(unknown[1:2])})  # another algorithm's: it says so
    raise ValueError(unknown_name("option", name, known))


def unboxed(text: str) -> str:
    """The words of tyro's error box in one line, without its frame, its title and its footer."""
    lines = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    body = itertools.takewhile(lambda line: not line.startswith("──"), lines)
    return " ".join(body) or " ".join(text.split())


def named(directory: str) -> str:
    """``directory``, which must have been given."""
    if not directory:
        raise ValueError("the directory of an experiment is missing, e.g. runs/lr")
    return directory


VARY_HELP = "NAME=V1,V2,... or NAME=log:LOW:HIGH:COUNT or NAME=lin:...; again for each further name (hidden: 64x64,32x32)"
Append = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(help=VARY_HELP, metavar="NAME=VALUES")]
VARY: Field = ("vary", Append, ())
PARAMS_HELP = "numbers in place of the environment's own, e.g. max_steps_in_episode=1000 gravity=5.0"
Params = Annotated[
    tuple[str, ...], tyro.conf.arg(help=PARAMS_HELP, metavar="[NAME=VALUE ...]", help_behavior_hint="(default: none)")
]
ENV_PARAMS: Field = ("env_params", Params, ())
PROCESSES: list[Field] = [
    option("distributed", "", "share it with other processes: auto, or HOST:PORT,COUNT,INDEX (no authentication)"),
    option("silence", 100.0, "seconds without a sign of life after which another process counts as lost"),
]
DIRECTORIES_HELP = "what jaxpg train, jaxpg sweep or jaxpg.run wrote"
Directories = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(help=DIRECTORIES_HELP, metavar="DIR ...", help_behavior_hint="(one at least)"),
]
Directory = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(help="the directory of the experiment", metavar="DIR", help_behavior_hint="(required)"),
]
Suite = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(help="a suite beside gymnax, e.g. brax", metavar="[SUITE]", help_behavior_hint="(default: gymnax)"),
]
ENVS: list[Field] = [("suite", Suite, "")]
REPORT: list[Field] = [
    ("directories", Directories, ()),
    option("out", "report.html", "the page, which needs no other file and no network"),
]
RESUME: list[Field] = [
    ("directory", Directory, ""),
    option("total_steps", 0, "environment steps per run in all, to go further than planned; 0: as planned"),
]
SETTING = option("setting", 0, "which of the settings of a sweep, in the order of its summary")
STEP = option("step", 0, "the checkpoint after this update; 0: the newest")
IN_HELP = "play there: gymnasium:ENV, e.g. gymnasium:CartPole-v1; gymnasium is its environment of the same name"
In = Annotated[str, tyro.conf.arg(name="in", help=IN_HELP, metavar="SUITE:ENV", help_behavior_hint="(default: none)")]
EVALUATE: list[Field] = [
    ("directory", Directory, ""),
    SETTING,
    option("episodes", 0, "episodes per seed; 0: as many as at the end of training"),
    STEP,
    option("greedy", False, "only the most probable actions"),
    option("sampled", False, "only sampled actions"),
    option("json", False, "print JSON"),
    ("in_", In, ""),
]
RENDER: list[Field] = [
    ("directory", Directory, ""),
    option("out", "policy", "the picture; .gif is added, or for an environment of Brax .html, a page with its viewer"),
    SETTING,
    option("seed", 0, "which of the seeds"),
    STEP,
    option("steps", 250, "environment steps to show"),
    option("fps", 25, "pictures per second of a GIF"),
]
EXPORT: list[Field] = [
    ("directory", Directory, ""),
    option("out", "policy.bin", "the program; the model card beside it ends with .md"),
    SETTING,
    option("seed", 0, "which of the seeds"),
    STEP,
    option("sampled", False, "sample actions with a key; by default the most probable are taken"),
]
RENDER_RANGES = {"steps": (1, 10_000), "fps": (1, 50)}
