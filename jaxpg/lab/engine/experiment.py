"""The engine: from a configuration to a finished directory. A plain run is an experiment that varies nothing.

``prepare`` checks everything and writes nothing; ``claim`` takes the directory; ``run`` trains what is missing, batch by batch,
and ``conclude`` writes what came of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from rich.console import Console

from jaxpg import algorithms, envs, presets, sharding, stats, sweeping
from jaxpg.algorithm import Algorithm
from jaxpg.hparams import HParams, check_ranges, given, shown, unknown_name
from jaxpg.lab.config import Config, check_range, convert, log_interval
from jaxpg.lab.engine import batches, devices, plan, programs
from jaxpg.lab.engine.batches import Batch, Keeper, Logger
from jaxpg.lab.engine.peers import Place, Watch
from jaxpg.lab.engine.progress import Progress
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.store import checkpoint, results
from jaxpg.lab.store.files import (
    CONFIG,
    CURVES,
    LOCK,
    SUMMARY,
    TIMING,
    check_directory,
    check_writable,
    lock,
    writable,
    write_json,
)
from jaxpg.lab.store.stored import FORMAT, IDENTITY, configured, identity, stored

Make = Callable[..., Algorithm]
TIGHT = 0.5  # share of the memory above which the evaluation is compiled, and counted, before training begins
HEADROOM = 4  # a run takes about so many times its state and rollout: gradients, copies; XLA's own account follows


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that one program serves: they differ in traced hyperparameters only. ``sizes`` are what they share."""

    algo: Algorithm
    sizes: Mapping[str, Any]
    course: programs.Course
    hparams: Mapping[int, HParams]  # by the number of the setting

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one update of one run."""
        return self.algo.num_envs * self.algo.num_steps

    def batch(self, runs: Sequence[int], seeds: int, width: int) -> Batch:
        """Some of its runs, to be trained side by side."""
        hparams = tuple(self.hparams[run // seeds] for run in runs)
        return Batch(tuple(runs), seeds, width, hparams, self.course, self.steps_per_update)


@dataclasses.dataclass(frozen=True)
class Job:
    """An experiment that has been checked to the last shape: nothing is compiled, computed or written."""

    config: Config
    groups: Sequence[Group]
    algorithm: Any  # a description of the algorithm, in plain data
    place: Place = Place()
    traced: dict[tuple[int, int], programs.Programs] = dataclasses.field(default_factory=dict)  # by group and width

    @property
    def identity(self) -> str:
        """What makes an experiment the same."""
        return identity(self.config, self.algorithm)

    @property
    def num_runs(self) -> int:
        """Settings times seeds."""
        return len(self.config.settings) * self.config.seeds

    def runs_of(self, group: Group) -> list[int]:
        """The runs of a group that belong to this process."""
        share, seeds = self.place.share(self.num_runs), self.config.seeds
        runs = (setting * seeds + seed for setting in group.hparams for seed in range(seeds))
        return [run for run in runs if run in share]

    def programs(self, number: int, width: int) -> programs.Programs:
        """The programs of a group for so many runs, traced when they are first asked for."""
        if (number, width) not in self.traced:
            algo, config = self.groups[number].algo, self.config
            mesh = env_mesh() if config.shard_envs else devices.seed_mesh(width)
            keys = sweeping.keys(config.seed, config.rng)
            self.traced[number, width] = programs.trace(algo, keys, config.eval_episodes, width, mesh)
        return self.traced[number, width]

    def plan(self, number: int, runs: int, bytes_per_run: int) -> plan.Plan:
        """How many of ``runs`` are trained at once."""
        config = self.config
        free = config.memory_bytes or devices.bytes_free()
        num_devices = 1 if config.shard_envs else devices.seed_mesh(runs).size
        return plan.make(runs, num_devices, bytes_per_run, free)


def named(config: Config) -> Make:
    """The algorithm of a configuration, as a function of sizes."""
    env = envs.make(config.env)

    def make(**sizes: Any) -> Algorithm:
        return algorithms.build(config.algo, env, **{**config.options, **sizes})

    return make


def prepare(config: Config, make: Make | Algorithm | None = None, place: Place = Place()) -> Job:  # noqa: B008 - it is frozen
    """Everything that can refuse an experiment: ``ValueError`` of one line, and nothing has been written.

    ``make`` is the user's own algorithm, or a function from sizes to it.
    """
    if config.run_dir:
        check_writable(Path(config.run_dir))
        check_directory(config.run_dir, to_write=True)
    make = named(config) if make is None else as_function(make)
    groups = arrange(config, make)
    if config.shard_envs:
        mesh = env_mesh()
        groups = [dataclasses.replace(group, algo=sharding.shard_envs(group.algo, mesh)) for group in groups]
    for group in groups:
        envs.horizon(group.algo.env)  # the evaluation needs one
    job = Job(config, groups, describe(make()), place)
    if config.run_dir and (Path(config.run_dir) / CONFIG).exists():
        check_same(job, stored(config.run_dir))
    for number, group in enumerate(groups):
        runs = job.runs_of(group)
        if not runs:
            continue
        planned = job.plan(number, len(runs), HEADROOM * sweeping.footprint(group.algo))
        if not job.traced:
            job.programs(number, next((batch.width for batch in begun(job, number)), planned.width))
    return job


def arrange(config: Config, make: Make) -> list[Group]:
    """The settings by program, in their order. Everything that a setting can get wrong is a ``ValueError`` here."""
    traced = given(make().hparams)
    groups: dict[tuple[Any, ...], Group] = {}
    for number, setting in enumerate(config.settings):
        sizes = {name: value for name, value in setting.items() if name not in traced}
        key = tuple(sorted(sizes.items()))
        if key not in groups:
            steps = convert("total_steps", sizes.get("total_steps", config.total_steps), 0)
            check_range("total_steps", steps, low=1, high=None)
            algo = make(**sizes)
            total, first = (math.ceil(n / (algo.num_envs * algo.num_steps)) for n in (steps, config.base_steps or steps))
            check_range(f"total_steps = {steps}: num_updates", total, 1, 2**31 - 1)
            course = programs.Course(0, total, config.log_every or log_interval(first), config.evaluate_every)
            groups[key] = Group(algo, sizes, course, {})
        group = groups[key]
        hparams = group.algo.hparams.replace(**{name: convert(name, v, 0.0) for name, v in setting.items() if name in traced})
        check_ranges(hparams)
        groups[key] = dataclasses.replace(group, hparams={**group.hparams, number: hparams})
    return list(groups.values())


def as_function(algo: Algorithm | Make) -> Make:
    """``algo`` as a function of sizes: of none, where it is an algorithm already."""
    if not isinstance(algo, Algorithm):
        return algo

    def make(**sizes: Any) -> Algorithm:
        for name in sizes:
            known = {field.name for field in dataclasses.fields(Algorithm)} | presets.SIZES.keys()
            if name in {field.name for field in dataclasses.fields(algo.hparams)}:
                raise ValueError(f"{name} is not read by this algorithm, which reads {', '.join(sorted(given(algo.hparams)))}")
            if name not in known:
                raise ValueError(unknown_name("hyperparameter", name, [*given(algo.hparams), *known]))
            fix = "pass a function of sizes in place of the algorithm, e.g. functools.partial(jaxpg.ppo, env)"
            raise ValueError(f"{name} is a size of the program, not a traced hyperparameter; {fix}")
        return algo

    return make


def env_mesh() -> Mesh:
    """All local devices, for the environments of every run."""
    return jax.make_mesh((jax.local_device_count(),), (sharding.ENV,), axis_types=(AxisType.Auto,), devices=jax.local_devices())


def describe(piece: Any) -> Any:
    """What a piece of an algorithm is, as plain data: names of functions and classes, and the values of dataclass fields.

    >>> describe(functools.partial(log_interval, 3))
    {'jaxpg.lab.config.log_interval': [3, {}]}
    """
    if piece is None or isinstance(piece, bool | int | float | str):
        return piece
    if isinstance(piece, list | tuple) and not hasattr(piece, "_fields"):
        return [describe(item) for item in piece]
    if isinstance(piece, Mapping):
        return {str(name): describe(value) for name, value in piece.items()}
    if isinstance(piece, functools.partial):
        return {describe(piece.func): [*map(describe, piece.args), describe(piece.keywords)]}
    if dataclasses.is_dataclass(piece) and not isinstance(piece, type):
        fields = (field.name for field in dataclasses.fields(piece) if field.init and field.name not in ("parent", "name"))
        return {describe(type(piece)): {name: describe(getattr(piece, name)) for name in fields}}
    named = piece if hasattr(piece, "__qualname__") else type(piece)
    return f"{named.__module__}.{named.__qualname__}"


def check_same(job: Job, there: Mapping[str, Any]) -> None:
    """``ValueError``, naming the first difference, if a directory holds another experiment than that of ``job``."""
    directory = shown(job.config.run_dir)
    old = configured(job.config.run_dir, there)
    if identity(job.config, job.algorithm) == there["identity"] and old.total_steps == job.config.total_steps:
        return
    here, before = ({**c.to_dict(), "algorithm": a} for c, a in ((job.config, job.algorithm), (old, there["algorithm"])))
    if job.config.base_steps:  # it was extended
        here["options"] = {**here["options"], "total_steps": old.total_steps}
    for name in (*IDENTITY, "algorithm"):
        if before[name] != here[name]:
            then, now = difference(before[name], here[name])
            other = f"{name} is {shown(then)} there and {shown(now)} here"
            raise ValueError(f"run_dir = {directory} holds another experiment: {other}; give another --run-dir")


def difference(old: Any, new: Any) -> tuple[Any, Any]:
    """Where two values differ: of dictionaries, the first entry that does, however deep.

    >>> difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    ('a.c = 2', 'a.c = 3')
    """
    path = ""
    while isinstance(old, Mapping) and isinstance(new, Mapping):
        name = next(name for name in [*old, *new] if old.get(name) != new.get(name))
        path, old, new = f"{path}.{name}" if path else str(name), old.get(name), new.get(name)
    return (f"{path} = {old}", f"{path} = {new}") if path else (old, new)


def begun(job: Job, number: int) -> list[Batch]:
    """The batches of a group that this process began and did not finish, with the width that they began with."""
    return [batch for batch, is_finished in there(job, number, lambda _: None) if not is_finished]


def there(job: Job, number: int, warn: Callable[[str], None], *, repair: bool = False) -> Iterator[tuple[Batch, bool]]:
    """The batches of a group that lie in the directory, and whether they are finished.

    One that cannot be used is named; with ``repair`` it is put aside, so that its runs are trained again.
    """
    if not job.config.run_dir:
        return
    group, seeds, mine = job.groups[number], job.config.seeds, set(job.runs_of(job.groups[number]))
    for folder in results.folders(Path(job.config.run_dir)):
        try:
            about, result = results.read_result(folder, job.identity, job.num_runs)
        except ValueError as error:
            if repair:
                checkpoint.put_aside(folder)
            warn(f"a batch of runs was put aside in {checkpoint.ASIDE}/ and is trained again: {error}")
            continue
        if mine.issuperset(about["runs"]):
            is_finished = result is not None and result["num_updates"] == group.course.total
            yield group.batch(about["runs"], seeds, about["width"]), is_finished


def claim(job: Job) -> Job:
    """The directory of an experiment, made where it is not there, with its ``config.json``.

    ``ValueError`` if it holds another experiment or cannot be written. Process 0 writes; others wait for it.
    """
    directory = Path(job.config.run_dir) if job.config.run_dir else make_directory(job.config)
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, run_dir=str(directory)))
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        check_directory(directory, to_write=True)
        if job.place.index == 0:
            content = content_of(job)
            if not (directory / CONFIG).exists():
                write_json(directory / CONFIG, content)
            elif (before := stored(directory)) and before != {**before, **content}:
                write_json(directory / CONFIG, {**content, "began": before.get("began")})
    deadline = time.monotonic() + job.place.silence
    while not (directory / CONFIG).exists():
        if time.monotonic() > deadline:
            raise ValueError(f"run_dir = {directory} was not made by process 0; all processes must see the same disk")
        time.sleep(0.1)
    check_same(job, stored(directory))
    return job


def make_directory(config: Config) -> Path:
    """A new directory under ``runs/``, of a name that nobody else has: the time of day keeps experiments apart."""
    stem = f"{config.algo}_{config.env}_seed{config.seed}_{datetime.datetime.now():%Y%m%d-%H%M%S}"
    stem = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in stem)
    with writable(Path("runs")):
        Path("runs").mkdir(exist_ok=True)
        for count in range(1, 1000):
            directory = Path("runs") / (stem if count == 1 else f"{stem}-{count}")
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                return directory
    raise ValueError("run_dir: there are 1,000 experiments of this second already; give one with --run-dir")


def content_of(job: Job) -> dict[str, Any]:
    """What ``config.json`` holds."""
    config = {name: value for name, value in job.config.to_dict().items() if name != "run_dir"}
    head = {"format": FORMAT, "identity": job.identity}
    return head | config | {"algorithm": job.algorithm} | machine(job) | {"processes": job.place.count}


def machine(job: Job) -> dict[str, Any]:
    """What the bits of its runs depend on."""
    mesh = env_mesh() if job.config.shard_envs else devices.seed_mesh(job.num_runs)
    return devices.machine(mesh)


def run(job: Job, screen: Console, stop: Stop, loggers: Sequence[Logger] = ()) -> results.Results:
    """Train what is missing of this process's share, and wait for the others; process 0 writes what came of it.

    The directory must be claimed. :class:`jaxpg.lab.engine.stopping.Stopped` if asked to stop; what was done is saved.
    """
    directory = Path(job.config.run_dir)
    with lock(directory, f"{LOCK}-{job.place.index}"):
        summary = None
        try:
            with watch(directory, job.place, stop) as alive:
                for number in range(len(job.groups)):
                    train_group(job, number, screen, stop, loggers, alive)
                while count_finished(job) < job.num_runs:
                    alive()  # the others are waited for as long as they live
                    stop.check()
                    time.sleep(0.5)
            found = results.read(directory)
            if job.place.index == 0:
                summary = conclude(job, found)
            return found
        finally:
            for logger in loggers:
                logger.close(summary)


def count_finished(job: Job) -> int:
    """Runs of all processes that are finished."""
    if job.place.count == 1:
        return job.num_runs
    found = (results.read_result(folder, job.identity, job.num_runs) for folder in results.folders(Path(job.config.run_dir)))
    return sum(len(about["runs"]) for about, result in found if result is not None)


@contextlib.contextmanager
def watch(directory: Path, place: Place, stop: Stop) -> Iterator[Callable[[], None]]:
    """What to call whenever this process gets on. Only where there are others: a process alone is in nobody's way."""
    if place.count == 1:
        yield lambda: None
    else:
        with Watch(directory, place, stop) as watching:
            yield watching.alive


