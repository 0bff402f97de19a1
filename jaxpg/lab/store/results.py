"""Results: what a run or a sweep came to, as arrays, and how they lie on the disk. NumPy only: a report needs no JAX."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpg.lab.store.stored import CONFIG, SUMMARY, ours, read_json
from jaxpg.lab.store.writers import read_metrics

PARTS = "parts"  # of a sweep: each file holds the runs of one lot


@dataclasses.dataclass(frozen=True)
class Results:
    """S settings x N seeds x P log points. A run of ``jaxpg train`` is one setting, which varies nothing: ``{}``.

    ``env_steps`` is ``[S, P]``; a setting with fewer log points than others ends in NaN, as its metrics do. ``metrics`` are
    ``[S, N, P]``, NaN where no episode ended; ``returns`` are ``[S, N]``: of the evaluation at the end, NaN for a run that
    diverged or is not there yet. ``diverged_at`` is ``[S, N]``: the update at which a run diverged, 0 for one that did not.
    """

    name: str
    config: Mapping[str, Any]
    settings: Sequence[Mapping[str, Any]]
    env_steps: np.ndarray
    metrics: Mapping[str, np.ndarray]
    returns: Mapping[str, np.ndarray]
    diverged_at: np.ndarray

    @property
    def diverged(self) -> np.ndarray:
        """Which runs diverged, ``[S, N]``."""
        return self.diverged_at > 0


@dataclasses.dataclass(frozen=True)
class Part:
    """Some runs of a sweep: ``r`` is setting ``r // N`` with seed ``r % N``. ``metrics`` are ``[R, P]``, the rest ``[R]``."""

    runs: np.ndarray
    env_steps: np.ndarray  # [P]
    metrics: Mapping[str, np.ndarray]
    returns: Mapping[str, np.ndarray]
    diverged_at: np.ndarray


def join(
    name: str, config: Mapping[str, Any], settings: Sequence[Mapping[str, Any]], seeds: int, parts: Sequence[Part]
) -> Results:
    """The parts of a sweep put together; runs that no part holds are NaN."""
    points = max((part.env_steps.size for part in parts), default=0)
    shape = (len(settings), seeds)
    env_steps = np.full((len(settings), points), np.nan)
    metrics = {key: np.full((*shape, points), np.nan) for part in parts[:1] for key in part.metrics}
    returns = {key: np.full(shape, np.nan) for part in parts[:1] for key in part.returns}
    diverged_at = np.zeros(shape, int)
    for part in parts:
        setting, seed = np.divmod(part.runs, seeds)
        last = part.env_steps.size
        env_steps[setting, :last] = part.env_steps
        diverged_at[setting, seed] = part.diverged_at
        for key, values in part.metrics.items():
            metrics[key][setting, seed, :last] = values
        for key, values in part.returns.items():
            returns[key][setting, seed] = np.where(part.diverged_at > 0, np.nan, values)
    return Results(name, config, settings, env_steps, metrics, returns, diverged_at)


def write_part(directory: Path, part: Part) -> None:
    """``part`` as a file of ``directory/parts``: whole or not at all, named by its first run."""
    folder = directory / PARTS
    folder.mkdir(exist_ok=True)
    flat = {f"metrics/{key}": values for key, values in part.metrics.items()}
    flat |= {f"returns/{key}": values for key, values in part.returns.items()}
    unfinished = folder / f".{part.runs[0]:07d}.part"
    with open(unfinished, "wb") as file:
        np.savez(file, runs=part.runs, env_steps=part.env_steps, diverged_at=part.diverged_at, **flat)  # pyright: ignore
    os.replace(unfinished, folder / f"{part.runs[0]:07d}.npz")


def read_part(path: Path) -> Part:
    """What :func:`write_part` wrote."""
    with np.load(path, allow_pickle=False) as file:
        groups: dict[str, dict[str, np.ndarray]] = {"metrics": {}, "returns": {}}
        for key in file.files:
            kind, _, name = key.partition("/")
            if name:
                groups[kind][name] = file[key]
        return Part(file["runs"], file["env_steps"], diverged_at=file["diverged_at"], **groups)


def read_parts(directory: Path) -> list[Part]:
    """All parts that are finished, in the order of their runs."""
    return [read_part(path) for path in sorted((directory / PARTS).glob("*.npz"))]


def read(directory: str | Path) -> Results:
    """The results in a directory that ``jaxpg train`` or ``jaxpg sweep`` wrote, finished or not.

    ``ValueError`` for one that holds neither.
    """
    directory = Path(directory)
    with ours(directory):
        return arranged(directory, read_json(directory / CONFIG))


def arranged(directory: Path, config: Mapping[str, Any]) -> Results:
    """The same, with the configuration that was found there."""
    if not {"algo", "env", "seeds"} <= config.keys():
        raise ValueError(f"{directory} holds no run: {CONFIG} is not one of ours")
    name = directory.resolve().name
    if "settings" in config:
        return join(name, config, config["settings"], config["seeds"], read_parts(directory))
    logged = read_metrics(directory)
    env_steps = logged.pop("env_steps")[None]
    metrics = {key: values.T[None] for key, values in logged.items()}
    scores = read_json(directory / SUMMARY) if (directory / SUMMARY).exists() else {}
    keys = ("greedy_return", "sampled_return")
    missing = [np.nan] * config["seeds"]
    returns = {key: np.array([scores.get(key, {}).get("per_seed", missing)], float) for key in keys}
    diverged_at = np.zeros((1, config["seeds"]), int)
    for lost in scores.get("diverged", []):
        diverged_at[0, lost["seed"]] = lost["update"]
    return Results(name, config, ({},), env_steps, metrics, returns, diverged_at)
