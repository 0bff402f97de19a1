"""Without a bonus most seeds walk into the trap, with the right one none does, with too much none arrives; noise likewise."""

import json

import numpy as np
import pytest

from experiments import exploration

BONUSES, DEVIATIONS = (0.0, 0.2, 1.0), (0.1, 30.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("exploration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exploration, "BONUSES", BONUSES)
        patch.setattr(exploration, "DEVIATIONS", DEVIATIONS)
        exploration.main(length=4, seeds=16, updates=250, cars=2, car_updates=1, out=out)
    assert (out / "exploration.png").stat().st_size > 10_000
    return json.loads((out / "exploration.json").read_text())


def test_a_bonus_finds_what_premature_determinism_misses_and_too_much_hurts(written):
    none, right, much = written["bonus"]["rows"]
    assert none["found"]["fraction"] < 0.75
    assert right["found"]["fraction"] > 0.95
    assert much["found"]["fraction"] < 0.05
    assert max(none["last_return"]["mean"], much["last_return"]["mean"]) < right["last_return"]["mean"] - 0.1


def test_the_policy_settles_where_gradient_and_bonus_balance(written):
    for row in written["bonus"]["rows"][1:]:
        assert row["last_return"]["mean"] == pytest.approx(row["settled"], abs=0.05)


def test_without_a_bonus_the_policy_is_sure_and_with_it_stays_unsure(written):
    entropy = [row["entropy"][-1] for row in written["bonus"]["rows"]]
    assert entropy[0] < 0.05 < entropy[1] < entropy[2] < np.log(2)


@pytest.mark.parametrize("bonus", [0.05, 0.3, 1.0])
def test_what_settles_is_the_best_response_with_entropy_at_every_place(bonus):
    """max_p p Q(on) + (1 - p) Q(stop) + bonus H(p), by looking at a million of them."""
    p = np.linspace(0, 1, 1_000_001)[1:-1]
    value = 1.0
    for stop in (0.0, 0.0, exploration.TRAP):
        best = p[np.argmax(p * value + (1 - p) * stop - bonus * (p * np.log(p) + (1 - p) * np.log1p(-p)))]
        value = best * value + (1 - best) * stop
    assert exploration.settled(bonus, 3) == pytest.approx(value, abs=1e-5)


def test_without_a_bonus_only_the_greedy_choice_is_settled():
    assert exploration.settled(0.0, 6) == 1.0


def test_little_noise_pays_nothing_and_finds_nothing_and_much_of_it_pays_on_every_step(written):
    little, much = written["noise"]["rows"]
    assert -5.0 < min(little["sampled"]) < max(little["sampled"]) < 0.0
    assert max(much["sampled"]) < -50.0
    assert max(little["greedy"]) < 0.0


def test_the_noise_starts_where_it_was_told(written):
    for deviation, row in zip(DEVIATIONS, written["noise"]["rows"], strict=True):
        assert row["last_deviation"] == pytest.approx([deviation] * 2, rel=0.1)  # after one update
