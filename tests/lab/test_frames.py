"""Results on a screen, in a notebook, and as tables of pandas and xarray."""

import math
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import trim_mean

from jaxpg.lab.store.results import Results

NAN = math.nan
SETTINGS = [{"learning_rate": 0.001, "hidden": (64, 64)}, {"learning_rate": 0.01, "hidden": (8,)}]
GREEDY = [[1.0, 2.0, 3.0, 10.0, 4.0], [5.0, NAN, 6.0, 7.0, NAN]]  # the last run diverged, the other is not there yet


def make(settings=SETTINGS, greedy=GREEDY, name="mine", **config):
    """Results whose values say where they are: ``100 * setting + 10 * seed + point``; setting 1 has one log point less."""
    greedy = np.array(greedy)
    setting, seed, point = np.indices((*greedy.shape, 3))
    values = np.where((setting == 1) & (point == 2), NAN, 100.0 * setting + 10 * seed + point)
    env_steps = np.tile([10.0, 20.0, 30.0], (len(settings), 1))
    env_steps[1:2, 2] = NAN
    diverged_at = np.zeros(greedy.shape, int)
    diverged_at[1:2, -1] = 7
    returns = {"greedy_return": greedy, "sampled_return": greedy - 0.5}
    metrics, evaluations = {"entropy": values, "kl": -values}, {"greedy_return": values[..., :2] + 0.25}
    config = {"algo": "ppo", "env": "CartPole-v1", "options": {"gamma": 0.9}} | config
    return Results(name, config, settings, env_steps, metrics, returns, diverged_at, env_steps[:, :2], evaluations)


def lines_of(found):
    """The lines of ``repr``, which fit a screen."""
    lines = repr(found).splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    return lines


def numbers_in(line):
    return [float(cell) for cell in re.findall(r"(?<=\s)-?[\d.]+(?=\s|$)", line)]


def test_results_show_sizes_budget_and_the_scores_of_each_setting():
    title, heads, first, second, *notes = lines_of(make())
    assert title == "Results of mine (ppo on CartPole-v1): 2 settings x 5 seeds, 20 to 30 environment steps per run"
    assert " ".join(heads.split()) == "setting greedy IQM min max sampled IQM min max done diverged"
    assert first.split()[:2] == ["learning_rate=0.001", "hidden=64x64"]
    iqm = trim_mean(GREEDY[0], 0.25)
    assert numbers_in(first) == pytest.approx([iqm, 1, 10, iqm - 0.5, 0.5, 9.5, 5, 0])
    # Of 5, 6, 7 and one that diverged, the worst: without the lowest and the highest.
    assert numbers_in(second) == pytest.approx([5.5, 5, 7, 5.0, 4.5, 6.5, 4, 1])
    assert [note.strip() for note in notes] == ["metrics at 3 log points: entropy, kl", "2 evaluations during training"]


def test_an_algorithm_without_a_name_is_not_named():
    assert lines_of(make(algo="own", own=True))[0].startswith("Results of mine (CartPole-v1): ")
    assert lines_of(make(algo="my_ppo", own=True))[0].startswith("Results of mine (my_ppo on CartPole-v1): ")


def test_of_many_settings_the_best_are_shown():
    names = [{"learning_rate": i, "a_hyperparameter_with_a_long_name": 0.125} for i in range(40)]
    found = make(names, np.random.default_rng(0).permutation(40)[:, None] * np.ones(5))
    lines = lines_of(found)
    assert [numbers_in(line)[0] for line in lines[2:17]] == list(range(39, 24, -1))
    assert lines[17].strip() == "the best 15 of 40 settings are shown"


def test_results_of_nothing_yet_are_shown():
    nothing = np.full((1, 2), NAN)
    found = Results("x", {}, [{}], np.zeros((1, 0)), {}, {"greedy_return": nothing}, np.zeros((1, 2), int))
    title, _, line = lines_of(found)
    assert title == "Results of x: 1 setting x 2 seeds, 0 environment steps per run"
    assert line.split() == ["all", "-", "-", "-", "0", "0"]
    assert found.to_pandas().empty


