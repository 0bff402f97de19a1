"""One experiment computed by several processes on the loopback: what they compute, how they stop, and when one is lost."""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest

from jaxpg.lab.cli import options
from jaxpg.lab.config import Config
from jaxpg.lab.engine import experiment, hosts
from jaxpg.lab.engine.hosts import FAREWELL, KEPT, PATIENCE, SILENCE, START, Place, Watch
from jaxpg.lab.engine.stopping import Stop

TRAIN = ["train", "a2c", "--num-envs", "4", "--num-steps", "8", "--hidden", "8", "--eval-episodes", "2", "--seeds", "3"]
TRAIN += ["--total-steps", "1920", "--log-every", "1", "--shard-envs", "--checkpoint-every", "0.5"]  # 60 updates
# One CPU device, a short silence, and a tenth of a second more for each update.
FIRST = """
import os, sys, time
for name in [name for name in os.environ if "_proxy" in name.lower()]: del os.environ[name]  # JAX warns of them
os.environ["JAX_NUM_CPU_DEVICES"] = "1"
from jaxpg.lab.engine import hosts
hosts.SILENCE, expect = 4, hosts.expect_progress
hosts.expect_progress = lambda is_training: (time.sleep(0.1 * is_training), expect(is_training))
"""


@pytest.fixture
def start_processes(jaxpg_process, tmp_path):
    """``(*commands) -> processes``: one of each command, which compute together; their output is in ``tmp_path / INDEX``.

    With ``cluster`` they are told who they are as SLURM tells them.
    """
    started = []

    def start(*commands, cluster=False):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
        for index, command in enumerate(commands):
            place, first = ["--coordinator", f"127.0.0.1:{port}", "--process", f"{index}/{len(commands)}"], FIRST
            if cluster:
                slurm = {"JOB_ID": "7", "STEP_NODELIST": "127.0.0.1", "NTASKS": "2", "PROCID": str(index), "LOCALID": "0"}
                told = {f"SLURM_{name}": value for name, value in slurm.items()} | {"JAX_COORDINATOR_PORT": port}
                place, first = ["--coordinator", "auto"], f"{FIRST}os.environ |= {told}"
            started.append(jaxpg_process([*command, *place], tmp_path / str(index), f"exec({first!r})"))
        return started[-len(commands) :]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(condition, processes):
    deadline = time.monotonic() + 200
    while not condition():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rows(directory, update):
    """The metrics after an update, by run."""
    lines = [line for path in directory.glob("batches/*/metrics.jsonl") for line in path.read_text().splitlines()]
    found = [row for row in map(json.loads, lines) if row["update"] == update and "policy_loss" in row]
    return {row["seed"]: {name: np.nan if x is None else x for name, x in row.items()} for row in found}


def test_two_processes_compute_what_one_computes_and_stop_together(start_processes, jaxpg_process, tmp_path):
    """SIGTERM at one of two processes; then one process continues, as far as it was; then two train it further."""
    directory, alone = tmp_path / "together", tmp_path / "alone"
    command = [*TRAIN, "--run-dir", str(directory)]
    processes = start_processes(command, command)
    wait_until(lambda: "is saved" in (tmp_path / "0").read_text(), processes)
    processes[1].terminate()
    assert [process.wait(timeout=60) for process in processes] == [128 + signal.SIGTERM] * 2
    said = f"jaxpg: interrupted (SIGTERM); what was done is saved; jaxpg resume {directory} continues"
    assert [(tmp_path / str(index)).read_text().splitlines()[-1] for index in range(2)] == [said] * 2
    assert not list(directory.glob("batches/*/result.json"))

    log = tmp_path / "log"
    for where in (alone, directory):
        command = [*TRAIN, "--run-dir", str(where)]
        assert jaxpg_process(command, log, f"exec({FIRST!r})").wait(timeout=200) == 0, log.read_text()
    assert "count was 2 and is 1" in log.read_text()
    expected, found = rows(alone, 1), rows(directory, 1)
    assert expected.keys() == found.keys() == {0, 1, 2}
    for seed, row in expected.items():
        assert found[seed] == pytest.approx(row, rel=1e-5, abs=1e-6, nan_ok=True)
    assert rows(directory, 60).keys() == {0, 1, 2}

    command = ["resume", str(directory), "--total-steps", "2000"]
    processes = start_processes(command, command, cluster=True)
    assert [process.wait(timeout=200) for process in processes] == [0, 0], (tmp_path / "0").read_text()
    assert not (tmp_path / "1").read_text()  # process 0 prints
    assert rows(directory, 63).keys() == {0, 1, 2}


