"""Config: all that is needed to start an experiment and to repeat it, checked. This module does not import JAX."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from jaxpg.algorithms import presets
from jaxpg.algorithms.presets import convert
from jaxpg.core.hparams import check_ranges, shown, unknown_name
from jaxpg.core.hparams import given as given_values

# Mean episode return from which an environment counts as solved; for others there is no common number.
SOLVED = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0, "MountainCar-v0": -110.0, "MountainCarContinuous-v0": 90.0}

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # of an environment of gymnax, or of another suite: suite/name
FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", re.ASCII)  # package.module:factory

GENERATORS = ("philox4x32", "threefry2x32")  # the first compiles in half the time, the second is JAX's default

PRECISIONS = ("default", "high", "highest")  # of the products of float32 numbers, as JAX calls them

MAX_RUNS = 2**22  # of one experiment

LOG_POINTS = 150  # at most this many rows per seed and points per curve


Setting = dict[str, Any]


def described(default: Any, help: str, low: int | None = None, high: int | None = None) -> Any:
    """A dataclass field with one line of help and the range ``[low, high]``."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment: ``algo`` on ``env``, ``seeds`` runs for every combination of the values in ``vary``.

    A run is one seed of one setting; an experiment that varies nothing has one setting, ``{}``. ``options`` are those of the
    algorithm; options that are left out take their presets. ``env_params`` replace parameters of the environment. Values may be
    text, as from a command line, or lists, as from JSON; ``vary`` may also be a list of settings. With ``own`` the algorithm
    is an object of the user (see ``jaxpg.run``): ``options`` and ``vary`` are checked against that object, and ``algo`` and
    ``env`` are only names to print.

    >>> config = Config("ppo", seeds=4, options={"total_steps": "1e4"}, vary={"gamma": "0.9,0.99", "epochs": [4, 8]})
    >>> config.options["total_steps"], len(config.settings), config.settings[1]
    (10000, 4, {'gamma': 0.9, 'epochs': 8})

    Raises a ``ValueError`` of one line for wrong values.
    """

    algo: str
    env: str = described(
        "CartPole-v1",
        "environment: a name of gymnax, suite/name, or package.module:factory for one of your own",
    )
    seeds: int = described(16, "independent runs of each setting, trained in parallel", 1, 2**20)
    seed: int = described(0, "root seed of all randomness", 0, 2**32 - 1)
    rng: str = described("philox4x32", "generator of random numbers: " + " or ".join(GENERATORS))
    matmul_precision: str = described(
        "default",
        "precision of float32 matrix products; default: TF32 on a GPU, bfloat16 on a TPU, float32 on a CPU; "
        "highest: float32 everywhere, slower; high: between the two on a TPU",
    )
    run_dir: str = described(
        "", "directory for the results, also s3://..., gs://...; the same command again continues an experiment"
    )
    eval_episodes: int = described(128, "episodes of each evaluation, per run", 1, 2**31 - 1)
    evaluate_every: int = described(0, "updates between evaluations during training; 0: only at the end", 0, 2**31 - 1)
    log_every: int = described(0, "updates between two rows of the log; 0: about 150 rows", 0, 2**31 - 1)
    log: tuple[str, ...] = described((), "loggers besides metrics.jsonl: tensorboard, wandb")
    checkpoint_every: float = described(30.0, "seconds between checkpoints; 0: only at the end, and when interrupted", 0, 10**9)
    keep: int = described(2, "number of checkpoints to keep, besides the best", 2, 2**31 - 1)
    batch_size: int = described(0, "runs that are trained at once; 0: as many as fit into the memory", 0, 2**22)
    memory: float = described(0.0, "GiB that may be used on each device; 0: all that is free", 0, 10**9)
    shard_envs: bool = described(False, "divide the environments of each run among the devices, instead of the runs")
    parquet: bool = described(False, "write metrics.parquet beside metrics.jsonl when runs are finished; needs jaxpg[parquet]")
    env_params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    vary: Mapping[str, Any] | Sequence[Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    own: bool = False
    base_steps: int = 0  # total_steps before the experiment was extended: they fix the interval of the log
    stop_at: int = 0  # a rung of a search: environment steps per run at which training stops, on the way to total_steps
    search: tuple[str, ...] = ()  # the options that a search was started with, --vary, --sample and --halving, to print them

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.metadata:
                value = convert(field.name, getattr(self, field.name), field.default)
                check_range(field.name, value, field.metadata["low"], field.metadata["high"])
                object.__setattr__(self, field.name, value)
        object.__setattr__(self, "base_steps", convert("base_steps", self.base_steps, 0))
        check_range("base_steps", self.base_steps, 0, 2**53)
        object.__setattr__(self, "stop_at", convert("stop_at", self.stop_at, 0))
        object.__setattr__(self, "search", convert("search", self.search, ("",)))
        object.__setattr__(self, "own", convert("own", self.own, False))
        object.__setattr__(self, "env_params", env_numbers(self.env_params))
        if self.rng not in GENERATORS:
            raise ValueError(f"rng = {shown(self.rng)} must be {' or '.join(GENERATORS)}")
        if self.matmul_precision not in PRECISIONS:
            raise ValueError(f"matmul_precision = {shown(self.matmul_precision)} must be one of {', '.join(PRECISIONS)}")
        if not isinstance(self.options, Mapping) or not all(isinstance(name, str) for name in self.options):
            raise ValueError(f"options = {shown(self.options)} must be names and their values")
        if self.own and not isinstance(self.algo, str):
            raise ValueError(f"algo = {shown(self.algo)} must be a name")
        if not self.own and not NAME.fullmatch(self.env) and not FACTORY.fullmatch(self.env):
            examples = f"{Config.env} or package.module:factory"
            raise ValueError(f"env = {shown(self.env)} is not the name of an environment, e.g. {examples}")
        object.__setattr__(self, "options", own_options(self.options) if self.own else named_options(self))
        object.__setattr__(self, "vary", varied_values(self))
        check_range("stop_at", self.stop_at, 0, self.total_steps)
        sizes = [len(each) for each in self.vary.values()] if isinstance(self.vary, Mapping) else [len(self.vary)]
        if math.prod(sizes) * self.seeds > MAX_RUNS:
            raise ValueError(f"seeds = {self.seeds} of {math.prod(sizes)} settings are more than {MAX_RUNS:,} runs")
        if not self.own:
            for setting in self.settings if self.vary else []:
                named_options(self, setting)

    @functools.cached_property  # there can be ten thousand
    def settings(self) -> list[Setting]:
        """All combinations of the values in ``vary``, the last name varying fastest; ``[{}]`` if nothing varies."""
        return product(self.vary) if isinstance(self.vary, Mapping) else [dict(setting) for setting in self.vary]

    @property
    def total_steps(self) -> int:
        """The requested environment steps per run."""
        return self.options["total_steps"]

    @property
    def solved_threshold(self) -> float | None:
        """Mean episode return from which the environment counts as solved; ``None`` if unknown or with ``env_params``."""
        return None if self.env_params else SOLVED.get(self.env)

    @property
    def memory_bytes(self) -> int | None:
        """Bytes that may be used on each device; ``None``: all that is free."""
        return max(1, int(self.memory * 2**30)) if self.memory else None

    def extended(self, total_steps: int) -> Self:
        """The same experiment with a larger ``total_steps``, else ``ValueError``. The log keeps its interval."""
        if any("total_steps" in setting for setting in self.settings):
            raise ValueError("total_steps varies in this experiment, so that it cannot be trained further")
        if self.stop_at:
            raise ValueError("this is a rung of a search, which cannot be trained further; train its best setting by itself")
        if total_steps < self.total_steps:
            raise ValueError(f"total_steps = {total_steps} is less than the {self.total_steps} of this experiment; give more")
        options = {**self.options, "total_steps": total_steps}
        return dataclasses.replace(self, options=options, base_steps=self.base_steps or self.total_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``from_dict`` restores the configuration."""
        return dataclasses.asdict(self) | {"settings": self.settings}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The configuration in ``data``; other entries, such as those of ``config.json``, are ignored."""
        given: dict[str, Any] = {"algo": ""} | {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        return cls(**given)


@dataclasses.dataclass(frozen=True)
class Part:
    """Part ``index`` of ``count`` of an experiment: as one of ``count`` processes that know nothing of each other."""

    index: int
    count: int

    def share(self, total: int) -> range:
        """The share of this part of ``total`` runs: consecutive ones, independent of which are already finished.

        >>> [Part(i, 3).share(8) for i in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]
        """
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)

    @property
    def name(self) -> str:
        """A name for files.

        >>> Part(0, 4).name
        '0-of-4'
        """
        return f"{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``INDEX/COUNT``, counted from 0.

        >>> Part.parse("1/4")
        Part(index=1, count=4)
        """
        found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text, re.ASCII)
        if not found or not int(found[1]) < int(found[2]):
            raise ValueError(f"part = {shown(text)} must be INDEX/COUNT with INDEX from 0 to COUNT - 1, e.g. 0/4")
        return cls(int(found[1]), int(found[2]))


