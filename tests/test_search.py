"""Settings are drawn as they should be, and the rule of successive halving is the published one."""

import collections
import itertools
import json

import numpy as np
import pytest
from scipy.stats import chisquare, kstest, qmc

from jaxpg import search
from jaxpg.lab.cli import options
from jaxpg.lab.store.stored import command

SPACE = {"learning_rate": search.log(1e-5, 1e-2), "gamma": search.lin(0.9, 0.999), "num_steps": [16, 32, 64]}
METHODS = ["sobol", "random"]


def unit(settings):
    """Points in the unit cube: the inverse of the ranges."""
    rates, gammas = (np.array([setting[name] for setting in settings]) for name in ("learning_rate", "gamma"))
    return np.stack([np.log(rates / 1e-5) / np.log(1e3), (gammas - 0.9) / 0.099], axis=1)


@pytest.mark.parametrize("method", METHODS)
def test_values_lie_in_their_ranges_and_follow_their_distributions(method):
    settings = search.sample(SPACE, 512, method=method, seed=3)
    points = unit(settings)
    assert points.min() >= 0
    assert points.max() <= 1
    assert all(kstest(column, "uniform").pvalue > 1e-3 for column in points.T)
    counts = collections.Counter(setting["num_steps"] for setting in settings)
    assert counts.keys() == {16, 32, 64}
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_sobol_points_fill_the_space_more_evenly_than_random_ones():
    spread = {
        method: [qmc.discrepancy(unit(search.sample(SPACE, 64, method=method, seed=s))) for s in range(5)] for method in METHODS
    }
    assert max(spread["sobol"]) < min(spread["random"])


def test_each_of_2_to_the_m_intervals_of_a_range_has_one_of_as_many_sobol_points():
    for column in unit(search.sample(SPACE, 32, seed=1)).T:
        assert sorted(np.floor(column * 32).astype(int)) == list(range(32))


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_what_is_drawn_and_more_settings_begin_with_the_same(method):
    settings = search.sample(SPACE, 24, method=method, seed=5)
    assert settings == search.sample(SPACE, 24, method=method, seed=5)
    assert settings[:9] == search.sample(SPACE, 9, method=method, seed=5)
    assert settings != search.sample(SPACE, 24, method=method, seed=6)


@pytest.mark.parametrize("method", METHODS)
def test_no_setting_is_drawn_twice_so_that_a_finite_space_is_drawn_completely(method):
    space = {"num_steps": [16, 32, 64], "epochs": search.lin(1, 4, integer=True)}
    settings = search.sample(space, 12, method=method)
    assert len({json.dumps(setting) for setting in settings}) == 12


def test_integers_are_equally_probable_or_in_the_proportion_of_their_logarithms():
    for values, edges in (
        (search.lin(1, 4, integer=True), np.arange(0.5, 5)),
        (search.log(1, 4, integer=True), np.log(np.arange(0.5, 5))),
    ):
        drawn = [values.value(u) for u in (np.arange(4096) + 0.5) / 4096]
        assert all(type(x) is int for x in drawn)
        np.testing.assert_allclose(np.bincount(drawn)[1:] / 4096, np.diff(edges) / (edges[-1] - edges[0]), atol=1e-3)


def test_floats_have_12_digits():
    rates = [setting["learning_rate"] for setting in search.sample(SPACE, 64)]
    assert rates == [float(f"{rate:.12g}") for rate in rates]


BAD = [
    (lambda: search.lin(1.0, 1.0), "low below high"),
    (lambda: search.log(0.0, 1.0), "positive low"),
    (lambda: search.lin(0.0, float("inf")), "finite"),
    (lambda: search.lin(0.5, 2, integer=True), "integers as low and high"),
    (lambda: search.sample({}, 4), "space must be names"),
    (lambda: search.sample({"gamma": 0.9}, 4), "gamma = 0.9 must be a list of values, or a range"),
    (lambda: search.sample({"gamma": [0.9, 0.9]}, 2), "every value once"),
    (lambda: search.sample(SPACE, 4, method="halton"), "method = 'halton' must be sobol or random"),
    (lambda: search.sample(SPACE, 0), "count = 0 must be an integer of at least 1"),
    (lambda: search.sample({"num_steps": [16, 32]}, 3), "count = 3 is more than the 2 different settings"),
    (lambda: search.rungs(64, 1000, eta=1), "eta = 1 must be"),
    (lambda: search.rungs(64, 1000, num_rungs=1), "rungs = 1 must be"),
    (lambda: search.rungs(4, 1000, eta=4, num_rungs=3), "rungs = 3 with eta = 4 are too many for 4 settings"),
    (lambda: search.rank([1.0, 2.0]), "scores must be"),
]


