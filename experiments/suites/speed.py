"""Training speed on Brax's inverted pendulum and on Craftax-Classic: jaxpg beside Brax's, rejax's and Craftax's own PPO.

    .venv-suites/bin/python -m experiments.suites.speed --checkout CRAFTAX_BASELINES

Every number is of a fresh process, which runs alone; contestants take turns, round after round. Sizes, network and activation
are the same for all. Steps per second are those of training, after compilation. Writes ``suites_speed.json`` and ``.md``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments import study
from experiments.benchmark.contestants.command import available_cores, train_arguments
from experiments.benchmark.throughput import machine
from jaxpg.lab.engine import devices

ROOT = Path(__file__).parents[2]
SIZES: dict[str, dict[str, Any]] = {  # by environment, in jaxpg's names; what is not here is jaxpg's default
    "brax/inverted_pendulum": {
        "num_envs": 64,
        "num_steps": 32,
        "epochs": 4,
        "minibatches": 8,
        "hidden": (64, 64),
        "observation": "running",
        "learning_rate": 3e-4,
        "gae_lambda": 0.95,
        "entropy_coef": 0.0,
    },
    "craftax/Craftax-Classic-Symbolic": {
        "num_envs": 64,
        "num_steps": 64,
        "epochs": 4,
        "minibatches": 8,
        "hidden": (64, 64, 64),
        "learning_rate": 3e-4,
        "gae_lambda": 0.8,
        "entropy_coef": 0.01,
    },
}
SHARED = {"activation": "tanh", "gamma": 0.99, "clip_eps": 0.2, "max_grad_norm": 0.5, "reward_scale": 1.0, "anneal": ()}
UPDATES = {"brax/inverted_pendulum": 450, "craftax/Craftax-Classic-Symbolic": 12}  # of one run; of jaxpg, the last third counts
ONE_BY_ONE = ("brax", "craftax_baseline")  # Craftax's would map over seeds, but four of them do not end on a CPU with JAX 0.10
PEER_UPDATES = {"brax/inverted_pendulum": 150, "craftax/Craftax-Classic-Symbolic": 4}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Who trains: a trainer of :mod:`experiments.suites.peers`, or jaxpg's command."""

    label: str
    env: str
    seeds: int
    trainer: str = "jaxpg"

    @property
    def name(self) -> str:
        """Of its row, and of its compilation cache."""
        return f"{self.env} {self.seeds} {self.label}".replace("/", "-").replace(" ", "-")


def contestants() -> list[Contestant]:
    """Everyone, in the order of the table. One that trains a single seed is given no row for four: they would take turns."""
    brax, craftax = SIZES
    return [
        Contestant("jaxpg", brax, 1),
        Contestant("Brax", brax, 1, "brax"),
        Contestant("rejax", brax, 1, "rejax"),
        Contestant("jaxpg", brax, 4),
        Contestant("rejax", brax, 4, "rejax"),
        Contestant("jaxpg", craftax, 1),
        Contestant("Craftax Baselines", craftax, 1, "craftax_baseline"),
        Contestant("jaxpg", craftax, 4),
    ]


