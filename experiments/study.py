"""What every study leaves behind: its numbers as JSON, and one figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jaxpg.lab import devices, plots, writers

FIGURES = Path(__file__).parent / "figures"


def write(name: str, numbers: dict[str, Any], figure: Figure, out: Path = FIGURES) -> dict[str, Any]:
    """``NAME.json`` and ``NAME.png`` in ``out``; the numbers come back, with the versions that they depend on."""
    numbers = numbers | {"versions": devices.versions()}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(writers.storable(numbers)) + "\n")
    plots.save(figure, out / f"{name}.png")
    return numbers