def train_group(
    job: Job, number: int, screen: Console, stop: Stop, loggers: Sequence[Logger], alive: Callable[[], None]
) -> None:
    """Train the runs of a group that are missing: first the batches that were begun, as they were cut, then the others."""
    say = functools.partial(screen.print, highlight=False, soft_wrap=True, markup=False)
    found = list(there(job, number, lambda text: say(f"jaxpg: {text}"), repair=True))
    taken = {run for batch, _ in found for run in batch.runs}
    missing = [run for run in job.runs_of(job.groups[number]) if run not in taken]
    if len(job.groups) > 1:
        sizes = "".join(f", {name} = {value}" for name, value in job.groups[number].sizes.items())
        say(f"program {number + 1} of {len(job.groups)}{sizes}")
    for batch in (batch for batch, is_finished in found if not is_finished):
        train_batch(job, number, batch, screen, stop, loggers, alive)
    while missing:
        width = plan_width(job, number, missing, screen, stop)
        batch = job.groups[number].batch(missing[:width], job.config.seeds, width)
        train_batch(job, number, batch, screen, stop, loggers, alive)
        missing = missing[width:]


def plan_width(job: Job, number: int, runs: Sequence[int], screen: Console, stop: Stop) -> int:
    """How many of these runs are trained at once: planned from shapes, compiled, and again if XLA needs more than planned."""
    planned = job.plan(number, len(runs), HEADROOM * sweeping.footprint(job.groups[number].algo))
    compiled = compile_programs(job, number, planned.width, screen, stop)
    if planned.batches > 1 or planned.share > TIGHT:
        compiled.prepare_evaluation().result()
    measured = job.plan(number, len(runs), compiled.bytes_per_run)
    if measured.width < planned.width:
        planned = measured
    if len(runs) > 1:
        screen.print(
            f"plan: {dataclasses.replace(planned, bytes_per_run=measured.bytes_per_run)}", highlight=False, soft_wrap=True
        )
    return planned.width


