"""Update rules: how losses change parameters; and the optimisers that they use."""

from jaxpg.core.optimizers import Adam, ForEach, KLAdaptive, actor_critic_adam, adam, clip_norm, critic_adam
from jaxpg.core.sgd import SGD, above_target_kl, minimize
from jaxpg.core.trust_region import TrustRegion

__all__ = [
    "SGD",
    "Adam",
    "ForEach",
    "KLAdaptive",
    "TrustRegion",
    "above_target_kl",
    "actor_critic_adam",
    "adam",
    "clip_norm",
    "critic_adam",
    "minimize",
]
