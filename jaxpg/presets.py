"""The options of every algorithm and their defaults for each environment: plain data, readable without JAX."""

from jaxpg.algorithms.presets import ALGORITHMS, PRESETS, options

__all__ = ["ALGORITHMS", "PRESETS", "options"]
