"""The study of successive halving, small: what it counts, and that it continues where it was."""

import math

import numpy as np
import pytest

import jaxpg
from experiments.search import halving
from jaxpg.lab.store import results


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    call = {"roots": (0,), "seeds": 2, "fresh_seeds": 2, "total_steps": 256, "eval_episodes": 2, "work": folder / "work"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halving, "VARY", {"learning_rate": (1e-5, 1e-3, 1e-2, 1e-1)})
        patch.setattr(halving, "SIZES", {"num_envs": 2, "num_steps": 16, "epochs": 1, "minibatches": 1, "hidden": (4,)})
        patch.setattr(halving, "RULES", {"halving 3": (2, 2)})
        numbers = halving.main(**call, out=folder)
        patch.setattr(jaxpg.lab.engine.halving, "train_rung", lambda job, *_: results.read(job.config.run_dir))
        again = halving.main(**call, out=folder)
    return numbers, again, folder


def test_the_search_takes_the_steps_of_its_rungs_and_not_of_their_continuation(small):
    searches = small[0]["roots"][0]["searches"]
    assert searches["grid"]["env_steps"] == 4 * 2 * 256
    assert searches["halving 3"]["env_steps"] == 4 * 2 * 128 + 2 * 2 * 128
    assert searches["halving 3"]["share"] == 0.75


def test_every_choice_is_judged_by_the_same_fresh_seeds(small):
    numbers, _, folder = small
    fresh = results.read(folder / "work" / "root_0" / "again")
    for one in numbers["roots"][0]["searches"].values():
        scores = fresh.returns["greedy_return"][list(fresh.settings).index(one["setting"])]
        assert math.isclose(one["fresh"]["mean"], np.mean(scores))


def test_the_same_command_again_trains_nothing_and_finds_the_same(small):
    numbers, again, folder = small
    assert numbers == again
    assert (folder / "halving.png").stat().st_size > 10_000
