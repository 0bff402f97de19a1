"""One part of ``device_check`` in a process of its own, which has the device for itself.

What a case found is written at once, so that whatever ends the process leaves the cases before. A case that raises is
recorded, and the next one runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import tyro

from experiments.accelerator.device_parts import PARTS, SMALL, Cases, Numbers, Scale, Skipped

FAILED = 3  # an exit status that nothing else gives: XLA itself ends processes with 1


def cases(name: str, scale: Scale, purejaxrl: Path | None) -> Cases:
    """Of a part. Its module is imported only here: importing an environment takes a device."""
    part = PARTS[name]
    if part.starts_commands:
        from experiments.accelerator import device_commands as module
    else:
        from experiments.accelerator import device_cases as module
    function = getattr(module, part.function or name)
    return function(scale, purejaxrl) if name == "purejaxrl" else function(scale)


def measured(measure: Callable[[], Numbers]) -> Numbers:
    """What a case found, or what kept it from finding anything."""
    begin = time.perf_counter()
    try:
        found = measure()
    except Skipped as reason:
        return {"skipped": str(reason)}
    except Exception as error:
        found = said(error)
    return found | {"case_seconds": round(time.perf_counter() - begin, 2)}


def said(error: Exception) -> Numbers:
    """An error in one line."""
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def has_failed(found: Numbers) -> bool:
    """It raised, or a check did not hold."""
    return "error" in found or not found.get("passed", True)


def write(file: Path, results: Numbers) -> None:
    """At once or not at all."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(new, file)


def main(name: str, file: Path, /, cpu: bool = False, purejaxrl: Path | None = None) -> int:
    """Run the part ``name``; what it finds goes into ``file``, case by case. ``FAILED`` if it raised or a case did."""
    results = json.loads(file.read_text())
    part = results["parts"][name]
    try:
        if not PARTS[name].starts_commands:
            from jaxpg.lab.engine import devices

            part |= devices.machine(devices.seed_mesh(1))
            write(file, results)
        for case, measure in cases(name, SMALL if cpu else Scale(), purejaxrl):
            part["cases"][case] = measured(measure)
            write(file, results)
            print(f"{name}: {case}: {json.dumps(part['cases'][case])}", flush=True)
    except Exception as error:
        part |= said(error)
        write(file, results)
        traceback.print_exc()
    return FAILED if any(map(has_failed, [part, *part["cases"].values()])) else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
