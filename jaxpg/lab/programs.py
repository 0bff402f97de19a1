"""The three programs of a group of runs (start, a chunk of updates, evaluation), and the host loop that drives them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpg import sharding, sweeping
from jaxpg.algorithm import Algorithm
from jaxpg.hparams import HParams
from jaxpg.lab import devices
from jaxpg.types import TrainState

Report = Callable[[int, dict[str, np.ndarray]], None]  # (updates done, metrics [R])


@dataclasses.dataclass(frozen=True)
class Traced:
    """All that can refuse a group of runs has been asked: every shape is known; nothing is compiled, computed or written."""

    mesh: Mesh
    width: int  # runs trained side by side, a multiple of the devices
    lengths: Sequence[int]  # updates between log points
    training: Any  # where each leaf of the state lies in training: a tree of shardings
    evaluating: Any  # and in the evaluation, which always spreads the runs
    start: jax.stages.Lowered  # seeds [R], hparams [R] -> state
    chunks: dict[int, jax.stages.Lowered]  # for each length, usually one: state -> (state, metrics [R])
    evaluation: jax.stages.Lowered  # state -> {greedy_return, sampled_return, diverged} [R]
    seconds: float  # spent on tracing


@dataclasses.dataclass(frozen=True)
class Programs:
    """:class:`Traced`, compiled. ``bytes_per_run`` is what XLA says that a run takes on its device at most."""

    mesh: Mesh
    width: int
    lengths: Sequence[int]
    training: Any
    evaluating: Any
    start: jax.stages.Compiled
    chunks: dict[int, jax.stages.Compiled]
    evaluation: jax.stages.Compiled
    seconds: float
    bytes_per_run: int


def trace(algo: Algorithm, seed: int, lengths: Sequence[int], eval_episodes: int, width: int, mesh: Mesh) -> Traced:
    """The programs of ``width`` runs of ``algo`` on ``mesh``; ``ValueError`` for anything in ``algo`` that does not fit.

    The axis of ``mesh`` says what its devices share: the runs, or the environments of every run.
    """
    begin = time.perf_counter()
    is_by_env = sharding.ENV in mesh.axis_names
    spread = devices.seed_mesh(width) if is_by_env else mesh
    lanes = devices.lanes(width // spread.size)
    key_train, key_eval = sweeping.keys(seed)
    start = devices.spread(functools.partial(sweeping.start, algo, key_train), spread)
    start = start.lower(*inputs([0], [algo.hparams], width))
    evaluating = devices.layout(start.out_info, spread)
    training = sharding.layout(start.out_info, mesh) if is_by_env else evaluating

    def chunk(length: int) -> jax.stages.Lowered:
        if is_by_env:
            advance = functools.partial(sweeping.advance, algo, length, width)
            program = jax.jit(advance, out_shardings=(training, None), donate_argnums=0)
        else:
            program = devices.spread(functools.partial(sweeping.advance, algo, length, lanes), mesh, donate_argnums=0)
        return program.lower(devices.like(start.out_info, training))

    chunks = {length: chunk(length) for length in set(lengths)}
    evaluation = devices.spread(functools.partial(sweeping.assess, algo, key_eval, eval_episodes, lanes), spread)
    evaluation = evaluation.lower(devices.like(start.out_info, evaluating))
    seconds = time.perf_counter() - begin
    return Traced(mesh, width, lengths, training, evaluating, start, chunks, evaluation, seconds)


def compiled(traced: Traced) -> Programs:
    """One compilation of each program."""
    begin = time.perf_counter()
    start = devices.compile_once(traced.start, traced.mesh)
    chunks = {length: chunk.compile() for length, chunk in traced.chunks.items()}
    evaluation = traced.evaluation.compile()
    largest = max(devices.bytes_needed(program) for program in (*chunks.values(), evaluation))
    seconds = traced.seconds + time.perf_counter() - begin
    per_run = -(-largest * traced.mesh.size // traced.width)
    where = traced.mesh, traced.width, traced.lengths, traced.training, traced.evaluating
    return Programs(*where, start, chunks, evaluation, seconds, per_run)


def inputs(seeds: Sequence[int], hparams: Sequence[HParams], width: int) -> tuple[np.ndarray, HParams]:
    """What the start program takes for these runs, one entry each; the last is repeated until there are ``width``."""
    repeat = [*range(len(seeds)), *[len(seeds) - 1] * (width - len(seeds))]
    stacked = jax.tree.map(lambda *values: np.array(values, np.float32), *(hparams[i] for i in repeat))
    return np.array([seeds[i] for i in repeat], np.int32), stacked


def train(programs: Programs, seeds: Sequence[int], hparams: Sequence[HParams], report: Report) -> TrainState:
    """The runs from their start to their end; ``report`` gets every log point, ``[R]``. The state has ``width`` rows."""
    state = jax.device_put(programs.start(*inputs(seeds, hparams, programs.width)), programs.training)

    def shown(update: int, metrics: dict[str, np.ndarray]) -> None:
        report(update, {name: values[: len(seeds)] for name, values in metrics.items()})

    return train_in_chunks(programs.chunks, programs.lengths, state, shown)


def evaluate(programs: Programs, state: TrainState, num_runs: int) -> dict[str, np.ndarray]:
    """The returns of the first ``num_runs``, NaN for those that ``diverged``, and which did."""
    state = jax.device_put(state, programs.evaluating)
    scores = {name: values[:num_runs] for name, values in jax.device_get(programs.evaluation(state)).items()}
    diverged = scores.pop("diverged")
    return {name: np.where(diverged, np.nan, values.astype(float)) for name, values in scores.items()} | {"diverged": diverged}


def train_in_chunks(programs: dict[int, Any], lengths: Iterable[int], state: TrainState, report: Report) -> TrainState:
    """The loop on the host. Metrics are fetched one chunk behind the dispatch, so that the devices never wait for the host."""
    update, behind = 0, None
    for length in lengths:
        state, metrics = programs[length](state)
        if behind is not None:
            report(update, jax.device_get(behind))
        update, behind = update + length, metrics
    report(update, jax.device_get(behind))
    return jax.block_until_ready(state)
