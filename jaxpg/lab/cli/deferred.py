"""Packages that gymnax imports for the pictures of a few environments, imported when something of them is used.

seaborn, with pandas and scipy.stats, and matplotlib.pyplot take longer to import than JAX. (``LazyLoader`` of the standard
library does not help: an ``import`` statement asks a module for its ``__spec__``, which is enough to load it.)
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """A module in name: the first use of anything in it imports the real one, which takes its place."""

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if attribute.startswith("__"):  # asked for by the import system, not by a user
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        if sys.modules.get(name) is self:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)


def defer(*names: str) -> None:
    """Let these modules be imported when they are used; those that are loaded already, or not installed, are left alone."""
    for name in names:
        parent = name.partition(".")[0]
        if name not in sys.modules and importlib.util.find_spec(parent) is not None:
            module = Deferred(name)
            module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
            sys.modules[name] = module
