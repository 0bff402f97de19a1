"""Parts of ``device_check`` that start commands, and leave the device to them: learning, resuming, PureJaxRL."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.accelerator.device_parts import Cases, Numbers, Scale, Skipped
from experiments.benchmark.contestants import process

RANDOM = {"CartPole-v1": 22.0, "MountainCar-v0": -200.0}  # mean return of a policy that has learned nothing
VARIABLES = {
    "programs kept": {},  # as the command has it: what is resumed uses the programs of before
    "programs compiled anew": {"JAX_ENABLE_COMPILATION_CACHE": "false"},  # and their kernels chosen anew
}
UPDATES = 20  # of PureJaxRL's training
TIMEOUT = 120.0  # seconds for its compilation


def learning(scale: Scale) -> Cases:
    """Two environments learned by ``jaxpg train ppo``: returns, and seconds from the start of the command to its end."""
    for env in RANDOM if scale.is_full else ["CartPole-v1"]:
        yield env, functools.partial(learn, env, scale)


def learn(env: str, scale: Scale) -> Numbers:
    """On the full scale, the interquartile mean of the greedy returns must solve the environment."""
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        finish(start("train", "ppo", "--env", env, "--run-dir", f"{place}/run", *scale.learning))
        seconds = time.perf_counter() - begin
        summary, timing = read(f"{place}/run", "summary"), read(f"{place}/run", "timing")
    (row,) = summary["settings"]
    found = {name: row["greedy_return"][name] for name in ("mean", "iqm", "ci95")}
    times = {name: round(timing[name], 2) for name in ("compile_seconds", "train_seconds", "env_steps_per_second")}
    sizes = {"seeds": summary["num_seeds"], "env_steps_per_seed": row["env_steps_per_seed"]}
    wanted = summary["solved_threshold"] if scale.is_full else 2 * RANDOM[env]
    passed = found["iqm"] >= wanted and not row["diverged"]
    solved = row["solved"]["fraction"]
    return sizes | {"greedy_return": found, "solved": solved} | times | {"seconds": round(seconds, 2), "passed": passed}


def resume(scale: Scale) -> Cases:
    """Experiments that are killed and resumed, against the same in one go."""
    for name in scale.resumes:
        yield name, functools.partial(kill_and_resume, scale, VARIABLES[name])


def kill_and_resume(scale: Scale, variables: dict[str, str]) -> Numbers:
    """Both begin side by side; one is killed, without a warning, as soon as it has a checkpoint."""
    variables = variables | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    options = ("--eval-episodes", "8", "--checkpoint-every", "0.2", *scale.resume)
    with tempfile.TemporaryDirectory() as place:
        complete, cut = f"{place}/complete", f"{place}/cut"
        processes = [start("train", "ppo", "--run-dir", run, *options, **variables) for run in (complete, cut)]
        while processes[1].poll() is None and not checkpoints(cut):
            time.sleep(0.02)
        was_running = processes[1].poll() is None
        processes[1].kill()
        processes[1].communicate()
        killed_at = checkpoints(cut)[-1:]
        finish(start("resume", cut, **variables))
        finish(processes[0])
        ((one,), (other,)) = (read(run, "summary")["settings"] for run in (complete, cut))
        logs = [[log.read_bytes() for log in sorted(Path(run).glob("batches/*/metrics.jsonl"))] for run in (complete, cut)]
    found = {"killed_at": killed_at, "updates": one["num_updates"], "was_running": was_running}
    found |= {"same_digests": one["digests"] == other["digests"], "same_summary": one == other, "same_log": logs[0] == logs[1]}
    return found | {"passed": was_running and one == other and logs[0] == logs[1] != []}


def checkpoints(run: str) -> list[int]:
    """Updates of which a complete checkpoint exists."""
    return sorted(int(seal.parent.name) for seal in Path(run).glob("batches/*/checkpoints/*/SHA256SUMS"))


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """The command ``jaxpg``, its output kept for :func:`finish`."""
    command = [sys.executable, "-m", "jaxpg", *arguments]
    return subprocess.Popen(command, env=os.environ | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(child: subprocess.Popen[str]) -> None:
    """Wait for its end; ``RuntimeError`` with its last words if that is not a good one."""
    said, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, child.args))}: {said.strip()[-300:] or child.returncode}")  # pyright: ignore


def read(run: str, name: str) -> dict[str, Any]:
    """A file of a finished experiment."""
    return json.loads((Path(run) / f"{name}.json").read_text())


def purejaxrl(scale: Scale, checkout: Path | None) -> Cases:
    """Steps per second of PureJaxRL, by the same script as in the benchmark."""
    for seeds in scale.peer_seeds:
        yield f"{seeds}", functools.partial(rate_peer, seeds, checkout)


def rate_peer(seeds: int, checkout: Path | None) -> Numbers:
    """All of its training from the start, of ``UPDATES`` updates with CleanRL's sizes; the median of three."""
    if checkout is None:
        raise Skipped("no checkout is given: --purejaxrl")
    options = {"checkout": checkout, "seeds": seeds, "num-envs": 4, "updates": UPDATES}
    script = [sys.executable, str(process.HERE / "run_purejaxrl.py")]
    child = process.Child([*script, *(f"--{name}={value}" for name, value in options.items())], TIMEOUT)
    try:
        ready = child.answer()
        rates = [done["env_steps"] / done["seconds"] for done in (child.ask("go") for _ in range(3))]
    finally:
        child.close()
    middle = statistics.median(rates)
    found = {"seeds": seeds, "steps_per_second": round(middle), "spread": round((max(rates) - min(rates)) / middle, 3)}
    return found | {"compile_seconds": round(ready["compile_seconds"], 2), "versions": ready["versions"]}
