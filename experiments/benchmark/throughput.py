"""Environment steps per second of complete training: jaxpg beside other libraries, in turn on one machine.

    .venv/bin/python -m experiments.benchmark.throughput --purejaxrl CHECKOUT

What is measured, and how the others are run, is in ``README.md`` beside this file. Writes ``throughput.json``, a table in
Markdown and a figure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.benchmark.contestants.process import Child, Failed, environment
from experiments.benchmark.contestants.roster import CONTESTANTS, check_name, parse_interpreter

HERE = Path(__file__).parent
NUM_STEPS = 128  # of each environment in one update, for everyone
PROBE_STEPS = 20_000  # environment steps of the training by which the number of updates is chosen
BASELINE = "jaxpg"
COLORS = (
    "#0072b2",
    "#332288",
    "#56b4e9",
    "#8c6bb1",
    "#cc79a7",
    "#d55e00",
    "#e69f00",
    "#009e73",
    "#000000",
)  # after Okabe and Ito
MARKERS = "oh^svDPX*"
PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {"cases": ("1x4", "16x4", "64x4", "256x4", "1x64", "1x1024"), "contestants": tuple(CONTESTANTS)},
    "accelerator": {"cases": ("2048x4",), "contestants": ("jaxpg", "purejaxrl"), "steps_per_seed": 500_000},
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line. What is not given is the preset's."""

    preset: Literal["cpu", "accelerator"] = "cpu"
    cases: tuple[str, ...] = ()  # SEEDSxENVS
    contestants: tuple[str, ...] = ()
    seconds: float = 3.0  # about so long is a repetition
    steps_per_seed: int = 0  # a repetition is so many environment steps of each seed, whatever time they take
    repetitions: int = 5
    purejaxrl: Path | None = None  # a checkout of it
    interpreter: tuple[str, ...] = ()  # NAME=PATH: run this contestant in the interpreter at PATH
    environments: Path = HERE.parent.parent / ".bench"  # virtual environments, made where they are missing
    timeout: float = 900.0  # seconds that a contestant may take for one answer
    out: Path = HERE.parent / "figures"

    def __post_init__(self) -> None:
        for name, value in PRESETS[self.preset].items():
            object.__setattr__(self, name, getattr(self, name) or value)
        for case in self.cases:
            parse_case(case)
        for name in self.contestants:
            check_name(name)
        _ = self.interpreters
        if min(self.seconds, self.repetitions, self.timeout) <= 0 or self.steps_per_seed < 0:
            raise ValueError("seconds, repetitions and timeout must be above 0, and steps-per-seed not below")

    @property
    def interpreters(self) -> dict[str, str]:
        """By contestant."""
        return dict(map(parse_interpreter, self.interpreter))


def parse_case(text: str) -> tuple[int, int]:
    """``16x4`` is 16 seeds with 4 environments each."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise ValueError(f"case {text!r:.40} must be SEEDSxENVS, two numbers of at least 1, e.g. 16x4")
    return int(found[1]), int(found[2])


def start(name: str, case: str, options: Options) -> tuple[Child, dict[str, Any]]:
    """A contestant that is ready for its repetitions, and what it said of itself."""
    contestant, (seeds, num_envs) = CONTESTANTS[name], parse_case(case)
    if name == "purejaxrl" and options.purejaxrl is None:
        raise Failed("it is no package; give a checkout of it: --purejaxrl PATH")
    python = options.interpreters.get(name)
    if not python:
        python = environment(contestant.packages, options.environments) if contestant.packages else sys.executable
    probe = max(1, PROBE_STEPS // (seeds * num_envs * NUM_STEPS))
    updates = math.ceil(options.steps_per_seed / (num_envs * NUM_STEPS)) or probe
    command = [python, str(HERE / "contestants" / contestant.script), *contestant.options]
    command += ["--seeds", str(seeds), "--num-envs", str(num_envs), "--updates", str(updates)]
    if name == "purejaxrl" and options.purejaxrl:
        command += ["--checkout", str(options.purejaxrl.resolve())]
    child = Child(command, options.timeout)
    try:
        ready = child.answer()
        if not options.steps_per_seed:
            updates = updates_for(child.ask("go"), probe, options.seconds)
            if updates != probe:
                child.ask(f"updates {updates}")
    except BaseException:
        child.close()
        raise
    return child, {"updates": updates, "compile_seconds": ready["compile_seconds"], "versions": ready["versions"]}


def updates_for(measured: dict[str, Any], updates: int, seconds: float) -> int:
    """How many updates take about ``seconds``, by one measurement of ``updates``."""
    return max(1, round(updates * seconds / measured["seconds"]))


def measure(case: str, options: Options) -> dict[str, Any]:
    """All contestants of a case, in turn, round after round; every other round backwards."""
    infos, failed, rounds = {}, {}, []
    seeds, _ = parse_case(case)
    with contextlib.ExitStack() as stack:
        children: dict[str, Child] = {}
        for name in options.contestants:
            if seeds > 1 and CONTESTANTS[name].one_seed:
                continue
            print(f"{case} {name}", file=sys.stderr, flush=True)
            try:
                children[name], infos[name] = start(name, case, options)
                stack.callback(children[name].close)
            except Failed as why:
                failed[name] = say_failed(case, name, why)
        for number in range(options.repetitions):
            rounds.append({})
            for name in list(children)[:: -1 if number % 2 else 1]:
                try:
                    rounds[-1][name] = children[name].ask("go")
                except Failed as why:
                    failed[name] = say_failed(case, name, why)
                    children.pop(name).close()
                    del infos[name]
    return {"case": case, "contestants": summarize(rounds, infos), "failed": failed}


def say_failed(case: str, name: str, why: Failed) -> str:
    """What went wrong, which is printed as well: the others continue, and the table comes late."""
    print(f"{case} {name} FAILED: {why}", file=sys.stderr, flush=True)
    return str(why)


def summarize(rounds: Sequence[dict[str, dict[str, Any]]], infos: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Medians and extremes of the rates, and the median over rounds of how many times as fast the baseline is.

    >>> rounds = [{"jaxpg": {"env_steps": 8, "seconds": 2.0}, "other": {"env_steps": 4, "seconds": 2.0}}]
    >>> summarize(rounds, {"jaxpg": {}, "other": {}})["other"]["ratio"]
    2.0
    """
    rates = [{name: run["env_steps"] / run["seconds"] for name, run in each.items()} for each in rounds]
    found = {}
    for name, info in infos.items():
        own = [each[name] for each in rates]
        ratio = statistics.median(each[BASELINE] / each[name] for each in rates) if BASELINE in infos else None
        numbers = {"median": statistics.median(own), "min": min(own), "max": max(own), "ratio": ratio}
        if walls := [each[name]["wall_seconds"] for each in rounds if "wall_seconds" in each[name]]:
            numbers["wall_seconds"] = statistics.median(walls)
        found[name] = info | numbers | {"repetitions": [each[name] for each in rounds]}
    return found


