"""Results as arrays, and what lies on the disk between them: nothing that was changed passes for a result."""

import dataclasses
import functools
import json
import math
import os
import random
import shutil
import signal
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

import jaxpg
from jaxpg.lab.config import Config
from jaxpg.lab.engine.stopping import Stopped
from jaxpg.lab.store import files, log, results
from jaxpg.lab.store.files import BATCH, CONFIG, METRICS, RESULT, SUMMARY, TIMING, Damaged, read_json, write_json
from jaxpg.lab.store.results import MODES, Part
from jaxpg.lab.store.stored import FORMAT, identity, read_config
from jaxpg.loops.train import COUNTS

SETTINGS = [{"num_envs": 4}, {"num_envs": 2}, {"num_envs": 1}]
SWEEP = Config("mine", "a room", own=True, seeds=2, options={"total_steps": 40}, vary=SETTINGS)
IDENTITY = identity(SWEEP, None)


def part(runs, points, diverged=()):
    """Runs whose metrics say which run and which log point they are: ``100 * run + point``."""
    runs = np.array(runs)
    entropy = 100.0 * runs[:, None] + np.arange(points)
    metrics = {"entropy": entropy, "episode_return": np.where(np.arange(points) == 0, np.nan, -entropy)}
    evaluations = {mode: runs[:, None] + np.array([[0.25, 0.75]]) + i for i, mode in enumerate(MODES)}
    lost = np.isin(runs, diverged)
    returns = {"greedy_return": np.where(lost, np.nan, 1.0 * runs), "sampled_return": np.where(lost, np.nan, runs + 0.5)}
    steps = 10.0 * np.arange(1, points + 1), np.array([10.0, 20.0])
    digests, seconds = np.array([f"digest {run}" for run in runs]), {"compile": 1.0, "train": 0.5 * len(runs)}
    return Part(runs, steps[0], metrics, steps[1], evaluations, returns, np.where(lost, 10 + runs, 0), digests, seconds)


# Three settings of two seeds: 0 with two log points, 1 with four; of setting 2, seed 0 is not there yet.
PARTS = [part([0, 1], 2), part([2, 3], 4, diverged=[3]), part([5], 4)]


def check(found):
    nan = np.nan
    np.testing.assert_array_equal(found.env_steps, [[10, 20, nan, nan], [10, 20, 30, 40], [10, 20, 30, 40]])
    rows = [
        [[0, 1, nan, nan], [100, 101, nan, nan]],
        [[200, 201, 202, 203], [300, 301, 302, 303]],
        [[nan] * 4, [500, 501, 502, 503]],
    ]
    np.testing.assert_array_equal(found.metrics["entropy"], rows)
    np.testing.assert_array_equal(found.metrics["episode_return"][1], [[nan, -201, -202, -203], [nan, -301, -302, -303]])
    np.testing.assert_array_equal(found.returns["greedy_return"], [[0, 1], [2, nan], [nan, 5]])
    np.testing.assert_array_equal(found.returns["sampled_return"], [[0.5, 1.5], [2.5, nan], [nan, 5.5]])
    assert found.diverged_at.tolist() == [[0, 0], [0, 13], [0, 0]]
    assert found.diverged.tolist() == [[False, False], [False, True], [False, False]]
    assert found.digests.tolist() == [["digest 0", "digest 1"], ["digest 2", "digest 3"], ["", "digest 5"]]
    assert found.seconds == {"compile": 3.0, "train": 2.5}
    np.testing.assert_array_equal(found.evaluation_steps, [[10, 20]] * 3)
    scores = [[[0.25, 0.75], [1.25, 1.75]], [[2.25, 2.75], [3.25, 3.75]], [[nan, nan], [5.25, 5.75]]]
    np.testing.assert_array_equal(found.evaluations["greedy_return"], scores)
    np.testing.assert_array_equal(found.evaluations["sampled_return"], np.array(scores) + 1)


