"""The tables of results: a cell is measured, kept, and measured again to the same numbers; what is printed was measured."""

import json
from pathlib import Path

import pytest

from experiments import results
from jaxpg.algorithms import presets

TINY = ("a2c", "CartPole-v1", 1024)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "places", lambda: [TINY])
        first = results.main(few_seeds=3, eval_episodes=4, out=out)
        again = results.main(only=("a2c:CartPole-v1:1024",), few_seeds=3, eval_episodes=4, out=out)
    return out, first["cells"], again["cells"]


def test_a_cell_measured_again_gives_the_same_numbers(written):
    _, first, again = written
    assert len(first) == len(again) == 1
    assert [{**cell, "wall_seconds": 0} for cell in first] == [{**cell, "wall_seconds": 0} for cell in again]


def test_a_cell_says_what_was_run_and_what_came_of_it(written):
    out, (cell,), _ = written
    assert (cell["algo"], cell["env"], cell["env_steps"], cell["seeds"]) == ("a2c", "CartPole-v1", 1024, 3)
    assert cell["options"] == presets.options("a2c", "CartPole-v1", total_steps=1024)
    assert cell["greedy"]["mean"] == pytest.approx(sum(cell["greedy"]["per_seed"]) / 3, abs=0.01)
    assert cell["steps_to_threshold"]["censored"] == 3 - cell["steps_to_threshold"]["reached"]
    assert len(json.loads((out / "results.json").read_text())["cells"]) == 1
    assert (out / "results.png").stat().st_size > 10_000


def test_the_table_has_a_line_for_each_cell(written):
    out, _, _ = written
    text = (out / "results.md").read_text()
    assert "### CartPole-v1" in text
    assert "| a2c | 1,024 | 3 |" in text
    assert "0 of 3 [0.00, 0.71]" in text


def test_every_algorithm_has_a_cell_on_every_environment():
    assert {place[:2] for place in results.places()} == {(a, e) for a in presets.ALGORITHMS for e in results.ENVIRONMENTS}
    assert all(results.parse(":".join(map(str, place))) == place for place in results.places())


def test_a_cell_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="only = 'ppo:Pong:1' is no cell"):
        results.parse("ppo:Pong:1")


ROOT = Path(__file__).parents[2]
MEASURED = json.loads((ROOT / "experiments/figures/results.json").read_text())["cells"]


@pytest.mark.parametrize("env", results.ENVIRONMENTS)
def test_the_gallery_prints_what_was_measured(env):
    assert results.table(MEASURED, env) in (ROOT / "docs/gallery/results.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/gallery/results.md"])
def test_the_overview_prints_what_was_measured(page):
    assert results.overview(MEASURED) in (ROOT / page).read_text()


@pytest.mark.xfail(
    strict=True, reason="to be measured again: a Gaussian acts in units of its Box now, and options have been added"
)
def test_every_cell_was_measured_with_what_the_presets_are_now():
    """On no fewer than 30 seeds, and not on the root seed that presets are tuned with."""
    assert {(cell["algo"], cell["env"], cell["total_steps"]) for cell in MEASURED} == set(results.places())
    for cell in MEASURED:
        algo, env, total_steps = place = cell["algo"], cell["env"], cell["total_steps"]
        expected = presets.options(algo, env, total_steps=total_steps, **results.OTHER_BUDGETS.get(place, {}))
        assert cell["options"] == json.loads(json.dumps(expected))
        assert cell["seeds"] >= 30
        assert cell["seed"] != 0
