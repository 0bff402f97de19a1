"""How a contestant talks: a JSON object a line on standard output, and an order a line on standard input.

Import it before anything else. It keeps standard output for the protocol, and whatever libraries print goes to standard error.

* after the start: ``{"ready": true, "compile_seconds": 3.2, "versions": {...}}``, compiled and warm
* ``go``: train; ``{"env_steps": 51200, "seconds": 0.3}``, and ``wall_seconds`` where a whole process was started for it
* ``updates 200``: from now on so many updates at a time; ``ready`` again
* end of file: the end. An error is a line on standard error and an exit status other than 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

private = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

# PPO of CleanRL's sizes, for everyone
NUM_STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
LEARNING_RATE, GAMMA, GAE_LAMBDA, CLIP_EPS, ENTROPY_COEF, MAX_GRAD_NORM = 2.5e-4, 0.99, 0.95, 0.2, 0.01, 0.5


@dataclasses.dataclass(frozen=True)
class Case:
    """``updates`` updates of ``seeds`` runs, each with ``num_envs`` environments."""

    seeds: int
    num_envs: int
    updates: int

    @property
    def steps_per_seed(self) -> int:
        """Environment steps of one run."""
        return self.updates * self.num_envs * NUM_STEPS


# Trains from the start to the last update and waits for it. Returns the environment steps; or, where it has its own clock, also
# the `seconds` and `compile_seconds`, and whatever else is to be reported.
Train = Callable[[], int | dict[str, float]]


def arguments() -> argparse.ArgumentParser:
    """The options of every contestant."""
    parser = argparse.ArgumentParser()
    for name in ("seeds", "num-envs", "updates"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser


def serve(
    given: argparse.Namespace,
    prepare: Callable[[Case], Train],
    packages: Iterable[str],
    notes: Callable[[], dict[str, str]] = dict,
) -> None:
    """Answer until the end of the input. ``prepare`` compiles; ``packages`` and ``notes`` say what was measured."""
    case = Case(given.seeds, given.num_envs, given.updates)

    def ready() -> Train:
        begin = time.perf_counter()
        train = prepare(case)
        seconds = time.perf_counter() - begin
        first = measure(train)  # not counted
        seconds = first.get("compile_seconds", seconds)
        versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
        reply(ready=True, compile_seconds=seconds, versions=versions | notes())
        return train

    try:
        train = ready()
        for line in sys.stdin:
            order, *number = line.split()
            if order == "go":
                reply(**measure(train))
            elif order == "updates":
                case = dataclasses.replace(case, updates=int(number[0]))
                train = ready()
            else:
                raise ValueError(f"unknown order {line!r}")
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def measure(train: Train) -> dict[str, float]:
    """Train once: ``env_steps`` and ``seconds``."""
    begin = time.perf_counter()
    done = train()
    seconds = time.perf_counter() - begin
    return done if isinstance(done, dict) else {"env_steps": done, "seconds": seconds}


def reply(**content: Any) -> None:
    """One line to who asked."""
    print(json.dumps(content), file=private, flush=True)
