"""Write a valid experiment of any size without training it, to measure what reading it costs.

    .venv/bin/python -m experiments.scale.make_directory runs/scale --missing 1

10,000 settings of PPO with 100 seeds each, in 10,000 batches of runs: 5 GB. Configuration, logs, Parquet tables and results are
written by what writes them in training; their numbers are a smooth function of the hyperparameters with noise. There are no
checkpoints. The last ``missing`` batches are left out, so that ``jaxpg resume`` has something to train.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tyro

from jaxpg.lab.config import Config
from jaxpg.lab.engine import batches, experiment
from jaxpg.lab.engine.groups import Group
from jaxpg.lab.store import columns, log
from jaxpg.lab.store.columns import MODES
from jaxpg.lab.store.files import METRICS, RESULT, TABLE, write_json

NAMES = ("clip_fraction", "critic_loss", "entropy", "episode_length", "episodes", "kl", "policy_loss", "sampled_steps")


def main(
    directory: tyro.conf.Positional[Path],
    values: int = 10,
    seeds: int = 100,
    batch_size: int = 100,
    points: int = 10,
    missing: int = 0,
) -> None:
    """Write ``values ** 4`` settings with ``seeds`` seeds each, in batches of ``batch_size`` runs."""
    begin = time.perf_counter()
    job = experiment.claim(experiment.prepare(make_config(directory, values, seeds, points)))
    (group,) = job.groups
    runs = job.runs_of(0, job.share)
    firsts = range(0, len(runs), batch_size)
    for first in firsts[: len(firsts) - missing]:
        write_batch(job, group, runs[first : first + batch_size])
    print(f"{len(runs):,} runs in {len(firsts) - missing:,} batches: {time.perf_counter() - begin:.0f} s")


def make_config(directory: Path, values: int, seeds: int, points: int) -> Config:
    """Four hyperparameters with ``values`` values each."""
    vary = {"learning_rate": f"log:1e-5:1e-1:{values}", "gamma": f"lin:0.9:0.999:{values}"}
    vary |= {"entropy_coef": f"log:1e-4:1e-1:{values}", "clip_eps": f"lin:0.05:0.5:{values}"}
    options = {"num_envs": 4, "num_steps": 8, "epochs": 1, "hidden": (8,), "total_steps": 32 * points}
    return Config("ppo", seeds=seeds, eval_episodes=2, run_dir=str(directory), options=options, vary=vary, parquet=True)


def write_batch(job: experiment.Job, group: Group, runs: list[int]) -> None:
    """Write a finished batch: its description, its log, its table and its result."""
    batch = group.batch(runs, job.config.seeds, len(runs))
    about = {"identity": job.identity, "runs": batch.runs, "width": batch.width}
    folder, rng = batches.make_folder(Path(job.config.run_dir), about), np.random.default_rng(runs[0])
    score = np.array([best_return(job.config, setting) for setting, _ in batch.places])
    diverged_at = np.where(rng.random(len(runs)) < 0.002, batch.course.total, 0)
    updates = [update for update in range(1, batch.course.total + 1) if batch.course.is_log_point(update)]
    with log.Log(folder / METRICS) as file:
        for update in updates:
            now = score * update / batch.course.total + rng.normal(0, 25, len(runs))
            metrics = {name: rng.normal(size=len(runs)).astype(np.float32) for name in NAMES}
            metrics |= {"episode_return": np.clip(now, 8, 500).astype(np.float32)}
            metrics |= {"sampled_steps": np.full(len(runs), group.steps_per_update, np.float32)}
            file.write(log.rows(batch.places, update, update * group.steps_per_update, metrics))
        tables = columns.tabulate(batch.runs, batch.seeds, log.read_rows(file.path, file.size))
        written = columns.write(folder / TABLE, batch.runs, batch.seeds, *tables)
        sealed = {"log": file.seal, "points": columns.describe_points(*tables), "parquet": written}
    finals = np.where(diverged_at, np.nan, np.clip(score + rng.normal(0, 40, (2, len(runs))), 8, 500))
    content = {"identity": job.identity, "runs": batch.runs, "num_updates": batch.course.total, "env_steps": batch.env_steps}
    content |= {"returns": dict(zip(MODES, finals.tolist(), strict=True)), "diverged_at": diverged_at.tolist()}
    content |= {"digests": [rng.bytes(32).hex() for _ in runs], "seconds": {"compile": 1.0, "train": 2.0}}
    write_json(folder / RESULT, content | sealed)


def best_return(config: Config, number: int) -> float:
    """A smooth function of the hyperparameters of a setting, best near the middle of each range."""
    sizes = [len(values) for values in config.vary.values()] if isinstance(config.vary, Mapping) else []
    places = np.unravel_index(number, sizes)
    offsets = [place / (size - 1) - best for place, size, best in zip(places, sizes, (0.5, 0.9, 0.3, 0.4), strict=True)]
    weights = itertools.chain([900, 250], itertools.repeat(60))
    return float(480 - sum(weight * offset**2 for weight, offset in zip(weights, offsets, strict=False)))


if __name__ == "__main__":
    tyro.cli(main)
