"""Progress and the table at the end."""

import io

import numpy as np
from rich.console import Console

from jaxpg.lab.progress import Progress, show_summary

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


def test_nothing_is_said_of_solving_where_no_threshold_is_known():
    paper = io.StringIO()
    show_summary(Console(file=paper), SUMMARY | {"solved_threshold": None, "solved_fraction": None}, "runs/here")
    assert "solved" not in paper.getvalue()
