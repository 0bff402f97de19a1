"""A step is the same in both libraries, but for one wall; so is what a policy earns."""

import numpy as np
import pytest

from experiments import gymnasium_transfer
from jaxpg.lab.engine import devices


@pytest.mark.parametrize("env_id", ["CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Pendulum-v1"])
def test_a_step_is_the_same(env_id):
    found = gymnasium_transfer.one_step(env_id, count=300)
    assert found["largest"] < 1e-4
    assert found["share"] == 0.0


def test_only_the_left_wall_of_the_continuous_car_is_not():
    found = gymnasium_transfer.one_step("MountainCarContinuous-v0", count=1000)
    assert 0.0 < found["share"] < 0.05
    assert 0.01 < found["largest"] <= 0.0701, "the speed with which it hits the wall"


@pytest.fixture
def numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)
    return gymnasium_transfer.main(envs=("CartPole-v1",), seeds=2, episodes=40, states=50, total_steps=8192, out=tmp_path)


def test_a_policy_earns_the_same(numbers):
    (row,) = numbers["runs"]
    assert len(row["gymnax"]) == len(row["gymnasium"]) == 2
    assert np.all(np.array(row["gymnax"]) > 15), "something was learned"
    assert row["ci95"][0] <= 0.0 <= row["ci95"][1]
