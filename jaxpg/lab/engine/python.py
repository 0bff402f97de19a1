"""The engine from Python: ``jaxpg.run``, saved in a directory, and ``jaxpg.sweep``, in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from jaxpg import envs
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import shown
from jaxpg.lab.config import Config, Part
from jaxpg.lab.engine import batches, devices, experiment, hosts, launch, progress, stopping
from jaxpg.lab.engine import halving as halvings
from jaxpg.lab.engine.groups import Make, as_function
from jaxpg.lab.engine.loggers import Logger, Loggers, check_loggers, open_loggers
from jaxpg.lab.store import remote, results
from jaxpg.lab.store.files import CONFIG
from jaxpg.lab.store.objects import is_address
from jaxpg.lab.store.searches import read_rule
from jaxpg.lab.store.stored import make_config, read_content

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
    batch_size: int = 0,
    memory: float = 0.0,
    shard_envs: bool = False,
    parquet: bool = False,
    launcher: str = "local",
    resources: Mapping[str, Any] = MappingProxyType({}),
    part: str = "",
    halving: int | tuple[int, int] = 0,
    logger: Logger | Sequence[str] = (),
    name: str = "own",
) -> results.Results:
    """Train any algorithm as ``jaxpg train`` and ``jaxpg sweep`` train theirs, and save everything in a directory.

    Progress, logs, checkpoints, evaluation, summary and figures are those of the command line; environment, networks, losses
    and update rule are those of ``algorithm``. The same call again continues an interrupted experiment, bit for bit, and does
    nothing where nothing is missing; with more ``total_steps`` it trains further. ``jaxpg.load_policy`` loads its policies;
    ``jaxpg report`` shows the directory.

    Args:
        algorithm: An algorithm; or, to vary sizes such as ``num_envs``, a function from sizes to an algorithm, e.g.
            ``functools.partial(jaxpg.ppo, env)``.
        directory: Where results are saved, a path or an address, ``s3://bucket/lr``; by default a new directory in ``runs/``.
        total_steps: Environment steps of each run, rounded up to complete updates.
        seeds: Runs of each setting, trained in parallel.
        vary: Hyperparameters and their values, ``{"learning_rate": [1e-4, 1e-3]}``, or a list of settings; by default none.
        env_params: Numbers in place of the environment's own, by name, ``{"gravity": 5.0}``, or like ``env.default_params``.
        seed: The root seed of all randomness.
        rng: Generator of random numbers, ``philox4x32`` or ``threefry2x32``.
        matmul_precision: Precision of float32 matrix products: ``default`` is JAX's setting (if unset TF32 on a GPU, bfloat16
            on a TPU, float32 on a CPU); ``highest`` is float32 on all of them; ``high`` lies between the two on a TPU.
        eval_episodes: Episodes of each evaluation, for each run.
        evaluate_every: Updates between evaluations during training; 0: only at the end.
        log_every: Updates between two rows of the log; 0: about 150 rows.
        checkpoint_every: Seconds between checkpoints; 0: only at the end, and when interrupted.
        keep: Checkpoints that are kept, besides the best; at least 2.
        batch_size: Runs that are trained at once; 0: as many as fit into the memory, and 64 for each task of a ``launcher``.
        memory: GiB that a device may use; 0: what is free. More runs than fit are trained in batches.
        shard_envs: Divide the environments of every run among the devices, not the runs.
        parquet: When a batch of runs is finished, write its log as ``metrics.parquet``, too; needs ``jaxpg[parquet]``.
        launcher: Who trains the batches of runs: ``local``, this process; ``ray``, workers on this machine; ``ray:ADDRESS``, a
            Ray cluster; ``slurm``, an array of jobs. They must see ``directory``; the algorithm is sent with cloudpickle.
        resources: What each worker gets, in the words of the engine: ``{"num_gpus": 1}`` of Ray, ``{"slurm_partition": "gpu"}``
            of submitit.
        part: ``INDEX/COUNT``: train only this part of the runs, as one of ``COUNT`` independent processes.
        halving: Search by successive halving: eta, or (eta, number of rungs), 3 rungs by default. ``directory`` holds an
            experiment for each rung, ``rung_0``, ``rung_1``, ..., and ``total_steps`` are those of the last; see
            ``jaxpg.search.rungs``. By default every setting is trained to the end.
        logger: ``tensorboard``, ``wandb``, a list of them, or an object with two methods: ``write(rows)``, called at every log
            point with a dict for each run, and ``close(summary)``.
        name: The name of the algorithm in tables and figures.

    Returns:
        What is in the directory, as arrays, with metrics ``[setting, seed, log point]`` and returns ``[setting, seed]``. With
            ``halving`` the results of the last rung; ``jaxpg.search.rank`` says which setting of it is the best.

    Raises:
        ValueError: For options that do not fit together, and a directory that holds another experiment; nothing was written
            then.
        KeyboardInterrupt: After Ctrl-C, once everything is saved.
        OSError: Where the disk is full, or the store of an address does not answer.

    Examples:
        >>> import tempfile
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
        >>> found = jaxpg.run(algo, directory=f"{tempfile.mkdtemp()}/mine", seeds=2, total_steps=64, eval_episodes=2)
        >>> found.returns["greedy_return"].shape
        (1, 2)
    """
    if not isinstance(logger, Sequence) and not all(callable(getattr(logger, name, None)) for name in ("write", "close")):
        raise ValueError(f"logger = {shown(logger)} must be names, or an object with the methods write and close")
    if launcher == "local":  # else this process trains nothing
        devices.use_all_cores()
    logger = (logger,) if isinstance(logger, str) else logger
    names, own = (tuple(logger), []) if isinstance(logger, Sequence) else ((), [logger])
    check_loggers(names)
    config = own_config(
        algorithm,
        name,
        run_dir=remote.local_path(directory),
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
        batch_size=batch_size,
        memory=memory,
        shard_envs=shard_envs,
        parquet=parquet,
    )
    engine, share = launch.make_launcher(launcher, resources), Part.parse(part) if part else None
    launch.check_workers(dataclasses.replace(config, log=names or ("own",) * len(own)), engine, share)
    if halving:
        if own:
            raise ValueError("logger: with halving it must be names, because every rung is logged by itself")
        if engine is not None or share is not None:
            raise ValueError("halving: a search needs a single process; leave out launcher and part")
        if is_address(config.run_dir):
            raise ValueError(f"run_dir = {shown(config.run_dir)}: a search needs a directory on this machine")
        return search(config, halving, algorithm)
    screen = visible_screen()
    warn = functools.partial(progress.warn, screen)
    with (
        listen(warn) as stop,
        remote.writing(config.run_dir, warn, part=share.name if share else "") as copy,
        hosts.together(stop),
    ):
        is_first = hosts.place().index == 0
        screen = screen if is_first else Console(quiet=True)
        config = dataclasses.replace(config, run_dir=copy.run_dir)
        is_continued = bool(copy.run_dir) and (copy.directory / CONFIG).exists()
        if is_continued:
            before = make_config(copy.run_dir, read_content(copy.run_dir))
            if before.total_steps < config.total_steps:
                config = dataclasses.replace(config, base_steps=before.base_steps or before.total_steps)
        job = experiment.prepare(config, algorithm, share, trains_here=engine is None)
        if engine is not None:
            engine.connect()
        job = experiment.claim(job)
        if engine is not None:
            return launch.run(job, engine, screen, stop, algorithm, copy=copy)
        directory = Path(job.config.run_dir)
        opened = open_loggers(names if is_first else (), directory, read_content(directory), is_continued, warn)
        return experiment.run(job, screen, stop, Loggers([*opened, *(own if is_first else [])], warn), copy)


def search(config: Config, rule: Any, algorithm: Algorithm | Make) -> results.Results:
    """Search by successive halving. The results of the last rung."""
    screen = visible_screen()
    with listen(functools.partial(progress.warn, screen)) as stop:
        found = halvings.claim(halvings.prepare(config, read_rule(rule), algorithm))
        return halvings.run(found, screen, stop)


@contextlib.contextmanager
def listen(warn: Callable[[str], None]) -> Iterator[stopping.Stop]:
    """Listen to signals, and turn ``Stopped`` into ``KeyboardInterrupt`` after Ctrl-C, and into ``SystemExit`` otherwise."""
    try:
        with stopping.listen(hard=False) as stop:
            yield stop
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
    """Train every setting with every seed, in memory; ``jaxpg.run`` does the same and saves it.

    Settings that differ in hyperparameters share one program. Sizes (``num_envs``, ``epochs``, ``hidden``, ...) need a program
    each, and a function from sizes to an algorithm in place of the algorithm. Runs are divided among the local devices; as many
    as ``memory`` allows are trained at once.

    Args:
        algorithm: An algorithm; or, to vary sizes, a function from sizes to an algorithm, e.g. ``functools.partial(jaxpg.ppo,
            env)``.
        vary: The values of each name, ``{"learning_rate": [1e-4, 1e-3], "gamma": [0.98, 0.99]}``, whose product is trained, or
            a list of settings.
        seeds: Runs of each setting.
        total_steps: Environment steps of each run, rounded up to complete updates.
        env_params: Numbers in place of the environment's own, by name, ``{"gravity": 5.0}``, or like ``env.default_params``.
        seed: The root seed of all randomness.
        eval_episodes: Episodes of each evaluation, for each run.
        memory: Bytes of one device that may be used; by default what is free.

    Returns:
        The results as arrays. ``settings[i]``, ``env_steps[i]``, ``metrics["episode_return"][i, j]`` (over log points) and
            ``returns["greedy_return"][i, j]`` belong to setting ``i`` and seed ``j``.

    Raises:
        ValueError: For what cannot be varied, values out of range, and a run that does not fit into the memory.

    Examples:
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
        >>> found = jaxpg.sweep(algo, {"learning_rate": [1e-3, 1e-2]}, seeds=3, total_steps=64, eval_episodes=2)
        >>> found.settings[1], found.metrics["entropy"].shape, found.returns["greedy_return"].shape
        ({'learning_rate': 0.01}, (2, 3, 2), (2, 3))
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
    stop = stopping.Stop()
    with hosts.together(stop):
        return train_in_memory(experiment.prepare(config, algorithm), stop)


