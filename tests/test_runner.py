"""Runs from end to end, in processes of their own, as a user starts them."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpg.lab.store.writers import read_metrics
from matplotlib.image import imread

from jaxpg.lab.config import RunConfig
from jaxpg.lab.engine import devices, programs
from jaxpg.lab.engine.programs import Course
from jaxpg.lab.engine.stopping import LOCK
from jaxpg.lab.store import checkpoint
from jaxpg.lab.store.stored import FILES

# Two CPU devices whatever the machine, and compilation without optimisation: these programs hardly run.
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "COLUMNS": "120",
}
SMALL = ["--num-envs", "4", "--num-steps", "16", "--hidden", "8", "--eval-episodes", "4"]
COMMAND = [sys.executable, "-m", "jaxpg", "train"]


def start(*arguments):
    return subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_run_writes_all_it_promises_and_is_not_overwritten(tmp_path):
    directory = tmp_path / "run"
    arguments = [*COMMAND, "ppo", "--seeds", "3", "--total-steps", "2000", "--run-dir", str(directory), *SMALL]
    out, err = (process := start(*arguments)).communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Warning" not in err
    assert str(directory) in out
    assert sorted(path.name for path in directory.iterdir()) == sorted([*FILES, LOCK, checkpoint.FOLDER])

    config = json.loads((directory / "config.json").read_text())
    again = RunConfig.from_dict(config)
    assert (again.seeds, again.options["num_steps"], again.num_updates) == (3, 16, 32)
    assert config["device"]["count"] == 2  # three seeds on two devices: a fourth is computed and seen nowhere
    assert {"python", "jax", "jaxlib", "flax", "optax", "gymnax", "jaxpg"} <= config["versions"].keys()
    assert config["flags"]["XLA_FLAGS"] == ENVIRONMENT["XLA_FLAGS"]
    assert {"jax_enable_x64", "jax_default_matmul_precision"} <= config["flags"].keys()

    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["seed"]) for row in rows] == [(u, s) for u in range(1, 33) for s in range(3)]
    assert all(row["env_steps"] == 64 * row["update"] for row in rows)
    assert {"policy_loss", "critic_loss", "entropy", "kl", "episode_return", "episode_length", "episodes"} <= rows[0].keys()

    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["env"], summary["algo"], summary["num_seeds"]) == ("CartPole-v1", "ppo", 3)
    assert (summary["num_updates"], summary["env_steps_per_seed"], summary["sampled_steps"]) == (32, 2048, 2048.0)
    for name in ("greedy_return", "sampled_return"):
        score = summary[name]
        assert len(score["per_seed"]) == 3
        assert score["mean"] == pytest.approx(np.mean(score["per_seed"]))
        assert score["median"] == pytest.approx(np.median(score["per_seed"]))
        assert min(score["per_seed"]) <= score["ci95"][0] <= score["iqm"] <= score["ci95"][1] <= max(score["per_seed"])
        assert all(1 <= value <= 500 for value in score["per_seed"])
    assert summary["diverged"] == summary["greedy_return"]["diverged"] == []
    assert summary["solved_threshold"] == 475
    assert summary["solved_fraction"] == np.mean(np.array(summary["greedy_return"]["per_seed"]) >= 475)
    assert min(summary[name] for name in ("compile_seconds", "train_seconds", "env_steps_per_second")) > 0
    assert all(summary[name] == config[name] for name in ("device", "versions", "flags"))
    assert imread(directory / "curves.png").shape[0] > 500
    assert checkpoint.steps(directory / checkpoint.FOLDER) == [32]
    assert (directory / checkpoint.FOLDER / "32" / checkpoint.SEAL).exists()

    def contents():
        return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    before = contents()
    out, err = (process := start(*arguments)).communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "already holds a run" in err
    assert contents() == before


def test_ctrl_c_leaves_what_was_written_readable(tmp_path):
    directory = tmp_path / "run"
    arguments = ["reinforce_baseline", "--seeds", "2", "--total-steps", "2e6", "--run-dir", str(directory), *SMALL]
    process = start(*COMMAND, *arguments)
    deadline = time.monotonic() + 120
    while not (directory / "metrics.jsonl").exists() or not read_metrics(directory)["env_steps"].size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    then = f"what was done is saved; jaxpg resume {directory} goes on"
    assert err.splitlines()[-1] == f"jaxpg: interrupted (SIGINT); {then}"
    assert "finishing the updates in flight and saving; Ctrl-C (again) stops at once" in err
    assert "Traceback" not in err
    assert not out
    config = RunConfig.from_dict(json.loads((directory / "config.json").read_text()))
    assert config.options["total_steps"] == 2 * 10**6
    logged = read_metrics(directory)
    assert np.all(np.diff(logged["env_steps"]) > 0)
    assert logged["entropy"].shape == (logged["env_steps"].size, 2)
    [saved] = checkpoint.steps(directory / checkpoint.FOLDER)
    assert logged["update"][-1, 0] <= saved < logged["update"][-1, 0] + config.log_interval, "nothing that was logged is lost"
    assert not (directory / "summary.json").exists()


def test_environments_on_two_devices_learn_what_they_learn_on_one(tmp_path):
    """``--shard-envs`` changes where things are computed, and nothing else: the first rows agree, but for rounding."""
    arguments = ["ppo", "--seeds", "2", "--total-steps", "256", *SMALL]
    runs = {"shared": ["--shard-envs"], "alone": []}
    processes = [start(*COMMAND, *arguments, *flags, "--run-dir", str(tmp_path / name)) for name, flags in runs.items()]
    texts = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    shared, alone = (read_metrics(tmp_path / name) for name in runs)
    assert shared.keys() == alone.keys()
    for name, values in shared.items():
        np.testing.assert_allclose(values[:2], alone[name][:2], rtol=1e-4, atol=1e-5, err_msg=name)
    assert json.loads((tmp_path / "shared" / "config.json").read_text())["device"]["count"] == 2


courses = st.integers(1, 60).flatmap(lambda total: st.builds(Course, st.integers(0, total), st.just(total), st.integers(1, 70)))


@given(courses)
def test_log_points_are_the_multiples_of_the_interval_and_the_end(course):
    points = course.log_points
    assert points == sorted({*range(course.log_every, course.total + 1, course.log_every), course.total})
    assert [update for update in range(course.total + 1) if course.is_log_point(update)] == sorted({0, *points})
    for update in range(course.total):
        assert course.next_log_point(update) == min(point for point in points if point > update)


class Device:
    """Computes chunks in their order, ``cost(update)`` seconds for each update, by a clock that stands still otherwise.

    Runs are the number of updates they have done. As a keeper, it saves after the chunks in ``due``, counted from 1.
    """

    def __init__(self, cost=lambda update: 0.01, due=()):
        self.cost, self.due, self.now, self.ready, self.chunks, self.events = cost, due, 0.0, 0.0, 0, []

    def chunk(self, length, is_new, runs):
        assert (type(length), type(is_new)) == (np.int32, np.bool_), "other types need another program"
        done = runs + int(length)
        self.ready = max(self.ready, self.now) + sum(map(self.cost, range(runs, done)))
        self.chunks += 1
        self.events.append(("dispatch", runs, done, bool(is_new)))
        return done, {"done": Landing(self, done, self.ready)}

    def report(self, update, metrics):
        self.events.append(("report", update, metrics["done"]))

    def is_due(self):
        return self.chunks in self.due

    def keep(self, update, runs):
        self.events.append(("keep", update, runs))

    def train(self, course):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(programs.time, "perf_counter", lambda: self.now)
            return programs.train(self, course.done, course, self.report, self)


class Landing:
    """A metric of a chunk that may still be under way: who fetches it waits."""

    def __init__(self, device, done, ready):
        self.device, self.done, self.ready = device, done, ready

    def __array__(self, *_, **__):
        self.device.now = max(self.device.now, self.ready)
        self.device.events.append(("land", self.done))
        return np.array(self.done)


def test_metrics_are_fetched_one_chunk_behind_the_dispatch():
    device = Device()
    assert device.train(Course(0, 10, 4)) == 10
    assert device.events == [
        *[("dispatch", 0, 1, True), ("dispatch", 1, 2, False), ("land", 1)],
        *[("dispatch", 2, 4, False), ("land", 2), ("dispatch", 4, 6, True), ("land", 4), ("report", 4, 4)],
        *[("dispatch", 6, 8, False), ("land", 6), ("dispatch", 8, 10, True), ("land", 8), ("report", 8, 8)],
        *[("land", 10), ("report", 10, 10)],
    ]


def test_before_runs_are_saved_all_that_they_measured_has_landed():
    device = Device(due=[3, 4])
    assert device.train(Course(0, 10, 4)) == 10
    assert device.events == [
        *[("dispatch", 0, 1, True), ("dispatch", 1, 2, False), ("land", 1)],
        *[("dispatch", 2, 4, False), ("land", 2), ("land", 4), ("report", 4, 4), ("keep", 4, 4)],
        *[("dispatch", 4, 8, True), ("land", 8), ("report", 8, 8), ("keep", 8, 8)],
        *[("dispatch", 8, 10, True), ("land", 10), ("report", 10, 10)],
    ]


@given(courses, st.sets(st.integers(1, 60)), st.floats(1e-4, 10.0))
def test_whatever_the_course_every_update_is_done_and_every_log_point_reported_once(course, due, cost):
    device = Device(lambda update: cost, due)
    assert device.train(course) == course.total
    dispatched = [event[1:] for event in device.events if event[0] == "dispatch"]
    ends = [end for _, end, _ in dispatched]
    assert [begin for begin, _, _ in dispatched] == [course.done, *ends][: len(ends)]
    assert ends == sorted(set(ends))
    for begin, end, is_new in dispatched:
        assert end <= course.next_log_point(begin), "a chunk goes on over a log point"
        assert is_new == course.is_log_point(begin), "a window goes on over a log point, or begins within one"
    left = [point for point in course.log_points if point > course.done]
    assert [event[1:] for event in device.events if event[0] == "report"] == [(point, point) for point in left]
    kept = [end for number, end in enumerate(ends, start=1) if number in due]
    assert [event[1:] for event in device.events if event[0] == "keep"] == [(end, end) for end in kept]
    assert [event[1] for event in device.events if event[0] == "land"] == ends
    for end, after in itertools.pairwise(ends):  # one chunk behind, unless it is saved
        landed = device.events.index(("land", end))
        following = next(i for i, event in enumerate(device.events) if event[0] == "dispatch" and event[2] == after)
        assert (landed < following) == (end in kept)
    for end in kept:
        at = device.events.index(("keep", end, end))
        assert ("land", end) in device.events[:at]
        assert ("report", end, end) in device.events[:at] or not course.is_log_point(end)


@pytest.mark.parametrize(("cost", "length"), [(0.01, 100), (0.3, 3), (7.0, 1)])
def test_a_chunk_takes_about_a_second_whatever_an_update_takes(cost, length):
    device = Device(lambda update: cost)
    device.train(Course(0, 2000, 2000))
    lengths = [event[2] - event[1] for event in device.events if event[0] == "dispatch"]
    assert lengths[0] == 1, "how long an update takes is not known yet"
    assert max(lengths) <= length + 1
    assert min(lengths[16:-1]) >= length - 1, "twice as long every second time"


def test_chunks_become_short_at_once_where_updates_become_slow():
    device = Device(lambda update: 0.01 if update < 1000 else 0.5)
    device.train(Course(0, 1500, 1500))
    slow = [event[2] - event[1] for event in device.events if event[0] == "dispatch" and event[1] >= 1000]
    assert max(slow[2:]) <= 2


def test_who_is_behind_has_diverged_at_the_update_after():
    assert programs.diverged_at(np.array([5, 3, 0]), 5).tolist() == [0, 4, 1]


@pytest.mark.parametrize(("platforms", "plugins", "chosen", "wanted"), [
    ("", False, -1, True), ("cpu", True, -1, True), ("", True, -1, False), ("cuda", False, -1, False), ("cpu", False, 3, False),
])  # fmt: skip
def test_cpu_devices_are_asked_for_only_where_cpus_compute(platforms, plugins, chosen, wanted, monkeypatch):
    asked = []
    config = type(
        "Config", (), {"jax_platforms": platforms, "jax_num_cpu_devices": chosen, "update": lambda _, *x: asked.append(x)}
    )
    monkeypatch.setattr(devices.jax, "config", config())
    monkeypatch.setattr(devices, "has_accelerator", lambda: plugins)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    devices.use_all_cores()
    assert asked == [("jax_num_cpu_devices", devices.num_cores())] * wanted


def test_the_devices_can_be_chosen_before_anything_asks_jax_for_them():
    """Some imports (gymnax) make JAX look for devices; the room that chooses them must not be one of them."""
    look = "import sys; from jaxpg.lab import devices; sys.exit('gymnax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], timeout=60, check=False).returncode == 0


def test_asking_too_late_for_cpu_devices_warns(monkeypatch):
    update, count = devices.jax.config.update, devices.jax.local_device_count()
    config = {"jax_platforms": "cpu", "jax_num_cpu_devices": -1, "update": lambda _, *change: update(*change)}
    monkeypatch.setattr(devices.jax, "config", type("Config", (), config)())
    monkeypatch.setattr(devices, "num_cores", lambda: count + 1)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.warns(UserWarning, match=f"{count} of {count + 1} cores compute: JAX was in use before; set JAX_NUM_CPU"):
        devices.use_all_cores()
    assert devices.jax.local_device_count() == count
