"""Successive halving: of many settings, the best of each rung are trained further.

A rung is an experiment, ``DIRECTORY/rung_0``, ``rung_1``, ..., of the settings that are left, whose runs stop at the steps of
the rung, with the schedules of the full budget. Its runs continue from the states in which they ended the rung before: these
are written into its batches as checkpoints, from which it starts as if it had been interrupted there. So all that holds for
an experiment holds for a rung. Trained from the start, it would come to the same result: bit for bit where every device trains
full blocks of runs in both (see docs/guarantees.md), and otherwise up to rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxpg import search, stats
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import printable
from jaxpg.lab.config import Config
from jaxpg.lab.engine import batches, experiment, progress, stopping
from jaxpg.lab.engine.batches import Batch
from jaxpg.lab.engine.groups import Make
from jaxpg.lab.engine.loggers import Loggers, open_loggers
from jaxpg.lab.report.text import print_line
from jaxpg.lab.store import checkpoint, leaves, log, remote, results
from jaxpg.lab.store.files import (
    CHECKPOINTS,
    CONFIG,
    LOCK,
    METRICS,
    SEARCH,
    SUMMARY,
    Damaged,
    check_directory,
    check_writable,
    lock,
    writable,
    write_json,
)
from jaxpg.lab.store.results import MODES
from jaxpg.lab.store.searches import grid_config, is_search, read_search, rung_directory
from jaxpg.lab.store.stored import read_content
from jaxpg.loops.many import Run


@dataclasses.dataclass(frozen=True)
class Search:
    """A search that has been checked. ``config`` is that of the full grid; its ``run_dir`` is the directory of the search."""

    config: Config
    eta: int
    rungs: Sequence[tuple[int, int]]  # the number of settings and the environment steps of each
    make: Make | Algorithm | None
    first: experiment.Job  # rung 0


def rung_config(config: Config, rungs: Sequence[tuple[int, int]], number: int, chosen: Sequence[int]) -> Config:
    """The configuration of a rung, in which the settings ``chosen`` of those of ``config`` are left."""
    return dataclasses.replace(
        config,
        vary=[config.settings[i] for i in chosen],
        stop_at=rungs[number][1] if number + 1 < len(rungs) else 0,
        run_dir=str(rung_directory(config.run_dir, number)) if config.run_dir else "",
    )


def prepare(config: Config, rule: tuple[int, int], make: Make | Algorithm | None = None) -> Search:
    """Check everything about a search; ``ValueError`` of one line for any error, before anything is written."""
    if any("total_steps" in setting for setting in config.settings):
        raise ValueError("halving: total_steps varies, but a rung trains all its settings for the same steps")
    rungs = search.rungs(len(config.settings), config.total_steps, *rule)
    if config.run_dir:
        check_writable(Path(config.run_dir))
        check_directory(config.run_dir, to_write=True)
        if (Path(config.run_dir) / CONFIG).exists():
            where = printable(config.run_dir)
            raise ValueError(f"run_dir = {where} holds an experiment, not a search; give another --run-dir")
        if is_search(config.run_dir):
            check_same(config, rule, read_search(config.run_dir))
    job = experiment.prepare(rung_config(config, rungs, 0, range(len(config.settings))), make)
    if config.run_dir and is_search(config.run_dir):
        experiment.check_same(dataclasses.replace(job, config=config), read_search(config.run_dir))
    for group in job.groups:
        if len({math.ceil(steps / group.steps_per_update) for _, steps in rungs}) < len(rungs):
            listed, fix = ", ".join(f"{steps:,}" for _, steps in rungs), "give more --total-steps or fewer rungs"
            raise ValueError(
                f"halving: rungs of {listed} steps, with {group.steps_per_update:,} in an update, are equal; {fix}"
            )
    return Search(config, rule[0], rungs, make, job)


def check_same(config: Config, rule: tuple[int, int], there: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` if the directory holds a search with another rule or budget."""
    old, (eta, num_rungs) = grid_config(config.run_dir, there)
    old_and_new = {"eta": (eta, rule[0]), "rungs": (num_rungs, rule[1]), "total_steps": (old.total_steps, config.total_steps)}
    for name, (then, now) in old_and_new.items():
        if then != now:
            other = f"{name} = {then} there and {now} here"
            raise ValueError(f"run_dir = {printable(config.run_dir)} holds another search: {other}; give another --run-dir")


