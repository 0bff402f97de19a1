"""Successive halving: its rungs are experiments that continue one another, bit for bit, whatever happens on the way."""

import contextlib
import dataclasses
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxpg
from jaxpg import search
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.config import Config
from jaxpg.lab.engine import batches, experiment, halving, stopping
from jaxpg.lab.report import page
from jaxpg.lab.store import checkpoint, results
from jaxpg.lab.store.files import read_json, write_json
from jaxpg.lab.store.searches import read_rule
from jaxpg.lab.store.stored import command, read_config

pytestmark = pytest.mark.usefixtures("programs_once", "no_figures")

RULE = (2, 3)
# 96, 48 and 24 runs would be blocks of other sizes; 128, 64 and 32 on two devices are blocks of 16 in every rung.
OPTIONS = {"num_envs": 2, "num_steps": 8, "hidden": (4,), "total_steps": 16 * 24}
RATES = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0, 1e38)
CONFIG = Config(
    "a2c", seeds=16, log_every=4, eval_episodes=1, checkpoint_every=0, options=OPTIONS, vary={"learning_rate": RATES}
)
WORDS = [
    *("--num-envs", "2", "--num-steps", "8", "--hidden", "4", "--total-steps", "192", "--seeds", "2", "--eval-episodes", "1"),
    *("--vary", "learning_rate=log:1e-4:1e-1", "--vary", "gamma=lin:0.9:1", "--sample", "sobol:4", "--halving", "2:2"),
]


class Killed(BaseException):
    """What no search survives."""


def find(directory, config=CONFIG, rule=RULE):
    """A search to its end."""
    found = halving.claim(halving.prepare(dataclasses.replace(config, run_dir=str(directory)), rule))
    return halving.run(found, Console(quiet=True), stopping.Stop())


def contents(directory):
    """Every bit of what came of an experiment, but what a clock measured."""
    found = {"summary": (directory / "summary.json").read_bytes()}
    for folder in sorted((directory / "batches").iterdir()):
        result = {name: value for name, value in read_json(folder / "result.json").items() if name != "seconds"}
        found[folder.name] = ((folder / "batch.json").read_bytes(), (folder / "metrics.jsonl").read_bytes(), result)
    return found


def everything(directory):
    """The same of a search."""
    rungs = sorted(directory.glob("rung_*"))
    return [(directory / "summary.json").read_bytes(), *map(contents, rungs)]


def list_checkpoints(directory):
    """The updates of the checkpoints of each rung."""
    return [checkpoint.steps(next((rung / "batches").iterdir()) / "checkpoints") for rung in sorted(directory.glob("rung_*"))]


@pytest.fixture(scope="module")
def done(tmp_path_factory, programs_once, no_figures):
    """A search that nothing interrupted."""
    directory = tmp_path_factory.mktemp("search") / "done"
    find(directory)
    return directory


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "copy")


@pytest.mark.parametrize("number", [1, 2])
def test_a_rung_is_bit_for_bit_the_sweep_of_its_settings_with_the_schedules_of_the_full_budget(done, tmp_path, number):
    config = dataclasses.replace(read_config(done / f"rung_{number}"), run_dir=str(tmp_path / "alone"))
    assert config.total_steps == CONFIG.total_steps
    experiment.run(experiment.claim(experiment.prepare(config)), Console(quiet=True), stopping.Stop())
    assert contents(tmp_path / "alone") == contents(done / f"rung_{number}")


def test_runs_are_not_trained_again(done):
    """Each batch begins with a checkpoint of the last update of the rung before."""
    assert list_checkpoints(done) == [[6], [6, 12], [12, 24]]


