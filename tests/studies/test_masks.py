"""Masked actions are never illegal and learn at once; with memory too the right corner is found, without it guessed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from experiments import masks, study

GALLERY = (study.FIGURES.parents[1] / "docs/gallery/memory_images_masks.md").read_text()
STORED = json.loads((study.FIGURES / "masks.json").read_text())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("masks")
    masks.main(seeds=2, updates=16, errand_updates=60, looks=4, out=out)
    assert (out / "masks.png").stat().st_size > 10_000
    return json.loads((out / "masks.json").read_text())


def test_the_legal_cells_are_those_one_step_away():
    assert masks.NEIGHBOURS.sum(axis=1).reshape(5, 5).tolist() == [
        [2, 3, 3, 3, 2],
        [3, 4, 4, 4, 3],
        [3, 4, 4, 4, 3],
        [3, 4, 4, 4, 3],
        [2, 3, 3, 3, 2],
    ]
    for here, there in zip(*np.nonzero(masks.NEIGHBOURS), strict=True):
        assert abs(here // 5 - there // 5) + abs(here % 5 - there % 5) == 1


@pytest.mark.parametrize(("rule", "reward", "ends"), [("masked", -1.0, True), ("ends", -1.0, True), ("costs", -0.1, False)])
def test_an_illegal_action_ends_the_episode_or_costs_and_moves_nobody(rule, reward, ends):
    env = masks.walk(rule)
    _, state = env.reset(jax.random.key(0), None)
    place, _ = state
    _, _, paid, terminated, _, info = env.step(jax.random.key(1), state, place, None)  # to stay is illegal
    assert (round(float(paid), 6), bool(terminated)) == (reward, ends)
    assert int(jnp.argmax(info["final_observation"])) == int(place)
    jaxpg.check_env(env)


def test_the_errand_shows_its_goal_once_and_doors_change():
    env, seen = masks.errand(), set()
    jaxpg.check_env(env)
    for seed in range(20):
        obs, state = env.reset(jax.random.key(seed), None)
        goal = int(jnp.argmax(obs[masks.CELLS :]))
        masks_seen = []
        assert np.flatnonzero(env.action_mask(state, None)).tolist() == [12]
        for i in range(4):
            mask = np.asarray(env.action_mask(state, None))
            assert mask[12]
            assert not np.any(mask & ~masks.NEIGHBOURS[12] & (np.arange(25) != 12))
            masks_seen.append(tuple(mask))
            obs, state, *_ = env.step(jax.random.key(i), state, jnp.int32(12), None)
            assert not np.any(obs[masks.CELLS :])
        seen |= {goal}
        assert len(set(masks_seen)) > 1
    assert seen == {0, 1, 2, 3}


def test_with_masks_no_action_is_illegal_and_without_most_are_at_first(small):
    rules = small["rules"]
    assert rules["masked"]["illegal"] == {"first": 0.0, "last": 0.0, "most": 0.0}
    assert rules["ends"]["illegal"]["first"] > 0.7 < rules["costs"]["illegal"]["first"]
    assert rules["masked"]["greedy"]["mean"] == 1.0
    assert rules["ends"]["greedy"]["mean"] < 0.5


def test_masks_and_memory_work_together(small):
    gru, mlp = (small["memories"][name] for name in ("gru", "mlp"))
    assert gru["illegal"]["most"] == mlp["illegal"]["most"] == 0.0
    assert gru["sampled"]["mean"] > mlp["sampled"]["mean"] + 0.2


def test_the_table_in_the_text_is_what_is_stored():
    assert masks.table(STORED) in GALLERY


def test_what_the_text_says_of_the_stored_numbers_holds():
    for row in (STORED["rules"]["masked"], *STORED["memories"].values()):
        assert row["illegal"] == {"first": 0.0, "last": 0.0, "most": 0.0}
    assert STORED["rules"]["masked"]["solved"]["solved"] == STORED["memories"]["gru"]["solved"]["solved"] == 16
    assert STORED["memories"]["mlp"]["greedy"]["mean"] < 0.35
