"""Read and check the configuration of the experiment in a directory. This module does not import JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxpg.algorithms import presets
from jaxpg.core.hparams import printable, shown
from jaxpg.lab.config import Config
from jaxpg.lab.store import remote
from jaxpg.lab.store.files import CONFIG, SEARCH, Damaged, check_directory, digest, load_json, read_json

FORMAT = 2  # version of the run directory; jaxpg 0.1.0 wrote version 1
IDENTITY = (
    "algo",
    "env",
    "env_params",
    "own",
    "seeds",
    "seed",
    "rng",
    "matmul_precision",
    "eval_episodes",
    "log_every",
    "shard_envs",
    "options",
    "vary",
    "stop_at",
)


@contextlib.contextmanager
def report_damage(path: Path) -> Iterator[None]:
    """Turn errors inside, which the content of the file ``path`` causes, into ``Damaged`` with its name."""
    try:
        yield
    except Damaged:
        raise
    except ValueError as error:
        raise Damaged(f"{printable(path)}: {printable(error)[:300]}") from None
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        raise Damaged(f"{printable(path)} was not written by jaxpg") from None


def read_config(directory: str | Path) -> Config:
    """Read and check the configuration of the experiment in ``directory``, which may have been moved."""
    return make_config(directory, read_content(directory))


def read_content(directory: str | Path) -> dict[str, Any]:
    """Read ``config.json`` and check its seal; ``ValueError`` of one line if ``directory`` holds no experiment of jaxpg."""
    with remote.reading(directory) as copy:
        copy.fetch(CONFIG)
        return read_content_in(copy.directory)


def read_content_in(directory: Path) -> dict[str, Any]:
    """``read_content`` of a directory on this machine."""
    check_directory(directory)
    check_no_search(directory)
    if not (directory / CONFIG).exists():
        raise ValueError(f"{printable(directory)} holds no experiment: there is no {CONFIG}")
    check_format(directory)
    content = read_json(directory / CONFIG)
    if content.get("format") != FORMAT:
        raise ValueError(f"{printable(directory)} has the format {shown(content.get('format'))}; this version reads {FORMAT}")
    return content


def check_no_search(directory: Path) -> None:
    """Raise ``ValueError`` for the directory of a search, which holds several experiments."""
    if (directory / SEARCH).exists():
        name = printable(directory)
        raise ValueError(f"{name} holds a search; give one of its experiments, {name}/rung_0, {name}/rung_1, ...")


def make_config(directory: str | Path, content: Mapping[str, Any]) -> Config:
    """Make the configuration from the content of ``config.json``."""
    with report_damage(Path(directory) / CONFIG):
        config = Config.from_dict({**content, "run_dir": str(directory)})
        if content["identity"] != identity(config, content["algorithm"]):
            raise Damaged(f"{printable(Path(directory) / CONFIG)} was changed since it was written")
        return config


def identity(config: Config, algorithm: Any) -> str:
    """A digest of everything that the results of an experiment depend on, except for ``total_steps``."""
    plain: dict[str, Any] = {name: getattr(config, name) for name in IDENTITY}
    if not config.stop_at:  # as before there were rungs
        del plain["stop_at"]
    plain["options"] = {name: value for name, value in config.options.items() if name != "total_steps"}
    return digest(plain | {"algorithm": without_budget(algorithm)})


def without_budget(algorithm: Any) -> Any:
    """The description of an algorithm without ``num_updates`` of its schedules, which follows from ``total_steps``.

    >>> without_budget({"schedule": {"jaxpg.core.schedules.Linear": {"names": ["gamma"], "num_updates": 8}}})
    {'schedule': {'jaxpg.core.schedules.Linear': {'names': ['gamma']}}}
    """
    if isinstance(algorithm, Mapping):
        return {name: without_budget(value) for name, value in algorithm.items() if name != "num_updates"}
    return [without_budget(value) for value in algorithm] if isinstance(algorithm, list) else algorithm


def check_format(directory: Path) -> None:
    """Raise ``ValueError`` for a directory of jaxpg 0.1.0, with the command that repeats its experiment."""
    try:
        content = load_json(directory / CONFIG)
    except Damaged:
        return
    if "format" not in content and {"algo", "env", "seeds", "options"} <= content.keys():
        with report_damage(directory / CONFIG):
            again = printable(command(Config.from_dict(content)))
        old = f"{printable(directory)} was written by jaxpg 0.1.0, whose format is no longer supported"
        raise ValueError(f"{old}; to train it again: {again}")


def command(config: Config) -> str:
    """The command of an experiment with a named algorithm: all options that are not defaults or presets, except ``run_dir``.

    >>> command(Config("ppo", seeds=4, options={"hidden": [8, 4]}, vary={"gamma": [0.9, 0.99]}))
    'jaxpg sweep ppo --seeds 4 --hidden 8 4 --vary gamma=0.9,0.99'
    >>> command(Config("ppo", vary=[{"gamma": 0.95}], search=("--vary", "gamma=lin:0.9:1", "--sample", "sobol:1")))
    'jaxpg sweep ppo --vary gamma=lin:0.9:1 --sample sobol:1'
    >>> command(Config("a2c", env_params={"gravity": 5.0, "force_mag": 9.5}, options={"shared": True}))
    'jaxpg train a2c --env-params force_mag=9.5 gravity=5 --shared'
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Config) if field.metadata and field.name != "run_dir"}
    values = {name: getattr(config, name) for name in defaults} | dict(config.options)
    words = ["jaxpg", "sweep" if config.vary else "train", config.algo]
    words += ["--env-params", *(f"{name}={as_text(value)}" for name, value in config.env_params.items())] * bool(
        config.env_params
    )
    for name, default in (defaults | presets.options(config.algo, config.env)).items():
        if values[name] != default:
            listed = values[name] if isinstance(values[name], tuple) else [values[name]]
            words += [f"--{name.replace('_', '-')}", *(str(value) for value in listed if value is not True)]
    words += config.search
    for name, varied in config.vary.items() if isinstance(config.vary, Mapping) and not config.search else ():
        words += ["--vary", f"{name}={','.join(map(as_text, varied))}"]
    return shlex.join(words)


def as_text(value: Any) -> str:
    """Format one value for the list of ``--vary``.

    >>> as_text(0.9), as_text(True), as_text((64, 32)), as_text(("gamma", "clip_eps")), as_text(())
    ('0.9', 'true', '64x32', 'gamma clip_eps', 'none')
    """
    if not isinstance(value, tuple):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return ("x" if value and isinstance(value[0], int) else " ").join(map(str, value)) or "none"
