"""Disks that are full or gone during training, and output that nobody reads."""

import shutil
import signal
import subprocess
import time

import pytest

from tests.faults.test_interruptions import outcome, wait_for

RUN = ["train", "a2c", "--seeds", "2", "--eval-episodes", "2", "--num-envs", "2", "--num-steps", "8", "--log-every", "100"]
LARGE = [*RUN, "--hidden", "256", "256", "--total-steps", "32000"]  # a checkpoint of some megabytes, a log of some kilobytes


def limit(size):
    """No file may grow beyond ``size`` bytes: the disk is full."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def ended(process, log, code=0):
    assert process.wait(300) == code, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def reference(jaxpg_process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    ended(jaxpg_process([*LARGE, "--run-dir", folder / "run"], folder / "log"), folder / "log")
    return outcome(folder / "run")


def stopped(jaxpg_process, log, directory):
    """An experiment that was stopped after its first rows; the folder of the update that was saved."""
    process = jaxpg_process([*LARGE, "--run-dir", directory], log)
    metrics = directory / "batches" / "0000000" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_bytes():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended(process, log, 128 + signal.SIGTERM)
    (step,) = (directory / "batches" / "0000000" / "checkpoints").iterdir()
    return step


def test_without_space_for_checkpoints_training_continues_and_says_what_is_saved(reference, jaxpg_process, tmp_path):
    """What was saved before stays as it is; the last update is not passed off as saved, and space is all that is missing."""
    log, directory = tmp_path / "log", tmp_path / "run"
    step = stopped(jaxpg_process, log, directory)
    before = {path: path.read_bytes() for path in step.rglob("*") if path.is_file()}
    text = ended(
        jaxpg_process(
            [
                "resume",
                directory,
            ],
            log,
            first=limit(500_000),
        ),
        log,
        code=1,
    )
    assert "was not saved" in text
    assert f"update 2,000 could not be saved (File too large); update {int(step.name):,} is on the disk" in text
    assert {path: path.read_bytes() for path in before} == before
    ended(jaxpg_process(["resume", directory], log), log)
    assert outcome(directory) == reference


def test_asked_to_stop_without_space_the_line_and_the_exit_code_say_so(jaxpg_process, tmp_path):
    log, directory = tmp_path / "log", tmp_path / "run"
    process = jaxpg_process([*LARGE, "--run-dir", directory], log, first=limit(500_000))
    wait_for("training", process, log)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    text = ended(process, log, code=1)
    assert "interrupted (SIGTERM); update" in text
    assert "could not be saved (File too large); no update is on the disk" in text
    assert "what was done is saved" not in text


def test_without_space_for_the_log_training_ends_and_can_continue(reference, jaxpg_process, tmp_path):
    """A row that cannot be written is not passed over in silence."""
    log, directory = tmp_path / "log", tmp_path / "run"
    stopped(jaxpg_process, log, directory)
    text = ended(jaxpg_process(["resume", directory], log, first=limit(10_000)), log, code=1)
    (error,) = (line for line in text.splitlines() if "error" in line)
    assert "File too large" in error
    assert f"jaxpg resume {directory} continues" in error
    ended(jaxpg_process(["resume", directory], log), log)
    assert outcome(directory) == reference


@pytest.mark.parametrize("what", ["checkpoints", "everything"])
def test_removed_under_way(what, reference, jaxpg_process, tmp_path):
    """Checkpoints are made anew; without its directory training ends, and makes no directory of half an experiment."""
    log, directory = tmp_path / "log", tmp_path / "run"
    process = jaxpg_process([*LARGE, "--checkpoint-every", "0.1", "--run-dir", directory], log)
    wait_for("is saved", process, log)
    removed = directory / "batches" / "0000000" / "checkpoints" if what == "checkpoints" else directory
    shutil.rmtree(removed, ignore_errors=True)
    if what == "checkpoints":
        ended(process, log)
        assert outcome(directory) == reference
    else:
        text = ended(process, log, code=1)
        assert "removed during training" in text.splitlines()[-1]
        assert not (directory / "config.json").exists()


@pytest.mark.parametrize("redirection", ["2>&1 | head -n 1", "2>/dev/full", ">/dev/full 2>&1", ">&- 2>&-", "| head -c 1"])
def test_output_that_cannot_be_written_does_not_stop_training(redirection, jaxpg_process, tmp_path):
    """As a user's shell runs it: everything is on the disk, and the exit code is that of success."""
    import os
    import sys
    from pathlib import Path

    command = [str(Path(sys.executable).with_name("jaxpg")), *RUN, "--total-steps", "1600", "--hidden", "4"]
    words = " ".join([*command, "--run-dir", str(tmp_path / "run")])
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_NUM_CPU_DEVICES": "2"}
    script = f"set -o pipefail; {words} {redirection}"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "Exception" not in done.stderr + done.stdout
    assert (tmp_path / "run" / "summary.json").exists()
    assert (tmp_path / "run" / "curves.png").exists()
