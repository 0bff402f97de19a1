"""What a command prints at its end, and that text from elsewhere is shown and never interpreted."""

import dataclasses
import io
import json
import math
import re
import types

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import trim_mean

from jaxpg import stats
from jaxpg.lab.cli import environments
from jaxpg.lab.config import Config
from jaxpg.lab.policies.loading import Evaluation
from jaxpg.lab.report import terminal, text
from jaxpg.lab.store.files import storable
from jaxpg.lab.store.results import Results

HOSTILE = "\x1b[31mred\x1b]8;;http://x\x07\n[bold]a[/bold][link=http://x] :smile: \u202e\ud800<b>"
SHOWN = r"\x1b[31mred\x1b]8;;http://x\x07\n[bold]a[/bold][link=http://x] :smile: \u202e\ud800<b>"


def finished(scores, diverged_at=None, vary=({},), threshold=475.0, **about):
    """The results and the summary of settings ``vary`` with greedy returns ``scores``, ``[S, N]``, as stored on the disk."""
    scores, diverged_at = (
        np.array(scores, float),
        np.zeros(np.shape(scores), int) if diverged_at is None else np.array(diverged_at),
    )
    scores = np.where(diverged_at > 0, np.nan, scores)
    config = {"algo": "reinforce", "env": "CartPole-v1", "options": {}} | about
    settings = []
    for i, setting in enumerate(vary):
        score = stats.summarize(scores[i]) | {"per_seed": scores[i].tolist()}
        settings.append(
            {"setting": setting, "num_updates": 10, "env_steps_per_seed": 5000, "sampled_steps": 1234.0, "digest": "0"}
        )
        settings[-1] |= {"greedy_return": score, "sampled_return": score}
        settings[-1]["diverged"] = [{"seed": seed, "update": at} for seed, at in enumerate(diverged_at[i].tolist()) if at]
        if threshold is not None:
            settings[-1]["solved"] = stats.summarize_solved(scores[i], threshold)
    summary = {name: config[name] for name in ("algo", "env")} | {"num_seeds": scores.shape[1], "programs": 1}
    summary |= {"compile_seconds": 1.0, "train_seconds": 2.0, "env_steps_per_second": 5000.0, "batches": 1}
    summary |= {"solved_threshold": threshold, "settings": settings}
    steps = np.full((len(vary), 1), 5000.0)
    found = Results("run", config, vary, steps, {}, {"greedy_return": scores}, diverged_at)
    return found, json.loads(json.dumps(storable(summary)))


def printed(show, *arguments, width=100, **options):
    paper = io.StringIO()
    show(Console(file=paper, width=width, **options), *arguments)
    return paper.getvalue()