def compile_programs(job: Job, number: int, width: int, screen: Console, stop: Stop) -> programs.Programs:
    """The programs of a group, compiled once; a line says how long it takes."""
    compiled = job.programs(number, width)
    if not compiled.is_compiled:
        with Progress.waiting(screen, "compiling the update"):
            compiled.compile()
        stop.check()
    return compiled


def train_batch(
    job: Job, number: int, batch: Batch, screen: Console, stop: Stop, loggers: Sequence[Logger], alive: Callable[[], None]
) -> None:
    """Train a batch to its sealed result."""
    config = job.config
    compiled = compile_programs(job, number, batch.width, screen, stop)
    progress = Progress(screen, batch.env_steps, len(batch.runs))
    options = {"identity": job.identity, "machine": machine(job), "every": config.checkpoint_every, "keep": config.keep}
    with (
        progress,
        Keeper(Path(config.run_dir), batch, compiled, progress, stop, **options, loggers=loggers, alive=alive) as keeper,
    ):
        finished, seconds = batches.train(batch, compiled, keeper, progress, stop)
        keeper.finish(finished, compiled.seconds, seconds)


def conclude(job: Job, found: results.Results) -> dict[str, Any]:
    """Write ``summary.json``, ``timing.json`` and the figures; the summary and the times."""
    from jaxpg.lab.report import figures, landscape, plots  # with matplotlib, which nothing needs before
    from jaxpg.lab.report.rows import rows, varied

    directory, config = Path(job.config.run_dir), job.config
    threshold = config.solved_threshold
    if len(found.settings) == 1:
        title = f"{config.algo} on {config.env}, {config.seeds} seeds"
        returns = found.metrics["episode_return"][0].T
        curves = plots.learning_curve(found.env_steps[0], returns, title, threshold)
    else:
        curves = figures.compare(rows([found]))[0]
    plots.save(curves, directory / CURVES)
    for name in varied(found):
        plots.save(landscape.sensitivity(found, name)[0], directory / f"sensitivity_{name}.png")
    summary, timing = summarize(job, found), measure(job, found)
    write_json(directory / TIMING, timing)
    write_json(directory / SUMMARY, summary)
    return summary | timing


