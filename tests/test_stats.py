import itertools
import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats as scipy_stats

from jaxpg import stats
from jaxpg.stats import (
    bootstrap_interval,
    exact_interval,
    improvement_interval,
    iqm,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    steps_to_threshold,
    summarize,
    summarize_rows,
    summarize_solved,
    summarize_steps,
)

NAN, INF = math.nan, math.inf
WHOLE = st.integers(-5, 5).map(float)  # many ties, and sums without rounding
SCORES = st.lists(WHOLE, min_size=1, max_size=9)
DIVERGING = st.lists(WHOLE | st.just(NAN), min_size=1, max_size=9)


def mean(x):
    return np.mean(x, axis=-1)


def assert_quantiles(interval, outcomes, confidence=0.95, slack=0.004):
    """The interval's ends are quantiles of equally likely outcomes, up to the noise of the replicates."""
    outcomes, tail = np.array(outcomes), (1 - confidence) / 2
    for end, level in zip(interval, (tail, 1 - tail), strict=True):
        assert np.mean(outcomes < end - 1e-9) - slack <= level <= np.mean(outcomes <= end + 1e-9) + slack


# Centres and comparisons


def test_iqm_drops_a_quarter_on_each_side():
    assert iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0]) == 4.5
    assert iqm([7.0]) == 7.0
    assert iqm([0.0, 1.0, 5.0]) == 2.0  # floor(3 / 4) = 0 dropped
    np.testing.assert_array_equal(iqm([[0.0, 1.0, 3.0, 9.0], [4.0, 4.0, 4.0, 0.0]]), [2.0, 4.0])


@given(hnp.arrays(float, hnp.array_shapes(max_dims=3, max_side=17), elements=st.floats(-100, 100)))
@settings(max_examples=50, deadline=None)
def test_iqm_is_scipys_trimmed_mean_of_every_row(x):
    np.testing.assert_allclose(iqm(x), scipy_stats.trim_mean(x, 0.25, axis=-1), rtol=1e-12, atol=1e-12)


@given(SCORES, WHOLE, WHOLE)
@settings(max_examples=50, deadline=None)
def test_the_optimality_gap_is_what_is_missing_on_average_and_moves_with_the_target(x, target, shift):
    missing = [target - score if score < target else 0.0 for score in x]
    assert optimality_gap(x, target) == pytest.approx(math.fsum(missing) / len(x))
    assert optimality_gap(np.array(x) + shift, target + shift) == optimality_gap(x, target)


@given(SCORES, SCORES)
@settings(max_examples=50, deadline=None)
def test_the_probability_of_improvement_is_mann_and_whitneys_u(x, y):
    u = scipy_stats.mannwhitneyu(x, y, method="asymptotic").statistic if len({*x, *y}) > 1 else len(x) * len(y) / 2
    assert probability_of_improvement(x, y) == pytest.approx(u / (len(x) * len(y)))


@given(DIVERGING, DIVERGING)
@settings(max_examples=50, deadline=None)
def test_one_side_wins_what_the_other_loses_also_where_runs_diverged(x, y):
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1.0)
    finite = [-1000.0 if math.isnan(score) else score for score in x], [-1000.0 if math.isnan(score) else score for score in y]
    assert probability_of_improvement(x, y) == probability_of_improvement(*finite)


def test_comparisons_go_row_by_row():
    x, y = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]), np.array([[2.0, 2.0], [5.0, 9.0]])
    np.testing.assert_allclose(probability_of_improvement(x, y), [0.5, 0.25])
    np.testing.assert_allclose(optimality_gap(x, 4.0), [2.0, 0.0])
    np.testing.assert_allclose(performance_profile(x, [2.0, 4.0]), [[1 / 3, 0.0], [1.0, 1.0]])


@given(DIVERGING, SCORES)
@settings(max_examples=50, deadline=None)
def test_a_profile_counts_the_runs_strictly_above_and_never_rises(x, thresholds):
    thresholds = sorted(thresholds)
    profile = performance_profile(x, thresholds)
    above = [[score for score in x if score > threshold] for threshold in thresholds]
    np.testing.assert_allclose(profile, [len(runs) / len(x) for runs in above])
    assert np.all(np.diff(profile) <= 0.0)


# The bootstrap


