"""What the site does to the pages of ``docs/``, which read well in the repository too.

* Pictures of ``experiments/figures`` are part of the site.
* Links to other files of the repository lead to the repository.
* The name of anything public in code, such as jaxpg.ppo, is a link to its API page.
* Formulas become MathML, which browsers draw themselves: no script, no font, no network.
* Scripts of notebooks that would fetch something are removed.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
WIDE = ("comparison.md", "gallery/results.md", "gallery/suites.md")  # their tables get the place of the list of contents
FIGURES = "experiments/figures"
LINK = re.compile(r"(\]\(|src=\")((?:\.\./)+[^)\"#\s]+)")
NOTEBOOK = re.compile(r'<div[^>]*data-mime-type="text/markdown".*?</div>', re.DOTALL)
SCRIPT = re.compile(r'<script(?: type="module"| type="text/x-mathjax-config"| src="")>.*?</script>', re.DOTALL)
RAW = re.compile(r"(\$\$?)(?=\S)(.+?)(?<=\S)\1(?!\d)", re.DOTALL)
NAME = re.compile(r"<code>(jaxpg(?:\.\w+)+)</code>(?!</a>|</autoref>)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures."""
    for picture in sorted((ROOT / FIGURES).iterdir()):
        if picture.suffix in {".png", ".gif"}:
            files.append(File.generated(config, f"figures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links that leave ``docs/`` to where their files are. ``no-run`` is a word to the tests alone."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def point(found: re.Match[str]) -> str:
        before, link = found.groups()
        path = posixpath.normpath(posixpath.join(folder, link))
        if path.startswith("docs/"):
            return found[0]
        if not (ROOT / path).exists():
            raise ValueError(f"{page.file.src_uri}: {link}: no such file")
        if path.startswith(FIGURES + "/") and path.endswith((".png", ".gif")):
            return before + posixpath.relpath("docs/figures/" + posixpath.basename(path), folder)
        return f"{before}{config.repo_url}/blob/main/{path}"

    return LINK.sub(point, re.sub(r"^(```\w+) no-run$", r"\1", markdown, flags=re.MULTILINE))


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Draw formulas, and link names. The text of notebooks has formulas as they are written."""
    if page.file.src_uri.endswith(".ipynb"):
        content = SCRIPT.sub("", content)  # they would fetch MathJax and Mermaid
        return NOTEBOOK.sub(lambda cell: RAW.sub(lambda found: draw(found[2], found[1] == "$$"), cell[0]), content)
    content = FORMULA.sub(lambda found: draw(found[3], found[2] == "["), content)
    return NAME.sub(r'<autoref optional identifier="\1"><code>\1</code></autoref>', content)


def draw(formula: str, is_block: bool) -> str:
    """MathML of a formula in TeX."""
    return latex2mathml.converter.convert(html.unescape(formula), display="block" if is_block else "inline")
