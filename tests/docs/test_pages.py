"""The pages are true: their Python runs, their command lines parse, their links lead somewhere, their words are plain."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from typing import Any

import numpy as np
import pytest

from jaxpg.lab.cli import options

ROOT = pathlib.Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "experiments" / "README.md", *sorted(DOCS.rglob("*.md"))]

SMALLER = (  # the same code with fewer updates, seeds and episodes
    (r"total_steps=([\d_]+)", lambda n: max(256, n // 80)),
    (r"num_updates=([\d_]+)", lambda n: min(n, 2)),
    (r"log_every=([\d_]+)", lambda n: 1),
    (r"num_episodes=([\d_]+)", lambda n: min(n, 8)),
    (r"\bseeds=([\d_]+)", lambda n: min(n, 4)),
    (r"eval_episodes=([\d_]+)", lambda n: min(n, 4)),
    (r"-4, -2, (8)\)", lambda n: 2),  # the learning rates of a vmap
)

OWN = {  # the options of the commands that read a directory
    "resume": options.RESUME,
    "evaluate": options.EVALUATE,
    "render": options.RENDER,
    "export": options.EXPORT,
    "report": options.REPORT,
    "envs": [],
}


def blocks(page: pathlib.Path, kind: str) -> list[str]:
    """The blocks of a page whose first line is exactly that: others are marked ``no-run``."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def make_small(code: str) -> str:
    for pattern, small in SMALLER:
        code = re.sub(
            pattern, lambda found, small=small: found[0].replace(found[1], str(small(int(found[1].replace("_", ""))))), code
        )
    return code


def check_quickstart(names: dict[str, Any]) -> None:
    assert names["metrics"]["episode_return"].shape == ()  # of the last call, a single update
    assert names["result"]["episode_return"].shape == (8,)
    assert names["found"].returns["greedy_return"].shape == (1, 4)
    assert names["action"] in (0, 1)
    assert pathlib.Path("sweep.png").stat().st_size > 5_000


def check_sweeps(names: dict[str, Any]) -> None:
    swept = names["swept"]
    assert swept.settings[1] == {"learning_rate": 1e-4, "gamma": 0.99}
    assert swept.metrics["episode_return"].shape[:2] == swept.returns["greedy_return"].shape == (6, 4)


def check_extending(names: dict[str, Any]) -> None:
    """The pieces of the page are what they say: compared with those of the library."""
    jax, jnp, jaxpg = names["jax"], names["jnp"], names["jaxpg"]
    assert type(names["meta_gradient"]) is names["KLHParams"]
    assert names["meta_gradient"].clip_eps is None
    assert names["meta_gradient"].beta < 0  # a stronger penalty: the policy moves less
    assert names["meta_gradient"].learning_rate != 0
    assert names["curves"].shape == (2, 4, 2)
    algo = jaxpg.actor_critic(names["env"])
    state = algo.init(jax.random.key(0))
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


def check_spaces(names: dict[str, Any]) -> None:
    """The mask of the corridor is respected: at its end nothing but the first action has a probability."""
    jax, jnp, algo = names["jax"], names["jnp"], names["algo"]
    mask = jnp.array([[True, False]])
    dist, _ = algo.predict(names["state"], {"obs": jnp.full((1, 1), 3.0), "action_mask": mask})
    assert jnp.exp(dist.log_prob(jnp.array([1]))) == 0
    assert jax.tree.leaves(names["metrics"])


def check_run_directory(names: dict[str, Any]) -> None:
    table = (DOCS / "run_directory.md").read_text().partition("| file | content |")[2].partition("\n\n")[0]
    there = {path.name for path in pathlib.Path("runs/a2c").rglob("*")}
    for name in re.findall(r"^\| `(?:[\w/]*/)?([\w.]+)/?`", table, re.MULTILINE):
        assert name == "STEP" or name in there, name
    assert names["rows"][0].keys() >= {"setting", "seed", "update", "env_steps", "episode_return"}


def check_ladder(names: dict[str, Any]) -> None:
    assert names["two_step"].advantage == names["jaxpg"].advantages.NStep(2)


CHECKS = {
    "docs/quickstart.md": check_quickstart,
    "docs/sweeps.md": check_sweeps,
    "docs/extending.md": check_extending,
    "docs/spaces.md": check_spaces,
    "docs/run_directory.md": check_run_directory,
    "docs/algorithms/index.md": check_ladder,
}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_python_of_a_page_runs(page: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in one namespace, in order, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"__name__": "page"}
    code = make_small("\n".join(blocks(page, "python")))
    exec(compile(code, str(page), "exec", dont_inherit=True), names)  # noqa: S102 - without this file's __future__
    CHECKS.get(name_of(page), lambda names: None)(names)


def command_lines(page: pathlib.Path) -> list[str]:
    text = page.read_text()
    lines = "".join(blocks(page, "bash")).splitlines() + re.findall(r"^    \.venv/bin/(jaxpg .+)", text, re.MULTILINE)
    lines += re.findall(r"`(jaxpg \w+ \w+ --[^`]+)`", text)
    return [line.partition(" #")[0].strip().removeprefix("jaxpg ") for line in lines if line.startswith("jaxpg ")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_parse(page: pathlib.Path) -> None:
    for command, *arguments in map(shlex.split, command_lines(page)):
        if "--help" in arguments:
            assert arguments[0] in options.ALGORITHMS
        elif command in OWN:
            own = options.read_own(command, arguments, OWN[command])
            assert own.get("directory", "runs/").startswith(("runs/", "s3://"))
        else:
            config, _ = options.read(command, arguments, [options.VARY, *options.SEARCH, *options.WORKERS, *options.HOSTS])
            assert bool(config.vary) == (command == "sweep")


def test_command_lines_are_found() -> None:
    assert len(command_lines(DOCS / "command_line.md")) >= 12
    assert len(command_lines(DOCS / "sweeps.md")) >= 4


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: pathlib.Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS in page.parents], ids=name_of)
def test_a_page_has_an_example(page: pathlib.Path) -> None:
    text = page.read_text()
    assert text.startswith("# ")
    assert re.search(r"^```(python|bash)", text, re.MULTILINE)


def test_every_page_is_in_the_navigation() -> None:
    """And nothing else: what is listed exists (``mkdocs build --strict`` says so too, but later)."""
    listed = set(re.findall(r"^\s+- (?:[^:\n]+: )?([\w/]+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for kind in ("*.md", "*.ipynb") for page in DOCS.rglob(kind)}


def test_pictures_are_small_and_have_their_numbers_beside_them() -> None:
    pictures = list((ROOT / "experiments" / "figures").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        json.loads(picture.with_suffix(".json").read_text())


DIALECT = re.compile(
    r"\bmend|\blots?\b|\brooms?\b|\b(go|goes|going|went|gone) on\b|\bannounc|\bshout|\bheed|\bwhole\b(?! numbers?\b)",
    re.IGNORECASE,
)
WRITTEN = [*PAGES, ROOT / "CHANGELOG.md", *ROOT.glob("jaxpg/**/*.py"), *ROOT.glob("experiments/**/*.md")]


@pytest.mark.parametrize("path", WRITTEN, ids=name_of)
def test_words_are_those_of_the_field(path: pathlib.Path) -> None:
    """What a reader of another library would have to translate: mend (fix), lot (batch), room (module), ..."""
    found = {number: line for number, line in enumerate(path.read_text().splitlines(), 1) if DIALECT.search(line)}
    assert not found
