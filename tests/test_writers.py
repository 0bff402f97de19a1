import contextlib
import json
import math
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpg.lab.store.writers import RunWriter, check_free, plain, read_metrics, whole_log_points

from jaxpg.lab.engine.stopping import LOCK
from jaxpg.lab.store.stored import FILES


def metrics(*returns):
    return {"episode_return": np.array(returns, np.float32), "episodes": np.arange(len(returns))}


def test_rows_are_json_and_come_back_as_arrays(tmp_path):
    with RunWriter.create(tmp_path / "deep" / "run", {"algo": "ppo"}) as writer:
        writer.rows(5, 50, metrics(np.nan, 0.1))
        writer.rows(10, 100, metrics(2.0, np.inf))
    lines = (writer.directory / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # NaN and Infinity are not JSON
    assert rows[0] == {"update": 5, "env_steps": 50, "seed": 0, "episode_return": None, "episodes": 0}
    assert rows[1]["episode_return"] == 0.1
    assert [(row["update"], row["seed"]) for row in rows] == [(5, 0), (5, 1), (10, 0), (10, 1)]
    back = read_metrics(writer.directory)
    np.testing.assert_array_equal(back["env_steps"], [50, 100])
    np.testing.assert_array_equal(back["episode_return"], [[np.nan, 0.1], [2.0, np.nan]])


def test_what_is_written_can_be_read_at_any_moment(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        assert read_metrics(writer.directory)["env_steps"].shape == (0,)
        writer.rows(1, 10, metrics(1.0, 2.0))
        assert read_metrics(writer.directory)["episode_return"].tolist() == [[1.0, 2.0]]
        writer.file.write(b'{"update": 2, "env_steps": 20, "seed": 0, "episode_return": 3.0, "episodes": 0}\n{"upd')
        assert read_metrics(writer.directory)["episode_return"].tolist() == [[1.0, 2.0]]


def test_json_is_whole_or_not_there(tmp_path):
    with RunWriter.create(tmp_path / "run", {"a": 1}) as writer:
        with pytest.raises(TypeError):
            writer.json("config.json", {"a": 2, "b": object()})
        writer.json("summary.json", {"ci95": [math.nan, 1.0], "device": {"x": math.inf}})
    assert json.loads((writer.directory / "config.json").read_text()) == {"a": 1}
    assert json.loads((writer.directory / "summary.json").read_text()) == {"ci95": [None, 1.0], "device": {"x": None}}


@pytest.mark.parametrize("name", FILES)
def test_a_directory_that_holds_a_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("precious")
    for refuse in (lambda: check_free(tmp_path), lambda: RunWriter.create(tmp_path, {})):
        with pytest.raises(ValueError, match=rf"already holds a run \({name}\); give another --run-dir"):
            refuse()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_other_files_in_the_directory_are_no_obstacle(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with RunWriter.create(tmp_path, {}):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_of_two_runs_at_once_one_is_refused(tmp_path, monkeypatch):
    looks = []  # the second looked before the first wrote: what it saw first was a free directory
    monkeypatch.setattr("jaxpg.lab.store.writers.check_free", lambda path: looks.pop()(path) if looks else check_free(path))
    with RunWriter.create(tmp_path, {"first": True}):
        before = files(tmp_path)
        looks.append(lambda path: None)
        with pytest.raises(ValueError, match="is being written by another process; wait for it, or stop it"):
            RunWriter.create(tmp_path, {"first": False})
        assert files(tmp_path) == before
    looks.append(lambda path: None)
    with pytest.raises(ValueError, match=r"already holds a run \(.*metrics.jsonl\)"):  # the first is over, its files are there
        RunWriter.create(tmp_path, {"first": False})
    assert files(tmp_path) == before
    assert json.loads(before["config.json"]) == {"first": True}


def test_a_run_has_one_writer_at_a_time_who_appends(tmp_path):
    def another():
        with pytest.raises(ValueError, match="is being written by another process") as caught:
            RunWriter.reopen(tmp_path / "run")
        assert str(tmp_path / "run") in str(caught.value)
        assert "\n" not in str(caught.value)

    with RunWriter.create(tmp_path / "run", {"a": 1}) as writer:
        writer.rows(1, 10, metrics(1.0))
        another()
    with RunWriter.reopen(tmp_path / "run") as writer:
        another()
        writer.rows(2, 20, metrics(2.0))
        writer.sync()
    assert read_metrics(tmp_path / "run")["episode_return"].tolist() == [[1.0], [2.0]]
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"a": 1}
    assert sorted(files(tmp_path / "run")) == [LOCK, "config.json", "metrics.jsonl"]


def test_a_writer_that_was_refused_holds_no_lock(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"run_dir = \S+ cannot be written: Is a directory"):
        RunWriter.reopen(tmp_path)
    (tmp_path / "metrics.jsonl").rmdir()
    with RunWriter.reopen(tmp_path):
        pass


def test_what_was_cut_off_is_written_again(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        for update in (1, 2):
            writer.rows(update, 10 * update, metrics(1.0 * update, 2.0))
    whole = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with RunWriter.reopen(tmp_path / "run") as writer:
        (_, size), _ = whole_log_points(tmp_path / "run", [1, 2], 2)
        writer.cut(size)
        assert read_metrics(tmp_path / "run")["env_steps"].tolist() == [10.0]
        writer.rows(2, 20, metrics(2.0, 2.0))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == whole


@pytest.mark.parametrize("what", ["file", "directory"])
def test_rows_that_nobody_could_read_are_an_error(tmp_path, what):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        writer.rows(1, 10, metrics(1.0))
        if what == "file":
            (tmp_path / "run" / "metrics.jsonl").unlink()
        else:
            shutil.rmtree(tmp_path / "run")
        with pytest.raises(FileNotFoundError, match="it was removed under way") as caught:
            writer.rows(2, 20, metrics(2.0))
    assert caught.value.filename == str(tmp_path / "run" / "metrics.jsonl")


def line(update, seed):
    return json.dumps({"update": update, "env_steps": 10 * update, "seed": seed, "entropy": 0.5}).encode() + b"\n"


ROWS = [line(update, seed) for update in (2, 4, 5) for seed in range(3)]
DAMAGED = {  # what is in the file, and how many of its three log points are whole
    "nothing": (b"", 0),
    "all": (b"".join(ROWS), 3),
    "more than was asked for": (b"".join([*ROWS, line(6, 0)]), 3),
    "a row missing at the end": (b"".join(ROWS[:-1]), 2),
    "a row missing within": (b"".join([*ROWS[:4], *ROWS[5:]]), 1),
    "a log point missing": (b"".join([*ROWS[:3], *ROWS[6:]]), 1),
    "the first missing": (b"".join(ROWS[3:]), 0),
    "a row twice": (b"".join([*ROWS[:4], *ROWS[3:]]), 1),
    "a log point twice": (b"".join([*ROWS[:3], *ROWS]), 1),
    "rows exchanged": (b"".join([*ROWS[:4], ROWS[5], ROWS[4], *ROWS[6:]]), 1),
    "no end of the last line": (b"".join(ROWS)[:-1], 2),
    "an empty line": (b"".join([*ROWS[:6], b"\n", *ROWS[6:]]), 2),
    "zeros, as after a power cut": (b"".join(ROWS[:5]) + bytes(200), 1),
    "no text": (b"".join(ROWS[:6]) + b"\xff\xfe\n", 2),
    "no object": (b"".join(ROWS[:6]) + b"[5, 0]\n", 2),
    "an object without an update": (b"".join(ROWS[:6]) + b'{"seed": 0}\n', 2),
    "one that is deep": (b"".join(ROWS[:6]) + b"[" * 10**5 + b"\n", 2),
}


def found_whole(directory, content):
    (directory / "metrics.jsonl").write_bytes(content)
    return list(whole_log_points(directory, [2, 4, 5], 3))


SIZES = [(update, sum(map(len, ROWS[: 3 * (i + 1)]))) for i, update in enumerate((2, 4, 5))]


@pytest.mark.parametrize("name", DAMAGED)
def test_log_points_count_up_to_the_first_gap(name, tmp_path):
    content, whole = DAMAGED[name]
    assert found_whole(tmp_path, content) == SIZES[:whole]


@given(st.integers(0, sum(map(len, ROWS))))
def test_a_file_that_was_torn_anywhere_has_the_log_points_before(tmp_path_factory, size):
    directory = tmp_path_factory.getbasetemp()
    assert found_whole(directory, b"".join(ROWS)[:size]) == [point for point in SIZES if point[1] <= size]


def test_a_path_where_no_directory_can_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_free(tmp_path / "file" / "run")


@pytest.mark.parametrize("x", [0.1, 1e-8, 123456.79, 1 / 3, -0.0])
def test_numbers_are_short_and_lose_nothing(x):
    [number] = plain(np.array([x], np.float32))
    assert np.float32(number) == np.float32(x)
    assert len(repr(number)) <= 13


@contextlib.contextmanager
def unprivileged():
    """Root may write everything, so it becomes somebody else for a moment."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_may_not_be_written_is_refused_and_left_as_it_is(tmp_path):
    directory = tmp_path / "run"
    with RunWriter.create(directory, {"algo": "ppo"}) as writer:
        writer.rows(1, 64, {"entropy": np.ones(2)})
    for path in (directory, directory / "metrics.jsonl", directory / ".lock"):
        path.chmod(0o555)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    before = {path: path.read_bytes() for path in directory.iterdir()}
    with unprivileged():
        with pytest.raises(ValueError, match="cannot be written"):
            RunWriter.reopen(directory)
        with pytest.raises(ValueError, match="cannot be written"):
            RunWriter.create(directory / "new", {"algo": "ppo"})
    directory.chmod(0o755)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
