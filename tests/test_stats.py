import numpy as np
import pytest
from scipy import stats as scipy_stats

from jaxpg.stats import bootstrap_interval, iqm, summarize


def test_iqm_drops_a_quarter_on_each_side():
    assert iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0]) == 4.5
    assert iqm([7.0]) == 7.0
    assert iqm([0.0, 1.0, 5.0]) == 2.0  # floor(3 / 4) = 0 dropped
    np.testing.assert_array_equal(iqm([[0.0, 1.0, 3.0, 9.0], [4.0, 4.0, 4.0, 0.0]]), [2.0, 4.0])


@pytest.mark.parametrize(
    ("ours", "theirs"), [(iqm, lambda x, axis: scipy_stats.trim_mean(x, 0.25, axis=axis)), (None, np.mean)]
)
def test_the_bootstrap_agrees_with_scipys(ours, theirs):
    x = np.random.default_rng(1).normal(size=20)
    ours = ours or (lambda x: np.mean(x, axis=-1))
    want = scipy_stats.bootstrap((x,), theirs, method="percentile", n_resamples=20_000, vectorized=True, rng=2)
    assert bootstrap_interval(x, ours) == pytest.approx(tuple(want.confidence_interval), abs=0.02)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(200, 30))
    intervals = [bootstrap_interval(x, lambda x: np.mean(x, axis=-1), num_replicates=1000) for x in samples]
    assert 0.88 <= np.mean([low <= 0.0 <= high for low, high in intervals]) <= 0.99


def test_the_interval_repeats_shrinks_with_less_confidence_and_is_empty_for_one_seed():
    x = np.arange(10.0)
    assert bootstrap_interval(x) == bootstrap_interval(x)
    low, high = bootstrap_interval(x)
    inner = bootstrap_interval(x, confidence=0.5)
    assert low < inner[0] < inner[1] < high
    assert np.isnan(bootstrap_interval([3.0])).all()


def test_summarize():
    got = summarize([1.0, 2.0, 3.0, 10.0])
    assert (got["mean"], got["median"], got["iqm"]) == (4.0, 2.5, 2.5)
    assert got["ci95"] == list(bootstrap_interval([1.0, 2.0, 3.0, 10.0]))
    assert all(type(value) is float for value in (got["mean"], got["median"], got["iqm"], *got["ci95"]))


@pytest.mark.parametrize(
    ("x", "confidence", "says"), [(np.ones((2, 2)), 0.95, r"\(2, 2\)"), ([], 0.95, r"\(0,\)"), ([1.0], 1.0, "confidence = 1.0")]
)
def test_refuses(x, confidence, says):
    with pytest.raises(ValueError, match=says):
        bootstrap_interval(x, confidence=confidence)