@pytest.mark.parametrize("order", [1, -1])
def test_parts_join_in_any_order_and_what_is_missing_is_nan(order):
    found = results.join("name", {"seeds": 2}, SETTINGS, 2, PARTS[::order])
    assert (found.name, found.config, found.settings) == ("name", {"seeds": 2}, SETTINGS)
    check(found)


def test_a_return_of_a_run_that_diverged_is_nan_whatever_the_part_says():
    returns, diverged_at = {"greedy_return": np.array([9.0, 8.0])}, np.array([1, 0])
    lying = Part(np.array([0, 1]), np.array([10.0]), {}, np.zeros(0), {}, returns, diverged_at)
    found = results.join("name", {}, [{}], 2, [lying])
    np.testing.assert_array_equal(found.returns["greedy_return"], [[np.nan, 8.0]])
    assert found.diverged_at.tolist() == [[1, 0]]


def test_an_experiment_without_any_part_has_settings_and_nothing_else():
    found = results.join("name", {}, SETTINGS, 2, [])
    assert (found.env_steps.shape, found.metrics, found.evaluations) == ((3, 0), {}, {})
    for values in found.returns.values():
        np.testing.assert_array_equal(values, np.full((3, 2), np.nan))
    assert (found.diverged_at.shape, found.diverged.shape, found.diverged.any()) == ((3, 2), (3, 2), False)


def write_log(folder, part, seeds):
    """The rows of a part as an experiment writes them; the seal of the log."""
    places = [divmod(int(run), seeds) for run in part.runs]
    with log.Log(folder / METRICS) as file:
        for p, steps in enumerate(part.env_steps):
            metrics = {name: values[:, p] for name, values in part.metrics.items()}
            file.write(log.rows(places, p + 1, int(steps), metrics))
            for e in np.flatnonzero(part.evaluation_steps == steps):
                file.write(log.rows(places, p + 1, int(steps), {name: x[:, e] for name, x in part.evaluations.items()}))
        return file.seal


def write_batch(directory, part, seeds=2, *, is_finished=True, own=IDENTITY):
    """A batch of runs as an experiment writes it; its folder."""
    folder = directory / "batches" / f"{part.runs[0]:07d}"
    folder.mkdir(parents=True)
    write_json(folder / BATCH, {"identity": own, "runs": part.runs.tolist(), "width": len(part.runs)})
    seal = write_log(folder, part, seeds)
    if is_finished:
        write_result(folder, part, seal, own)
    return folder


def write_result(folder, part, seal, own=IDENTITY):
    returns = {mode: values.tolist() for mode, values in part.returns.items()}
    content = {"identity": own, "runs": part.runs.tolist(), "num_updates": part.env_steps.size, "returns": returns}
    content |= {"diverged_at": part.diverged_at.tolist(), "digests": part.digests.tolist()}
    write_json(folder / RESULT, content | {"log": seal, "seconds": part.seconds})


def write_config(directory, config=SWEEP):
    content = {"format": FORMAT, "identity": identity(config, None), "algorithm": None}
    content |= {name: value for name, value in config.to_dict().items() if name != "run_dir"}
    directory.mkdir()
    write_json(directory / CONFIG, content)
    return json.loads(json.dumps(content))


@pytest.fixture
def directory(tmp_path):
    """A sweep with all its parts."""
    write_config(tmp_path / "sweep")
    for each in PARTS[::-1]:
        write_batch(tmp_path / "sweep", each)
    return tmp_path / "sweep"


def warned(directory):
    """What is read, and the only warning."""
    with pytest.warns(UserWarning, match="a batch of runs is left out") as caught:
        found = results.read(directory)
    (text,) = [str(warning.message) for warning in caught]
    assert text.isprintable(), repr(text)
    assert text.endswith("; the same command trains it again")
    return found, text


