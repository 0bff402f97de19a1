"""Interrupted and resumed is uninterrupted, bit for bit; and what was damaged meanwhile is named."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import time

import jax
import pytest
from rich.console import Console

from jaxpg.algorithms.presets import ALGORITHMS
from jaxpg.lab import config as config_module
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.config import Config, Part
from jaxpg.lab.engine import batches, experiment, stopping
from jaxpg.lab.store import checkpoint, log, results
from jaxpg.lab.store.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("programs_once", "no_figures")

SIZES = {"num_envs": 2, "num_steps": 8, "hidden": (4,)}
MORE = {
    "a2c": {"anneal": ()},  # what is annealed depends on the budget
    "actor_critic": {"num_envs": 16, "num_steps": 1},
    "ppo": {"epochs": 2, "minibatches": 2},
    "trpo": {"epochs": 2, "minibatches": 2},
}
UPDATES = 20  # of 16 steps each


def make_config(algo="a2c", *, updates=UPDATES, **fields):
    """Two small runs, or as many settings as there are in ``fields``."""
    options = SIZES | MORE.get(algo, {}) | {"total_steps": 16 * updates}
    options |= {name: fields.pop(name) for name in ("network", "shared", "sequence_length") if name in fields}
    if fields.get("shard_envs") and "network" in options:
        options["minibatches"] = 1  # a device has one sequence
    general = {"seeds": 2, "log_every": 3, "eval_episodes": 1}
    if algo.startswith("reinforce"):  # which learns from complete episodes
        general["env_params"] = {"max_steps_in_episode": 8}
    return Config(algo, **general | fields, options=options)


class Killed(BaseException):
    """What no training survives."""


class Interrupter:
    """A logger that remembers all rows, and calls ``interrupt`` at the first for which ``when`` is true."""

    def __init__(self, when, interrupt):
        self.when, self.interrupt, self.rows = when, interrupt, []

    def write(self, rows):
        self.rows += rows
        if any(map(self.when, rows)):
            self.interrupt()

    def close(self, summary):
        self.summary = summary


def kill():
    raise Killed


def train(config, when=None, *, how="stop", screen=None):
    """Train an experiment to its end, or until it is interrupted at a row for which ``when`` is true. The rows it logged."""
    config = dataclasses.replace(config, checkpoint_every=1e-6 if how == "kill" else 0)  # after each chunk, or at the end
    stop = stopping.Stop()
    interrupts = {"stop": lambda: stop.request(signal.SIGTERM), "kill": kill}
    logger = Interrupter(when or (lambda row: False), interrupts[how])
    with pytest.raises((stopping.Stopped, Killed)) if when else contextlib.nullcontext():
        experiment.run(experiment.claim(experiment.prepare(config)), screen or Console(quiet=True), stop, logger)
    assert (logger.summary is None) == (when is not None)
    return logger.rows


def folders(directory):
    return sorted((directory / "batches").iterdir())


def contents(directory):
    """Every bit of what came of an experiment; of a result all but what a clock measured."""
    found = {"summary": (directory / "summary.json").read_bytes()}
    for folder in folders(directory):
        result = {name: value for name, value in read_json(folder / "result.json").items() if name != "seconds"}
        found[folder.name] = ((folder / "batch.json").read_bytes(), read_rows(folder), result)
    return found


def read_rows(folder):
    return (folder / "metrics.jsonl").read_bytes()


def steps(directory):
    """The updates of the checkpoints of the first batch."""
    return checkpoint.steps(folders(directory)[0] / "checkpoints")


def after(update, setting=0, seed=0):
    return lambda row: row["update"] >= update and row["setting"] >= setting and row["seed"] >= seed


EARLY_AND_LATE = after(5), after(11)
DIVERGING = {"learning_rate": 1e38, "critic_learning_rate": 1e38}
CASES = {
    **{algo: (make_config(algo), EARLY_AND_LATE) for algo in ALGORITHMS},
    "traced settings": (make_config(vary=[{"gamma": 0.9}, DIVERGING]), EARLY_AND_LATE),
    "sizes": (make_config(vary={"num_steps": (4, 8)}), (after(5), after(5, setting=1))),
    "sharded environments": (make_config(shard_envs=True), EARLY_AND_LATE),
    "evaluations": (make_config(evaluate_every=4), EARLY_AND_LATE),
    "memory": (make_config("ppo", network="gru"), EARLY_AND_LATE),
    "shared, with memory": (make_config(network="lstm", shared=True, sequence_length=4), EARLY_AND_LATE),
    "memory, sharded environments": (make_config("trpo", network="gru", shard_envs=True), EARLY_AND_LATE),
    "batches": (make_config(seeds=6), (after(5), after(5, seed=2))),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_then_killed_is_uninterrupted(case, tmp_path, memory_for):
    config, (stopped, killed) = CASES[case]
    if case == "batches":
        config = dataclasses.replace(config, memory=memory_for(1, config))
    whole, cut = (dataclasses.replace(config, run_dir=str(tmp_path / name)) for name in ("whole", "cut"))
    rows = train(whole)
    first, second, third = train(cut, stopped), train(cut, killed, how="kill"), train(cut)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")
    assert len(folders(tmp_path / "whole")) == {"sizes": 2, "batches": 3}.get(case, 1)
    assert len(first) + len(second) + len(third) < 2 * len(rows), "it began anew"
    assert second[-1] in third, "what was logged after the last checkpoint comes again"
    assert all(row in rows for row in (*first, *second, *third)), "loggers get the same rows"


@pytest.mark.parametrize("case", ["plain", "evaluations", "traced settings", "sizes", "default interval"])
def test_trained_further_is_planned_so_from_the_start(case, tmp_path):
    """The old end, update 10, was neither a log point nor an evaluation point: its rows are gone."""
    more = {
        "evaluations": {"evaluate_every": 4},
        "traced settings": {"vary": {"gamma": (0.9, 0.99)}},
        "sizes": {"vary": {"num_steps": (4, 8)}},
        "default interval": {"log_every": 0},
    }
    config = make_config(updates=10, run_dir=str(tmp_path / "further"), **more.get(case, {}))
    train(config)
    assert steps(tmp_path / "further")[-1] == {"sizes": 20}.get(case, 10)
    further = config.extended(16 * UPDATES)
    train(further, after(14), how="kill")
    train(further)
    train(dataclasses.replace(further, base_steps=0, run_dir=str(tmp_path / "whole")))
    one, two = contents(tmp_path / "further"), contents(tmp_path / "whole")
    assert one == two
    assert json.loads((tmp_path / "further" / "config.json").read_text())["options"]["total_steps"] == 16 * UPDATES


def test_the_log_keeps_its_interval_when_an_experiment_is_trained_further(tmp_path, monkeypatch):
    """Without one of its own it would be longer; also when the command with the new budget is given once more."""
    monkeypatch.setattr(config_module, "LOG_POINTS", 5)
    config = dataclasses.replace(make_config(updates=10, run_dir=str(tmp_path)), log_every=0)  # every second
    train(config, after(4))
    further = config.extended(16 * UPDATES)  # every fourth, if it were planned so from the start
    train(further, after(14))
    train(dataclasses.replace(further, base_steps=0))
    rows = log.rows_of(folders(tmp_path)[0] / "metrics.jsonl")
    assert sorted({row["update"] for row in rows}) == [*range(2, 22, 2)]


def test_batches_stay_as_they_were_cut_whatever_memory_there_is(tmp_path, capsys, memory_for):
    """Six runs one by one on each device; then there is room for all at once, and then for none at all."""
    config = make_config(seeds=6)
    config = dataclasses.replace(config, memory=memory_for(1, config), run_dir=str(tmp_path / "whole"))
    cut = dataclasses.replace(config, run_dir=str(tmp_path / "cut"))
    train(config)
    train(cut, after(5))
    begun = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("batch.json")}
    assert [read_json(path)["runs"] for path in begun] == [[0, 1]]
    train(dataclasses.replace(cut, memory=0), after(5, seed=2), screen=Console(stderr=True))
    assert "plan: 4 runs on 2 devices at once" in capsys.readouterr().err, "only what was not begun is planned anew"
    assert [(read_json(path / "batch.json")["runs"]) for path in folders(tmp_path / "cut")] == [[0, 1], [2, 3, 4, 5]]
    train(dataclasses.replace(cut, memory=1e-9))
    assert {path: path.read_bytes() for path in begun} == begun
    assert contents(tmp_path / "cut")["0000000"] == contents(tmp_path / "whole")["0000000"]


def test_a_batch_belongs_to_one_process_however_many_there_were_when_it_was_cut(tmp_path):
    """One process cut three runs of four into a batch; then two share the experiment, where each has two."""
    config = make_config(vary={"gamma": (0.9, 0.99)}, run_dir=str(tmp_path))
    alone = experiment.claim(experiment.prepare(config))
    group = alone.groups[0]
    (tmp_path / "batches" / "0000000").mkdir(parents=True)
    write_json(tmp_path / "batches" / "0000000" / "batch.json", {"identity": alone.identity, "runs": [0, 1, 2], "width": 4})
    jobs = [dataclasses.replace(alone, part=Part(index, 2)) for index in range(2)]
    [(begun, missing)], [(other_begun, other_missing)] = map(experiment.find_work, jobs)
    assert begun == [group.batch([0, 1, 2], 2, 4)]
    assert (missing, other_begun, other_missing) == ([], [], [3])


def test_another_process_that_makes_a_batch_is_not_disturbed(tmp_path):
    """What is not there yet, or is damaged, is left to the process to whose share it belongs."""
    config = make_config(vary={"gamma": (0.9, 0.99)}, run_dir=str(tmp_path))
    job = dataclasses.replace(experiment.claim(experiment.prepare(config)), part=Part(1, 2))
    (tmp_path / "batches" / ".0000000.part").mkdir(parents=True)
    (tmp_path / "batches" / "0000001").mkdir()
    assert experiment.find_work(job, lambda *_: pytest.fail("it was put aside")) == [([], [2, 3])]
    assert experiment.count_finished(job) == 0
    found = []
    experiment.find_work(dataclasses.replace(job, part=Part(0, 2)), lambda folder, error: found.append(folder.name))
    assert found == ["0000001"]


def test_a_batch_is_not_there_before_it_says_which_runs_it_holds(tmp_path, monkeypatch):
    """Another process that looks at this moment would take it for damaged."""
    seen = []

    def write_and_look(path, content):
        write_json(path, content)
        seen.append((path.name, results.folders(tmp_path)))

    monkeypatch.setattr(batches, "write_json", write_and_look)
    folder = batches.make_folder(tmp_path, {"runs": [3, 4]})
    assert seen == [("batch.json", [])]
    assert results.folders(tmp_path) == [folder]
    assert batches.make_folder(tmp_path, {"runs": [3]}) == folder
    assert read_json(folder / "batch.json")["runs"] == [3, 4], "it stays as it was cut"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, programs_once, no_figures):
    """An experiment that nothing interrupted, with checkpoints of its last updates."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    config = make_config(updates=8, run_dir=str(directory), checkpoint_every=1e-6)
    experiment.run(experiment.claim(experiment.prepare(config)), Console(quiet=True), stopping.Stop())
    assert len(steps(directory)) > 1
    return directory


