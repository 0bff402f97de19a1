"""Statistics over seeds and tasks: centres, comparisons, intervals and steps to a threshold. NumPy and SciPy, no JAX.

A score is one number per run, higher is better. NaN is a run that diverged. Whatever ranks counts it as the worst of all,
below every number; whatever would then have to average it is NaN. It is never left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Statistic = Callable[[np.ndarray], Any]  # [..., n] -> [...], along the last axis

BLOCK = 2**15  # about so many numbers are resampled at a time: they stay in the cache


def iqm(x: Any) -> Any:
    """Interquartile mean: the mean of what is left without the lowest and the highest quarter, along the last axis.

    Of n values, floor(n / 4) are dropped on each side; less noisy than the median, less swayed by one bad seed than the mean.
    NaN where a diverged run is left in the middle. ``[..., n] -> [...]`` [Agarwal et al. 2021].

    >>> float(iqm([0.0, 4.0, 6.0, 100.0]))
    5.0
    """
    x = _ranked(x)
    cut = x.shape[-1] // 4
    kept = x.shape[-1] - 2 * cut
    x = np.partition(x, cut, axis=-1)[..., cut:]  # one end after the other is quicker than both at once, or a sort
    return _finite(np.mean(np.partition(x, kept - 1, axis=-1)[..., :kept], axis=-1))


def optimality_gap(x: Any, target: float) -> Any:
    """mean(max(target - x, 0)): how far runs stay below ``target``, in the unit of the scores, along the last axis.

    What lies above the target earns nothing. NaN if a run diverged. ``[..., n] -> [...]`` [Agarwal et al. 2021].

    >>> float(optimality_gap([1.0, 3.0, 9.0], target=4.0))
    1.3333333333333333
    """
    return _finite(np.mean(np.maximum(target - _ranked(x), 0.0), axis=-1))


def probability_of_improvement(x: Any, y: Any) -> Any:
    """P(X > Y) + P(X = Y) / 2: how often a run of ``x`` beats a run of ``y``; Mann and Whitney's U / (n m).

    ``x`` is ``[..., n]``, ``y`` is ``[..., m]``, the result ``[...]`` in [0, 1]; 1/2 says that neither is better.
    A diverged run loses to every other and ties with its like [Mann & Whitney 1947; Agarwal et al. 2021].

    >>> float(probability_of_improvement([2.0, 3.0], [1.0, 2.0]))
    0.875
    """
    x, y = _ranked(x)[..., :, None], _ranked(y)[..., None, :]
    return (np.mean(x > y, axis=(-2, -1)) + np.mean(x >= y, axis=(-2, -1))) / 2.0


def performance_profile(x: Any, thresholds: Any) -> np.ndarray:
    """P(X > tau) for each tau of ``thresholds``: the share of runs that score more, strictly, as in [Agarwal et al. 2021].

    ``x`` is ``[..., n]``, ``thresholds`` is ``[K]``, the result ``[..., K]`` in [0, 1]. A diverged run is above no threshold.

    >>> performance_profile([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0]).tolist()
    [1.0, 0.5, 0.0]
    """
    return np.mean(np.asarray(x, float)[..., :, None] > np.asarray(thresholds, float), axis=-2)


def bootstrap_interval(
    x: Any, statistic: Statistic = iqm, num_replicates: int = 20_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap: where ``statistic`` lies in all but ``1 - confidence`` of the resamplings of ``x``.

    ``x`` is ``[n]``, one number per seed, or ``[strata, n]``, a row per task: seeds are then drawn anew within each row, and
    ``statistic`` sees all rows as one, ``[..., strata * n]``. It sees a diverged run as -inf; an end that is not finite is NaN.
    One seed says nothing about the others: the interval is then (nan, nan). The same ``seed`` gives the same interval.
    ``ValueError`` for other shapes and for numbers out of range [Efron 1979; Agarwal et al. 2021].

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    >>> low, high = bootstrap_interval([[1.0, 2.0, 4.0], [5.0, 5.0, 9.0]], lambda x: x.max(axis=-1))
    >>> (low, high)
    (5.0, 9.0)
    """
    samples = (_strata("x", x),)
    return _interval(lambda x: statistic(x.reshape(len(x), -1)), samples, num_replicates, confidence, seed)