@pytest.mark.parametrize(
    ("ours", "theirs"), [(iqm, lambda x, axis: scipy_stats.trim_mean(x, 0.25, axis=axis)), (mean, np.mean)]
)
def test_the_bootstrap_agrees_with_scipys(ours, theirs):
    x = np.random.default_rng(1).normal(size=20)
    want = scipy_stats.bootstrap((x,), theirs, method="percentile", n_resamples=20_000, vectorized=True, rng=2)
    assert bootstrap_interval(x, ours) == pytest.approx(tuple(want.confidence_interval), abs=0.02)


@pytest.mark.parametrize("statistic", [iqm, mean, lambda x: np.median(x, axis=-1)])
def test_the_stratified_bootstrap_agrees_with_all_resamplings_within_rows(statistic):
    x = [[0.1, 1.3, 2.9], [10.2, 14.1, 21.7]]
    pairs = itertools.product(*(itertools.product(row, repeat=3) for row in x))  # 27 * 27
    outcomes = [float(statistic(np.array([*first, *second]))) for first, second in pairs]
    for confidence in (0.5, 0.95):
        assert_quantiles(bootstrap_interval(x, statistic, 50_000, confidence), outcomes, confidence, slack=0.01)


def test_the_interval_of_the_improvement_agrees_with_all_resamplings_of_both_sides():
    x, y = [1.0, 4.0, 6.0], [2.0, 3.0, 5.0, 7.0]
    outcomes = [
        sum((a > b) + (a == b) / 2 for a in first for b in second) / 12
        for first in itertools.product(x, repeat=3)
        for second in itertools.product(y, repeat=4)
    ]
    for confidence in (0.5, 0.8):
        assert_quantiles(improvement_interval(x, y, 50_000, confidence), outcomes, confidence, slack=0.01)


def test_the_improvement_over_tasks_is_the_mean_of_each():
    assert improvement_interval([[3.0, 4.0], [0.0, 0.0]], [[1.0, 2.0, 2.0], [5.0, 5.0, 5.0]]) == (0.5, 0.5)


@pytest.mark.parametrize(("shape", "centre"), [((30,), 0.0), ((4, 10), [[-90.0], [-10.0], [10.0], [90.0]])])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(shape, centre):
    samples = np.random.default_rng(0).normal(size=(300, *shape)) + centre
    intervals = np.array([bootstrap_interval(x, mean, num_replicates=1000) for x in samples])
    assert 0.88 <= np.mean((intervals[:, 0] <= 0.0) & (intervals[:, 1] >= 0.0)) <= 0.98
    assert np.all(np.diff(intervals) < 2.0)  # the distance between tasks is not noise


def test_the_interval_repeats_shrinks_with_less_confidence_and_is_empty_for_one_seed():
    x = np.arange(10.0) ** 1.5
    low, high = bootstrap_interval(x)
    inner = bootstrap_interval(x, confidence=0.5)
    assert bootstrap_interval(x) == (low, high) != bootstrap_interval(x, seed=1)
    assert low < inner[0] < inner[1] < high
    assert np.isnan([*bootstrap_interval([3.0]), *bootstrap_interval([[3.0], [4.0]])]).all()
    assert np.isnan([*improvement_interval([3.0], [1.0, 2.0]), *improvement_interval([1.0, 2.0], [3.0])]).all()


def test_replicates_are_computed_in_blocks_that_change_nothing(monkeypatch):
    x, seen = np.random.default_rng(0).normal(size=(3, 7)), []
    whole = bootstrap_interval(x, num_replicates=1000)
    monkeypatch.setattr(stats, "BLOCK", 21 * 64)
    assert bootstrap_interval(x, lambda x: seen.append(x.shape) or iqm(x), num_replicates=1000) == whole
    assert seen == [(64, 21)] * 15 + [(40, 21)]


# Counts and steps


@pytest.mark.parametrize("trials", [1, 7, 20])
def test_the_exact_interval_is_what_a_search_over_rates_finds_and_covers_each(trials):
    rates, counts = np.linspace(0.0, 1.0, 2001), np.arange(trials + 1)
    at_least = 1.0 - scipy_stats.binom.cdf(counts[:, None] - 1, trials, rates)
    at_most = scipy_stats.binom.cdf(counts[:, None], trials, rates)
    intervals = np.array([exact_interval(count, trials, 0.9) for count in counts.tolist()])
    likely = (at_least >= 0.05) & (at_most >= 0.05)
    found = [[rates[row].min(), rates[row].max()] for row in likely]
    np.testing.assert_allclose(intervals, found, atol=rates[1])
    covers = (intervals[:, :1] <= rates) & (rates <= intervals[:, 1:])
    assert np.all(np.sum(covers * scipy_stats.binom.pmf(counts[:, None], trials, rates), axis=0) >= 0.9 - 1e-9)