@pytest.fixture
def killed(finished, tmp_path):
    """Its copy, as if it had been killed before its result was written."""
    directory = shutil.copytree(finished, tmp_path / "run")
    (folders(directory)[0] / "result.json").unlink()
    (directory / "summary.json").unlink()
    return directory


def resume(directory):
    train(make_config(updates=8, run_dir=str(directory)))


def test_a_damaged_checkpoint_is_named_and_made_good(finished, killed, capsys):
    path = folders(killed)[0] / "checkpoints" / "8" / "params" / "_METADATA"
    path.write_text("{}")
    resume(killed)
    said = "jaxpg: the checkpoint of update 8 was put aside in damaged/: its checksums are wrong\n"
    assert capsys.readouterr().err == said
    assert steps(killed)[-1] == 8
    assert [path.name[:2] for path in (folders(killed)[0] / "damaged").iterdir()] == ["8-"]
    assert contents(killed) == contents(finished)


@pytest.mark.parametrize("damage", ["torn", "first row", "missing"])
def test_a_damaged_log_is_named_and_kept_and_training_continues(finished, killed, damage, capsys):
    """Rows that cannot be read are lost, and no others; those of the end of training are in the checkpoint too."""
    path = folders(killed)[0] / "metrics.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    found = {"torn": b"".join(lines[:-2])[:-30], "first row": b"x" + whole[1:], "missing": None}[damage]
    path.unlink()
    if found is not None:
        path.write_bytes(found)
    resume(killed)
    error = capsys.readouterr().err
    assert error.startswith("jaxpg: metrics.jsonl was changed since update 8 was saved: ")
    assert error.count("\n") == 1
    kept = {"torn": [*lines[:-3], *lines[-2:]], "first row": lines[1:], "missing": lines[-2:]}[damage]
    assert path.read_bytes() == b"".join(kept)
    aside = [path.read_bytes() for path in path.parent.glob("damaged/metrics.jsonl-*")]
    assert aside == ([found] if found else [])
    one, two = (json.loads((directory / "summary.json").read_text())["settings"][0] for directory in (finished, killed))
    assert one["digests"] == two["digests"]


