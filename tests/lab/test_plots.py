"""Figures, by what they draw: the numbers of their lines, bands, cells and labels."""

import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.image import imread
from scipy.stats import trim_mean

from jaxpg.lab.report import figures, landscape, plots
from jaxpg.lab.report.rows import rows
from jaxpg.lab.store.results import Results

RATES = [0.0001, 0.001, 0.01]


def sweep(vary, n=8, points=5, name="sweep", env="CartPole-v1", diverged=(), done=None):
    """A sweep of every combination of ``vary``; setting ``i`` has a return of about ``100 i``; ``diverged`` are (i, seed)."""
    settings = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())] or [{}]
    shape = (len(settings), n)
    rng = np.random.default_rng(0)
    curves = 100.0 * np.arange(len(settings))[:, None, None] + np.cumsum(rng.uniform(0, 10, (*shape, points)), axis=-1)
    lost = np.zeros(shape, int)
    for place in diverged:
        lost[place] = points // 2 + 1
        curves[place][points // 2 :] = np.nan
    scores = np.where(lost > 0, np.nan, curves[..., -1])
    scores[done:], curves[done:] = (np.nan, np.nan) if done is not None else (scores[done:], curves[done:])
    config = {"algo": "ppo", "env": env, "seeds": n, "options": {}}
    steps = np.tile(100.0 * np.arange(1, points + 1), (len(settings), 1))
    return Results(name, config, settings, steps, {"episode_return": curves}, {"greedy_return": scores}, lost)


def lines(axes):
    """Lines by label."""
    return {line.get_label(): line for line in axes.lines}


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_gaps_lie_on_the_line_and_nothing_comes_before_the_first_episode():
    gaps = np.array([[np.nan, 1.0, np.nan], [2.0, np.nan, np.nan], [np.nan, np.nan, np.nan], [3.0, 4.0, np.nan]])
    nan = np.nan
    np.testing.assert_allclose(plots.without_gaps(gaps), [[nan, 1.0, nan], [2.0, 2.0, nan], [2.5, 3.0, nan], [3.0, 4.0, nan]])


def test_a_curve_shows_every_seed_their_median_and_middle_half():
    steps, returns = np.arange(1, 6) * 10.0, np.arange(15.0).reshape(5, 3)
    figure = plots.learning_curve(steps, returns, "ppo on CartPole-v1", threshold=9.0)
    axes = figure.axes[0]
    *seeds, median, threshold = axes.lines
    assert len(seeds) == 3
    np.testing.assert_array_equal(median.get_ydata(), np.median(returns, axis=1))
    np.testing.assert_array_equal(threshold.get_ydata(), [9.0, 9.0])
    low, high = axes.collections[0].get_datalim(axes.transData).intervaly
    assert (low, high) == (0.5, 13.5)
    assert legend_texts(figure) == ["each seed", "middle half of seeds", "median", "solved: 9"]


def test_the_legend_of_a_curve_lies_below_the_axes_and_hides_nothing():
    figure = plots.learning_curve(np.arange(5.0), np.full((5, 3), 475.0), "ppo on CartPole-v1", threshold=475.0)
    figure.canvas.draw()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_tightbbox()
    assert 0 <= legend.y0 < legend.y1 < axes.y0
    assert 0 <= legend.x0 < legend.x1 < figure.bbox.x1


@pytest.mark.parametrize("returns", [np.full((4, 2), np.nan), np.ones((4, 1)), np.zeros((0, 2)), np.array([[1.0, np.nan]])])
def test_a_figure_of_any_run_is_a_picture(tmp_path, returns):
    steps = np.arange(len(returns)) + 1.0
    plots.save(plots.learning_curve(steps, returns, "a run"), tmp_path / "curves.png")
    height, width = imread(tmp_path / "curves.png").shape[:2]
    assert width == 1024
    assert height in (640, 688)  # without and with a legend


def test_compared_curves_are_interquartile_means_within_their_intervals():
    run = sweep({"learning_rate": RATES})
    figure, caption = figures.compare(rows([run]))
    axes = figure.axes[0]
    assert legend_texts(figure) == [f"learning_rate = {rate:g}" for rate in RATES]
    for i, rate in enumerate(RATES):
        line = lines(axes)[f"learning_rate = {rate:g}"]
        np.testing.assert_array_equal(line.get_xdata(), run.env_steps[i])
        np.testing.assert_allclose(line.get_ydata(), trim_mean(run.metrics["episode_return"][i], 0.25, axis=0))
        low, high = axes.collections[i].get_datalim(axes.transData).intervaly
        assert run.metrics["episode_return"][i].min() <= low <= line.get_ydata().min()
        assert line.get_ydata().max() <= high <= run.metrics["episode_return"][i].max()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps per seed", "episode return")
    assert "8 seeds, shaded: its 95 % bootstrap interval. Dashed: 475, solved." in caption


def test_a_seed_that_diverged_is_the_worst_of_all_from_then_on():
    run = sweep({}, n=4, points=4, diverged=[(0, 3)])
    curves = run.metrics["episode_return"][0]
    curves[:] = [[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [9.0, 9.0, 9.0, 9.0], [5.0, 5.0, np.nan, np.nan]]
    figure, caption = figures.compare(rows([run]))
    np.testing.assert_array_equal(lines(figure.axes[0])["sweep"].get_ydata(), [3.5, 3.5, 1.5, 1.5])
    assert "1 of 4 runs diverged; they count as the worst." in caption


def test_where_too_many_diverged_there_is_no_line():
    run = sweep({}, n=4, points=4, diverged=[(0, 0), (0, 1)])
    figure, _ = figures.compare(rows([run]))
    np.testing.assert_array_equal(np.isnan(lines(figure.axes[0])["sweep"].get_ydata()), [False, False, True, True])


def test_many_values_of_a_number_are_a_scale_of_colours_not_a_legend():
    rates = np.logspace(-5, -1, 12).tolist()
    for draw in (figures.compare, figures.profile):
        figure, caption = draw(rows([sweep({"learning_rate": rates})]))
        axes, bar = figure.axes
        assert bar.get_ylabel() == "learning_rate (log scale)"
        assert not legend_texts(figure)
        colors = [to_rgba(line.get_color()) for line in axes.lines if "learning_rate" in line.get_label()]
        assert len(set(colors)) == 12
        assert "shaded" not in caption


def test_of_many_other_settings_the_best_are_in_colour():
    run = sweep({"learning_rate": RATES, "hidden": [[64, 64], [32], [8], [4]]})
    figure, caption = figures.compare(rows([run]))
    grey = [line for line in figure.axes[0].lines if line.get_color() == figures.BEHIND["color"]]
    assert len(grey) == 4
    assert legend_texts(figure)[0] == "learning_rate = 0.001, hidden = 64x64"  # a higher setting has higher returns
    assert len(legend_texts(figure)) == 8
    assert "In colour: the best 8 of 12 by their greedy return." in caption


def test_lines_differ_in_colour_and_in_marker():
    for is_ordered in (False, True):
        styles = plots.styles(8, is_ordered)
        assert len({style["marker"] for style in styles}) == len({to_rgba(style["color"]) for style in styles}) == 8


def test_several_runs_are_told_apart_by_name_whatever_it_is(tmp_path):
    names = ["_hidden", "a $ and a \\frac{ $", "<b>"]
    figure, _ = figures.compare(rows([sweep({}, name=name) for name in names]))
    assert [text.strip() for text in legend_texts(figure)] == names
    plots.save(figure, tmp_path / "figure.png")
    sweeps = rows([sweep({"gamma": [0.9, 0.99]}, name="one"), sweep({}, name="two")])
    assert [row.label for row in sweeps] == ["one: gamma = 0.9", "one: gamma = 0.99", "two"]


def test_a_sweep_made_in_python_is_drawn_though_it_names_no_algorithm_and_leaves_things_out():
    settings = [{}, {"gamma": 0.9}, {"gamma": 0.9, "hidden": (32, 32)}]
    run = sweep({"gamma": [0.9, 0.95, 0.99]})
    run = dataclasses.replace(run, settings=settings, config={"seeds": 8, "options": {"gamma": 0.98}})
    figure, caption = figures.compare(rows([run]))
    silent = "gamma = 0.98, hidden = default"
    assert legend_texts(figure) == [silent, "gamma = 0.9, hidden = default", "gamma = 0.9, hidden = 32x32"]
    assert figure.axes[0].get_title(loc="left") == "Learning curves"
    assert "solved" not in caption
    figure, _ = landscape.sensitivity(run, "gamma")
    assert figure.axes[0].get_title(loc="left") == "gamma"
    np.testing.assert_allclose(lines(figure.axes[0])["hidden = default"].get_ydata(), [rows([run])[i].iqm for i in (1, 0)])


def test_a_profile_is_the_share_of_seeds_above_tau():
    run = sweep({"learning_rate": RATES}, diverged=[(2, 0), (2, 1)])
    figure, caption = figures.profile(rows([run]))
    for i, rate in enumerate(RATES):
        line = lines(figure.axes[0])[f"learning_rate = {rate:g}"]
        expected = [sum(score > tau for score in run.returns["greedy_return"][i]) / 8 for tau in line.get_xdata()]
        np.testing.assert_array_equal(line.get_ydata(), expected)
    assert max(lines(figure.axes[0])["learning_rate = 0.01"].get_ydata()) == 6 / 8
    assert figure.axes[0].get_ylabel() == "share of seeds above tau"
    assert caption.startswith("Share of 8 seeds with a greedy return above tau; higher is better; shaded")


def test_sensitivity_is_drawn_over_the_logarithm_with_who_diverged():
    run = sweep({"learning_rate": RATES}, diverged=[(2, 0)])
    figure, caption = landscape.sensitivity(run, "learning_rate")
    axes = figure.axes[0]
    *dots, centre, threshold = axes.lines
    np.testing.assert_allclose(centre.get_xdata(), [0.0, 0.5, 1.0])
    ranked = np.sort(np.where(run.diverged, -np.inf, run.returns["greedy_return"]), axis=1)
    np.testing.assert_allclose(centre.get_ydata(), ranked[:, 2:6].mean(axis=1))
    np.testing.assert_array_equal(threshold.get_ydata(), [475.0, 475.0])
    assert [len(dot.get_ydata()) for dot in dots] == [8, 8, 8]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0001", "0.001", "0.01\n1 of 8\ndiverged"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate (log scale)", "greedy return per episode")
    assert "over 8 seeds with its 95 % bootstrap interval; dots: each seed." in caption


def test_text_has_equal_distances_and_a_line_for_each_value_of_the_others():
    run = sweep({"observation": ["none", "running"], "gamma": [0.9, 0.99]})
    figure, _ = landscape.sensitivity(run, "observation")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["none", "running"]
    assert legend_texts(figure) == ["gamma = 0.9", "gamma = 0.99"]
    drawn = lines(figure.axes[0])["gamma = 0.99"].get_ydata()
    np.testing.assert_allclose(drawn, [row.iqm for row in rows([run]) if row.setting["gamma"] == 0.99])


def test_of_many_combinations_of_the_others_sensitivity_takes_the_best():
    run = sweep({"learning_rate": RATES, "gamma": [0.9, 0.99, 0.999], "hidden": [[64], [32], [8]]})
    figure, caption = landscape.sensitivity(run, "learning_rate")
    *_, centre, _ = figure.axes[0].lines
    np.testing.assert_allclose(centre.get_ydata(), [rows([run])[i].iqm for i in (8, 17, 26)])
    assert "At each value, the best combination of gamma and hidden" in caption
    assert not legend_texts(figure)


def test_places_on_an_axis():
    np.testing.assert_allclose(plots.place_values([1, 2, 4])[0], [0, 1 / 3, 1])  # a factor of four needs no logarithm
    np.testing.assert_allclose(plots.place_values([0.9, 0.99, 0.999])[0], [0, 0.5, 1])  # too close to each other
    assert plots.place_values([0.0, 0.01, 1.0])[1] == " (not to scale)"  # zero has no logarithm
    assert plots.thin_ticks(np.array([0.0, 0.01, 1.0]), ["a", "b", "c"])[1] == ["a", "c"]


def test_a_heat_map_prints_the_number_of_each_cell():
    run = sweep({"learning_rate": RATES, "gamma": [0.9, 0.99]}, diverged=[(0, seed) for seed in range(8)], done=5)
    figure, caption = landscape.heat_map(run, "learning_rate", "gamma")
    axes, bar = figure.axes
    middles = {(row.setting["learning_rate"], row.setting["gamma"]): row.iqm for row in rows([run])}
    expected = [[middles[rate, gamma] for rate in RATES] for gamma in (0.9, 0.99)]
    np.testing.assert_array_equal(np.ma.filled(axes.images[0].get_array(), np.nan), expected)
    words = [[f"{value:.1f}" for value in line] for line in expected]
    words[0][0], words[1][2] = "diverged", "not finished"
    assert [text.get_text() for text in axes.texts] == [word for line in words for word in line]
    assert bar.get_ylabel() == "IQM of the greedy return"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "gamma")
    assert "over 8 seeds" in caption


@pytest.mark.parametrize(
    "run",
    [
        sweep({"gamma": [0.9, 0.99]}, n=1),
        sweep({"gamma": [0.9, 0.99]}, done=1, points=1),
        sweep({"gamma": [0.9, 0.99]}, n=2, diverged=list(itertools.product(range(2), range(2)))),
        sweep({"gamma": [0.9, 0.99]}, done=0),
    ],
    ids=["one seed", "half done", "all diverged", "nothing yet"],
)
def test_any_sweep_has_its_pictures(tmp_path, run):
    table = rows([run])
    drawn = [figures.compare(table), figures.profile(table), landscape.sensitivity(run, "gamma")]
    for figure, caption in drawn:
        plots.save(figure, tmp_path / "figure.png")
        assert imread(tmp_path / "figure.png").std() > 0.01
        assert caption.endswith(".")
        assert "shaded" not in caption or table[0].returns.size > 1
