"""How a policy acts in environments."""

from jaxpg.core.rollout import continuing as continuing
from jaxpg.core.rollout import episodic as episodic
from jaxpg.core.rollout import reset as reset
