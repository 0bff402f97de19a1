"""The engine: every run is the run alone, whatever runs beside it and however many at once; and what an experiment writes."""

import dataclasses
import datetime
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from matplotlib.image import imread
from rich.console import Console

import jaxpg
from jaxpg.algorithms import presets
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.config import PRECISIONS, Config
from jaxpg.lab.engine import devices, experiment, groups, programs, stopping
from jaxpg.lab.engine.programs import Course
from jaxpg.lab.store import checkpoint, leaves, log, results
from jaxpg.lab.store.files import read_json
from jaxpg.loops import many as sweeping
from jaxpg.loops import train as training
from jaxpg.loops.train import COUNTS

ENV = jaxpg.make("CartPole-v1")
SIZES = {"num_envs": 4, "num_steps": 8, "hidden": (8,)}
ALGO = jaxpg.a2c(ENV, **SIZES)
MAKE = functools.partial(jaxpg.a2c, ENV, **SIZES)
RATES = [1e-3, 0.03, 0.3]
SETTINGS = [*({"learning_rate": rate} for rate in RATES), {"learning_rate": 1e38, "critic_learning_rate": 1e38}]
SEED, SEEDS, EPISODES = 7, 3, 2
KEYS = sweeping.keys(SEED, Config.rng)
COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|collective-\w+|reduce-scatter")

COMPILED = []  # an entry for each program that XLA compiles
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


# Many runs as one program, in memory.


def sweep(algorithm, vary, seeds=SEEDS, **options):
    """A sweep of two updates, its programs, and how many XLA compiled."""
    assert jax.local_device_count() == 2, "tests/conftest.py gives this process two CPU devices"
    made, compile_them = [], programs.Programs.compile
    jax.random.key(0)  # its small program is none of a sweep
    COMPILED.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs.Programs, "compile", lambda one: made.append(one) or compile_them(one))
        found = jaxpg.sweep(algorithm, vary, seeds=seeds, total_steps=64, seed=SEED, eval_episodes=EPISODES, **options)
    return found, made, len(COMPILED)


@functools.cache
def reference():
    """The sweep that the others are held against: four settings, of which the last diverges."""
    return sweep(ALGO, SETTINGS)


@functools.cache
def train_alone():
    """``(setting, seed) -> metrics, returns, update at which it diverged`` of a single run, by the pure functions only."""
    key_train, key_eval = KEYS
    hparams = jax.tree.map(np.float32, ALGO.hparams)
    init = jax.jit(ALGO.init).lower(key_train, hparams).compile()
    train = jaxpg.train.lower(ALGO, init(key_train, hparams), 1).compile()
    evaluation = {
        f"{'greedy' if greedy else 'sampled'}_return": jaxpg.evaluate.lower(
            ALGO, init(key_train, hparams), key_eval, EPISODES, greedy=greedy
        ).compile()
        for greedy in (True, False)
    }

    def run(setting, seed):
        hparams = jax.tree.map(np.float32, ALGO.hparams.replace(**setting))
        state, points, diverged_at = init(jax.random.fold_in(key_train, seed), hparams), [], 0
        for number in (1, 2):
            after, metrics = train(state)
            if not diverged_at and not is_finite(after, metrics):
                diverged_at = number
            if diverged_at:  # it stays where it was, and nothing is known of it
                metrics = {name: np.zeros(1) if name in COUNTS else np.full(1, np.nan) for name in metrics}
            else:
                state = after
            points.append(metrics)
        returns = {name: np.mean(evaluate(state, key_eval)["episode_return"]) for name, evaluate in evaluation.items()}
        return {name: np.concatenate([point[name] for point in points]) for name in points[0]}, returns, diverged_at

    return run


def is_finite(state, metrics):
    numbers = [*jax.tree.leaves(state.params), *(metrics[name] for name in metrics if name.endswith("loss"))]
    return all(np.isfinite(x).all() for x in numbers)


def assert_rows_equal(found, settings, reference_settings, seeds=SEEDS):
    """Those settings of ``found`` are those settings of :func:`reference`, to 1e-5."""
    expected = reference()[0]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    assert found.metrics.keys() == expected.metrics.keys()
    for i, j in zip(settings, reference_settings, strict=True):
        for name, values in found.metrics.items():
            close(values[i, :, :2], expected.metrics[name][j, :seeds], err_msg=name)
        for name, values in found.returns.items():
            close(values[i], expected.returns[name][j, :seeds], err_msg=name)


def test_every_run_is_the_run_alone():
    found, _, _ = reference()
    assert found.env_steps.tolist() == [[32.0, 64.0]] * 4
    assert found.settings == SETTINGS
    for i, setting in enumerate(SETTINGS):
        for seed in range(SEEDS):
            metrics, returns, diverged_at = train_alone()(setting, seed)
            assert found.metrics.keys() == metrics.keys()
            assert found.diverged_at[i, seed] == diverged_at == 2 * (i == 3)
            for name, values in metrics.items():
                np.testing.assert_allclose(found.metrics[name][i, seed], values, rtol=1e-5, atol=1e-5, err_msg=name)
            for name, value in returns.items():
                np.testing.assert_allclose(found.returns[name][i, seed], np.nan if diverged_at else value, rtol=1e-5)
    losses = found.metrics["policy_loss"]
    assert np.unique(losses[:3, :, 1]).size == 9, "no two runs are the same"
    assert not np.isnan(losses[:, :, 0]).any(), "what was measured before a run diverged is kept"
    assert np.array_equal(losses[:, :, 0], np.tile(losses[0, :, 0], (4, 1))), "before the first step, settings are"


def test_a_run_that_diverges_is_nan_and_marked_and_changes_no_other():
    found, _, _ = reference()
    assert found.diverged.tolist() == [[False] * SEEDS] * 3 + [[True] * SEEDS]
    assert found.diverged_at.tolist() == [[0] * SEEDS] * 3 + [[2] * SEEDS]
    for name, values in found.metrics.items():
        assert np.array_equal(values[3, :, 1], np.full(SEEDS, 0.0 if name in COUNTS else np.nan), equal_nan=True), name
    for values in found.returns.values():
        assert np.array_equal(np.isnan(values), found.diverged)
    without, _, _ = one_setting()
    assert not without.diverged.any()
    assert_rows_equal(without, [0], [1])


