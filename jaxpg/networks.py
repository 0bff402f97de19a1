"""Networks (flax.linen): encoders, heads, memory, and how policy and critic are joined.

An encoder maps observations ``[N, ...]`` to features ``[N, F]``; a head maps features to a distribution, a value or both.
"""

from jaxpg.core.actor_critic import Separate, Shared
from jaxpg.core.networks import (
    CNN,
    MLP,
    BetaHead,
    CategoricalHead,
    CategoricalPolicy,
    ConstantCritic,
    Critic,
    Encoder,
    Feedforward,
    GaussianHead,
    GaussianPolicy,
    JointHead,
    MultiCategoricalHead,
    NoCritic,
    PolicyAndValueHead,
    StateDependentGaussianHead,
    TanhGaussianHead,
    ValueHead,
    from_nnx,
    make_action_head,
    make_encoder,
    orthogonal,
)
from jaxpg.core.recurrent import GRU, LSTM, Recurrent

__all__ = [
    "CNN",
    "GRU",
    "LSTM",
    "MLP",
    "BetaHead",
    "CategoricalHead",
    "CategoricalPolicy",
    "ConstantCritic",
    "Critic",
    "Encoder",
    "Feedforward",
    "GaussianHead",
    "GaussianPolicy",
    "JointHead",
    "MultiCategoricalHead",
    "NoCritic",
    "PolicyAndValueHead",
    "Recurrent",
    "Separate",
    "Shared",
    "StateDependentGaussianHead",
    "TanhGaussianHead",
    "ValueHead",
    "from_nnx",
    "make_action_head",
    "make_encoder",
    "orthogonal",
]
