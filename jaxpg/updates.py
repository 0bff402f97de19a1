"""Update rules, and the optimisers that they use."""

from jaxpg.core.optimizers import Adam as Adam
from jaxpg.core.optimizers import ForEach as ForEach
from jaxpg.core.optimizers import KLAdaptive as KLAdaptive
from jaxpg.core.optimizers import actor_critic_adam as actor_critic_adam
from jaxpg.core.optimizers import adam as adam
from jaxpg.core.optimizers import clip_norm as clip_norm
from jaxpg.core.optimizers import critic_adam as critic_adam
from jaxpg.core.sgd import SGD as SGD
from jaxpg.core.sgd import above_target_kl as above_target_kl
from jaxpg.core.sgd import minimize as minimize
from jaxpg.core.trust_region import TrustRegion as TrustRegion