def test_what_is_kept_in_a_directory_is_what_is_found_in_memory(tmp_path, monkeypatch, capsys):
    """Bit for bit, whatever the number of updates that are done at once; and a run that diverged is named."""
    expected, (made,), _ = reference()
    monkeypatch.setattr(programs, "trace", lambda *_: made)  # compiled already
    options = {"total_steps": 64}
    config = Config("own", own=True, seeds=SEEDS, seed=SEED, eval_episodes=EPISODES, options=options, vary=SETTINGS)
    job = experiment.prepare(dataclasses.replace(config, run_dir=str(tmp_path), checkpoint_every=1e-6), ALGO)
    found = experiment.run(experiment.claim(job), Console(quiet=True), stopping.Stop())
    np.testing.assert_array_equal(found.env_steps, expected.env_steps)
    np.testing.assert_array_equal(found.diverged_at, expected.diverged_at)
    for kind in ("metrics", "returns"):
        assert getattr(found, kind).keys() == getattr(expected, kind).keys()
        for name, values in getattr(found, kind).items():
            wanted = getattr(expected, kind)[name].astype(np.float32)  # a row prints as short as that allows
            wanted[np.isinf(wanted)] = np.nan  # JSON has no number for it
            np.testing.assert_array_equal(values.astype(np.float32), wanted, err_msg=name)
    lines = [
        f"jaxpg: seed {s} of setting 3 diverged at update 2 and keeps its state before that update; the other runs continue"
        for s in range(3)
    ]
    assert capsys.readouterr().err.splitlines() == lines
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [one["setting"] for one in summary["settings"]] == SETTINGS
    assert [one["diverged"] for one in summary["settings"]] == [[], [], [], [{"seed": s, "update": 2} for s in range(3)]]
    assert summary["settings"][3]["greedy_return"]["per_seed"] == [None] * 3
    digests = [digest for one in summary["settings"] for digest in one["digests"]]
    assert len(set(digests)) == 12


def run_chunks(made, *lengths, is_new=False):
    """The runs of :func:`reference` after so many updates at a time, as arrays by name, and the last metrics."""
    hparams = [ALGO.hparams.replace(**setting) for setting in SETTINGS for _ in range(SEEDS)]
    runs, metrics = made.begin([*range(SEEDS)] * len(SETTINGS), hparams), {}
    for length in lengths:
        runs, metrics = made.chunk(np.int32(length), np.bool_(is_new), runs)
    return leaves.flatten(runs, len(hparams)), jax.device_get(metrics)