def without(found, setting):
    """What is not of ``setting`` is there, and nothing of it is."""
    assert np.isnan(found.returns["greedy_return"][setting]).all()
    assert np.isnan(found.metrics["entropy"][setting]).all()
    assert not found.diverged_at[setting].any()
    others = [i for i in range(3) if i != setting]
    wanted = np.array([[0, 1], [2, np.nan], [np.nan, 5]])
    np.testing.assert_array_equal(found.returns["greedy_return"][others], wanted[others])
    return True


def test_a_part_is_read_as_it_was_written(directory):
    back = [results.read_part(folder, IDENTITY, 2, 6) for folder in results.folders(directory)]
    assert [list(each.runs) for each in back] == [[0, 1], [2, 3], [5]]
    for one, two in zip(PARTS, back, strict=True):
        for name in ("runs", "env_steps", "evaluation_steps", "diverged_at", "digests"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert getattr(one, name).dtype == getattr(two, name).dtype
        for kind in ("metrics", "evaluations", "returns"):
            assert getattr(one, kind).keys() == getattr(two, kind).keys()
            for name, values in getattr(one, kind).items():
                np.testing.assert_array_equal(values, getattr(two, kind)[name])
        assert one.seconds == two.seconds


def test_an_experiment_is_read_in_full_or_in_part(directory):
    found = results.read(directory)
    assert (found.name, found.settings) == ("sweep", SETTINGS)
    assert found.config == read_json(directory / CONFIG)
    check(found)
    shutil.rmtree(directory / "batches" / "0000002")
    assert without(results.read(str(directory)), 1)


def test_what_else_lies_between_the_batches_is_no_batch(directory):
    for name in ("notes", ".0000007", "0000007-old", "-1"):
        (directory / "batches" / name).mkdir()
    (directory / "batches" / "0000009").write_text("a file")
    (directory / "batches" / "0000000" / f".{RESULT}.part").write_text("{")
    check(results.read(directory))


def test_a_batch_whose_writer_was_stopped_is_unfinished_and_may_be_finished_again(directory, monkeypatch):
    folder = directory / "batches" / "0000002"
    seal = read_json(folder / RESULT)["log"]
    (folder / RESULT).unlink()

    def stopped(*_, **__):
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", stopped)
        with pytest.raises(Stopped):
            write_result(folder, PARTS[1], seal)
    found = results.read(directory)
    assert np.isnan(found.returns["greedy_return"][1]).all()
    np.testing.assert_array_equal(found.metrics["entropy"][1], [[200, 201, 202, 203], [300, 301, 302, 303]])
    write_result(folder, PARTS[1], seal)
    check(results.read(directory))
    assert sorted(path.name for path in folder.iterdir()) == [BATCH, METRICS, RESULT]


TRAIN = Config("mine", "a room", own=True, seeds=3, options={"total_steps": 30})


def run_of(points):
    """One setting of three seeds; the second diverges at update 2."""
    found = part([0, 1, 2], points, diverged=[1])
    return dataclasses.replace(found, diverged_at=np.array([0, 2, 0]), evaluation_steps=np.zeros(0), evaluations={})


def test_a_run_is_one_setting_that_varies_nothing(tmp_path):
    content = write_config(tmp_path / "run", TRAIN)
    write_batch(tmp_path / "run", run_of(3), 3, own=identity(TRAIN, None))
    found = results.read(tmp_path / "run")
    assert (found.name, list(found.settings), found.config) == ("run", [{}], content)
    np.testing.assert_array_equal(found.env_steps, [[10, 20, 30]])
    np.testing.assert_array_equal(found.metrics["entropy"], [[[0, 1, 2], [100, 101, 102], [200, 201, 202]]])
    np.testing.assert_array_equal(found.returns["greedy_return"], [[0, np.nan, 2]])
    np.testing.assert_array_equal(found.returns["sampled_return"], [[0.5, np.nan, 2.5]])
    assert found.diverged_at.tolist() == [[0, 2, 0]]
    assert found.diverged.tolist() == [[False, True, False]]
    assert (found.evaluation_steps.shape, found.evaluations) == ((1, 0), {})


@pytest.mark.parametrize("points", [0, 2])
def test_a_run_that_is_not_finished_has_curves_and_no_returns_yet(tmp_path, points):
    write_config(tmp_path / "run", TRAIN)
    folder = write_batch(tmp_path / "run", run_of(points), 3, own=identity(TRAIN, None), is_finished=False)
    with open(folder / METRICS, "ab") as file:
        file.write(b'{"setting": 0, "seed": 0, "update": 3, "env_st')
    found = results.read(tmp_path / "run")
    assert found.env_steps.shape == (1, points)
    for values in found.returns.values():
        np.testing.assert_array_equal(values, [[np.nan] * 3])
    assert found.diverged.tolist() == [[False] * 3]
    assert found.metrics.keys() == ({"entropy", "episode_return"} if points else set())
    assert all(values.shape == (1, 3, points) for values in found.metrics.values())


def test_a_run_that_has_not_begun_is_read_too(tmp_path):
    write_config(tmp_path / "run", TRAIN)
    found = results.read(tmp_path / "run")
    assert (found.env_steps.shape, found.metrics, found.returns["greedy_return"].shape) == ((1, 0), {}, (1, 3))


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", "{}", '{"algo": "ppo", "env": "CartPole-v1"}'])
def test_a_directory_without_an_experiment_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / CONFIG).write_text(content)
    with pytest.raises(ValueError, match=r"config\.json|holds no experiment") as caught:
        results.read(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_directory_at_all_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere holds no experiment: there is no config\.json$"):
        results.read(tmp_path / "nowhere")


def test_no_changed_digit_of_a_finished_batch_passes(directory):
    """Each digit of its log, one at a time: the batch is left out, and says so."""
    path = directory / "batches" / "0000002" / METRICS
    data = path.read_bytes()
    digits = [i for i, letter in enumerate(data) if chr(letter).isdigit()]
    for i in random.Random(0).sample(digits, 100):
        path.write_bytes(data[:i] + bytes([ord("0") + (data[i] - ord("0") + 1) % 10]) + data[i + 1 :])
        found, text = warned(directory)
        assert f"{path} was changed since its runs were finished" in text
        assert without(found, 1)
    path.write_bytes(data)
    check(results.read(directory))


def test_no_changed_digit_of_a_result_passes(directory):
    """Each digit of ``batch.json`` and ``result.json``; those of the runs that are there are as they were."""
    for name in (BATCH, RESULT):
        path = directory / "batches" / "0000002" / name
        data = path.read_bytes()
        for i, letter in enumerate(data):
            if chr(letter).isdigit():
                path.write_bytes(data[:i] + bytes([ord("0") + (letter - ord("0") + 1) % 10]) + data[i + 1 :])
                found, text = warned(directory)
                assert f"left out: {path} " in text
                assert without(found, 1)
        path.write_bytes(data)
    check(results.read(directory))


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, empty, remove, make_folder], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", [BATCH, METRICS, RESULT])
def test_a_damaged_batch_is_left_out_with_one_warning_and_the_others_are_read(directory, name, damage):
    damage(directory / "batches" / "0000002" / name)
    if (name, damage) == (RESULT, remove):  # then it is one that is not finished
        assert np.isnan(results.read(directory).returns["greedy_return"][1]).all()
    else:
        found, text = warned(directory)
        assert str(directory / "batches" / "0000002" / name) in text
        assert without(found, 1)


