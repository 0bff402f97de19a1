"""PPO on an environment of two functions comes near the policy that is known to be the best, and not above it."""

import numpy as np

from experiments.embedding import own_environment


def test_the_riccati_solution_is_a_fixed_point():
    A, B, P = own_environment.A, own_environment.B, own_environment.P
    K = own_environment.Best().init(None, None)
    np.testing.assert_allclose(P, np.eye(2) + A.T @ P @ (A - B @ np.asarray(K)), rtol=1e-5)


def test_ppo_is_nearly_as_good_as_the_best_policy(tmp_path):
    numbers = own_environment.main(updates=90, seeds=8, out=tmp_path)
    assert np.all(np.array(numbers["greedy"]) > numbers["best"] - 1e-2)
    assert np.median(numbers["greedy"]) < 1.25 * numbers["best"]