def train_in_memory(job: experiment.Job, stop: stopping.Stop) -> results.Results:
    """Train all runs of an experiment without a directory."""
    screen, config, parts = visible_screen(), job.config, list[results.Part]()
    session = experiment.Session(screen, stop)
    for number in range(len(job.groups)):
        for batch in experiment.divide_runs(job, number, job.runs_of(number, job.share), session):
            compiled = experiment.compile_programs(job, number, batch.width, session)
            with progress.Progress(screen, batch.env_steps, len(batch.runs)) as bar:
                recorder = batches.Recorder(batch, compiled, bar)
                finished, _ = batches.train(batch, compiled, recorder, bar, stop)
            parts.append(recorder.part(finished))
    return results.join("sweep", config.to_dict(), config.settings, config.seeds, parts)


def own_config(algorithm: Algorithm | Make, name: str, *, env_params: Any, **fields: Any) -> Config:
    """The configuration of an experiment with an algorithm of the user's own, with the name of its environment."""
    env: Any = as_function(algorithm)().env
    numbers = envs.differing_params(env, env_params)
    return Config(name, own=True, env=str(getattr(env, "name", type(env).__name__)), env_params=numbers, **fields)


def visible_screen() -> Console:
    """Standard error if it is a terminal or a notebook; otherwise a quiet console."""
    screen = Console(stderr=True)
    return screen if screen.is_terminal or screen.is_jupyter else Console(quiet=True)