def measure(job: Job, found: results.Results) -> dict[str, Any]:
    """Seconds and speed, over all batches."""
    steps = sum(group.course.total * group.steps_per_update * len(group.hparams) for group in job.groups) * job.config.seeds
    seconds = {f"{name}_seconds": value for name, value in found.seconds.items()}
    return seconds | {"env_steps_per_second": steps / max(found.seconds["train"], 1e-9)}


def summarize(job: Job, found: results.Results) -> dict[str, Any]:
    """What the experiment came to: a row of statistics for each setting, in their order. The same for the same experiment."""
    config = job.config
    group_of = {number: group for group in job.groups for number in group.hparams}
    rows = [
        {"setting": setting, "num_updates": group_of[i].course.total}
        | {"env_steps_per_seed": group_of[i].course.total * group_of[i].steps_per_update}
        | summarize_setting(config, found, i)
        for i, setting in enumerate(config.settings)
    ]
    head = {"env": config.env, "algo": config.algo, "num_seeds": config.seeds, "programs": len(job.groups)}
    return head | {"solved_threshold": config.solved_threshold, "settings": rows}


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


def sweep(
    algorithm: Algorithm | Make,
    vary: Mapping[str, Iterable[Any]] | Sequence[Mapping[str, Any]],
    *,
    seeds: int,
    total_steps: int,
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
    ``total_steps`` is per run, rounded up to whole updates.

    >>> import jaxpg
    >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
    >>> found = jaxpg.sweep(algo, {"learning_rate": [1e-3, 1e-2]}, seeds=3, total_steps=64, eval_episodes=2)
    >>> found.settings[1], found.metrics["entropy"].shape, found.returns["greedy_return"].shape
    ({'learning_rate': 0.01}, (2, 3, 2), (2, 3))

    ``ValueError`` for what cannot be varied, values out of range, and a run that does not fit into the memory.
    """
    if not vary:
        raise ValueError("vary is empty; a sweep needs at least one setting")
    options = {"total_steps": total_steps}
    config = own_config(algorithm, seeds=seeds, seed=seed, eval_episodes=eval_episodes, options=options, vary=vary)
    if memory is not None:
        config = dataclasses.replace(config, memory=memory / 2**30)
    job = prepare(config, algorithm)
    screen = Console(stderr=True)
    screen = screen if screen.is_terminal else Console(quiet=True)
    parts = []
    for number, group in enumerate(job.groups):
        missing, stop = job.runs_of(group), Stop()
        while missing:
            width = plan_width(job, number, missing, screen, stop)
            batch = group.batch(missing[:width], seeds, width)
            with Progress(screen, batch.env_steps, len(batch.runs)) as progress:
                recorder = batches.Recorder(batch, job.programs(number, width), progress)
                finished, _ = batches.train(batch, job.programs(number, width), recorder, progress, stop)
            parts.append(recorder.part(finished))
            missing = missing[width:]
    return results.join("sweep", config.to_dict(), config.settings, seeds, parts)


def own_config(algorithm: Algorithm | Make, **fields: Any) -> Config:
    """The configuration of an experiment with an algorithm of the user's own."""
    return Config("own", own=True, env="own", **fields)