def test_a_damaged_result_is_named_and_its_runs_are_trained_again(finished, killed, capsys):
    shutil.rmtree(killed)
    shutil.copytree(finished, killed)
    path = folders(killed)[0] / "result.json"
    path.write_bytes(path.read_bytes().replace(b'"num_updates": 8', b'"num_updates": 9'))
    resume(killed)
    error = capsys.readouterr().err
    assert error.startswith("jaxpg: a batch of runs was put aside in damaged/ and is trained again: ")
    assert error.count("\n") == 1
    assert contents(killed) == contents(finished)
    assert [path.name[:8] for path in (killed / "damaged").iterdir()] == ["0000000-"]


def test_what_else_computes_is_named(killed, capsys):
    """The bits depend on it; training continues nevertheless."""
    path = folders(killed)[0] / "checkpoints" / "8" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["meta"]["machine"]["versions"]["jax"] = "0.9.9"
    path.write_text(json.dumps(meta))
    (path.parents[1] / checkpoint.SEAL).write_text(checkpoint.checksums(path.parents[1]))
    resume(killed)
    said = f"jax was 0.9.9 and is {jax.__version__}; training continues, but its results may not be bit for bit the same"
    assert capsys.readouterr().err == f"jaxpg: {said}\n"


@pytest.mark.parametrize(
    "change", [{"seconds": "long"}, {"tail": 3}, {"tail": [{"update": -1}]}, {"best": None}, {"runs": [1]}]
)
def test_a_checkpoint_that_was_made_by_hand_is_put_aside(finished, killed, change, capsys):
    path = folders(killed)[0] / "checkpoints" / "8" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["meta"] |= change
    path.write_text(json.dumps(meta))
    (path.parents[1] / checkpoint.SEAL).write_text(checkpoint.checksums(path.parents[1]))
    resume(killed)
    assert "the checkpoint of update 8 was put aside in damaged/" in capsys.readouterr().err
    assert contents(killed) == contents(finished)