def test_what_came_after_the_last_row_of_a_finished_batch_does_not_count(directory):
    """Of an experiment that is just being extended."""
    with open(directory / "batches" / "0000002" / METRICS, "ab") as file:
        file.write(b'{"setting": 1, "seed": 0, "update": 5, "env_steps": 50, "entropy": 0.5}\n')
    check(results.read(directory))


def test_a_log_that_cannot_be_read_is_a_damaged_batch_also_where_it_is_not_finished(directory):
    folder = directory / "batches" / "0000002"
    (folder / RESULT).unlink()
    make_folder(folder / METRICS)
    found, text = warned(directory)
    assert f"{folder / METRICS} cannot be read (Is a directory)" in text
    assert without(found, 1)


def test_a_batch_of_another_experiment_is_refused(directory, tmp_path):
    """Also where only its result is, or its log: whatever was copied from elsewhere."""
    shutil.rmtree(directory / "batches" / "0000002")
    folder = write_batch(directory, PARTS[1], own="another")
    found, text = warned(directory)
    assert f"{folder} belongs to another experiment" in text
    assert without(found, 1)
    write_json(folder / BATCH, {"identity": IDENTITY, "runs": [2, 3], "width": 2})
    found, text = warned(directory)
    assert f"{folder / RESULT} belongs to other runs" in text
    assert without(found, 1)
    shutil.copy(directory / "batches" / "0000005" / RESULT, folder / RESULT)
    assert f"{folder / RESULT} belongs to other runs" in warned(directory)[1]
    write_result(folder, PARTS[1], read_json(directory / "batches" / "0000000" / RESULT)["log"])
    assert f"{folder / METRICS} was changed since its runs were finished" in warned(directory)[1]


