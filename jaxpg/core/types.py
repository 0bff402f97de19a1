"""The records that pass between modules, and the names of the functions that pass them.

Layout: ``[T, B, ...]`` for a rollout of ``T`` steps in ``B`` environments. An update works on sequences of ``L`` steps,
``[L, N, ...]`` with ``N = T * B / L``, of which a loss sees the rows, ``[L * N, ...]``; ``L`` is 1 without memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import jax
import optax
from flax import struct

from jaxpg.core._repr import show_state
from jaxpg.core.hparams import HParams

Array = jax.Array
PyTree = Any
MAX_COUNT = 2**31 - 1  # of an int32: updates of a run, steps of an episode, rows of a rollout
Metrics = dict[str, Array]  # scalars, the same keys on every call

jax.tree_util.register_dataclass(HParams)


@runtime_checkable
class Distribution(Protocol):
    """A pytree whose leaves have leading batch axes. ``sample`` maps noise that knows nothing of the parameters to actions."""

    def noise(self, key: Array) -> PyTree:
        """Randomness for one sample: shaped like the batch, independent of the parameters."""
        ...

    def sample(self, noise: PyTree) -> PyTree:
        """The action that this noise stands for."""
        ...

    def log_prob(self, action: PyTree) -> Array:
        """Log probability (density) of each action, in nats: ``[...]``."""
        ...

    def entropy(self) -> Array:
        """Entropy in nats: ``[...]``."""
        ...

    def kl(self, other: Self) -> Array:
        """KL(self || other) in nats: ``[...]``."""
        ...

    def mode(self) -> PyTree:
        """The most probable action, which a greedy evaluation takes."""
        ...


class Network(Protocol):
    """Any ``flax.linen.Module``, or any object with these two methods. Observations have one leading batch axis."""

    def init(self, key: Array, obs: PyTree, /) -> PyTree: ...
    def apply(self, variables: PyTree, obs: PyTree, /) -> Any: ...


class ActorCritic(Protocol):
    """Parameters -> (action distribution, value), with memory or without; see :mod:`jaxpg.core.networks` for the three kinds.

    Frozen and hashable. ``variables`` is a dict of collections, as in flax; only ``params`` is trained.
    """

    def init(self, key: Array, obs: PyTree) -> dict[str, PyTree]:
        """Variables for observations ``[B, ...]``."""
        ...

    def initial_memory(self, num_envs: int) -> PyTree:
        """What is known when an episode begins, leaves ``[num_envs, ...]``; ``()`` for a network without memory."""
        ...

    def apply(
        self, variables: dict[str, PyTree], memory: PyTree, obs: PyTree, start: Array
    ) -> tuple[PyTree, Distribution, Array]:
        """``T`` steps of ``B`` environments: memory after them ``[B, ...]``, distributions and values ``[T, B]``.

        ``obs`` is ``[T, B, ...]``. Where ``start``, ``[T, B]``, is true an episode begins: what was before it is forgotten.
        """
        ...


class Env(Protocol):
    """Any gymnax (>= 1.0) environment: one environment, automatic reset inside ``step``.

    ``info["final_observation"]`` is the observation before that reset, on every step; both flags may be true at once.
    """

    @property
    def default_params(self) -> PyTree: ...
    def reset(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]: ...
    def step(
        self, key: Array, state: PyTree, action: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]: ...


class Trajectory(struct.PyTreeNode):
    """What happened: leaves ``[T, B, ...]``; row ``t`` belongs to decision ``t``. Observations and rewards are raw."""

    obs: PyTree  # s_t
    action: PyTree  # a_t ~ pi_old(.|s_t)
    dist: Distribution  # pi_old(.|s_t) itself: exact KL for free
    reward: Array  # r_{t+1}
    terminated: Array  # bool: the episode ended by itself, nothing follows
    truncated: Array  # bool: the episode was cut, s_{t+1} has a value
    next_obs: PyTree  # s_{t+1} before the automatic reset
    episode_return: Array  # of the running episode, this step included
    episode_length: Array  # int32, likewise; stays at 2**31 - 1
    weight: Array  # 1. a real sample, 0. padding
    memory: PyTree  # of the network before the step; what an episode before this one left is not yet forgotten
    next_memory: PyTree  # after it

    @property
    def start(self) -> Array:
        """An episode begins with this step."""
        return self.episode_length == 1

    @property
    def done(self) -> Array:
        """The episode ended with this step, for whichever reason."""
        return self.terminated | self.truncated


class Batch(struct.PyTreeNode):
    """What an update learns from: sequences, leaves ``[L, N, ...]``; of a loss, its rows ``[L * N, ...]`` without ``memory``.

    Everything here is data, a constant of the loss.
    """

    obs: PyTree  # normalised, as the policy saw it
    action: PyTree
    log_prob: Array  # of the action under pi_old
    dist: Distribution  # pi_old(.|obs)
    value: Array  # v_old(obs)
    advantage: Array  # Psi
    target: Array  # what the critic regresses on
    weight: Array  # 1. a real sample, 0. padding
    start: Array  # bool: an episode begins here
    memory: PyTree  # [1, N, ...]: that with which each sequence began in the rollout


class Params(NamedTuple):
    """Parameters of a policy and a critic that share none."""

    policy: PyTree
    critic: PyTree


class EnvLoop(struct.PyTreeNode):
    """The environments between two rollouts: leaves ``[B, ...]``."""

    env_state: PyTree
    obs: PyTree
    episode_return: Array
    episode_length: Array
    compensation: Array  # what rounding has taken from episode_return, see jaxpg.core._compensated
    memory: PyTree = ()  # of the network; where episode_length is 0 it is forgotten at the next step


class TrainState(struct.PyTreeNode):
    """Every array of a run: this one pytree is the checkpoint."""

    key: Array
    step: Array  # int32: updates done; stays at 2**31 - 1
    params: PyTree  # trained; Params where policy and critic share none
    constants: dict[str, PyTree]  # the other collections of the network's variables
    opt_state: PyTree
    loop: EnvLoop
    normalizer: PyTree
    hparams: HParams
    env_params: PyTree

    def __repr__(self) -> str:
        """Updates done, how many numbers and bytes each part has, and hyperparameters; the arrays are left out."""
        return show_state(self)


class Actor(NamedTuple):
    """A policy with its parameters bound: all that a rollout needs to know of it."""

    noise: Callable[[Array, int], PyTree]  # (key, T) -> randomness of T steps, drawn before the scan
    act: Callable[[PyTree, PyTree, Array, PyTree], tuple[PyTree, PyTree, Distribution]]
    # (memory, obs, start, noise) -> (memory, action, distribution), [B, ...]


class Losses(NamedTuple):
    """All that an update rule may evaluate: functions of all parameters and some sequences; scalars, to be minimised."""

    total: Callable[[PyTree, Batch], tuple[Array, Metrics]]  # policy + critic; "kl" among the metrics, as below
    policy: Callable[[PyTree, Batch], tuple[Array, Metrics]]  # the policy's alone
    critic: Callable[[PyTree, Batch], tuple[Array, Metrics]]  # the critic's alone
    kl: Callable[[PyTree, Batch], Array]  # mean KL(pi_old || pi), nats


class UpdateRule(Protocol):
    """How losses move parameters: frozen and hashable; its arrays live in ``opt_state``."""

    def init(self, params: PyTree, hp: HParams) -> PyTree: ...
    def update(
        self, key: Array, losses: Losses, params: PyTree, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[PyTree, PyTree, Metrics]: ...


class Normalizer(Protocol):
    """Maps raw observations and rewards to what the networks see; its statistics change only after the update."""

    def init(self, obs: PyTree) -> PyTree:
        """Statistics for observations ``[B, ...]``."""
        ...

    def observation(self, stats: PyTree, obs: PyTree) -> PyTree: ...
    def reward(self, stats: PyTree, reward: Array, hp: HParams) -> Array: ...
    def update(self, stats: PyTree, trajectory: Trajectory, hp: HParams) -> PyTree: ...


AdvantageFn = Callable[[Trajectory, Array, Array, Any], tuple[Array, Array]]  # (traj, v, v', hp) -> (Psi, target)  [T, B]
ObjectiveFn = Callable[[Any, Batch, Any], Array]  # (dist, batch, hp) -> [rows], to maximise; regularisers too
CriticLossFn = Callable[[Array, Batch, Any], Array]  # (value, batch, hp) -> [rows], to minimise
ReductionFn = Callable[[Array, Array, int], Array]  # (x [rows], weight [rows], num_steps) -> scalar
RolloutFn = Callable[[Array, Env, PyTree, Actor, EnvLoop, int], tuple[EnvLoop, Trajectory]]
Optimizer = Callable[[Any], optax.GradientTransformation]  # hp -> transformation; rebuilt in every trace, never stored
ScheduleFn = Callable[[HParams, Array], HParams]  # (base values, updates done) -> values now
