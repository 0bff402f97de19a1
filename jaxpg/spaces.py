"""Spaces of observations and actions: gymnax's, and ``MultiDiscrete``, nested in any way.

A value of a ``Dict`` is a dict with its keys, a value of a ``Tuple`` a tuple; a value of any other space is one array.
"""

from jaxpg.core.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple, contains, legalize, read, sample

__all__ = ["Box", "Dict", "Discrete", "MultiDiscrete", "Tuple", "contains", "legalize", "read", "sample"]
