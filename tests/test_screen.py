"""Progress and the table at the end."""

import io

import numpy as np
from rich.console import Console

from jaxpg.lab.config import RunConfig
from jaxpg.lab.engine.progress import Progress, show_evaluation, show_summary
from jaxpg.lab.policies.loading import Evaluation

SCORE = {"mean": 480.0, "median": 500.0, "iqm": 490.0, "ci95": [400.0, 500.0], "per_seed": [460.0, 500.0]}
SUMMARY = {
    "env": "CartPole-v1",
    "algo": "reinforce",
    "num_seeds": 2,
    "num_updates": 10,
    "env_steps_per_seed": 5000,
    "sampled_steps": 1234.0,
    "greedy_return": SCORE,
    "sampled_return": SCORE | {"ci95": [float("nan")] * 2},
    "diverged": [],
    "solved_threshold": 475.0,
    "solved_fraction": 0.5,
    "compile_seconds": 1.0,
    "train_seconds": 2.0,
    "env_steps_per_second": 5000.0,
}


def watched(terminal):
    """A progress over 1000 steps of two seeds that takes a second per look at the clock, and what it printed."""
    paper, times = io.StringIO(), iter(range(1000))
    console = Console(file=paper, force_terminal=terminal, width=120)
    with Progress(console, 1000, 2, clock=lambda: float(next(times))) as progress:
        progress.stage("compiling")
        progress.stage("training")
        for steps in range(100, 1001, 100):
            progress.advance(steps, np.array([steps, np.nan]))
        progress.advance(1000, np.array([np.nan, 2000.0]))
    return progress, paper.getvalue()


def test_lines_where_there_is_no_terminal():
    _, paper = watched(terminal=False)
    lines = paper.splitlines()
    assert lines[:2] == ["compiling", "training"]
    assert 2 <= len(lines[2:]) <= 6  # every few seconds, not every time
    assert "%" in lines[2]
    assert "steps/s" in lines[2]
    assert lines[2].endswith("left")
    assert "\x1b" not in paper


def test_a_bar_where_there_is_one():
    progress, paper = watched(terminal=True)
    assert "\x1b" in paper
    assert progress.bar.tasks[0].completed == 1000
    assert "return 1500.0" in progress.bar.tasks[0].fields["said"]  # of each seed, its latest


def test_no_episode_yet_is_a_dash_not_a_number():
    progress = Progress(Console(file=io.StringIO()), 1000, 2)
    progress.stage("training")
    progress.advance(10, np.full(2, np.nan))
    assert "return -" in progress.describe(10)


def test_the_table_at_the_end():
    paper = io.StringIO()
    show_summary(Console(file=paper, width=100), SUMMARY, "runs/here")
    for words in (
        "reinforce on CartPole-v1",
        "400.0 to 500.0",
        "1 of 2 seeds",
        "5,000 per seed",
        "1,234",
        "runs/here",
        "490.0",
    ):
        assert words in paper.getvalue()
    assert "nan" not in paper.getvalue()
    assert "diverged" not in paper.getvalue()


def test_who_diverged_is_named_with_the_update_and_has_no_number():
    paper = io.StringIO()
    lost = {"mean": None, "median": 460.0, "iqm": None, "ci95": [None, 500.0], "per_seed": [460.0, None]}
    at = [{"seed": 1, "update": 1007}]
    show_summary(Console(file=paper, width=100), SUMMARY | {"greedy_return": lost, "diverged": at}, "runs/here")
    assert "diverged  seed 1 (at update 1,007): they count as the worst" in paper.getvalue()
    [row] = [line for line in paper.getvalue().splitlines() if "greedy" in line and "│" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["greedy", "-", "460.0", "-", "- to 500.0"]


def test_a_seed_that_diverges_is_said_once_on_any_screen():
    for terminal in (False, True):
        paper = io.StringIO()
        progress = Progress(Console(file=paper, force_terminal=terminal, width=120), 1000, 3)
        for at in ([0, 0, 0], [0, 1007, 0], [0, 1007, 0], [3, 1007, 0]):
            progress.diverged(np.array(at))
        assert paper.getvalue().splitlines() == [
            f"jaxpg: seed {seed} diverged at update {at} and stays as it was before; the others go on"
            for seed, at in ((1, "1,007"), (0, "3"))
        ]


def test_what_was_done_before_a_run_was_resumed_does_not_count_for_its_speed():
    now = [0.0]
    progress = Progress(Console(file=io.StringIO()), 1000, 2, clock=lambda: now[0])
    progress.stage("training", 600)
    now[0] = 2.0
    assert progress.describe(800) == "200 steps/s  return -  0:02 left"  # 200 of each of two seeds in two seconds


def test_policies_that_are_evaluated_have_the_same_table():
    paper = io.StringIO()
    config = RunConfig("ppo", seeds=3, run_dir="here")
    returns = {"greedy_return": np.array([480.0, np.nan, 490.0]), "sampled_return": np.array([400.0, np.nan, 410.0])}
    show_evaluation(Console(file=paper, width=120), Evaluation(config, 1500, 16, returns, np.array([0, 12, 0])))
    text = " ".join(paper.getvalue().split())  # the title is as wide as the table
    assert text.startswith("ppo on CartPole-v1: 3 seeds ")
    assert "policies after update 1,500, 16 episodes each" in text
    assert "diverged seed 1 (at update 12): they count as the worst" in text
    assert [word in text for word in ("greedy", "sampled", "480.0", "400.0", "nan", "inf")] == [True] * 4 + [False] * 2


def test_nothing_is_said_of_solving_where_no_threshold_is_known():
    paper = io.StringIO()
    show_summary(Console(file=paper), SUMMARY | {"solved_threshold": None, "solved_fraction": None}, "runs/here")
    assert "solved" not in paper.getvalue()
