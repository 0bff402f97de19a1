"""Several processes on one experiment, each of its own on the loopback: together, and when one of them is lost."""

import contextlib
import dataclasses
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jaxpg.lab.config import Config
from jaxpg.lab.engine import experiment, peers
from jaxpg.lab.engine.peers import Place
from jaxpg.lab.engine.stopping import Stop
from jaxpg.lab.store.files import lock, read_json, write_json

# One program for all tests: six runs, three for each of two processes, one after the other; half a second each.
SWEEP = [sys.executable, "-m", "jaxpg", "sweep", "a2c", "--num-envs", "4", "--num-steps", "16", "--hidden", "8"]
SWEEP += ["--eval-episodes", "4", "--seeds", "3", "--vary", "learning_rate=1e-3,1e-2"]
SWEEP += ["--total-steps", "40000", "--memory", "3.2e-5"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()} | {  # JAX warns of them
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "COLUMNS": "200",
}
PATIENT = "100"  # seconds that a process without fault may take for anything
WRITTEN = {"config.json", "summary.json", "timing.json", "curves.png", "sensitivity_learning_rate.png"}


@contextlib.contextmanager
def started(*commands, **environment):
    """Processes, of which none is left afterwards."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = ENVIRONMENT | environment
    processes = [subprocess.Popen(command, env=env, start_new_session=True, **pipes) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def finished(*commands, timeout=240, **environment):
    """Exit code, output and errors of each process."""
    with started(*commands, **environment) as processes:
        texts = [process.communicate(timeout=timeout) for process in processes]
        return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def sharing(address, silence, *command):
    """The command lines of two processes."""
    return [[*command, "--distributed", f"{address},2,{i}", "--silence", silence] for i in range(2)]


def listeners(address):
    """The addresses, in hexadecimal, where somebody listens on the port of ``address``."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    port = f"{int(address.split(':')[1]):04X}"
    return {row[1].split(":")[0] for row in rows if row[1].endswith(":" + port) and row[3] == "0A"}


def until(condition, *processes):
    deadline = time.monotonic() + 200
    while not condition():
        for process in processes:
            assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def first_line(process):
    """What it says first, or why it says nothing."""
    return process.stdout.readline() or process.stderr.read()


