"""The results of an experiment: its summary, its times and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpg import stats
from jaxpg.lab.config import Config
from jaxpg.lab.engine.groups import Group
from jaxpg.lab.store import results
from jaxpg.lab.store.files import CURVES, SUMMARY, TIMING, write_json


def conclude(config: Config, groups: Sequence[Group], found: results.Results) -> dict[str, Any]:
    """Write ``summary.json``, ``timing.json`` and the figures; return the summary and the times."""
    from jaxpg.lab.report import figures, landscape, plots  # with matplotlib, which nothing needs before
    from jaxpg.lab.report.rows import rows, varied
    from jaxpg.lab.report.text import name_env, name_task

    directory = Path(config.run_dir)
    threshold = config.solved_threshold
    if len(found.settings) == 1:
        title = f"{name_task(config.algo, name_env(config.to_dict()))}, {config.seeds} seeds"
        returns = found.metrics["episode_return"][0].T
        curves = plots.learning_curve(found.env_steps[0], returns, title, threshold)
    else:
        curves = figures.compare(rows([found]))[0]
    plots.save(curves, directory / CURVES)
    for name in varied(found):
        plots.save(landscape.sensitivity(found, name)[0], directory / f"sensitivity_{name}.png")
    summary, timing = summarize(config, groups, found), measure(config, groups, found)
    write_json(directory / TIMING, timing)
    write_json(directory / SUMMARY, summary)
    return summary | timing


def measure(config: Config, groups: Sequence[Group], found: results.Results) -> dict[str, Any]:
    """The seconds and the speed, over all batches."""
    steps = sum(group.course.total * group.steps_per_update * len(group.hparams) for group in groups) * config.seeds
    seconds = {f"{name}_seconds": value for name, value in found.seconds.items()}
    return seconds | {"env_steps_per_second": steps / max(found.seconds["train"], 1e-9)}


def summarize(config: Config, groups: Sequence[Group], found: results.Results) -> dict[str, Any]:
    """A row of statistics for each setting, in order. Identical if the same experiment is repeated."""
    group_of = {number: group for group in groups for number in group.hparams}
    rows = [
        {"setting": setting, "num_updates": group_of[i].course.total}
        | {"env_steps_per_seed": group_of[i].course.total * group_of[i].steps_per_update}
        | summarize_setting(config, found, i)
        for i, setting in enumerate(config.settings)
    ]
    head = {"identity": found.config["identity"], "algo": config.algo, "env": config.env, "env_params": config.env_params}
    head |= {"num_seeds": config.seeds}
    head |= {"total_steps": config.total_steps, "programs": len(groups), "solved_threshold": config.solved_threshold}
    return head | {"settings": rows}


def summarize_setting(config: Config, found: results.Results, i: int) -> dict[str, Any]:
    """The statistics of setting ``i``. ``sampled_steps`` is the mean over seeds of the steps that were real, not padding."""
    summary: dict[str, Any] = {
        name: stats.summarize(values[i]) | {"per_seed": values[i].tolist()} for name, values in found.returns.items()
    }
    summary["sampled_steps"] = float(np.mean(np.nansum(found.metrics["sampled_steps"][i], axis=-1)))
    summary["diverged"] = [{"seed": seed, "update": int(at)} for seed, at in enumerate(found.diverged_at[i]) if at]
    summary["digests"] = found.digests[i].tolist()
    threshold = config.solved_threshold
    if threshold is not None:
        known = ~np.isnan(found.env_steps[i])
        steps = stats.steps_to_threshold(found.env_steps[i, known], found.metrics["episode_return"][i][:, known], threshold)
        summary["solved"] = stats.summarize_solved(found.returns["greedy_return"][i], threshold)
        summary["to_threshold"] = stats.summarize_steps(steps)
    return summary
