"""The bandits study, small: what the step size does, and what the baseline does to the variance, against enumerations."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bandits


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pathlib.Path]:
    out = tmp_path_factory.mktemp("bandits")
    return bandits.main(seeds=32, five_episodes=600, samples=64, out=out), out


def test_the_better_arm_is_found_within_300_episodes(found: Any) -> None:
    two = found[0]["two_arms"]
    assert 0.75 < two["adam 0.01"]["last"] < 0.88
    assert 0.9 < two["adam 0.03"]["last"] < 0.98
    assert 0.9 < two["sgd 0.1"]["last"] < 0.98
    assert two["sgd 0.01"]["last"] < 0.7  # plain steps of 0.01 are too short for 300 episodes


@pytest.mark.parametrize("optimizer", bandits.OPTIMIZERS)
def test_ten_times_the_step_swings_more(optimizer: str, found: Any) -> None:
    short, long = (found[0]["two_arms"][f"{optimizer} {rate}"] for rate in (0.01, 0.1))
    assert long["widest"] > 2.5 * short["widest"]
    assert long["fall"] > 3 * short["fall"]
    assert long["one_update"] > 3 * short["one_update"]


def test_the_baseline_collapses_the_variance_and_both_find_the_third_arm(found: Any) -> None:
    off, on = (found[0]["five_arms"][name] for name in bandits.BASELINES)
    hundred = np.argmin(np.abs(np.array(on["episodes"]) - 100))
    assert on["exact"][hundred] < 0.1 * on["without"][hundred]
    assert on["exact"][hundred] < 0.1 * off["exact"][hundred]
    assert off["exact"] == off["without"]
    assert min(off["found"], on["found"]) > 0.8


@pytest.mark.parametrize("name", bandits.BASELINES)
def test_the_gradients_of_the_library_have_the_exact_variance(name: str, found: Any) -> None:
    row = found[0]["five_arms"][name]
    np.testing.assert_allclose(row["sampled"], row["exact"], rtol=0.25)


def test_the_exact_variance_is_that_of_every_pull() -> None:
    rng = np.random.default_rng(0)
    logits, means, b = rng.normal(size=3), rng.random(3), 0.3
    pi = np.exp(logits) / np.exp(logits).sum()
    scores = jax.jacobian(jax.nn.log_softmax)(jnp.asarray(logits))
    outcomes = [(p * q, (r - b) * s) for p, m, s in zip(pi, means, scores, strict=True) for r, q in ((1, m), (0, 1 - m))]
    mean = sum(p * g for p, g in outcomes)
    variance = sum(p * np.sum((g - mean) ** 2) for p, g in outcomes)
    np.testing.assert_allclose(bandits.exact_variance(pi, np.array(b), means, means * (1 - means)), variance, rtol=1e-5)


def test_the_baseline_is_the_running_mean_of_the_rewards() -> None:
    algo = bandits.learner(bandits.bandit((0.5, 0.5), is_coin=False), "sgd")
    _, _, b = bandits.run(algo, jax.random.split(jax.random.key(0), 1), 0.1, 0.05, 20)
    np.testing.assert_allclose(b[0], 0.5 * (1 - 0.95 ** np.arange(1, 21)), rtol=1e-5)


def test_figure_and_numbers_are_written(found: Any) -> None:
    numbers, out = found
    assert json.loads((out / "bandits.json").read_text()) == numbers
    assert (out / "bandits.png").stat().st_size > 10_000
