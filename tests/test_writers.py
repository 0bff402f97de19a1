import json
import math

import numpy as np
import pytest

from jaxpg.lab.writers import FILES, RunWriter, check_free, plain, read_metrics


def metrics(*returns):
    return {"episode_return": np.array(returns, np.float32), "episodes": np.arange(len(returns))}


def test_rows_are_json_and_come_back_as_arrays(tmp_path):
    with RunWriter(tmp_path / "deep" / "run", {"algo": "ppo"}) as writer:
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
    with RunWriter(tmp_path / "run", {}) as writer:
        assert read_metrics(writer.directory)["env_steps"].shape == (0,)
        writer.rows(1, 10, metrics(1.0, 2.0))
        assert read_metrics(writer.directory)["episode_return"].tolist() == [[1.0, 2.0]]
        writer.file.write(b'{"update": 2, "env_steps": 20, "seed": 0, "episode_return": 3.0, "episodes": 0}\n{"upd')
        assert read_metrics(writer.directory)["episode_return"].tolist() == [[1.0, 2.0]]


def test_json_is_whole_or_not_there(tmp_path):
    with RunWriter(tmp_path / "run", {"a": 1}) as writer:
        with pytest.raises(TypeError):
            writer.json("config.json", {"a": 2, "b": object()})
        writer.json("summary.json", {"ci95": [math.nan, 1.0], "device": {"x": math.inf}})
    assert json.loads((writer.directory / "config.json").read_text()) == {"a": 1}
    assert json.loads((writer.directory / "summary.json").read_text()) == {"ci95": [None, 1.0], "device": {"x": None}}


@pytest.mark.parametrize("name", FILES)
def test_a_directory_that_holds_a_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("precious")
    for refuse in (lambda: check_free(tmp_path), lambda: RunWriter(tmp_path, {})):
        with pytest.raises(ValueError, match=rf"already holds a run \({name}\); give another --run-dir"):
            refuse()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_other_files_in_the_directory_are_no_obstacle(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with RunWriter(tmp_path, {}):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_of_two_runs_at_once_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxpg.lab.writers.check_free", lambda directory: None)  # both looked before either wrote
    with RunWriter(tmp_path, {"first": True}), pytest.raises(ValueError, match="already holds a run"):
        RunWriter(tmp_path, {"first": False})
    assert json.loads((tmp_path / "config.json").read_text()) == {"first": True}


def test_a_path_where_no_directory_can_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_free(tmp_path / "file" / "run")


@pytest.mark.parametrize("x", [0.1, 1e-8, 123456.79, 1 / 3, -0.0])
def test_numbers_are_short_and_lose_nothing(x):
    [number] = plain(np.array([x], np.float32))
    assert np.float32(number) == np.float32(x)
    assert len(repr(number)) <= 13
