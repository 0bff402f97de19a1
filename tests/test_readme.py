"""The README is true: its Python runs, its command lines parse, its files and links exist."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from typing import Any

import numpy as np
import pytest

from jaxpg.lab.cli import options

ROOT = pathlib.Path(__file__).parent.parent
README, GALLERY = ROOT / "README.md", ROOT / "experiments" / "README.md"

# The same code with fewer updates, learning rates, seeds and episodes.
SMALLER = {
    "num_updates=400, log_every=10": "num_updates=2, log_every=1",
    "state, 40, 4": "state, 2, 1",
    "-2, 8)": "-2, 2)",
    "key(0), 16)": "key(0), 2)",
    "num_episodes=128": "num_episodes=8",
    "seeds=8, total_steps=4_096": "seeds=2, total_steps=256, eval_episodes=4",
    "total_steps=102_400, seeds=8": "total_steps=512, seeds=2, eval_episodes=4",
    "total_steps=20_480, seeds=4": "total_steps=1_024, seeds=4, eval_episodes=4",
    "total_steps=40_960, seeds=4": "total_steps=2_048, seeds=4, eval_episodes=4",
}

OWN = {  # the options of the commands that read a directory
    "resume": options.RESUME,
    "evaluate": options.EVALUATE,
    "render": options.RENDER,
    "export": options.EXPORT,
    "report": options.REPORT,
    "envs": [],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def command_lines(page: pathlib.Path) -> list[str]:
    indented = re.findall(r"^    \.venv/bin/jaxpg ([^#\n]+)", page.read_text(), re.MULTILINE)
    return [line.strip() for line in indented + re.findall(r"`jaxpg (\w+ \w+ --[^`]+)`", page.read_text())]


def check_own_pieces(names: dict[str, Any]) -> None:
    """The advantage and the distribution of the README are what they say."""
    jax, jnp, jaxpg = names["jax"], names["jnp"], names["jaxpg"]
    algo, state = names["algo"], names["state"]
    _, trajectory = algo.rollout(jax.random.key(1), algo.env, state.env_params, algo.actor(state), state.loop, algo.num_steps)
    value, next_value = jax.random.normal(jax.random.key(2), (2, *trajectory.reward.shape))
    wanted = jaxpg.advantages.NStep(2)(trajectory, value, next_value, algo.hparams)
    found = names["two_steps"](trajectory, value, next_value, algo.hparams)
    np.testing.assert_allclose(jnp.stack(found), jnp.stack(wanted), rtol=1e-5, atol=1e-5)
    logits = jnp.array([-2.0, 0.3]), jnp.array([1.0, 0.5])
    ours = [names["Bernoulli"](logit) for logit in logits]
    theirs = [jaxpg.distributions.Categorical(jnp.stack([jnp.zeros(2), logit], axis=-1)) for logit in logits]
    for one, two in (
        (ours[0].kl(ours[1]), theirs[0].kl(theirs[1])),
        *zip(map(measures, ours), map(measures, theirs), strict=True),
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def measures(dist: Any) -> np.ndarray:
    return np.stack([dist.entropy(), dist.mode(), *(dist.log_prob(np.full(2, action)) for action in (0, 1))])


def test_the_snippets_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """All blocks in one namespace, in order, and the files that the README says they leave."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("python"))
    for large, small in SMALLER.items():
        assert code.count(large) == 1, large
        code = code.replace(large, small)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, str(README), "exec", dont_inherit=True), names)  # noqa: S102 - without this file's __future__
    assert names["curves"].shape == (2, 2, 2)
    check_own_pieces(names)
    assert names["swept"].settings[1] == {"learning_rate": 1e-4, "gamma": 0.99}
    assert names["swept"].metrics["episode_return"].shape == (6, 2, 1)
    assert names["swept"].returns["greedy_return"].shape == (6, 2)
    assert names["result"]["episode_return"].shape == (8,)
    assert type(names["meta_gradient"]) is names["KLHParams"]
    assert names["meta_gradient"].clip_eps is None
    assert np.isfinite(names["meta_gradient"].beta)
    assert names["meta_gradient"].beta < 0  # a stronger penalty: the policy moves less
    assert names["meta_gradient"].learning_rate != 0
    assert re.findall(r"seed (\d): 512 steps, return \d", capsys.readouterr().out) == ["0", "1"]
    assert names["found"].env_steps[0, -1] == 2_048
    assert names["found"].returns["greedy_return"].shape == (1, 4)
    assert names["action"] in (0, 1)
    table = README.read_text().partition("| file | content |")[2].partition("\n\n")[0]
    there = {path.name for path in (tmp_path / "runs" / "line").rglob("*")}
    assert {"config.json", "batches", "result.json", "timing.json"} <= there
    for name in re.findall(r"`([a-z]+(?:\.[a-z]+)?|[a-z]+/\d+)/?`", table):
        assert pathlib.Path(name).name in there, name


def test_a_snippet_is_found_for_each_topic() -> None:
    assert len(blocks("python")) == 8


@pytest.mark.parametrize("page", [README, GALLERY], ids=["README", "gallery"])
def test_command_lines_parse(page: pathlib.Path) -> None:
    lines = command_lines(page)
    assert lines
    for command, *arguments in map(shlex.split, lines):
        if "--help" in arguments:
            assert arguments[0] in options.ALGORITHMS
        elif command in OWN:
            own = options.read_own(command, arguments, OWN[command])
            assert own.get("directory", "runs/").startswith("runs/")
        else:
            config, _ = options.read(command, arguments, [options.VARY, *options.PROCESSES])
            assert bool(config.vary) == (command == "sweep")


@pytest.mark.parametrize("page", [README, GALLERY], ids=["README", "gallery"])
def test_links_and_pictures_exist(page: pathlib.Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if not link.startswith("https://")]
    assert links
    for link in links:
        assert (page.parent / link).exists(), link


def test_pictures_are_small_and_have_their_numbers_beside_them() -> None:
    pictures = list((ROOT / "experiments" / "figures").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        json.loads(picture.with_suffix(".json").read_text())
