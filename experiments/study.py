"""What every study leaves behind: its numbers as JSON, and one figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from jaxpg.lab.engine import devices
from jaxpg.lab.report import plots
from jaxpg.lab.store import files

FIGURES = Path(__file__).parent / "figures"
A2C = {"num_envs": 16, "num_steps": 16, "learning_rate": 1e-3, "entropy_coef": 0.01}  # its preset for most environments
COLORS = 128  # of a picture


def write(name: str, numbers: dict[str, Any], figure: Figure, out: Path = FIGURES) -> dict[str, Any]:
    """``NAME.json`` and ``NAME.png`` in ``out``; the numbers come back, with the versions that they depend on."""
    numbers = numbers | {"versions": devices.versions()}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(files.storable(numbers)) + "\n")
    plots.save(figure, out / f"{name}.png")
    with Image.open(out / f"{name}.png") as image:  # a third of the size, and no eye sees it
        image.convert("RGB").quantize(COLORS).save(out / f"{name}.png", optimize=True)
    return numbers
