"""Spaces as trees of arrays."""

from jaxpg.core.spaces import Box as Box
from jaxpg.core.spaces import Dict as Dict
from jaxpg.core.spaces import Discrete as Discrete
from jaxpg.core.spaces import MultiDiscrete as MultiDiscrete
from jaxpg.core.spaces import Tuple as Tuple
from jaxpg.core.spaces import contains as contains
from jaxpg.core.spaces import legalize as legalize
from jaxpg.core.spaces import read as read
from jaxpg.core.spaces import sample as sample
