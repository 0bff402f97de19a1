"""Pages of the gallery: a study begins with its finding and ends with its command; links, figures and commands are right."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro

from experiments.benchmark import throughput
from jaxpg.lab.cli import options

ROOT = Path(__file__).parent.parent.parent
FIGURES = ROOT / "experiments/figures"
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs/gallery").glob("*.md"))}
STUDIES = {
    f"{name}: {study.partition(chr(10))[0]}": study
    for name, text in PAGES.items()
    for study in re.split(r"^## ", text, flags=re.MULTILINE)[1:]
}
COMMANDS = [
    line.partition("#")[0].strip()
    for text in PAGES.values()
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def anchors(text: str) -> set[str]:
    """What headings are linked by, on GitHub and in the site."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def only_arguments(main: Callable[..., Any]) -> Callable[..., Any]:
    """``main`` without what it does."""
    return functools.wraps(main)(lambda *_, **__: None)


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_study_begins_with_its_finding_in_one_sentence(study: str) -> None:
    _, _, text = study.partition("\n\n")
    finding = re.match(r"\*\*([^*]+)\.\*\*\n\n", text)
    assert finding
    assert not re.search(r"[.!?] [A-Z]", finding[1].replace("\n", " "))


def test_the_protocol_and_the_command_of_a_study_stand_at_its_end() -> None:
    for name, study in STUDIES.items():
        assert re.search(r"\n\n\*\*Protocol\.\*\* .+\n\n```bash\n[^`]+```\n*$", study, re.DOTALL), name


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "jaxpg":
        name, *arguments = arguments
        if name == "render":
            options.read_own(name, arguments, options.RENDER)
        else:
            options.read(name, arguments, [options.VARY, *options.SEARCH, *options.WORKERS, *options.HOSTS])
        return
    module = arguments[1]
    assert program in {"python", ".venv-suites/bin/python"}
    assert arguments[0] == "-m"
    assert (program == "python") == (not module.startswith("experiments.suites."))
    if module == "pytest":
        assert (ROOT / arguments[2]).is_file()
    elif "--help" not in arguments:
        assert module.startswith("experiments.")
        if module == "experiments.benchmark.throughput":
            tyro.cli(throughput.Options, args=arguments[2:])
        else:
            tyro.cli(only_arguments(importlib.import_module(module).main), args=arguments[2:])


@pytest.mark.parametrize("name", PAGES)
def test_links_and_figures_exist(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGES[name]) if not link.startswith("https://")]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = ROOT / "docs/gallery" / path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_figure_and_every_study_is_shown() -> None:
    figures = {path.name for path in FIGURES.iterdir() if path.suffix in {".png", ".gif"}}
    for text in (PAGES["index.md"], "".join(STUDIES.values())):
        assert {Path(link).name for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)} == figures
    linked = re.findall(r"\]\((\w+\.md)(?:#([^)]+))?\)", PAGES["index.md"])
    assert {page for page, _ in linked} == {*PAGES} - {"index.md"}
    for study in STUDIES:
        page, _, title = study.partition(": ")
        (anchor,) = anchors(f"# {title}")
        assert (page, anchor) in linked, study