def named_options(config: Config, setting: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The options of a named algorithm and of a setting, converted and checked; presets for those that are not given."""
    defaults = presets.options(config.algo, config.env)
    options = presets.options(config.algo, config.env, **{**config.options, **setting})
    for name, value in options.items():
        for size in value if isinstance(value, tuple) else (value,):
            if type(size) is int:
                check_range(name, size, low=0 if defaults[name] == 0 else 1, high=2**53)
    hparams = presets.hyperparameters(options)
    check_ranges(hparams)
    if unknown := [name for name in options["anneal"] if name not in given_values(hparams)]:
        raise ValueError(unknown_name("hyperparameter in anneal", unknown[0], given_values(hparams)))
    if options["num_steps"]:
        num_updates = -(-options["total_steps"] // (options["num_envs"] * options["num_steps"]))
        check_range(f"total_steps = {options['total_steps']}: num_updates", num_updates, 1, 2**31 - 1)
    return options


def env_numbers(given: Any) -> dict[str, Any]:
    """Convert the parameters of an environment: every value becomes a number or a boolean.

    >>> env_numbers({"gravity": "5.0", "max_steps_in_episode": "1e3"}), env_numbers({"god_mode": "true"})
    ({'gravity': 5, 'max_steps_in_episode': 1000}, {'god_mode': True})
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"env_params = {shown(given)} must be names and their numbers")

    def number(name: str, value: Any) -> bool | int | float:
        if getattr(value, "ndim", None) == 0:  # a number of NumPy or JAX
            value = value.item()
        if not isinstance(value, str | int | float):
            each = "one for each environment is what algo.init(key, env_params=...) takes, for jaxpg.train"
            raise ValueError(f"env_params {shown(name)} = {shown(value)} must be a number; {each}")
        if isinstance(value, bool) or value in ("true", "false"):
            return value in (True, "true")
        value = convert(f"env_params {shown(name)}", value, 0.0)
        if not math.isfinite(value):
            raise ValueError(f"env_params {shown(name)} = {shown(value)} must be a finite number")
        return int(value) if value.is_integer() else value  # so that equal numbers have the same text

    return {name: number(name, value) for name, value in sorted(given.items())}


