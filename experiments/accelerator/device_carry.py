"""What to take to a machine with a GPU and JAX for Python 3.12 that can download nothing, and the command line to give there.

    .venv/bin/python -m experiments.accelerator.device_carry --purejaxrl CHECKOUT

Fills ``.whl``, which goes there beside the files of this repository. Versions are those of ``constraints.txt``.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import tyro

from experiments.accelerator.device_parts import WHEELS

ROOT = Path(__file__).parent.parent.parent
LIBRARY = (
    "gymnax",
    "gymnasium",
    "Farama-Notifications",
    "six",
    "flax",
    "optax",
    "orbax-checkpoint",
    "chex",
    "typing_extensions",
)
COMMAND = ("tyro", "docstring_parser", "typeguard")
PEER = ("distrax", "tfp-nightly", "dm-tree", "decorator", "gast")  # what PureJaxRL needs beside
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "manylinux1")


def versions() -> dict[str, str]:
    """Of every package, in ``constraints.txt`` for Python 3.12."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.partition(";") for line in lines if "==" in line and not line.startswith("#")]
    return dict(pin.strip().split("==") for pin, _, marker in pins if not marker.strip().endswith(f'< "{PYTHON}"'))


def command(out: str, has_peer: bool, note: str) -> str:
    """It installs the wheels beside themselves, and runs the check."""
    site = f"{WHEELS}/site"
    install = (
        f"python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target {site} {WHEELS}/*.whl"
    )
    peer = f" --purejaxrl {WHEELS}/purejaxrl" * has_peer
    check = f"python3 -m experiments.accelerator.device_check --out {out}{peer} --note {shlex.quote(note)}"
    return f'{install} && PYTHONPATH="$PWD:$PWD/{site}" {check}'


def main(purejaxrl: Path | None = None, out: str = "device_check") -> None:
    """Download the wheels, and print the command line.

    Args:
        purejaxrl: A checkout of PureJaxRL, to be taken along.
        out: Where the results go there, as its shell reads it.
    """
    place, pins = ROOT / WHEELS, versions()
    shutil.rmtree(place, ignore_errors=True)
    names = (*LIBRARY, *COMMAND, *(PEER if purejaxrl else ()))
    where = ["--python-version", PYTHON, "--implementation", "cp", *(f"--platform={name}_x86_64" for name in PLATFORMS)]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(place)]
    subprocess.run([*download, *where, *(f"{name}=={pins[name]}" for name in names)], check=True)
    if purejaxrl:
        (place / "purejaxrl" / "purejaxrl").mkdir(parents=True)
        for name in ("ppo.py", "wrappers.py"):
            shutil.copy(purejaxrl / "purejaxrl" / name, place / "purejaxrl" / "purejaxrl")
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    note = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    line = command(out, purejaxrl is not None, note)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    print(line)
    print(f"{len(line)} characters; {WHEELS} has {size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    tyro.cli(main)
