"""The options of every algorithm and what they default to, per environment."""

from jaxpg.algorithms.presets import ALGORITHMS as ALGORITHMS
from jaxpg.algorithms.presets import PRESETS as PRESETS
from jaxpg.algorithms.presets import options as options
