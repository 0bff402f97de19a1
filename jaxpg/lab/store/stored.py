"""The configuration of a run or a sweep that lies in a directory, read and checked as if it were typed. Needs no JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpg.lab.config import RunConfig
from jaxpg.lab.sweep_config import SweepConfig

CONFIG, METRICS, SUMMARY, CURVES = FILES = ("config.json", "metrics.jsonl", "summary.json", "curves.png")  # of a run


@contextlib.contextmanager
def ours(path: Path) -> Iterator[None]:
    """What does not fit to the content of ``path`` inside is a ``ValueError``: somebody else wrote it, or by hand."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ValueError(f"{path} is not one of ours, or was changed by hand") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ``ValueError`` for anything else."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.parent} holds no run: {path.name} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.parent} holds no run: {path.name} is not one of ours")
    return content


def read_config(directory: str | Path) -> RunConfig | SweepConfig:
    """The configuration of the run or the sweep in ``directory``, wherever that was when it began; checked like any other."""
    there: dict[str, Any] = read_json(Path(directory) / CONFIG) | {"run_dir": str(directory)}
    with ours(Path(directory) / CONFIG):
        base = RunConfig.from_dict(there)
        return SweepConfig(base, there["vary"]) if "vary" in there else base


def extended(config: RunConfig, total_steps: int) -> RunConfig:
    """The same run with more steps; ``ValueError`` if they are not more. The log keeps its interval."""
    longer = dataclasses.replace(config, log_every=config.log_interval, options={**config.options, "total_steps": total_steps})
    if longer.num_updates < config.num_updates:
        raise ValueError(f"total_steps = {total_steps} are fewer than the {config.env_steps} that the run has; give more")
    return longer


def finished(config: RunConfig) -> dict[str, Any] | None:
    """The summary of the run, if there is one of as many updates."""
    try:
        summary = read_json(Path(config.run_dir) / SUMMARY)
    except ValueError:
        return None
    return summary if summary.get("num_updates") == config.num_updates else None
