"""Compiles jaxpg's programs for accelerators that are not here, and counts what they launch and how much memory they take.

    make accelerator                                                            # all programs for an H100 and a TPU v5e
    .venv-accelerator/bin/python -m experiments.accelerator.census --targets h100 --only "update ppo 2048"

Writes ``census.json``, and a table in Markdown. Launches and cycles are of one update (a chunk: of one), start or evaluation.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import tyro

from experiments.accelerator import hlo, programs, targets
from jaxpg.lab.engine import devices

HERE = Path(__file__).parent
SINGLE = {"h100": "h100", "v5e": "v5e:2x2"}  # what to compile for: one device of these
SEVERAL = {"h100": "h100:4", "v5e": "v5e:2x2"}


def measure(program: programs.Program, target: str) -> dict[str, Any]:
    """Compile, and count."""
    found = targets.devices(SINGLE[target] if program.num_devices == 1 else SEVERAL[target])[: program.num_devices]
    begin = time.perf_counter()
    compiled = program.build(found)
    seconds = time.perf_counter() - begin
    text, memory = compiled.as_text() or "", compiled.memory_analysis()
    row: dict[str, Any] = {"seconds": round(seconds, 1), "collectives": hlo.collectives(text)}
    if memory is not None:
        row |= {
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "peak_bytes": devices.bytes_needed(compiled),
        }
    return row | hlo.count(text).to_dict()


def table(rows: dict[str, dict[str, Any]]) -> str:
    """All programs, as Markdown."""
    lines = ["| program | target | launches | outside loops | cycles | temporaries, MB | peak, MB | collectives | compile, s |"]
    lines.append("| --- | --- |" + " ---: |" * 7)
    for name, row in rows.items():
        target, program = name.split(": ", 1)
        if "error" in row:
            lines.append(f"| {program} | {target} | {row['error'].replace('|', '/')} | | | | | | |")
            continue
        cycles = f"{row['cycles'] / 1e6:.2f} M" if "cycles" in row else ""
        memory = (f"{row.get(key, 0) / 1e6:.0f}" for key in ("temporary_bytes", "peak_bytes"))
        shared = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items())
        numbers = (f"{row['launches']:,}", f"{row['own']:,}", cycles, *memory, shared, f"{row['seconds']:.0f}")
        lines.append(f"| {program} | {target} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def loops(row: dict[str, Any], depth: int = 0) -> list[str]:
    """The loops of a program, a line each."""
    lines = []
    for loop in row.get("loops", ()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in loop["kinds"].items())
        lines.append(f"{'  ' * depth}x {loop['trips'] or '?'}, {loop['leaves']} leaves: {loop['own']} launches ({kinds})")
        lines += loops(loop, depth + 1)
    return lines


def commit() -> str:
    """Of the tree, with a mark where files have changed since, other than the census itself."""
    git = ["git", "-C", str(HERE)]
    changed = [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":!census.json", ":!census.md"]
    name, marks = (
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        for command in ([*git, "rev-parse", "--short=12", "HEAD"], changed)
    )
    return f"{name}-dirty" if marks else name


def main(targets: tuple[str, ...] = ("h100", "v5e"), only: tuple[str, ...] = (), out: Path = HERE) -> dict[str, Any]:
    """Compile and count; what was counted before stays until it is counted again.

    Args:
        targets: ``h100``, ``v5e`` or both.
        only: Names of programs, by default all.
        out: Where ``census.json`` and ``census.md`` go.
    """
    known = programs.all_programs()
    unknown = sorted({*only} - {*known})
    if unknown:
        raise SystemExit(f"only = {unknown[0]!r} is no program; there are: {', '.join(known)}")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "census.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["programs"] if path.exists() else {}
    numbers: dict[str, Any] = {}
    made = commit()  # what is imported from here on
    for target in targets:
        for name in only or known:
            try:
                row = measure(known[name], target)
            except Exception as error:
                row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            rows[f"{target}: {name}"] = row | {"commit": made}
            print(f"{target}: {name}: {row.get('error') or format(row['launches'], ',') + ' launches'}", flush=True)
            print("\n".join(f"    {line}" for line in loops(row)), flush=True)
            numbers = {"versions": devices.versions(), "programs": rows}
            path.write_text(json.dumps(numbers, indent=1) + "\n")
            (out / "census.md").write_text(table(rows) + "\n")
    refused = [name for name, row in rows.items() if "error" in row]
    if refused:
        raise SystemExit(f"not compiled: {', '.join(refused)}; census.json says why")
    return numbers


if __name__ == "__main__":
    tyro.cli(main)
