"""One part of ``device_check`` in a process of its own, which has the device for itself: ``python -m ... NAME FILE``.

A part is a sequence of cases. What a case found is written to the file at once, so that whatever ends the process leaves the
cases before. A case that raises is recorded, and the next one runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

Numbers = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Numbers]]]
NO_GPU = "not on a CPU"


class Skipped(Exception):
    """A case that cannot be had here, and why."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Where the function of this name is, its share of the time, and the variables that its process gets."""

    module: str
    share: float
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    function: str = ""  # by default the name of the part
    gpu_only: bool = False


LOOPS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL --xla_gpu_graph_min_graph_size=1"  # in command buffers
PARTS = {
    "agreement": Part("device_cases", 75),
    "throughput": Part("device_cases", 55),
    "launches": Part("device_cases", 40),
    "learning": Part("device_commands", 75),
    "command_buffers": Part("device_cases", 60, {"XLA_FLAGS": LOOPS}, "throughput", gpu_only=True),
    "purejaxrl": Part("device_commands", 55),
    "engine": Part("device_cases", 65, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1"}),  # soon full
    "resume": Part("device_commands", 75),
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is done: by default on a GPU; :data:`SMALL`, on a CPU, tests the check itself."""

    precisions: tuple[str | None, ...] = (None, "highest")  # of float32 products; None is JAX's own choice
    runs: int = 16  # that are compared
    seeds: tuple[int, ...] = (1, 16, 256, 2048, 8192)
    peer_seeds: tuple[int, ...] = (1, 256, 2048)
    profiled: tuple[int, ...] = (1, 256, 2048)
    engine: tuple[int, ...] = (256, 2048)
    seconds: float = 0.5  # of one timing
    episodes: int = 128  # of an evaluation
    learning: tuple[str, ...] = ("--seeds", "256")
    resume: tuple[str, ...] = ("--seeds", "64", "--total-steps", "400_000")
    resumes: tuple[str, ...] = ("programs kept", "programs compiled anew")
    is_full: bool = True


SMALL = Scale(
    precisions=("highest",),
    runs=2,
    seeds=(1, 3),
    peer_seeds=(2,),
    profiled=(2,),
    engine=(4,),
    seconds=0.05,
    episodes=4,
    learning=("--seeds", "4", "--total-steps", "20_480", "--eval-episodes", "8"),
    resume=("--seeds", "2", "--total-steps", "40_960"),
    resumes=("programs kept",),
    is_full=False,
)


def cases(name: str, scale: Scale, purejaxrl: Path | None) -> Cases:
    """Of a part. Its module is imported only here: importing JAX's environments takes a device."""
    part = PARTS[name]
    module = importlib.import_module(f"experiments.accelerator.{part.module}")
    function = getattr(module, part.function or name)
    return function(scale, purejaxrl) if name == "purejaxrl" else function(scale)


def measured(measure: Callable[[], Numbers]) -> Numbers:
    """What a case found, or what kept it from finding anything."""
    begin = time.perf_counter()
    try:
        found = measure()
    except Skipped as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    return found | {"case_seconds": round(time.perf_counter() - begin, 2)}


def has_failed(found: Numbers) -> bool:
    """A case that raised, or of which a check did not hold."""
    return "error" in found or not found.get("passed", True)


def write(file: Path, results: Numbers) -> None:
    """At once or not at all."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(new, file)


def main(name: str, file: Path, /, cpu: bool = False, purejaxrl: Path | None = None) -> int:
    """Run the part ``name``; what it finds goes into ``file``, case by case. 1 if a case failed."""
    results = json.loads(file.read_text())
    found = results["parts"][name]["cases"]
    with contextlib.closing(cases(name, SMALL if cpu else Scale(), purejaxrl)) as all_cases:
        for case, measure in all_cases:
            found[case] = measured(measure)
            write(file, results)
            print(f"{name}: {case}: {json.dumps(found[case])}", flush=True)
    return int(any(map(has_failed, found.values())))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
