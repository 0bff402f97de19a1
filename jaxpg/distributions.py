"""Action distributions as pytrees: an action is ``dist.sample(dist.noise(key))``.

Leaves carry leading batch axes; log-probabilities, entropies and KL divergences are in nats.
"""

from jaxpg.core.distributions import Beta, Categorical, DiagGaussian, Joint, MultiCategorical, TanhGaussian

__all__ = ["Beta", "Categorical", "DiagGaussian", "Joint", "MultiCategorical", "TanhGaussian"]
