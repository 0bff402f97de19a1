"""The records that modules pass to each other, and the protocols of the pieces that can be exchanged.

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

MAX_COUNT = 2**31 - 1  # the largest int32, which limits updates of a run, steps of an episode, rows of a rollout

Array = jax.Array
"""``jax.Array``, traced or not."""

PyTree = Any
"""Any tree of dicts, tuples, lists and registered classes with arrays as leaves."""

Metrics = dict[str, Array]
"""Scalars by name, the same names on every call."""

jax.tree_util.register_dataclass(HParams)


@runtime_checkable
class Distribution(Protocol):
    """A batch of action distributions: a pytree whose leaves have leading batch axes ``[...]``.

    An action is ``dist.sample(dist.noise(key))``; the noise does not depend on the parameters. ``jaxpg.distributions`` has the
    ready-made ones.
    """

    def noise(self, key: Array) -> PyTree:
        """The randomness of one sample per batch entry; independent of the parameters."""
        ...

    def sample(self, noise: PyTree) -> PyTree:
        """The actions that this noise stands for, leaves ``[..., *event]``."""
        ...

    def log_prob(self, action: PyTree) -> Array:
        """The log-probability (density) of each action in nats, ``[...]``."""
        ...

    def entropy(self) -> Array:
        """The entropy in nats, ``[...]``."""
        ...

    def kl(self, other: Self) -> Array:
        """KL(self || other) in nats, ``[...]``."""
        ...

    def mode(self) -> PyTree:
        """The most probable actions, which a greedy evaluation takes."""
        ...


class Network(Protocol):
    """A network without memory: any ``flax.linen.Module``, or any object with these two methods.

    It maps observations ``[N, ...]`` to a distribution with batch shape ``[N]``, to values ``[N]``, or to both.
    """

    def init(self, key: Array, obs: PyTree, /) -> PyTree:
        """Parameters for observations ``[N, ...]``; a flax module returns a dict of collections."""
        ...

    def apply(self, variables: PyTree, obs: PyTree, /) -> Any:
        """The result for observations ``[N, ...]``."""
        ...


class ActorCritic(Protocol):
    """The policy and the critic that an algorithm trains, e.g. ``jaxpg.Separate`` or ``jaxpg.Shared``.

    Frozen and hashable. ``variables`` is a dict of collections, as in flax; only the collection ``params`` is trained.
    """

    def init(self, key: Array, obs: PyTree) -> dict[str, PyTree]:
        """Variables for observations ``[B, ...]``."""
        ...

    def initial_memory(self, num_envs: int) -> PyTree:
        """The memory at the start of an episode, leaves ``[num_envs, ...]``; ``()`` for a network without memory."""
        ...

    def apply(
        self, variables: dict[str, PyTree], memory: PyTree, obs: PyTree, start: Array
    ) -> tuple[PyTree, Distribution, Array]:
        """``T`` steps of ``B`` environments: memory after them ``[B, ...]``, distributions and values ``[T, B]``.

        ``obs`` is ``[T, B, ...]``. Where ``start``, booleans ``[T, B]``, is true, an episode begins and earlier memory is
        dropped.
        """
        ...


class Env(Protocol):
    """The environment protocol: any gymnax (>= 1.0) environment, or any object with these methods, without a batch axis.

    An environment is hashable. ``step`` resets automatically: where an episode ends, it returns the first observation and the
    state of the next one. ``info["final_observation"]`` is the observation before that reset, on every step. Both flags may be
    true at once. ``jaxpg.check_env`` says which rule an environment breaks.
    """

    @property
    def default_params(self) -> PyTree:
        """The parameters, a pytree of numbers and arrays, or ``None``."""
        ...

    def reset(self, key: Array, params: PyTree) -> tuple[PyTree, PyTree]:
        """A new episode: ``(obs, state)``."""
        ...

    def step(
        self, key: Array, state: PyTree, action: PyTree, params: PyTree
    ) -> tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]:
        """One step: ``(obs, state, reward, terminated, truncated, info)``; the reward is a scalar, the flags are booleans."""
        ...


class Trajectory(struct.PyTreeNode):
    """A rollout: leaves ``[T, B, ...]``; row ``t`` belongs to decision ``t``. Observations and rewards are raw.

    Attributes:
        obs: s_t.
        action: a_t ~ pi_old(.|s_t).
        dist: pi_old(.|s_t) itself, so that KL divergences are exact.
        reward: r_{t+1}, ``[T, B]``.
        terminated: Booleans ``[T, B]``: the episode ended by itself, nothing follows.
        truncated: Booleans ``[T, B]``: the episode was cut; s_{t+1} has a value.
        next_obs: s_{t+1}, before the automatic reset.
        episode_return: The undiscounted return of the running episode up to and including this step, ``[T, B]``.
        episode_length: Its steps so far, int32 ``[T, B]``; stays at 2**31 - 1.
        weight: 1 for a real sample, 0 for padding, ``[T, B]``.
        memory: The network's memory before the step; a new episode has not dropped the memory of the one before it yet.
        next_memory: The network's memory after the step.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))  # shapes only, nothing is computed
        >>> rows = jax.eval_shape(lambda state, key: jaxpg.diagnostics.sample(algo, state, key), state, jax.random.key(1))
        >>> rows.obs.shape, rows.action.shape, rows.reward.shape
        ((8, 4, 4), (8, 4), (8, 4))
    """

    obs: PyTree
    action: PyTree
    dist: Distribution
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: PyTree
    episode_return: Array
    episode_length: Array
    weight: Array
    memory: PyTree
    next_memory: PyTree

    @property
    def start(self) -> Array:
        """Booleans ``[T, B]``: an episode begins with this step."""
        return self.episode_length == 1

    @property
    def done(self) -> Array:
        """Booleans ``[T, B]``: the episode ended with this step, by termination or by being cut."""
        return self.terminated | self.truncated


class Batch(struct.PyTreeNode):
    """The data of an update: sequences, leaves ``[L, N, ...]``. A loss sees their rows, ``[L * N, ...]``, without ``memory``.

    Everything here is constant for the loss.

    Attributes:
        obs: Observations, normalised, as the policy saw them.
        action: Actions.
        log_prob: Log-probabilities of the actions under pi_old, nats, ``[L, N]``.
        dist: pi_old(.|obs).
        value: v_old(obs), ``[L, N]``.
        advantage: Psi, ``[L, N]``.
        target: What the critic is trained to predict, ``[L, N]``.
        weight: 1 for a real sample, 0 for padding, ``[L, N]``.
        start: Booleans ``[L, N]``: an episode begins here.
        memory: ``[1, N, ...]``, the memory with which each sequence began in the rollout.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))  # shapes only, nothing is computed
        >>> def make_batch(state, key):
        ...     return algo.batch(state, jaxpg.diagnostics.sample(algo, state, key), state.hparams)
        >>> batch = jax.eval_shape(make_batch, state, jax.random.key(1))
        >>> batch.obs.shape, batch.advantage.shape  # sequences of one step, 8 * 4 of them
        ((1, 32, 4), (1, 32))
    """

    obs: PyTree
    action: PyTree
    log_prob: Array
    dist: Distribution
    value: Array
    advantage: Array
    target: Array
    weight: Array
    start: Array
    memory: PyTree


class Params(NamedTuple):
    """The parameters of a policy and a critic that share none.

    Attributes:
        policy: Parameters of the policy, a pytree.
        critic: Parameters of the critic, a pytree.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))  # shapes only, nothing is computed
        >>> type(state.params).__name__, state.params._fields
        ('Params', ('policy', 'critic'))
    """

    policy: PyTree
    critic: PyTree


class EnvLoop(struct.PyTreeNode):
    """The environments between two rollouts: leaves ``[B, ...]``.

    Attributes:
        env_state: States of the environments.
        obs: Their raw observations.
        episode_return: Undiscounted return of each running episode so far, ``[B]``.
        episode_length: Steps of each running episode so far, int32 ``[B]``.
        compensation: Rounding errors of ``episode_return``, for compensated summation, ``[B]``.
        memory: Memory of the network; where ``episode_length`` is 0 it is dropped at the next step.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))  # shapes only, nothing is computed
        >>> state.loop.obs.shape, state.loop.episode_length.shape
        ((4, 4), (4,))
    """

    env_state: PyTree
    obs: PyTree
    episode_return: Array
    episode_length: Array
    compensation: Array
    memory: PyTree = ()


class TrainState(struct.PyTreeNode):
    """Every array of a run; this one pytree is the checkpoint.

    Attributes:
        key: The key of all later randomness.
        step: int32, the updates done; stays at 2**31 - 1.
        params: The trained parameters; a ``Params`` where policy and critic share none.
        constants: The other collections of the network's variables.
        opt_state: The state of the update rule.
        loop: The environments.
        normalizer: The statistics of the normaliser.
        hparams: The hyperparameters, before the schedule.
        env_params: The parameters of the environment.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))  # shapes only, nothing is computed
        >>> state.step.dtype, state.loop.obs.shape
        (dtype('int32'), (4, 4))
    """

    key: Array
    step: Array
    params: PyTree
    constants: dict[str, PyTree]
    opt_state: PyTree
    loop: EnvLoop
    normalizer: PyTree
    hparams: HParams
    env_params: PyTree

    def __repr__(self) -> str:
        """Updates done, how many numbers and bytes each part has, and hyperparameters; the arrays are left out."""
        return show_state(self)


class Actor(NamedTuple):
    """A policy with its parameters bound: all that a rollout needs to know of it.

    Attributes:
        noise: ``(key, T) -> noise`` of ``T`` steps, drawn before the scan.
        act: ``(memory, obs, start, noise) -> (memory, action, distribution)`` for one step, leaves ``[B, ...]``.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))  # shapes only, nothing is computed
        >>> jax.eval_shape(lambda state, key: algo.actor(state).noise(key, 8), state, jax.random.key(1)).shape
        (8, 4)
    """

    noise: Callable[[Array, int], PyTree]
    act: Callable[[PyTree, PyTree, Array, PyTree], tuple[PyTree, PyTree, Distribution]]


class Losses(NamedTuple):
    """The losses that an update rule may evaluate: functions of all parameters and a batch; scalars, to be minimised.

    Attributes:
        total: ``(params, batch) -> (loss, metrics)``, policy and critic together; ``kl`` is one of the metrics.
        policy: ``(params, batch) -> (loss, metrics)``, the policy alone.
        critic: ``(params, batch) -> (loss, metrics)``, the critic alone.
        kl: ``(params, batch) -> scalar``, the mean KL(pi_old || pi) in nats.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))  # shapes only, nothing is computed
        >>> algo.losses(state, state.hparams)._fields
        ('total', 'policy', 'critic', 'kl')
    """

    total: Callable[[PyTree, Batch], tuple[Array, Metrics]]
    policy: Callable[[PyTree, Batch], tuple[Array, Metrics]]
    critic: Callable[[PyTree, Batch], tuple[Array, Metrics]]
    kl: Callable[[PyTree, Batch], Array]


class UpdateRule(Protocol):
    """How losses change parameters: e.g. ``jaxpg.SGD`` or ``jaxpg.TrustRegion``.

    Frozen and hashable; its arrays are in ``opt_state``.
    """

    def init(self, params: PyTree, hp: HParams) -> PyTree:
        """``opt_state`` for these parameters."""
        ...

    def update(
        self, key: Array, losses: Losses, params: PyTree, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[PyTree, PyTree, Metrics]:
        """New parameters, new ``opt_state``, and metrics (scalars) after one update on a batch ``[L, N, ...]``."""
        ...


class Normalizer(Protocol):
    """How raw observations and rewards become what the networks see; the statistics change only after an update."""

    def init(self, obs: PyTree) -> PyTree:
        """Statistics for observations ``[B, ...]``."""
        ...

    def observation(self, stats: PyTree, obs: PyTree) -> PyTree:
        """Scaled observations; any leading axes."""
        ...

    def reward(self, stats: PyTree, reward: Array, hp: HParams) -> Array:
        """Scaled rewards ``[T, B]``."""
        ...

    def update(self, stats: PyTree, trajectory: Trajectory, hp: HParams) -> PyTree:
        """Statistics that include the trajectory."""
        ...


AdvantageFn = Callable[[Trajectory, Array, Array, Any], tuple[Array, Array]]
"""An advantage estimator: ``(trajectory, value, next_value, hp) -> (psi, target)``, arrays ``[T, B]``."""

ObjectiveFn = Callable[[Any, Batch, Any], Array]
"""An objective or a regulariser: ``(dist, batch, hp) -> [N]``, to be maximised."""

CriticLossFn = Callable[[Array, Batch, Any], Array]
"""A critic loss: ``(value, batch, hp) -> [N]``, to be minimised."""

ReductionFn = Callable[[Array, Array, int], Array]
"""How rows become a scalar: ``(x, weight, num_steps) -> scalar``, with ``x`` and ``weight`` ``[N]``."""

RolloutFn = Callable[[Array, Env, PyTree, Actor, EnvLoop, int], tuple[EnvLoop, Trajectory]]
"""How data is collected: ``(key, env, env_params, actor, loop, num_steps) -> (loop, trajectory)``."""

Optimizer = Callable[[Any], optax.GradientTransformation]
"""From hyperparameters to an optax transformation, which is rebuilt in every trace and never stored."""

ScheduleFn = Callable[[HParams, Array], HParams]
"""From base values and the number of updates done to the values now: ``(hp, step) -> hp``."""
