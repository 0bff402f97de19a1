"""The README's Python runs: all blocks in one namespace, in order, with the numbers of the large ones made small."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"

# The same code with fewer updates, learning rates, seeds and episodes.
SMALLER = {
    "num_updates=400, log_every=10": "num_updates=2, log_every=1",
    "state, 400, 20": "state, 2, 1",
    "-2, 16)": "-2, 2)",
    "key(0), 256)": "key(0), 2)",
    "num_episodes=128": "num_episodes=8",
    "seeds=8, total_steps=4_096": "seeds=2, total_steps=256, eval_episodes=4",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_snippets_run() -> None:
    code = "\n".join(blocks("python"))
    for large, small in SMALLER.items():
        assert code.count(large) == 1, large
        code = code.replace(large, small)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, str(README), "exec", dont_inherit=True), names)  # noqa: S102 - without this file's __future__
    assert names["curves"].shape == (2, 2, 2)
    assert names["found"].settings[1] == {"learning_rate": 1e-4, "gamma": 0.99}
    assert names["found"].metrics["episode_return"].shape == (6, 2, 1)
    assert names["found"].returns["greedy_return"].shape == (6, 2)
    assert names["result"]["episode_return"].shape == (8,)
    assert type(names["meta_gradient"]) is names["KLHParams"]
    assert names["meta_gradient"].clip_eps is None
    assert np.isfinite(names["meta_gradient"].beta)
    assert names["meta_gradient"].beta < 0  # a stronger penalty: the policy moves less
    assert names["meta_gradient"].learning_rate != 0
    assert names["metrics"]["episodes"] >= 0


def test_a_snippet_is_found_for_each_job() -> None:
    assert len(blocks("python")) == 6


@pytest.mark.parametrize("page", [README, ROOT / "experiments" / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert links
    for link in links:
        assert (page.parent / link).exists(), link


def test_pictures_are_small_and_have_their_numbers_beside_them() -> None:
    pictures = list((ROOT / "experiments" / "figures").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        json.loads(picture.with_suffix(".json").read_text())
