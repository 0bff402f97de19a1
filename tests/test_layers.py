"""The house: imports run downwards only, the floors keep to their trades, files stay short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxpg

HOUSE = Path(jaxpg.__file__).parent
LEVELS = [
    {"hparams", "stats"},
    {"presets", "types"},
    {"distributions", "shapes"},
    {"returns", "objectives", "networks", "shuffle", "resets", "philox", "compensated"},
    {"advantages", "schedules", "rollout", "updates", "envs"},
    {"normalize", "checks", "env_trial"},
    {"algorithm", "env_check"},
    {"algorithms", "training", "diagnostics", "sharding"},
    {"sweeping"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
PURE = sorted(path.stem for path in HOUSE.glob("*.py") if path.stem not in ("__init__", "__main__"))
LAB = sorted((HOUSE / "lab").glob("*.py"))


def imported(path):
    """Full names of what a file imports, wherever in it: ``from jaxpg import a`` is ``jaxpg.a``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write imports in full, from jaxpg. ..."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", PURE)
def test_a_room_imports_only_from_below(room):
    assert room in LEVEL, f"{room}.py is new: give it its level above"
    below = {other for other in LEVEL if LEVEL[other] < LEVEL[room]}
    used = {name.split(".")[1] for name in imported(HOUSE / f"{room}.py") if name.startswith("jaxpg")}
    assert used <= below, f"{room}.py, level {LEVEL[room]}, imports from its own level or above: {sorted(used - below)}"


@pytest.mark.parametrize("room", PURE)
def test_the_pure_floor_has_no_disk_no_clock_no_terminal_and_stops_no_gradient(room):
    """What is constant reaches a loss as data, so nothing needs ``stop_gradient``."""
    host = {
        "io",
        "os",
        "pathlib",
        "signal",
        "sys",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "datetime",
        "random",
        "logging",
    }
    path = HOUSE / f"{room}.py"
    assert not {name.split(".")[0] for name in imported(path)} & (host | {"rich", "tyro", "matplotlib"})
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }
    assert not names & {"print", "open", "input", "stop_gradient", "callback", "pure_callback", "io_callback"}


def test_the_pure_floor_works_without_the_lab():
    """``jaxpg.sweep`` names a function of the lab; only asking for it opens that door."""
    rooms = ", ".join(f"jaxpg.{room}" for room in PURE)
    look = f"import sys, {rooms}; sys.exit(any(name.startswith('jaxpg.lab') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("path", LAB, ids=lambda path: path.stem)
def test_the_lab_does_no_mathematics(path):
    kinds = {"grad", "value_and_grad", "jvp", "vjp", "hessian", "lax"}
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not names & kinds
    assert not {name.split(".")[0] for name in imported(path)} & {"scipy", "optax", "flax"}


@pytest.mark.parametrize("path", [*HOUSE.glob("*.py"), *LAB], ids=lambda path: path.stem)
def test_a_file_has_at_most_250_lines(path):
    assert len(path.read_text().splitlines()) <= 250
