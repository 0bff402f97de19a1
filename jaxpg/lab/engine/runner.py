"""From a configuration to a finished run directory: what is compiled, trained, saved, evaluated and written, in order."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxpg import algorithms, envs, sharding, stats, sweeping
from jaxpg.algorithm import Algorithm
from jaxpg.lab.config import RunConfig
from jaxpg.lab.engine import devices, programs, saving
from jaxpg.lab.engine.progress import Progress
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.report import plots
from jaxpg.lab.store import checkpoint, leaves, writers
from jaxpg.lab.store.checkpoint import Snapshot
from jaxpg.lab.store.stored import CURVES, SUMMARY


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that has been checked to the last shape: all programs traced, none compiled, nothing computed or written."""

    config: RunConfig
    algo: Algorithm
    traced: programs.Programs

    def course(self, done: int = 0) -> programs.Course:
        """The updates that are left, and the log points."""
        return programs.Course(done, self.config.num_updates, self.config.log_interval)


def prepare(config: RunConfig) -> Job:
    """Everything that can refuse a new run: ``ValueError`` of one line, and nothing has been written."""
    writers.check_free(config.run_dir)
    return build(config)


def build(config: RunConfig) -> Job:
    """The programs of a run; ``ValueError`` for what does not fit together."""
    algo = algorithms.build(config.algo, envs.make(config.env), **config.options)
    mesh = devices.seed_mesh(config.seeds)
    width = devices.padded(config.seeds, mesh.size)
    if config.shard_envs:
        mesh = env_mesh()
        algo = sharding.shard_envs(algo, mesh)
    return Job(config, algo, programs.trace(algo, sweeping.keys(config.seed, config.rng), config.eval_episodes, width, mesh))


def env_mesh() -> Mesh:
    """All local devices, for the environments of every run."""
    return jax.make_mesh((jax.local_device_count(),), (sharding.ENV,), axis_types=(AxisType.Auto,), devices=jax.local_devices())


def claim(job: Job) -> writers.RunWriter:
    """Make the run directory and write ``config.json``; ``ValueError`` if it was taken since, or cannot be written."""
    return writers.RunWriter.create(job.config.run_dir, described(job))


def reopen(job: Job) -> writers.RunWriter:
    """The run directory of a run that goes on; ``ValueError`` while another process writes it."""
    return writers.RunWriter.reopen(job.config.run_dir)


def described(job: Job) -> dict[str, Any]:
    """What ``config.json`` holds."""
    plan = {"num_updates": job.config.num_updates, "env_steps_per_seed": job.config.env_steps}
    return job.config.to_dict() | plan | devices.machine(job.traced.mesh)


def run(
    job: Job, writer: writers.RunWriter, progress: Progress, stop: Stop, snapshot: Snapshot | None = None
) -> dict[str, Any]:
    """Train from the start, or from ``snapshot``, evaluate and write everything; what ``summary.json`` holds.

    :class:`jaxpg.lab.engine.stopping.Stopped` if asked to stop; what was done until then is saved.
    """
    config, spent = job.config, snapshot.meta["seconds"] if snapshot else 0.0
    course = job.course(snapshot.step if snapshot else 0)
    place = writer.directory / checkpoint.FOLDER
    store = checkpoint.Checkpoints(place, config.keep, progress.line, progress.warn, first=writer.sync)
    with writer, progress, contextlib.closing(store):
        progress.stage("compiling")
        compiled = programs.compiled(job.traced)
        stop.check()

        def meta() -> dict[str, Any]:
            return {"seconds": spent + time.perf_counter() - begin, "machine": devices.machine(job.traced.mesh)}

        def report(update: int, metrics: dict[str, np.ndarray]) -> None:
            metrics = {name: values[: config.seeds] for name, values in metrics.items()}
            progress.diverged(programs.diverged_at(metrics.pop("step"), update))
            writer.rows(update, update * config.steps_per_update, metrics)
            saver.rate(metrics["episode_return"])
            progress.advance(update * config.steps_per_update, metrics["episode_return"])

        saver = saving.Saver(store, config.seeds, stop, config.checkpoint_every, meta)
        if snapshot is None:
            runs = programs.begun(compiled, range(config.seeds), [job.algo.hparams] * config.seeds)
        else:
            runs = saving.restored(compiled.shapes, snapshot, compiled.training)
        progress.stage("training", course.done * config.steps_per_update)
        begin = time.perf_counter()
        with stop.patiently():
            runs = programs.train(compiled, runs, course, report, saver)
            last = saver.snapshot(course.total, runs)
            if course.done < course.total:
                saver.save(last)
        seconds = {"compile_seconds": compiled.seconds, "train_seconds": last.meta["seconds"]}
        progress.stage("evaluating")
        scores = programs.evaluate(compiled, runs.state, config.seeds)
        found = {
            "diverged_at": programs.diverged_at(last.arrays["state.step"], course.total),
            "digest": leaves.digest(last.arrays),
        }
        return conclude(job, writer, scores, seconds, **found)


def conclude(
    job: Job,
    writer: writers.RunWriter,
    scores: dict[str, np.ndarray],
    seconds: dict[str, float],
    *,
    diverged_at: np.ndarray,
    digest: str,
) -> dict[str, Any]:
    """Write ``curves.png`` and ``summary.json``, the last of all files, from what was logged and evaluated."""
    config = job.config
    logged = writers.read_metrics(writer.directory)
    title = f"{config.algo} on {config.env}, {config.seeds} seeds"
    curves = plots.learning_curve(logged["env_steps"], logged["episode_return"], title, config.solved_threshold)
    plots.save(curves, writer.directory / CURVES)
    scores = {name: np.where(diverged_at > 0, np.nan, values) for name, values in scores.items()}
    summary = summarize(config, logged, scores, diverged_at, seconds) | {"digest": digest} | devices.machine(job.traced.mesh)
    writer.json(SUMMARY, summary)
    return summary


def summarize(
    config: RunConfig,
    logged: dict[str, np.ndarray],
    scores: dict[str, np.ndarray],
    diverged_at: np.ndarray,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """What a run came to. ``sampled_steps`` is the mean over seeds of the steps that were real, not padding."""
    threshold = config.solved_threshold
    greedy = scores["greedy_return"]
    solved = None if threshold is None else stats.summarize_solved(greedy, threshold)["fraction"]
    return {
        "env": config.env,
        "algo": config.algo,
        "num_seeds": config.seeds,
        "num_updates": config.num_updates,
        "env_steps_per_seed": config.env_steps,
        "sampled_steps": float(np.mean(np.sum(logged["sampled_steps"], axis=0))),
        **{name: stats.summarize(values) | {"per_seed": values.tolist()} for name, values in scores.items()},
        "diverged": [{"seed": seed, "update": int(at)} for seed, at in enumerate(diverged_at) if at],
        "solved_threshold": threshold,
        "solved_fraction": solved,
        **seconds,
        "env_steps_per_second": config.seeds * config.env_steps / seconds["train_seconds"],
    }
