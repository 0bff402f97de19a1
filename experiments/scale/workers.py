"""Workers on a local Ray: the same bits as one process, also if workers and the driver are killed; and the cost of a batch.

    python -m experiments.scale.workers kills        # 64 batches: alone, on Ray, and with 10 workers and the driver killed
    python -m experiments.scale.workers simulated    # 10,000 batches that sleep 10 ms: memory and time of the driver, a restart

Both write their numbers to a JSON file in ``--out``. Two cores, ten minutes each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from jaxpg.lab.config import Config
from jaxpg.lab.engine import batches, experiment, launch, packing
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.engine.with_ray import Ray
from jaxpg.lab.store import results
from jaxpg.lab.store.files import RESULT, write_atomically, write_json

BATCHES, RUNS = 64, 64
SWEEP = [
    "sweep",
    "a2c",
    "--num-envs",
    "4",
    "--num-steps",
    "16",
    "--hidden",
    "8",
    "--eval-episodes",
    "1",
    "--total-steps",
    "6400",
]
SWEEP += ["--seeds", str(RUNS), "--vary", f"learning_rate=log:1e-4:1e-1:{BATCHES}", "--batch-size", str(RUNS)]


def main(what: Literal["kills", "simulated"], /, out: Path = Path("runs/scale"), kills: int = 10, count: int = 10_000) -> None:
    """Measure one of the two, and write and print its numbers."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = measure_kills(kills) if what == "kills" else measure_simulated(count)
    (out / f"{what}.json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(json.dumps(numbers, indent=2))


def start(directory: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    log = open(directory.with_suffix(".log"), "ab")  # noqa: SIM115 - as long as the process
    command = [sys.executable, "-m", "jaxpg", *SWEEP, "--run-dir", str(directory), *more]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def measure_kills(kills: int) -> dict[str, Any]:
    """Train the sweep three times, and compare every result."""
    numbers: dict[str, Any] = {"batches": BATCHES, "runs": BATCHES * RUNS}
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, more in (("local", ()), ("ray", ("--launcher", "ray")), ("killed", ("--launcher", "ray"))):
            directory, begin = Path(folder, name), time.perf_counter()
            process = start(directory, *more)
            if name == "killed":
                process, numbers["workers_killed"], numbers["drivers_killed"] = kill_some(process, directory, kills, more)
            if process.wait() != 0:
                raise RuntimeError(directory.with_suffix(".log").read_text()[-2000:])
            numbers[f"{name}_seconds"] = round(time.perf_counter() - begin, 1)
            found[name] = results.read(directory)
            numbers[f"{name}_lines_of_warnings"] = directory.with_suffix(".log").read_text().count("jaxpg: ")
            read = [json.loads((path / RESULT).read_text())["runs"] for path in results.folders(directory)]
            numbers[f"{name}_runs_once"] = sorted(run for runs in read for run in runs) == list(range(BATCHES * RUNS))
        for name in ("ray", "killed"):
            numbers[f"{name}_runs_of_other_bits"] = int((found[name].digests != found["local"].digests).sum())
    numbers["overhead_seconds_a_batch"] = round((numbers["ray_seconds"] - numbers["local_seconds"]) / BATCHES, 3)
    return numbers


def kill_some(
    process: subprocess.Popen[bytes], directory: Path, kills: int, more: Sequence[str]
) -> tuple[subprocess.Popen[bytes], int, int]:
    """Kill ``kills`` workers at random moments, and the driver once in the middle; the driver that was started last."""
    draw, done, drivers = random.Random(0), 0, 0  # noqa: S311 - no secret
    while done < kills and process.poll() is None:
        time.sleep(draw.uniform(1, 5))
        if drivers == 0 and done >= kills // 2:
            process.kill()
            process.wait()
            process, drivers = start(directory, *more), 1
            continue
        if workers := workers_of(process.pid):
            os.kill(draw.choice(workers), signal.SIGKILL)
            done += 1
    return process, done, drivers


def workers_of(pid: int) -> list[int]:
    """The processes of Ray below process ``pid`` that train a batch."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below = {str(pid)}
    for _ in range(5):
        below |= {row[0] for row in rows if row[1] in below}
    return [int(row[0]) for row in rows if row[0] in below and row[2].startswith("ray::jaxpg")]


@dataclasses.dataclass(frozen=True)
class Sleep:
    """A task that sleeps 10 ms in place of training, and seals a result."""

    directory: str
    identity: str
    num_updates: int

    def __call__(self, runs: tuple[int, ...]) -> packing.Outcome:
        """Write what a worker writes."""
        time.sleep(0.01)
        folder = batches.make_folder(Path(self.directory), {"identity": self.identity, "runs": runs, "width": len(runs)})
        row = {"setting": 0, "seed": 0, "update": self.num_updates, "env_steps": 16, "episode_return": 1.0, "sampled_steps": 16}
        rows = [row | {"setting": run} for run in runs]
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        write_atomically(folder / "metrics.jsonl", data)
        seal = {"bytes": len(data), "rows": len(rows), "sha256": hashlib.sha256(data).hexdigest()}
        content = {"identity": self.identity, "runs": runs, "num_updates": self.num_updates, "log": seal}
        content |= {"returns": {mode: [1.0] * len(runs) for mode in results.MODES}, "diverged_at": [0] * len(runs)}
        content |= {"digests": [""] * len(runs), "seconds": {"compile": 0.0, "train": 0.01}, "env_steps": 16}
        write_json(folder / RESULT, content)
        return packing.Outcome(runs, score=1.0)


class Measured:
    """A launcher that counts the processor time of the driver, and ends it after ``limit`` batches, if given."""

    def __init__(self, launcher: launch.Launcher, limit: int) -> None:
        self.launcher, self.limit, self.done, self.cpu, self.wall, self.begun = launcher, limit, 0, 0.0, 0.0, 0.0

    def connect(self) -> None:
        """Reach the engine."""
        self.launcher.connect()

    def map(self, train: launch.Train, work: Sequence[launch.Task], directory: Path, stop: Stop) -> Iterator[packing.Outcome]:
        """Count while the engine works."""
        self.begun, cpu = time.perf_counter(), time.process_time()
        for outcome in self.launcher.map(train, work, directory, stop):
            self.done += 1
            self.cpu, self.wall = time.process_time() - cpu, time.perf_counter() - self.begun
            yield outcome
            if self.done == self.limit:
                os.kill(os.getpid(), signal.SIGKILL)


def drive(directory: str, count: int, limit: int) -> dict[str, Any]:
    """The driver of a simulated sweep: in a process of its own, because it is killed."""
    options = {"num_envs": 1, "num_steps": 16, "hidden": (4,), "total_steps": 16}
    vary = {"learning_rate": [1e-4 + 1e-9 * i for i in range(count)]}
    begin = time.perf_counter()
    config = Config("a2c", seeds=1, vary=vary, options=options, eval_episodes=1, batch_size=1, run_dir=directory)
    launcher = Measured(Ray("", {}), limit)
    job = experiment.prepare(config, trains_here=False)
    prepared = time.perf_counter()
    launcher.connect()
    job = experiment.claim(job)
    connected = time.perf_counter()
    train = Sleep(directory, job.identity, job.groups[0].course.total)
    numbers: dict[str, Any] = {"batches_before": len(results.folders(Path(directory)))}
    launch.run(job, launcher, Console(stderr=True), Stop(), train=train)
    numbers |= {"batches": launcher.done, "prepare_seconds": prepared - begin, "read_seconds": launcher.begun - connected}
    numbers |= {
        "driver_ms_a_batch": 1000 * launcher.cpu / launcher.done,
        "wall_ms_a_batch": 1000 * launcher.wall / launcher.done,
    }
    numbers |= {"conclude_seconds": time.perf_counter() - launcher.begun - launcher.wall}
    numbers |= {"peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}
    return numbers


def measure_simulated(count: int) -> dict[str, Any]:
    """Start the driver, kill it in the middle, start it again."""
    with tempfile.TemporaryDirectory() as folder:
        directory, found = f"{folder}/sweep", []
        for limit in (count // 2, 0):
            call = f"json.dumps(workers.drive({directory!r}, {count}, {limit}))"
            code = "from jaxpg.lab.cli.deferred import defer; defer('seaborn', 'matplotlib.pyplot')\n"  # as the command does
            code += f"from experiments.scale import workers; import json; print({call})"
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
            found.append(done.returncode)
        read = {run for path in results.folders(Path(directory)) for run in json.loads((path / RESULT).read_text())["runs"]}
        return json.loads(done.stdout) | {"killed": found[0] == -signal.SIGKILL, "finished": len(read)}


if __name__ == "__main__":
    tyro.cli(main)
