"""Progress while a run is under way."""

import io

import numpy as np
from rich.console import Console

from jaxpg.lab.engine.progress import Progress


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


def test_a_seed_that_diverges_is_said_once_on_any_screen():
    for terminal in (False, True):
        paper = io.StringIO()
        progress = Progress(Console(file=paper, force_terminal=terminal, width=120), 1000, 3)
        for at in ([0, 0, 0], [0, 1007, 0], [0, 1007, 0], [3, 1007, 0]):
            progress.diverged(np.array(at))
        assert paper.getvalue().splitlines() == [
            f"jaxpg: seed {seed} diverged at update {at} and keeps its state before that update; the other runs continue"
            for seed, at in ((1, "1,007"), (0, "3"))
        ]


def test_what_was_done_before_a_run_was_resumed_does_not_count_for_its_speed():
    now = [0.0]
    progress = Progress(Console(file=io.StringIO()), 1000, 2, clock=lambda: now[0])
    progress.stage("training", 600)
    now[0] = 2.0
    assert progress.describe(800) == "200 steps/s  return -  0:02 left"  # 200 of each of two seeds in two seconds
