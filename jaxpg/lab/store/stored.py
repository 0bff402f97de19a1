"""The configuration of the experiment in a directory, read and checked as if it were typed. Needs no JAX."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxpg.hparams import shown
from jaxpg.lab.config import Config
from jaxpg.lab.store.files import CONFIG, check_directory, read_json

FORMAT = 2  # of a run directory; 1 was that of jaxpg 0.1.0
IDENTITY = ("algo", "env", "own", "seeds", "seed", "rng", "eval_episodes", "log_every", "shard_envs", "options", "vary")


@contextlib.contextmanager
def foreign(path: Path) -> Iterator[None]:
    """What does not fit to the content of ``path`` inside is a ``ValueError``: somebody else wrote it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        raise ValueError(f"{shown(path)} is not a file of jaxpg") from None


def read_config(directory: str | Path) -> Config:
    """The configuration of the experiment in ``directory``, wherever that was when it began; checked like any other."""
    return configured(directory, stored(directory))


def stored(directory: str | Path) -> dict[str, Any]:
    """What ``config.json`` holds, its seal checked; ``ValueError`` of one line for anything that is no experiment of ours."""
    directory = check_directory(directory)
    if not (directory / CONFIG).exists():
        raise ValueError(f"{shown(directory)} holds no experiment: there is no {CONFIG}")
    check_format(directory)
    content = read_json(directory / CONFIG)
    if content.get("format") != FORMAT:
        raise ValueError(f"{shown(directory)} has the format {shown(content.get('format'))}; this version reads {FORMAT}")
    return content


def configured(directory: str | Path, content: Mapping[str, Any]) -> Config:
    """The configuration in what ``config.json`` holds."""
    with foreign(Path(directory) / CONFIG):
        config = Config.from_dict({**content, "run_dir": str(directory)})
        if content["identity"] != identity(config, content["algorithm"]):
            raise ValueError(f"{shown(Path(directory) / CONFIG)} was changed since it was written")
        return config


def identity(config: Config, algorithm: Any) -> str:
    """What makes two experiments the same: a digest of all that the bits of their runs depend on, but for the budget."""
    plain: dict[str, Any] = {name: getattr(config, name) for name in IDENTITY}
    plain["options"] = {name: value for name, value in config.options.items() if name != "total_steps"}
    text = json.dumps(plain | {"algorithm": algorithm}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_format(directory: Path) -> None:
    """``ValueError`` for a directory of jaxpg 0.1.0, with the command that trains the same again."""
    try:
        content = json.loads((directory / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(content, dict) and "format" not in content and {"algo", "env", "seeds", "options"} <= content.keys():
        again = shown(command(content))
        raise ValueError(f"{shown(directory)} was written by jaxpg 0.1.0, whose format is not read any more; again: {again}")


def command(content: Mapping[str, Any]) -> str:
    """The command line of an experiment of jaxpg 0.1.0: what is not a preset of its own, and the seeds."""
    words = ["jaxpg", "sweep" if "vary" in content else "train", str(content["algo"]), "--env", str(content["env"])]
    for name in ("seeds", "seed"):
        words += [f"--{name}", str(content.get(name))]
    return shlex.join(words)
