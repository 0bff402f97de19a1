"""Statistics over seeds and tasks: averages, comparisons, intervals and steps to a threshold. NumPy and SciPy, no JAX.

A score is one number for each run; higher is better. NaN is a run that diverged. Statistics of ranks count it as the worst of
all, below every number; a statistic that would have to average it is NaN. It is never left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "bootstrap_interval",
    "exact_interval",
    "improvement_interval",
    "iqm",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "steps_to_threshold",
    "summarize",
    "summarize_rows",
    "summarize_solved",
    "summarize_steps",
]

Statistic = Callable[[np.ndarray], Any]  # [..., n] -> [...], along the last axis

BLOCK = 2**15  # about so many numbers are resampled at a time, so that they fit into the cache


def iqm(x: Any) -> Any:
    """Interquartile mean: the mean of the middle half of the values, along the last axis.

    Of n values, floor(n / 4) are dropped on each side. It is less noisy than the median and depends less on one bad seed than
    the mean. NaN where a diverged run is in the middle half.

    Args:
        x: Scores, ``[..., n]``.

    Returns:
        The means, ``[...]``.

    Source: Agarwal et al. 2021.

    Examples:
        >>> from jaxpg import stats
        >>> float(stats.iqm([0.0, 4.0, 6.0, 100.0]))
        5.0
    """
    x = _ranked(x)
    cut = x.shape[-1] // 4
    kept = x.shape[-1] - 2 * cut
    x = np.partition(x, cut, axis=-1)[
        ..., cut:
    ]  # partitioning at one end after the other is faster than at both at once, or than sorting
    return _finite(np.mean(np.partition(x, kept - 1, axis=-1)[..., :kept], axis=-1))


def optimality_gap(x: Any, target: float) -> Any:
    """mean(max(target - x, 0)): how far runs are below ``target``, in the unit of the scores, along the last axis.

    Scores above the target count as the target. NaN if a run diverged.

    Args:
        x: Scores, ``[..., n]``.
        target: The score that is good enough.

    Returns:
        The gaps, ``[...]``.

    Source: Agarwal et al. 2021.

    Examples:
        >>> from jaxpg import stats
        >>> float(stats.optimality_gap([1.0, 3.0, 8.0], target=4.0)) * 3
        4.0
    """
    return _finite(np.mean(np.maximum(target - _ranked(x), 0.0), axis=-1))


def probability_of_improvement(x: Any, y: Any) -> Any:
    """P(X > Y) + P(X = Y) / 2: how often a run of ``x`` beats a run of ``y``; Mann and Whitney's U / (n m).

    A diverged run loses to every other and ties with another diverged one.

    Args:
        x: Scores of one algorithm, ``[..., n]``.
        y: Scores of the other, ``[..., m]``.

    Returns:
        Probabilities in [0, 1], ``[...]``; 1/2 where neither is better.

    Source: Mann & Whitney 1947; Agarwal et al. 2021.

    Examples:
        >>> from jaxpg import stats
        >>> float(stats.probability_of_improvement([2.0, 3.0], [1.0, 2.0]))
        0.875
    """
    x, y = _ranked(x)[..., :, None], _ranked(y)[..., None, :]
    return (np.mean(x > y, axis=(-2, -1)) + np.mean(x >= y, axis=(-2, -1))) / 2.0


def performance_profile(x: Any, thresholds: Any) -> np.ndarray:
    """P(X > tau) for each tau of ``thresholds``: the share of runs with a larger score.

    A diverged run is above no threshold.

    Args:
        x: Scores, ``[..., n]``.
        thresholds: The values of tau, ``[K]``.

    Returns:
        Shares in [0, 1], ``[..., K]``.

    Source: Agarwal et al. 2021.

    Examples:
        >>> from jaxpg import stats
        >>> stats.performance_profile([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0]).tolist()
        [1.0, 0.5, 0.0]
    """
    return np.mean(np.asarray(x, float)[..., :, None] > np.asarray(thresholds, float), axis=-2)


def bootstrap_interval(
    x: Any, statistic: Statistic = iqm, num_replicates: int = 20_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``statistic``: it is resampled over seeds, ``num_replicates`` times.

    With one seed nothing is known about others: the interval is (nan, nan). ``statistic`` sees a diverged run as -inf; an end
    that is not finite is NaN.

    Args:
        x: One score for each seed, ``[n]``, or one row for each task, ``[strata, n]``. Seeds are resampled within each row.
        statistic: From scores ``[..., n]``, of all rows together, to numbers ``[...]``.
        num_replicates: How many resamplings; at least 1.
        confidence: The share of resamplings within the interval, in (0, 1).
        seed: Of the random numbers; the same seed gives the same interval.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: For other shapes, and for numbers out of range.

    Source: Efron 1979; Agarwal et al. 2021.

    Examples:
        >>> from jaxpg import stats
        >>> stats.bootstrap_interval([1.0, 1.0, 1.0])
        (1.0, 1.0)
        >>> low, high = stats.bootstrap_interval([[1.0, 2.0, 4.0], [5.0, 5.0, 9.0]], lambda x: x.max(axis=-1))
        >>> (low, high)
        (5.0, 9.0)
    """
    samples = (_strata("x", x),)
    return _interval(lambda x: statistic(x.reshape(len(x), -1)), samples, num_replicates, confidence, seed)


