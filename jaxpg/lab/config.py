"""RunConfig: everything needed to start a run and to repeat it, checked. Reading this file needs no JAX."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

from jaxpg import presets
from jaxpg.hparams import HParams, check_ranges

# Mean episode return from which an environment counts as solved; no number is in common use for the others.
SOLVED = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0, "MountainCar-v0": -110.0, "MountainCarContinuous-v0": 90.0}

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
    run_dir: str = described("", "directory for the results; one that holds another run is refused")
    eval_episodes: int = described(128, "episodes per seed of the evaluation at the end", 1)
    shard_envs: bool = described(False, "share the environments of every run among the devices, not the seeds")
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        defaults = presets.options(self.algo, self.env)
        chosen = presets.options(self.algo, self.env, **self.options)
        options = {name: convert(name, value, defaults[name]) for name, value in chosen.items()}
        for field in dataclasses.fields(self)[1:-1]:
            value = convert(field.name, getattr(self, field.name), field.default)
            check_whole(field.name, value, field.metadata["low"], field.metadata["high"])
            object.__setattr__(self, field.name, value)
        for name, value in options.items():
            for whole in value if isinstance(value, tuple) else (value,):
                check_whole(name, whole, low=1, high=2**53)
        check_ranges(HParams(**{f.name: options[f.name] for f in dataclasses.fields(HParams) if f.name in options}))
        object.__setattr__(self, "options", options)
        check_whole("num_updates", self.num_updates, 1, 2**31 - 1)
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
    def solved_threshold(self) -> float | None:
        """Mean episode return from which the environment counts as solved; ``None`` where none is known."""
        return SOLVED.get(self.env)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; :meth:`from_dict` makes the same configuration of it again."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The configuration in ``data``, which may hold more, as ``config.json`` does."""
        return cls(**{f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data})


def convert(name: str, value: Any, like: Any) -> Any:
    """``value`` as the type of ``like``: text becomes numbers, a list a tuple; nothing is rounded.

    >>> convert("seeds", "16", 1), convert("hidden", ["32", "32"], (64, 64))
    (16, (32, 32))
    """
    if isinstance(like, tuple):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"{name} = {value} must be a list")
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
        raise ValueError(f"{name} = {value} must be {kind}") from None


def check_whole(name: str, value: Any, low: int | None, high: int | None) -> None:
    """Refuse a whole number outside ``[low, high]``; anything else passes."""
    if isinstance(value, int) and low is not None and value < low:
        raise ValueError(f"{name} = {value} must be at least {low}")
    if isinstance(value, int) and high is not None and value > high:
        raise ValueError(f"{name} = {value} must be at most {high}")


def chunk_lengths(num_updates: int) -> list[int]:
    """How many updates lie between log points: about ``LOG_POINTS`` numbers that add up to ``num_updates``.

    All are equal where a divisor is near, because each different length is a program to compile; else the last is shorter.

    >>> chunk_lengths(489) == [3] * 163, chunk_lengths(3907) == [26] * 150 + [7]
    (True, True)
    """
    length = max(1, round(num_updates / LOG_POINTS))
    near = range(-(-num_updates // (2 * LOG_POINTS)), 2 * length + 1)
    length = min((n for n in near if num_updates % n == 0), key=lambda n: abs(n - length), default=length)
    whole, rest = divmod(num_updates, length)
    return [length] * whole + [rest] * (rest > 0)


def default_directory(algo: str, env: str, seed: int) -> str:
    """A new name under ``runs/``: the time of day keeps repeated runs apart."""
    return f"runs/{algo}_{env}_seed{seed}_{time.strftime('%Y%m%d-%H%M%S')}"
