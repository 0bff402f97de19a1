"""A small run writes numbers, table and figure; the text says what is stored."""

import json

import numpy as np
import pytest

from experiments import images, study
from jaxpg.algorithms import presets

GALLERY = (study.FIGURES.parents[1] / "docs/gallery/memory_images_masks.md").read_text()
STORED = json.loads((study.FIGURES / "images.json").read_text())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("images")
    small = {"total_steps": 8000, "seeds": 2, "eval_episodes": 2, "games": ("Breakout",), "out": out}
    images.main(encoders=("shared",), **small)
    images.main(encoders=("separate",), **small)
    assert (out / "images.png").stat().st_size > 10_000
    return json.loads((out / "images.json").read_text())["cells"]


def test_cells_are_kept_and_have_a_row_each(small):
    assert list(small) == ["Breakout shared", "Breakout separate"]
    rows = images.table(small).splitlines()
    assert len(rows) == 4
    for cell, row in zip(small.values(), rows[2:], strict=True):
        assert f"| {cell['total_steps']:,} | 2 | {np.mean(cell['sampled']['per_seed']):.1f} |" in row
        assert cell["total_steps"] == cell["env_steps"][-1] == 8192
        assert np.shape(cell["curve"]) == (2, len(cell["env_steps"]))


def test_the_encoders_are_what_they_say(small):
    shared, separate = (small[f"Breakout {encoder}"]["options"] for encoder in images.ENCODERS)
    assert (shared["shared"], separate["shared"]) == (True, False)
    assert separate["critic_learning_rate"] == separate["learning_rate"] == shared["learning_rate"]


def test_the_stored_cells_are_of_the_presets_and_of_the_budget_that_the_text_names():
    for name, cell in STORED["cells"].items():
        game, encoder = name.split()
        given = {"total_steps": 1_000_000} | images.ENCODERS[encoder]
        expected = presets.options("ppo", f"{game}-MinAtar", **given)
        assert cell["options"] == json.loads(json.dumps(expected)), name
        assert cell["total_steps"] >= 1_000_000
        assert len(cell["sampled"]["per_seed"]) >= 4
    assert set(STORED["cells"]) >= {f"{game} shared" for game in images.GAMES} | {"Breakout separate", "SpaceInvaders separate"}


def test_the_table_in_the_text_is_what_is_stored():
    assert images.table(STORED["cells"]) in GALLERY
