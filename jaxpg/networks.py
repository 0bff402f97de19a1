"""Networks: encoders, heads, memory, and how policy and critic are joined."""

from jaxpg.core.actor_critic import Separate as Separate
from jaxpg.core.actor_critic import Shared as Shared
from jaxpg.core.networks import CNN as CNN
from jaxpg.core.networks import MLP as MLP
from jaxpg.core.networks import CategoricalHead as CategoricalHead
from jaxpg.core.networks import CategoricalPolicy as CategoricalPolicy
from jaxpg.core.networks import ConstantCritic as ConstantCritic
from jaxpg.core.networks import Critic as Critic
from jaxpg.core.networks import Encoder as Encoder
from jaxpg.core.networks import Feedforward as Feedforward
from jaxpg.core.networks import GaussianHead as GaussianHead
from jaxpg.core.networks import GaussianPolicy as GaussianPolicy
from jaxpg.core.networks import JointHead as JointHead
from jaxpg.core.networks import MultiCategoricalHead as MultiCategoricalHead
from jaxpg.core.networks import NoCritic as NoCritic
from jaxpg.core.networks import PolicyAndValueHead as PolicyAndValueHead
from jaxpg.core.networks import StateDependentGaussianHead as StateDependentGaussianHead
from jaxpg.core.networks import ValueHead as ValueHead
from jaxpg.core.networks import from_nnx as from_nnx
from jaxpg.core.networks import make_action_head as make_action_head
from jaxpg.core.networks import make_encoder as make_encoder
from jaxpg.core.networks import orthogonal as orthogonal
from jaxpg.core.recurrent import GRU as GRU
from jaxpg.core.recurrent import LSTM as LSTM
from jaxpg.core.recurrent import Recurrent as Recurrent