def claim(found: Search) -> Search:
    """Make the directory of a search, with its ``search.json``, unless it exists."""
    directory = Path(found.config.run_dir) if found.config.run_dir else experiment.make_directory(found.config)
    config = dataclasses.replace(found.config, run_dir=str(directory))
    if not is_search(directory):
        content = experiment.content_of(dataclasses.replace(found.first, config=config))
        with writable(directory):
            directory.mkdir(parents=True, exist_ok=True)
            write_json(directory / SEARCH, content | {"halving": [found.eta, len(found.rungs)]})
    return dataclasses.replace(found, config=config)


@dataclasses.dataclass(frozen=True)
class Rung:
    """A rung that is finished: the settings that were left, their order from the best to the worst, and their results."""

    job: experiment.Job
    chosen: Sequence[int]  # indices into the full grid
    order: Sequence[int]  # indices into chosen
    results: results.Results


def run(found: Search, screen: Console, stop: stopping.Stop) -> results.Results:
    """Train the rungs, one after another, and write the summary. The results of the last rung. Call ``claim`` first.

    Raises ``Stopped`` if asked to stop, after saving.
    """
    directory, rungs = Path(found.config.run_dir), list[Rung]()
    with lock(directory / LOCK):
        for number, (count, steps) in enumerate(found.rungs):
            chosen = sorted(rungs[-1].chosen[i] for i in rungs[-1].order[:count]) if rungs else range(count)
            print_line(screen, f"rung {number}: {count:,} settings, to {steps:,} steps per seed")
            config = rung_config(found.config, found.rungs, number, chosen)
            job = experiment.prepare(config, found.make) if rungs else dataclasses.replace(found.first, config=config)
            job = experiment.claim(job)
            trained = train_rung(job, chosen, rungs[-1] if rungs else None, screen, stop)
            order = search.rank(*(trained.returns[mode] for mode in MODES)).tolist()
            rungs.append(Rung(job, chosen, order, trained))
        write_json(directory / SUMMARY, summarize(found, rungs))
        return rungs[-1].results


def summarize(found: Search, rungs: Sequence[Rung]) -> dict[str, Any]:
    """The settings of each rung from the best to the worst with their scores, the best of all, and the steps of training.

    The scores of the last rung chose the best setting, which overestimates it: train it again with other seeds.
    """
    config, lines, done = found.config, [], np.zeros(len(found.config.settings))
    for number, rung in enumerate(rungs):
        chosen, ends, greedy = list(rung.chosen), np.nanmax(rung.results.env_steps, axis=1), rung.results.returns[MODES[0]]
        steps = float(np.sum(ends - done[chosen]) * config.seeds)
        done[chosen] = ends
        line = {"directory": rung_directory("", number).name, "env_steps_per_seed": float(ends.max()), "env_steps": steps}
        scores = [stats.summarize(greedy[i]) for i in rung.order]
        lines.append(line | {"settings": [chosen[i] for i in rung.order], MODES[0]: scores})
    best = lines[-1]["settings"][0]
    head = {"identity": read_search(config.run_dir)["identity"], "algo": config.algo, "env": config.env}
    head |= {"env_params": config.env_params, "num_seeds": config.seeds, "total_steps": config.total_steps, "eta": found.eta}
    return head | {
        "best": {"setting": best, "values": config.settings[best], MODES[0]: lines[-1][MODES[0]][0]},
        "env_steps": sum(line["env_steps"] for line in lines),
        "grid_env_steps": float(done.max() * len(config.settings) * config.seeds),
        "rungs": lines,
    }


def train_rung(
    job: experiment.Job, chosen: Sequence[int], before: Rung | None, screen: Console, stop: stopping.Stop
) -> results.Results:
    """Train what is missing of a rung."""
    directory = Path(job.config.run_dir)
    is_continued = bool(results.folders(directory))
    if not any(begun or missing for begun, missing in experiment.find_work(job)) and (directory / SUMMARY).exists():
        return results.read(directory)

    def warn(text: str) -> None:
        progress.warn(screen, text)

    if before is not None:
        carry_over(job, chosen, before, experiment.Session(screen, stop))
    logger = Loggers(open_loggers(job.config.log, directory, read_content(directory), is_continued, warn), warn)
    return experiment.run(job, screen, stop, logger)


