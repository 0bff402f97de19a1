"""Delay imports: gymnax imports plotting packages to draw a few environments; here they are imported at their first use.

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
    """A placeholder for a module: the first access to one of its attributes imports the real module, which replaces it."""

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if attribute.startswith("__"):  # asked for by the import system, not by a user
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        if sys.modules.get(name) is self:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)


def defer(*names: str) -> None:
    """Import these modules only when they are used. Does nothing for modules that are already imported or not installed."""
    for name in names:
        parent = name.partition(".")[0]
        if name not in sys.modules and importlib.util.find_spec(parent) is not None:
            module = Deferred(name)
            module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
            sys.modules[name] = module
