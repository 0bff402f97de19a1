"""Interrupted and resumed is uninterrupted, bit for bit; and everything that a stored run is good for."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from jaxpg.lab.store.writers import read_metrics

import jaxpg
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.store import results

SMALL = ["--num-envs", "4", "--num-steps", "16", "--hidden", "8", "--eval-episodes", "4"]
RUN = ["train", "ppo", "--seeds", "3", "--log-every", "7", "--anneal", *SMALL]  # nothing is annealed
STEPS = 64 * 300
TIMES = {"compile_seconds", "train_seconds", "env_steps_per_second", "seconds"}


def done(process, log, code=0, timeout=240):
    assert process.wait(timeout) == code, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    return text


def until(process, log, text, timeout=120):
    """Wait for a line."""
    deadline = time.monotonic() + timeout
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def summary(directory):
    """All of ``summary.json`` but what a clock measured."""
    found = json.loads((directory / "summary.json").read_text())
    assert TIMES & found.keys()
    return {name: value for name, value in found.items() if name not in TIMES}


def assert_same(one, two):
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert summary(one) == summary(two)


@pytest.fixture(scope="module")
def whole(jaxpg_process, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = [*RUN, "--total-steps", STEPS, "--run-dir", folder / "run"]
    text = done(jaxpg_process(arguments, folder / "log"), folder / "log")
    assert "update 300 is saved" in text
    return folder / "run"


def test_killed_moved_and_resumed_elsewhere_is_the_same_run(whole, jaxpg_process, tmp_path):
    """SIGKILL in the middle; the directory is moved; another working directory, and a relative path to it."""
    log = tmp_path / "log"
    arguments = [*RUN, "--total-steps", STEPS, "--checkpoint-every", "0.05", "--run-dir", tmp_path / "here"]
    process = jaxpg_process(arguments, log)
    until(process, log, "is saved")
    process.kill()
    process.wait()
    announced = max(int(line.split()[1].replace(",", "")) for line in log.read_text().splitlines() if line.endswith("is saved"))
    assert 0 < announced < 300
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "here", tmp_path / "elsewhere" / "moved")
    text = done(jaxpg_process(["resume", "moved"], log, cwd=tmp_path / "elsewhere"), log)
    assert "not bit for bit" not in text
    assert_same(tmp_path / "elsewhere" / "moved", whole)


def test_a_signal_saves_what_was_done(whole, jaxpg_process, tmp_path):
    """The others, and at random moments: tests/faults."""
    number = signal.SIGTERM
    log, directory = tmp_path / "log", tmp_path / "run"
    arguments = [*RUN, "--total-steps", STEPS, "--checkpoint-every", "0", "--run-dir", directory]
    process = jaxpg_process(arguments, log)
    while not (directory / "metrics.jsonl").exists() or not (directory / "metrics.jsonl").stat().st_size:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    text = done(process, log, 128 + number)
    assert text.splitlines()[-1] == (
        f"jaxpg: interrupted ({number.name}); what was done is saved; jaxpg resume {directory} goes on"
    )
    step = max(int(path.name) for path in (directory / "checkpoints").iterdir())
    assert f"update {step} is saved" in text
    assert read_metrics(directory)["update"].max() <= step, "an update that was finished is lost"
    done(jaxpg_process(["resume", directory], log), log)
    assert_same(directory, whole)


def test_before_anything_was_written_there_is_nothing_to_resume(jaxpg_process, tmp_path):
    log, directory = tmp_path / "log", tmp_path / "run"
    process = jaxpg_process([*RUN, "--run-dir", directory], log)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (128 + signal.SIGTERM, -signal.SIGTERM)  # Python itself may not have been there yet
    assert not directory.exists()


def test_a_second_ctrl_c_stops_at_once(jaxpg_process, tmp_path):
    """Also where the first is waiting for a chunk."""
    log, directory = tmp_path / "log", tmp_path / "run"
    process = jaxpg_process([*RUN, "--total-steps", "1e7", "--run-dir", directory], log)
    until(process, log, "training")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.wait(5) == 130
    assert "stopped at once" in log.read_text() or "interrupted (SIGINT)" in log.read_text()


def test_further_than_planned_is_what_was_planned_so_from_the_start(whole, jaxpg_process, tmp_path, capsys):
    """Without annealing: 170 updates, then up to 300. The one odd row at 170 is gone."""
    log, directory = tmp_path / "log", tmp_path / "run"
    done(jaxpg_process([*RUN, "--total-steps", 64 * 170, "--run-dir", directory], log), log)
    assert read_metrics(directory)["update"].max() == 170
    done(jaxpg_process(["resume", directory, "--total-steps", STEPS], log), log)
    assert_same(directory, whole)
    assert json.loads((directory / "config.json").read_text())["options"]["total_steps"] == STEPS
    before = (directory / "metrics.jsonl").read_bytes()
    assert cli.main(["resume", str(directory)]) == 0
    assert "is finished; more with --total-steps" in capsys.readouterr().err
    assert (directory / "metrics.jsonl").read_bytes() == before


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def test_a_damaged_checkpoint_and_a_torn_log_are_named_and_made_good(copy, whole, jaxpg_process, tmp_path):
    """The run was killed in its last moments: no summary, a torn row, and then the disk lost the newest checkpoint's end."""
    (copy / "summary.json").unlink()
    with open(copy / "metrics.jsonl", "rb+") as file:
        file.truncate((copy / "metrics.jsonl").stat().st_size - 30)
    text = done(jaxpg_process(["resume", copy], tmp_path / "log"), tmp_path / "log")
    assert "the checkpoint of update 300 was put aside in damaged/: it is later than what was logged" in text
    assert_same(copy, whole)


