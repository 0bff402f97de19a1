"""Workers as jobs of SLURM, submitted with submitit."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpg.core.hparams import printable
from jaxpg.lab.engine.packing import Outcome, Packed, pack
from jaxpg.lab.engine.stopping import Stop

if TYPE_CHECKING:
    from jaxpg.lab.engine.launch import Task, Train

ARRAY = 1000  # jobs in an array: the limit of SLURM is 1,001 by default
FOLDER = "slurm"  # in the directory of the experiment: scripts and outputs of the jobs
INTERVAL = 2.0  # seconds between looks at the jobs


class Slurm:
    """SLURM, with an array of jobs for the tasks.

    ``resources`` of each job are the parameters of ``submitit.AutoExecutor``: ``timeout_min``, ``gpus_per_node``,
    ``cpus_per_task``, ``mem_gb``, ``slurm_partition``, ``slurm_array_parallelism``, ... A job that SLURM ends at its time
    limit, or for another job, is submitted again and continues.

    Args:
        resources: Parameters of each job.
        cluster: For tests: ``local`` starts processes on this machine in place of jobs.
    """

    def __init__(self, resources: Mapping[str, Any], cluster: str = "slurm") -> None:
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")  # its configuration closes the log handlers of others
        try:
            import submitit
        except ImportError:
            raise ValueError("launcher = slurm needs submitit: pip install 'jaxpg[slurm]'") from None
        if cluster == "slurm" and not shutil.which("sbatch"):
            raise ValueError("launcher = slurm: there is no sbatch here; start the command on a login node of the cluster")
        self.submitit, self.resources, self.cluster = submitit, dict(resources), cluster
        self.interval = INTERVAL if cluster == "slurm" else 0.1

    def connect(self) -> None:
        """Check the resources."""
        with tempfile.TemporaryDirectory() as folder:
            self.make_executor(Path(folder))

    def make_executor(self, folder: Path) -> Any:
        """An executor of submitit that writes to ``folder``."""
        executor = self.submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        try:
            executor.update_parameters(name="jaxpg", **self.resources)
        except (NameError, TypeError, ValueError) as error:
            why = printable(" ".join(str(error).split()))[:200]
            raise ValueError(f"resources = {printable(self.resources)}: {why}") from None
        return executor

    def map(self, train: Train, work: Sequence[Task], directory: Path, stop: Stop) -> Iterator[Outcome]:
        """See ``launch.Launcher.map``."""
        import cloudpickle  # noqa: TID251 - which submitit writes its jobs with

        executor = self.make_executor(directory / FOLDER / "%j")
        function, running = Requeued(pack(train, cloudpickle)), {}
        try:
            for i in range(0, len(work), ARRAY):
                tasks = work[i : i + ARRAY]
                running |= dict(zip(executor.map_array(function, tasks), tasks, strict=True))
            while running:
                for job in [job for job in running if job.done()]:
                    yield outcome_of(job, running.pop(job))
                time.sleep(self.interval)
                stop.check()
        finally:
            for job in running:
                job.cancel()  # the worker gets a SIGTERM, saves and ends


@dataclasses.dataclass(frozen=True)
class Requeued:
    """A function for submitit, which submits it again when SLURM ends its job early; it continues from its checkpoint."""

    train: Packed

    def __call__(self, task: Task) -> Outcome:
        """Train a task."""
        return self.train(task)

    def checkpoint(self, task: Task) -> Any:
        """Called by submitit before a job is ended: what to submit again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, task)


def outcome_of(job: Any, task: Task) -> Outcome:
    """The outcome of a job that is done, or why it has none."""
    error = job.exception()
    if error is None:
        return job.result()
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Outcome(task, failure=f"job {job.job_id}: {printable(lines[-1][:300])}; see {printable(job.paths.folder)}")
