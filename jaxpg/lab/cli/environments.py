"""``jaxpg envs``: the environments that commands know by name."""

from __future__ import annotations

from typing import Any

import gymnax
import numpy as np
from gymnax.environments import spaces
from rich.console import Console

from jaxpg import envs
from jaxpg.algorithms import presets
from jaxpg.envs import _suites
from jaxpg.lab.config import SOLVED
from jaxpg.lab.report.text import NONE, print_columns, print_line

HEADS = ("environment", "observation", "action", "time limit", "solved from", "own presets")
DOWNLOADS = {"MNISTBandit-bsuite": "MNIST"}  # what gymnax downloads when it makes one of these


def show(console: Console, suite: str = "") -> None:
    """Print a line for each environment of gymnax: its spaces, its time limit, the return that solves it, its presets.

    Then print the names of the other suites. For a given ``suite`` print only the names of its environments: making one of them
    can take seconds.
    """
    if suite:
        for name in _suites.list_names(suite):
            print_line(console, name)
        return
    print_columns(console, [HEADS, *map(describe, gymnax.registered_envs)], bold=[0])
    print_line(console, "")
    states = {
        name: f"jaxpg envs {name}" if _suites.is_installed(name) else f"pip install 'jaxpg[{name}]'" for name in _suites.SUITES
    }
    print_columns(console, [("other suites", "to list them"), *states.items()], bold=[0])


def describe(name: str) -> tuple[str, ...]:
    """The columns ``HEADS`` of an environment, as text; nothing is downloaded."""
    tuned = [algo for algo, rows in presets.PRESETS.items() if name in rows]
    algos = "all algorithms" if len(tuned) == len(presets.PRESETS) else ", ".join(tuned) or NONE
    known = f"{SOLVED[name]:g}" if name in SOLVED else NONE, algos
    if name in DOWNLOADS:
        return name, f"downloads {DOWNLOADS[name]}", NONE, NONE, *known
    env = envs.make(name)
    params = env.default_params
    limit = str(envs.time_limit(env, params) or NONE)
    return name, describe_space(env.observation_space(params)), describe_space(env.action_space(params), True), limit, *known


def describe_space(space: Any, bounds: bool = False) -> str:
    """Describe a space in short: shape, dtype if not float32, and with ``bounds`` its bounds if all components share them.

    >>> describe_space(spaces.Discrete(2)), describe_space(spaces.Box(0, 9, (4, 5), np.int32))
    ('Discrete(2)', 'Box(4x5, int32)')
    >>> describe_space(spaces.Box(-2.0, 2.0, (1,)), bounds=True)
    'Box(1) [-2, 2]'
    """
    if isinstance(space, spaces.Discrete):
        return f"Discrete({space.n})"
    if not isinstance(space, spaces.Box):
        return type(space).__name__
    dtype = "" if space.dtype == np.float32 else f", {np.dtype(space.dtype)}"
    low, high = np.unique(space.low), np.unique(space.high)
    limits = f" [{low[0]:g}, {high[0]:g}]" if bounds and low.size == high.size == 1 else ""
    return f"Box({'x'.join(map(str, space.shape))}{dtype}){limits}"
