"""The results of an experiment: its summary, its times and its figures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpg import stats
from jaxpg.lab.config import Config
from jaxpg.lab.engine.groups import Group
from jaxpg.lab.store import results
from jaxpg.lab.store.files import CURVES, SUMMARY, TIMING, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS_OF = 100_000  # runs up to which the summary has the return and the digest of each run
BLOCK = 2**22  # about so many numbers of curves are read at a time


def conclude(config: Config, groups: Sequence[Group], found: results.Results) -> dict[str, Any]:
    """Write ``summary.json``, ``timing.json`` and the figures; return the summary and the times."""
    from jaxpg.lab.report import plots  # with matplotlib, which nothing needs before

    directory = Path(config.run_dir)
    for name, figure in draw(config, found).items():
        plots.save(figure, directory / name)
    summary, timing = summarize(config, groups, found), measure(config, groups, found)
    write_json(directory / TIMING, timing)
    write_json(directory / SUMMARY, summary)
    return summary | timing


def draw(config: Config, found: results.Results) -> dict[str, Figure]:
    """The figures by the names of their files: learning curves, and the return over each hyperparameter that varies."""
    from jaxpg.lab.report import figures, landscape, plots
    from jaxpg.lab.report.rows import MANY, best_rows, rows, summarize_settings, varied
    from jaxpg.lab.report.text import name_env, name_task

    if len(found.settings) == 1:
        title = f"{name_task(config.algo, name_env(config.to_dict()))}, {config.seeds} seeds"
        returns = found.metrics["episode_return"][0].T
        curves = plots.learning_curve(found.env_steps[0], returns, title, config.solved_threshold)
    elif len(found.settings) <= MANY:
        curves = figures.compare(rows([found]))[0]
    else:
        scores = summarize_settings(found)
        curves = figures.compare(best_rows([found], [scores], plots.MAX_LINES))[0]
        drawn = {name: landscape.marginal(found, name, scores)[0] for name in varied(found)}
        return {CURVES: curves} | {f"sensitivity_{name}.png": figure for name, figure in drawn.items()}
    drawn = {name: landscape.sensitivity(found, name)[0] for name in varied(found)}
    return {CURVES: curves} | {f"sensitivity_{name}.png": figure for name, figure in drawn.items()}


def measure(config: Config, groups: Sequence[Group], found: results.Results) -> dict[str, Any]:
    """The seconds of all batches together, which workers train at the same time, and the steps in a second of training."""
    steps = sum(group.course.total * group.steps_per_update * len(group.hparams) for group in groups) * config.seeds
    seconds = {f"{name}_seconds": value for name, value in found.seconds.items()}
    seconds["env_steps_per_second"] = steps / max(found.seconds["train"], 1e-9)
    return seconds | {"batches": len(results.folders(Path(config.run_dir)))}


def summarize(config: Config, groups: Sequence[Group], found: results.Results) -> dict[str, Any]:
    """A row of statistics for each setting, in order. Identical if the same experiment is repeated."""
    group_of = {number: group for group in groups for number in group.hparams}
    rows = [
        {"setting": setting, "num_updates": group_of[i].course.total}
        | {"env_steps_per_seed": group_of[i].course.total * group_of[i].steps_per_update}
        | scores
        for i, (setting, scores) in enumerate(zip(config.settings, summarize_settings(config, found), strict=True))
    ]
    head = {"identity": found.config["identity"], "algo": config.algo, "env": config.env, "env_params": config.env_params}
    head |= {"num_seeds": config.seeds}
    head |= {"total_steps": config.total_steps, "programs": len(groups), "solved_threshold": config.solved_threshold}
    return head | {"settings": rows}


def summarize_settings(config: Config, found: results.Results) -> Iterator[dict[str, Any]]:
    """The statistics of each setting; the logs are read some settings at a time.

    The bootstrap of many settings is computed together, from the same resamplings for all.
    """
    from jaxpg.lab.report.rows import MANY

    together = len(found.settings) > MANY
    scores = {
        name: stats.summarize_rows(values) if together else map(stats.summarize, values)
        for name, values in found.returns.items()
    }
    by_setting = (dict(zip(scores, each, strict=True)) for each in zip(*scores.values(), strict=True))
    size = max(1, BLOCK // max(1, config.seeds * found.env_steps.shape[1]))
    for begin in range(0, len(found.settings), size):
        block = found.select(range(begin, min(begin + size, len(found.settings))), ("sampled_steps", "episode_return"))
        for i in range(len(block.settings)):
            yield summarize_setting(config, block, i, next(by_setting), is_large=found.diverged_at.size > SEEDS_OF)


def summarize_setting(
    config: Config, found: results.Results, i: int, scores: Mapping[str, Any], *, is_large: bool
) -> dict[str, Any]:
    """The statistics of setting ``i``. ``sampled_steps`` is the mean over seeds of the steps that were real, not padding.

    A large experiment has one digest for all seeds of a setting, and the returns of the seeds only in ``result.json``.
    """
    digests = found.digests[i].tolist()
    per_seed = {name: {} if is_large else {"per_seed": values[i].tolist()} for name, values in found.returns.items()}
    summary: dict[str, Any] = {name: score | per_seed[name] for name, score in scores.items()}
    summary["sampled_steps"] = float(np.mean(np.nansum(found.metrics["sampled_steps"][i], axis=-1)))
    summary["diverged"] = [{"seed": seed, "update": int(at)} for seed, at in enumerate(found.diverged_at[i]) if at]
    summary |= {"digest": hashlib.sha256("".join(digests).encode()).hexdigest()} if is_large else {"digests": digests}
    threshold = config.solved_threshold
    if threshold is not None:
        known = ~np.isnan(found.env_steps[i])
        steps = stats.steps_to_threshold(found.env_steps[i, known], found.metrics["episode_return"][i][:, known], threshold)
        summary["solved"] = stats.summarize_solved(found.returns["greedy_return"][i], threshold)
        summary["to_threshold"] = stats.summarize_steps(steps)
    return summary