def test_what_else_computes_is_named(copy, jaxpg_process, tmp_path):
    """The bits depend on it, so the user is told; the run goes on nevertheless."""
    (copy / "summary.json").unlink()
    path = copy / "checkpoints" / "300" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["meta"]["machine"]["versions"]["jax"] = "0.9.9"
    path.write_text(json.dumps(meta))
    from jaxpg.lab.store import checkpoint

    (path.parents[1] / checkpoint.SEAL).write_text(checkpoint.checksums(path.parents[1]))
    text = done(jaxpg_process(["resume", copy], tmp_path / "log"), tmp_path / "log")
    assert f"jax was 0.9.9 and is {jax.__version__}; the run goes on, but not bit for bit as it would have" in text


def test_only_one_may_write_a_directory(copy, jaxpg_process, tmp_path):
    (copy / "summary.json").unlink()
    from jaxpg.lab.engine.stopping import alone

    with alone(copy):
        text = done(jaxpg_process(["resume", copy], tmp_path / "log"), tmp_path / "log", code=2)
    assert text == f"jaxpg: error: run_dir = {copy} is being written by another process; wait for it, or stop it\n"


@pytest.mark.parametrize(("arguments", "words"), [
    (["resume"], "missing"), (["resume", "nowhere"], "config.json cannot be read"), (["evaluate", "nowhere"], "cannot be read"),
    (["resume", "{run}", "--total-steps", "10"], "fewer"), (["resume", "{run}", "--total-step", "10"], "did you mean"),
    (["evaluate", "{run}", "--step", "7"], "checkpoints of the updates"), (["evaluate", "{run}", "--episodes", "x"], "whole"),
    (["evaluate", "{run}", "--greedy", "--sampled"], "one of them"), (["resume", "{run}", "more"], "unexpected"),
    (["evaluate", "{run}", "--episodes", "-3"], "at least"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(whole, arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([text.format(run=whole) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("change", [
    {"env": "../../etc"}, {"algo": "../ppo"}, {"options": [1]}, {"options": {"hidden": {"a": 1}}}, {"seeds": [3]},
    {"seed": None},
    {"options": None}, {"vary": 3, "settings": []}, {"vary": {"gamma": "x"}, "settings": []}, {"seeds": 10**30}, {"env": 3},
])  # fmt: skip
def test_a_configuration_that_was_made_by_hand_is_refused_in_one_line(copy, change, capsys):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = sorted(copy.rglob("*"))
    for command in ("resume", "evaluate"):
        assert cli.main([command, str(copy)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("jaxpg: error: ")
        assert error.count("\n") == 1
    assert sorted(copy.rglob("*")) == before


def test_an_evaluation_is_that_of_the_summary(whole, jaxpg_process, tmp_path):
    text = done(jaxpg_process(["evaluate", whole], tmp_path / "log"), tmp_path / "log")
    scores = summary(whole)
    for name in ("greedy", "sampled"):
        (line,) = (line for line in text.splitlines() if f"│ {name}" in line)
        assert f"{scores[f'{name}_return']['mean']:.1f}" in line
    assert "after update 300" in text
    text = done(jaxpg_process(["evaluate", whole, "--episodes", "2", "--greedy"], tmp_path / "log"), tmp_path / "log")
    assert "sampled" not in text
    assert "after update 300, 2 episodes each" in text


def test_a_policy_acts_outside(whole):
    act = jaxpg.load_policy(whole, seed=2)
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    greedy = act(obs)
    assert isinstance(greedy, np.ndarray)
    assert set(np.unique(greedy)) == {0, 1}
    assert [int(act(x)) for x in obs] == greedy.tolist(), "one observation, or many"
    assert act(obs.astype(np.float64)).tolist() == greedy.tolist()
    assert isinstance(jax.jit(act)(jax.numpy.asarray(obs)), jax.Array)
    sampled = np.mean([act(obs, key) for key in jax.random.split(jax.random.key(0), 200)], axis=0)
    assert np.mean((sampled > 0.5) == greedy) > 0.9, "the most probable action is the most frequent"
    assert not np.array_equal(jaxpg.load_policy(whole, seed=0)(obs), greedy), "another seed"
    with pytest.raises(ValueError, match="seed = 3"):
        jaxpg.load_policy(whole, seed=3)
    with pytest.raises(ValueError, match="obs has shape"):
        act(np.zeros(5))
    with pytest.raises(ValueError, match="step = 5"):
        jaxpg.load_policy(whole, step=5)


def test_a_sweep_has_no_policies(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vary": {"gamma": [0.9]}, "settings": [{"gamma": 0.9}]}))
    with pytest.raises(ValueError, match="holds a sweep"):
        jaxpg.load_policy(copy)


def test_a_policy_is_not_loaded_from_a_damaged_checkpoint(copy):
    (copy / "checkpoints" / "300" / "params" / "_METADATA").write_text("{}")
    with pytest.raises(ValueError, match="update 300 cannot be used"):
        jaxpg.load_policy(copy, step=300)
    with pytest.warns(UserWarning, match="update 300 cannot be used"), pytest.raises(ValueError, match="no checkpoint"):
        jaxpg.load_policy(copy)


def test_continuous_actions_are_within_their_bounds_and_observations_scaled_as_in_training(jaxpg_process, tmp_path):
    log, directory = tmp_path / "log", tmp_path / "run"
    arguments = ["train", "ppo", "--env", "MountainCarContinuous-v0", "--observation", "running", "--seeds", "2", *SMALL]
    done(jaxpg_process([*arguments, "--total-steps", "640", "--run-dir", directory], log), log)
    act = jaxpg.load_policy(directory)
    obs = np.random.default_rng(0).normal(size=(500, 2))
    sampled = act(obs, jax.random.key(0))
    assert sampled.shape == (500, 1)
    assert sampled.min() == -1.0
    assert sampled.max() == 1.0


def test_a_sweep_that_was_killed_goes_on_within_its_lot(jaxpg_process, tmp_path):
    log = tmp_path / "log"
    arguments = ["sweep", "a2c", "--seeds", "2", "--vary", "learning_rate=1e-3,1e-2", "--num-envs", "2", "--num-steps", "8"]
    arguments += ["--hidden", "8", "--eval-episodes", "4", "--total-steps", "32000"]
    done(jaxpg_process([*arguments, "--run-dir", tmp_path / "whole"], log), log)
    process = jaxpg_process([*arguments, "--checkpoint-every", "0.05", "--run-dir", tmp_path / "killed"], log)
    until(process, log, "is saved")
    process.kill()
    process.wait()
    (lot,) = (tmp_path / "killed" / "checkpoints").iterdir()
    assert max(int(path.name) for path in lot.iterdir() if path.name.isdecimal()) > 0
    done(jaxpg_process(["resume", tmp_path / "killed"], log), log)
    one, two = (results.read(tmp_path / name) for name in ("whole", "killed"))
    np.testing.assert_array_equal(one.env_steps, two.env_steps)
    for kind in ("metrics", "returns"):
        for name, values in getattr(one, kind).items():
            np.testing.assert_array_equal(values, getattr(two, kind)[name], err_msg=name)
    assert summary(tmp_path / "whole") == summary(tmp_path / "killed")
    assert not list((tmp_path / "killed" / "checkpoints").iterdir()), "what is done needs no checkpoint"