def measure(contestant: Contestant, scratch: Path, checkout: Path | None) -> dict[str, float]:
    """One training in a fresh process: its rate and compile time, and the peak of the process's memory."""
    cache = scratch / contestant.name
    cache.mkdir(exist_ok=True)
    sizes = SHARED | SIZES[contestant.env]
    size = sizes["num_envs"] * sizes["num_steps"]
    if contestant.trainer == "jaxpg":
        return run_jaxpg(contestant, sizes, UPDATES[contestant.env], cache)
    task = sizes | {"env": contestant.env.partition("/")[2], "seeds": contestant.seeds, "checkout": str(checkout)}
    task["total_steps"] = (
        size * PEER_UPDATES[contestant.env] * (3 if contestant.trainer == "brax" else 1)
    )  # its last third counts
    settings = {"JAX_NUM_CPU_DEVICES": "1", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return run_peer(contestant.trainer, task, settings | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"})


def run_peer(trainer: str, task: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """What a trainer of :mod:`experiments.suites.peers` found in a process of its own."""
    command = [sys.executable, "-m", "experiments.suites.peers", trainer, json.dumps(task)]
    out, peak = run_alone(command, {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **settings})
    return json.loads(out.splitlines()[-1]) | {"peak_gib": peak}


def run_jaxpg(contestant: Contestant, sizes: Mapping[str, Any], updates: int, cache: Path) -> dict[str, float]:
    """The command, as a user runs it: all cores, an evaluation of one episode, checkpoints and log on the disk.

    It compiles its evaluation while it trains, so the last third of the updates is what counts, timed from outside by the rows
    that it logs. ``rate_with_evaluation`` is what it says itself, of all of it.
    """
    size, seeds = sizes["num_envs"] * sizes["num_steps"], contestant.seeds
    options = {**sizes, "env": contestant.env, "critic_learning_rate": sizes["learning_rate"], "log_every": updates // 3}
    with tempfile.TemporaryDirectory() as place:
        run_dir = Path(place) / "run"
        arguments = train_arguments(seeds, updates * size, options, run_dir)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
        kept |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        times: list[float] = []

        def look() -> None:
            rows = sum(path.read_bytes().count(b"\n") for path in run_dir.glob("batches/*/metrics.jsonl"))
            times.extend([time.perf_counter()] * (rows // seeds - len(times)))

        _, peak = run_alone([sys.executable, "-m", "jaxpg", *arguments], kept, look)
        timing = json.loads((run_dir / "timing.json").read_text())
    found = {"env_steps": seeds * size * (updates // 3), "seconds": times[2] - times[1], "peak_gib": peak}
    found |= {"compile_seconds": timing["compile_seconds"], "rate_with_evaluation": timing["env_steps_per_second"]}
    return found


def run_alone(
    command: Sequence[str], settings: Mapping[str, str], look: Callable[[], None] = lambda: None
) -> tuple[str, float]:
    """Standard output of a command that must succeed, and the largest resident size of its process, GiB.

    ``look`` is called while it runs, 20 times a second.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=dict(settings), cwd=ROOT)
        while True:
            time.sleep(0.05)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            look()
            if ended:
                break
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, errors):
            stream.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)[:200]} failed: {errors.read()[-2000:]}")
        return out.read(), usage.ru_maxrss / 2**20


def summarize(found: Mapping[Contestant, Sequence[Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Medians of each, and how many times as fast jaxpg is as each other: the median over the rounds.

    Where a peer trains one seed at a time, four of jaxpg's are compared with it too.
    """
    rows = []
    for contestant, runs in found.items():
        rates = [run["env_steps"] / run["seconds"] for run in runs]
        row = {"env": contestant.env, "seeds": contestant.seeds, "label": contestant.label, "rate": statistics.median(rates)}
        row |= {"rates": rates, "compile_seconds": runs[0]["compile_seconds"], "peak_gib": runs[0]["peak_gib"], "ratio": {}}
        if contestant.trainer != "jaxpg":
            for ours, own in found.items():
                fits = ours.seeds == contestant.seeds or contestant.trainer in ONE_BY_ONE
                if ours.trainer == "jaxpg" and ours.env == contestant.env and fits:
                    pairs = zip(own, rates, strict=False)
                    ratios = [run["env_steps"] / run["seconds"] / rate for run, rate in pairs]
                    row["ratio"][f"{ours.label}, {ours.seeds} seed{'s' * (ours.seeds > 1)}"] = statistics.median(ratios)
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All contestants, in Markdown."""
    titles = ["environment", "seeds", "trainer", "env steps/s, median (min to max)", "jaxpg is ... times as fast"]
    lines = [[*titles, "compilation, s", "peak memory, GiB"], ["---", "---:", "---", "---:", "---", "---:", "---:"]]
    for row in rows:
        rate = f"{row['rate']:,.0f} ({min(row['rates']):,.0f} to {max(row['rates']):,.0f})"
        ratios = "; ".join(f"{ratio:.2f} ({label})" for label, ratio in row["ratio"].items())
        numbers = [f"{row['compile_seconds']:.0f}", f"{row['peak_gib']:.1f}"]
        lines.append([row["env"], str(row["seeds"]), row["label"], rate, ratios, *numbers])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def stored(runs: Sequence[Mapping[str, Any]], contestant: Contestant) -> list[dict[str, float]]:
    """What was found of ``contestant`` before."""
    own = dataclasses.asdict(contestant)
    return next((run["found"] for run in runs if own == {name: run.get(name) for name in own}), [])


def main(checkout: Path | None = None, repetitions: int = 3, only: str = "", out: Path = study.FIGURES) -> list[dict[str, Any]]:
    """Measure, and write what is known after each round. Contestants that were measured before stay until they are again.

    Args:
        checkout: a checkout of Craftax_Baselines; without one it is left out.
        repetitions: rounds, after one that compiles and is not counted: the others find what it compiled.
        only: contestants whose name contains this.
        out: where the numbers go.
    """
    chosen = [c for c in contestants() if only in c.name and (checkout or c.trainer != "craftax_baseline")]
    path = out / "suites_speed.json"
    known = json.loads(path.read_text())["runs"] if path.exists() else []
    found = {contestant: stored(known, contestant) for contestant in contestants()} | {contestant: [] for contestant in chosen}
    compiling: dict[Contestant, float] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(repetitions + 1):
            for contestant in chosen[:: -1 if number % 2 else 1]:
                load = os.getloadavg()[0]
                begin = time.perf_counter()
                run = measure(contestant, Path(scratch), checkout and checkout.resolve())
                if number == 0:
                    compiling[contestant] = run["compile_seconds"]
                else:
                    found[contestant].append(run | {"compile_seconds": compiling[contestant], "load_before": load})
                rate, wall = run["env_steps"] / run["seconds"], time.perf_counter() - begin
                print(f"{contestant.name:60} {rate:10,.0f}/s, {wall:.0f} s in all, load before {load:.1f}", flush=True)
            rows = summarize({contestant: runs for contestant, runs in found.items() if runs})
            numbers = {"rows": rows, "runs": [dataclasses.asdict(c) | {"found": runs} for c, runs in found.items() if runs]}
            numbers |= {
                "sizes": SIZES,
                "shared": SHARED,
                "updates": UPDATES,
                "peer_updates": PEER_UPDATES,
                "machine": machine(),
                "cores": available_cores(),
            }
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(numbers | {"versions": devices.versions()}, indent=1) + "\n")
            (out / "suites_speed.md").write_text(table(rows))
    return rows


if __name__ == "__main__":
    tyro.cli(main)