def own_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an algorithm of the user's own, with a checked ``total_steps``."""
    total_steps = convert("total_steps", options.get("total_steps"), 0)
    check_range("total_steps", total_steps, 1, 2**53)
    return {**options, "total_steps": total_steps}


def varied_values(config: Config) -> Mapping[str, tuple[Any, ...]] | tuple[Setting, ...]:
    """``vary``, with each value converted to the type of its option."""
    known = {} if config.own else presets.options(config.algo, config.env)

    def check_name(name: Any, value: Any) -> None:
        if not isinstance(name, str):
            raise ValueError(f"vary {shown(name)} = {shown(value)}: the name of a hyperparameter must be text")
        if not config.own and name not in known:
            presets.options(config.algo, None, **{name: value})  # an option of another algorithm: this raises the error

    def one(name: str, value: Any) -> Any:
        return convert(name, value, known[name]) if name in known else plain(name, value)

    if not isinstance(config.vary, Mapping):
        are_settings = isinstance(config.vary, list | tuple) and all(isinstance(setting, Mapping) for setting in config.vary)
        if not are_settings or not config.vary:
            raise ValueError(f"vary = {shown(config.vary)} must be names and their values, or a list of settings")
        for name, value in itertools.chain.from_iterable(setting.items() for setting in config.vary):
            check_name(name, value)
        return tuple({name: one(name, value) for name, value in setting.items()} for setting in config.vary)
    vary = {}
    for name, given in config.vary.items():
        check_name(name, given)
        items = values(name, given, known[name]) if isinstance(given, str) and name in known else given
        if isinstance(items, str) or not isinstance(items, Iterable):
            raise ValueError(f"vary {shown(name)} = {shown(items)} must be a list of values")
        vary[name] = tuple(one(name, value) for value in items)
        if len(set(vary[name])) < len(vary[name]) or not vary[name]:
            listed = shown(", ".join(map(str, vary[name])))
            raise ValueError(f"vary {shown(name)} = {listed}: give every value once, and at least one")
    return vary


