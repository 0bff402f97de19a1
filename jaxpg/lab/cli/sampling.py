"""Draw the settings of ``--sample`` from the ranges and lists of ``--vary``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpg import search
from jaxpg.algorithms import presets
from jaxpg.algorithms.presets import convert
from jaxpg.core.hparams import shown
from jaxpg.lab.config import SPACINGS, Config, check_range, values


def draw(algo: str, env: str, vary: Mapping[str, str], sampling: str, seed: Any) -> list[dict[str, Any]]:
    """The settings of ``--sample METHOD:COUNT``, drawn with the root seed.

    >>> draw("ppo", "CartPole-v1", {"gamma": "lin:0.9:0.99", "num_steps": "64,128"}, "random:2", 0)
    [{'gamma': 0.957326551859, 'num_steps': 64}, {'gamma': 0.903687617154, 'num_steps': 64}]
    """
    method, _, count = sampling.partition(":")
    if method not in search.METHODS or not (count.isascii() and count.isdecimal() and 0 < int(count) < 2**22):
        raise ValueError(f"sample = {shown(sampling)} must be sobol:COUNT or random:COUNT, e.g. sobol:64")
    seed = convert("seed", seed, Config.seed)
    check_range("seed", seed, 0, 2**32 - 1)
    known = presets.options(algo, env)
    for name in vary.keys() - known.keys():
        presets.options(algo, None, **{name: vary[name]})  # raises the error for an option of another algorithm
    space = {name: read_values(name, text, known[name]) for name, text in vary.items()}
    try:
        return search.sample(space, int(count), method=method, seed=seed)
    except ValueError as error:
        raise ValueError(f"sample = {sampling}: {error}") from None


def read_values(name: str, text: str, like: Any) -> search.Range | list[Any]:
    """Parse ``lin:LOW:HIGH`` or ``log:LOW:HIGH``, of numbers like ``like``; or a list, as ``config.values`` does."""
    kind, *limits = text.split(":")
    if kind not in SPACINGS or len(limits) != 2:
        return values(name, text, like)
    if type(like) not in (int, float):
        raise ValueError(f"vary {name} = {text!r}: {name} is not a number, so that it has no range; give a list of values")
    try:
        low, high = map(float, limits)
    except ValueError:
        raise ValueError(f"vary {name} = {text!r} must be {kind}:LOW:HIGH with numbers LOW and HIGH") from None
    try:
        return search.Range(low, high, log=kind == "log", integer=type(like) is int)
    except ValueError as error:
        raise ValueError(f"vary {name} = {text!r}: {error}") from None