def test_only_one_process_may_write_a_directory(killed):
    with experiment.lock(killed / ".lock"), pytest.raises(ValueError, match="is being written by another process; wait") as no:
        resume(killed)
    assert str(no.value).startswith(f"run_dir = {killed} ")


def command_line(directory, updates=UPDATES, **options):
    """``jaxpg train`` for the experiment of :func:`make_config`."""
    options = {"num-envs": 2, "num-steps": 8, "hidden": 4, "seeds": 2, "log-every": 3, "eval-episodes": 1} | options
    words = {"total-steps": 16 * updates, "checkpoint-every": 0, "run-dir": directory} | options
    return ["train", "a2c", "--anneal", *(text for name, value in words.items() for text in (f"--{name}", str(value)))]


@pytest.fixture
def at_update(monkeypatch):
    """``(update, do)``: have ``do`` called when the rows of the first log point from ``update`` on have been written."""

    def call(update, do):
        write = batches.Keeper.write

        def write_and_do(keeper, at, metrics):
            write(keeper, at, metrics)
            if at >= update:
                do()

        monkeypatch.setattr(batches.Keeper, "write", write_and_do)

    return call


@pytest.fixture
def full_disk(monkeypatch):
    """Start it, and there is no room for a checkpoint until ``monkeypatch`` is undone."""

    def fill():
        def reserve(path, size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(checkpoint, "reserve", reserve)

    return fill


FULL = "could not be saved (No space left on device)"


def test_a_save_that_fails_when_asked_to_stop_is_said_and_is_exit_code_1(
    finished, tmp_path, at_update, full_disk, monkeypatch, capsys
):
    directory = tmp_path / "run"
    at_update(2, lambda: signal.raise_signal(signal.SIGTERM))
    assert cli.main(command_line(directory, updates=8)) == 128 + signal.SIGTERM
    said = capsys.readouterr().err.splitlines()
    (saved,) = steps(directory)
    assert f"update {saved} is saved" in said
    assert said[-1] == f"jaxpg: interrupted (SIGTERM); what was done is saved; jaxpg resume {directory} continues"
    monkeypatch.undo()
    full_disk()
    at_update(5, lambda: signal.raise_signal(signal.SIGHUP))
    assert cli.main(["resume", str(directory)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("jaxpg: interrupted (SIGHUP); update ")
    assert last.endswith(f" {FULL}; update {saved} is on the disk; jaxpg resume {directory} continues")
    assert steps(directory) == [saved]
    monkeypatch.undo()
    assert cli.main(["resume", str(directory)]) == 0
    assert contents(directory) == contents(finished)


def test_a_last_save_that_fails_is_exit_code_1_and_a_resume_finishes_once_there_is_space(
    finished, tmp_path, full_disk, monkeypatch, capsys
):
    full_disk()
    assert cli.main(command_line(tmp_path / "run", updates=8)) == 1
    then = f"everything saved before is kept; jaxpg resume {tmp_path / 'run'} continues"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"jaxpg: error: update 8 {FULL}; no update is on the disk; {then}"
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    assert cli.main(["resume", str(tmp_path / "run")]) == 0
    assert contents(tmp_path / "run") == contents(finished)


def test_a_last_save_that_failed_is_said_too_when_asked_to_stop_while_policies_are_evaluated(
    tmp_path, full_disk, monkeypatch, capsys
):
    full_disk()
    conclude = batches.conclude
    monkeypatch.setattr(batches, "conclude", lambda *_: signal.raise_signal(signal.SIGTERM) or conclude(*_))
    assert cli.main(command_line(tmp_path / "run", updates=8)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"jaxpg: interrupted (SIGTERM); update 8 {FULL}; no update is on the disk; jaxpg resume")


class Listener(io.StringIO):
    """A screen that looks for each checkpoint at the moment at which it is reported."""

    def __init__(self, directory):
        super().__init__()
        self.directory, self.reported = directory, []

    def write(self, text):
        for update in re.findall(r"update ([\d,]+) is saved", text):
            step = folders(self.directory)[0] / "checkpoints" / update.replace(",", "")
            assert (step / checkpoint.SEAL).read_text() == checkpoint.checksums(step)
            self.reported.append(int(update))
        return super().write(text)


def test_what_is_reported_as_saved_is_on_the_disk_and_a_sound_run_reports_no_failure(tmp_path):
    """Also where the last update was saved already, as that of the best evaluation."""
    listener = Listener(tmp_path)
    config = make_config(updates=8, run_dir=str(tmp_path), evaluate_every=4, checkpoint_every=1e-6)
    screen = Console(file=listener, width=200)
    experiment.run(experiment.claim(experiment.prepare(config)), screen, stopping.Stop())
    assert listener.reported == sorted(set(listener.reported))
    assert listener.reported[-1] == 8
    assert "not saved" not in listener.getvalue()


# What only a process can show: the signals that it gets, and that nothing but what is on the disk survives.


def wait_for(condition, process, log, timeout=120):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def wait_until_it_ends(process, log, code=0):
    assert process.wait(240) == code, log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    return text


LONG = 300  # updates


def test_killed_moved_and_hung_up_it_is_the_uninterrupted_run(jaxpg_process, tmp_path):
    """SIGKILL; the directory is moved, and resumed by a relative path; SIGHUP; resumed again."""
    log, whole_log = tmp_path / "log", tmp_path / "whole.log"
    whole = jaxpg_process(command_line(tmp_path / "whole", LONG), whole_log)
    process = jaxpg_process(command_line(tmp_path / "here", LONG, **{"checkpoint-every": 0.05}), log)
    wait_for(lambda: "is saved" in log.read_text(), process, log)
    process.kill()
    process.wait()
    reported = [int(update) for update in re.findall(r"update (\d+) is saved", log.read_text())]
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "moved"
    shutil.move(tmp_path / "here", moved)
    assert set(reported[-2:]) <= set(steps(moved)), "what was reported is there"
    size = (rows := folders(moved)[0] / "metrics.jsonl").stat().st_size
    process = jaxpg_process(["resume", "moved"], log, cwd=moved.parent)
    wait_for(lambda: rows.stat().st_size > size + 1000, process, log)
    process.send_signal(signal.SIGHUP)
    text = wait_until_it_ends(process, log, 128 + signal.SIGHUP)
    assert "finishing the updates in flight and saving; Ctrl-C (again) stops at once" in text
    assert text.splitlines()[-1] == "jaxpg: interrupted (SIGHUP); what was done is saved; jaxpg resume moved continues"
    last = json.loads(rows.read_text().splitlines()[-1])["update"]
    assert last <= steps(moved)[-1] < last + 3, "no update that was finished is lost"
    text = wait_until_it_ends(jaxpg_process(["resume", "moved"], log, cwd=moved.parent), log)
    assert "not be bit for bit" not in text
    wait_until_it_ends(whole, whole_log)
    assert contents(moved) == contents(tmp_path / "whole")


STUCK = "import time; from jaxpg.lab.engine.batches import Keeper; due = Keeper.is_due; "
STUCK += "Keeper.is_due = lambda self: due(self) and (time.sleep(100) if self.stop.number else True)"


def test_a_second_ctrl_c_stops_at_once_and_what_was_reported_is_there(jaxpg_process, tmp_path):
    """Even where the first waits for a chunk of updates that takes long."""
    log = tmp_path / "log"
    process = jaxpg_process(command_line(tmp_path / "run", 10**6, **{"checkpoint-every": 0.05}), log, STUCK)
    wait_for(lambda: "is saved" in log.read_text(), process, log)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "finishing the updates in flight and saving" in log.read_text(), process, log)
    time.sleep(1.5 * stopping.TWICE)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 128 + signal.SIGINT
    text = log.read_text()
    assert "stopped at once; what was reported as saved is on the disk" in text
    reported = int(re.findall(r"update ([\d,]+) is saved", text)[-1].replace(",", ""))
    assert reported in steps(tmp_path / "run")
