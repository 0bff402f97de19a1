"""Who takes part: each a script of this folder, in this interpreter or in a virtual environment of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A script of ``contestants/`` and its options; without a list of packages it runs in this interpreter."""

    script: str
    options: tuple[str, ...] = ()
    packages: str = ""
    one_seed: bool = False


CONTESTANTS = {
    "jaxpg": Contestant("run_jaxpg.py"),
    "jaxpg-command": Contestant("run_command.py"),
    "jaxpg-shard-envs": Contestant("run_jaxpg.py", ("--shard-envs",), one_seed=True),
    "jaxpg-a2c": Contestant("run_jaxpg.py", ("--algo", "a2c")),
    "jaxpg-reinforce": Contestant("run_jaxpg.py", ("--algo", "reinforce")),
    "rejax": Contestant("run_rejax.py", packages="rejax.txt"),
    "purejaxrl": Contestant("run_purejaxrl.py", packages="purejaxrl.txt"),
    "sb3": Contestant("run_stable_baselines.py", ("--library", "stable_baselines3"), packages="stable_baselines.txt"),
    "sbx": Contestant("run_stable_baselines.py", ("--library", "sbx"), packages="stable_baselines.txt"),
}


def parse_interpreter(text: str) -> tuple[str, str]:
    """``rejax=PATH`` runs rejax in the interpreter at ``PATH``."""
    name, _, path = text.partition("=")
    check_name(name)
    if not path or not Path(path).is_file():
        raise ValueError(f"interpreter {text!r:.80} must be NAME=PATH of a Python that exists")
    return name, path


def check_name(name: str) -> None:
    """Refuse a contestant that does not exist."""
    if name not in CONTESTANTS:
        raise ValueError(f"unknown contestant {name!r:.40}; known: {', '.join(CONTESTANTS)}")
