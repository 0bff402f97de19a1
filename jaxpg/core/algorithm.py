"""Algorithm: ``init(key) -> state`` and ``update(state) -> (state, metrics)``, and the pieces they are made of.

A static object that holds functions and sizes, never an array; hashable by value. ``dataclasses.replace`` exchanges a piece.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxpg.core import _checks as checks
from jaxpg.core import advantages, normalize, objectives, rollout, schedules, updates
from jaxpg.core._shapes import check_floats
from jaxpg.core.hparams import HParams, given
from jaxpg.core.types import (
    MAX_COUNT,
    Actor,
    AdvantageFn,
    Array,
    Batch,
    CriticLossFn,
    Distribution,
    Env,
    Losses,
    Metrics,
    Network,
    Normalizer,
    ObjectiveFn,
    Params,
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
    """A policy-gradient algorithm as a choice of pieces; :mod:`jaxpg.algorithms` has the well-known choices.

    >>> import jaxpg
    >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
    >>> state, metrics = jax.jit(algo.update)(algo.init(jax.random.key(0)))
    >>> int(state.step)
    1

    Raises ``ValueError`` at construction or trace time for pieces that do not fit, naming the field, the value and the mend.
    """

    env: Env
    policy: Network
    critic: Network
    num_envs: int
    num_steps: int
    hparams: HParams
    rollout: RolloutFn = rollout.continuing
    advantage: AdvantageFn = advantages.gae
    objective: ObjectiveFn = objectives.policy_gradient
    regularizers: tuple[ObjectiveFn, ...] = ()
    critic_loss: CriticLossFn = objectives.squared_error
    reduction: ReductionFn = objectives.mean_over_steps
    update_rule: UpdateRule = updates.SGD()
    normalizer: Normalizer = normalize.identity
    schedule: ScheduleFn = schedules.constant

    def __post_init__(self) -> None:
        object.__setattr__(self, "hparams", checks.as_numbers(self.hparams))
        checks.check_construction(self)

    def init(self, key: Array, hparams: HParams | None = None, env_params: PyTree = None) -> TrainState:
        """Networks, optimiser, environments and statistics at their start; ``hparams`` may be traced. Compiled once."""
        hparams = checks.as_arrays(self, self.hparams if hparams is None else hparams)
        env_params = rollout.strong(self.env.default_params if env_params is None else env_params)
        return self._start(key, hparams, env_params)

    @functools.partial(jax.jit, static_argnames="self")
    def _start(self, key: Array, hparams: HParams, env_params: PyTree) -> TrainState:
        key, key_policy, key_critic, key_env = jax.random.split(key, 4)
        loop = rollout.reset(key_env, self.env, env_params, self.num_envs)
        stats = self.normalizer.init(loop.obs)
        obs = self.normalizer.observation(stats, loop.obs)
        params = Params(self.policy.init(key_policy, obs), self.critic.init(key_critic, obs))
        checks.check_networks(self, params, obs, loop, env_params)
        opt_state = self.update_rule.init(params, hparams)
        return rollout.strong(TrainState(key, jnp.int32(0), params, opt_state, loop, stats, hparams, env_params))

    def update(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Act, judge, improve, account: one iteration of ``num_envs * num_steps`` environment steps.

        Rewards and observations that are not finite, or too large to be squared, raise nothing. They show in the parameters or
        in the losses of their own run; the other rows of a ``vmap`` are bit for bit what they would have been.
        """
        key, key_rollout, key_update = jax.random.split(state.key, 3)
        hp = self.schedule(state.hparams, state.step)

        actor = self.actor(state)
        loop, trajectory = self.rollout(key_rollout, self.env, state.env_params, actor, state.loop, self.num_steps)
        batch = self.judge(state, trajectory, hp)
        params, opt_state, metrics = self.update_rule.update(
            key_update, self.losses(hp), state.params, state.opt_state, batch, hp
        )
        stats = self.normalizer.update(state.normalizer, trajectory, hp)

        metrics = metrics | self.policy_metrics(state.replace(params=params), trajectory, hp) | account(trajectory, batch)
        step = jnp.minimum(state.step, MAX_COUNT - 1) + 1
        state = state.replace(key=key, step=step, params=params, opt_state=opt_state, loop=loop, normalizer=stats)
        return rollout.strong(state), metrics

    def actor(self, state: TrainState, *, greedy: bool | Array = False) -> Actor:
        """The policy of ``state``, bound: it samples, or takes the mode."""

        def dist(obs: PyTree) -> Distribution:
            return self.policy.apply(state.params.policy, self.normalizer.observation(state.normalizer, obs))

        def noise(key: Array, num_steps: int) -> PyTree:
            like = jax.eval_shape(dist, state.loop.obs)
            return jax.tree.map(lambda x: jnp.zeros((num_steps, *x.shape), x.dtype), like).noise(key)

        def act(obs: PyTree, noise: PyTree) -> tuple[PyTree, Distribution]:
            pi = dist(obs)
            return jax.tree.map(functools.partial(jnp.where, greedy), pi.mode(), pi.sample(noise)), pi

        return Actor(noise, act)

    def judge(self, state: TrainState, trajectory: Trajectory, hp: HParams) -> Batch:
        """Values, advantages and targets of a trajectory, flattened to ``[N, ...]``."""
        obs, next_obs = (self.normalizer.observation(state.normalizer, x) for x in (trajectory.obs, trajectory.next_obs))
        shape = trajectory.reward.shape
        value, next_value = (self.critic.apply(state.params.critic, flat(x)).reshape(shape) for x in (obs, next_obs))
        scaled = trajectory.replace(reward=self.normalizer.reward(state.normalizer, trajectory.reward, hp))
        advantage, target = self.advantage(scaled, value, next_value, hp)
        check_floats("[T, B]", advantage=advantage, target=target, reward=trajectory.reward)
        log_prob = trajectory.dist.log_prob(trajectory.action)
        return flat(Batch(obs, trajectory.action, log_prob, trajectory.dist, value, advantage, target, trajectory.weight))

    def losses(self, hp: HParams) -> Losses:
        """The objective (negated, to be minimised) and the critic's loss, as scalars of the parameters."""

        def mean(x: Array, batch: Batch) -> Array:
            return self.reduction(x, batch.weight, self.num_steps)

        def policy(params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
            dist = self.policy.apply(params, batch.obs)
            terms = [piece(dist, batch, hp) for piece in (self.objective, *self.regularizers)]
            checks.check_terms(self, terms, batch)
            loss = -sum((mean(term, batch) for term in terms), start=jnp.zeros(()))
            return loss, {"policy_loss": loss}

        def critic(params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
            loss = mean(self.critic_loss(self.critic.apply(params, batch.obs), batch, hp), batch)
            return loss, {"critic_loss": loss}

        def total(params: Params, batch: Batch) -> tuple[Array, Metrics]:
            (policy_loss, one), (critic_loss, two) = policy(params.policy, batch), critic(params.critic, batch)
            return policy_loss + critic_loss, one | two

        def kl(params: PyTree, batch: Batch) -> Array:
            dist = self.policy.apply(params, batch.obs)
            return objectives.weighted_mean(batch.dist.kl(dist), batch.weight)

        return Losses(total, policy, critic, kl)

    def policy_metrics(self, state: TrainState, trajectory: Trajectory, hp: HParams) -> Metrics:
        """What an update made of the policy: its entropy and KL(pi_old || pi), nats; where ratios are clipped, how many are.

        Measured once, when all steps are done, and step by step of the rollout: each device can look at its own environments.
        """
        obs, old = self.normalizer.observation(state.normalizer, trajectory.obs), trajectory.dist
        dist = jax.vmap(self.policy.apply, (None, 0))(state.params.policy, obs)
        values = {"entropy": dist.entropy(), "kl": old.kl(dist)}
        if "clip_eps" in given(hp):
            ratio = jnp.exp(dist.log_prob(trajectory.action) - old.log_prob(trajectory.action))
            values["clip_fraction"] = jnp.abs(ratio - 1.0) > hp.clip_eps
        rows = jnp.stack([*values.values(), jnp.ones_like(trajectory.weight)])
        *sums, total = jnp.sum(rows * trajectory.weight, axis=(1, 2))  # in one piece: one exchange between devices
        return {name: x / jnp.maximum(total, 1e-8) for name, x in zip(values, sums, strict=True)}


def flat(tree: PyTree) -> PyTree:
    """``[T, B, ...]`` to ``[T * B, ...]``."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def account(trajectory: Trajectory, batch: Batch) -> Metrics:
    """What a rollout says of itself. Episode metrics are means over the episodes that ended in it, NaN where none did.

    The explained variance is NaN where all targets are equal: there is nothing to explain.
    """
    ended = trajectory.done * trajectory.weight
    episodes = jnp.sum(ended)
    value, target = (x.reshape(ended.shape) for x in (batch.value, batch.target))  # [T, B]: each device sums its own
    residual, spread = (objectives.deviations(x, trajectory.weight)[1] for x in (target - value, target))
    return {
        "explained_variance": 1.0 - quotient(residual, spread),
        "episode_return": quotient(jnp.sum(ended * trajectory.episode_return), episodes),
        "episode_length": quotient(jnp.sum(ended * trajectory.episode_length), episodes),
        "episodes": episodes,
        "sampled_steps": jnp.sum(trajectory.weight),
    }


def quotient(x: Array, y: Array) -> Array:
    """x / y for y > 0, else NaN; nothing is divided by zero on the way, which would trip ``jax.debug_nans`` and gradients."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1.0), jnp.nan)
