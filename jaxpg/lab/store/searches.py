"""The directory of a search by successive halving: ``search.json``, and an experiment for each rung. No JAX.

``rung_0``, ``rung_1``, ... are ordinary experiments: whatever reads the directory of an experiment reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpg.core.hparams import printable, shown
from jaxpg.lab.config import Config
from jaxpg.lab.store.files import CONFIG, SEARCH, Damaged, check_directory, read_json
from jaxpg.lab.store.stored import identity, report_damage


def read_rule(given: Any) -> tuple[int, int]:
    """Convert ``ETA`` or ``ETA:RUNGS``, or numbers, to eta and the number of rungs, 3 by default.

    >>> read_rule("4"), read_rule("4:2"), read_rule((2, 5))
    ((4, 3), (4, 2), (2, 5))
    """
    parts = str(given).split(":") if isinstance(given, str | int) else given
    try:
        eta, num_rungs = [int(part) for part in (*parts, 3)[: max(2, len(parts))]]
    except (TypeError, ValueError):
        raise ValueError(f"halving = {shown(given)} must be ETA or ETA:RUNGS, e.g. 4:3") from None
    return eta, num_rungs


def is_search(directory: str | Path) -> bool:
    """Whether ``directory`` holds a search."""
    return (Path(directory) / SEARCH).exists()


def read_search(directory: str | Path) -> dict[str, Any]:
    """Read ``search.json``: what ``config.json`` of the full grid would hold, and ``halving``, eta and the number of rungs."""
    return read_json(check_directory(directory) / SEARCH)


def grid_config(directory: str | Path, content: Mapping[str, Any]) -> tuple[Config, tuple[int, int]]:
    """The configuration of the full grid, with ``directory`` as its ``run_dir``; eta and the number of rungs."""
    with report_damage(Path(directory) / SEARCH):
        config = Config.from_dict({**content, "run_dir": str(directory)})
        if content["identity"] != identity(config, content["algorithm"]):
            raise Damaged(f"{printable(Path(directory) / SEARCH)} was changed since it was written")
        eta, num_rungs = content["halving"]
        return config, (eta, num_rungs)


def rung_directory(directory: str | Path, number: int) -> Path:
    """The directory of a rung."""
    return Path(directory) / f"rung_{number}"


def experiments(directory: str | Path) -> list[str | Path]:
    """``directory`` itself, or the experiments of the search in it."""
    if not is_search(directory):
        return [directory]
    num_rungs = grid_config(directory, read_search(directory))[1][1]
    rungs = (rung_directory(directory, number) for number in range(num_rungs))
    return [rung for rung in rungs if (rung / CONFIG).exists()]
