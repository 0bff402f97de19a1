"""Parts of a self-contained HTML page: it loads nothing, runs no script but its own, and all text is escaped."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from jaxpg.lab.report.text import printable

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark }
body { margin: 2.5rem auto; max-width: 72rem; padding: 0 1rem; font: 1.05rem/1.55 Charter, "Bitstream Charter", Georgia, serif }
h1, h2, h3 { line-height: 1.2; font-weight: 600; overflow-wrap: anywhere }
h1 { margin-bottom: .3rem }
h2 { margin-top: 2.5rem }
p, figure { max-width: 42rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; border-block: 2px solid; margin: 1rem 0; font: .82rem/1.4 system-ui, sans-serif }
caption { text-align: left; padding-bottom: .4rem; max-width: calc(100vw - 3rem) }
thead { border-bottom: 1px solid }
th, td { padding: .25rem .4rem; text-align: left; vertical-align: top }
th { font-weight: 600 }
thead th { vertical-align: bottom }
tbody th { overflow-wrap: anywhere; min-width: 7rem }
td { font-variant-numeric: tabular-nums; white-space: nowrap }
td wbr { white-space: normal }
.best { background: #2a5caa26 }
.warning { border-left: 4px solid #d55e00; padding-left: .8rem }
figure { margin: 1.5rem 0 }
figcaption { font-size: .9rem }
input, button { font: inherit }
th button { background: none; border: 0; padding: 0; font-weight: inherit; text-align: left; cursor: pointer }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
@page { margin: 1.2cm }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt }
  table { font-size: 6pt }
  th, td, tbody th { padding: .1rem .25rem; white-space: normal; min-width: 0 }
  .scroll { overflow: visible }
  figure, tr { break-inside: avoid }
  h2, h3 { break-after: avoid }
}
"""


def document(title: str, body: str, script: str = "") -> str:
    """A page with a ``title``, which is text, and a ``body``, which is HTML. It runs ``script`` and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"{POLICY}; script-src 'sha256-{digest}'" if script else POLICY
    end = f"<script>{script}</script>\n" if script else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}</main>
{end}</body>
</html>
"""


def grid(caption: str, heads: Sequence[str], lines: Sequence[Sequence[str]], best: int | None = None) -> str:
    """A table. The first cell of each line is its head; line ``best`` is highlighted. A wide table scrolls inside the page."""
    top = "".join(f'<th scope="col">{breakable(head)}</th>' for head in heads)
    body = ""
    for i, (first, *rest) in enumerate(lines):
        cells = f'<th scope="row">{breakable(first)}</th>' + "".join(f"<td>{breakable(cell)}</td>" for cell in rest)
        body += f'<tr class="best">{cells}</tr>\n' if i == best else f"<tr>{cells}</tr>\n"
    inside = f"<caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>"
    attributes = f'class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"'
    return f"<div {attributes}>\n<table>\n{inside}\n</table>\n</div>\n"


def paragraph(text: str, term: str = "") -> str:
    """A paragraph; it begins with the ``term`` that it explains, if given."""
    return f"<p>{f'<strong>{escape(term)}</strong>: ' * bool(term)}{escape(text)}</p>\n"


def warning(text: str) -> str:
    """A highlighted paragraph, or nothing if ``text`` is empty."""
    return f'<p class="warning">{escape(text)}</p>\n' if text else ""


def picture(drawn: Figure, caption: str) -> str:
    """A figure and its caption. A PNG at twice the size is sharp, and small for any number of seeds."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=200)
    data = base64.b64encode(file.getvalue()).decode()
    width, height = (round(100 * inches) for inches in drawn.get_size_inches())
    title = escape(drawn.axes[0].get_title(loc="left"))
    image = f'<img src="data:image/png;base64,{data}" alt="{title}" width="{width}" height="{height}">'
    return f"<figure>\n{image}\n<figcaption><strong>{title}.</strong> {escape(caption)}</figcaption>\n</figure>\n"


def breakable(text: str) -> str:
    """Escape ``text`` for a cell, with line breaks allowed after underscores and commas and before brackets."""
    return re.sub(r"[_,]| (?=\()", r"\g<0><wbr>", escape(text))


def escape(text: str) -> str:
    """Escape ``text`` for HTML; characters that cannot be printed are written as in ``repr``."""
    return html.escape(printable(text), quote=True)
