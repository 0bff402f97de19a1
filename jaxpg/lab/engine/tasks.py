"""What a worker does: train one batch of runs that another process has planned, and report how it ended."""

from __future__ import annotations

import dataclasses
import functools
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxpg.lab.engine import experiment, progress, stopping
from jaxpg.lab.engine.packing import Outcome
from jaxpg.lab.store import remote, results
from jaxpg.lab.store.files import RESULT, read_json
from jaxpg.lab.store.stored import make_config, read_content

WARNING = "jaxpg: "  # how the lines begin that a user must see


@dataclasses.dataclass(frozen=True)
class Worker:
    """A function of ``runs`` that trains them in the experiment in ``directory``, or at an address, and seals their result.

    ``seal`` is the checksum of the configuration there, ``make`` the user's own algorithm, if it is one, and ``batch_size`` the
    runs of a complete batch.

    It can be called in any process that sees the directory and has the same version of jaxpg, also again for the same runs:
    what is finished is not trained again, what was begun is continued.
    """

    directory: str
    seal: str
    make: Any = None
    batch_size: int = 0

    def __call__(self, runs: tuple[int, ...]) -> Outcome:
        """Train the runs; an error of one line becomes the ``failure`` of the outcome."""
        said = io.StringIO()
        screen = Console(file=said, width=2**14, force_terminal=False)
        failure, score, names = "", float("nan"), ()
        warn = functools.partial(progress.warn, screen)
        try:
            with (
                stopping.listen(hard=False) as stop,
                remote.writing(self.directory, warn, batch=results.batch_name(runs[0])) as copy,
            ):
                score, names = self.train(runs, copy, screen, stop)
        except stopping.Stopped as asked:
            failure = asked.then or f"stopped ({asked}); what was done is saved"
        except (ValueError, OSError) as error:
            failure = " ".join(str(error).split())
        lines = [line.removeprefix(WARNING).strip() for line in said.getvalue().splitlines() if line.startswith(WARNING)]
        return Outcome(runs, tuple(lines), score, names, failure)

    def train(
        self, runs: tuple[int, ...], copy: remote.OnDisk, screen: Console, stop: stopping.Stop
    ) -> tuple[float, tuple[str, ...]]:
        """Train the runs that are not finished; the mean greedy return of all of them, and the names of their batches."""
        job = open_job(self, copy)
        work = experiment.find_work(job, functools.partial(experiment.put_aside, screen, copy), runs)
        experiment.train_work(job, work, experiment.Session(screen, stop, copy=copy))
        folders = [results.folder_of(copy.directory, run) for run in runs]
        sealed = [folder for folder in folders if (folder / RESULT).exists()]
        returns = [read_json(folder / RESULT)["returns"][results.MODES[0]] for folder in sealed]
        known = np.array([value for values in returns for value in values if value is not None], float)
        return float(known.mean()) if known.size else float("nan"), tuple(folder.name for folder in sealed)


JOBS: dict[tuple[str, str], experiment.Job] = {}  # of the last experiment: with its compiled programs
OPENING = threading.Lock()


def open_job(worker: Worker, copy: remote.OnDisk) -> experiment.Job:
    """The experiment of a worker, kept for its next task, so that each process compiles a program once."""
    with OPENING:
        key = worker.directory, worker.seal
        if key not in JOBS:
            JOBS.clear()
            content = read_content(copy.directory)
            config = dataclasses.replace(make_config(copy.directory, content), batch_size=worker.batch_size)
            job = experiment.make_job(config, worker.make)
            experiment.check_same(job, content)
            JOBS[key] = job
        job = JOBS[key]
        if job.config.run_dir == copy.run_dir:
            return job
        return dataclasses.replace(job, config=dataclasses.replace(job.config, run_dir=copy.run_dir))


def plan_tasks(job: experiment.Job, size: int, put_aside: Callable[[Path, ValueError], None]) -> Iterator[tuple[int, ...]]:
    """The tasks that are left: batches that were begun, as they are, then the other runs in batches of ``size``."""
    work = experiment.find_work(job, put_aside)
    for begun, _ in work:
        yield from (batch.runs for batch in begun)
    for _, missing in work:
        yield from (tuple(missing[i : i + size]) for i in range(0, len(missing), size))
