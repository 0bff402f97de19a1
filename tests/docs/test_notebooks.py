"""The notebooks of the documentation: their code runs, and what is saved in them is complete, small and true."""

from __future__ import annotations

import ast
import base64
import itertools
import json
import pathlib
import re
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ("policy_gradients_from_scratch", "sweep_in_five_minutes", "your_own_idea")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

SMALL = {  # what keeps a reader busy for minutes, in seconds
    r"total_steps=[\d_]+": "total_steps=512, eval_episodes=4",
    r"\bseeds=\d+": "seeds=2",
    r"num_updates=[\d_]+": "num_updates=2",
    r"log_every=\d+": "log_every=1",
    r"num_episodes=[\d_]+": "num_episodes=4",
    r"num_batches=[\d_]+": "num_batches=10",
}
FIGURE = "**In the figure:**"


def cells(path: pathlib.Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(path: pathlib.Path) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in cells(path, "code"))


def run(name: str) -> dict[str, Any]:
    """The names that a notebook leaves, all its cells run in order with small budgets."""
    code = source(FOLDER / f"{name}.ipynb")
    for large, small in SMALL.items():
        code = re.sub(large, small, code)
    names: dict[str, Any] = {"__name__": name}
    exec(compile(code, name, "exec", dont_inherit=True), names)  # noqa: S102 - without this file's __future__
    return names


@pytest.fixture(autouse=True)
def drawn_in_an_empty_directory(tmp_path, monkeypatch):
    """Figures are drawn without a screen, and the settings of the notebook end with it."""
    monkeypatch.chdir(tmp_path)
    printed = np.get_printoptions()
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()  # what is only drawn when it is shown
        plt.close("all")
    np.set_printoptions(**printed)


def test_the_lesson_computes_the_exact_gradient_four_times():
    names = run("policy_gradients_from_scratch")
    jnp, exact, theta = names["jnp"], np.asarray(names["exact"]), names["theta"]
    by_values = jax.grad(lambda theta: names["values"](theta)[0, names["GOOD"]])(theta)  # no episodes: Bellman's equation
    np.testing.assert_allclose(by_values, exact, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(names["theorem"], exact, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(names["samples"].mean(axis=0), exact, atol=0.1)
    found = {name: dict(zip(("bias", "variance"), pair, strict=True)) for name, pair in names["found"].items()}
    assert [row["bias"] < 1e-3 for row in found.values()] == [True, True, True, True, False]
    assert found["reward to go - v(s)"]["variance"] < found["reward to go"]["variance"] < found["total return"]["variance"]
    assert jnp.sum(names["probability"](theta)) == pytest.approx(1.0, abs=1e-4)
    assert set(names["measured"]) == set(names["psis"])
    shapes = {tuple(array.shape for array in arrays) for arrays in names["results"].values()}
    assert shapes == {((2,), (16, 2), (16, 4))}


def test_the_sweep_is_the_same_in_memory_and_in_a_directory(capsys):
    names = run("sweep_in_five_minutes")
    assert names["greedy"].shape == (6, 2)
    np.testing.assert_array_equal(names["again"].digests, names["saved"].digests)
    assert names["act"](np.zeros(4, np.float32)) in (0, 1)
    assert "identical: True" in capsys.readouterr().out
    assert len(names["rows"]) > 1


def test_the_own_ideas_are_what_they_say():
    names = run("your_own_idea")
    slope, difference = float(names["slope"]), float(names["difference"])
    assert slope < -1e-3  # a stronger penalty: the policy moves less
    assert slope == pytest.approx(difference, rel=0.05)
    assert names["meta_gradient"].clip_eps is None
    assert np.isfinite(names["meta_gradient"].learning_rate)
    assert names["meta_gradient"].learning_rate > 0  # a longer step: it moves more
    assert names["path"].shape == (3, 2)
    assert np.all(np.isfinite(names["path"]))
    feedback = names["K"].astype(float)
    lowest = discounted_cost(names, feedback)
    assert lowest == pytest.approx(float(0.25 * names["P"][0, 0]), rel=1e-5)
    for change in ((0.05, 0.0), (-0.05, 0.0), (0.0, 0.05), (0.0, -0.05)):
        assert discounted_cost(names, feedback + change) > lowest
    assert names["learned"].shape == (2, 2)


def discounted_cost(names: dict[str, Any], k: np.ndarray) -> float:
    """What u = -k s costs from s = (0.5, 0) on, by a simulation."""
    a, b = names["A"].astype(float), names["B"].astype(float)
    state, cost = np.array([0.5, 0.0]), 0.0
    for t in range(500):
        push = -k @ state
        cost += names["gamma"] ** t * float(state @ state + push**2)
        state = a @ state + b[:, 0] * push
    return cost


def test_all_three_are_there():
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@each_notebook
def test_saved_outputs_are_complete_and_without_errors(path):
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == source(path).count("plt.subplots(")


@each_notebook
def test_a_notebook_is_small_and_names_no_place_on_a_disk(path):
    assert path.stat().st_size < 350_000
    for output in (output for cell in cells(path, "code") for output in cell["outputs"]):
        for kind, text in (output.get("data", {}) | {"stream": output.get("text", "")}).items():
            if not kind.startswith("image/"):
                assert re.findall(r"(?<![\w.:/<])/\w+/\S*|[A-Z]:\\\S*|0x[0-9a-f]{6,}", "".join(text)) == []


@each_notebook
def test_a_figure_is_legible_and_something_is_said_of_it(path):
    everything = json.loads(path.read_text())["cells"]
    for cell, following in itertools.pairwise(everything):
        for data in (output.get("data", {}) for output in cell.get("outputs", [])):
            if "image/png" in data:
                width = int.from_bytes(base64.b64decode(data["image/png"])[16:20], "big")  # in the header of a PNG
                assert 400 <= width <= 800
                assert "xlabel=" in "".join(cell["source"])
                assert "".join(following["source"]).startswith(FIGURE)


@each_notebook
def test_the_numbers_that_the_text_reads_off_a_figure_are_in_the_outputs_above(path):
    seen = ""
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            seen += text + "".join("".join(output.get("text", "")) for output in cell["outputs"])
        elif text.startswith(FIGURE):
            said = numbers(text.partition("\n\n")[0])
            assert said - numbers(seen) == set()


def numbers(text: str) -> set[str]:
    """Numbers as they are written, without commas."""
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d)[,_](?=\d{3})", "", text)))


def test_numbers_are_found_as_they_are_written():
    assert numbers("4,096 or 4_096 episodes, 0.10 and 12.") == {"4096", "0.10", "12"}


@each_notebook
def test_every_cell_is_python_by_itself(path):
    for cell in cells(path, "code"):
        ast.parse("".join(cell["source"]))  # no magic of IPython: the cells run anywhere
