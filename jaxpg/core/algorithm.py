"""Algorithm: ``init(key) -> state`` and ``update(state) -> (state, metrics)``, and the pieces they are made of.

A static object that holds functions and sizes, never an array; hashable by value. ``dataclasses.replace`` exchanges a piece.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxpg.core import _checks as checks
from jaxpg.core import (
    _philox,  # noqa: F401 - its programs compile on a TPU from here on
    advantages,
    normalize,
    objectives,
    rollout,
    schedules,
)
from jaxpg.core._repr import show_algorithm
from jaxpg.core._shapes import check_floats
from jaxpg.core.hparams import HParams, given
from jaxpg.core.networks import merge_time
from jaxpg.core.sgd import SGD
from jaxpg.core.types import (
    MAX_COUNT,
    Actor,
    ActorCritic,
    AdvantageFn,
    Array,
    Batch,
    CriticLossFn,
    Distribution,
    Env,
    Losses,
    Metrics,
    Normalizer,
    ObjectiveFn,
    PyTree,
    ReductionFn,
    RolloutFn,
    ScheduleFn,
    TrainState,
    Trajectory,
    UpdateRule,
)


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A policy-gradient algorithm as a choice of pieces, with ``init(key) -> state`` and ``update(state) -> (state, metrics)``.

    ``jaxpg.ppo`` and the other functions make the well-known choices; ``dataclasses.replace`` exchanges a piece. An algorithm
    is static and hashable. Two are equal, and share their compiled programs, if they differ only in the values of their
    hyperparameters.

    Args:
        env: A gymnax environment, or any object that follows ``jaxpg.types.Env``.
        network: The policy and the critic: ``jaxpg.Separate``, ``jaxpg.Shared``, or your own.
        num_envs: Environments that are stepped in parallel.
        num_steps: Steps of each environment per update.
        hparams: Base values of the hyperparameters that the pieces read.
        rollout: How data is collected: ``jaxpg.rollout.continuing``, or ``jaxpg.rollout.episodic`` for complete episodes.
        advantage: The estimator of Psi, see ``jaxpg.advantages``.
        objective: What the policy maximises, see ``jaxpg.objectives``.
        regularizers: Further terms of the objective.
        critic_loss: What the critic minimises.
        reduction: Mean or sum over time steps.
        update_rule: How losses change parameters: ``jaxpg.SGD``, ``jaxpg.TrustRegion``, or your own.
        normalizer: Scaling of observations and rewards, see ``jaxpg.normalize``.
        schedule: Hyperparameters as functions of the updates done, see ``jaxpg.schedules``.
        sequence_length: Steps of the sequences that minibatches consist of, a divisor of ``num_steps``. ``None``: one step for
            a network without memory, all ``num_steps`` for one with memory.

    Raises:
        ValueError: At construction or trace time for pieces that do not fit, with the field, the value and the fix.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state, metrics = jax.jit(algo.update)(algo.init(jax.random.key(0)))
        >>> int(state.step)
        1
    """

    env: Env
    network: ActorCritic
    num_envs: int
    num_steps: int
    hparams: HParams = dataclasses.field(compare=False)
    rollout: RolloutFn = rollout.continuing
    advantage: AdvantageFn = advantages.gae
    objective: ObjectiveFn = objectives.policy_gradient
    regularizers: tuple[ObjectiveFn, ...] = ()
    critic_loss: CriticLossFn = objectives.squared_error
    reduction: ReductionFn = objectives.mean_over_steps
    update_rule: UpdateRule = SGD()
    normalizer: Normalizer = normalize.identity
    schedule: ScheduleFn = schedules.constant
    sequence_length: int | None = None
    _reads: tuple = dataclasses.field(init=False, repr=False)  # the part of hparams that the program depends on

    def __post_init__(self) -> None:
        object.__setattr__(self, "hparams", checks.as_numbers(self.hparams))
        object.__setattr__(self, "_reads", (type(self.hparams), *given(self.hparams)))
        checks.check_construction(self)

    def __repr__(self) -> str:
        """Sizes, pieces by name and the hyperparameters that are set, on one screen."""
        return show_algorithm(self)

    def init(self, key: Array, hparams: HParams | None = None, env_params: PyTree = None) -> TrainState:
        """The state at the start of a run: networks, optimiser, environments and statistics. Compiled once.

        Args:
            key: A key of ``jax.random.key``.
            hparams: Values of the hyperparameters, by default ``algo.hparams``; they may be traced.
            env_params: Parameters of the environment, by default its own. Leaves may have a leading axis ``num_envs``, one
                value for each environment.

        Returns:
            A ``jaxpg.types.TrainState``.
        """
        checks.check_key(key)
        hparams = checks.as_arrays(self, self.hparams if hparams is None else hparams)
        env_params = rollout.strong(self.env.default_params if env_params is None else env_params)
        checks.check_env_params(self, env_params)
        return self._start(key, hparams, env_params)

    @functools.partial(jax.jit, static_argnames="self")
    def _start(self, key: Array, hparams: HParams, env_params: PyTree) -> TrainState:
        key, key_network, key_env = jax.random.split(key, 3)
        memory = self.network.initial_memory(self.num_envs)
        loop = rollout.reset(key_env, self.env, env_params, self.num_envs, memory)
        checks.check_observation(loop.obs)
        stats = self.normalizer.init(loop.obs)
        obs = self.normalizer.observation(stats, loop.obs)
        variables = self.network.init(key_network, obs)
        params, constants = variables["params"], {name: x for name, x in variables.items() if name != "params"}
        checks.check_networks(self, key, variables, obs, loop, env_params)
        opt_state = self.update_rule.init(params, hparams)
        step = jnp.int32(0)
        return rollout.strong(TrainState(key, step, params, constants, opt_state, loop, stats, hparams, env_params))

    def update(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One update: collect ``num_envs * num_steps`` environment steps, estimate advantages, improve the parameters, measure.

        A pure function for ``jit``, ``vmap``, ``scan`` and ``grad``. Rewards and observations that are not finite, or too large
        to be squared, raise nothing: they show in the parameters or losses of their own run, and leave the other rows of a
        ``vmap`` as they are, bit for bit.

        Args:
            state: From ``init`` or from the last update.

        Returns:
            The next state, and metrics, which are scalars by name.
        """
        checks.check_state(self, state)
        key, key_rollout, key_update = jax.random.split(state.key, 3)
        hp = self.schedule(state.hparams, state.step)

        actor = self.actor(state)
        loop, trajectory = self.rollout(key_rollout, self.env, state.env_params, actor, state.loop, self.num_steps)
        batch = self.batch(state, trajectory, hp)
        params, opt_state, metrics = self.update_rule.update(
            key_update, self.losses(state, hp), state.params, state.opt_state, batch, hp
        )
        stats = self.normalizer.update(state.normalizer, trajectory, hp)

        metrics = metrics | self.policy_metrics(state.replace(params=params), batch, hp)
        metrics = metrics | rollout_metrics(trajectory, batch)
        step = jnp.minimum(state.step, MAX_COUNT - 1) + 1
        state = state.replace(key=key, step=step, params=params, opt_state=opt_state, loop=loop, normalizer=stats)
        return rollout.strong(state), metrics

    def apply(self, state: TrainState, memory: PyTree, obs: PyTree, start: Array) -> tuple[PyTree, Distribution, Array]:
        """The network of ``state`` on raw observations ``[T, B, ...]``.

        Args:
            state: Holds the parameters and the statistics of the normaliser.
            memory: Memory before the first step, leaves ``[B, ...]``; ``()`` without memory.
            obs: Raw observations ``[T, B, ...]``.
            start: Booleans ``[T, B]``, true where an episode begins.

        Returns:
            Memory after the last step, distributions and values ``[T, B]``.
        """
        obs = self.normalizer.observation(state.normalizer, obs)
        return self.network.apply({"params": state.params, **state.constants}, memory, obs, start)

    def predict(self, state: TrainState, obs: PyTree) -> tuple[Distribution, Array]:
        """Distributions and values at raw observations ``[N, ...]``, as if an episode began at each."""
        num_envs = jax.tree.leaves(obs)[0].shape[0]
        rows = jax.tree.map(lambda x: x[None], (obs, jnp.ones(num_envs, bool)))
        _, dist, value = self.apply(state, self.network.initial_memory(num_envs), *rows)
        return jax.tree.map(lambda x: x[0], (dist, value))

    def actor(self, state: TrainState, *, greedy: bool | Array = False) -> Actor:
        """The policy of ``state`` with its parameters bound; it samples, or with ``greedy`` takes the mode."""

        def one_step(memory: PyTree, obs: PyTree, start: Array) -> tuple[PyTree, Distribution]:
            memory, dist, _ = self.apply(state, memory, jax.tree.map(lambda x: x[None], obs), start[None])
            return memory, jax.tree.map(lambda x: x[0], dist)

        def noise(key: Array, num_steps: int) -> PyTree:
            loop = state.loop
            _, like = jax.eval_shape(one_step, loop.memory, loop.obs, loop.episode_length == 0)
            return jax.tree.map(lambda x: jnp.zeros((num_steps, *x.shape), x.dtype), like).noise(key)

        def act(memory: PyTree, obs: PyTree, start: Array, noise: PyTree) -> tuple[PyTree, PyTree, Distribution]:
            memory, pi = one_step(memory, obs, start)
            action = pi.sample(noise)
            if greedy is not False:
                action = jax.tree.map(functools.partial(jnp.where, greedy), pi.mode(), action)
            return memory, action, pi

        return Actor(noise, act)

    def estimate(self, state: TrainState, trajectory: Trajectory, hp: HParams) -> tuple[Array, Array, Array]:
        """Values, advantages and targets of a trajectory, ``[T, B]`` each.

        The value of s_t is computed with the memory before step t, that of s_{t+1} with the memory after it; also where the
        episode was cut at that step and the next row begins with new memory.
        """

        def values(memory: PyTree, obs: PyTree, start: Array) -> Array:
            if not jax.tree.leaves(memory):
                return self.apply(state, memory, obs, start)[2]
            rows = jax.tree.map(lambda x: x[None], (merge_time(obs), merge_time(start)))
            return self.apply(state, merge_time(memory), *rows)[2].reshape(start.shape)

        def both(rows: tuple[PyTree, ...]) -> tuple[Array, Array]:
            return values(*rows[:3]), values(*rows[3:])

        here = trajectory.memory, trajectory.obs, trajectory.start
        there = trajectory.next_memory, trajectory.next_obs, jnp.zeros_like(trajectory.done)
        value, next_value = jax.tree.map(merge_time, self._in_parts(both, (*here, *there)))
        scaled = trajectory.replace(reward=self.normalizer.reward(state.normalizer, trajectory.reward, hp))
        advantage, target = self.advantage(scaled, value, next_value, hp)
        check_floats("[T, B]", advantage=advantage, target=target, reward=trajectory.reward)
        return value, advantage, target

    def batch(self, state: TrainState, trajectory: Trajectory, hp: HParams) -> Batch:
        """The data of an update: a trajectory as sequences ``[L, N, ...]``, with values, advantages and targets."""
        value, advantage, target = self.estimate(state, trajectory, hp)
        length = self.sequence_length or checks.default_length(self)

        def cut(x: Array) -> Array:
            x = x.reshape(x.shape[0] // length, length, *x.shape[1:]).swapaxes(0, 1)
            return jax.lax.collapse(x, 1, 3)

        rows = Batch(
            obs=self.normalizer.observation(state.normalizer, trajectory.obs),
            action=trajectory.action,
            log_prob=trajectory.dist.log_prob(trajectory.action),
            dist=trajectory.dist,
            value=value,
            advantage=advantage,
            target=target,
            weight=trajectory.weight,
            start=trajectory.start,
            memory=(),
        )
        memory = jax.tree.map(lambda x: jax.lax.collapse(x[::length], 0, 2)[None], trajectory.memory)
        return jax.tree.map(cut, rows).replace(memory=memory)

    def losses(self, state: TrainState, hp: HParams) -> Losses:
        """The objective (negated, to be minimised) and the critic's loss, as scalar functions of the parameters and a batch."""
        forward = functools.partial(self._forward, state.constants)

        def mean(x: Array, batch: Batch) -> Array:
            return self.reduction(x, batch.weight, self.num_steps)

        def policy_loss(dist: Distribution, batch: Batch) -> Array:
            terms = [piece(dist, batch, hp) for piece in (self.objective, *self.regularizers)]
            checks.check_terms(self, terms, batch)
            return -sum((mean(term, batch) for term in terms), start=jnp.zeros(()))

        def critic_loss(value: Array, batch: Batch) -> Array:
            return mean(self.critic_loss(value, batch, hp), batch)

        def policy(params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
            dist, _, rows = forward(params, batch)
            loss = policy_loss(dist, rows)
            return loss, {"policy_loss": loss}

        def critic(params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
            _, value, rows = forward(params, batch)
            loss = critic_loss(value, rows)
            return loss, {"critic_loss": loss}

        def total(params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
            dist, value, rows = forward(params, batch)
            one, two = policy_loss(dist, rows), critic_loss(value, rows)
            kl = objectives.weighted_mean(rows.dist.kl(dist), rows.weight)
            return one + two, {"policy_loss": one, "critic_loss": two, "kl": kl}

        def kl(params: PyTree, batch: Batch) -> Array:
            dist, _, rows = forward(params, batch)
            return objectives.weighted_mean(rows.dist.kl(dist), rows.weight)

        return Losses(total, policy, critic, kl)

    def _forward(self, constants: dict[str, PyTree], params: PyTree, batch: Batch) -> tuple[Distribution, Array, Batch]:
        """Distributions, values and data of all rows of some sequences, ``[L * N]``."""
        memory = jax.tree.map(lambda x: x[0], batch.memory)
        _, dist, value = self.network.apply({"params": params, **constants}, memory, batch.obs, batch.start)
        return merge_time((dist, value, batch.replace(memory=())))

    def policy_metrics(self, state: TrainState, batch: Batch, hp: HParams) -> Metrics:
        """The policy after an update: its entropy, KL(pi_old || pi), and, if it clips, the share of clipped ratios.

        Entropy and KL are in nats.

        Measured once, after all gradient steps, on all sequences.
        """
        is_rows = len(batch.start) == 1 and not jax.tree.leaves(batch.memory)  # the rows of a rollout, [T, B]
        shape = (batch.start.shape[1] // self.num_envs, self.num_envs)
        rows = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[2:]), batch) if is_rows else batch

        def sums(part: Batch) -> Array:
            variables, memory = {"params": state.params, **state.constants}, jax.tree.map(lambda x: x[0], part.memory)
            _, dist, _ = self.network.apply(variables, memory, part.obs, part.start)
            values = [jnp.ones_like(part.weight), dist.entropy(), part.dist.kl(dist)]
            if "clip_eps" in given(hp):
                ratio = jnp.exp(dist.log_prob(part.action) - part.log_prob)
                values.append((jnp.abs(ratio - 1.0) > hp.clip_eps).astype(float))
            return jnp.sum(jnp.stack(values) * part.weight, axis=(1, 2))  # stacked, so that devices exchange only one array

        total, *found = jnp.sum(self._in_parts(sums, rows) if is_rows else sums(rows)[None], axis=0)
        names = ("entropy", "kl", "clip_fraction")[: len(found)]
        return {name: x / jnp.maximum(total, 1e-8) for name, x in zip(names, found, strict=True)}

    def _in_parts(self, function: Callable[[PyTree], PyTree], rows: PyTree) -> PyTree:
        """``function`` of rows ``[T, B, ...]``, about a minibatch of them after the other: ``[parts, ...]``.

        So a pass over a rollout takes no more memory than a step on a minibatch. A rule that has no ``minibatches``, as where
        devices share the environments, takes all at once.
        """
        num_steps = len(jax.tree.leaves(rows)[0])
        parts = math.gcd(num_steps, getattr(self.update_rule, "minibatches", 1))
        size = num_steps // parts

        def part(i: Array) -> PyTree:
            return function(jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), rows))

        return jax.tree.map(lambda x: x[None], function(rows)) if parts == 1 else jax.lax.map(part, jnp.arange(parts))


def rollout_metrics(trajectory: Trajectory, batch: Batch) -> Metrics:
    """What a rollout says of itself. Episode metrics are means over the episodes that ended in it, NaN where none did.

    The explained variance is NaN where all targets are equal: there is nothing to explain.
    """
    ended = trajectory.done * trajectory.weight
    values = [ended, ended * trajectory.episode_return, ended * trajectory.episode_length, trajectory.weight]
    episodes, total_return, total_length, sampled = jnp.sum(jnp.stack(values), axis=(1, 2))
    length = len(batch.value)
    value, target = (
        x.reshape(length, len(ended) // length, ended.shape[1]).swapaxes(0, 1).reshape(ended.shape)
        for x in (batch.value, batch.target)
    )
    both = jnp.stack([target - value, target])
    residual, spread = jax.vmap(objectives.deviations, (0, None))(both, trajectory.weight)[1]
    return {
        "explained_variance": 1.0 - quotient(residual, spread),
        "episode_return": quotient(total_return, episodes),
        "episode_length": quotient(total_length, episodes),
        "episodes": episodes,
        "sampled_steps": sampled,
    }


def quotient(x: Array, y: Array) -> Array:
    """x / y for y > 0, else NaN; nothing is divided by zero on the way, which would trip ``jax.debug_nans`` and gradients."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1.0), jnp.nan)