def test_the_exact_interval_of_no_trials_is_empty():
    assert np.isnan(exact_interval(0, 0)).all()


@given(
    st.integers(0, 5).flatmap(
        lambda points: st.lists(st.lists(WHOLE | st.just(NAN), min_size=points, max_size=points), min_size=1)
    ),
    WHOLE,
)
@settings(max_examples=50, deadline=None)
def test_steps_to_threshold_are_those_of_the_first_point_there_and_inf_if_none(returns, threshold):
    env_steps = [100.0 * (1 + point) for point in range(len(returns[0]))]
    want = []
    for run in returns:
        there = [steps for steps, value in zip(env_steps, run, strict=True) if value >= threshold]
        want.append(there[0] if there else INF)
    assert steps_to_threshold(env_steps, returns, threshold).tolist() == want


@pytest.mark.parametrize(
    ("steps", "median", "reached"), [([3, 1, 2], 2, 3), ([5, INF, 1], 5, 2), ([5, INF], INF, 1), ([INF, INF, INF], INF, 0)]
)
def test_the_median_counts_runs_that_never_got_there(steps, median, reached):
    want = {"median_steps": median, "reached": reached, "censored": len(steps) - reached}
    assert summarize_steps(steps) == want


# Summaries, and runs that diverged


def test_summarize():
    got = summarize([1.0, 2.0, 3.0, 10.0])
    assert (got["mean"], got["median"], got["iqm"], got["diverged"]) == (4.0, 2.5, 2.5, [])
    assert got["ci95"] == list(bootstrap_interval([1.0, 2.0, 3.0, 10.0]))
    assert all(type(value) is float for value in (got["mean"], got["median"], got["iqm"], *got["ci95"]))


def test_diverged_runs_are_named_and_count_as_the_worst():
    x = np.arange(16.0)
    x[[3, 8]] = NAN
    got, worst = summarize(x), np.where(np.isnan(x), -1000.0, x)
    assert got["diverged"] == [3, 8]
    assert all(type(index) is int for index in got["diverged"])
    assert np.isnan(got["mean"])
    assert (got["median"], got["iqm"]) == (np.median(worst), scipy_stats.trim_mean(worst, 0.25))
    assert np.isnan(got["ci95"][0])  # of 16 draws, five or more fall on the two with probability 0.04
    assert got["ci95"][1] == bootstrap_interval(worst)[1]


def test_too_many_diverged_runs_leave_nothing_to_say():
    got = summarize([NAN, 1.0, NAN, INF, -INF, 2.0])
    assert got["diverged"] == [0, 2, 3, 4]
    assert np.isnan([got["mean"], got["median"], got["iqm"], *got["ci95"]]).all()
    assert np.isnan(optimality_gap([NAN, 5.0], 3.0))
    assert np.isnan(bootstrap_interval([NAN, 5.0, 6.0], mean)[0])
    assert np.isnan(bootstrap_interval([NAN, 5.0, 6.0], lambda x: optimality_gap(x, 9.0))).any()
    assert improvement_interval([NAN, NAN], [NAN, NAN, NAN]) == (0.5, 0.5)


@pytest.mark.parametrize("lost", range(5))
def test_rows_summarized_together_have_the_interval_of_all_resamplings(lost):
    rows = [[0.1, 1.3, 2.9, 7.7], [-4.0, 3.0, 3.0, 8.0]]
    for row in rows:
        row[:lost] = [NAN] * lost
    for row, got in zip(rows, summarize_rows(rows), strict=True):
        one = summarize(row)
        assert got["diverged"] == one["diverged"]
        assert [got[name] for name in ("mean", "median", "iqm")] == pytest.approx(
            [one[name] for name in ("mean", "median", "iqm")], nan_ok=True
        )
        worst = np.where(np.isnan(row), -1000.0, row)
        means = [scipy_stats.trim_mean(sample, 0.25) for sample in itertools.product(worst, repeat=4)]
        outcomes = np.where(np.array(means) < -100, -INF, means)
        assert_quantiles(np.nan_to_num(got["ci95"], nan=-INF), outcomes)