@pytest.mark.parametrize(("call", "says"), BAD, ids=[says for _, says in BAD])
def test_what_cannot_be_drawn_is_refused_in_one_line(call, says):
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        call()
    assert says in str(caught.value)


def test_rungs_keep_one_of_eta_settings_rounded_up_for_eta_times_the_steps():
    assert search.rungs(64, 81_000, 3, 4) == [(64, 3_000), (22, 9_000), (8, 27_000), (3, 81_000)]
    for settings, eta, num in ((64, 4, 3), (100, 3, 5), (5, 2, 3)):
        counts, steps = zip(*search.rungs(settings, 10_007, eta, num), strict=True)
        assert counts[0] == settings
        assert steps[-1] == 10_007
        assert all(eta * (b - 1) < a <= eta * b for a, b in itertools.pairwise(counts))
        assert all(eta * (a - 1) < b <= eta * a for a, b in itertools.pairwise(steps))


def test_a_diverged_run_counts_as_the_worst_and_ties_are_decided_by_the_next_scores():
    nan = np.nan
    greedy = [[5.0] * 4, [9.0, 9.0, 9.0, nan], [nan] * 4, [nan, nan, nan, 9.0], [5.0] * 4, [4.0, 5.0, 5.0, 5.0]]
    sampled = [[1.0] * 4, [0.0] * 4, [9.0] * 4, [0.0] * 4, [2.0] * 4, [9.0] * 4]
    # 1 has the highest IQM, of its middle half; 0, 4 and 5 have the same IQM, 5 a lower mean, 4 the better sampled return
    assert search.rank(greedy, sampled).tolist() == [1, 4, 0, 5, 3, 2]
    assert search.rank(greedy).tolist() == [1, 0, 4, 5, 3, 2]


# The command line.


def read(*words):
    return options.read("sweep", ["ppo", *words], [options.VARY, *options.SEARCH])[0]


VARY = ("--vary", "learning_rate=log:1e-5:1e-2", "--vary", "num_steps=log:16:64", "--vary", "gamma=0.9,0.99")


def test_the_command_line_draws_what_python_draws_with_the_root_seed():
    space = {"learning_rate": search.log(1e-5, 1e-2), "num_steps": search.log(16, 64, integer=True), "gamma": [0.9, 0.99]}
    config = read(*VARY, "--sample", "random:8", "--seed", "7")
    assert config.settings == search.sample(space, 8, method="random", seed=7)


def test_the_printed_command_of_a_search_starts_the_same_search():
    config = read(*VARY, "--sample", "sobol:8", "--halving", "2:3", "--seed", "7")
    words = command(config).split()
    assert words[:3] == ["jaxpg", "sweep", "ppo"]
    assert read(*words[3:]) == config


SAID = [
    (
        ("--vary", "gamma=lin:0.9:1"),
        "must be lin:LOW:HIGH:COUNT with numbers LOW and HIGH and COUNT of at least 2; without COUNT it can be sampled",
    ),
    (("--vary", "gamma=0.9,1", "--sample", "sobol"), "sample = sobol must be sobol:COUNT or random:COUNT"),
    (("--vary", "gamma=0.9,1", "--sample", "sobol:3"), "sample = sobol:3: count = 3 is more than the 2 different settings"),
    (("--vary", "gamma=lin:a:1", "--sample", "sobol:3"), "must be lin:LOW:HIGH with numbers"),
    (("--vary", "gamma=lin:1:0", "--sample", "sobol:3"), "low below high"),
    (("--vary", "network=lin:1:2", "--sample", "sobol:3"), "network is not a number"),
    (("--vary", "delta=lin:1:2", "--sample", "sobol:3"), "delta"),
    (("--vary", "gama=lin:1:2", "--sample", "sobol:3"), "did you mean gamma"),
    (("--vary", "gamma=lin:0:2", "--sample", "sobol:8"), "out of range"),
    (("--vary", "gamma=lin:0:1", "--sample", "sobol:8", "--seed", "-1"), "seed = -1 must be at least 0"),
]


@pytest.mark.parametrize(("words", "says"), SAID, ids=[says for _, says in SAID])
def test_a_wrong_option_is_refused_in_one_line(words, says):
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        read(*words)
    assert says in str(caught.value)