NOT_OURS = [
    {"runs": []},
    {"runs": [6, 7]},
    {"runs": [-1, 2]},
    {"runs": [2, 2]},
    {"runs": [2, 3.0]},
    {"runs": [2, True]},
    {"runs": "23"},
    {"runs": {"2": 3}},
    {"runs": [2, 10**30]},
    {"runs": None},
    {"width": 1},
    {"width": "2"},
    {"width": None},
    {"identity": None},
]


@pytest.mark.parametrize("change", NOT_OURS, ids=str)
def test_a_batch_whose_description_is_not_ours_is_refused_in_one_line(directory, change):
    path = directory / "batches" / "0000002" / BATCH
    write_json(path, read_json(path) | change)
    found, text = warned(directory)
    assert str(path.parent) in text
    assert without(found, 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
PLACES = ["identity", "runs", "num_updates", "returns", "diverged_at", "digests", "log", "seconds"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """The folder of a finished batch."""
    return write_batch(tmp_path_factory.mktemp("batch"), PARTS[1])


def resealed(batch, name, change):
    """Read the batch with a file that was changed and sealed again; the line with which it is refused."""
    before = (batch / name).read_bytes()
    content = read_json(batch / name)
    change(content)
    write_json(batch / name, content)
    try:
        return results.read_part(batch, IDENTITY, 2, 6)
    except Damaged as error:
        return str(error)
    finally:
        (batch / name).write_bytes(before)


@given(st.sampled_from(PLACES), json_values)
def test_whatever_replaces_a_value_of_a_result_it_is_read_or_refused_in_one_line(batch, name, value):
    found = resealed(batch, RESULT, lambda content: content.update({name: value}))
    assert isinstance(found, Part) or (found.isprintable() and str(batch) in found and len(found) < 700), found


@given(st.sampled_from(["returns", "log", "seconds"]), st.integers(0, 2), json_values)
def test_whatever_replaces_an_inner_value_of_a_result_it_is_read_or_refused_in_one_line(batch, name, which, value):
    def change(content):
        content[name][list(content[name])[which % len(content[name])]] = value

    found = resealed(batch, RESULT, change)
    assert isinstance(found, Part) or (found.isprintable() and str(batch) in found and len(found) < 700), found


LONG = "x" * 10**5
ANY_TEXT = [[LONG, "y\n"], [10**400, 1]]
IMPOSSIBLE = [{}, [], None, -1, LONG, [[1.0], [2.0, 3.0]], *ANY_TEXT]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("value", IMPOSSIBLE, ids=lambda x: repr(x)[:12])
def test_a_result_with_a_value_that_cannot_be_is_refused_in_one_line(batch, name, value):
    found = resealed(batch, RESULT, lambda content: content.update({name: value}))
    if name == "digests" and value in ANY_TEXT:
        assert isinstance(found, Part)
    else:
        assert isinstance(found, str)
        assert found.isprintable()
        assert str(batch) in found
        assert len(found) < 700


# What the engine writes

VARY = {"learning_rate": [1e-3, 1e38], "num_envs": [4, 8]}


def train(directory, hidden=(8,)):
    """Two programs of six runs each; the larger learning rate makes some runs diverge."""
    make = functools.partial(jaxpg.a2c, jaxpg.make("CartPole-v1"), num_steps=16, hidden=hidden)
    return jaxpg.run(make, directory=directory, seeds=3, total_steps=512, eval_episodes=4, vary=VARY, name="a2c")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "trained"
    return directory, train(directory)


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_directory_of_an_experiment_holds_these_files_all_sealed(trained):
    directory, _ = trained
    names = {name for name in contents(directory) if "/checkpoints/" not in name and not name.startswith(".locks/")}
    pictures = {"curves.png", "sensitivity_learning_rate.png", "sensitivity_num_envs.png"}
    batches = {f"batches/{batch}/{name}" for batch in ("0000000", "0000003") for name in (BATCH, METRICS, RESULT)}
    assert names == {CONFIG, SUMMARY, TIMING, ".lock"} | pictures | batches
    own = read_json(directory / CONFIG)["identity"]
    for name in names:
        if name.endswith(".json") and name != TIMING:
            assert read_json(directory / name)["identity"] == own
    for batch in ("0000000", "0000003"):
        (step,) = (directory / "batches" / batch / "checkpoints").iterdir()
        assert (step / "SHA256SUMS").exists()


def test_what_is_read_again_is_what_was_returned(trained):
    directory, returned = trained
    found = results.read(directory)
    assert found.settings == returned.settings == [{"learning_rate": r, "num_envs": n} for r in (1e-3, 1e38) for n in (4, 8)]
    for kind in ("metrics", "returns", "evaluations"):
        for name, values in getattr(found, kind).items():
            np.testing.assert_array_equal(values, getattr(returned, kind)[name])
    assert read_config(directory) == dataclasses.replace(read_config(directory), vary=VARY)


def test_the_summary_has_a_row_for_each_setting_whose_statistics_are_those_of_its_scores(trained):
    directory, found = trained
    summary = read_json(directory / SUMMARY)
    assert (summary["env"], summary["algo"], summary["num_seeds"], summary["programs"]) == ("CartPole-v1", "a2c", 3, 2)
    assert [row["setting"] for row in summary["settings"]] == found.settings
    assert [row["env_steps_per_seed"] for row in summary["settings"]] == [512] * 4
    assert found.diverged[2:].any()
    assert not found.diverged[:2].any()
    for i, row in enumerate(summary["settings"]):
        assert row["diverged"] == [{"seed": j, "update": at} for j, at in enumerate(found.diverged_at[i].tolist()) if at]
        assert (row["digests"], len(set(row["digests"]))) == (found.digests[i].tolist(), 3)
        for name in MODES:
            score, scores = row[name], found.returns[name][i]
            np.testing.assert_array_equal(np.array(score["per_seed"], float), scores)
            assert score["diverged"] == np.flatnonzero(found.diverged[i]).tolist()
            if found.diverged[i].any():
                assert score["mean"] is None
                continue
            assert score["mean"] == pytest.approx(np.mean(scores))
            assert score["median"] == pytest.approx(np.median(scores))
            assert score["iqm"] == pytest.approx(trim_mean(scores, 0.25))
            assert all(1 <= value <= 500 for value in scores)
        assert (row["solved"]["threshold"], row["solved"]["solved"]) == (475, 0)
        assert row["to_threshold"] == {"median_steps": None, "reached": 0, "censored": 3}


def test_every_update_is_a_log_point_and_of_a_run_that_diverged_there_is_nothing_from_then_on(trained):
    _, found = trained
    np.testing.assert_array_equal(found.env_steps, [[*range(64, 513, 64)], [*range(128, 513, 128), *[np.nan] * 4]] * 2)
    updates = np.arange(1, found.env_steps.shape[1] + 1)
    there = ~np.isnan(found.env_steps)[:, None]
    good = there & ((found.diverged_at[..., None] == 0) | (updates < found.diverged_at[..., None]))
    assert (found.diverged_at <= there.sum(axis=-1)).all()
    np.testing.assert_array_equal(np.isfinite(found.metrics["policy_loss"]), good)
    for name in COUNTS:
        assert not found.metrics[name][there & ~good].any()
    steps = np.broadcast_to([[[64]], [[128]]] * 2, good.shape)
    np.testing.assert_array_equal(found.metrics["sampled_steps"][good], steps[good])


def test_a_batch_that_was_changed_is_put_aside_and_trained_again_to_the_same_bytes(trained, tmp_path):
    """Its log, its scores and the summary are those of the first time; the other batch is not touched."""
    directory = shutil.copytree(trained[0], tmp_path / "copy")
    before = contents(directory)
    path = directory / "batches" / "0000003" / METRICS
    path.write_bytes(before[f"batches/0000003/{METRICS}"].replace(b"1", b"2", 1))
    with pytest.warns(UserWarning, match="a batch of runs is left out"):
        results.read(directory)
    train(directory)
    after = contents(directory)
    same = [name for name in before if name.startswith("batches/0000000/")]
    same += [CONFIG, SUMMARY, f"batches/0000003/{BATCH}", f"batches/0000003/{METRICS}"]
    assert [name for name in same if after[name] != before[name]] == []
    again, once = (json.loads(each[f"batches/0000003/{RESULT}"]) for each in (after, before))
    assert {name for name in once if again[name] != once[name]} <= {"seconds", "sha256"}
    (aside,) = (directory / "damaged").iterdir()
    assert aside.name.startswith("0000003-")
    assert (aside / METRICS).read_bytes() != before[f"batches/0000003/{METRICS}"]


def test_another_experiment_is_refused_and_nothing_is_changed(trained):
    directory, _ = trained
    before = contents(directory)
    with pytest.raises(ValueError, match=r"holds another experiment: algorithm: .*hidden.*; give another --run-dir$"):
        train(directory, hidden=(9,))
    assert contents(directory) == before


def read_all(directory):
    return results.read(directory)


def load(directory):
    return jaxpg.load_policy(directory, algo=functools.partial(jaxpg.a2c, jaxpg.make("CartPole-v1"), num_steps=16, hidden=(8,)))


@pytest.mark.parametrize("call", [read_all, read_config, load, train], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", [CONFIG, "batches/0000003", f"batches/0000003/{METRICS}", "batches/0000003/checkpoints"])
def test_every_way_to_read_a_directory_checks_it_in_the_same_way(trained, tmp_path, call, name):
    """A link or a pipe in any place is refused by all, and what the link points to stays as it was."""
    directory = shutil.copytree(trained[0], tmp_path / "copy")
    elsewhere = shutil.move(directory / name, tmp_path / "elsewhere")
    before = {path: path.stat().st_mtime_ns for path in (elsewhere, *elsewhere.rglob("*"))}
    (directory / name).symlink_to(elsewhere)
    with pytest.raises(
        ValueError, match=f"{directory / name} is a link; a run directory may hold only regular files: remove it"
    ):
        call(directory)
    assert {path: path.stat().st_mtime_ns for path in (elsewhere, *elsewhere.rglob("*"))} == before
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(ValueError, match=f"{directory / name} is not a regular file"):
        call(directory)


def test_what_is_only_read_is_not_changed_and_says_nothing(trained):
    directory, _ = trained
    before = contents(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_all(directory)
        act = load(directory)
    assert math.isfinite(float(act(np.zeros(4))))
    assert contents(directory) == before
