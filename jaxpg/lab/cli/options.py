"""Read the command line: the options with their help and defaults, and the errors for wrong ones."""

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
from jaxpg.core.hparams import HParams, shown, unknown_name
from jaxpg.lab.config import Config, parse_env_params, parse_vary

Field = tuple[str, Any, Any]  # name, annotation, default

COMMANDS = {
    "train": "Train an algorithm on an environment, many seeds at once.",
    "sweep": "Train an algorithm with many values of its hyperparameters, many seeds each, in one program.",
    "resume": "Continue an interrupted experiment, or train a finished one further.",
    "evaluate": "Evaluate trained policies.",
    "render": "Draw a policy before and after training, as a GIF, or as an HTML page for environments of Brax.",
    "export": "Write a trained policy as a StableHLO program that runs without jaxpg, and its model card.",
    "report": "Put experiments on one page: tables, figures, configurations.",
    "envs": "List the environments of gymnax or of another suite: spaces, time limits, presets.",
}
ALGORITHMS = {
    "reinforce": "policy gradient with the return that followed each action, from complete episodes",
    "reinforce_baseline": "REINFORCE with a learned state value as the baseline",
    "actor_critic": "one-step TD advantages in place of complete returns",
    "a2c": "actor-critic with n-step returns or GAE, and an entropy bonus",
    "ppo": "A2C with the clipped surrogate and many gradient steps on the same data",
    "trpo": "A2C with natural-gradient steps of bounded KL divergence",
}
NOTHING = {"run_dir": "a new one in runs/"}  # what an empty default means, if not none


def choose(prog: str, kind: str, name: str, known: Mapping[str, str], about: str) -> None:
    """Check that ``name`` is known; for ``--help`` list the known names and exit."""
    if name in ("-h", "--help"):
        menu = [Annotated[Any, tyro.conf.subcommand(k, description=v, constructor=dict)] for k, v in known.items()]
        padding = Annotated[None, tyro.conf.Suppress]  # a union has at least two members
        tyro.cli(Union[*menu, padding], prog=prog, description=about, args=["--help"])  # pyright: ignore
    if name not in known:
        raise ValueError(unknown_name(kind, name, known))


def read(command: str, arguments: Sequence[str], own: Sequence[Field] = ()) -> tuple[Config, dict[str, Any]]:
    """The experiment that ``jaxpg COMMAND ALGO --OPTION ...`` asks for, and the values of the command's ``own`` options.

    Raises a ``ValueError`` of one line for wrong options, and ``SystemExit`` after ``--help``.
    """
    algo, *options = arguments or [""]
    if not algo:
        raise ValueError(f"{command} needs an algorithm: {', '.join(ALGORITHMS)}")
    choose(f"jaxpg {command}", "algorithm", algo, ALGORITHMS, COMMANDS[command])
    return parse(command, algo, options, own)


def parse(command: str, algo: str, arguments: list[str], own: Sequence[Field]) -> tuple[Config, dict[str, Any]]:
    """Parse the options of one algorithm; defaults are its presets for the environment in ``--env``."""
    if sum(text.partition("=")[0].replace("_", "-") == "--env-params" for text in arguments) > 1:
        raise ValueError("env_params is given twice; put all NAME=VALUE after one --env-params")
    *_, env = Config.env, *re.findall(r"^--env(?:=|\n)(.+)", "\n".join(arguments), re.MULTILINE)
    options = option_fields(algo, env)
    kind = dataclasses.make_dataclass(algo, [*own, ENV_PARAMS, *config_fields(), *options])
    about = f"{algo}: {ALGORITHMS[algo]}. Defaults are those for {env}."
    parsed, unknown = call_tyro(kind, f"jaxpg {command} {algo}", about, arguments)
    if unknown:
        refuse(command, algo, unknown, [field.name for field in dataclasses.fields(kind)])
    values = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    mine = {name: values.pop(name) for name, *_ in own}
    env_params = parse_env_params(values.pop("env_params"))
    fields = {name: values.pop(name) for name, *_ in config_fields()}
    vary, sample = parse_vary(mine.pop("vary", ())), mine.pop("sample", "")
    search = search_words(vary, sample, mine.get("halving", ""))
    drawn: Any = vary
    if sample and vary:
        from jaxpg.lab.cli import sampling  # with NumPy, which --help does not need

        drawn = sampling.draw(algo, env, vary, sample, fields["seed"])
    return Config(algo, **fields, env_params=env_params, options=values, vary=drawn, search=search), mine


def search_words(vary: Mapping[str, str], sample: str, halving: str) -> tuple[str, ...]:
    """The options of a search, as they were given; none for a grid, whose values say it."""
    if not (sample or halving):
        return ()
    words = [word for name, text in vary.items() for word in ("--vary", f"{name}={text}")]
    return (*words, *["--sample", sample] * bool(sample), *["--halving", halving] * bool(halving))


