"""Action distributions."""

from jaxpg.core.distributions import Beta as Beta
from jaxpg.core.distributions import Categorical as Categorical
from jaxpg.core.distributions import DiagGaussian as DiagGaussian
from jaxpg.core.distributions import Joint as Joint
from jaxpg.core.distributions import MultiCategorical as MultiCategorical
from jaxpg.core.distributions import TanhGaussian as TanhGaussian