def test_however_many_updates_are_done_at_once_bits_are_the_same():
    found, (made,), _ = reference()
    at_once, metrics = run_chunks(made, 2)
    one_by_one, same = run_chunks(made, 1, 1)
    assert leaves.digest(at_once) == leaves.digest(one_by_one)
    for name, values in metrics.items():
        np.testing.assert_array_equal(values, same[name], err_msg=name)
    points = [run_chunks(made, *[1] * count, is_new=True)[1] for count in (1, 2)]
    for name, values in found.metrics.items():
        logged = np.stack([point[name] for point in points], axis=-1)
        np.testing.assert_array_equal(logged.reshape(values.shape), values, err_msg=name)
        window = values[:3].sum(axis=-1) if name in COUNTS else values[:3].mean(axis=-1)
        if name not in training.EPISODIC:  # which are means over episodes
            np.testing.assert_allclose(metrics[name].reshape(4, SEEDS)[:3], window, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_run_that_diverges_stays_at_its_last_finite_state():
    _, (made,), _ = reference()
    runs = slice(3 * SEEDS, 4 * SEEDS)
    (before, first), (after, second) = run_chunks(made, 1), run_chunks(made, 2)
    for name, values in after.items():
        np.testing.assert_array_equal(values[runs], before[name][runs], err_msg=name)
    for name, values in second.items():  # of the updates before, of which there is one
        np.testing.assert_array_equal(values[runs], first[name][runs], err_msg=name)
    assert second["step"].reshape(4, SEEDS).tolist() == [[2] * SEEDS] * 3 + [[1] * SEEDS]
    assert all(np.isfinite(values[runs]).all() for name, values in after.items() if name.startswith("state.params."))


@functools.cache
def one_setting():
    """Three runs on two devices: a fourth is computed."""
    return sweep(ALGO, {"learning_rate": [RATES[1]]})


def test_what_pads_the_devices_is_not_seen():
    found, (made,), _ = one_setting()
    assert (made.mesh.size, made.width) == (2, 4)
    assert {x.shape for x in found.metrics.values()} == {(1, 3, 2)}
    assert {x.shape for x in (*found.returns.values(), found.diverged_at)} == {(1, 3)}
    assert_rows_equal(found, [0], [1])


@functools.cache
def two_groups():
    return sweep(MAKE, {"num_envs": [4, 2], "learning_rate": [RATES[2], RATES[0]]}, seeds=2)


def test_programs_are_compiled_once_a_group_whatever_the_number_of_settings():
    assert reference()[2] == one_setting()[2] == 3  # start, chunk, evaluation
    assert two_groups()[2] == 2 * 3


def test_values_that_are_not_zero_share_a_program_and_zero_has_its_own():
    """Whether the base has what reads them or not."""
    for base in (0.0, 0.5):
        config = Config("ppo", options=SIZES | {"target_kl": base}, vary={"target_kl": (0.01, 0.0, 0.02), "gamma": (0.9, 0.5)})
        on, off = groups.arrange(config, groups.make_named(config))
        assert {number: (hp.target_kl, hp.gamma) for number, hp in on.hparams.items()} == {
            0: (0.01, 0.9), 1: (0.01, 0.5), 4: (0.02, 0.9), 5: (0.02, 0.5)
        }  # fmt: skip
        assert {number: (hp.target_kl, hp.gamma) for number, hp in off.hparams.items()} == {2: (None, 0.9), 3: (None, 0.5)}
        assert (on.sizes, off.sizes) == ({}, {"target_kl": 0.0})
        assert (on.algo.update_rule.stop is None, off.algo.update_rule.stop is None) == (False, True)


def test_an_update_is_traced_once_for_all_programs(monkeypatch):
    traced, original = [], jaxpg.Algorithm.update
    monkeypatch.setattr(jaxpg.Algorithm, "update", lambda algo, state: traced.append(algo) or original(algo, state))
    algo = MAKE(num_steps=7)  # no other test has traced it
    programs.trace(algo, KEYS, EPISODES, 4, devices.seed_mesh(4)).start.result()  # nothing compiles when the next test begins
    assert traced == [algo]


def test_a_product_of_sizes_ends_in_nan_where_a_setting_has_fewer_log_points():
    found, made, _ = two_groups()
    assert found.settings == [{"num_envs": n, "learning_rate": rate} for n in (4, 2) for rate in (RATES[2], RATES[0])]
    np.testing.assert_array_equal(found.env_steps, [[32, 64, np.nan, np.nan]] * 2 + [[16, 32, 48, 64]] * 2)
    for name, values in found.metrics.items():
        assert values.shape == (4, 2, 4)
        assert np.isnan(values[:2, :, 2:]).all(), name
    assert not np.isnan(found.metrics["entropy"][2:]).any()
    assert found.returns["greedy_return"].shape == (4, 2)
    assert [program.width for program in made] == [4, 4]
    assert_rows_equal(found, [0, 1], [2, 0], seeds=2)


def test_no_program_exchanges_anything_between_devices():
    _, (made,), _ = reference()
    for text in (program.as_text() for program in (made.start.result(), made.chunk, made.evaluation.result())):
        assert "num_partitions=2" in text or "num_replicas=2" in text
        assert not COLLECTIVE.findall(text)
    total = jax.shard_map(lambda x: jax.lax.psum(x, "seed"), mesh=made.mesh, in_specs=devices.SEED, out_specs=PartitionSpec())
    assert COLLECTIVE.findall(jax.jit(total).lower(np.ones(2)).compile().as_text()), "one would be seen"


def test_one_device_batch_by_batch_gives_the_same_as_two_at_once_and_batches_are_as_small_as_xla_needs_them(monkeypatch):
    _, (wide,), _ = reference()
    one = devices.seed_mesh(1)
    monkeypatch.setattr(devices, "seed_mesh", lambda runs: one)
    monkeypatch.setattr(experiment, "HEADROOM", 0)  # the plan from shapes: all at once
    found, made, num_compiled = sweep(ALGO, SETTINGS, memory=wide.bytes_per_run * 6)
    assert wide.mesh.size == 2
    assert [program.mesh.size for program in made] == [1, 1]
    assert made[0].width == 12
    assert made[1].width <= 6, "six fit at most"
    assert num_compiled == 2 * 3 - (made[0].evaluation is None)
    assert_rows_equal(found, range(4), range(4))


def test_xla_counts_at_least_the_state_of_a_run():
    _, (made,), _ = reference()
    state = jax.eval_shape(ALGO.init, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert size < made.bytes_per_run < 100 * size


REFUSED = [
    (ALGO, {"num_envs": [4, 8]}, {}, "num_envs is a size of the program", "functools.partial(jaxpg.ppo, env)"),
    (ALGO, [{"gamma": 0.9}, {"hidden": (4,)}], {}, "hidden is a size of the program", "functools.partial"),
    (ALGO, {"learning_rat": [1e-3]}, {}, "unknown hyperparameter 'learning_rat'", "did you mean learning_rate"),
    (MAKE, {"learning_rat": [1e-3]}, {}, "unknown option 'learning_rat'", "did you mean learning_rate"),
    (ALGO, {"clip_eps": [0.1]}, {}, "clip_eps is not read by this algorithm, which reads", "entropy_coef, gae_lambda"),
    (MAKE, {"clip_eps": [0.1]}, {}, "clip_eps = 0.1 is not read by a2c", "entropy_coef, gae_lambda"),
    (ALGO, {"gamma": [0.9, 1.5]}, {}, "gamma = 1.5 is out of range", "must lie in [0, 1]"),
    (ALGO, {"learning_rate": [float("nan")]}, {}, "learning_rate = nan is out of range", "must lie in [0, inf)"),
    (ALGO, {"gamma": "0.9,0.99"}, {}, "vary gamma = 0.9,0.99 must be a list of values", ""),
    (ALGO, {"gamma": [0.9, None]}, {}, "gamma = None must be a number", ""),
    (ALGO, {"gamma": [[0.9]]}, {}, "gamma = (0.9,) must be a number", ""),
    (ALGO, {"gamma": [np.sin]}, {}, "vary gamma = <ufunc 'sin'> must be a number, text", ""),
    (ALGO, {"total_steps": [64]}, {}, "total_steps is a size of the program", "functools.partial"),
    (MAKE, {"total_steps": [64, 0]}, {}, "total_steps = 0", "must be at least 1"),
    (MAKE, {"num_envs": [4, 0]}, {}, "num_envs = 0", "at least 1"),
    (ALGO, [], {}, "vary is empty", "at least one setting"),
    (ALGO, {"gamma": []}, {}, "vary gamma = ", "at least one"),
    (ALGO, {"max_grad_norm": [0]}, {}, "max_grad_norm = 0 switches it off", "functools.partial"),
    (ALGO, {"gamma": [0.9]}, {"seeds": 0}, "seeds = 0", "must be at least 1"),
    (ALGO, {"gamma": [0.9]}, {"total_steps": 0}, "total_steps = 0", "must be at least 1"),
    (ALGO, {"gamma": [0.9]}, {"eval_episodes": -1}, "eval_episodes = -1", "must be at least 1"),
    (ALGO, {"gamma": [0.9]}, {"memory": 1024}, "one run needs", "are missing"),
]


@pytest.mark.parametrize(("algorithm", "vary", "options", "says", "fix"), REFUSED, ids=[f"{x[3]}, {x[1]}" for x in REFUSED])
def test_what_cannot_be_swept_is_refused_in_one_line_before_anything_is_compiled(algorithm, vary, options, says, fix):
    COMPILED.clear()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        jaxpg.sweep(algorithm, vary, **{"seeds": 2, "total_steps": 32} | options)
    message = str(caught.value)
    assert message.startswith(says)
    assert fix in message
    assert "\n" not in message
    assert not COMPILED


def test_numbers_of_numpy_may_vary():
    found = sweep(MAKE, {"num_envs": np.array([4]), "learning_rate": np.array(RATES[:1], np.float32)}, seeds=1)[0]
    assert json.dumps(found.settings) == json.dumps([{"num_envs": 4, "learning_rate": float(np.float32(RATES[0]))}])
    assert_rows_equal(found, [0], [0], seeds=1)


# The loop on the host, against a device that counts.

courses = st.builds(
    lambda done, more, *every: Course(done, done + more, *every),
    *[st.integers(0, 60), st.integers(0, 60), st.integers(1, 70), st.integers(0, 70)],
)


def points_of(every, total):
    """The multiples of an interval, and the end."""
    return sorted({*range(every, total + 1, every), total}) if every else []


@given(courses)
def test_log_points_and_evaluation_points_are_the_multiples_of_their_intervals_and_the_end(course):
    logged, evaluated = points_of(course.log_every, course.total), points_of(course.evaluate_every, course.total)
    assert [update for update in range(course.total + 1) if course.is_log_point(update)] == sorted({0, *logged})
    found = [update for update in range(1, course.total + 1) if course.is_evaluation_point(update)]
    assert found == [update for update in evaluated if update]
    for update in range(course.total):
        assert course.next_stop(update) == min(point for point in (*logged, *evaluated) if point > update)


class Device:
    """Computes chunks in their order, ``cost(update)`` seconds for each update, by a clock that stands still otherwise.

    Runs are the number of updates they have done. As a watcher, it saves after the chunks in ``due``, counted from 1.
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

    def log(self, update, metrics):
        self.events.append(("log", update, metrics["done"]))

    def evaluate(self, update, runs):
        self.events.append(("evaluate", update, runs))

    def is_due(self):
        return self.chunks in self.due

    def save(self, update, runs):
        self.events.append(("save", update, runs))

    def train(self, course):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(programs.time, "perf_counter", lambda: self.now)
            return programs.train(self, course.done, course, self)


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
        *[("dispatch", 2, 4, False), ("land", 2), ("dispatch", 4, 6, True), ("land", 4), ("log", 4, 4)],
        *[("dispatch", 6, 8, False), ("land", 6), ("dispatch", 8, 10, True), ("land", 8), ("log", 8, 8)],
        *[("land", 10), ("log", 10, 10)],
    ]


def test_before_runs_are_evaluated_or_saved_all_that_they_measured_has_landed():
    device = Device(due=[3, 4])
    assert device.train(Course(0, 10, 4, 8)) == 10
    assert device.events == [
        *[("dispatch", 0, 1, True), ("dispatch", 1, 2, False), ("land", 1)],
        *[("dispatch", 2, 4, False), ("land", 2), ("land", 4), ("log", 4, 4), ("save", 4, 4)],
        *[("dispatch", 4, 8, True), ("land", 8), ("log", 8, 8), ("evaluate", 8, 8), ("save", 8, 8)],
        *[("dispatch", 8, 10, True), ("land", 10), ("log", 10, 10), ("evaluate", 10, 10)],
    ]


@given(courses, st.sets(st.integers(1, 60)), st.floats(1e-4, 10.0))
def test_whatever_the_course_every_update_is_done_and_every_point_is_reported_once(course, due, cost):
    device = Device(lambda update: cost, due)
    assert device.train(course) == course.total
    dispatched = [event[1:] for event in device.events if event[0] == "dispatch"]
    ends = [end for _, end, _ in dispatched]
    assert [begin for begin, _, _ in dispatched] == [course.done, *ends][: len(ends)]
    assert ends == sorted(set(ends))
    for begin, end, is_new in dispatched:
        assert end <= course.next_stop(begin), "a chunk goes beyond a log point or an evaluation point"
        assert is_new == course.is_log_point(begin), "a window begins anew within a log interval, or spans two"

    def reported(kind):
        return [event[1:] for event in device.events if event[0] == kind]

    for kind, every in (("log", course.log_every), ("evaluate", course.evaluate_every)):
        left = [point for point in points_of(every, course.total) if point > course.done]
        assert reported(kind) == [(point, point) for point in left]
    saved = [end for number, end in enumerate(ends, start=1) if number in due]
    assert reported("save") == [(end, end) for end in saved]
    assert [event[1] for event in device.events if event[0] == "land"] == ends
    for end, after in itertools.pairwise(ends):  # one chunk behind, unless it is saved or evaluated
        landed = device.events.index(("land", end))
        following = next(i for i, event in enumerate(device.events) if event[0] == "dispatch" and event[2] == after)
        assert (landed < following) == (end in saved or course.is_evaluation_point(end))
    for kind in ("evaluate", "save"):
        for end, _ in reported(kind):
            at = device.events.index((kind, end, end))
            assert ("land", end) in device.events[:at]
            assert ("log", end, end) in device.events[:at] or not course.is_log_point(end)


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


def test_a_run_that_is_behind_has_diverged_at_the_update_after():
    assert programs.diverged_at(np.array([5, 3, 0]), 5).tolist() == [0, 4, 1]


# The devices of a CPU.


CORES, CPU, NOTHING = ("jax_num_cpu_devices", devices.num_cores()), ("jax_platforms", "cpu"), lambda pattern: False


@pytest.mark.parametrize(("platforms", "support", "files", "chosen", "wanted"), [
    ("", [], [], -1, [CORES]),
    ("cpu", ["xla_cuda13"], ["/dev/nvidia*"], -1, [CORES]),
    ("", ["xla_cuda13"], ["/dev/nvidia*"], -1, []),
    ("", ["xla_cuda13"], ["/dev/dxg"], -1, []),
    ("", ["xla_cuda13", "tpu"], [], -1, [CPU, CORES]),
    ("", ["xla_cuda13", "tpu"], ["/dev/accel*"], -1, []),
    ("", ["xla_rocm7"], ["/dev/nvidia*"], -1, [CPU, CORES]),
    ("", ["unheard_of"], [], -1, []),
    ("", ["tpu"], [], 3, [CPU]),
    ("cuda", [], [], -1, []),
    ("cuda", ["xla_cuda13"], [], -1, []),
    ("cpu", [], [], 3, []),
])  # fmt: skip
def test_all_cores_are_asked_for_where_cpus_compute_also_with_support_for_devices_that_are_not_there(
    platforms, support, files, chosen, wanted, monkeypatch
):
    asked = []
    config = type(
        "Config", (), {"jax_platforms": platforms, "jax_num_cpu_devices": chosen, "update": lambda _, *x: asked.append(x)}
    )
    monkeypatch.setattr(devices.jax, "config", config())
    monkeypatch.setattr(devices, "installed_support", lambda: support)
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: [pattern] * (pattern in files))
    for name in ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "JAX_FORCE_TPU_INIT"):
        monkeypatch.delenv(name, raising=False)
    devices.use_all_cores()
    assert asked == wanted


def test_gpus_that_the_user_hides_are_not_there(monkeypatch):
    def everything(pattern):
        return True

    for hidden, there in {"": [], "-1": [], "0": ["xla_cuda13"], "0,1": ["xla_cuda13"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert devices.present(["xla_cuda13"], everything) == there
        assert devices.present(["tpu"], everything) == ["tpu"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices.present(["xla_cuda13"], everything) == ["xla_cuda13"]
    monkeypatch.setenv("JAX_FORCE_TPU_INIT", "1")
    assert devices.present(["tpu", "xla_cuda13"], lambda pattern: False) == ["tpu"]


def test_support_is_found_by_its_entry_point_and_in_the_folder_of_plugins(tmp_path, monkeypatch):
    """As JAX finds it; installed here are neither."""
    folder = tmp_path / "jax_plugins"
    (folder / "in_folder").mkdir(parents=True)
    (folder / "in_folder" / "__init__.py").touch()
    about = tmp_path / "somebodys-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[jax_plugins]\nxla_cuda13 = jax_plugins.xla_cuda13\n")
    (tmp_path / "libtpu").mkdir()
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    before = devices.installed_support()
    monkeypatch.syspath_prepend(tmp_path)
    assert set(devices.installed_support()) == {*before, "in_folder", "xla_cuda13", "tpu"}


@pytest.mark.parametrize(("platforms", "files", "cores", "chosen", "warns"), [
    ("", ["/dev/nvidia*"], 8, -1, True), ("", [], 8, -1, False), ("cpu", ["/dev/nvidia*"], 8, -1, False),
    ("", ["/dev/nvidia*"], 1, -1, False), ("", ["/dev/nvidia*"], 8, 2, False),
])  # fmt: skip
def test_a_gpu_that_jax_cannot_use_is_told_where_it_leaves_cores_idle(platforms, files, cores, chosen, warns, monkeypatch):
    config = {"jax_platforms": platforms, "jax_num_cpu_devices": chosen}
    monkeypatch.setattr(devices.jax, "config", type("Config", (), config)())
    monkeypatch.setattr(devices, "installed_support", lambda: ["xla_cuda13"])
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: [pattern] * (pattern in files))
    monkeypatch.setattr(devices, "num_cores", lambda: cores)
    for name in ("XLA_FLAGS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        devices.check_platform()
    said = [str(each.message) for each in caught]
    used = devices.jax.local_device_count()
    start = "a GPU or TPU seems to be here, but JAX cannot use it (xla_cuda13 is installed): "
    assert said == [f"{start}{used} of {cores} cores are used; JAX_PLATFORMS=cpu uses all of them"] * warns


DETERMINISTIC, ORDERED, UNTIMED = (
    "--xla_gpu_deterministic_ops=true", "--xla_gpu_exclude_nondeterministic_ops", "--xla_gpu_autotune_level=0"
)  # fmt: skip
ORDER, SPEED = "the order of sums may change", "XLA chooses kernels by measured speed"


@pytest.mark.parametrize(("flags", "kept", "reasons"), [
    ("", False, f"{ORDER} and {SPEED}"),
    ("", True, ORDER),
    ("--xla_dump_to=dump", True, ORDER),
    (ORDERED, False, SPEED),
    (ORDERED, True, None),
    (f"{ORDERED}=true {UNTIMED}", False, None),
    (f"{ORDERED}=True --xla_gpu_per_fusion_autotune_cache_dir=kernels", False, None),
    (f"{ORDERED}=false {UNTIMED}", False, ORDER),
    (UNTIMED, False, ORDER),
    (DETERMINISTIC, False, None),
    ("--xla_gpu_deterministic_ops", False, None),
    (f"{DETERMINISTIC} --xla_gpu_deterministic_ops=false", True, ORDER),
])  # fmt: skip
def test_on_a_gpu_it_says_which_flag_resumed_runs_need_for_the_same_bits(flags, kept, reasons):
    line = devices.find_nondeterminism("gpu", flags, kept)
    if reasons is None:
        assert line == ""
    else:
        assert line.startswith(f"on a GPU {reasons}: ")
        assert f"XLA_FLAGS={DETERMINISTIC}" in line
        assert "\n" not in line
    assert devices.find_nondeterminism("cpu", flags, kept) == devices.find_nondeterminism("tpu", flags, kept) == ""


def test_kernels_are_kept_where_programs_are():
    config = devices.jax.config
    before = {name: getattr(config, name) for name in (
        "jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_persistent_cache_enable_xla_caches"
    )}  # fmt: skip
    assert devices.are_kernels_kept()
    for name, value in zip(before, (False, None, "none"), strict=True):
        try:
            config.update(name, value)
            assert not devices.are_kernels_kept()
        finally:
            config.update(name, before[name])


# Memory.


@pytest.mark.parametrize(("stats", "left"), [
    ({"bytes_limit": 60, "bytes_in_use": 10, "peak_bytes_in_use": 50}, 50),
    ({"bytes_limit": 60}, 60),
    ({"bytes_limit": 60, "bytes_in_use": 70}, 0),
    ({"bytes_in_use": 10}, None),
    ({"bytes_limit": 0}, None),
    ({}, None),
    (None, None),
])  # fmt: skip
def test_an_accelerator_gives_what_its_allocator_may_take_and_has_not_given(stats, left):
    assert devices.bytes_left(stats) == left


def fake_devices(platform, *stats):
    return [SimpleNamespace(platform=platform, memory_stats=lambda each=each: each) for each in stats]


def test_the_plan_is_made_for_the_device_with_the_least_and_never_from_the_hosts_memory_on_a_gpu(monkeypatch):
    def free(*local):
        monkeypatch.setattr(devices.jax, "local_devices", lambda: fake_devices(*local))
        return devices.bytes_free()

    assert free("gpu", {"bytes_limit": 60, "bytes_in_use": 20}, {"bytes_limit": 60, "bytes_in_use": 30}) == 30
    assert free("tpu", {"bytes_limit": 16}) == 16
    with pytest.raises(ValueError, match="memory = 0: the allocator of this GPU does not report its free memory; set memory"):
        free("gpu", None)
    with pytest.raises(ValueError, match="the allocator of this TPU does not report"):
        free("tpu", None)
    monkeypatch.setattr(devices, "host_bytes_free", lambda: 100)
    assert free("cpu", None, None) == free("metal", None, None) == 50


def test_the_devices_can_be_chosen_before_anything_asks_jax_for_them():
    """Some imports (gymnax) make JAX look for devices; the module that chooses them must not be one of them."""
    look = "import sys; from jaxpg.lab.engine import devices; sys.exit('gymnax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], timeout=60, check=False).returncode == 0


def test_asking_too_late_for_cpu_devices_warns(monkeypatch):
    update, count = devices.jax.config.update, devices.jax.local_device_count()
    config = {"jax_platforms": "cpu", "jax_num_cpu_devices": -1, "update": lambda _, *change: update(*change)}
    monkeypatch.setattr(devices.jax, "config", type("Config", (), config)())
    monkeypatch.setattr(devices, "num_cores", lambda: count + 1)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.warns(UserWarning, match=f"{count} of {count + 1} cores are used: JAX was in use before; set JAX_NUM_CPU"):
        devices.use_all_cores()
    assert devices.jax.local_device_count() == count


@pytest.mark.skipif(devices.num_cores() < 2, reason="there is one core")
@pytest.mark.parametrize(("before", "computes"), [("jaxpg.use_all_cores()", "all"), ("", "one")])
def test_a_sweep_in_a_fresh_process_uses_all_cores_or_says_that_it_cannot(before, computes):
    program = f"""
import warnings, jaxpg
{before}
algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=2, hidden=(4,))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jaxpg.sweep(algo, [{{}}], seeds=2, total_steps=4, eval_episodes=1)
import jax
said = any("cores are used" in str(each.message) for each in caught)
print(jax.local_device_count(), said)
"""
    ours = ("JAX_", "XLA_", "PYTEST")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=clean, check=True)
    expected = {"all": [str(devices.num_cores()), "False"], "one": ["1", "True"]}
    assert done.stdout.split() == expected[computes]


# Experiments, from the command to the files.

TINY = {"num_envs": 2, "num_steps": 8, "hidden": (4,)}


def train(config, screen=None):
    """The experiment of a configuration, from its start to its end or from where it was."""
    job = experiment.claim(experiment.prepare(config))
    return experiment.run(job, screen or Console(quiet=True), stopping.Stop())


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_an_experiment_writes_all_it_promises_and_the_same_command_again_does_nothing(tmp_path, capsys, programs_once):
    """Three seeds on two devices: a fourth is computed and seen nowhere."""
    directory = tmp_path / "run"
    arguments = ["train", "ppo", "--seeds", "3", "--total-steps", "500", "--num-envs", "4", "--num-steps", "16"]
    arguments += ["--hidden", "8", "--epochs", "2", "--eval-episodes", "4", "--run-dir", str(directory)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert str(directory) in out
    assert "arning" not in err
    files = {"config.json", "summary.json", "timing.json", "curves.png", "batches", ".lock", ".locks"}
    assert {path.name for path in directory.iterdir()} == files
    (folder,) = (directory / "batches").iterdir()
    assert {path.name for path in folder.iterdir()} == {"batch.json", "metrics.jsonl", "checkpoints", "result.json"}

    config = read_json(directory / "config.json")
    again = Config.from_dict(config)
    assert (again.seeds, again.options["num_steps"], again.total_steps) == (3, 16, 500)
    assert config["device"]["count"] == 2
    assert {"python", "jax", "jaxlib", "flax", "optax", "gymnax", "jaxpg"} <= config["versions"].keys()
    assert {"XLA_FLAGS", "jax_enable_x64", "jax_default_matmul_precision"} <= config["flags"].keys()
    assert config["settings"] == [{}]

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["setting"], row["seed"]) for row in rows] == [(u, 0, s) for u in range(1, 9) for s in range(3)]
    assert all(row["env_steps"] == 64 * row["update"] for row in rows)
    assert {"policy_loss", "critic_loss", "entropy", "kl", "episode_return", "episode_length", "episodes"} <= rows[0].keys()

    summary = read_json(directory / "summary.json")
    assert (summary["env"], summary["algo"], summary["num_seeds"], summary["programs"]) == ("CartPole-v1", "ppo", 3, 1)
    (one,) = summary["settings"]
    assert (one["setting"], one["num_updates"], one["env_steps_per_seed"], one["sampled_steps"]) == ({}, 8, 512, 512.0)
    for name in ("greedy_return", "sampled_return"):
        score = one[name]
        assert len(score["per_seed"]) == 3
        assert score["mean"] == pytest.approx(np.mean(score["per_seed"]))
        assert score["median"] == pytest.approx(np.median(score["per_seed"]))
        assert min(score["per_seed"]) <= score["ci95"][0] <= score["iqm"] <= score["ci95"][1] <= max(score["per_seed"])
        assert all(1 <= value <= 500 for value in score["per_seed"])
    assert one["diverged"] == one["greedy_return"]["diverged"] == []
    assert summary["solved_threshold"] == 475
    assert one["solved"]["solved"] == sum(value >= 475 for value in one["greedy_return"]["per_seed"])
    timing = read_json(directory / "timing.json")
    assert min(timing[name] for name in ("compile_seconds", "train_seconds", "env_steps_per_second")) > 0
    assert imread(directory / "curves.png").shape[0] > 500
    assert checkpoint.steps(folder / "checkpoints") == [8]
    assert (folder / "checkpoints" / "8" / checkpoint.SEAL).exists()

    before = contents(directory)
    assert cli.main(arguments) == 0
    assert contents(directory) == before
    assert capsys.readouterr().out == out, "the result is shown again"


def make_config(directory, updates=6, options=(), **fields):
    """Two small runs, or as many settings as ``fields`` vary."""
    general = {"seeds": 2, "log_every": 2, "eval_episodes": 1, "checkpoint_every": 0, "run_dir": str(directory)}
    return Config("a2c", **general | fields, options=TINY | {"total_steps": 16 * updates} | dict(options))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_training_begins_with_that_line_on_a_gpu_and_without_it_on_a_cpu(
    platform, tmp_path, capsys, monkeypatch, programs_once, no_figures
):
    if platform == "gpu":
        doubt = devices.find_nondeterminism
        monkeypatch.setattr(devices, "find_nondeterminism", lambda _, *flags: doubt("gpu", *flags))
    config = make_config(tmp_path / "run")
    for _ in range(2):  # the second time there is nothing to do
        train(config)
    assert capsys.readouterr().err.count("a resumed run may not be bit for bit") == (platform == "gpu")


def test_environments_on_two_devices_learn_what_they_learn_on_one(tmp_path, programs_once, no_figures):
    """Also where settings vary. ``shard_envs`` changes where things are computed: the first rows agree, but for rounding."""
    vary = {"gamma": (0.9, 0.99)}
    alone = train(make_config(tmp_path / "alone", vary=vary))
    shared = train(make_config(tmp_path / "shared", vary=vary, shard_envs=True))
    assert shared.metrics.keys() == alone.metrics.keys()
    for name, values in shared.metrics.items():
        np.testing.assert_allclose(values[..., 0], alone.metrics[name][..., 0], rtol=1e-4, atol=1e-5, err_msg=name)
    assert read_json(tmp_path / "shared" / "config.json")["device"]["count"] == 2


def test_evaluations_during_training_have_rows_of_their_own_and_change_no_bit(tmp_path, programs_once, no_figures):
    without, found = (train(make_config(tmp_path / str(n), updates=11, evaluate_every=n)) for n in (0, 4))
    assert found.digests.tolist() == without.digests.tolist()
    assert found.evaluation_steps.tolist() == [[64.0, 128.0, 176.0]]
    assert not without.evaluations
    np.testing.assert_array_equal(found.env_steps, without.env_steps)
    for name, values in found.metrics.items():
        np.testing.assert_array_equal(values, without.metrics[name], err_msg=name)
    for name, values in found.returns.items():
        np.testing.assert_array_equal(found.evaluations[name][..., -1], values, "the last is that of the end")
        np.testing.assert_array_equal(values, without.returns[name])
    rows = log.rows_of(next((tmp_path / "4" / "batches").iterdir()) / "metrics.jsonl")
    evaluated = [row for row in rows if row["update"] in (4, 8, 11) and "greedy_return" in row]
    assert [(row["update"], row["seed"]) for row in evaluated] == [(update, seed) for update in (4, 8, 11) for seed in (0, 1)]
    assert all(row.keys() == {*log.PLACE, "greedy_return", "sampled_return"} for row in evaluated)
    plain = next((tmp_path / "0" / "batches").iterdir()) / "metrics.jsonl"
    assert [row for row in rows if row not in evaluated] == log.rows_of(plain)


@pytest.mark.parametrize("best", [3, 9, 12])
def test_the_checkpoint_of_the_best_evaluation_is_kept(best, tmp_path, monkeypatch, programs_once, no_figures):
    """Whatever the returns of training, and also when it is stopped after it."""

    def evaluate(_, state, count):
        step = np.asarray(state.step)[:count]
        return {name: -np.abs(step - best).astype(float) for name in results.MODES}

    monkeypatch.setattr(programs.Programs, "evaluate", evaluate)
    config = make_config(tmp_path, updates=12, evaluate_every=3, checkpoint_every=1e-6)
    job, stop = experiment.claim(experiment.prepare(config)), stopping.Stop()
    logger = SimpleNamespace(
        write=lambda rows: stop.request(15) if rows[0]["update"] >= 10 else None, close=lambda summary: None
    )
    with pytest.raises(stopping.Stopped):
        experiment.run(job, Console(quiet=True), stop, logger)
    train(config)
    steps = checkpoint.steps(next((tmp_path / "batches").iterdir()) / "checkpoints")
    assert steps[-1] == 12
    assert best in steps
    assert len(steps) == 2 + (best not in steps[-2:])


def test_two_starts_in_one_second_get_two_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = datetime.datetime(2026, 1, 31, 12, 30, 59)
    monkeypatch.setattr(experiment, "datetime", SimpleNamespace(datetime=SimpleNamespace(now=lambda: now)))
    jobs = [experiment.claim(experiment.prepare(make_config(""))) for _ in range(3)]
    stem = "runs/a2c_CartPole-v1_seed0_20260131-123059"
    assert [job.config.run_dir for job in jobs] == [stem, f"{stem}-2", f"{stem}-3"]
    assert all((tmp_path / job.config.run_dir / "config.json").exists() for job in jobs)


OTHERS = {
    "algo is a2c there and ppo here": {"algo": "ppo"},
    "env is CartPole-v1 there and Acrobot-v1 here": {"env": "Acrobot-v1"},
    "env_params: gravity = None there and gravity = 5 here": {"env_params": {"gravity": 5.0}},
    "seeds is 2 there and 3 here": {"seeds": 3},
    "seed is 0 there and 1 here": {"seed": 1},
    "rng is philox4x32 there and threefry2x32 here": {"rng": "threefry2x32"},
    "matmul_precision is default there and highest here": {"matmul_precision": "highest"},
    "eval_episodes is 1 there and 2 here": {"eval_episodes": 2},
    "log_every is 2 there and 3 here": {"log_every": 3},
    "shard_envs is False there and True here": {"shard_envs": True},
    "options: num_steps = 8 there and num_steps = 16 here": {"options": {"num_steps": 16}},
    "options: gamma = 0.99 there and gamma = 0.5 here": {"options": {"gamma": 0.5}},
    "options: total_steps = 96 there and total_steps = 960 here": {"options": {"total_steps": 960}},
    "vary: gamma = (0.9,) there and gamma = (0.9, 0.99) here": {"vary": {"gamma": (0.9, 0.99)}},
    "vary: learning_rate = None there and learning_rate = (0.1,) here": {"vary": {"gamma": (0.9,), "learning_rate": (0.1,)}},
}


@pytest.fixture(scope="module")
def claimed(tmp_path_factory):
    """The job of an experiment that has a directory."""
    return experiment.claim(experiment.prepare(make_config(tmp_path_factory.mktemp("claimed"), vary={"gamma": (0.9,)})))


@pytest.mark.parametrize("says", OTHERS)
def test_a_directory_that_holds_another_experiment_is_refused_by_the_first_difference(says, claimed):
    directory, changes = Path(claimed.config.run_dir), dict(OTHERS[says])
    before = contents(directory)
    other = dataclasses.replace(claimed.config, options={**claimed.config.options, **changes.pop("options", {})}, **changes)
    with pytest.raises(ValueError, match="holds another experiment") as refused:
        experiment.prepare(other)
    further = f"jaxpg resume {directory} --total-steps 960 trains it further"
    fix = further if "total_steps" in says else "give another --run-dir"
    assert str(refused.value) == f"run_dir = {directory} holds another experiment: {says}; {fix}"
    with pytest.raises(ValueError, match="holds another experiment"):  # it was not there when the other was prepared
        experiment.claim(dataclasses.replace(claimed, config=other))
    assert contents(directory) == before


# Every field of a configuration does something, whether settings vary or not; or the command refuses it.

PRODUCT = re.compile(r"stablehlo\.dot_general .* precision = \[(\w+), (\w+)\]")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_products_have_the_precision_that_is_asked_for(precision):
    def precisions(width):  # one that no other test has
        config = make_config("", options={"hidden": (width,)}, matmul_precision=precision)
        programs = experiment.prepare(config).programs(0, 2)
        programs.start.result()  # nothing compiles when the next test begins
        return {kind for each in (programs.chunk, programs.trace_evaluation()) for kind in PRODUCT.findall(each.as_text())}

    assert precisions(5) == {(precision.upper(),) * 2}
    with jax.default_matmul_precision("highest"):  # JAX's own setting stays where nothing is asked for
        assert precisions(6) == {("HIGHEST" if precision == "default" else precision.upper(),) * 2}


CHANGES = {  # on the command line, and what changes
    "algo": (["actor_critic"], "digests"),
    "env": (["--env", "MountainCar-v0"], "digests"),
    "seeds": (["--seeds", "3"], "runs"),
    "seed": (["--seed", "1"], "digests"),
    "rng": (["--rng", "threefry2x32"], "digests"),
    "matmul_precision": (["--matmul-precision", "highest"], "precision"),
    "run_dir": (["--run-dir", "elsewhere"], "directory"),
    "eval_episodes": (["--eval-episodes", "3"], "returns"),
    "evaluate_every": (["--evaluate-every", "4"], "evaluations"),
    "log_every": (["--log-every", "3"], "updates"),
    "log": (["--log", "tensorboard"], "loggers"),
    "checkpoint_every": (["--checkpoint-every", "0"], "checkpoints"),
    "keep": (["--keep", "5"], "checkpoints"),
    "batch_size": (["--batch-size", "1"], "plan"),
    "memory": (["--memory", "1e-9"], "one run needs"),
    "shard_envs": (["--shard-envs"], "plan"),
    "parquet": (["--parquet"], "tables"),
    "env_params": (["--env-params", "gravity=5.0"], "digests"),
    "options": (["--entropy-coef", "0.5"], "digests"),
    "vary": (["--vary", "entropy_coef=0.5"], "digests"),
    "own": (["--own"], "unknown option 'own'"),
    "base_steps": (["--base-steps", "32"], "unknown option 'base_steps'"),
    "stop_at": (["--stop-at", "32"], "unknown option 'stop_at'"),
    "search": (["--search", "halving"], "unknown option 'search'"),
}
DETAILS = {  # what an option needs, and the option with another value; of a2c, or where it is not read there, of ppo
    "network": ([], ["gru"]),
    "activation": ([], ["relu"]),
    "layer_norm": ([], []),
    "shared": ([], []),
    "value_coef": (["--shared"], ["2"]),
    "sequence_length": (["--network", "gru"], ["4"]),
    "max_grad_norm": ([], ["0"]),
    "adam_eps": ([], ["0.1"]),
    "obs_clip": (["--observation", "running"], ["0.5"]),
    "reward_norm": ([], ["running"]),
    "advantage_norm": ([], ["rollout"]),
    "anneal_shape": (["--anneal", "learning_rate"], ["cosine"]),
    "warmup": ([], ["3"]),
    "value_clip": ([], ["0.01"]),
    "target_kl": (["--learning-rate", "0.1"], ["0.001"]),
    "desired_kl": ([], ["0.1"]),
}
COMMANDS = {"train": ["--seeds", "4"], "sweep": ["--seeds", "2", "--vary", "gamma=0.9,0.99"]}


def call(command, capsys, change=()):
    """What is seen of an experiment, by kind; where it is refused the exit code and the reason."""
    algo, more = (change[0], change[1:]) if change and change[0][0] != "-" else ("a2c", change)
    general = ["--num-envs", "2", "--num-steps", "8", "--hidden", "4", "--total-steps", "96", "--eval-episodes", "1"]
    general += ["--log-every", "2", "--checkpoint-every", "1e-6", "--run-dir", "here", *COMMANDS[command]]
    code = cli.main([command, algo, *general, *more])
    err = capsys.readouterr().err
    if code:
        return {"code": code, "reason": err}
    (directory,) = Path().iterdir()
    found = results.read(directory)
    return {
        "directory": directory.name,
        "precision": read_json(directory / "config.json")["matmul_precision"],
        "digests": found.digests.tolist(),
        "runs": found.digests.shape,
        "returns": {name: values.tolist() for name, values in found.returns.items()},
        "updates": found.env_steps.tolist(),
        "evaluations": found.evaluation_steps.tolist(),
        "checkpoints": [checkpoint.steps(folder / "checkpoints") for folder in (directory / "batches").iterdir()],
        "loggers": (directory / "tensorboard").exists(),
        "tables": [path.name for path in directory.glob("batches/*/*.parquet")],
        "plan": re.findall("plan: .* device", err),
    }


@pytest.fixture(scope="module")
def unchanged(programs_once, no_figures):
    """What is seen of each command without a change."""
    return {}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Config)])
def test_every_field_of_a_configuration_does_something_or_is_refused(command, field, unchanged, tmp_path, capsys, monkeypatch):
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path / "base")
    if command not in unchanged:
        unchanged[command] = call(command, capsys)
    change, what = CHANGES[field]
    (tmp_path / "changed").mkdir()
    monkeypatch.chdir(tmp_path / "changed")
    found = call(command, capsys, change)
    if field == "vary" and command == "train":
        what = "trains one setting; jaxpg sweep"
    if " " in what:
        assert found["code"] == 2
        assert what in found["reason"]
        assert not list(Path().iterdir())
    else:
        assert found[what] != unchanged[command][what]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", DETAILS)
def test_every_option_changes_what_is_learned(command, name, unchanged, tmp_path, capsys, monkeypatch):
    needs, value = DETAILS[name]
    needs = needs if name in presets.options("a2c", None) else ["ppo", "--minibatches", "1", *needs]
    digests = []
    for place, change in {"base": needs, "changed": [*needs, f"--{name.replace('_', '-')}", *value]}.items():
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        digests.append(call(command, capsys, change)["digests"])
    before, after = (set(itertools.chain.from_iterable(found)) for found in digests)
    assert not before & after


VARIED = {
    "network": "mlp,gru",
    "activation": "tanh,relu",
    "layer_norm": "false,true",
    "shared": "false,true",
    "value_coef": "0.5,2",
    "sequence_length": "0,4",
    "max_grad_norm": "0,0.5",
    "adam_eps": "1e-5,0.1",
    "obs_clip": "10,0.5",
    "reward_norm": "scale,running",
    "advantage_norm": "none,rollout",
    "anneal_shape": "linear,cosine",
    "warmup": "0,3",
    "value_clip": "0,0.01",
    "target_kl": "0,0.001",
    "desired_kl": "0,0.1",
}


@pytest.mark.parametrize("name", DETAILS)
def test_every_option_may_vary(name, tmp_path, programs_once, no_figures):
    needs, _ = DETAILS[name]
    algo = "a2c" if name in presets.options("a2c", None) else "ppo"
    sizes = ["--num-envs", "2", "--num-steps", "8", "--hidden", "4", "--total-steps", "96", "--eval-episodes", "1"]
    line = [
        "sweep",
        algo,
        *sizes,
        "--seeds",
        "2",
        *needs,
        "--vary",
        f"{name}={VARIED[name]}",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert cli.main(line) == 0
    found = results.read(tmp_path / "run")
    assert found.settings[0][name] != found.settings[1][name]
    assert len({*found.digests.ravel().tolist()}) == 4
