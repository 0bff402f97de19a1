"""Progress, the table at the end, figures."""

import io

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from jaxpg.lab import plots
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


def test_gaps_lie_on_the_line_and_nothing_comes_before_the_first_episode():
    gaps = np.array([[np.nan, 1.0, np.nan], [2.0, np.nan, np.nan], [np.nan, np.nan, np.nan], [3.0, 4.0, np.nan]])
    nan = np.nan
    np.testing.assert_allclose(plots.without_gaps(gaps), [[nan, 1.0, nan], [2.0, 2.0, nan], [2.5, 3.0, nan], [3.0, 4.0, nan]])


def test_a_curve_shows_every_seed_their_median_and_middle_half():
    steps, returns = np.arange(1, 6) * 10.0, np.arange(15.0).reshape(5, 3)
    axes = plots.learning_curve(steps, returns, "ppo on CartPole-v1", threshold=9.0).axes[0]
    *seeds, median, threshold = axes.lines
    assert len(seeds) == 3
    np.testing.assert_array_equal(median.get_ydata(), np.median(returns, axis=1))
    np.testing.assert_array_equal(threshold.get_ydata(), [9.0, 9.0])
    low, high = axes.collections[0].get_datalim(axes.transData).intervaly
    assert (low, high) == (0.5, 13.5)
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["each seed", "middle half of seeds", "median", "solved: 9"]


@pytest.mark.parametrize("returns", [np.full((4, 2), np.nan), np.ones((4, 1)), np.zeros((0, 2)), np.array([[1.0, np.nan]])])
def test_a_figure_of_any_run_is_a_picture(tmp_path, returns):
    steps = np.arange(len(returns)) + 1.0
    plots.save(plots.learning_curve(steps, returns, "a run"), tmp_path / "curves.png")
    height, width = imread(tmp_path / "curves.png").shape[:2]
    assert (width, height) == (1024, 640)