def improvement_interval(
    x: Any, y: Any, num_replicates: int = 20_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of :func:`probability_of_improvement`, the mean over tasks: both sides are resampled.

    ``x`` is ``[n]`` or ``[strata, n]``, ``y`` is ``[m]`` or ``[strata, m]``; the rest is as in :func:`bootstrap_interval`.

    >>> improvement_interval([3.0, 4.0], [1.0, 2.0])
    (1.0, 1.0)
    """
    samples = _strata("x", x), _strata("y", y)
    if len(samples[0]) != len(samples[1]):
        raise ValueError(f"y has {len(samples[1])} strata and x has {len(samples[0])}; give both the same tasks")
    return _interval(lambda x, y: np.mean(probability_of_improvement(x, y), axis=-1), samples, num_replicates, confidence, seed)


def exact_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The rates p under which neither so many successes nor so few have less than ``(1 - confidence) / 2`` of a chance.

    It covers the true rate at least as often as it says, for any number of trials; of none, it is (nan, nan).
    ``ValueError`` unless ``0 <= successes <= trials`` [Clopper & Pearson 1934].

    >>> [f"{end:.3f}" for end in exact_interval(8, 10)]
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
    """min{env_steps_p : returns_p >= threshold}: when a run first reached it; inf for one that never did (censored).

    ``env_steps`` is ``[P]``, ``returns`` is ``[..., P]``, the result ``[...]``. NaN, where no episode ended, reaches nothing.
    ``ValueError`` if the points differ in number.

    >>> steps_to_threshold([100, 200, 300], [[1.0, float("nan"), 5.0], [1.0, 2.0, 3.0]], threshold=4.0).tolist()
    [300.0, inf]
    """
    env_steps, returns = np.asarray(env_steps, float), np.asarray(returns, float)
    if env_steps.shape != returns.shape[-1:]:
        raise ValueError(
            f"returns has shape {returns.shape}; with env_steps {env_steps.shape} it must be [..., {env_steps.size}]"
        )
    return np.min(np.where(returns >= threshold, env_steps, np.inf), axis=-1, initial=np.inf)


def summarize(x: Any) -> dict[str, Any]:
    """Mean, median and interquartile mean of one number per seed, the latter's 95 % bootstrap interval, and who diverged.

    ``diverged`` holds the indices of the seeds whose number is not finite. One of them makes the mean NaN; they make the
    median, the interquartile mean or an end of the interval NaN when they are too many to lie outside of it.

    >>> summary = summarize([1.0, 2.0, 3.0, float("nan")])
    >>> summary["mean"], summary["median"], summary["iqm"], summary["diverged"]
    (nan, 1.5, 1.5, [3])
    """
    x = np.asarray(x, float)
    _check_seeds("x", x)
    x = np.where(np.isfinite(x), x, np.nan)
    centre = {"mean": np.mean(x), "median": _finite(np.median(_ranked(x))), "iqm": iqm(x)}
    centre = {name: float(value) for name, value in centre.items()}
    return centre | {"ci95": list(bootstrap_interval(x)), "diverged": np.flatnonzero(np.isnan(x)).tolist()}


def summarize_solved(x: Any, threshold: float) -> dict[str, Any]:
    """How many seeds score at least ``threshold``, of all of them, with :func:`exact_interval` of the share.

    ``x`` is ``[n]``. A seed that diverged has not solved anything.

    >>> summary = summarize_solved([480.0, 500.0, float("nan"), 100.0], threshold=475.0)
    >>> summary["solved"], summary["fraction"], [f"{end:.2f}" for end in summary["ci95"]]
    (2, 0.5, ['0.07', '0.93'])
    """
    x = np.asarray(x, float)
    _check_seeds("x", x)
    solved = int(np.sum(np.isfinite(x) & (x >= threshold)))
    ci95 = list(exact_interval(solved, x.size))
    return {"threshold": float(threshold), "solved": solved, "fraction": solved / x.size, "ci95": ci95}


def summarize_steps(steps: Any) -> dict[str, Any]:
    """Median over all runs of :func:`steps_to_threshold`, ``[n]``, and how many ``reached`` it or were ``censored``.

    A censored run counts as inf: the median is inf once half of the runs never got there.

    >>> summarize_steps([300.0, 100.0, float("inf")])
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


def _resample(rng: np.random.Generator, x: np.ndarray, size: int) -> np.ndarray:
    """``[strata, n] -> [size, strata, n]``: n of each row, with replacement."""
    strata, n = x.shape
    narrow = np.uint16 if n < 2**16 else np.int64  # drawn in half the time
    places = rng.integers(n, size=(size, strata, n), dtype=narrow) + n * np.arange(strata)[:, None]
    return x.take(places, mode="clip")  # all are inside; "clip" does not look again


def _ranked(x: Any) -> np.ndarray:
    """Diverged runs as the worst of all: -inf for NaN."""
    x = np.asarray(x, float)
    diverged = np.isnan(x)
    return np.where(diverged, -np.inf, x) if diverged.any() else x  # no copy for nothing: resamplings are large


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
