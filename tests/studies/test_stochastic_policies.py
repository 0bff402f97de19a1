"""The study of stochastic policies, small, against linear systems and simulated games."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest

from experiments import stochastic_policies as study


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pathlib.Path]:
    out = tmp_path_factory.mktemp("stochastic_policies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "RATE", 2.0**-10)  # fewer episodes
        return study.main(seeds=16, games=300, updates=100, episodes=300, limit=100, out=out), out


def test_a_decreasing_step_ends_at_a_third_each_where_a_constant_one_circles(found: Any) -> None:
    game = found[0]["rock_paper_scissors"]
    constant, decreasing = game["constant step, last"], game["decreasing step, last"]
    np.testing.assert_allclose(decreasing["policy"], 1 / 3, atol=0.01)
    assert decreasing["distance"] < 0.03 < 0.05 < constant["distance"]
    assert game["constant step, mean of all"]["distance"] < 0.5 * constant["distance"]
    assert -0.05 < decreasing["worst_case"] < 0.0
    assert game["best deterministic"]["worst_case"] == -1.0


def test_the_payoff_is_rock_paper_scissors() -> None:
    wins = {(0, 2), (1, 0), (2, 1)}  # rock beats scissors, paper beats rock, scissors beat paper
    for mine, theirs in np.ndindex(3, 3):
        assert study.PAYOFF[mine, theirs] == ((mine, theirs) in wins) - ((theirs, mine) in wins)


def test_half_and_half_beats_every_deterministic_policy_of_the_aliased_cells(found: Any) -> None:
    """From an aliased cell v = 0.9 (1/2 + 1/2 v_corner), v_corner = 0.9 v; deterministic: 0.9 and 0.81 from one side only."""
    aliased, v = found[0]["aliased_cells"], 0.45 / (1 - 0.405)
    assert aliased["best_stochastic"] == pytest.approx((v + 0.9 * v) / 2)
    assert aliased["best_deterministic"] == pytest.approx((0.9 + 0.81) / 4)
    assert aliased["best_east"] == pytest.approx(0.5)
    assert aliased["reinforce_least"] > aliased["best_deterministic"] + 0.2
    assert aliased["reinforce"] > 0.95 * aliased["best_stochastic"]


def test_values_of_the_cells_are_those_of_played_episodes() -> None:
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(3), 4)
    cell, total = rng.choice(study.STARTS, 20_000), np.zeros(20_000)
    alive = np.ones(20_000)
    for t in range(60):
        action = (rng.random((20_000, 1)) > policy[study.SEEN[cell]].cumsum(axis=1)).sum(axis=1).clip(max=2)
        cell, reward, end = study.go(cell, action)
        total, alive = total + study.GAMMA**t * alive * reward, alive * ~end
    assert study.cells_value(policy) == pytest.approx(total.mean(), abs=4 * total.std() / 20_000**0.5)


@pytest.mark.parametrize(("right", "value"), [(2 - math.sqrt(2), -11.657), (0.95, -44.2), (0.05, -82.1), (0.3, None)])
def test_the_corridor_has_the_values_of_the_book(right: float, value: float | None) -> None:
    p, q = right, 1 - right
    transition = np.array([[q, p, 0.0], [p, 0.0, q], [0.0, q, 0.0]])  # reversed in the second; left of the first is a wall
    solved = np.linalg.solve(np.eye(3) - transition, -np.ones(3))[0]
    assert study.corridor_value(right) == pytest.approx(solved)
    assert value is None or solved == pytest.approx(value, abs=0.06)


def test_reinforce_ends_near_the_best_value_of_the_corridor(found: Any) -> None:
    corridor = found[0]["short_corridor"]
    assert corridor["best_value"] == pytest.approx(-11.657, abs=1e-3)
    assert corridor["last_100"] == pytest.approx(corridor["best_value"], abs=1.0)
    assert corridor["last_value"] == pytest.approx(corridor["best_value"], abs=1.0)
    assert corridor["first_100"] < corridor["last_100"] - 5


def test_a_softmax_moves_a_little_where_an_argmax_flips(found: Any) -> None:
    smooth = found[0]["smoothness"]
    expected = [1 / (1 + math.exp(-0.1)), 1 / (1 + math.exp(0.1))]
    np.testing.assert_allclose(smooth["softmax"], expected, rtol=1e-5)
    assert smooth["argmax"] == [1.0, 0.0]
    assert smooth["steepest"] == pytest.approx(0.25, rel=1e-3)


def test_figure_and_numbers_are_written(found: Any) -> None:
    numbers, out = found
    assert json.loads((out / "stochastic_policies.json").read_text()) == numbers
    assert (out / "stochastic_policies.png").stat().st_size > 10_000
