"""Disks that are full, read-only or gone, while a run goes on."""

import json
import shutil
import signal
import time

import pytest

RUN = ["train", "a2c", "--seeds", "2", "--eval-episodes", "2", "--num-envs", "2", "--num-steps", "8", "--log-every", "100"]
LARGE = [*RUN, "--hidden", "256", "256", "--total-steps", "32000"]  # a checkpoint of some megabytes, a log of some kilobytes


def limit(size):
    """No file may grow beyond ``size`` bytes: the disk is full."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def ended(process, log, code=0):
    assert process.wait(240) == code, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    return text


def rows(directory):
    return (directory / "metrics.jsonl").read_text().splitlines()


def summary(directory):
    found = json.loads((directory / "summary.json").read_text())
    return found["digest"], found["greedy_return"], found["diverged"]


@pytest.fixture(scope="module")
def whole(jaxpg_process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    ended(jaxpg_process([*LARGE, "--run-dir", folder / "run"], folder / "log"), folder / "log")
    return folder / "run"


def stopped(jaxpg_process, log, directory):
    """A run that was stopped after its first rows; the update that was saved."""
    process = jaxpg_process([*LARGE, "--run-dir", directory], log)
    while not (directory / "metrics.jsonl").exists() or not rows(directory):
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended(process, log, 128 + signal.SIGTERM)
    (step,) = (path.name for path in (directory / "checkpoints").iterdir())
    return step


def test_without_room_for_checkpoints_training_goes_on(whole, jaxpg_process, tmp_path):
    """What was saved before stays as it is, and each failure is said; the run itself ends well."""
    log, directory = tmp_path / "log", tmp_path / "run"
    step = stopped(jaxpg_process, log, directory)
    before = {path: path.read_bytes() for path in (directory / "checkpoints" / step).rglob("*") if path.is_file()}
    text = ended(jaxpg_process(["resume", directory], log, first=limit(500_000)), log)
    assert "was not saved" in text
    assert "what was saved before stays" in text
    assert {path: path.read_bytes() for path in before} == before
    assert rows(directory) == rows(whole)
    assert summary(directory) == summary(whole)


def test_without_room_for_the_log_the_run_ends_and_can_go_on(whole, jaxpg_process, tmp_path):
    """A row that cannot be written is not passed over in silence."""
    log, directory = tmp_path / "log", tmp_path / "run"
    stopped(jaxpg_process, log, directory)
    text = ended(jaxpg_process(["resume", directory], log, first=limit(10_000)), log, code=1)
    (error,) = (line for line in text.splitlines() if "error" in line)
    assert "File too large" in error
    assert f"jaxpg resume {directory} goes on from there" in error
    ended(jaxpg_process(["resume", directory], log), log)
    assert rows(directory) == rows(whole)
    assert summary(directory) == summary(whole)


@pytest.mark.parametrize("what", ["checkpoints", "everything"])
def test_removed_under_way(what, whole, jaxpg_process, tmp_path):
    """Checkpoints are made anew; a run without its directory ends, and makes no directory of half a run."""
    log, directory = tmp_path / "log", tmp_path / "run"
    process = jaxpg_process([*LARGE, "--checkpoint-every", "0.1", "--run-dir", directory], log)
    while "is saved" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    shutil.rmtree(directory / "checkpoints" if what == "checkpoints" else directory, ignore_errors=True)
    if what == "checkpoints":
        ended(process, log)
        assert summary(directory) == summary(whole)
    else:
        text = ended(process, log, code=1)
        assert "removed under way" in text.splitlines()[-1]
        assert not (directory / "config.json").exists()
