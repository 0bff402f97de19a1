"""The actor-critic that an algorithm trains: two separate networks or one shared network, each with memory or without.

A network is a flax module, or an object with ``init`` and ``apply`` (``jaxpg.types.Network``): observations ``[N, ...]`` to a
distribution, a value ``[N]`` or both. One that has a method ``initial_memory(num_envs)`` is a network with memory. It is called
with ``(memory, obs [T, B, ...], start [T, B])`` and returns ``(memory, result [T, B, ...])``; ``jaxpg.networks.Recurrent`` is
one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from jaxpg.core.networks import FromNNX, merge_time
from jaxpg.core.types import Array, Distribution, Params, PyTree

Variables = dict[str, PyTree]
RULE = "a network maps observations [N, ...] in inference mode, without random numbers, to what it returns"


@dataclasses.dataclass(frozen=True)
class Separate:
    """A policy and a critic that share no parameters.

    Their parameters are a ``jaxpg.types.Params``, and each network has its own optimiser by default.

    Args:
        policy: A flax module from observations ``[N, ...]`` to a distribution, or any object with its ``init`` and ``apply``.
        critic: The same, from observations to values ``[N]``.

    Raises:
        ValueError: For a class in place of an instance, a flax.nnx module, and any other object that is not a network.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg import Separate, networks
        >>> pair = Separate(networks.CategoricalPolicy(2), networks.Critic())
        >>> obs, start = jnp.zeros((5, 3, 4)), jnp.zeros((5, 3), bool)
        >>> memory, dist, value = pair.apply(pair.init(jax.random.key(0), obs[0]), pair.initial_memory(3), obs, start)
        >>> dist.logits.shape, value.shape
        ((5, 3, 2), (5, 3))
    """

    policy: Any
    critic: Any

    def __post_init__(self) -> None:
        check_network("policy", self.policy)
        check_network("critic", self.critic)

    def init(self, key: Array, obs: PyTree) -> Variables:
        """The variables of both networks: a ``Params`` for each collection."""
        key_policy, key_critic = jax.random.split(key)
        policy = init_network("policy", self.policy, key_policy, obs)
        critic = init_network("critic", self.critic, key_critic, obs)
        return {name: Params(policy.get(name, {}), critic.get(name, {})) for name in sorted({*policy, *critic})}

    def initial_memory(self, num_envs: int) -> PyTree:
        """The memories of both networks at the start of an episode; ``()`` where neither has one."""
        return both(initial_memory(self.policy, num_envs), initial_memory(self.critic, num_envs))

    def apply(self, variables: Variables, memory: PyTree, obs: PyTree, start: Array) -> tuple[PyTree, Distribution, Array]:
        """Memory after ``T`` steps, the policy's distributions and the critic's values, ``[T, B]``."""
        policy_memory, critic_memory = memory or ((), ())
        policy, critic = ({name: part[i] for name, part in variables.items()} for i in (0, 1))
        policy_memory, dist = apply_network("policy", self.policy, policy, policy_memory, obs, start)
        critic_memory, value = apply_network("critic", self.critic, critic, critic_memory, obs, start)
        return both(policy_memory, critic_memory), dist, value


@dataclasses.dataclass(frozen=True)
class Shared:
    """One network that returns ``(distribution, value)``: one encoder, one optimiser, and ``value_coef`` between the losses.

    Args:
        network: A flax module from observations ``[N, ...]`` to ``(distribution, value)``, or any object with its ``init`` and
            ``apply``.

    Raises:
        ValueError: For a class in place of an instance, a flax.nnx module, and any other object that is not a network.

    Examples:
        >>> import jaxpg
        >>> from jaxpg import networks
        >>> head = networks.PolicyAndValueHead(networks.CategoricalHead(2))
        >>> network = jaxpg.Shared(networks.Feedforward(networks.MLP(), head))
        >>> jaxpg.ppo(jaxpg.make("CartPole-v1"), network=network).network == network
        True
    """

    network: Any

    def __post_init__(self) -> None:
        check_network("network", self.network)

    def init(self, key: Array, obs: PyTree) -> Variables:
        """The network's variables."""
        return init_network("network", self.network, key, obs)

    def initial_memory(self, num_envs: int) -> PyTree:
        """The network's memory at the start of an episode; ``()`` where it has none."""
        return initial_memory(self.network, num_envs)

    def apply(self, variables: Variables, memory: PyTree, obs: PyTree, start: Array) -> tuple[PyTree, Distribution, Array]:
        """Memory after ``T`` steps, distributions and values, ``[T, B]``."""
        memory, result = apply_network("network", self.network, variables, memory, obs, start)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(f"network must return (distribution, value), but returned {type(result).__name__}")
        return memory, *result


