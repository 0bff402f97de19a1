"""From a configuration to a finished sweep directory: what is done already, what is left, the summary, the figures."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxpg import algorithms, envs, stats, sweeping
from jaxpg.algorithm import Algorithm
from jaxpg.lab.config import RunConfig
from jaxpg.lab.engine import devices, sweeps
from jaxpg.lab.engine.lots import Lots
from jaxpg.lab.engine.peers import Place, Watch
from jaxpg.lab.engine.stopping import LOCK, Stop, alone
from jaxpg.lab.report import figures, landscape, plots
from jaxpg.lab.report.rows import rows, varied
from jaxpg.lab.store import results, writers
from jaxpg.lab.store.stored import CONFIG, CURVES, SUMMARY, read_json
from jaxpg.lab.sweep_config import SweepConfig

# what makes a sweep the same sweep
SAME = ("algo", "env", "seeds", "seed", "rng", "eval_episodes", "log_every", "options", "vary")


def prepare(config: SweepConfig) -> list[sweeps.Group]:
    """The groups of the sweep. Everything that can refuse it is a ``ValueError`` of one line; nothing has been written."""
    check_directory(config)
    env = envs.make(config.base.env)

    def make(**sizes: Any) -> Algorithm:
        return algorithms.build(config.base.algo, env, **{**config.base.options, **sizes})

    groups = sweeps.grouped(make, config.settings, config.base.options["total_steps"])
    for group in groups:
        sweeping.footprint(group.algo)  # traces it: what does not fit together is refused here
    return groups


def check_directory(config: SweepConfig) -> None:
    """The directory is free, or holds the same sweep."""
    directory = Path(config.base.run_dir)
    try:
        there = read_json(directory / CONFIG)
    except ValueError:
        return writers.check_free(directory)
    if "settings" not in there:
        return writers.check_free(directory)
    here = json.loads(json.dumps(config.to_dict()))
    for name in SAME:
        if there.get(name) != here[name]:
            old, new = difference(there.get(name), here[name])
            raise ValueError(
                f"run_dir = {directory} holds another sweep: {name} is {old} there and {new} here; give another --run-dir"
            )
    return None


def difference(old: Any, new: Any) -> tuple[Any, Any]:
    """Where two values differ: of dictionaries, the first entry that does."""
    if isinstance(old, dict) and isinstance(new, dict):
        name = next(name for name in [*old, *new] if old.get(name) != new.get(name))
        return f"{name} = {old.get(name)}", f"{name} = {new.get(name)}"
    return old, new


def run(
    config: SweepConfig, groups: Sequence[sweeps.Group], place: Place, memory: int | None, screen: Console, stop: Stop
) -> results.Results:
    """Train what is missing of this process's share, wait for the others; process 0 writes summary and figures.

    :class:`jaxpg.lab.engine.stopping.Stopped` if asked to stop; what was done until then is saved.
    """
    directory = Path(config.base.run_dir)
    with writers.writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with alone(directory, f"{LOCK}-{place.index}"):
        claim(config, place)
        return run_share(config, groups, place, memory, screen, stop)


def claim(config: SweepConfig, place: Place) -> None:
    """The directory's ``config.json``, which process 0 writes and the others wait for; it must be that of this sweep."""
    directory = Path(config.base.run_dir)
    if place.index == 0 and not (directory / CONFIG).exists():
        with writers.writable(directory):
            writers.write_json(directory / CONFIG, config.to_dict() | about(config) | {"processes": place.count})
    deadline = time.monotonic() + place.silence
    while not (directory / CONFIG).exists():
        if time.monotonic() > deadline:
            raise ValueError(f"run_dir = {directory} was not made by process 0; all processes must see the same disk")
        time.sleep(0.1)
    check_directory(config)


def about(config: SweepConfig) -> dict[str, Any]:
    """What the bits of all its runs depend on."""
    return devices.machine(devices.seed_mesh(config.base.seeds * len(config.settings)))