def plain(name: str, value: Any) -> Any:
    """Convert a value that varies for an algorithm of the user's own into plain data for JSON; lists become tuples.

    >>> plain("hidden", [64, 64]), plain("gamma", 0.9)
    ((64, 64), 0.9)
    """
    if getattr(value, "ndim", None) == 0:  # a number of NumPy or JAX
        value = value.item()
    if isinstance(value, list | tuple):
        return tuple(plain(name, item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"vary {shown(name)} = {shown(value)} must be a number, text, or a list of them")


def check_range(name: str, value: Any, low: float | None, high: float | None) -> None:
    """Raise ``ValueError`` for a number outside ``[low, high]`` or NaN; other types pass."""
    text = f"{value:g}" if isinstance(value, float) else shown(value)
    if isinstance(value, int | float) and low is not None and not value >= low:
        raise ValueError(f"{name} = {text} must be at least {low}")
    if isinstance(value, int | float) and high is not None and not value <= high:
        raise ValueError(f"{name} = {text} must be at most {high}")


def log_interval(num_updates: int) -> int:
    """Updates between log points, so that there are at most ``LOG_POINTS``.

    >>> log_interval(390), log_interval(3907)
    (3, 27)
    """
    return -(-num_updates // LOG_POINTS)


def product(vary: Mapping[str, Iterable[Any]]) -> list[Setting]:
    """All combinations of the values, the last name varying fastest.

    >>> product({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [dict(zip(vary, combination, strict=True)) for combination in itertools.product(*vary.values())]


def parse_vary(texts: Sequence[str]) -> dict[str, str]:
    """Parse texts ``NAME=VALUES``, each name once.

    >>> parse_vary(["gamma=0.9,0.99"])
    {'gamma': '0.9,0.99'}
    """
    rule = "NAME=VALUES, e.g. gamma=0.98,0.99 or learning_rate=log:1e-4:1e-2:4"
    return parse_pairs("vary", texts, rule, "put all its values into one list")


def parse_env_params(texts: Sequence[str]) -> dict[str, str]:
    """Parse texts ``NAME=VALUE``, each name once.

    >>> parse_env_params(["gravity=5.0"])
    {'gravity': '5.0'}
    """
    return parse_pairs("env_params", texts, "NAME=VALUE, e.g. max_steps_in_episode=1000", "give it once")


def parse_pairs(kind: str, texts: Sequence[str], rule: str, once: str) -> dict[str, str]:
    """Split texts at their ``=``. ``rule`` and ``once`` end the ``ValueError`` for a wrong form and for a repeated name."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not sign or not name:
            raise ValueError(f"{kind} {text!r} must be {rule}")
        if name in pairs:
            raise ValueError(f"{kind} {name} is given twice; {once}")
        pairs[name] = value
    return pairs


def values(name: str, text: str, like: Any) -> list[Any]:
    """Parse a list of values, ``1e-4,1e-3``, or a range, ``lin:LOW:HIGH:COUNT`` or ``log:LOW:HIGH:COUNT``.

    A value of several numbers, such as ``hidden``, has an ``x`` between them; a value of several names has spaces. Values get
    the type of ``like``.

    >>> values("hidden", "64x64,32", (64, 64)), values("gamma", "lin:0.9:1:3", 0.99)
    ([(64, 64), (32,)], [0.9, 0.95, 1.0])
    """
    kind, *limits = text.split(":")
    if kind in SPACINGS and limits:
        spaced = spacing(name, text, kind, limits)
        return [convert(name, value, like) for value in spaced]
    items = [item.strip() for item in text.split(",")]
    if "" in items:
        raise ValueError(f"vary {name} = {text!r} must be values with commas between, or lin: or log:LOW:HIGH:COUNT")
    if isinstance(like, tuple):
        between = "x" if like and isinstance(like[0], int) else None
        return [convert(name, item.split(between) if item != "none" else (), like) for item in items]
    return [convert(name, item, like) for item in items]


SPACINGS = ("lin", "log")


def spacing(name: str, text: str, kind: str, limits: Sequence[str]) -> list[float]:
    """``COUNT`` numbers from ``LOW`` to ``HIGH``, both included, with equal differences (lin) or equal ratios (log)."""
    try:
        low, high, count = float(limits[0]), float(limits[1]), int(limits[2])
        if len(limits) != 3 or count < 2 or not math.isfinite(low + high) or (kind == "log" and min(low, high) <= 0):
            raise ValueError
    except (IndexError, ValueError):
        fix = "positive LOW and HIGH" if kind == "log" else "numbers LOW and HIGH"
        fix += " and COUNT of at least 2" + "; without COUNT it can be sampled, e.g. --sample sobol:64" * (len(limits) == 2)
        raise ValueError(f"vary {name} = {text!r} must be {kind}:LOW:HIGH:COUNT with {fix}") from None
    if kind == "log":
        return [float(f"{low * (high / low) ** (i / (count - 1)):.12g}") for i in range(count)]
    return [float(f"{low + (high - low) * i / (count - 1):.12g}") for i in range(count)]
