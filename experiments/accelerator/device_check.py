"""Is jaxpg right, fast, resumable and within its memory plan on this machine's GPU? One command, eight minutes at most.

    python -m experiments.accelerator.device_check --purejaxrl CHECKOUT
    python -m experiments.accelerator.device_check --cpu      # all of it small, without a GPU: does the check itself work?

Writes ``results.json`` after every number. What the parts are is in ``README.md`` beside this file.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from experiments.accelerator.device_parts import NO_GPU, PARTS
from experiments.accelerator.device_process import FAILED, write

QUICK = "--xla_backend_optimization_level=0"  # to compile takes longest on a CPU


def limit(left: float, name: str, names: tuple[str, ...]) -> float:
    """Seconds for ``name``, where ``left`` are left for it and those after it in ``names``, by their shares."""
    waiting = names[names.index(name) :]
    return max(left, 0.0) * PARTS[name].share / sum(PARTS[each].share for each in waiting)


def has_gpu() -> bool:
    """Asked in a process that ends, because who asks keeps memory of the device."""
    code = "import sys, jax; sys.exit(jax.default_backend() == 'cpu')"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run(name: str, file: Path, seconds: float, options: list[str], variables: dict[str, str]) -> str:
    """Run a part as a process, which ends with all that it started after ``seconds``; what became of it."""
    command = [sys.executable, "-m", "experiments.accelerator.device_process", name, str(file), *options]
    process = subprocess.Popen(command, env=os.environ | variables, start_new_session=True)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"cut off after {seconds:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing that it started is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {0: "passed", FAILED: "failed"}.get(code, f"died with status {code}")


def variables(name: str, cpu: bool) -> dict[str, str]:
    """Of the process of a part; flags of XLA are added to those that are there."""
    found = PARTS[name].variables
    flags = (os.environ.get("XLA_FLAGS"), found.get("XLA_FLAGS"), QUICK * cpu)
    return found | {"XLA_FLAGS": " ".join(filter(None, flags))} | ({"JAX_PLATFORMS": "cpu"} if cpu else {})


def main(
    out: Path = Path("device_check"),
    purejaxrl: Path | None = None,
    budget: float = 450.0,
    only: tuple[str, ...] = (),
    note: str = "",
    cpu: bool = False,
) -> int:
    """Run all parts, one after the other; 1 if one of them failed or was cut off.

    Args:
        out: Directory of ``results.json``.
        purejaxrl: A checkout of PureJaxRL, to be timed on the same device.
        budget: Seconds in all, divided among the parts; what one does not need goes to the next.
        only: Names of parts, by default all.
        note: Kept with the results, e.g. the commit.
        cpu: Everything small and on the CPU.
    """
    unknown = sorted({*only} - {*PARTS})
    if unknown:
        raise SystemExit(f"only = {unknown[0]!r} is no part; there are: {', '.join(PARTS)}")
    file, names, begin = out / "results.json", tuple(dict.fromkeys(only or PARTS)), time.perf_counter()
    if not cpu and not has_gpu():
        raise SystemExit("JAX finds no GPU here; --cpu does all of it, small")
    out.mkdir(parents=True, exist_ok=True)
    options = ["--cpu"] * cpu + (["--purejaxrl", str(purejaxrl)] if purejaxrl else [])
    results: dict[str, Any] = {"note": note, "parts": {}}
    for name in names:
        results["parts"][name] = {"status": "running", "cases": {}}
        write(file, results)
        started = time.perf_counter()
        if cpu and PARTS[name].gpu_only:
            status = f"skipped: {NO_GPU}"
        else:
            status = run(name, file, limit(begin + budget - started, name, names), options, variables(name, cpu))
        results = json.loads(file.read_text())
        reasons = [found.get("skipped") for found in results["parts"][name]["cases"].values()]
        if status == "passed" and reasons and all(reasons):
            status = f"skipped: {reasons[0]}"
        results["parts"][name] |= {"status": status, "seconds": round(time.perf_counter() - started, 1)}
        results["seconds"] = round(time.perf_counter() - begin, 1)
        write(file, results)
        print(f"== {name}: {status}, {results['parts'][name]['seconds']} s", flush=True)
    return int(any(not part["status"].startswith(("passed", "skipped")) for part in results["parts"].values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part at work is ended too
    sys.exit(tyro.cli(main))