def cells(paper):
    """Cells of each line, which two spaces or more separate."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in paper.splitlines()]


def test_a_run():
    returns = [[460.0, 470.0, 480.0, 500.0]]
    lines = cells(printed(terminal.show, *finished(returns), "runs/here"))
    low, high = stats.bootstrap_interval(returns[0])
    assert lines == [
        ["reinforce on CartPole-v1: 4 seeds"],
        ["evaluation", "mean", "median", "IQM", "95 % interval"],
        ["greedy", "478", "475", "475", f"{low:.0f} to {high:.0f}"],
        ["sampled", "478", "475", "475", f"{low:.0f} to {high:.0f}"],
        ["solved", "2 of 4 with a greedy return of at least 475"],
        ["steps", "5,000 per seed in 10 updates (1,234 of them used)"],
        ["speed", "5,000 steps/s; 1.0 s to compile, 2.0 s to train"],
        ["files", "runs/here"],
        ["report", "jaxpg report runs/here"],
    ]


def test_the_seconds_of_several_batches_are_their_sum():
    found, summary = finished([[480.0] * 4])
    lines = cells(printed(terminal.show, found, summary | {"batches": 1_200}, "runs/here"))
    assert ["speed", "5,000 steps/s; 1.0 s to compile, 2.0 s to train, the sum over 1,200 batches"] in lines


def test_a_sweep():
    vary = ({"learning_rate": 1e-4}, {"learning_rate": 1e-3}, {"learning_rate": 1e-2})
    scores = [[400.0, 410.0, 420.0, 430.0], [480.0, 490.0, 500.0, 500.0], [10.0, 20.0, 30.0, 40.0]]
    lines = cells(printed(terminal.show, *finished(scores, [[0] * 4, [0] * 4, [0, 7, 0, 1007]], vary), "my runs/lr"))
    assert lines[0] == ["reinforce on CartPole-v1: 4 seeds for each of 3 settings, greedy return"]
    assert lines[1] == ["learning_rate", "solved", "mean", "median", "IQM", "95 % interval"]
    assert [line[:-4] for line in lines[2:5]] == [["0.0001", "0 of 4"], ["*", "0.001", "4 of 4"], ["0.01", "0 of 4"]]
    assert lines[4][2:4] == ["-", "-"], "no mean of diverged seeds, no median of two in four"
    assert ["diverged", "learning_rate = 0.01: seed 1 (at update 7), seed 3 (at update 1,007); counted as the worst"] in lines
    assert ["report", "jaxpg report 'my runs/lr'"] in lines


def test_of_many_settings_the_best_are_printed_with_their_numbers():
    vary = tuple({"learning_rate": i / 1000} for i in range(150))
    scores = np.random.default_rng(0).permutation(150)[:, None] * np.array([[1.0, 2.0, 3.0, 4.0]])
    lines = cells(printed(terminal.show, *finished(scores, np.eye(150, 4, dtype=int) * 3, vary), "here"))
    assert lines[0] == ["reinforce on CartPole-v1: 4 seeds for each of 150 settings, greedy return; the best 20"]
    assert lines[1] == ["setting", "learning_rate", "solved", "mean", "median", "IQM", "95 % interval"]
    iqm = [trim_mean(np.where(np.eye(150, 4)[i] > 0, -1000, scores[i]), 0.25) for i in range(150)]
    order = np.argsort(iqm)[::-1][:20]
    assert [line[:2] for line in lines[2:22]] == [[f"{i}", f"{i / 1000:g}"] for i in order]
    assert ["diverged", "4 seeds of 4 settings; counted as the worst"] in lines
    assert len(lines) < 30


def test_a_diverged_seed_is_named_with_its_update_and_has_no_number():
    paper = printed(terminal.show, *finished([[460.0, 470.0, 480.0, 490.0]], [[0, 1007, 0, 0]]), "runs/here")
    assert ["diverged", "seed 1 (at update 1,007); counted as the worst"] in cells(paper)
    [row] = [line for line in cells(paper) if line[0] == "greedy"]
    assert row[1] == "-"
    assert row[-1].startswith("-inf to ")
    assert "nan" not in paper.lower()


def test_nothing_is_said_of_solving_where_no_threshold_is_known():
    assert "solved" not in printed(terminal.show, *finished([[1.0, 2.0]], threshold=None), "runs/here")


def test_no_cell_is_cut_in_a_narrow_terminal():
    vary = tuple({"critic_learning_rate": rate} for rate in (0.000125, 0.00025))
    found = finished([[1.0, 2.0]] * 2, vary=vary)
    assert printed(terminal.show, *found, "runs/here", width=20) == printed(terminal.show, *found, "runs/here", width=500)


@pytest.fixture
def evaluation():
    returns = {"greedy_return": np.array([480.0, np.nan, 490.0]), "sampled_return": np.array([400.0, np.nan, 410.0])}
    return Evaluation(Config("ppo", seeds=3, run_dir="here"), {}, 1500, 16, returns, np.array([0, 12, 0]))


def test_an_evaluation_of_policies(evaluation):
    lines = cells(printed(terminal.show_evaluation, evaluation))
    assert lines[0] == ["ppo on CartPole-v1: 3 seeds"]
    assert [line[0] for line in lines[2:4]] == ["greedy", "sampled"]
    assert lines[2][1:4] == ["-", "480.0", "-"]
    assert lines[4:] == [
        ["policies", "after update 1,500, 16 episodes each"],
        ["diverged", "seed 1 (at update 12); counted as the worst"],
    ]


def test_an_evaluation_elsewhere_says_where(evaluation):
    there = dataclasses.replace(evaluation, where="gymnasium:CartPole-v1")
    assert ["played in", "gymnasium:CartPole-v1"] in cells(printed(terminal.show_evaluation, there))
    assert terminal.evaluation_json(there) == terminal.evaluation_json(evaluation) | {"in": "gymnasium:CartPole-v1"}


def test_an_evaluation_as_json_has_no_number_where_a_seed_diverged(evaluation):
    found = terminal.evaluation_json(evaluation)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    about = {"algo": "ppo", "env": "CartPole-v1", "num_seeds": 3, "step": 1500, "episodes": 16}
    assert about.items() <= found.items()
    assert found["diverged"] == [{"seed": 1, "update": 12}]
    greedy = found["greedy_return"]
    assert (greedy["per_seed"], greedy["mean"], greedy["median"]) == ([480.0, None, 490.0], None, 480.0)
    assert greedy["ci95"] == [None, 490.0]
    assert greedy["diverged"] == [1]


def test_text_from_files_is_shown_and_never_interpreted(evaluation):
    vary = ({HOSTILE: 1.0, "hidden": "x"}, {HOSTILE: 2.0, "hidden": HOSTILE})
    sweep = finished([[1.0, 2.0], [3.0, 4.0]], [[0, 0], [0, 3]], vary, algo=HOSTILE, env=HOSTILE)
    run = finished([[1.0, 2.0]], algo=HOSTILE, env=HOSTILE)
    stranger = dataclasses.replace(
        evaluation, config=types.SimpleNamespace(algo=HOSTILE, env=HOSTILE, env_params={HOSTILE: 1}, seeds=3)
    )
    for arguments, count in (
        ((terminal.show, *sweep, HOSTILE), 8),  # title 2, head 1, value 1, setting that diverged 2, files 1, report 1
        ((terminal.show, *run, HOSTILE), 4),
        ((terminal.show_evaluation, stranger), 3),
    ):
        paper = printed(*arguments)
        assert all(c.isprintable() or c == "\n" for c in paper)
        assert paper.count(SHOWN) == count
        styled = printed(*arguments, force_terminal=True, color_system="truecolor")
        assert re.sub(r"\x1b\[[01]m", "", styled) == paper, "nothing but bold"
        assert "\x1b[1m" in styled


@pytest.mark.parametrize(
    ("value", "half_width", "expected"),
    [
        (487.31, 3.2, "487.3"),
        (487.31, 32.0, "487"),
        (-1298.4, 270.0, "-1298"),
        (-0.04123, 0.005, "-0.0412"),
        (-0.04123, 0.02, "-0.041"),
        (1.234e-5, 1e-5, "1.2e-05"),
        (12345678.0, 2e4, "1.235e+07"),
        (500.0, 0.0, "500.0"),
        (0.0123456, math.nan, "0.01235"),
        (0.0, 0.0, "0.0"),
    ],
)
def test_digits_follow_the_width_of_the_interval(value, half_width, expected):
    spec = text.number_format([value, math.nan, None], [(value - half_width, value + half_width), (None, value)])
    assert text.format_number(value, spec) == expected


def test_the_narrowest_interval_of_a_table_decides():
    assert text.number_format([20.0, 480.0], [(0.0, 40.0), (478.0, 482.0)]) == ".1f"


def test_environments_are_listed_without_a_download(monkeypatch):
    def refuse(*_):
        raise AssertionError("a download")

    monkeypatch.setattr("gymnax.utils.load_mnist.load_mnist", refuse)
    head, *lines = cells(printed(environments.show).partition("other suites")[0].rstrip())
    listed = {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}
    assert len(listed) == len(lines) >= 26
    assert listed["MountainCar-v0"] == {
        "observation": "Box(2)",
        "action": "Discrete(3)",
        "time limit": "200",
        "solved from": "-110",
        "own presets": "all algorithms",
    }
    assert listed["Pendulum-v1"]["action"] == "Box(1) [-2, 2]"
    assert listed["Acrobot-v1"]["own presets"] == "reinforce_baseline, ppo"
    assert listed["MNISTBandit-bsuite"]["observation"] == "downloads MNIST"
