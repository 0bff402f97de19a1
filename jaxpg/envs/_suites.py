"""Suites of environments other than gymnax: their packages, imported on first use, their names, and how to make them.

A new suite needs one more function here. For a single environment, use the adapter of its interface instead.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

from jaxpg.core.hparams import shown, unknown_name
from jaxpg.envs._brax import from_brax
from jaxpg.envs._five_values import from_five_values
from jaxpg.envs._jumanji import from_jumanji
from jaxpg.envs._pgx import from_pgx
from jaxpg.envs._timestep import from_navix, from_xland

BRAX_STEPS = 1000  # the default of brax.envs.create
PGX_STEPS = 10_000  # pgx has no time limit: eighty times the length of a good game of Breakout
CRAFTAX = ("Craftax-Symbolic", "Craftax-Pixels", "Craftax-Classic-Symbolic", "Craftax-Classic-Pixels")


class Suite(NamedTuple):
    """A package of environments."""

    module: str
    names: Callable[[ModuleType], Iterable[str]]
    make: Callable[[ModuleType, str, str], Any]  # (module, name in the suite, name in jaxpg)


def make_brax(brax: ModuleType, name: str, env_id: str) -> Any:
    """Make an environment of Brax with its default physics. Brax warns that it is no longer developed."""
    return from_brax(brax.get_environment(name), BRAX_STEPS, name=env_id)


def make_playground(playground: ModuleType, name: str, env_id: str) -> Any:
    """Make an environment of MuJoCo Playground with the physics in JAX; its default, Warp, needs a GPU by NVIDIA."""
    config = playground.registry.get_default_config(name)
    overrides = {"impl": "jax"} if "impl" in config else {}
    env = playground.registry.load(name, config_overrides=overrides)
    repeat = int(config.action_repeat)
    return from_brax(env, int(config.episode_length) // repeat, action_repeat=repeat, name=env_id)


def make_craftax(craftax: ModuleType, name: str, env_id: str) -> Any:
    """Make an environment of Craftax. Generating a world takes as long as forty steps."""
    env = craftax.make_craftax_env_from_name(f"{name}-v1", auto_reset=False)
    return dataclasses.replace(from_five_values(env, name=env_id), start_interval=64)


def list_minatar(pgx: ModuleType) -> list[str]:
    """The games of pgx with one player."""
    return [name for name in pgx.available_envs() if name.startswith("minatar-") or name == "2048"]


SUITES = {
    "brax": Suite("brax.envs", lambda brax: brax._envs, make_brax),
    "craftax": Suite("craftax.craftax_env", lambda craftax: CRAFTAX, make_craftax),
    "jumanji": Suite(
        "jumanji",
        lambda jumanji: jumanji.registered_environments(),
        lambda jumanji, name, env_id: from_jumanji(jumanji.make(name), name=env_id),
    ),
    "navix": Suite(
        "navix", lambda navix: navix.registry(), lambda navix, name, env_id: from_navix(navix.make(name), name=env_id)
    ),
    "pgx": Suite("pgx", list_minatar, lambda pgx, name, env_id: from_pgx(pgx.make(name), max_steps=PGX_STEPS, name=env_id)),
    "playground": Suite("mujoco_playground", lambda playground: playground.registry.ALL_ENVS, make_playground),
    "xland": Suite(
        "xminigrid",
        lambda xminigrid: xminigrid.registered_environments(),
        lambda xminigrid, name, env_id: from_xland(*xminigrid.make(name), name=env_id),
    ),
}


def import_suite(suite: str) -> ModuleType:
    """Import the package of a suite; the ``ValueError`` for a missing one says what to install."""
    if suite not in SUITES:
        raise ValueError(unknown_name("suite of environments", suite, SUITES))
    try:
        return importlib.import_module(SUITES[suite].module)
    except ImportError as error:
        raise ValueError(f"env = {suite}/...: {error}; pip install 'jaxpg[{suite}]'") from error


def is_installed(suite: str) -> bool:
    """Whether the package of a suite is installed, without importing it."""
    return importlib.util.find_spec(SUITES[suite].module.partition(".")[0]) is not None


def list_names(suite: str) -> list[str]:
    """The names of a suite's environments, as ``jaxpg.make`` takes them."""
    module = import_suite(suite)
    return [f"{suite}/{name}" for name in SUITES[suite].names(module)]


def make(suite: str, name: str) -> Any:
    """The environment ``name`` of ``suite``."""
    module, env_id = import_suite(suite), f"{suite}/{name}"
    if env_id not in (known := list_names(suite)):
        raise ValueError(unknown_name("environment", env_id, known))
    try:
        return SUITES[suite].make(module, name, env_id)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:  # for example a failed download or a missing backend
        why = shown(" ".join(str(error).split()))
        raise ValueError(f"env = {env_id}: its package raised {type(error).__name__}: {why}") from error
