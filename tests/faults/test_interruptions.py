"""Runs that are killed and stopped at random moments, again and again: they end as if nothing had happened."""

import json
import random
import re
import signal
import time

import pytest

from jaxpg.lab.store import checkpoint

SMALL = ["--seeds", "2", "--hidden", "8", "--eval-episodes", "2", "--log-every", "50"]
CONTINUING = [*SMALL, "--num-envs", "2", "--num-steps", "8", "--total-steps", "320000"]  # 20,000 updates
EPISODIC = [*SMALL, "--num-envs", "2", "--total-steps", "2000000"]  # 2,000 updates
# What to run, and how often it is killed: 26 times in all.
RUNS = {
    "reinforce": (["train", "reinforce", *EPISODIC], 4),
    "reinforce_baseline": (["train", "reinforce_baseline", *EPISODIC], 4),
    "actor_critic": (["train", "actor_critic", *CONTINUING], 4),
    "a2c": (["train", "a2c", "--env", "Pendulum-v1", "--observation", "running", *CONTINUING], 4),
    "ppo": (["train", "ppo", *CONTINUING, "--epochs", "1", "--minibatches", "2"], 6),
    "trpo": (["train", "trpo", *CONTINUING, "--epochs", "1", "--minibatches", "1"], 4),
}
TIMES = {"compile_seconds", "train_seconds", "env_steps_per_second"}
SAVED = re.compile(r"^update ([\d,]+) is saved$", re.MULTILINE)


def summary(directory):
    found = json.loads((directory / "summary.json").read_text())
    return {name: value for name, value in found.items() if name not in TIMES}


@pytest.fixture(scope="module")
def whole(jaxpg_process, tmp_path_factory):
    """The run of each name, uninterrupted."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            process = jaxpg_process([*RUNS[name][0], "--run-dir", folder / "run"], folder / "log")
            assert process.wait(300) == 0, (folder / "log").read_text()
            made[name] = folder / "run"
        return made[name]

    return run


def whole_rows(directory, reference):
    """The rows are those of the uninterrupted run, none missing and none twice, up to a torn last one; how many bytes."""
    rows = (directory / "metrics.jsonl").read_bytes()
    assert reference.startswith(rows), "rows that the uninterrupted run does not have"
    return len(rows)


def begun(process, log):
    """The process trains."""
    while "training" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)


def ended(directory, reference):
    assert (directory / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()
    assert summary(directory) == summary(reference)  # the digest of all arrays is in it


@pytest.mark.parametrize("name", RUNS)
def test_killed_again_and_again(name, whole, jaxpg_process, tmp_path):
    reference = whole(name)
    rows = (reference / "metrics.jsonl").read_bytes()
    arguments, kills = RUNS[name]
    directory, log, chance = tmp_path / "run", tmp_path / "log", random.Random(name)
    command = [*arguments, "--checkpoint-every", "0.2", "--run-dir", directory]
    for kill in range(kills):
        process = jaxpg_process(command, log)
        if kill % 4 == 3:  # wherever it is: importing, tracing, compiling
            time.sleep(chance.uniform(0.0, 4.0))
        else:
            begun(process, log)
            time.sleep(chance.uniform(0.0, 1.5))
        assert process.poll() is None, f"it ended before kill {kill + 1}: {log.read_text()}"
        process.kill()
        process.wait()
        if directory.exists():
            whole_rows(directory, rows)
            command = ["resume", directory]
        announced = [int(step.replace(",", "")) for step in SAVED.findall(log.read_text())]
        if announced:
            assert max(checkpoint.steps(directory / "checkpoints")) >= announced[-1], "a step that was announced is missing"
            assert (directory / "checkpoints" / str(announced[-1]) / checkpoint.SEAL).exists()
    process = jaxpg_process(command, log)
    assert process.wait(300) == 0, log.read_text()
    ended(directory, reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda s: s.name)
def test_stopped_at_ten_random_chunks(number, whole, jaxpg_process, tmp_path):
    """Each time it ends with 128 + the signal, and not one update that was finished is done again."""
    reference = whole("ppo")
    rows = (reference / "metrics.jsonl").read_bytes()
    directory, log, chance = tmp_path / "run", tmp_path / "log", random.Random(number)
    command = [*RUNS["ppo"][0], "--checkpoint-every", "0", "--run-dir", directory]
    before = stops = 0
    while stops < 10:
        process = jaxpg_process(command, log)
        begun(process, log)
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(number)
        assert process.wait(60) == 128 + number, log.read_text()
        text = log.read_text()
        assert "Traceback" not in text
        assert f"interrupted ({number.name})" in text
        if "finishing the updates in flight" not in text:  # it came before the first chunk: there was nothing to save
            assert not SAVED.search(text)
            continue
        (step,) = (int(step.replace(",", "")) for step in SAVED.findall(text))
        assert step > before, "it did not get on"
        stops += 1
        logged = (directory / "metrics.jsonl").read_bytes()
        assert rows.startswith(logged)
        last = json.loads(logged.splitlines()[-1])["update"] if logged else 0
        assert last <= step < last + 50, "rows of updates that are not saved, or updates without their rows"
        before, command = step, ["resume", directory]
    process = jaxpg_process(command, log)
    assert process.wait(300) == 0, log.read_text()
    ended(directory, reference)


def test_a_sweep_killed_again_and_again(jaxpg_process, tmp_path):
    from jaxpg.lab.store import results

    command = ["sweep", "a2c", "--vary", "learning_rate=1e-3,1e-2", "--vary", "num_envs=2,4", *SMALL, "--num-steps", "8"]
    command += ["--total-steps", "160000"]
    log, chance = tmp_path / "log", random.Random(0)
    process = jaxpg_process([*command, "--run-dir", tmp_path / "whole"], log)
    assert process.wait(300) == 0, log.read_text()
    killed = tmp_path / "killed"
    again = [*command, "--checkpoint-every", "0.2", "--run-dir", killed]
    for _ in range(4):
        process = jaxpg_process(again, log)
        begun(process, log)
        time.sleep(chance.uniform(0.0, 1.0))
        assert process.poll() is None, log.read_text()
        process.kill()
        process.wait()
    process = jaxpg_process(["resume", killed], log)
    assert process.wait(300) == 0, log.read_text()
    one, two = results.read(tmp_path / "whole"), results.read(killed)
    for kind in ("metrics", "returns"):
        for name, values in getattr(one, kind).items():
            assert values.tobytes() == getattr(two, kind)[name].tobytes(), name