@pytest.mark.parametrize(("index", "how"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_process_that_is_killed_or_suspended_ends_the_others_with_one_line(index, how, start_processes, tmp_path):
    command = [*TRAIN, "--run-dir", str(tmp_path / "run")]
    processes = start_processes(command, command)
    wait_until(lambda: "is saved" in (tmp_path / "0").read_text(), processes)
    processes[index].send_signal(how)
    assert processes[1 - index].wait(timeout=30) == 1
    lines = (tmp_path / str(1 - index)).read_text().splitlines()
    assert lines[-1].startswith(f"jaxpg: error: process {index} of 2 was lost")
    assert lines[-1].endswith(KEPT)
    assert len(lines) == 1 or lines[-2].endswith("is saved")


def test_processes_with_different_commands_end_with_one_line_each(start_processes, tmp_path):
    command = [*TRAIN, "--run-dir", str(tmp_path / "run")]
    processes = start_processes(command, [*command, "--gamma", "0.5"])
    assert [process.wait(timeout=60) for process in processes] == [2, 2]
    fix = "start all processes with the same command and the same versions"
    for index, (here, there) in enumerate([(0.99, 0.5), (0.5, 0.99)]):
        said = f"jaxpg: error: gamma = {here} in this process and {there} in process {1 - index}; {fix}\n"
        assert (tmp_path / str(index)).read_text() == said
    assert not (tmp_path / "run").exists()


# Logic, in process.


@pytest.fixture
def watch():
    """Process 1 of 3 as it sees the others: both are alive."""
    watch = Watch(Place(1, 3), Stop(), lambda *_: None, "test")
    watch.signs = {index: {"beat": 1, "left": None, "code": 0} for index in range(3)}
    watch.look(0.0)
    return watch


def looks_until_end(watch, most):
    """The number of the look at which the process ends, and why."""
    for number in range(1, most + 1):
        watch.signs[0]["beat"] += 1  # process 0 lives on
        if found := watch.look(float(number)):
            return number, found
    return None


def test_a_process_without_a_beat_is_lost_after_the_silence(watch):
    assert looks_until_end(watch, 100) == (
        SILENCE + 1,
        (f"process 2 of 3 was lost, without a sign of life for 15 s; {KEPT}", 1),
    )


def test_a_process_that_was_never_seen_may_take_longer_to_start(watch):
    del watch.signs[2]
    watch.looks[2] = 0, 0
    number, (why, code) = looks_until_end(watch, 1000)
    assert (number, code) == (START + 1, 1)
    assert why.startswith("process 2 of 3 was lost")


def test_a_beat_in_time_starts_the_silence_anew(watch):
    for _ in range(5):
        assert looks_until_end(watch, SILENCE) is None
        watch.signs[2]["beat"] += 1
        assert watch.look(0.0) is None


def test_a_process_that_failed_ends_the_others_with_its_reason_and_its_code(watch):
    watch.signs[2] |= {"left": "num_envs = 3 is wrong", "code": 2}
    assert looks_until_end(watch, 100) == (FAREWELL + 1, ("process 2 of 3 ended: num_envs = 3 is wrong", 2))


def test_a_process_that_ended_well_is_not_missed(watch):
    watch.signs[2] |= {"left": ""}
    assert looks_until_end(watch, 1000) is None


def test_a_process_that_makes_no_progress_ends_itself(watch):
    watch.expect()
    now = time.monotonic()
    assert watch.look(now + PATIENCE - 5) is None
    assert watch.look(now + PATIENCE + 5) == (f"this process, process 1 of 3, made no progress for {PATIENCE} s; {KEPT}", 1)
    watch.expect()  # and another chunk
    watch.expect(float("inf"))
    assert watch.look(now + 10 * PATIENCE) is None


def test_alone_a_process_decides_by_itself():
    with hosts.together(Stop()):
        assert (hosts.place(), hosts.agree(lambda: 5), hosts.gather("a")) == (Place(0, 1), 5, ["a"])


@pytest.mark.parametrize(
    ("coordinator", "process", "error"),
    [
        ("", "0/2", "process = 0/2 needs --coordinator HOST:PORT"),
        ("auto", "0/2", "process = 0/2 is detected with --coordinator auto"),
        ("10.0.0.1", "0/2", "coordinator = 10.0.0.1 must be auto or HOST:PORT"),
        ("10.0.0.1:70000", "0/2", "must be auto or HOST:PORT"),
        ("10.0.0.1:7000", "", "needs --process INDEX/COUNT with INDEX from 0 to COUNT - 1, e.g. --process 0/2$"),
        ("10.0.0.1:7000", "2/2", "needs --process INDEX/COUNT .*, not 2/2"),
    ],
)
def test_options_that_do_not_fit_are_refused(coordinator, process, error):
    with pytest.raises(ValueError, match=error):
        options.parse_hosts(coordinator, process)


@pytest.mark.parametrize("shard_envs", [False, True])
def test_a_batch_is_filled_until_the_devices_have_equal_shares(shard_envs):
    """Three runs that one device began, on the two devices of the tests."""
    sizes = {"num_envs": 4, "num_steps": 8, "hidden": (4,), "total_steps": 64}
    job = experiment.prepare(Config("a2c", seeds=3, eval_episodes=1, shard_envs=shard_envs, options=sizes))
    assert job.plan(0, 3, 1).width == job.groups[0].batch((0, 1, 2), 3, 3).width == 4
