"""From a configuration to a finished run directory: the host loop over compiled chunks, the evaluation, the files."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxpg import algorithms, envs, stats
from jaxpg.algorithm import Algorithm
from jaxpg.lab import devices, plots, writers
from jaxpg.lab.config import RunConfig, chunk_lengths
from jaxpg.lab.progress import Progress
from jaxpg.training import evaluate, train
from jaxpg.types import Array, Metrics, TrainState

TRAINING, EVALUATION = 0, 1  # what the configuration's seed is folded with: evaluation has keys of its own
Traced = jax.stages.Lowered
Report = Callable[[int, dict[str, np.ndarray]], None]  # (updates done, metrics [S])


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that has been checked to the last shape: all programs traced, none compiled, nothing computed or written."""

    config: RunConfig
    mesh: Mesh
    lengths: list[int]  # updates between log points
    start: Traced  # indices [S] -> state, S being the seeds rounded up to the devices
    chunks: dict[int, Traced]  # for each length, usually one: state -> (state, metrics [S])
    evaluation: Traced  # state -> mean returns [S]
    seconds: float  # spent on tracing


def prepare(config: RunConfig) -> Job:
    """Everything that can refuse a configuration: ``ValueError`` of one line, and nothing has been written."""
    writers.check_free(config.run_dir)
    begin = time.perf_counter()
    algo = algorithms.build(config.algo, envs.make(config.env), **config.options)
    mesh = devices.seed_mesh(config.seeds)
    lengths = chunk_lengths(config.num_updates)
    start = first_state(algo, config, mesh).lower(np.arange(devices.padded(config.seeds, mesh)))
    state = devices.like(start.out_info, mesh)
    chunks = {length: chunk(algo, length, mesh).lower(state) for length in set(lengths)}
    returns = evaluation(algo, config, mesh).lower(state)
    return Job(config, mesh, lengths, start, chunks, returns, time.perf_counter() - begin)


def first_state(algo: Algorithm, config: RunConfig, mesh: Mesh) -> Any:
    """``indices [S] -> state``. Jitted; seed ``i`` starts the same whatever the number of seeds and devices."""
    key = jax.random.fold_in(jax.random.key(config.seed), TRAINING)
    return devices.over_seeds(lambda index: algo.init(jax.random.fold_in(key, index)), mesh)


def chunk(algo: Algorithm, length: int, mesh: Mesh) -> Any:
    """``state -> (state, metrics [S])``: ``length`` updates of every seed. Jitted; reuses the old state's memory."""

    def one_seed(state: TrainState) -> tuple[TrainState, Metrics]:
        state, metrics = train(algo, state, length, log_every=length)
        return state, jax.tree.map(lambda x: x[0], metrics)

    return devices.over_seeds(one_seed, mesh, donate_argnums=0)


def evaluation(algo: Algorithm, config: RunConfig, mesh: Mesh) -> Any:
    """``state -> {greedy_return, sampled_return}``, mean returns ``[S]``. Jitted; every seed plays the same starts in both."""
    key = jax.random.fold_in(jax.random.key(config.seed), EVALUATION)

    def one_seed(state: TrainState) -> dict[str, Array]:
        def mean_return(greedy: bool) -> Array:
            return jnp.mean(evaluate(algo, state, key, config.eval_episodes, greedy=greedy)["episode_return"])

        return {"greedy_return": mean_return(True), "sampled_return": mean_return(False)}

    return devices.over_seeds(one_seed, mesh)


def claim(job: Job) -> writers.RunWriter:
    """Make the run directory and write ``config.json``; ``ValueError`` if it was taken since, or cannot be written."""
    config = job.config
    plan = {"num_updates": config.num_updates, "env_steps_per_seed": config.env_steps}
    return writers.RunWriter(config.run_dir, config.to_dict() | plan | about(job))


def about(job: Job) -> dict[str, Any]:
    """The machine and the versions behind the numbers."""
    return {"device": devices.describe(job.mesh), "versions": devices.versions()}


def run(job: Job, writer: writers.RunWriter, progress: Progress) -> dict[str, Any]:
    """Train, evaluate and write everything; what ``summary.json`` holds."""
    config = job.config

    def report(update: int, metrics: dict[str, np.ndarray]) -> None:
        metrics = {name: values[: config.seeds] for name, values in metrics.items()}
        writer.rows(update, update * config.steps_per_update, metrics)
        progress.advance(update * config.steps_per_update, metrics["episode_return"])

    with writer, progress:
        progress.stage("compiling")
        begin = time.perf_counter()
        start, evaluate_all = devices.compile_once(job.start, job.mesh), job.evaluation.compile()
        programs = {length: traced.compile() for length, traced in job.chunks.items()}
        compiled = time.perf_counter()
        progress.stage("training")
        state = start(np.arange(devices.padded(config.seeds, job.mesh)))
        state = train_in_chunks(programs, job.lengths, state, report)
        seconds = {"compile_seconds": job.seconds + compiled - begin, "train_seconds": time.perf_counter() - compiled}
        progress.stage("evaluating")
        returns = jax.device_get(evaluate_all(state))
        returns = {name: values[: config.seeds].astype(float) for name, values in returns.items()}
        return conclude(job, writer, returns, seconds)


def conclude(job: Job, writer: writers.RunWriter, returns: dict[str, np.ndarray], seconds: dict[str, float]) -> dict[str, Any]:
    """Write ``summary.json`` and ``curves.png`` from what was logged and evaluated."""
    config = job.config
    logged = writers.read_metrics(writer.directory)
    summary = summarize(config, logged, returns, seconds) | about(job)
    writer.json(writers.SUMMARY, summary)
    title = f"{config.algo} on {config.env}, {config.seeds} seeds"
    curves = plots.learning_curve(logged["env_steps"], logged["episode_return"], title, config.solved_threshold)
    plots.save(curves, writer.directory / writers.CURVES)
    return summary


def train_in_chunks(programs: dict[int, Any], lengths: Sequence[int], state: TrainState, report: Report) -> TrainState:
    """The loop on the host. Metrics are fetched one chunk behind the dispatch, so that the devices never wait for the host."""
    update, behind = 0, None
    for length in lengths:
        state, metrics = programs[length](state)
        if behind is not None:
            report(update, jax.device_get(behind))
        update, behind = update + length, metrics
    report(update, jax.device_get(behind))
    return jax.block_until_ready(state)


def summarize(
    config: RunConfig, logged: dict[str, np.ndarray], returns: dict[str, np.ndarray], seconds: dict[str, float]
) -> dict[str, Any]:
    """What a run came to. ``sampled_steps`` is the mean over seeds of the steps that were real, not padding."""
    threshold = config.solved_threshold
    solved = None if threshold is None else float(np.mean(returns["greedy_return"] >= threshold))
    scores = {name: stats.summarize(values) | {"per_seed": values.tolist()} for name, values in returns.items()}
    return {
        "env": config.env,
        "algo": config.algo,
        "num_seeds": config.seeds,
        "num_updates": config.num_updates,
        "env_steps_per_seed": config.env_steps,
        "sampled_steps": float(np.mean(np.sum(logged["sampled_steps"], axis=0))),
        **scores,
        "solved_threshold": threshold,
        "solved_fraction": solved,
        **seconds,
        "env_steps_per_second": config.seeds * config.env_steps / seconds["train_seconds"],
    }