def both(first: PyTree, second: PyTree) -> PyTree:
    """The pair, or ``()`` where both are empty."""
    return (first, second) if jax.tree.leaves((first, second)) else ()


def check_network(name: str, network: Any) -> None:
    """``ValueError`` for what is no network."""
    if isinstance(network, type):
        raise ValueError(f"{name} = {network.__name__} is a class; pass an instance, e.g. {network.__name__}()")
    if isinstance(network, nnx.Module):
        kind = type(network).__name__
        raise ValueError(f"{name} is the flax.nnx module {kind}; pass networks.from_nnx(lambda rngs: {kind}(..., rngs=rngs))")
    if not all(callable(getattr(network, method, None)) for method in ("init", "apply")):
        raise ValueError(
            f"{name} is a {type(network).__name__}, not a network: a flax module, or an object with init and apply"
        )


def has_memory(network: Any) -> bool:
    """The network has memory."""
    return callable(getattr(network, "initial_memory", None))


def initial_memory(network: Any, num_envs: int) -> PyTree:
    """What a network knows when an episode begins; ``()`` for one without memory."""
    return network.initial_memory(num_envs) if has_memory(network) else ()


def init_network(name: str, network: Any, key: Array, obs: PyTree) -> Variables:
    """The collections of a network's variables; all that an object other than a flax module returns is ``params``."""
    num_envs = jax.tree.leaves(obs)[0].shape[0]
    with naming(name):
        if has_memory(network):
            start = jax.numpy.ones((1, num_envs), bool)
            variables = network.init(key, network.initial_memory(num_envs), jax.tree.map(lambda x: x[None], obs), start)
        else:
            variables = network.init(key, obs)
        return dict(variables) if in_collections(network) else {"params": variables}


def apply_network(
    name: str, network: Any, variables: Variables, memory: PyTree, obs: PyTree, start: Array
) -> tuple[PyTree, Any]:
    """Memory and result ``[T, B, ...]`` of ``T`` steps; one without memory sees all ``T * B`` rows at once."""
    with naming(name):
        given = variables if in_collections(network) else variables["params"]
        if has_memory(network):
            return network.apply(given, memory, obs, start)
        result = network.apply(given, merge_time(obs))
    return (), jax.tree.map(lambda x: split_time(name, x, start.shape), result)


def in_collections(network: Any) -> bool:
    """The network's variables are a dict of collections, as flax has them."""
    return isinstance(network, nn.Module | FromNNX)


def split_time(name: str, x: Array, shape: tuple[int, ...]) -> Array:
    """``[T * B, ...]`` to ``[T, B, ...]``."""
    if x.shape[:1] != (shape[0] * shape[1],):
        fix = "broadcast it over the batch, e.g. jnp.broadcast_to(log_std, mean.shape)"
        raise ValueError(f"{name} returned an array of shape {x.shape} for {shape[0] * shape[1]} observations; {fix}")
    return x.reshape(*shape, *x.shape[1:])


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """What a network raises, as one ``ValueError`` with its name, and the rule."""
    try:
        yield
    except ValueError as error:
        if "\n" not in str(error):
            raise
        raise ValueError(f"{name}: {first_line(error)}; {RULE}") from error
    except Exception as error:
        raise ValueError(f"{name}: {type(error).__name__}: {first_line(error)}; {RULE}") from error


def first_line(error: Exception) -> str:
    """What an exception says, in one line of 160 characters at most."""
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."
