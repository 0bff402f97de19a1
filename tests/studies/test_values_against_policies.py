"""The comparison runs on the same steps, its numbers are what they say, and values reuse data that policies throw away."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import values_against_policies as study


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return study.main(
        envs=("CartPole-v1",),
        methods=("Q-learning, table", "DQN"),
        total_steps=(2048,),
        points=2,
        seeds=2,
        episodes=4,
        out=tmp_path_factory.mktemp("figures"),
    )


def test_all_share_one_axis(numbers):
    rows = numbers["envs"]["CartPole-v1"]
    assert {tuple(row["env_steps"]) for row in rows.values()} == {(1024, 2048)}
    assert all(np.shape(row["returns"]) == (2, 2) for row in rows.values())
    assert all(1 <= np.min(row["returns"]) <= np.max(row["returns"]) <= 500 for row in rows.values())


def test_relapses_and_steps_to_the_threshold():
    returns = np.array([[1.0, 1.0, 1.0], [9.0, 1.0, 1.0], [1.0, 9.0, 1.0], [9.0, 9.0, 1.0]])  # [points, seeds]
    row = study.judged(np.array([10, 20, 30, 40]), returns, threshold=5.0)
    assert row["to_threshold"]["per_seed"] == [20, 30, math.inf]
    assert row["relapses"] == pytest.approx(1 / 3), "of three looks after the first success, one was below"
    assert math.isnan(study.judged(np.array([10, 20]), returns[:2] * 0, threshold=5.0)["relapses"])


def test_cells_are_numbered_without_gaps():
    low, high, cells = (-1.0, 0.0), (1.0, 6.0), (2, 3)
    middles = [(x, y) for x in (-0.5, 0.5) for y in (1.0, 3.0, 5.0)]
    assert [int(study.cell(low, high, cells, jnp.array(obs))) for obs in middles] == list(range(6))
    assert int(study.cell(low, high, cells, jnp.array([9.0, 99.0]))) == 5
    assert int(study.cell(low, high, cells, jnp.array([-9.0, -99.0]))) == 0