def improvement_interval(
    x: Any, y: Any, num_replicates: int = 20_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``probability_of_improvement``, the mean over tasks; both sides are resampled.

    Args:
        x: Scores of one algorithm, ``[n]`` or ``[strata, n]``.
        y: Scores of the other, ``[m]`` or ``[strata, m]``, on the same tasks.
        num_replicates: How many resamplings; at least 1.
        confidence: The share of resamplings within the interval, in (0, 1).
        seed: Of the random numbers; the same seed gives the same interval.

    Returns:
        The lower and the upper end; (nan, nan) where one side has one seed.

    Raises:
        ValueError: For other shapes, different numbers of tasks, and numbers out of range.

    Source: Agarwal et al. 2021.

    Examples:
        >>> from jaxpg import stats
        >>> stats.improvement_interval([3.0, 4.0], [1.0, 2.0])
        (1.0, 1.0)
    """
    samples = _strata("x", x), _strata("y", y)
    if len(samples[0]) != len(samples[1]):
        raise ValueError(f"y has {len(samples[1])} strata and x has {len(samples[0])}; give both the same tasks")
    return _interval(lambda x, y: np.mean(probability_of_improvement(x, y), axis=-1), samples, num_replicates, confidence, seed)


def exact_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a success rate, which contains the true rate at least as often as ``confidence`` says.

    It holds the rates under which neither ``successes`` or more nor ``successes`` or fewer have a probability below
    ``(1 - confidence) / 2``. It is valid for any number of trials.

    Args:
        successes: How many trials succeeded.
        trials: How many trials there were.
        confidence: The least probability that the interval contains the rate, in (0, 1).

    Returns:
        The lower and the upper end, in [0, 1]; (nan, nan) for no trials.

    Raises:
        ValueError: Unless ``0 <= successes <= trials``, and for ``confidence`` out of range.

    Source: Clopper & Pearson 1934.

    Examples:
        >>> from jaxpg import stats
        >>> [f"{end:.3f}" for end in stats.exact_interval(8, 10)]
        ['0.444', '0.975']
    """
    from scipy.special import betaincinv  # takes as long to import as NumPy, and nothing else here needs it

    _check_confidence(confidence)
    if not 0 <= successes <= trials:
        raise ValueError(f"successes = {successes} is out of range; of {trials} trials it must lie in [0, {trials}]")
    if trials == 0:
        return float("nan"), float("nan")
    tail, failures = (1.0 - confidence) / 2.0, trials - successes
    low = betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, failures, 1.0 - tail) if failures else 1.0
    return float(low), float(high)


def steps_to_threshold(env_steps: Any, returns: Any, threshold: float) -> np.ndarray:
    """min{env_steps_p : returns_p >= threshold}: the steps after which a run first reached ``threshold``; inf if it never did.

    A return of NaN, where no episode ended, reaches nothing.

    Args:
        env_steps: Environment steps at each log point, ``[P]``.
        returns: Returns at each log point, ``[..., P]``.
        threshold: The return to reach.

    Returns:
        Environment steps, ``[...]``.

    Raises:
        ValueError: Where the numbers of log points differ.

    Examples:
        >>> from jaxpg import stats
        >>> stats.steps_to_threshold([100, 200, 300], [[1.0, float("nan"), 5.0], [1.0, 2.0, 3.0]], threshold=4.0).tolist()
        [300.0, inf]
    """
    env_steps, returns = np.asarray(env_steps, float), np.asarray(returns, float)
    if env_steps.shape != returns.shape[-1:]:
        raise ValueError(
            f"returns has shape {returns.shape}; with env_steps {env_steps.shape} it must be [..., {env_steps.size}]"
        )
    return np.min(np.where(returns >= threshold, env_steps, np.inf), axis=-1, initial=np.inf)


