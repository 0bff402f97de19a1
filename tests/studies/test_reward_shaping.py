"""The study of shaped rewards, small: what A2C makes of each, and which optimum each has, by enumerating policies."""

from __future__ import annotations

import itertools
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from experiments import reward_shaping as study
from experiments.reward_shaping import GAMMA, REWARDS, Shaping

SPARSE, BONUS, POTENTIAL = REWARDS


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pathlib.Path]:
    out = tmp_path_factory.mktemp("reward_shaping")
    return study.main(size=6, max_steps=50, seeds=8, total_steps=25_600, points=20, episodes=10, out=out), out


def test_the_bonus_is_collected_and_the_task_forgotten(found: Any) -> None:
    row = found[0]["rewards"][BONUS]
    assert row["most_arrive"] > 0.8  # on its way it does arrive
    assert row["arrive"] < 0.1
    assert row["paid"] > 1.1 * row["straight"]  # and is paid more for not arriving


@pytest.mark.parametrize("name", [SPARSE, POTENTIAL])
def test_neither_the_sparse_reward_nor_the_potential_is_exploited(name: str, found: Any) -> None:
    assert found[0]["rewards"][name]["arrive"] > 0.95


def test_the_potential_is_learnt_from_sooner_than_the_sparse_reward(found: Any) -> None:
    assert found[0]["rewards"][POTENTIAL]["steps_to_90"] < found[0]["rewards"][SPARSE]["steps_to_90"]


def enumerated(shaping: Shaping) -> tuple[np.ndarray, np.ndarray]:
    """All 64 deterministic policies of a 2 x 2 grid and their values ``[64, 3]``: v = (I - gamma P)^-1 r."""
    policies = np.array(list(itertools.product(range(4), repeat=3)))
    values = []
    for policy in policies:
        place, reward, end = study.go(np.arange(3), policy, 2, shaping)
        transition = np.eye(4)[place][:, :3] * ~end[:, None]
        values.append(np.linalg.solve(np.eye(3) - GAMMA * transition, reward))
    return policies, np.array(values)


@pytest.mark.parametrize("shaping", [*REWARDS.values(), Shaping(bonus=0.03), Shaping(potential=5.0)])
def test_optimal_values_are_the_best_of_all_policies(shaping: Shaping) -> None:
    np.testing.assert_allclose(study.optimal_values(2, shaping).max(axis=1), enumerated(shaping)[1].max(axis=0), rtol=1e-9)


@pytest.mark.parametrize("potential", [0.1, 5.0, -3.0])
def test_a_potential_shifts_the_value_of_every_policy_by_the_same(potential: float) -> None:
    """v'(s) = v(s) - Phi(s), and so the order of policies stays; Phi = -potential x distance [Ng, Harada & Russell 1999]."""
    distance = np.array([2.0, 1.0, 1.0])
    sparse, shaped = enumerated(Shaping())[1], enumerated(Shaping(potential=potential))[1]
    np.testing.assert_allclose(shaped, sparse + potential * distance, atol=1e-9)


@pytest.mark.parametrize("size", [2, 5])
def test_the_potential_leaves_the_optimal_actions_and_the_bonus_does_not(size: int) -> None:
    sparse, bonus, potential = (study.optimal_actions(size, shaping) for shaping in REWARDS.values())
    np.testing.assert_array_equal(potential, sparse)
    assert np.any(bonus & ~sparse)


def test_the_optimum_of_the_bonus_never_arrives(found: Any) -> None:
    rewards = found[0]["rewards"]
    assert [rewards[name]["optimum_arrives"] for name in REWARDS] == [1.0, 0.0, 1.0]
    assert [rewards[name]["cells_changed"] > 0 for name in REWARDS] == [False, True, False]


def test_figure_and_numbers_are_written(found: Any) -> None:
    numbers, out = found
    assert json.loads((out / "reward_shaping.json").read_text()) == numbers
    assert (out / "reward_shaping.png").stat().st_size > 10_000