def read_own(command: str, arguments: Sequence[str], own: Sequence[Field]) -> dict[str, Any]:
    """The values of the options of a command that takes no algorithm."""
    kind = dataclasses.make_dataclass(command, own)
    parsed, unknown = call_tyro(kind, f"jaxpg {command}", COMMANDS[command], arguments)
    if unknown and not unknown[0].startswith("-"):
        raise ValueError(f"unexpected {unknown[0]!r}; see jaxpg {command} --help")
    if unknown:
        raise ValueError(unknown_name("option", unknown[0].lstrip("-"), [name.rstrip("_") for name, *_ in own[1:]]))
    return {name: getattr(parsed, name) for name, *_ in own}


def call_tyro(kind: Any, prog: str, about: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Let tyro parse the command line into ``kind``; also the unknown arguments. Errors of tyro become ``ValueError``."""
    boxed = io.StringIO()
    if arguments and arguments[0].replace("_", "-").startswith("--tyro"):  # tyro's own options, which write shell completions
        raise ValueError(unknown_name("option", arguments[0].lstrip("-_"), [field.name for field in dataclasses.fields(kind)]))
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(kind, prog=prog, description=about, args=list(arguments), return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(unbox(boxed.getvalue())) from None


def config_fields() -> list[Field]:
    """The options that do not depend on the algorithm, as fields for tyro."""
    return [option(f.name, f.default, f.metadata["help"]) for f in dataclasses.fields(Config) if f.metadata]


def option_fields(algo: str, env: str) -> list[Field]:
    """The options of ``algo`` with their defaults on ``env``: sizes first, then hyperparameters."""
    helps = presets.SIZES | {f.name: f.metadata["help"] for f in dataclasses.fields(HParams)}
    helps |= {name: f"{helps[name]}; {off}" for name, off in presets.SWITCHES.items()}
    defaults = presets.options(algo, env)
    return [option(name, defaults[name], help) for name, help in helps.items() if name in defaults]


def option(name: str, default: Any, help: str) -> Field:
    """One field for tyro. Its type is text, because ``Config`` converts and checks every value."""
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
    """Raise ``ValueError`` for arguments that ``algo`` does not take."""
    name, _, value = unknown[0].lstrip("-").replace("-", "_").partition("=")
    if not unknown[0].startswith("-"):
        raise ValueError(f"unexpected {unknown[0]!r}; an option starts with --, see jaxpg {command} {algo} --help")
    if name == "vary":
        raise ValueError(f"{command} trains one setting; jaxpg sweep {algo} --vary ... trains several")
    if any(name in rows["default"] for rows in presets.PRESETS.values()):
        presets.options(algo, None, **{name: value or " ".join(unknown[1:2])})  # raises for another algorithm's option
    raise ValueError(unknown_name("option", name, known))


def unbox(text: str) -> str:
    """The text in tyro's error box as one line, without frame, title and footer."""
    lines = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    body = itertools.takewhile(lambda line: not line.startswith("──"), lines)
    return " ".join(body) or " ".join(text.split())


def require_directory(directory: str) -> str:
    """``directory``; ``ValueError`` if it is empty."""
    if not directory:
        raise ValueError("the directory of an experiment is missing, e.g. runs/lr")
    return directory


def parse_hosts(coordinator: str, process: str) -> tuple[str, int, int] | None:
    """The address, index and number of processes in ``--coordinator`` and ``--process``; ``None`` without them.

    >>> parse_hosts("10.0.0.1:1234", "0/2"), parse_hosts("auto", "")
    (('10.0.0.1:1234', 0, 2), ('auto', 0, 1))
    """
    host, _, port = coordinator.rpartition(":")
    place = re.fullmatch(r"(\d{1,6})/(\d{1,6})", process)
    if not coordinator and not process:
        return None
    if not coordinator:
        raise ValueError(f"process = {shown(process)} needs --coordinator HOST:PORT, the address of process 0")
    if coordinator == "auto":
        if process:
            raise ValueError(f"process = {shown(process)} is detected with --coordinator auto; leave it out")
        return coordinator, 0, 1
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator = {shown(coordinator)} must be auto or HOST:PORT, e.g. 10.0.0.1:1234")
    if not place or not int(place[1]) < int(place[2]):
        form = "INDEX/COUNT with INDEX from 0 to COUNT - 1, e.g. --process 0/2"
        raise ValueError(f"coordinator = {coordinator} needs --process {form}" + f", not {shown(process)}" * bool(process))
    return coordinator, int(place[1]), int(place[2])


VARY_HELP = "NAME=V1,V2,... or NAME=log:LOW:HIGH:COUNT or NAME=lin:...; repeat --vary for each name (hidden: 64x64,32x32); \
with --sample, NAME=log:LOW:HIGH"
Append = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(help=VARY_HELP, metavar="NAME=VALUES")]
VARY: Field = ("vary", Append, ())
SEARCH: list[Field] = [
    option("sample", "", "draw so many settings instead of training every combination: sobol:COUNT or random:COUNT"),
    option(
        "halving",
        "",
        "ETA or ETA:RUNGS: stop bad settings early; of RUNGS (default 3) rungs, the last one with all --total-steps, "
        "each keeps the best of ETA settings for the next",
    ),
]
PARAMS_HELP = "parameters of the environment to change, e.g. max_steps_in_episode=1000 gravity=5.0"
Params = Annotated[
    tuple[str, ...], tyro.conf.arg(help=PARAMS_HELP, metavar="[NAME=VALUE ...]", help_behavior_hint="(default: none)")
]
ENV_PARAMS: Field = ("env_params", Params, ())
RESOURCES_HELP = (
    "what each worker gets: num_gpus=1 of Ray, or parameters of submitit such as slurm_partition=gpu timeout_min=600"
)
Resources = Annotated[
    tuple[str, ...], tyro.conf.arg(help=RESOURCES_HELP, metavar="[NAME=VALUE ...]", help_behavior_hint="(default: none)")
]
WORKERS: list[Field] = [
    option("launcher", "local", "who trains the batches of runs: local (this process), ray, ray:ADDRESS, or slurm"),
    ("resources", Resources, ()),
    option("part", "", "train a part of the runs, INDEX/COUNT from 0/COUNT, as one of COUNT independent processes"),
]
HOSTS: list[Field] = [
    option("coordinator", "", "compute together with other processes: auto, or HOST:PORT of process 0 (no authentication)"),
    option("process", "", "which of these processes this is: INDEX/COUNT, e.g. 0/2; with auto it is detected"),
]
DIRECTORIES_HELP = "run directories of jaxpg train, jaxpg sweep or jaxpg.run"
Directories = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(help=DIRECTORIES_HELP, metavar="DIR ...", help_behavior_hint="(at least one)"),
]
Directory = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(
        help="the run directory of the experiment, or its address s3://..., gs://...",
        metavar="DIR",
        help_behavior_hint="(required)",
    ),
]
Suite = Annotated[
    str,
    tyro.conf.Positional,
    tyro.conf.arg(help="a suite other than gymnax, e.g. brax", metavar="[SUITE]", help_behavior_hint="(default: gymnax)"),
]
ENVS: list[Field] = [("suite", Suite, "")]
REPORT: list[Field] = [
    ("directories", Directories, ()),
    option("out", "report.html", "the HTML file, which needs no other file and no network"),
]
RESUME: list[Field] = [
    ("directory", Directory, ""),
    option("total_steps", 0, "new total of environment steps per run, to train further; 0: as planned"),
]
SETTING = option("setting", 0, "index of the setting in a sweep, in the order of its summary")
STEP = option("step", 0, "the checkpoint that was written after this update; 0: the newest")
IN_HELP = "evaluate in gymnasium:ENV, e.g. gymnasium:CartPole-v1; gymnasium alone: its environment of the same name"
In = Annotated[str, tyro.conf.arg(name="in", help=IN_HELP, metavar="SUITE:ENV", help_behavior_hint="(default: none)")]
EVALUATE: list[Field] = [
    ("directory", Directory, ""),
    SETTING,
    option("episodes", 0, "episodes per seed; 0: as many as at the end of training"),
    STEP,
    option("greedy", False, "evaluate only with the most probable actions"),
    option("sampled", False, "evaluate only with sampled actions"),
    option("json", False, "print the result as JSON"),
    ("in_", In, ""),
]
RENDER: list[Field] = [
    ("directory", Directory, ""),
    option("out", "policy", "file to write; .gif is added, or .html for environments of Brax (a page with Brax's viewer)"),
    SETTING,
    option("seed", 0, "index of the seed"),
    STEP,
    option("steps", 250, "environment steps to show"),
    option("fps", 25, "frames per second of the GIF"),
]
EXPORT: list[Field] = [
    ("directory", Directory, ""),
    option("out", "policy.bin", "file of the program; the model card has the same name with .md"),
    SETTING,
    option("seed", 0, "index of the seed"),
    STEP,
    option("sampled", False, "export a policy that samples actions with a key, instead of taking the most probable"),
]
RENDER_RANGES = {"steps": (1, 10_000), "fps": (1, 50)}
