"""The sparse-reward study: its variants are what they say, and a random policy does not get to the top."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from experiments import mountain_car
from jaxpg.core import advantages
from jaxpg.core.types import Trajectory


def trajectory(terminated, truncated):
    steps = len(terminated)
    column = lambda x, dtype=float: jnp.asarray(x, dtype)[:, None]  # noqa: E731
    zeros = jnp.zeros((steps, 1))
    return Trajectory(
        obs=zeros,
        action=zeros,
        dist=None,
        reward=column([-1.0] * steps),
        terminated=column(terminated, bool),
        truncated=column(truncated, bool),
        next_obs=zeros,
        episode_return=zeros,
        episode_length=zeros,
        weight=jnp.ones((steps, 1)),
        memory=(),
        next_memory=(),
    )


def test_a_time_limit_that_is_death_forgets_the_value_of_the_last_state_and_nothing_else():
    hp = jaxpg.HParams(gamma=0.5)
    value, next_value = jnp.zeros((3, 1)), jnp.full((3, 1), -8.0)
    cut = trajectory([False, False, True], [False, True, False])
    right = advantages.one_step_td(cut, value, next_value, hp)[1].ravel()
    wrong = mountain_car.TimeLimitIsDeath(advantages.one_step_td)(cut, value, next_value, hp)[1].ravel()
    np.testing.assert_allclose(right, [-5.0, -5.0, -1.0])
    np.testing.assert_allclose(wrong, [-5.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("mountain_car")
    small = {"num_envs": 2, "num_steps": 8, "minibatches": 1, "hidden": (4,)}
    with pytest.MonkeyPatch.context() as patch:
        make, arrivals = mountain_car.make, mountain_car.arrivals
        patch.setattr(mountain_car, "make", lambda **options: make(**options | small))
        patch.setattr(mountain_car, "arrivals", lambda _, seed: arrivals(256, seed))
        mountain_car.main(total_steps=64, seeds=2, factors=("preset", "time limit is death", "entropy_coef"), out=out)
    return out


def test_a_random_policy_almost_never_arrives(written):
    assert json.loads((written / "mountain_car.json").read_text())["random_policy_arrives"] < 0.02


def test_the_numbers_of_every_variant_are_written(written):
    study = json.loads((written / "mountain_car.json").read_text())
    assert list(study["variants"]) == ["preset", "time limit is death", "entropy_coef = 0.0", "entropy_coef = 0.1"]
    assert all(-200.0 <= min(line["per_seed"]) <= line["iqm"] for line in study["variants"].values())
    assert (written / "mountain_car.png").stat().st_size > 10_000