def summarize(x: Any) -> dict[str, Any]:
    """Mean, median, interquartile mean with its 95 % bootstrap interval, and the seeds that diverged.

    One diverged seed makes the mean NaN. The median, the interquartile mean and the ends of the interval are NaN when too many
    seeds diverged.

    Args:
        x: One score for each seed, ``[n]``; one that is not finite diverged.

    Returns:
        A dict with ``mean``, ``median``, ``iqm``, ``ci95`` (two numbers) and ``diverged`` (indices of seeds).

    Raises:
        ValueError: For other shapes.

    Examples:
        >>> from jaxpg import stats
        >>> summary = stats.summarize([1.0, 2.0, 3.0, float("nan")])
        >>> summary["mean"], summary["median"], summary["iqm"], summary["diverged"]
        (nan, 1.5, 1.5, [3])
    """
    x = np.asarray(x, float)
    _check_seeds("x", x)
    x = np.where(np.isfinite(x), x, np.nan)
    centre = {"mean": np.mean(x), "median": _finite(np.median(_ranked(x))), "iqm": iqm(x)}
    centre = {name: float(value) for name, value in centre.items()}
    return centre | {"ci95": list(bootstrap_interval(x)), "diverged": np.flatnonzero(np.isnan(x)).tolist()}


def summarize_rows(x: Any) -> list[dict[str, Any]]:
    """``summarize`` of each row, for thousands of rows: the intervals of all rows are from the same resamplings.

    A resampling of sorted scores is a weight for each rank, so that the means of all rows are one matrix product. For the
    intervals, scores are rounded to a multiple of about ``n 2**-52`` of the largest in their row: then all sums are exact, and
    the interval of a row does not depend on the other rows. They differ from those of ``summarize`` as two seeds of the
    bootstrap do.

    Args:
        x: One row for each setting, one score for each seed, ``[S, n]``; a score that is not finite diverged.

    Returns:
        What ``summarize`` returns, for each row.

    Raises:
        ValueError: For other shapes.

    Examples:
        >>> from jaxpg import stats
        >>> first, second = stats.summarize_rows([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
        >>> first["mean"], second["iqm"], second["ci95"]
        (3.0, 5.0, [5.0, 5.0])
    """
    x = np.asarray(x, float)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"x has shape {x.shape}; it takes a row per setting and a number per seed, [S, n]")
    x = np.where(np.isfinite(x), x, np.nan)
    centre = {"mean": np.mean(x, axis=1), "median": _finite(np.median(_ranked(x), axis=1)), "iqm": iqm(x)}
    ends, diverged = _iqm_intervals(x).tolist(), [np.flatnonzero(lost).tolist() for lost in np.isnan(x)]
    return [
        {name: float(values[i]) for name, values in centre.items()} | {"ci95": ends[i], "diverged": diverged[i]}
        for i in range(len(x))
    ]


def summarize_solved(x: Any, threshold: float) -> dict[str, Any]:
    """How many seeds score at least ``threshold``, with ``exact_interval`` of their share.

    Args:
        x: One score for each seed, ``[n]``; a seed that diverged has not solved anything.
        threshold: The score that counts as solved.

    Returns:
        A dict with ``threshold``, ``solved`` (a number), ``fraction`` and ``ci95`` (two numbers).

    Raises:
        ValueError: For other shapes.

    Examples:
        >>> from jaxpg import stats
        >>> summary = stats.summarize_solved([480.0, 500.0, float("nan"), 100.0], threshold=475.0)
        >>> summary["solved"], summary["fraction"], [f"{end:.2f}" for end in summary["ci95"]]
        (2, 0.5, ['0.07', '0.93'])
    """
    x = np.asarray(x, float)
    _check_seeds("x", x)
    solved = int(np.sum(np.isfinite(x) & (x >= threshold)))
    ci95 = list(exact_interval(solved, x.size))
    return {"threshold": float(threshold), "solved": solved, "fraction": solved / x.size, "ci95": ci95}


def summarize_steps(steps: Any) -> dict[str, Any]:
    """The median over runs of ``steps_to_threshold``, and how many runs reached the threshold.

    A run that never did (``censored``) counts as inf: the median is inf if half of the runs never did.

    Args:
        steps: Environment steps of each run, ``[n]``; inf for a censored run.

    Returns:
        A dict with ``median_steps``, ``reached`` and ``censored`` (numbers of runs).

    Raises:
        ValueError: For other shapes.

    Examples:
        >>> from jaxpg import stats
        >>> stats.summarize_steps([300.0, 100.0, float("inf")])
        {'median_steps': 300.0, 'reached': 2, 'censored': 1}
    """
    steps = np.asarray(steps, float)
    _check_seeds("steps", steps)
    reached = int(np.sum(np.isfinite(steps)))
    return {"median_steps": float(np.median(steps)), "reached": reached, "censored": steps.size - reached}