def carry_over(job: experiment.Job, chosen: Sequence[int], before: Rung, session: experiment.Session) -> None:
    """Begin the batches of a rung from where its runs ended the rung before.

    A batch for which the states there are damaged is trained from its start, with a warning.
    """

    def warn(text: str) -> None:
        progress.warn(session.screen, text)

    put_aside = functools.partial(experiment.put_aside, session.screen, remote.HERE)
    directory, seeds = Path(job.config.run_dir), job.config.seeds
    with lock(directory / LOCK):
        for number, (begun, missing) in enumerate(experiment.find_work(job, put_aside)):
            for batch in [*begun, *experiment.divide_runs(job, number, missing, session)]:
                folder = batches.make_folder(directory, {"identity": job.identity, "runs": batch.runs, "width": batch.width})
                shapes = job.programs(number, batch.width).shapes
                spec = leaves.spec({"state": shapes.state, "window": shapes.window}, len(batch.runs))
                if checkpoint.newest(folder / CHECKPOINTS, spec, lambda _: None, warn):
                    continue
                settings = [list(before.chosen).index(chosen[setting]) for setting, _ in batch.places]
                origin = [setting * seeds + seed for setting, (_, seed) in zip(settings, batch.places, strict=True)]
                try:
                    snapshot, rows = take_over(job, batch, shapes, before.job, origin)
                except Damaged as error:
                    again = "these runs are trained from the start, to the same result up to rounding"
                    warn(f"the rung before cannot be continued: {error}; {again}")
                else:
                    with session.stop.patiently():
                        write_start(folder, snapshot, rows, job.config.keep, session)


def take_over(
    job: experiment.Job, batch: Batch, shapes: Run, before: experiment.Job, origin: Sequence[int]
) -> tuple[checkpoint.Snapshot, list[log.Row]]:
    """The snapshot from which a batch continues, and the rows of its log until then; ``origin`` are its runs in ``before``.

    ``Damaged`` if a state is missing, or its digest is not that in the results of the rung before.
    """
    seeds, tree = job.config.seeds, {"state": shapes.state, "window": shapes.window}
    place = {run: i for i, run in enumerate(origin)}
    spec = leaves.spec(tree, len(batch.runs))
    arrays, found = leaves.empty(spec), set[int]()
    rows: list[log.Row] = []
    tail: list[log.Row] = []
    last: checkpoint.Snapshot | None = None
    seconds = 0.0
    for folder in results.folders(Path(before.config.run_dir)):
        about, result = results.read_result(folder, before.identity, before.num_runs)
        wanted = {i: place[run] for i, run in enumerate(about["runs"]) if run in place}
        if not wanted:
            continue
        if result is None:
            raise Damaged(f"{printable(folder)} is not finished")
        last = checkpoint.read(folder / CHECKPOINTS, result["num_updates"], leaves.spec(tree, len(about["runs"])))
        for i, to in wanted.items():
            if leaves.digest({name: x[i] for name, x in last.arrays.items()}) != result["digests"][i]:
                raise Damaged(f"the checkpoint in {printable(folder)} is not that of its result")
            for name, x in last.arrays.items():
                arrays[name][to] = x[i]
        found |= set(wanted.values())
        seconds += result["seconds"]["train"] * len(wanted) / len(about["runs"])
        for kept, read in ((rows, log.rows_of(folder / METRICS, last.meta["log"]["bytes"])), (tail, last.meta["tail"])):
            for row in read:
                if (to := place.get(row["setting"] * seeds + row["seed"])) is not None:
                    kept.append(row | {"setting": batch.runs[to] // seeds})
    if last is None or len(found) < len(batch.runs):
        raise Damaged(f"{printable(before.config.run_dir)} does not hold all runs")

    column = {run: i for i, run in enumerate(batch.runs)}

    def order(row: log.Row) -> tuple[int, bool, int]:
        return row["update"], MODES[0] in row, column[row["setting"] * seeds + row["seed"]]

    score = {"seconds": seconds, "score": batches.WORST, "best": batches.WORST}
    meta = {
        "identity": job.identity,
        "runs": list(batch.runs),
        "tail": sorted(tail, key=order),
        "machine": last.meta["machine"],
    }
    return checkpoint.Snapshot(last.step, arrays, spec, meta | score), sorted(rows, key=order)


def write_start(
    folder: Path, snapshot: checkpoint.Snapshot, rows: Sequence[log.Row], keep: int, session: experiment.Session
) -> None:
    """Write the log and the first checkpoint of a batch."""
    log.restore(folder / METRICS, None, 0)
    with log.Log(folder / METRICS) as file:
        file.write(rows)
        file.sync()
        snapshot = dataclasses.replace(snapshot, meta={**snapshot.meta, "log": file.seal})

    def warn(text: str) -> None:
        progress.warn(session.screen, text)

    with contextlib.closing(checkpoint.Checkpoints(folder / CHECKPOINTS, keep, lambda _: None, warn)) as store:
        store.save(snapshot, batches.WORST)
        store.wait()
        if store.failure:
            raise OSError(f"the start of a batch could not be saved ({store.failure})")
