"""Optuna: batches of trials, each with several seeds, in one program that is compiled once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpg.core.algorithm import Algorithm
from jaxpg.lab.config import check_range
from jaxpg.lab.engine import devices, experiment, python, stopping
from jaxpg.lab.engine.groups import arrange, make_own
from jaxpg.search import Range, check_space


def optimize_study(
    study: Any,
    algorithm: Algorithm,
    space: Mapping[str, Range | Sequence[Any]],
    *,
    num_trials: int,
    batch_size: int = 8,
    seeds: int,
    total_steps: int,
    seed: int = 0,
    eval_episodes: int = 128,
) -> None:
    """Train ``num_trials`` trials of an Optuna study; the value of a trial is its mean greedy return over seeds.

    ``batch_size`` trials are asked for, trained side by side, and told, until all are done. The hyperparameters are inputs of
    the program, so that it is compiled for the first batch only. A trial with a diverged run fails. All trials have the same
    seeds; train the best one again with others, because it was chosen by its value.

    Args:
        study: Of ``optuna.create_study(direction="maximize")``, with any sampler and storage; needs ``jaxpg[optuna]``.
        algorithm: The algorithm. Its sizes are fixed.
        space: For each hyperparameter ``jaxpg.search.lin``, ``log``, or a list of values.
        num_trials: Trials to train.
        batch_size: Trials that are trained side by side: more are faster, fewer let the sampler learn from more of them.
        seeds: Runs of each trial.
        total_steps: Environment steps of each run.
        seed: The root seed of the runs; that of the sampler is Optuna's.
        eval_episodes: Episodes of the evaluation of each run.

    Raises:
        ValueError: For a study that minimises, a hyperparameter that is not traced, and a value out of range.

    Examples:
        >>> import jaxpg, optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
        >>> study = optuna.create_study(direction="maximize")
        >>> space = {"learning_rate": jaxpg.search.log(1e-4, 1e-2), "gamma": [0.98, 0.99]}
        >>> jaxpg.optimize_study(study, algo, space, num_trials=4, batch_size=2, seeds=2, total_steps=64, eval_episodes=2)
        >>> len(study.trials), sorted(study.best_params)
        (4, ['gamma', 'learning_rate'])
    """
    from optuna.trial import TrialState

    check_space(space)
    for name, value in (("num_trials", num_trials), ("batch_size", batch_size)):
        check_range(name, value, 1, 2**20)
    if [direction.name for direction in study.directions] != ["MAXIMIZE"]:
        raise ValueError("study: returns are maximised; give optuna.create_study(direction='maximize')")
    devices.use_all_cores()
    options = {"total_steps": total_steps}
    fields = {"seeds": seeds, "seed": seed, "eval_episodes": eval_episodes, "options": options, "env_params": None}
    job: experiment.Job | None = None
    for first in range(0, num_trials, batch_size):
        trials = [study.ask() for _ in range(min(batch_size, num_trials - first))]
        asked = [{name: suggest(trial, name, values) for name, values in space.items()} for trial in trials]
        values = [math.nan] * len(trials)
        try:
            settings = asked + asked[-1:] * (batch_size - len(asked))  # so that the last batch has the same program
            config = python.own_config(algorithm, "own", vary=settings, **fields)
            groups = arrange(config, make_own(config, algorithm))
            job = dataclasses.replace(job, config=config, groups=groups) if job else experiment.prepare(config, algorithm)
            values = [float(scores.mean()) for scores in python.train_in_memory(job, stopping.Stop()).returns["greedy_return"]]
        finally:
            for trial, value in zip(trials, values, strict=False):
                study.tell(trial, *((None, TrialState.FAIL) if math.isnan(value) else (value,)))


def suggest(trial: Any, name: str, values: Range | Sequence[Any]) -> Any:
    """The value that the sampler suggests for a trial."""
    if not isinstance(values, Range):
        return trial.suggest_categorical(name, values)
    call = trial.suggest_int if values.integer else trial.suggest_float
    return call(name, values.low, values.high, log=values.log)
