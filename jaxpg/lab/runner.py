"""From a configuration to a finished run directory: the host loop over compiled chunks, the evaluation, the files."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxpg import algorithms, envs, sharding, stats
from jaxpg.algorithm import Algorithm
from jaxpg.lab import devices, plots, programs, writers
from jaxpg.lab.config import RunConfig, chunk_lengths
from jaxpg.lab.progress import Progress


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that has been checked to the last shape: all programs traced, none compiled, nothing computed or written."""

    config: RunConfig
    algo: Algorithm
    traced: programs.Traced


def prepare(config: RunConfig) -> Job:
    """Everything that can refuse a configuration: ``ValueError`` of one line, and nothing has been written."""
    writers.check_free(config.run_dir)
    algo = algorithms.build(config.algo, envs.make(config.env), **config.options)
    mesh = devices.seed_mesh(config.seeds)
    width = devices.padded(config.seeds, mesh.size)
    if config.shard_envs:
        mesh = env_mesh()
        algo = sharding.shard_envs(algo, mesh)
    lengths = chunk_lengths(config.num_updates)
    return Job(config, algo, programs.trace(algo, config.seed, lengths, config.eval_episodes, width, mesh))


def env_mesh() -> Mesh:
    """All local devices, for the environments of every run."""
    return jax.make_mesh((jax.local_device_count(),), (sharding.ENV,), axis_types=(AxisType.Auto,), devices=jax.local_devices())


def claim(job: Job) -> writers.RunWriter:
    """Make the run directory and write ``config.json``; ``ValueError`` if it was taken since, or cannot be written."""
    config = job.config
    plan = {"num_updates": config.num_updates, "env_steps_per_seed": config.env_steps}
    return writers.RunWriter(config.run_dir, config.to_dict() | plan | about(job))


def about(job: Job) -> dict[str, Any]:
    """The machine and the versions behind the numbers."""
    return {"device": devices.describe(job.traced.mesh), "versions": devices.versions()}


def run(job: Job, writer: writers.RunWriter, progress: Progress) -> dict[str, Any]:
    """Train, evaluate and write everything; what ``summary.json`` holds."""
    config = job.config

    def report(update: int, metrics: dict[str, np.ndarray]) -> None:
        writer.rows(update, update * config.steps_per_update, metrics)
        progress.advance(update * config.steps_per_update, metrics["episode_return"])

    with writer, progress:
        progress.stage("compiling")
        compiled = programs.compiled(job.traced)
        progress.stage("training")
        begin = time.perf_counter()
        state = programs.train(compiled, range(config.seeds), [job.algo.hparams] * config.seeds, report)
        seconds = {"compile_seconds": compiled.seconds, "train_seconds": time.perf_counter() - begin}
        progress.stage("evaluating")
        return conclude(job, writer, programs.evaluate(compiled, state, config.seeds), seconds)


def conclude(job: Job, writer: writers.RunWriter, scores: dict[str, np.ndarray], seconds: dict[str, float]) -> dict[str, Any]:
    """Write ``summary.json`` and ``curves.png`` from what was logged and evaluated."""
    config = job.config
    logged = writers.read_metrics(writer.directory)
    summary = summarize(config, logged, scores, seconds) | about(job)
    writer.json(writers.SUMMARY, summary)
    title = f"{config.algo} on {config.env}, {config.seeds} seeds"
    curves = plots.learning_curve(logged["env_steps"], logged["episode_return"], title, config.solved_threshold)
    plots.save(curves, writer.directory / writers.CURVES)
    return summary


def summarize(
    config: RunConfig, logged: dict[str, np.ndarray], scores: dict[str, np.ndarray], seconds: dict[str, float]
) -> dict[str, Any]:
    """What a run came to. ``sampled_steps`` is the mean over seeds of the steps that were real, not padding."""
    threshold = config.solved_threshold
    greedy = scores["greedy_return"]
    solved = None if threshold is None else stats.summarize_solved(greedy, threshold)["fraction"]
    returns = {name: values for name, values in scores.items() if name != "diverged"}
    return {
        "env": config.env,
        "algo": config.algo,
        "num_seeds": config.seeds,
        "num_updates": config.num_updates,
        "env_steps_per_seed": config.env_steps,
        "sampled_steps": float(np.mean(np.sum(logged["sampled_steps"], axis=0))),
        **{name: stats.summarize(values) | {"per_seed": values.tolist()} for name, values in returns.items()},
        "diverged": np.flatnonzero(scores["diverged"]).tolist(),
        "solved_threshold": threshold,
        "solved_fraction": solved,
        **seconds,
        "env_steps_per_second": config.seeds * config.env_steps / seconds["train_seconds"],
    }
