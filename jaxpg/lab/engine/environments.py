"""The environment of a configuration: by name, or returned by a function of the user's own."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from typing import Any

from jaxpg import envs
from jaxpg.core.hparams import printable
from jaxpg.envs.check import check_argument


def make_env(name: str) -> Any:
    """The environment called ``name``: ``CartPole-v1``, or ``package.module:factory``."""
    return import_env(name) if ":" in name else envs.make(name)


@functools.cache
def import_env(name: str) -> Any:
    """Import and call ``package.module:factory``, a function or a class; the current directory is importable.

    Cached, because environments hash by identity, so that a new object would be compiled again. ``ValueError`` of one line if
    the factory cannot be imported or called, or does not return an environment.
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as with python -m
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"env = {name}: {module_name} cannot be imported: {brief(error)}") from error
    try:
        factory = functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise ValueError(f"env = {name}: {module_name} has no {attribute}") from None
    if not callable(factory):
        raise ValueError(
            f"env = {name} is a {type(factory).__name__}; it must be a function or a class that returns an environment"
        )
    try:
        env = factory()
    except (Exception, SystemExit) as error:
        raise ValueError(f"env = {name}: the call without arguments fails: {brief(error)}") from error
    try:
        check_argument(env)
        hash(env)
    except ValueError as error:
        raise ValueError(f"env = {name} did not return an environment: {brief(error)}") from error
    except TypeError as error:
        fix = "keep arrays, lists and dicts out of its fields"
        raise ValueError(f"env = {name} returned an environment that is not hashable ({brief(error)}); {fix}") from error
    return env


def brief(error: BaseException) -> str:
    """Type and message of an exception in one line."""
    words, kind = " ".join(str(error).split())[:160], type(error).__name__
    return printable(words if isinstance(error, ValueError) and words else f"{kind}: {words}".rstrip(": "))
