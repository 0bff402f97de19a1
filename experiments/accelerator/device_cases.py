"""Parts of ``device_check`` that compute in their own process: agreement, throughput, launches, the programs of the command."""

from __future__ import annotations

import collections
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.profiler import ProfileData

import jaxpg
from experiments.accelerator import hlo, programs
from experiments.accelerator.device_parts import NO_GPU, Cases, Numbers, Scale, Skipped
from jaxpg.algorithms import presets
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices, plan
from jaxpg.lab.engine import programs as lab_programs
from jaxpg.loops import many

Array = jax.Array
Programs = tuple[Callable[[], Any], jax.stages.Compiled]  # start, update
# By the precision of float32 products; a GPU's default may round them to 10 bits. On a CPU, noise of 6e-8 of the weights moves
# a step by 1e-6 of its length at most, noise of 5e-4 by 3e-4 (medians of 8 runs).
TOLERANCES = {"default": 1e-2, "highest": 1e-4}
STEPS = programs.CLEANRL["num_envs"] * programs.CLEANRL["num_steps"]  # of an update
THREADS = max(1, devices.num_cores() // 2)  # that compile
TRACED = 2  # updates in a profile
NAMES = 12  # kernels that are listed
ppo = functools.partial(programs.algorithm, "ppo")


def keys(seeds: int) -> Array:
    """One key, or one for each of several seeds."""
    key = jax.random.key(0, impl=GENERATORS[0])
    return key if seeds == 1 else jax.random.split(key, seeds)


# Agreement


def agreement(scale: Scale) -> Cases:
    """Updates of all algorithms on the device, against those on the CPU from the same states."""
    with ThreadPoolExecutor(THREADS) as pool:  # most of it is compiling
        waiting = {name: pool.submit(compare, name, scale.precisions, scale.runs) for name in presets.ALGORITHMS}
        for name, found in waiting.items():
            yield name, found.result


def compare(name: str, precisions: tuple[str, ...], runs: int, planted: float = 1.0) -> Numbers:
    """The third update, by the precision of products. Hyperparameters on the device are ``planted`` times the CPU's.

    Rounding may tip an action, and then a run goes elsewhere; only runs that acted alike are compared, and half of them must.
    """
    algo = programs.algorithm(name)
    update = jax.jit(jax.vmap(algo.update))
    with jax.default_matmul_precision("highest"):
        state = jax.jit(jax.vmap(algo.init))(jax.device_put(keys(runs), jax.devices("cpu")[0]))
        for _ in range(2):
            state, _ = update(state)
        wanted, start = jax.device_get((outcome(*update(state)), state.params))
    moved = jax.device_put(state, jax.devices()[0])
    moved = moved.replace(hparams=jax.tree.map(lambda x: planted * x, moved.hparams))
    numbers: Numbers = {"runs": runs, "passed": True}
    for precision in precisions:
        with jax.default_matmul_precision(precision):
            found = jax.device_get(outcome(*update(moved)))
        alike = np.all([close(found[key], wanted[key]) for key in wanted if key != "params"], axis=0)
        distance = step_distance(found["params"], wanted["params"], start)[alike]
        middle = float(np.median(distance)) if 2 * len(distance) >= runs else None
        numbers[precision] = {"alike": len(distance), "distance": middle, "largest": float(distance.max(initial=0.0))}
        numbers["passed"] &= middle is not None and middle < TOLERANCES[precision]
    return numbers


def outcome(state: jaxpg.TrainState, metrics: dict[str, Array]) -> dict[str, Any]:
    """Parameters; and what shows whether two runs acted alike."""
    seen = ("sampled_steps", "episodes", "episode_return")
    return {"params": state.params, "obs": state.loop.obs} | {name: metrics[name] for name in seen}


def close(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether the rows are the same but for rounding, ``[R]``."""
    return np.all(np.isclose(x, y, rtol=1e-2, atol=1e-2, equal_nan=True).reshape(len(x), -1), axis=1)


def step_distance(found: Any, wanted: Any, start: Any) -> np.ndarray:
    """||found - wanted|| / ||wanted - start|| over all parameters of each run, ``[R]``."""

    def rows(tree: Any) -> np.ndarray:
        return np.concatenate([x.reshape(len(x), -1).astype(float) for x in jax.tree.leaves(tree)], axis=1)

    found, wanted, start = rows(found), rows(wanted), rows(start)
    return np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted - start, axis=1)


# Throughput and launches


def compiled(seeds: tuple[int, ...]) -> dict[int, Future[Programs]]:
    """PPO for each number of seeds, compiled side by side; none is at work any more."""
    with ThreadPoolExecutor(THREADS) as pool:
        return {n: pool.submit(compile_both, n) for n in seeds}


def compile_both(seeds: int) -> Programs:
    """What gives states at their start, and an update of them, which takes their memory."""
    init = ppo().init if seeds == 1 else jax.vmap(ppo().init)
    start = jax.jit(init).lower(keys(seeds)).compile()
    return functools.partial(start, keys(seeds)), programs.compile_update(ppo, seeds, jax.devices()[:1])


def throughput(scale: Scale) -> Cases:
    """Environment steps per second of PPO's updates, CleanRL's sizes."""
    for seeds, found in compiled(scale.seeds).items():
        yield f"ppo {seeds}", functools.partial(rate, found, seeds, scale.seconds)


def rate(found: Future[Programs], seeds: int, seconds: float) -> Numbers:
    """The median of three timings of about ``seconds``, after a first call, and one by which their length is chosen."""
    start, update = found.result()
    _, state = timed(update, start())
    once, state = timed(update, state)
    calls = max(1, round(seconds / once))
    times = []
    for _ in range(3):
        spent, state = timed(update, state, calls)
        times.append(spent / calls)
    middle = statistics.median(times)
    numbers = {"seeds": seeds, "steps_per_second": round(seeds * STEPS / middle), "ms_per_update": 1e3 * middle}
    return numbers | {"spread": round((max(times) - min(times)) / middle, 3), "calls": calls}


def timed(update: Callable[[Any], Any], state: Any, calls: int = 1) -> tuple[float, Any]:
    """Seconds until all calls are done, and the last state."""
    begin = time.perf_counter()
    for _ in range(calls):
        state, _ = update(state)
    jax.block_until_ready(state)
    return time.perf_counter() - begin, state


def launches(scale: Scale) -> Cases:
    """What an update of PPO launches: by the text of the program, by the census, and by the profiler."""
    for seeds, found in compiled(scale.profiled).items():
        yield f"ppo {seeds}, program", functools.partial(by_text, found, seeds)
        yield f"ppo {seeds}, profile", functools.partial(by_profile, found)


def by_text(found: Future[Programs], seeds: int) -> Numbers:
    """By the rules of the census, and what stands there for an H100, where it was made."""
    counted = hlo.count(found.result()[1].as_text() or "")
    path = Path(__file__).parent / "census.json"
    census = json.loads(path.read_text())["programs"] if path.exists() else {}
    row = census.get(f"h100: update ppo {seeds}", {})
    return {"launches": counted.launches, "outside_loops": counted.own, "census": row.get("launches")}


def by_profile(found: Future[Programs]) -> Numbers:
    """What the device executed, for how long, and which kernels took most of that."""
    if jax.default_backend() == "cpu":
        raise Skipped(NO_GPU)
    start, update = found.result()
    _, state = timed(update, start())
    wall, state = timed(update, state, TRACED)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            timed(update, state, TRACED)
        events = recorded(Path(folder), "/device:GPU", "stream")
    if not events:
        raise RuntimeError("the profile has no events of the device")
    return {"wall_ms_per_update": 1e3 * wall / TRACED} | digest(events, TRACED)


def recorded(folder: Path, plane: str, line: str) -> list[tuple[str, float]]:
    """Names and seconds of the events of a trace in ``folder``, on planes that begin with ``plane`` and lines with ``line``."""
    (path,) = folder.rglob("*.xplane.pb")
    return [
        (event.name, 1e-9 * event.duration_ns)
        for each in ProfileData.from_file(str(path)).planes
        if each.name.startswith(plane)
        for row in each.lines
        if row.name.lower().startswith(line)
        for event in row.events
    ]


def digest(events: list[tuple[str, float]], num_updates: int) -> Numbers:
    """Per update: kernels, copies, milliseconds; and the names that took most time, with their number and mean."""
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for name, spent in events:
        seconds[name].append(spent)
    copies = sum(len(spent) for name, spent in seconds.items() if name.lower().startswith("mem"))
    most = sorted(seconds, key=lambda name: -sum(seconds[name]))[:NAMES]
    return {
        "kernels": (len(events) - copies) / num_updates,
        "copies": copies / num_updates,
        "busy_ms_per_update": 1e3 * sum(spent for _, spent in events) / num_updates,
        "most": [f"{len(seconds[name]) / num_updates:g} x {1e6 * np.mean(seconds[name]):.2f} us {name[:60]}" for name in most],
    }


# The programs of the command


def engine(scale: Scale) -> Cases:
    """Seconds of compiling, starting and evaluating as ``jaxpg train`` does it, and its memory plan against what was used."""
    prepare = functools.cache(functools.partial(compile_engine, scale.episodes))
    for seeds in scale.engine:
        yield f"ppo {seeds}", lambda seeds=seeds: train(*prepare(seeds), seeds)
    yield "as many as fit", lambda: fill(prepare, scale.engine[0])


def compile_engine(episodes: int, seeds: int) -> tuple[lab_programs.Programs, Numbers]:
    """The programs of so many runs, and seconds."""
    mesh = devices.seed_mesh(seeds)
    found = lab_programs.trace(ppo(), many.keys(0, GENERATORS[0]), episodes, devices.pad_runs(seeds, mesh.size), mesh)
    traced = found.seconds
    found.compile()
    begin = time.perf_counter()
    found.prepare_evaluation().result()
    seconds = {"trace": traced, "compile": found.seconds - traced, "compile_evaluation": time.perf_counter() - begin}
    return found, {f"{name}_seconds": round(value, 2) for name, value in seconds.items()}


def train(programs: lab_programs.Programs, seconds: Numbers, seeds: int) -> Numbers:
    """A start, two chunks of one update and an evaluation; the peak must be within what the plan allows for."""
    algo, marks = ppo(), [time.perf_counter()]

    def mark(value: Any) -> Any:
        value = jax.block_until_ready(value)
        marks.append(time.perf_counter())
        return value

    runs = mark(programs.begin(range(seeds), [algo.hparams] * seeds))
    for is_new in (True, False):
        runs, _ = mark(programs.chunk(np.int32(1), np.bool_(is_new), runs))
    mark(programs.evaluate(runs.state, seeds))
    names = ("start", "first_chunk", "second_chunk", "evaluate")
    found = seconds | {f"{name}_seconds": round(b - a, 4) for name, a, b in zip(names, marks, marks[1:], strict=False)}
    planned = programs.bytes_per_run * programs.width // programs.mesh.size
    stats = jax.local_devices()[0].memory_stats()
    memory = {"seeds": seeds, "planned_bytes": planned, "peak_bytes": stats["peak_bytes_in_use"] if stats else NO_GPU}
    return memory | ({"passed": stats["peak_bytes_in_use"] <= planned / plan.SLACK} if stats else {}) | found


def fill(prepare: Callable[[int], tuple[lab_programs.Programs, Numbers]], few: int) -> Numbers:
    """The most runs that the plan calls fitting must fit, in the share of the memory that this process has."""
    if jax.default_backend() == "cpu":
        raise Skipped(NO_GPU)
    free = devices.bytes_free()
    planned = plan.make(10**6, 1, prepare(few)[0].bytes_per_run, free)
    return {"bytes_free": free, "plan": str(planned)} | train(*prepare(planned.width), planned.width)
