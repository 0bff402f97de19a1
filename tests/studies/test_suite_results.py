"""The study of other suites without those suites: what it makes of numbers, and that its sizes and presets exist."""

from __future__ import annotations

import doctest
import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import study
from experiments.suites import peers, results, speed
from jaxpg.algorithms import presets

BRAX, CRAFTAX = speed.SIZES
GALLERY = (study.FIGURES.parents[1] / "docs/gallery/suites.md").read_text()


def runs(*rates: float, compile_seconds: float = 9.0) -> list[dict[str, float]]:
    return [{"env_steps": 2 * rate, "seconds": 2.0, "compile_seconds": compile_seconds, "peak_gib": 1.5} for rate in rates]


@pytest.fixture
def found() -> dict[speed.Contestant, list[dict[str, float]]]:
    ours = {speed.Contestant("jaxpg", BRAX, seeds): runs(*rates) for seeds, rates in ((1, (10, 40, 90)), (4, (30, 80, 60)))}
    theirs = {
        speed.Contestant("Brax", BRAX, 1, "brax"): runs(10, 20, 30),
        speed.Contestant("rejax", BRAX, 4, "rejax"): runs(30, 40, 60, compile_seconds=7.0),
    }
    return ours | theirs


def test_ratios_are_medians_over_rounds_and_not_ratios_of_medians(found: dict) -> None:
    rows = {(row["label"], row["seeds"]): row for row in speed.summarize(found)}
    assert rows["jaxpg", 4]["rate"] == 60
    assert rows["jaxpg", 4]["ratio"] == {}
    assert rows["Brax", 1]["ratio"] == {"jaxpg, 1 seed": 2.0, "jaxpg, 4 seeds": 3.0}  # of 1, 2, 3 and of 3, 4, 2
    assert rows["rejax", 4]["ratio"] == {"jaxpg, 4 seeds": 1.0}  # of 1, 2, 1; never one seed beside four


def test_the_table_has_a_row_for_each_contestant(found: dict) -> None:
    lines = speed.table(speed.summarize(found)).splitlines()
    assert len(lines) == 2 + len(found)
    assert {line.count("|") for line in lines} == {8}
    assert lines[4] == f"| {BRAX} | 1 | Brax | 20 (10 to 30) | 2.00 (jaxpg, 1 seed); 3.00 (jaxpg, 4 seeds) | 9 | 1.5 |"


def test_sizes_are_options_of_ppo_and_what_peers_need_is_among_them() -> None:
    for sizes in speed.SIZES.values():
        options = presets.options("ppo", None, **speed.SHARED | sizes)
        assert options["num_envs"] % options["minibatches"] == 0  # Brax's minibatches are of whole unrolls
        assert options["hidden"] == (64,) * len(sizes["hidden"])


@pytest.mark.parametrize("name", results.TASKS)
def test_every_task_has_a_preset_that_its_budget_is_a_whole_number_of_updates_of(name: str) -> None:
    task = results.TASKS[name]
    assert task.env in presets.PRESETS["ppo"]
    options = presets.options("ppo", task.env)
    assert task.total_steps % (options["num_envs"] * options["num_steps"]) == 0
    if "brax" in task.trainers:
        assert options["num_envs"] % options["minibatches"] == 0


def test_contestants_differ_in_their_names_and_only_known_trainers_are_asked() -> None:
    contestants = speed.contestants()
    assert len({contestant.name for contestant in contestants}) == len(contestants)
    assert {contestant.trainer for contestant in contestants} == {"jaxpg", *peers.TRAINERS}
    assert set(results.PEERS) <= set(peers.TRAINERS)


def test_a_process_that_fails_is_an_error_with_its_last_words() -> None:
    out, peak = speed.run_alone([sys.executable, "-c", "print('found')"], {})
    assert out == "found\n"
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # which a child begins with, before it is another program
    assert 0.001 < peak < own + 0.1
    with pytest.raises(RuntimeError, match="no such suite"):
        speed.run_alone([sys.executable, "-c", "raise SystemExit('no such suite')"], {})


def cell(seeds: int, level: float, *, greedy: bool = True) -> dict[str, Any]:
    curve = np.linspace(0, level, 5) + np.arange(seeds)[:, None]
    curve[:, 0] = np.nan  # no episode has ended yet
    scores = results.summarize(curve[:, -1])
    numbers = {"env_steps": [200, 400, 600, 800, 1000], "total_steps": 1000, "curve": curve.tolist(), "seconds": 7}
    return numbers | ({"greedy": scores, "sampled": scores} if greedy else {})


def test_the_table_of_results_has_means_at_the_end_and_every_seed(tmp_path: Path) -> None:
    cells = {"hopper ppo": cell(2, 1000.0), "hopper brax": cell(2, 10.0, greedy=False)}
    cells = json.loads(json.dumps(cells))
    lines = results.table(cells).splitlines()
    assert lines[2] == "| hopper | PPO | 1,000 | 2 | 1000.5 | 1000.5 | 1000.5 | 1000.0, 1001.0 | 7 |"
    assert lines[3] == "| hopper | Brax's PPO | 1,000 | 2 | 10.50 |  |  |  | 7 |"
    figure = results.draw(cells)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "hopper"
    medians = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    np.testing.assert_allclose([np.asarray(line.get_ydata())[-1] for line in medians], [1000.5, 10.5])


def test_curves_of_peers_are_thinned_to_their_last_row() -> None:
    rows = [[(step, step + seed) for step in range(1, 1001)] for seed in (0.0, 0.5)]
    env_steps, curve = results.gather(rows)
    assert env_steps == list(range(20, 1001, 20))
    np.testing.assert_array_equal(curve, np.array(env_steps) + np.array([[0.0], [0.5]]))
    assert doctest.testmod(results).failed == 0


def test_the_gallery_prints_what_was_measured() -> None:
    measured = json.loads((study.FIGURES / "suites.json").read_text())["cells"]
    assert results.table(measured) in GALLERY
    measured = json.loads((study.FIGURES / "suites_speed.json").read_text())
    assert speed.table(measured["rows"]) in GALLERY