def test_a_notebook_shows_a_table_of_html_in_which_all_text_is_escaped():
    found = make(name="<script>alert(1)</script>", settings=[{"a<b": "<i>"}, {"a<b": "&amp;"}])
    page = ElementTree.fromstring(f"<div>{found._repr_html_()}</div>")  # noqa: S314 - it is ours
    assert {element.tag for element in page.iter()} == {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.findtext("table/caption").startswith("Results of <script>alert(1)</script> (ppo on CartPole-v1): ")
    rows = [[cell.text for cell in row] for row in page.iter("tr")]
    assert [row[0] for row in rows] == ["setting", "a<b=<i>", "a<b=&amp;"]
    assert {len(row) for row in rows} == {9}
    assert float(rows[1][1]) == pytest.approx(trim_mean(GREEDY[0], 0.25), abs=1e-3)


def test_a_data_frame_has_a_row_for_each_run_and_log_point():
    pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'jaxpg[frames]'")
    found = make()
    frame = found.to_pandas()
    assert list(frame) == ["setting", "learning_rate", "hidden", "seed", "env_steps", "entropy", "kl"]
    assert len(frame) == 5 * 3 + 5 * 2, "a point that a setting does not have is left out"
    for row in frame.itertuples():
        setting = SETTINGS[row.setting]
        assert (row.learning_rate, row.hidden) == (setting["learning_rate"], "x".join(map(str, setting["hidden"])))
        assert row.entropy == -row.kl == 100 * row.setting + 10 * row.seed + row.env_steps / 10 - 1
    means = frame.groupby(["hidden", "env_steps"]).entropy.mean()
    assert means.loc["64x64"].to_dict() == {10: 20.0, 20: 21.0, 30: 22.0}
    runs = found.to_pandas("returns")
    assert list(runs) == ["setting", "learning_rate", "hidden", "seed", "greedy_return", "sampled_return", "diverged_at"]
    np.testing.assert_array_equal(runs["greedy_return"].to_numpy().reshape(2, 5), GREEDY)
    assert runs["diverged_at"].tolist() == [0] * 9 + [7]
    evaluations = found.to_pandas("evaluations")
    assert evaluations[evaluations.seed == 3].greedy_return.tolist() == [30.25, 31.25, 130.25, 131.25]
    assert isinstance(evaluations, pd.DataFrame)
    with pytest.raises(ValueError, match=r"^table = all must be one of metrics, returns, evaluations$"):
        found.to_pandas("all")


def test_a_hyperparameter_that_one_setting_does_not_name_has_the_value_of_all():
    pytest.importorskip("pandas", reason="pandas is not installed: pip install 'jaxpg[frames]'")
    frame = make([{"gamma": 0.5, "beta": 1.0}, {}]).to_pandas("returns")
    assert frame.gamma.unique().tolist() == [0.5, 0.9]
    np.testing.assert_array_equal(frame.beta.unique(), [1.0, NAN])


def test_a_dataset_has_the_arrays_with_names_for_their_axes():
    pytest.importorskip("xarray", reason="xarray is not installed: pip install 'jaxpg[frames]'")
    found = make()
    data = found.to_xarray()
    assert dict(data.sizes) == {"setting": 2, "seed": 5, "point": 3, "evaluation": 2}
    for name, values in found.metrics.items():
        np.testing.assert_array_equal(data[name], values)
    assert data.attrs == {"name": "mine", "algo": "ppo", "env": "CartPole-v1"}
    chosen = data.isel(setting=1)
    assert (chosen.learning_rate.item(), chosen.hidden.item()) == (0.01, "8")
    assert chosen.entropy.sel(seed=3).isel(point=1).item() == 131.0
    assert chosen.env_steps.to_numpy().tolist()[:2] == [10.0, 20.0]
    assert chosen.evaluation_greedy_return.sel(seed=3, evaluation=1).item() == 131.25
    np.testing.assert_array_equal(data.greedy_return.max("seed"), [10.0, 7.0])


@pytest.mark.parametrize("package", ["pandas", "xarray"])
def test_a_missing_package_is_one_line_that_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        getattr(make(), f"to_{package}")()
    assert re.fullmatch(rf"to_{package}: .*{package}.*; pip install 'jaxpg\[frames\]'", str(caught.value))
