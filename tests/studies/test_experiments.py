"""The studies run, small, and what they claim holds."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

import jaxpg
from experiments import scaling, sweep, theorem
from jaxpg.algorithms import presets

MONTE_CARLO = ("total return", "reward to go", "constant baseline, J", "leave-one-out baseline", "learned baseline, v(s)")
BOOTSTRAPPED = ("GAE(0.9)", "GAE(0.5)", "2-step", "one-step TD")


@pytest.fixture(scope="module")
def table() -> theorem.Table:
    return theorem.measure(seed=0, horizon=3)


def test_the_probabilities_of_all_episodes_add_up() -> None:
    mdp, theta = theorem.random_mdp(3)
    _, probability = theorem.episodes(theta, mdp, 3)
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", MONTE_CARLO)
def test_monte_carlo_is_unbiased_whatever_the_values(name: str, table: theorem.Table) -> None:
    assert max(table[name]["bias"]) < 1e-10


@pytest.mark.parametrize("name", BOOTSTRAPPED)
def test_bootstrapping_is_unbiased_with_exact_values_only(name: str, table: theorem.Table) -> None:
    exact, wrong = table[name]["bias"]
    assert exact < 1e-10
    assert wrong > 1e-3


def test_a_batch_mean_that_contains_the_sample_is_biased(table: theorem.Table) -> None:
    assert min(table["batch-mean baseline"]["bias"]) > 0.1


def test_variance_falls_from_the_total_return_to_the_td_error(table: theorem.Table) -> None:
    names = ("total return", "reward to go", "learned baseline, v(s)", "GAE(0.9)", "GAE(0.5)", "one-step TD")
    exact = [table[name]["variance"][0] for name in names]
    assert exact == sorted(exact, reverse=True)
    assert exact[0] > 2 * exact[-1]


def test_values_matter_only_where_they_are_used(table: theorem.Table) -> None:
    for name in ("total return", "reward to go", "constant baseline, J", "batch-mean baseline", "leave-one-out baseline"):
        exact, wrong = table[name]["variance"]
        np.testing.assert_allclose(exact, wrong, rtol=1e-10)
    exact, wrong = table["learned baseline, v(s)"]["variance"]
    assert wrong > exact


def test_theorem_writes_its_figure_and_numbers(
    table: theorem.Table, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theorem, "measure", lambda *_: table)
    theorem.main(out=tmp_path)
    assert json.loads((tmp_path / "theorem.json").read_text())["psi"] == table
    assert (tmp_path / "theorem.png").stat().st_size > 10_000


def test_sweep_writes_its_figure_and_numbers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.PRESETS["a2c"]["default"], "hidden", (8,))
    sweep.main(algo="a2c", seeds=3, total_steps=512, learning_rates=2, low=1e-3, high=1e-2, out=tmp_path)
    written = json.loads((tmp_path / "sweep_a2c_CartPole-v1.json").read_text())
    assert written["settings"] == [{"learning_rate": 0.001}, {"learning_rate": 0.01}]
    assert written["env_steps_per_seed"] == 512
    for line in written["greedy_return"]:
        assert 1 <= line["ci95"][0] <= line["iqm"] <= line["ci95"][1] <= 500
        assert line["solved"]["solved"] <= 3
    assert (tmp_path / "sweep_a2c_CartPole-v1.png").stat().st_size > 10_000


def test_scaling_times_one_device_against_all(monkeypatch: pytest.MonkeyPatch) -> None:
    small = jaxpg.a2c(jaxpg.make("CartPole-v1"), hidden=(4,), num_envs=1, num_steps=4)  # compiles in half the time
    monkeypatch.setattr(jaxpg, "ppo", lambda *_, **__: small)
    found = scaling.main(seeds=2, num_envs=1, updates=1, repetitions=1)
    assert found["ratio"] == pytest.approx(found["all"] / found["one"])
    assert found["one"] > 0
