"""The suites of environments beside gymnax: the package of each, imported when it is asked for, its names, and how one is made.

A new suite is one more function here, or none: an environment of your own goes through the adapter of its interface.
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

BRAX_STEPS = 1000  # what brax.envs.create defaults to
PGX_STEPS = 10_000  # pgx knows no limit, and a policy that never loses would play on: eighty times a good game of Breakout
CRAFTAX = ("Craftax-Symbolic", "Craftax-Pixels", "Craftax-Classic-Symbolic", "Craftax-Classic-Pixels")


class Suite(NamedTuple):
    """A package of environments."""

    module: str
    names: Callable[[ModuleType], Iterable[str]]
    make: Callable[[ModuleType, str, str], Any]  # (module, name there, name here)


def make_brax(brax: ModuleType, name: str, env_id: str) -> Any:
    """With the physics that the environment's class defaults to. Brax warns that it is no longer developed."""
    return from_brax(brax.get_environment(name), BRAX_STEPS, name=env_id)


def make_playground(playground: ModuleType, name: str, env_id: str) -> Any:
    """With the physics in JAX: the default, Warp, is made for GPUs by NVIDIA."""
    config = playground.registry.get_default_config(name)
    overrides = {"impl": "jax"} if "impl" in config else {}
    env = playground.registry.load(name, config_overrides=overrides)
    repeat = int(config.action_repeat)
    return from_brax(env, int(config.episode_length) // repeat, action_repeat=repeat, name=env_id)


def make_craftax(craftax: ModuleType, name: str, env_id: str) -> Any:
    """A world takes as long to generate as forty steps in it."""
    env = craftax.make_craftax_env_from_name(f"{name}-v1", auto_reset=False)
    return dataclasses.replace(from_five_values(env, name=env_id), start_interval=64)


def list_minatar(pgx: ModuleType) -> list[str]:
    """The games with one player."""
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
    """The module of a suite; ``ValueError`` with what to install where it is missing."""
    if suite not in SUITES:
        raise ValueError(unknown_name("suite of environments", suite, SUITES))
    try:
        return importlib.import_module(SUITES[suite].module)
    except ImportError as error:
        raise ValueError(f"env = {suite}/...: {error}; pip install 'jaxpg[{suite}]'") from error


def is_installed(suite: str) -> bool:
    """Whether the package of a suite is there; it is not imported."""
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
    except (Exception, SystemExit) as error:  # data that it would download, a backend that is missing
        why = shown(" ".join(str(error).split()))
        raise ValueError(f"env = {env_id}: {type(error).__name__} of its package when it is made: {why}") from error