def _interval(
    statistic: Callable[..., Any], samples: tuple[np.ndarray, ...], num_replicates: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Ends of the middle ``confidence`` of ``statistic`` over resamplings, ``[block, strata, n]``, of every sample."""
    _check_confidence(confidence)
    if num_replicates < 1:
        raise ValueError(f"num_replicates = {num_replicates} is out of range; it must be at least 1")
    if any(x.shape[1] == 1 for x in samples):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // sum(x.size for x in samples))
    sizes = (min(block, num_replicates - begin) for begin in range(0, num_replicates, block))
    values = np.concatenate([statistic(*(_resample(rng, x, size) for x in samples)) for size in sizes])
    tail = (1.0 - confidence) / 2.0
    ends = np.quantile(_ranked(values), [tail, 1.0 - tail], method="inverted_cdf")  # no interpolation: some may be -inf
    low, high = _finite(ends)
    return float(low), float(high)


def _iqm_intervals(x: np.ndarray, num_replicates: int = 20_000, confidence: float = 0.95, seed: int = 0) -> np.ndarray:
    """Percentile bootstrap intervals of ``iqm`` for each row, ``[S, n] -> [S, 2]``; all rows share their resamplings."""
    num_rows, n = x.shape
    if n == 1:
        return np.full((num_rows, 2), np.nan)
    x = np.sort(_ranked(x), axis=1)
    lost, known = np.sum(np.isneginf(x), axis=1), np.where(np.isneginf(x), 0.0, x)
    size = np.frexp(np.max(np.abs(known), axis=1, keepdims=True))[1] + n.bit_length() - 53
    unit = np.ldexp(1.0, np.maximum(size, -1074))  # sums of n multiples of it are exact: a row does not depend on the others
    known = np.rint(known / unit) * unit
    tail, step = (1.0 - confidence) / 2.0, max(1, 64 * BLOCK // n)
    places = [max(0, math.ceil(num_replicates * share) - 1) for share in (tail, 1.0 - tail)]  # no interpolation: some are -inf
    ends = np.empty((num_rows, 2))
    for rows in np.array_split(np.arange(num_rows), -(-num_rows * num_replicates // 2**24)):
        rng, values = np.random.default_rng(seed), np.empty((rows.size, num_replicates))
        for begin in range(0, num_replicates, step):
            weights = _rank_weights(rng, n, min(step, num_replicates - begin))
            part = values[:, begin : begin + len(weights)]
            np.matmul(known[rows], weights.T, out=part)
            touched = np.cumsum(weights, axis=1) > 0
            for count in np.unique(lost[rows][lost[rows] > 0]):
                part[np.ix_(lost[rows] == count, touched[:, count - 1])] = -np.inf
        ends[rows] = np.sort(values, axis=1)[:, places] / (n - 2 * (n // 4))
    low = np.take_along_axis(x, np.minimum(lost, n - 1)[:, None], axis=1)
    return _finite(np.where(np.isneginf(ends), ends, np.clip(ends, low, x[:, -1:])))  # equal scores: no width by rounding


def _rank_weights(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """How often the middle half of a resampling holds each rank, for ``size`` resamplings of ``n`` scores, ``[size, n]``."""
    places = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    counts = np.bincount(places.ravel(), minlength=size * n).reshape(size, n)
    upto, cut = np.cumsum(counts, axis=1), n // 4
    return np.maximum(np.minimum(upto, n - cut) - np.maximum(upto - counts, cut), 0).astype(float)


def _resample(rng: np.random.Generator, x: np.ndarray, size: int) -> np.ndarray:
    """``[strata, n] -> [size, strata, n]``: n of each row, with replacement."""
    strata, n = x.shape
    narrow = np.uint16 if n < 2**16 else np.int64  # takes half the time to draw
    places = rng.integers(n, size=(size, strata, n), dtype=narrow) + n * np.arange(strata)[:, None]
    return x.take(places, mode="clip")  # all indices are valid; "clip" skips the check


def _ranked(x: Any) -> np.ndarray:
    """Diverged runs as the worst of all: -inf for NaN."""
    x = np.asarray(x, float)
    diverged = np.isnan(x)
    return np.where(diverged, -np.inf, x) if diverged.any() else x  # avoid a needless copy: resamplings are large


def _finite(x: Any) -> Any:
    """NaN for what is not finite."""
    return np.where(np.isfinite(x), x, np.nan)[()]


def _strata(name: str, x: Any) -> np.ndarray:
    x = _ranked(x)
    if x.ndim not in (1, 2) or x.size == 0:
        raise ValueError(
            f"{name} has shape {x.shape}; a bootstrap takes a number per seed, [n], or per task and seed, [strata, n]"
        )
    return np.atleast_2d(x)


def _check_seeds(name: str, x: np.ndarray) -> None:
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"{name} has shape {x.shape}; it takes one number per seed, [n]")


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence = {confidence} is out of range; it must lie in (0, 1)")
