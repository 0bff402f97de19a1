"""The parts of ``device_check``: what their processes get, and how much they do. No JAX here: it may take a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

Numbers = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Numbers]]]  # a part: names, and how to measure
NO_GPU = "not on a CPU"
WHEELS = ".whl"  # folder of what is taken along
LOOPS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL --xla_gpu_graph_min_graph_size=1"  # in command buffers


class Skipped(Exception):
    """A case that cannot be had here, and why."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Its share of the time, the variables that its process gets, and its function, by default of the same name."""

    share: float
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    function: str = ""
    starts_commands: bool = False  # which compute; its own process leaves the device to them
    gpu_only: bool = False


PARTS = {  # what matters most comes first
    "agreement": Part(70),
    "throughput": Part(45),
    "launches": Part(35),
    "learning": Part(95, starts_commands=True),
    "command_buffers": Part(45, {"XLA_FLAGS": LOOPS}, "throughput", gpu_only=True),
    "purejaxrl": Part(50, starts_commands=True),
    "engine": Part(60, {"XLA_CLIENT_MEM_FRACTION": "0.1"}),  # a memory that is soon full
    "resume": Part(85, starts_commands=True),
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is done: by default on a GPU; :data:`SMALL`, on a CPU, tests the check itself."""

    precisions: tuple[str, ...] = ("default", "highest")  # of float32 products
    runs: int = 16  # that are compared
    seeds: tuple[int, ...] = (1, 16, 256, 2048, 8192)
    peer_seeds: tuple[int, ...] = (1, 256, 2048)
    profiled: tuple[int, ...] = (1, 256, 2048)
    engine: tuple[int, ...] = (256, 2048)
    seconds: float = 0.5  # of one timing
    episodes: int = 128  # of an evaluation
    learning: tuple[str, ...] = ("--seeds", "256")
    resume: tuple[str, ...] = ("--seeds", "64", "--total-steps", "100_000")
    resumes: tuple[str, ...] = ("programs kept", "programs compiled anew")
    is_full: bool = True


SMALL = Scale(
    precisions=("highest",),
    runs=2,
    seeds=(3,),
    peer_seeds=(2,),
    profiled=(3,),  # again: it may have been kept
    engine=(4,),
    seconds=0.05,
    episodes=4,
    learning=("--seeds", "2", "--total-steps", "12_288", "--eval-episodes", "8"),
    resume=("--seeds", "2", "--total-steps", "12_288"),
    resumes=("programs kept",),
    is_full=False,
)
