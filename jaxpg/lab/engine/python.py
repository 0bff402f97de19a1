"""The engine from Python: :func:`run`, kept in a directory, and :func:`sweep`, in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxpg import envs
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import shown
from jaxpg.lab.config import Config
from jaxpg.lab.engine import batches, devices, experiment, progress, stopping
from jaxpg.lab.engine.groups import Make, as_function
from jaxpg.lab.engine.loggers import Logger, Loggers, check_loggers, open_loggers
from jaxpg.lab.store import results
from jaxpg.lab.store.files import CONFIG
from jaxpg.lab.store.stored import configured, stored

Vary = Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]]


def run(
    algorithm: Algorithm | Make,
    *,
    directory: str | Path = "",
    total_steps: int,
    seeds: int = 16,
    vary: Vary = (),
    env_params: Any = None,
    seed: int = 0,
    rng: str = Config.rng,
    matmul_precision: str = Config.matmul_precision,
    eval_episodes: int = Config.eval_episodes,
    evaluate_every: int = 0,
    log_every: int = 0,
    checkpoint_every: float = Config.checkpoint_every,
    keep: int = Config.keep,
    memory: float = 0.0,
    shard_envs: bool = False,
    logger: Logger | Sequence[str] = (),
    name: str = "own",
) -> results.Results:
    """Train an algorithm of your own as ``jaxpg train`` and ``jaxpg sweep`` train theirs, and keep everything in a directory.

    Progress, rows, checkpoints, evaluation, summary and figures are those of the command line; environment, networks, losses
    and update rule are whatever ``algorithm`` holds. The same call again continues what was interrupted, bit for bit, and does
    nothing where nothing is missing; with more ``total_steps`` it trains further. :func:`jaxpg.load_policy` takes the same
    ``algo``; ``jaxpg report`` shows the directory.

    Args:
        algorithm: An :class:`Algorithm`; or, to vary sizes such as ``num_envs``, a function from sizes to one, e.g.
            ``functools.partial(jaxpg.ppo, env)``.
        directory: Where results go; by default a new one in ``runs/``.
        total_steps: Environment steps of each run, rounded up to whole updates.
        seeds: Runs of each setting, side by side.
        vary: Hyperparameters and their values, ``{"learning_rate": [1e-4, 1e-3]}``, or a list of settings; nothing by default.
        env_params: Numbers in place of the environment's own, by name, ``{"gravity": 5.0}``, or like ``env.default_params``.
        seed: Where all randomness comes from.
        rng: Generator of random numbers, ``philox4x32`` or ``threefry2x32``.
        matmul_precision: Of float32 matrix products: ``default`` is JAX's setting, which without one is TF32 on a GPU, bfloat16
            on a TPU and float32 on a CPU; ``highest`` is float32 on all of them, ``high`` lies between the two on a TPU.
        eval_episodes: Episodes of each evaluation, per run.
        evaluate_every: Updates between evaluations during training; 0: only at the end.
        log_every: Updates between two rows of the log; 0: about 150 rows.
        checkpoint_every: Seconds between checkpoints; 0: only at the end, and when interrupted.
        keep: Checkpoints that are kept, besides the best; at least 2.
        memory: GiB that a device may spend; 0: what it has free. More runs than fit are trained in batches.
        shard_envs: Share the environments of every run among the devices, not the runs.
        logger: A name or several, of ``tensorboard`` and ``wandb``, or an object with the two methods of
            :class:`jaxpg.lab.engine.loggers.Logger`.
        name: What the algorithm is called in tables and figures.

    Returns:
        What is in the directory, as arrays: metrics ``[setting, seed, log point]``, returns ``[setting, seed]``.

    Raises:
        ValueError: For what does not fit together, and a directory that holds another experiment; nothing was written then.
        KeyboardInterrupt: After Ctrl-C, once everything is saved.

    >>> import jaxpg, tempfile
    >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
    >>> found = jaxpg.run(algo, directory=f"{tempfile.mkdtemp()}/mine", seeds=2, total_steps=64, eval_episodes=2)
    >>> found.returns["greedy_return"].shape
    (1, 2)
    """
    if not isinstance(logger, Sequence) and not all(callable(getattr(logger, name, None)) for name in ("write", "close")):
        raise ValueError(f"logger = {shown(logger)} must be names, or an object with the methods write and close")
    devices.use_all_cores()
    logger = (logger,) if isinstance(logger, str) else logger
    names, own = (tuple(logger), []) if isinstance(logger, Sequence) else ((), [logger])
    check_loggers(names)
    config = own_config(
        algorithm,
        name,
        run_dir=str(directory),
        options={"total_steps": total_steps},
        seeds=seeds,
        vary=vary or {},
        env_params=env_params,
        seed=seed,
        rng=rng,
        matmul_precision=matmul_precision,
        eval_episodes=eval_episodes,
        evaluate_every=evaluate_every,
        log_every=log_every,
        log=names,
        checkpoint_every=checkpoint_every,
        keep=keep,
        memory=memory,
        shard_envs=shard_envs,
    )
    is_continued = directory and (Path(directory) / CONFIG).exists()
    if is_continued:
        before = configured(directory, stored(directory))
        if before.total_steps < config.total_steps:
            config = dataclasses.replace(config, base_steps=before.base_steps or before.total_steps)
    screen = visible_screen()
    warn = functools.partial(progress.warn, screen)
    try:
        with stopping.listen(hard=False) as stop:
            job = experiment.claim(experiment.prepare(config, algorithm))
            directory = Path(job.config.run_dir)
            opened = open_loggers(names, directory, stored(directory), bool(is_continued), warn)
            return experiment.run(job, screen, stop, Loggers([*opened, *own], warn))
    except stopping.Stopped as asked:
        if asked.then:
            warn(asked.then)
        raise (KeyboardInterrupt if asked.number == stopping.signal.SIGINT else SystemExit)(asked.code) from None


def sweep(
    algorithm: Algorithm | Make,
    vary: Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]],
    *,
    seeds: int,
    total_steps: int,
    env_params: Any = None,
    seed: int = 0,
    eval_episodes: int = 128,
    memory: int | None = None,
) -> results.Results:
    """Every setting with every seed, in memory: metrics ``[setting, seed, log point]``, evaluated returns ``[setting, seed]``.

    :func:`jaxpg.run` does the same and keeps it on the disk. ``vary`` is a product, ``{"learning_rate": [1e-4, 1e-3],
    "gamma": [0.98, 0.99]}``, or a list of settings. Traced hyperparameters share one program. Sizes (``num_envs``, ``epochs``,
    ``hidden``, ...) make a program each, and need a function from sizes to an algorithm in place of the algorithm:
    ``functools.partial(jaxpg.ppo, env)``.

    Runs are spread over the local devices; as many as ``memory`` (bytes of one device) allows are trained at once. Setting
    ``i`` with seed ``j`` is ``env_steps[i]``, ``metrics["episode_return"][i, j]``, ``returns["greedy_return"][i, j]``.
    ``total_steps`` is per run, rounded up to whole updates; ``env_params`` are as in :func:`jaxpg.run`.

    >>> import jaxpg
    >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
    >>> found = jaxpg.sweep(algo, {"learning_rate": [1e-3, 1e-2]}, seeds=3, total_steps=64, eval_episodes=2)
    >>> found.settings[1], found.metrics["entropy"].shape, found.returns["greedy_return"].shape
    ({'learning_rate': 0.01}, (2, 3, 2), (2, 3))

    ``ValueError`` for what cannot be varied, values out of range, and a run that does not fit into the memory.
    """
    if not vary:
        raise ValueError("vary is empty; a sweep needs at least one setting")
    devices.use_all_cores()
    options = {"total_steps": total_steps}
    fields = {"seeds": seeds, "seed": seed, "eval_episodes": eval_episodes, "options": options, "vary": vary}
    fields["env_params"] = env_params
    config = own_config(algorithm, "own", **fields)
    if memory is not None:
        config = dataclasses.replace(config, memory=memory / 2**30)
    job = experiment.prepare(config, algorithm)
    screen = visible_screen()
    parts = []
    session = experiment.Session(screen, stopping.Stop())
    for number, group in enumerate(job.groups):
        for batch in experiment.cut(job, number, job.runs_of(group), session):
            compiled = experiment.compile_programs(job, number, batch.width, session)
            with progress.Progress(screen, batch.env_steps, len(batch.runs)) as bar:
                recorder = batches.Recorder(batch, compiled, bar)
                finished, _ = batches.train(batch, compiled, recorder, bar, session.stop)
            parts.append(recorder.part(finished))
    return results.join("sweep", config.to_dict(), config.settings, seeds, parts)


def own_config(algorithm: Algorithm | Make, name: str, *, env_params: Any, **fields: Any) -> Config:
    """The configuration of an experiment with an algorithm of the user's own; its environment is called as it calls itself."""
    env: Any = as_function(algorithm)().env
    numbers = envs.differing_params(env, env_params)
    return Config(name, own=True, env=str(getattr(env, "name", type(env).__name__)), env_params=numbers, **fields)


def visible_screen() -> Console:
    """Standard error where somebody is looking at it: a terminal, or a notebook."""
    screen = Console(stderr=True)
    return screen if screen.is_terminal or screen.is_jupyter else Console(quiet=True)
