"""Experiments that are killed and stopped at random moments, again and again: they end as if nothing had happened."""

import json
import random
import re
import signal
import time

import pytest

from jaxpg.lab.store import checkpoint

SMALL = ["--seeds", "2", "--hidden", "8", "--eval-episodes", "2", "--log-every", "50", "--log", "tensorboard"]
CONTINUING = [*SMALL, "--num-envs", "2", "--num-steps", "8", "--total-steps", "320000"]  # 20,000 updates
EPISODIC = [*SMALL, "--num-envs", "2", "--total-steps", "2000000"]  # 2,000 updates
SWEEP = [*SMALL, "--num-steps", "8", "--total-steps", "160000"]
# What to train, and how often it is killed: 30 times in all.
EXPERIMENTS = {
    "reinforce": (["train", "reinforce", *EPISODIC], 3),
    "reinforce_baseline": (["train", "reinforce_baseline", *EPISODIC], 3),
    "actor_critic": (["train", "actor_critic", *CONTINUING], 3),
    "a2c": (["train", "a2c", "--env", "Pendulum-v1", "--observation", "running", *CONTINUING], 3),
    "ppo": (["train", "ppo", *CONTINUING, "--epochs", "1", "--minibatches", "2", "--evaluate-every", "4000"], 4),
    "trpo": (["train", "trpo", *CONTINUING, "--epochs", "1", "--minibatches", "1"], 3),
    "traced settings": (["sweep", "a2c", "--vary", "learning_rate=1e-3,1e-2", "--num-envs", "2", *SWEEP], 4),
    "sizes": (["sweep", "a2c", "--vary", "learning_rate=1e-3,1e-2", "--vary", "num_envs=2,4", *SWEEP], 4),
    "shard-envs": (["train", "a2c", "--shard-envs", *CONTINUING], 3),
}
SAVED = re.compile(r"^update ([\d,]+) is saved$", re.MULTILINE)


def outcome(directory):
    """All that must be the same: rows, digests, returns, and the summary, byte for byte."""
    found = {"summary": (directory / "summary.json").read_bytes()}
    for folder in sorted((directory / "batches").iterdir()):
        result = json.loads((folder / "result.json").read_text())
        found[folder.name] = (folder / "metrics.jsonl").read_bytes(), result["digests"], result["returns"]
    return found


@pytest.fixture(scope="module")
def uninterrupted(jaxpg_process, tmp_path_factory):
    """The outcome of each experiment without interruption."""
    made = {}

    def run(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            process = jaxpg_process([*EXPERIMENTS[name][0], "--run-dir", folder / "run"], folder / "log")
            assert process.wait(400) == 0, (folder / "log").read_text()
            made[name] = outcome(folder / "run")
        return made[name]

    return run


def wait_for(text, process, log):
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)


def finish(command, jaxpg_process, log):
    process = jaxpg_process(command, log)
    assert process.wait(400) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def check_rows(directory, reference):
    """The rows on the disk are those of the uninterrupted experiment, none missing and none twice, up to a torn last one."""
    for folder in (directory / "batches").glob("*"):
        if (folder / "metrics.jsonl").exists():
            rows = (folder / "metrics.jsonl").read_bytes()
            assert reference[folder.name][0].startswith(rows), "rows that the uninterrupted experiment does not have"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_killed_again_and_again(name, uninterrupted, jaxpg_process, tmp_path):
    reference = uninterrupted(name)
    arguments, kills = EXPERIMENTS[name]
    directory, log, chance = tmp_path / "run", tmp_path / "log", random.Random(name)
    command = [*arguments, "--checkpoint-every", "0.2", "--run-dir", directory]
    for kill in range(kills):
        process = jaxpg_process(command, log)
        if kill % 4 == 2:  # wherever it is: importing, tracing, compiling
            time.sleep(chance.uniform(0.0, 4.0))
        else:
            wait_for("training", process, log)
            time.sleep(chance.uniform(0.0, 1.2))
        assert process.poll() is None, f"it ended before kill {kill + 1}: {log.read_text()}"
        process.kill()
        process.wait()
        if (directory / "config.json").exists():
            check_rows(directory, reference)
            command = ["resume", directory] if kill % 2 else command  # the same command again does the same
        reported = [int(step.replace(",", "")) for step in SAVED.findall(log.read_text())]
        if reported and len(reference) == 2:
            (folder,) = (directory / "batches").iterdir()
            assert (folder / "checkpoints" / str(reported[-1]) / checkpoint.SEAL).exists(), (
                "a step that was reported is missing"
            )
    finish(command, jaxpg_process, log)
    assert outcome(directory) == reference


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1], ids=lambda s: s.name)
def test_stopped_at_five_random_moments(number, uninterrupted, jaxpg_process, tmp_path):
    """Each time it ends with 128 + the signal, and not one update that was finished is done again."""
    reference = uninterrupted("ppo")
    directory, log, chance = tmp_path / "run", tmp_path / "log", random.Random(number)
    command = [*EXPERIMENTS["ppo"][0], "--checkpoint-every", "0", "--run-dir", directory]
    before = stops = 0
    while stops < 5:
        process = jaxpg_process(command, log)
        wait_for("training", process, log)
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(number)
        assert process.wait(60) == 128 + number, log.read_text()
        text = log.read_text()
        assert "Traceback" not in text
        assert f"interrupted ({number.name}); what was done is saved" in text
        if "finishing the updates in flight" not in text:  # it came before the first chunk: there was nothing to save
            assert not SAVED.search(text)
            continue
        *_, step = (int(step.replace(",", "")) for step in SAVED.findall(text))
        assert step > before, "it did not get on"
        stops += 1
        check_rows(directory, reference)
        before, command = step, ["resume", directory]
    finish(command, jaxpg_process, log)
    assert outcome(directory) == reference