@given(hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=WHOLE | st.just(NAN)))
@settings(max_examples=30, deadline=None)
def test_rows_summarized_together_say_what_each_says_alone(x):
    for row, got in zip(x, summarize_rows(x), strict=True):
        one = summarize(row)
        assert {name: type(value) for name, value in got.items()} == {name: type(value) for name, value in one.items()}
        for name in ("mean", "median", "iqm", "diverged"):
            assert got[name] == pytest.approx(one[name], nan_ok=True)
        if not np.isnan([*got["ci95"], *one["ci95"]]).any():
            assert got["ci95"] == pytest.approx(one["ci95"], abs=0.05 * np.ptp(row) + 0.5)
        if np.ptp(row) == 0 and row.size > 1:
            assert got["ci95"] == [row[0], row[0]], "equal scores have an interval without width"


def test_rows_are_summarized_in_blocks_that_change_nothing(monkeypatch):
    x = np.random.default_rng(0).normal(size=(3, 10))
    x[1, :2] = NAN
    whole = repr(summarize_rows(x))
    assert [repr(summarize_rows(row[None])[0]) for row in x] == [repr(each) for each in summarize_rows(x)]
    monkeypatch.setattr(stats, "BLOCK", 7)
    assert repr(summarize_rows(x)) == whole


@pytest.mark.parametrize("scale", [0.0, 1e-310, 1e-3, 1.0, 1e12, 1e300])
def test_an_interval_of_a_row_is_the_same_in_any_company(scale):
    """Sums are exact, so that neither the other rows nor the order in which a library adds change a bit."""
    rng = np.random.default_rng(1)
    x = scale * rng.normal(size=(67, 33)) * 10.0 ** rng.integers(-8, 1, size=(67, 33))
    ends = [one["ci95"] for one in summarize_rows(x)]
    assert [summarize_rows(x[i : i + 1])[0]["ci95"] for i in (0, 31, 66)] == [ends[0], ends[31], ends[66]]
    assert [one["ci95"] for one in summarize_rows(x[::-1])] == ends[::-1]
    reference = [bootstrap_interval(row) for row in x[:2]]
    assert np.array(ends[:2]) == pytest.approx(np.array(reference), rel=0.2, abs=1e-9 * scale)


def test_summarize_solved_counts_every_seed():
    got = summarize_solved([475.0, 500.0, NAN, 474.9, INF], 475)
    exact = scipy_stats.binomtest(2, 5).proportion_ci(0.95, method="exact")
    assert (got["threshold"], got["solved"], got["fraction"]) == (475.0, 2, 0.4)
    assert got["ci95"] == pytest.approx([exact.low, exact.high])
    assert type(got["solved"]) is int


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_interval(np.ones((2, 2, 2))), r"x has shape \(2, 2, 2\)"),
        (lambda: bootstrap_interval([]), r"x has shape \(0,\)"),
        (lambda: bootstrap_interval([1.0], confidence=1.0), "confidence = 1.0"),
        (lambda: bootstrap_interval([1.0], num_replicates=0), "num_replicates = 0"),
        (lambda: improvement_interval([1.0, 2.0], 1.0), r"y has shape \(\)"),
        (lambda: improvement_interval(np.ones((2, 3)), np.ones((3, 3))), "y has 3 strata and x has 2"),
        (lambda: exact_interval(1, 2, confidence=0.0), "confidence = 0.0"),
        (lambda: exact_interval(3, 2), "successes = 3"),
        (lambda: exact_interval(-1, 2), "successes = -1"),
        (lambda: steps_to_threshold([1, 2], np.ones((3, 4)), 0.0), r"returns has shape \(3, 4\)"),
        (lambda: summarize(np.ones((2, 2))), r"x has shape \(2, 2\)"),
        (lambda: summarize_rows([1.0, 2.0]), r"x has shape \(2,\)"),
        (lambda: summarize_rows(np.ones((3, 0))), r"x has shape \(3, 0\)"),
        (lambda: summarize_solved([], 1.0), r"x has shape \(0,\)"),
        (lambda: summarize_steps(3.0), r"steps has shape \(\)"),
    ],
)
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
