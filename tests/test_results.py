"""Results as arrays, and what lies on the disk between them."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from scipy.stats import trim_mean

from jaxpg.lab.engine.stopping import Stopped
from jaxpg.lab.store import results, writers
from jaxpg.lab.store.results import Part
from jaxpg.training import COUNTS

# Two CPU devices whatever the machine, and compilation in the least time: later versions have not all of its options.
QUICK = ["--xla_backend_optimization_level=0", *["--xla_cpu_use_fusion_emitters=false"] * (jax.__version_info__ < (0, 11))]
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    "XLA_FLAGS": " ".join(QUICK),
    "COLUMNS": "120",
}
SETTINGS = [{"num_envs": 4}, {"num_envs": 2}, {"num_envs": 1}]


def part(runs, points, diverged=()):
    """Runs whose metrics say which run and which log point they are: ``100 * run + point``."""
    runs = np.array(runs)
    entropy = 100.0 * runs[:, None] + np.arange(points)
    metrics = {"entropy": entropy, "episode_return": np.where(np.arange(points) == 0, np.nan, -entropy)}
    lost = np.isin(runs, diverged)
    returns = {"greedy_return": np.where(lost, np.nan, 1.0 * runs), "sampled_return": np.where(lost, np.nan, runs + 0.5)}
    return Part(runs, 10.0 * np.arange(1, points + 1), metrics, returns, np.where(lost, 10 + runs, 0))


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


@pytest.mark.parametrize("order", [1, -1])
def test_parts_join_in_any_order_and_what_is_missing_is_nan(order):
    found = results.join("name", {"seeds": 2}, SETTINGS, 2, PARTS[::order])
    assert (found.name, found.config, found.settings) == ("name", {"seeds": 2}, SETTINGS)
    check(found)


def test_a_return_of_a_run_that_diverged_is_nan_whatever_the_part_says():
    lying = Part(np.array([0, 1]), np.array([10.0]), {}, {"greedy_return": np.array([9.0, 8.0])}, np.array([1, 0]))
    found = results.join("name", {}, [{}], 2, [lying])
    np.testing.assert_array_equal(found.returns["greedy_return"], [[np.nan, 8.0]])
    assert found.diverged_at.tolist() == [[1, 0]]


def test_a_sweep_without_any_part_has_settings_and_nothing_else():
    found = results.join("name", {}, SETTINGS, 2, [])
    assert (found.env_steps.shape, found.metrics, found.returns) == ((3, 0), {}, {})
    assert (found.diverged_at.shape, found.diverged.shape, found.diverged.any()) == ((3, 2), (3, 2), False)


def write_sweep(directory, parts=PARTS):
    config = {"algo": "ppo", "env": "CartPole-v1", "seeds": 2, "settings": SETTINGS}
    (directory / "config.json").write_text(json.dumps(config))
    for each in parts:
        results.write_part(directory, each)
    return config


def test_a_part_is_read_as_it_was_written(tmp_path):
    write_sweep(tmp_path, PARTS[::-1])
    back = results.read_parts(tmp_path)
    assert [list(each.runs) for each in back] == [[0, 1], [2, 3], [5]]
    for one, two in zip(PARTS, back, strict=True):
        for name in ("runs", "env_steps", "diverged_at"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert getattr(one, name).dtype == getattr(two, name).dtype
        for kind in ("metrics", "returns"):
            assert getattr(one, kind).keys() == getattr(two, kind).keys()
            for name, values in getattr(one, kind).items():
                np.testing.assert_array_equal(values, getattr(two, kind)[name])


def test_a_sweep_is_read_whole_or_in_part(tmp_path):
    directory = tmp_path / "sweep"
    directory.mkdir()
    config = write_sweep(directory)
    found = results.read(directory)
    assert (found.name, found.config, found.settings) == ("sweep", config, SETTINGS)
    check(found)
    (directory / "parts" / "0000002.npz").unlink()
    left = results.read(str(directory)).returns["greedy_return"]
    np.testing.assert_array_equal(left, [[0, 1], [np.nan, np.nan], [np.nan, 5]])


def test_a_part_whose_writer_was_stopped_is_not_seen_and_may_be_written_again(tmp_path, monkeypatch):
    write_sweep(tmp_path, PARTS[1:])

    def stopped(*_, **__):
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(results.os, "replace", stopped)
        with pytest.raises(Stopped):
            results.write_part(tmp_path, PARTS[0])
    unfinished = tmp_path / "parts" / ".0000000.part"
    unfinished.write_bytes(unfinished.read_bytes()[:100])
    assert [list(each.runs) for each in results.read_parts(tmp_path)] == [[2, 3], [5]]
    results.write_part(tmp_path, PARTS[0])
    check(results.read(tmp_path))
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["0000000.npz", "0000002.npz", "0000005.npz"]


def write_run(directory, points=3):
    """A run of three seeds as ``jaxpg train`` writes it; the second diverges."""
    config = {"algo": "ppo", "env": "CartPole-v1", "seeds": 3, "options": {}}
    with writers.RunWriter.create(directory, config) as writer:
        for i in range(1, points + 1):
            writer.rows(i, 64 * i, {"entropy": np.array([i, np.nan, i + 0.5]), "episodes": np.array([i, i, i])})
    return config


def test_a_run_of_jaxpg_train_is_one_setting_that_varies_nothing(tmp_path):
    config = write_run(tmp_path / "run")
    scores = {
        name: {"mean": np.nan, "per_seed": [start, np.nan, start + 1]}
        for name, start in (("greedy_return", 9.0), ("sampled_return", 7.0))
    }
    writers.write_json(tmp_path / "run" / "summary.json", scores | {"diverged": [{"seed": 1, "update": 2}]})
    found = results.read(tmp_path / "run")
    assert (found.name, found.config, list(found.settings)) == ("run", config, [{}])
    np.testing.assert_array_equal(found.env_steps, [[64, 128, 192]])
    np.testing.assert_array_equal(found.metrics["entropy"], [[[1, 2, 3], [np.nan] * 3, [1.5, 2.5, 3.5]]])
    np.testing.assert_array_equal(found.metrics["episodes"], [[[1, 2, 3]] * 3])
    np.testing.assert_array_equal(found.returns["greedy_return"], [[9, np.nan, 10]])
    np.testing.assert_array_equal(found.returns["sampled_return"], [[7, np.nan, 8]])
    assert found.diverged_at.tolist() == [[0, 2, 0]]
    assert found.diverged.tolist() == [[False, True, False]]


@pytest.mark.parametrize("points", [0, 2])
def test_a_run_that_goes_on_has_curves_and_no_returns_yet(tmp_path, points):
    write_run(tmp_path / "run", points)
    found = results.read(tmp_path / "run")
    assert found.env_steps.shape == (1, points)
    for values in found.returns.values():
        np.testing.assert_array_equal(values, [[np.nan] * 3])
    assert found.diverged.tolist() == [[False] * 3]
    assert all(values.shape == (1, 3, points) for values in found.metrics.values())


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", "{}", '{"algo": "ppo", "env": "CartPole-v1"}'])
def test_a_directory_without_a_run_is_refused_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"holds no run: config\.json") as caught:
        results.read(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_directory_at_all_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere holds no run: config\.json cannot be read"):
        results.read(tmp_path / "nowhere")


def command(directory, hidden="8"):
    """``jaxpg sweep`` of two programs, of which the larger learning rate makes some runs diverge."""
    vary = ["--vary", "learning_rate=1e-3,1e38", "--vary", "num_envs=4,8"]
    sizes = ["--num-steps", "16", "--hidden", hidden, "--eval-episodes", "4", "--total-steps", "512"]
    arguments = ["-m", "jaxpg", "sweep", "a2c", "--seeds", "3", *vary, *sizes, "--run-dir", str(directory)]
    done = subprocess.run([sys.executable, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def check_summary(summary, found):
    """A row for each setting; its statistics are those of its scores."""
    assert (summary["env"], summary["algo"], summary["num_seeds"], summary["programs"]) == ("CartPole-v1", "a2c", 3, 2)
    settings = [{"learning_rate": rate, "num_envs": num_envs} for rate in (1e-3, 1e38) for num_envs in (4, 8)]
    assert [row["setting"] for row in summary["settings"]] == settings == found.settings
    assert [row["env_steps_per_seed"] for row in summary["settings"]] == [512] * 4
    assert found.diverged[2:].any()
    assert not found.diverged[:2].any()
    for i, row in enumerate(summary["settings"]):
        for name in ("greedy_return", "sampled_return"):
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


def check_log(found):
    """Every update is a log point; of a run that diverged there is nothing from then on, and of all others everything."""
    updates = np.arange(1, found.env_steps.shape[1] + 1)
    there = ~np.isnan(found.env_steps)[:, None]
    good = there & ((found.diverged_at[..., None] == 0) | (updates < found.diverged_at[..., None]))
    assert (found.diverged_at <= there.sum(axis=-1)).all()
    np.testing.assert_array_equal(np.isfinite(found.metrics["policy_loss"]), good)
    for name in COUNTS:
        assert not found.metrics[name][there & ~good].any()
    np.testing.assert_array_equal(
        found.metrics["sampled_steps"][good], np.broadcast_to([[[64]], [[128]]] * 2, good.shape)[good]
    )


def test_the_command_line_sweeps_takes_up_what_is_missing_and_refuses_another_sweep(tmp_path):
    directory = tmp_path / "sweep"
    code, out, err = command(directory)
    assert code == 0, err
    assert "Traceback" not in err
    assert "Warning" not in err
    assert str(directory) in out
    assert "program 1 of 2, num_envs = 4: 6 runs to do" in err
    assert "program 2 of 2, num_envs = 8: 6 runs to do" in err
    assert err.count("plan: 6 runs on 2 devices at once") == 2
    files = contents(directory)
    written = {"config.json", "summary.json", "curves.png", "sensitivity_learning_rate.png", "sensitivity_num_envs.png"}
    assert files.keys() == written | {".lock-0", "parts/0000000.npz", "parts/0000003.npz"}
    assert not list((directory / "checkpoints").iterdir()), "what is finished needs no checkpoint"
    found, summary = results.read(directory), json.loads(files["summary.json"])
    check_summary(summary, found)
    np.testing.assert_array_equal(found.env_steps, [[*range(64, 513, 64)], [*range(128, 513, 128), *[np.nan] * 4]] * 2)
    check_log(found)

    (directory / "parts" / "0000003.npz").unlink()
    code, _, err = command(directory)
    assert code == 0, err
    assert "program 1 of 2, num_envs = 4: 0 runs to do" in err
    assert "program 2 of 2, num_envs = 8: 6 runs to do" in err
    assert err.count("plan: ") == 1
    again = contents(directory)
    assert again["parts/0000000.npz"] == files["parts/0000000.npz"]
    assert json.loads(again["summary.json"])["settings"] == summary["settings"]
    for name, values in results.read(directory).metrics.items():
        np.testing.assert_array_equal(values, found.metrics[name])

    code, out, err = command(directory, hidden="9")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "holds another sweep: options is hidden = [8] there and hidden = [9] here; give another --run-dir" in err
    assert contents(directory) == again