def table(results: Sequence[dict[str, Any]]) -> str:
    """All cases in Markdown."""
    titles = ("seeds x envs", "contestant", "env steps/s, median (min to max)", "jaxpg is ... times as fast", "compilation, s")
    lines = [f"| {' | '.join(titles)} | complete process, s |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for result in results:
        for name, one in result["contestants"].items():
            rate = f"{one['median']:,.0f} ({one['min']:,.0f} to {one['max']:,.0f})"
            ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f}"
            wall = f"{one['wall_seconds']:.1f} " if "wall_seconds" in one else ""
            lines.append(f"| {result['case']} | {name} | {rate} | {ratio} | {one['compile_seconds']:.1f} | {wall}|")
        for name, why in result["failed"].items():
            lines.append(f"| {result['case']} | {name} | no number: {why.replace('|', '/')} | | | |")
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """A dot for every median, with a line from the slowest repetition to the fastest."""
    names = [name for name in CONTESTANTS if any(name in result["contestants"] for result in results)]
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, name in enumerate(names):
        found = [(x, r["contestants"][name]) for x, r in enumerate(results) if name in r["contestants"]]
        places = [x + 0.7 * ((i + 0.5) / len(names) - 0.5) for x, _ in found]
        middle = [one["median"] for _, one in found]
        spread = [[one["median"] - one["min"] for _, one in found], [one["max"] - one["median"] for _, one in found]]
        look = list(CONTESTANTS).index(name)
        style = {"color": COLORS[look], "marker": MARKERS[look], "markersize": 6, "linestyle": "none", "elinewidth": 1.2}
        axes.errorbar(places, middle, spread, label=name, **style)
    for x in range(1, len(results)):
        axes.axvline(x - 0.5, color="#dddddd", linewidth=0.8)
    axes.set(yscale="log", xlim=(-0.5, len(results) - 0.5), xlabel="seeds x environments of each")
    axes.set_ylabel("environment steps per second")
    axes.set_xticks(range(len(results)), [result["case"] for result in results])
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if names:
        figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)


def machine() -> dict[str, Any]:
    """What the numbers were measured on; which devices a contestant used, it says itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {"processor": model[1] if model else platform.machine(), "cores": cores, "system": platform.system()}


def main(options: Options) -> dict[str, Any]:
    """Measure every case and write what was found; a case that is done is written before the next begins."""
    options.out.mkdir(parents=True, exist_ok=True)
    protocol = {"seconds": options.seconds, "steps_per_seed": options.steps_per_seed, "repetitions": options.repetitions}
    results: list[dict[str, Any]] = []
    found = {"machine": machine(), "protocol": protocol, "cases": results}
    for case in options.cases:
        results.append(measure(case, options))
        (options.out / "throughput.json").write_text(json.dumps(found, indent=1) + "\n")
        (options.out / "throughput.md").write_text(table(results) + "\n")
        draw(results, options.out / "throughput.png")
    print(table(results))
    return found


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
