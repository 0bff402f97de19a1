"""A table of thousands of settings in an HTML page: the browser searches and sorts it, and shows some rows at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from jaxpg.lab.report.markup import escape
from jaxpg.lab.report.text import printable

HELP = (
    "Search for words, or for values such as gamma=0.99 and IQM>400; all must fit. Click on the head of a column to sort by it."
)
SCRIPT = r"""
for (const box of document.querySelectorAll(".search")) {
  const { heads, columns } = JSON.parse(box.querySelector("script").textContent);
  const parts = ["input", "[role=status]", "table", ".earlier", ".later"];
  const [input, status, table, earlier, later] = parts.map(part => box.querySelector(part));
  const count = columns[0].places ? columns[0].places.length : columns[0].values.length, size = 25;
  const cell = (row, column) => column.places ? column.values[column.places[row]] : column.values[row];
  const text = (row, column) => {
    const x = cell(row, column);
    return x === null ? "-" : "digits" in column ? x.toFixed(column.digits) : String(x);
  };
  const number = x => x === null || x === "" || isNaN(x) ? null : Number(x);
  const lines = Array.from({ length: count }, (_, row) =>
    heads.map((head, i) => head + "=" + text(row, columns[i])).join(" ").toLowerCase());
  let order = [...Array(count).keys()], found = order, page = 0, by = -1, sign = -1;

  function fits(word) {
    const [, name, sign, value] = word.match(/^(.+?)([=<>])(.+)$/) || [];
    const column = columns[heads.findIndex(head => head.toLowerCase() === name)];
    if (!column) return row => lines[row].includes(word);
    if (sign === "=") return row => text(row, column).toLowerCase() === value;
    return row => {
      const x = number(cell(row, column));
      return x !== null && (sign === "<" ? x < Number(value) : x > Number(value));
    };
  }
  function compare(a, b) {
    const [x, y] = [cell(a, columns[by]), cell(b, columns[by])], [p, q] = [number(x), number(y)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (p !== null && q !== null ? p - q : String(x).localeCompare(String(y))) || a - b;
  }
  function element(parent, tag, words, attributes) {
    const made = Object.assign(parent.appendChild(document.createElement(tag)), { textContent: words });
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    return made;
  }
  function draw() {
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = page * size, shown = found.slice(first, first + size);
    const range = shown.length ? [`${first + 1} to ${first + shown.length}`] : [];
    const counts = [...new Set([found.length, count])].map(number => number.toLocaleString("en"));
    status.textContent = [...range, ...counts].join(" of ") + " settings";
    [earlier.disabled, later.disabled] = [page === 0, page === pages - 1];
    table.tHead.replaceChildren();
    const top = table.tHead.insertRow();
    heads.forEach((head, i) => {
      const sorted = i === by ? (sign < 0 ? "descending" : "ascending") : "none";
      const arrow = { descending: " ▼", ascending: " ▲", none: "" }[sorted];
      const button = element(element(top, "th", "", { scope: "col", "aria-sort": sorted }), "button", head + arrow);
      button.addEventListener("click", () => { sign = i === by ? -sign : -1; by = i; page = 0; update(); });
    });
    table.tBodies[0].replaceChildren();
    for (const row of shown) {
      const line = table.tBodies[0].insertRow();
      columns.forEach((column, i) => element(line, i ? "td" : "th", text(row, column), i ? {} : { scope: "row" }));
    }
  }
  function update() {
    const rules = input.value.toLowerCase().split(/\s+/).filter(word => word).map(fits);
    if (by >= 0) order.sort(compare);
    found = rules.length ? order.filter(row => rules.every(rule => rule(row))) : order;
    draw();
  }
  input.addEventListener("input", () => { page = 0; update(); });
  earlier.addEventListener("click", () => { page--; draw(); });
  later.addEventListener("click", () => { page++; draw(); });
  update();
}
"""


def search_table(caption: str, columns: dict[str, Sequence[Any]]) -> str:
    """A table of ``columns``, texts or numbers by head, in the order in which it is first shown; ``SCRIPT`` fills it."""
    packed = [pack(values) for values in columns.values()]
    data = json.dumps({"heads": list(map(printable, columns)), "columns": packed}, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")  # no end of the script element
    return f"""<div class="search">
<p>{escape(HELP)}</p>
<p><label>Search: <input type="search" size="40" spellcheck="false"></label> <span role="status"></span>
<button class="earlier" type="button">previous</button> <button class="later" type="button">next</button></p>
<noscript><p class="warning">This table needs JavaScript; summary.json in the run directory has all settings.</p></noscript>
<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">
<table>
<caption>{escape(caption)}</caption>
<thead></thead>
<tbody></tbody>
</table>
</div>
<script type="application/json">{data}</script>
</div>
"""


def pack(values: Sequence[Any]) -> dict[str, Any]:
    """A column as data for JSON: distinct texts and the place of each row among them, or numbers; ``null`` for NaN.

    >>> pack(["a", "b", "a"]), pack([1, 2]), pack([485.0, 481.5, math.nan])
    ({'values': ['a', 'b'], 'places': [0, 1, 0]}, {'values': [1, 2]}, {'values': [485.0, 481.5, None], 'digits': 1})
    """
    if all(isinstance(value, str) for value in values):
        texts = {value: i for i, value in enumerate(dict.fromkeys(values))}
        return {"values": list(map(printable, texts)), "places": [texts[value] for value in values]}
    packed: dict[str, Any] = {"values": [None if isinstance(x, float) and not math.isfinite(x) else x for x in values]}
    written = [str(x) for x in packed["values"] if isinstance(x, float)]
    if not written or "e" in "".join(written):
        return packed
    return packed | {"digits": max(len(x.partition(".")[2].rstrip("0")) for x in written)}
