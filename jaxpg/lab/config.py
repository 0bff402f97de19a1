"""RunConfig: everything needed to start a run and to repeat it, checked. Reading this file needs no JAX."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

from jaxpg import presets
from jaxpg.hparams import HParams, check_ranges, shown, unknown_name

# Mean episode return from which an environment counts as solved; no number is in common use for the others.
SOLVED = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0, "MountainCar-v0": -110.0, "MountainCarContinuous-v0": 90.0}

NAME = re.compile(r"\w[\w.-]*")  # of an environment: it becomes part of a path

GENERATORS = ("philox4x32", "threefry2x32")  # the first compiles in half the time, the second is JAX's default

LOG_POINTS = 150  # about so many rows per seed and points per curve


def described(default: Any, help: str, low: int | None = None, high: int | None = None) -> Any:
    """A dataclass field with one line of help and the range ``[low, high]``."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: ``algo`` on ``env``, ``seeds`` times at once. ``options`` are the algorithm's; those left out take their preset.

    Values may be text, as from a command line, or lists, as from JSON. ``ValueError``, of one line, for any that will not do.

    >>> config = RunConfig("ppo", seeds=4, options={"total_steps": "1e4", "gamma": 0.9})
    >>> config.options["total_steps"], config.num_updates, config.env_steps
    (10000, 40, 10240)
    """

    algo: str
    env: str = described("CartPole-v1", "environment, by its gymnax name")
    seeds: int = described(16, "independent runs, side by side", 1)
    seed: int = described(0, "where all randomness comes from", 0, 2**32 - 1)
    rng: str = described("philox4x32", "generator of random numbers: " + " or ".join(GENERATORS))
    run_dir: str = described("", "directory for the results; one that holds another run is refused")
    eval_episodes: int = described(128, "episodes per seed of the evaluation at the end", 1)
    log_every: int = described(0, "updates between two rows of the log; 0: about 150 rows", 0, 2**31 - 1)
    checkpoint_every: float = described(
        30.0, "seconds between checkpoints; 0: only at the end, and when asked to stop", 0, 10**9
    )
    keep: int = described(2, "checkpoints that are kept, besides the best", 2, 2**31 - 1)
    shard_envs: bool = described(False, "share the environments of every run among the devices, not the seeds")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[1:-1]:
            value = convert(field.name, getattr(self, field.name), field.default)
            check_range(field.name, value, field.metadata["low"], field.metadata["high"])
            object.__setattr__(self, field.name, value)
        if not NAME.fullmatch(self.env):
            raise ValueError(f"env = {shown(self.env)} is no name of an environment, e.g. {RunConfig.env}")
        if self.rng not in GENERATORS:
            raise ValueError(unknown_name("rng", self.rng, GENERATORS))
        if not isinstance(self.options, Mapping) or not all(isinstance(name, str) for name in self.options):
            raise ValueError(f"options = {shown(self.options)} must be names and their values")
        defaults = presets.options(self.algo, self.env)
        chosen = presets.options(self.algo, self.env, **self.options)
        options = {name: convert(name, value, defaults[name]) for name, value in chosen.items()}
        for name, value in options.items():
            for size in value if isinstance(value, tuple) else (value,):
                if isinstance(size, int):
                    check_range(name, size, low=1, high=2**53)
        hparams = {f.name: options[f.name] for f in dataclasses.fields(HParams) if f.name in options}
        check_ranges(HParams(**hparams))
        if unknown := [name for name in options["anneal"] if name not in hparams]:
            raise ValueError(unknown_name("hyperparameter in anneal", unknown[0], hparams))
        object.__setattr__(self, "options", options)
        check_range(f"total_steps = {options['total_steps']}: num_updates", self.num_updates, 1, 2**31 - 1)
        object.__setattr__(self, "run_dir", self.run_dir or default_directory(self.algo, self.env, self.seed))

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one update of one seed, padding included."""
        return self.options["num_envs"] * self.options["num_steps"]

    @property
    def num_updates(self) -> int:
        """``total_steps`` rounded up to whole updates."""
        return -(-self.options["total_steps"] // self.steps_per_update)

    @property
    def env_steps(self) -> int:
        """Environment steps per seed that will be simulated: at least ``total_steps``, less than one update more."""
        return self.num_updates * self.steps_per_update

    @property
    def log_interval(self) -> int:
        """Updates between two rows of the log."""
        return self.log_every or log_interval(self.num_updates)

    @property
    def solved_threshold(self) -> float | None:
        """Mean episode return from which the environment counts as solved; ``None`` where none is known."""
        return SOLVED.get(self.env)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; :meth:`from_dict` makes the same configuration of it again."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The configuration in ``data``, which may hold more, as ``config.json`` does."""
        given: dict[str, Any] = {"algo": ""} | {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        return cls(**given)


def convert(name: str, value: Any, like: Any) -> Any:
    """``value`` as the type of ``like``: text becomes numbers, a list a tuple; nothing is rounded.

    >>> convert("seeds", "16", 1), convert("hidden", ["32", "32"], (64, 64))
    (16, (32, 32))
    """
    if isinstance(like, tuple):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"{name} = {shown(value)} must be a list")
        return tuple(convert(name, item, like[0] if like else "") for item in value)
    if isinstance(like, bool) and isinstance(value, bool):
        return value
    try:
        if isinstance(value, bool) or isinstance(like, bool) or (isinstance(like, str) and not isinstance(value, str)):
            raise ValueError
        if not isinstance(like, int):
            return type(like)(value)
        whole = value if isinstance(value, int) else int(float(value))
        if whole != float(value):
            raise ValueError
        return whole
    except (TypeError, ValueError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(like)]
        raise ValueError(f"{name} = {shown(value)} must be {kind}") from None


def check_range(name: str, value: Any, low: float | None, high: float | None) -> None:
    """Refuse a number outside ``[low, high]``, or one that is none; anything else passes."""
    text = f"{value:g}" if isinstance(value, float) else shown(value)
    if isinstance(value, int | float) and low is not None and not value >= low:
        raise ValueError(f"{name} = {text} must be at least {low}")
    if isinstance(value, int | float) and high is not None and not value <= high:
        raise ValueError(f"{name} = {text} must be at most {high}")


def log_interval(num_updates: int) -> int:
    """Updates between log points such that there are at most ``LOG_POINTS``.

    >>> log_interval(390), log_interval(3907)
    (3, 27)
    """
    return -(-num_updates // LOG_POINTS)


def default_directory(algo: str, env: str, seed: int) -> str:
    """A new name under ``runs/``: the time of day keeps repeated runs apart."""
    return f"runs/{algo}_{env}_seed{seed}_{time.strftime('%Y%m%d-%H%M%S')}"
