"""SweepConfig: everything needed to start a sweep and to repeat it, checked. Reading this file needs no JAX."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxpg import presets
from jaxpg.lab.config import RunConfig, convert

Setting = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """``base``, once for every seed and every combination of the values in ``vary``.

    >>> config = SweepConfig(RunConfig("ppo", seeds=8), {"gamma": "0.9,0.99", "learning_rate": "log:1e-4:1e-2:3"})
    >>> len(config.settings), config.settings[1]
    (6, {'gamma': 0.9, 'learning_rate': 0.001})

    Values are lists, or text as :func:`values` reads it. ``ValueError``, of one line, for any that will not do.
    """

    base: RunConfig
    vary: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.vary:
            raise ValueError("a sweep needs something to vary, e.g. --vary learning_rate=1e-4,1e-3")
        known = presets.options(self.base.algo, self.base.env)
        vary = {}
        for name, given in self.vary.items():
            if name not in known:
                presets.options(self.base.algo, None, **{name: given})  # another algorithm's: it says so
            text = isinstance(given, str)
            vary[name] = tuple(values(name, given, known[name])) if text else convert(name, given, (known[name],))
            if len(set(vary[name])) < len(vary[name]) or not vary[name]:
                raise ValueError(f"vary {name} = {', '.join(map(str, vary[name]))}: give every value once, and at least one")
        object.__setattr__(self, "vary", vary)
        for setting in self.settings:
            self.at(setting)

    @property
    def settings(self) -> list[Setting]:
        """All combinations, the last name varying fastest."""
        return product(self.vary)

    def at(self, setting: Mapping[str, Any]) -> RunConfig:
        """The run that one setting asks for."""
        return dataclasses.replace(self.base, options={**self.base.options, **setting})

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return self.base.to_dict() | {"vary": dict(self.vary), "settings": self.settings}


def product(vary: Mapping[str, Iterable[Any]]) -> list[Setting]:
    """All combinations of the values, the last name varying fastest.

    >>> product({"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    return [dict(zip(vary, combination, strict=True)) for combination in itertools.product(*vary.values())]


def parse_vary(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUES``, each name once.

    >>> parse_vary(["gamma=0.9,0.99"])
    {'gamma': '0.9,0.99'}
    """
    vary: dict[str, str] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not sign or not name:
            raise ValueError(f"vary {text!r} must be NAME=VALUES, e.g. gamma=0.98,0.99 or learning_rate=log:1e-4:1e-2:4")
        if name in vary:
            raise ValueError(f"vary {name} is given twice; put all its values into one list")
        vary[name] = values
    return vary


def values(name: str, text: str, like: Any) -> list[Any]:
    """A list of values, ``1e-4,1e-3``, or as many in a range: ``lin:LOW:HIGH:COUNT``, ``log:LOW:HIGH:COUNT``.

    What takes several numbers, such as ``hidden``, has an ``x`` between them, several names a space. Values are of the type of
    ``like``.

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
    """``COUNT`` numbers from ``LOW`` to ``HIGH``, both included, evenly spaced or by equal factors."""
    try:
        low, high, count = float(limits[0]), float(limits[1]), int(limits[2])
        if len(limits) != 3 or count < 2 or not math.isfinite(low + high) or (kind == "log" and min(low, high) <= 0):
            raise ValueError
    except (IndexError, ValueError):
        mend = "positive LOW and HIGH" if kind == "log" else "numbers LOW and HIGH"
        raise ValueError(f"vary {name} = {text!r} must be {kind}:LOW:HIGH:COUNT with {mend} and COUNT of at least 2") from None
    if kind == "log":
        return [float(f"{low * (high / low) ** (i / (count - 1)):.12g}") for i in range(count)]
    return [float(f"{low + (high - low) * i / (count - 1):.12g}") for i in range(count)]