def results_of(directory):
    """The result of each batch of runs that is finished, and when it was written."""
    paths = (directory / "batches").glob("*/result.json")
    return {path.parent.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def assert_same(one, other):
    """Every bit of what came of both, but for what a clock measured."""
    assert (one / "summary.json").read_bytes() == (other / "summary.json").read_bytes()
    for run in range(6):
        folders = [directory / "batches" / f"{run:07d}" for directory in (one, other)]
        assert len({(folder / "metrics.jsonl").read_bytes() for folder in folders}) == 1
        assert len({(folder / "batch.json").read_bytes() for folder in folders}) == 1


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The experiment of a single process."""
    directory = tmp_path_factory.mktemp("alone")
    [(code, _, err)] = finished([*SWEEP, "--run-dir", str(directory)])
    assert code == 0, err
    return directory


def test_two_processes_find_bit_for_bit_what_one_finds(alone, tmp_path):
    directory = tmp_path / "sweep"
    commands = sharing(free_address(), PATIENT, *SWEEP, "--run-dir", str(directory))
    (code, out, err), (other_code, other_out, other_err) = finished(*commands)
    assert (code, other_code) == (0, 0), err + other_err
    for text in (err, other_err):
        assert "plan: 3 runs on 1 device in 3 batches of 1" in text
        assert "Warning" not in text
        assert "Traceback" not in text
    assert sorted(results_of(directory)) == [f"{run:07d}" for run in range(6)]
    assert {path.name for path in directory.iterdir() if path.is_file()} == WRITTEN | {".lock-0", ".lock-1"}
    assert str(directory) in out  # process 0 sums up
    assert not other_out  # and the other has nothing to say
    assert read_json(directory / "config.json")["processes"] == 2
    assert_same(alone, directory)


def test_the_loss_of_a_process_ends_the_other_and_a_rerun_does_what_is_missing(alone, tmp_path):
    directory = tmp_path / "sweep"
    commands = sharing(free_address(), "5", *SWEEP, "--run-dir", str(directory))
    with started(*commands) as (lost, other):
        until((directory / "batches" / "0000000" / "result.json").exists, lost, other)
        lost.kill()
        begin = time.monotonic()
        _, err = other.communicate(timeout=120)
        assert time.monotonic() - begin < 5 + 10
    assert other.returncode == 1
    said = "process 0 of 2 gave no sign of life for 5 s"
    assert (
        err.splitlines()[-1]
        == f"jaxpg: error: {said}; finished work is in {directory}; start the same command again to continue"
    )
    assert "most recent call first" in err

    kept = results_of(directory)
    assert 0 < len(kept) < 6
    assert not (directory / "summary.json").exists()
    [(code, _, err)] = finished([*SWEEP, "--run-dir", str(directory)])
    assert code == 0, err
    assert len(now := results_of(directory)) == 6
    assert {name: now[name] for name in kept} == kept
    assert_same(alone, directory)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="who listens is read from Linux")
def test_a_process_alone_is_refused_and_listens_where_it_was_told_only(tmp_path):
    directory = tmp_path / "sweep"
    first, second = (sharing(free_address(), "3", *SWEEP, "--run-dir", str(directory)) for _ in range(2))
    address = first[0][-3].split(",")[0]
    with started(first[0], second[1]) as processes:
        until(lambda: listeners(address), processes[0])
        assert listeners(address) <= {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same as IPv6
        for i, process in enumerate(processes):
            out, err = process.communicate(timeout=120)
            assert (process.returncode, out, err.count("\n")) == (2, "", 1), err
            assert f",2,{i}: the other processes did not start within 3 s; start all of them" in err
    assert not directory.exists()


# What a process of a sweep does, and nothing else: it meets the others, computes, is watched, and gets stuck.
MEMBER = """
import sys, time
from pathlib import Path
from jaxpg.lab.engine import peers, stopping
place = peers.join(sys.argv[1], float(sys.argv[2]))
import jax
assert len(jax.devices()) == 1, "its own and no others"
assert (jax.process_index(), jax.process_count()) == (0, 1), "nothing waits for the others"
assert float(jax.jit(lambda x: 2 * x)(1.0)) == 2.0
with peers.Watch(Path(sys.argv[3]), place, stopping.Stop()):
    print(place, flush=True)
    time.sleep(1000)
"""


def member(where, silence, directory):
    return [sys.executable, "-c", MEMBER, where, silence, str(directory)]


@pytest.mark.parametrize(("index", "how"), [(1, signal.SIGKILL), (0, signal.SIGSTOP)])
def test_a_process_that_was_killed_or_hangs_is_missed_whichever_it_is(index, how, tmp_path):
    address = free_address()
    with started(*(member(f"{address},2,{i}", "3", tmp_path) for i in range(2))) as processes:
        for i, process in enumerate(processes):
            assert first_line(process) == f"{Place(i, 2, 3.0)}\n"
        assert not listeners(address), "nobody listens once all have met"
        lost, other = processes[index], processes[1 - index]
        lost.send_signal(how)
        begin = time.monotonic()
        _, err = other.communicate(timeout=60)
        assert 1.5 < time.monotonic() - begin < 3 + 8
        assert other.returncode == 1
        said = f"jaxpg: error: process {index} of 2 gave no sign of life for 3 s; finished work is in"
        assert err.splitlines()[-1].startswith(said)
        assert 'most recent call first):\n  File "<string>"' in err, "it says what it did itself"


def test_a_cluster_tells_the_processes_who_they_are_and_ends_them(tmp_path):
    port = free_address().split(":")[1]
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": port}
    command = member("auto", PATIENT, tmp_path)
    with (
        started(command, SLURM_PROCID="0", SLURM_LOCALID="0", **slurm) as [zero],
        started(command, SLURM_PROCID="1", SLURM_LOCALID="1", **slurm) as [one],
    ):
        for i, process in enumerate((zero, one)):
            assert first_line(process) == f"{Place(i, 2, float(PATIENT))}\n"
            process.terminate()
            assert process.wait(timeout=60) == -signal.SIGTERM


STUCK = """
import ctypes, sys, time
from pathlib import Path
from jaxpg.lab.engine import peers, stopping
def python(): time.sleep(1000)
def c(): ctypes.PyDLL(None).sleep(1000)  # keeps the interpreter to itself
def nothing(): return
with peers.Watch(Path(sys.argv[2]), peers.Place(silence=0.3), stopping.Stop()) as watch:
    for _ in range(30):
        watch.alive()
        time.sleep(0.1)
    globals()[sys.argv[1]]()
time.sleep(peers.PATIENCE * 0.3 + 1)
"""


def test_a_process_that_does_not_get_on_ends_itself_and_says_where_it_is(tmp_path):
    ways = ("python", "c", "nothing")
    found = finished(*([sys.executable, "-c", STUCK, way, str(tmp_path)] for way in ways), timeout=60)
    for way, (code, _, err) in zip(ways[:2], found[:2], strict=True):
        assert code == 1
        assert err.startswith("Timeout (0:00:01.8")
        assert f'most recent call first):\n  File "<string>", line {5 + (way == "c")} in {way}\n' in err
    assert found[2] == (0, "", ""), "one that gets on, and one that is not watched any more, is left alone"


def test_watches_bear_with_each_other_at_the_shortest_silence(tmp_path, monkeypatch):
    given_up = []
    monkeypatch.setattr(peers.Watch, "give_up", lambda watch, lost: given_up.append((watch.place.index, lost)))
    stops = Stop(), Stop()
    with peers.Watch(tmp_path, Place(0, 2, 1.0), stops[0]), peers.Watch(tmp_path, Place(1, 2, 1.0), stops[1]):
        time.sleep(2.5)
    assert not given_up
    assert [stop.number for stop in stops] == [0, 0], "nobody asked"
    assert sorted(path.name for path in (tmp_path / peers.SIGNS).iterdir()) == ["0", "1"]


def test_who_was_asked_to_stop_leaves_word_for_the_others(tmp_path):
    stops = [Stop() for _ in range(3)]
    with peers.Watch(tmp_path, Place(0, 3, 50.0), stops[0]), peers.Watch(tmp_path, Place(1, 3, 50.0), stops[1]):
        with peers.Watch(tmp_path, Place(2, 3, 50.0), stops[2]):
            stops[2].request(signal.SIGINT)
        deadline = time.monotonic() + 30
        while not all(stop.number for stop in stops) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [stop.number for stop in stops] == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
    later = Stop()
    with peers.Watch(tmp_path, Place(0, 1, 1.0), later):
        time.sleep(0.5)
    assert not later.number, "what was left there before is no word for those who come later"


@pytest.fixture(scope="module")
def prepared():
    """An experiment of two runs that has no directory yet."""
    options = {"num_envs": 2, "num_steps": 8, "hidden": (4,), "total_steps": 16}
    return experiment.prepare(Config("a2c", seeds=1, vary={"gamma": (0.9, 0.99)}, options=options))


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "sweep").mkdir()
    return tmp_path / "sweep"


@pytest.fixture
def job_of(prepared, directory):
    """``(place, **changes) -> Job``: the experiment in ``directory``, as the process at ``place`` has it."""

    def make(place, **changes):
        config = dataclasses.replace(prepared.config, run_dir=str(directory), **changes)
        return dataclasses.replace(prepared, config=config, place=place)

    return make


def test_two_processes_of_one_number_are_not_let_in(job_of, directory):
    job = experiment.claim(job_of(Place(0, 2)))
    with lock(directory, ".lock-0"), pytest.raises(ValueError, match="is being written by another process"):
        experiment.run(job, Console(quiet=True), Stop())


def test_the_first_process_writes_the_configuration_and_the_others_wait_for_it(job_of):
    first = threading.Timer(0.3, experiment.claim, [job_of(Place(0, 2))])
    first.start()
    begin = time.monotonic()
    experiment.claim(job_of(Place(1, 2, 60.0)))
    assert time.monotonic() - begin > 0.25
    first.join()


def test_a_directory_that_holds_another_experiment_refuses_every_process(job_of, directory):
    experiment.claim(job_of(Place(0, 2)))
    before = (directory / "config.json").read_bytes()
    for index in range(2):
        with pytest.raises(ValueError, match=r"holds another experiment: vary: gamma = \(0.9, 0.99\) there and"):
            experiment.claim(job_of(Place(index, 2), vary={"gamma": (0.9, 0.98)}))
    experiment.claim(job_of(Place(1, 2)))
    assert [path.name for path in directory.iterdir()] == ["config.json"]
    assert (directory / "config.json").read_bytes() == before


def test_processes_that_do_not_see_the_same_disk_are_refused(job_of, directory):
    with pytest.raises(ValueError, match=r"run_dir = .*sweep was not made by process 0; all processes must see the same disk"):
        experiment.claim(job_of(Place(1, 2, 0.2)))
    assert not list(directory.iterdir())


def test_what_was_finished_with_fewer_steps_is_not_waited_for_as_if_it_were_finished_now(job_of, directory):
    """The other process may not have begun to train its runs further."""
    job = experiment.claim(job_of(Place(0, 2)))
    for run, num_updates in enumerate((1, 2)):
        folder = directory / "batches" / f"{run:07d}"
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_bytes(b"")
        seal = {"bytes": 0, "rows": 0, "sha256": hashlib.sha256().hexdigest()}
        write_json(folder / "batch.json", {"identity": job.identity, "runs": [run], "width": 1})
        content = {"identity": job.identity, "runs": [run], "num_updates": num_updates, "log": seal}
        content |= {"returns": {"greedy_return": [1.0], "sampled_return": [1.0]}, "diverged_at": [0], "digests": [""]}
        content |= {"seconds": {"compile": 1.0, "train": 1.0}}
        write_json(folder / "result.json", content)
    assert experiment.count_finished(job) == 1, "one update is asked for"


@given(st.integers(0, 1000), st.integers(1, 64))
def test_shares_are_disjoint_complete_and_equal_but_for_one(total, count):
    shares = [Place(index, count).share(total) for index in range(count)]
    assert [run for share in shares for run in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("where", [
    "", "host", "host:1", "host:1,2", "host:1,2,2", "host:1,0,0", "host:1,2,-1", "host:1,2,0,3", ":1,2,0", "host,2,0",
    "host:0,2,0", "host:65536,2,0", "my host:1,2,0", "AUTO", "host:1,2,0\n",
])  # fmt: skip
def test_where_the_processes_meet_is_checked(where):
    with pytest.raises(ValueError, match="must be auto or HOST:PORT,COUNT,INDEX with INDEX from 0 to COUNT - 1"):
        peers.join(where, 1.0)


def test_addresses_are_those_of_hosts_old_and_new():
    assert peers.parse("auto") is None
    assert peers.parse("node-1.example:65535,12,11") == ("node-1.example:65535", 12, 11)
    assert peers.parse("[::1]:1,1,0") == ("[::1]:1", 1, 0)


@pytest.mark.parametrize(("host", "why"), [("127.0.0.1", "in use"), ("192.0.2.1", "assign"), ("nowhere.invalid", "")])
def test_where_nothing_can_listen_is_refused_before_jax_tries(host, why):
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"{host}:{server.getsockname()[1]},2,0"
        with pytest.raises(ValueError, match=rf"^distributed = {where}: .*{why}"):
            peers.join(where, 30.0)