def test_the_best_of_each_rung_continue_and_diverged_settings_do_not(done):
    summary, left = read_json(done / "summary.json"), list(range(8))
    for number, rung in enumerate(summary["rungs"]):
        found = results.read(done / f"rung_{number}")
        assert [setting["learning_rate"] for setting in found.settings] == [RATES[i] for i in left]
        order = search.rank(found.returns["greedy_return"], found.returns["sampled_return"])
        assert rung["settings"] == [left[i] for i in order]
        left = sorted(rung["settings"][: len(left) // 2])
    assert summary["rungs"][0]["settings"][-1] == 7  # which diverges
    assert summary["best"]["values"] == {"learning_rate": RATES[summary["rungs"][2]["settings"][0]]}
    assert [rung["env_steps"] / 16**2 for rung in summary["rungs"]] == [8 * 6, 4 * 6, 2 * 12]
    assert summary["grid_env_steps"] / 16**2 == 8 * 24


def test_a_finished_search_is_not_touched(done, monkeypatch):
    monkeypatch.setattr(experiment, "run", None)
    before = everything(done)
    assert find(done).name == "rung_2"
    assert everything(done) == before


KILLS = {  # what is called when the search is killed, and at which of its calls
    "in rung 1": (batches.Keeper, "log", 3),
    "before the start of rung 1 is saved": (checkpoint.Checkpoints, "save", 2),
    "before the start of rung 1 is sealed": (checkpoint, "seal", 2),
    "in rung 2": (batches.Keeper, "log", 6),
    "before the summary": (halving, "summarize", 1),
}


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_search_continues_bit_for_bit(done, tmp_path, name):
    home, function, which = KILLS[name]
    calls, real = [], getattr(home, function)

    def kill(*arguments, **options):
        calls.append(name)
        if len(calls) == which:
            raise Killed
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, function, kill)
        with pytest.raises(Killed):
            find(tmp_path / "killed")
    assert not (tmp_path / "killed" / "summary.json").exists()
    find(tmp_path / "killed")
    assert everything(tmp_path / "killed") == everything(done)
    assert list_checkpoints(tmp_path / "killed") == list_checkpoints(done)  # nothing was trained again


def test_a_state_that_was_changed_is_not_continued(copy, done, capsys):
    """The digests in the results say so; the runs are trained from the start, here to the same bits."""
    shutil.rmtree(copy / "rung_2")
    folder = next((copy / "rung_1" / "batches").iterdir())
    (folder / "checkpoints" / "12").rename(folder / "checkpoints" / "13")
    find(copy)
    said = " ".join(capsys.readouterr().err.split())
    assert "the rung before cannot be continued" in said
    assert "trained from the start" in said
    assert everything(copy)[3] == everything(done)[3]
    result = read_json(folder / "result.json")
    (folder / "checkpoints" / "13").rename(folder / "checkpoints" / "12")
    write_json(folder / "result.json", result | {"digests": ["0" * 64] * len(result["digests"])})
    shutil.rmtree(copy / "rung_2")
    find(copy)
    assert "is not that of its result" in " ".join(capsys.readouterr().err.split())


REFUSED = {
    "another eta": (lambda at: find(at, rule=(4, 2)), "holds another search: eta = 2 there and 4 here"),
    "other rungs": (lambda at: find(at, rule=(2, 2)), "rungs = 3 there and 2 here"),
    "other seeds": (lambda at: find(at, dataclasses.replace(CONFIG, seeds=2)), "seeds is 16 there and 2 here"),
    "another budget": (
        lambda at: find(at, dataclasses.replace(CONFIG, options=OPTIONS | {"total_steps": 800})),
        "total_steps = 384 there and 800 here",
    ),
    "no search": (
        lambda at: experiment.prepare(dataclasses.replace(CONFIG, run_dir=str(at))),
        "holds a search; give one of its experiments",
    ),
    "a search in a rung": (lambda at: find(at / "rung_0"), "holds an experiment, not a search"),
    "a policy": (lambda at: jaxpg.load_policy(at), "holds a search"),
    "total_steps": (lambda at: read_config(at / "rung_0").extended(10_000), "rung of a search"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_the_directory_is_refused_in_one_line(done, name):
    call, says = REFUSED[name]
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        call(done)
    assert says in str(caught.value)


def test_another_search_is_refused_also_before_its_first_rung_began(done, tmp_path):
    shutil.copy(done / "search.json", tmp_path)
    with pytest.raises(ValueError, match="seeds is 16 there and 2 here"):
        find(tmp_path, dataclasses.replace(CONFIG, seeds=2))
    find(tmp_path)
    assert everything(tmp_path) == everything(done)


BAD = [
    (lambda: read_rule("x"), "halving = x must be ETA or ETA:RUNGS"),
    (lambda: read_rule("2:3:4"), "halving = 2:3:4 must be"),
    (lambda: halving.prepare(CONFIG, (2, 5)), "rungs = 5 with eta = 2 are too many for 8 settings"),
    (
        lambda: halving.prepare(dataclasses.replace(CONFIG, options=OPTIONS | {"total_steps": 32}), (2, 3)),
        "with 16 in an update, are equal",
    ),
    (
        lambda: halving.prepare(dataclasses.replace(CONFIG, vary={"total_steps": (64, 128)}), (2, 2)),
        "total_steps varies",
    ),
]


@pytest.mark.parametrize(("call", "says"), BAD, ids=[says for _, says in BAD])
def test_a_search_that_cannot_be_is_refused_in_one_line(call, says):
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        call()
    assert says in str(caught.value)


def test_settings_of_several_programs_are_searched(tmp_path):
    vary = [{"num_steps": steps, "learning_rate": rate} for steps in (4, 8) for rate in (1e-3, 1e-2)]
    config = dataclasses.replace(CONFIG, seeds=2, vary=vary)
    found = find(tmp_path / "sizes", config, (2, 2))
    assert found.diverged_at.shape == (2, 2)
    assert np.nanmax(found.env_steps, axis=1).tolist() == [384, 384]


def test_python_searches_in_the_same_directories_with_an_algorithm_of_ones_own(tmp_path):
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, hidden=(4,), total_steps=192)
    settings = search.sample({"learning_rate": search.log(1e-4, 1e-1)}, 4)
    call = {
        "directory": tmp_path / "mine",
        "total_steps": 192,
        "seeds": 2,
        "vary": settings,
        "eval_episodes": 1,
        "halving": (2, 2),
    }
    found = jaxpg.run(algo, **call)
    assert len(found.settings) == 2
    assert all(setting in settings for setting in found.settings)
    assert np.array_equal(jaxpg.run(algo, **call).digests, found.digests)
    act = jaxpg.load_policy(tmp_path / "mine" / "rung_1", algo=algo)
    assert act(np.zeros(4)) in (0, 1)
    with pytest.raises(ValueError, match="logger: with halving"):
        jaxpg.run(algo, **call, logger=Logger())


class Logger:
    def write(self, rows): ...

    def close(self, summary): ...


def test_the_command_line_searches_resumes_shows_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "a2c", *WORDS, "--run-dir", "runs/s"]) == 0
    shown = capsys.readouterr().out
    summary, config = read_json(tmp_path / "runs/s/summary.json"), read_config("runs/s/rung_1")
    assert "for each of 4 settings, successive halving" in shown
    assert "jaxpg evaluate runs/s/rung_1 --setting" in shown
    assert f"{summary['env_steps']:,.0f} steps of training, 75% of the" in shown
    assert command(config).endswith(" ".join(WORDS[-8:]))  # the command of a rung is that of its search
    assert cli.main(["resume", "runs/s"]) == 0
    assert capsys.readouterr().out == shown
    shutil.rmtree("runs/s/rung_1")
    os.remove("runs/s/summary.json")
    assert cli.main(["resume", "runs/s"]) == 0
    assert capsys.readouterr().out == shown
    monkeypatch.setattr(page, "pictures", lambda *_: iter(()))
    assert cli.main(["report", "runs/s", "--out", "report.html"]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "successive halving" in text
    assert "rung_0" in text
    assert "rung_1" in text
    os.remove("runs/s/rung_1/summary.json")
    assert cli.main(["resume", "runs/s/rung_1"]) == 2
    assert "is a rung of a search; jaxpg resume" in capsys.readouterr().err


def test_a_search_that_is_killed_with_its_process_continues_bit_for_bit(tmp_path, jaxpg_process):
    def start(name):
        return jaxpg_process(["sweep", "a2c", *WORDS, "--run-dir", tmp_path / name], tmp_path / f"{name}.log")

    assert start("undisturbed").wait(300) == 0
    process = start("killed")
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed").glob("rung_1/batches/*/batch.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert start("killed").wait(300) == 0
    assert everything(tmp_path / "killed") == everything(tmp_path / "undisturbed")


# Optuna.


@contextlib.contextmanager
def compilations():
    """Count what XLA compiles inside."""
    counted = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            counted.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counted
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_study_of_20_trials_is_compiled_once(monkeypatch):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, hidden=(5,))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    space = {"learning_rate": search.log(1e-4, 1e-1), "gamma": [0.9, 0.99]}
    call = {"batch_size": 8, "seeds": 2, "total_steps": 64, "eval_episodes": 2}
    told, tell = [], study.tell
    with compilations() as counted:
        monkeypatch.setattr(study, "tell", lambda *given, **more: told.append(len(counted)) or tell(*given, **more))
        jaxpg.optimize_study(study, algo, space, num_trials=20, **call)
    assert told[0] >= 3  # start, updates, evaluation
    assert told == told[:1] * 20
    trials = study.trials
    assert len(trials) == 20
    assert len({trial.params["learning_rate"] for trial in trials}) == 20
    assert all(1e-4 <= trial.params["learning_rate"] <= 1e-1 for trial in trials)
    alone = jaxpg.sweep(
        algo, [trial.params for trial in trials[16:]] + [trials[19].params] * 4, seeds=2, total_steps=64, eval_episodes=2
    )
    np.testing.assert_array_equal([trial.value for trial in trials[16:]], alone.returns["greedy_return"].mean(axis=1)[:4])


def test_a_diverged_trial_fails_and_so_do_those_of_a_batch_that_raised():
    optuna = pytest.importorskip("optuna")
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, hidden=(5,))
    call = {"num_trials": 2, "batch_size": 2, "seeds": 2, "total_steps": 64, "eval_episodes": 2}
    study = optuna.create_study(direction="maximize")
    for rate in (1e-3, 1e38):
        study.enqueue_trial({"learning_rate": rate})
    jaxpg.optimize_study(study, algo, {"learning_rate": [1e-3, 1e38]}, **call)
    states = {trial.params["learning_rate"]: trial.state.name for trial in study.trials}
    assert states == {1e-3: "COMPLETE", 1e38: "FAIL"}
    with pytest.raises(ValueError, match="num_steps is a size"):
        jaxpg.optimize_study(study, algo, {"num_steps": [8, 16]}, **call)
    assert [trial.state.name for trial in study.trials[2:]] == ["FAIL", "FAIL"]
    with pytest.raises(ValueError, match="direction='maximize'"):
        jaxpg.optimize_study(optuna.create_study(), algo, {"gamma": [0.9]}, **call)