def run_share(
    config: SweepConfig, groups: Sequence[sweeps.Group], place: Place, memory: int | None, screen: Console, stop: Stop
) -> results.Results:
    """The same, in a directory that is claimed."""
    directory = Path(config.base.run_dir)
    seeds, total = config.base.seeds, config.base.seeds * len(config.settings)
    mine = set(place.share(total)) - finished(directory)
    begin, compile_seconds = time.perf_counter(), 0.0
    with watching(directory, place, stop) as alive:
        lots = Lots(stop, directory, config.base.checkpoint_every, about(config), alive)
        task = sweeps.Task(
            seeds,
            sweeping.keys(config.base.seed, config.base.rng),
            config.base.eval_episodes,
            memory,
            screen,
            lots,
            config.base.log_every,
        )
        for number, group in enumerate(groups, start=1):
            runs = [run for run in sweeps.all_runs(group, seeds) if run in mine]
            say(screen, f"program {number} of {len(groups)}{named(group)}: {len(runs)} runs to do")
            compile_seconds += sweeps.run_group(group, runs, task, lambda part: results.write_part(directory, part))
        while len(finished(directory)) < total:
            alive()  # the others are waited for as long as they live
            stop.check()
            time.sleep(0.5)
    found = results.read(directory)
    if place.index == 0:
        seconds = {"compile_seconds": compile_seconds, "seconds": time.perf_counter() - begin}
        conclude(config, groups, found, directory, seconds)
    return found


@contextlib.contextmanager
def watching(directory: Path, place: Place, stop: Stop) -> Iterator[Callable[[], None]]:
    """What to call whenever this process gets on. Only where there are others: a process alone is in nobody's way."""
    if place.count == 1:
        yield lambda: None
    else:
        with Watch(directory, place, stop) as watch:
            yield watch.alive


def finished(directory: Path) -> set[int]:
    """The runs that are done."""
    return {int(run) for part in results.read_parts(directory) for run in part.runs}


def named(group: sweeps.Group) -> str:
    """The sizes that set a group apart, in words."""
    return "".join(f", {name} = {value}" for name, value in group.sizes.items())


def say(screen: Console, text: str) -> None:
    """A line for the user."""
    screen.print(text, highlight=False, soft_wrap=True)


def conclude(
    config: SweepConfig, groups: Sequence[sweeps.Group], found: results.Results, directory: Path, seconds: dict[str, float]
) -> None:
    """Write ``summary.json`` and the figures."""
    table = rows([found])
    writers.write_json(directory / SUMMARY, summarize(config, groups, found) | seconds)
    plots.save(figures.compare(table)[0], directory / CURVES)
    for name in varied(found):
        plots.save(landscape.sensitivity(found, name)[0], directory / f"sensitivity_{name}.png")


def summarize(config: SweepConfig, groups: Sequence[sweeps.Group], found: results.Results) -> dict[str, Any]:
    """What the sweep came to: a row of statistics for each setting, in their order."""
    base, steps = config.base, {number: group.env_steps for group in groups for number in group.hparams}
    settings = [
        {"setting": setting, "env_steps_per_seed": steps[i]} | row(base, found, i) for i, setting in enumerate(config.settings)
    ]
    return {"env": base.env, "algo": base.algo, "num_seeds": base.seeds, "programs": len(groups), "settings": settings}


def row(base: RunConfig, found: results.Results, i: int) -> dict[str, Any]:
    """The statistics of setting ``i``."""
    scores = {name: stats.summarize(values[i]) | {"per_seed": values[i].tolist()} for name, values in found.returns.items()}
    threshold = base.solved_threshold
    if threshold is None:
        return scores
    known = ~np.isnan(found.env_steps[i])
    steps = stats.steps_to_threshold(found.env_steps[i, known], found.metrics["episode_return"][i][:, known], threshold)
    solved = {"solved": stats.summarize_solved(found.returns["greedy_return"][i], threshold)}
    return scores | solved | {"to_threshold": stats.summarize_steps(steps)}
