"""PPO: A2C with the clipped surrogate, which allows many gradient steps on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxpg.algorithms import _build, presets
from jaxpg.core import advantages, objectives, rollout
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.sgd import SGD
from jaxpg.core.types import ActorCritic, Env


def ppo(
    env: Env,
    *,
    num_envs: int | None = None,
    num_steps: int | None = None,
    epochs: int | None = None,
    minibatches: int | None = None,
    learning_rate: float | None = None,
    critic_learning_rate: float | None = None,
    max_grad_norm: float | None = None,
    adam_eps: float | None = None,
    gamma: float | None = None,
    gae_lambda: float | None = None,
    clip_eps: float | None = None,
    value_clip: float | None = None,
    target_kl: float | None = None,
    desired_kl: float | None = None,
    entropy_coef: float | None = None,
    reward_scale: float | None = None,
    value_coef: float | None = None,
    network: str | ActorCritic | None = None,
    shared: bool | None = None,
    policy: Any = None,
    critic: Any = None,
    hidden: Sequence[int] | None = None,
    activation: str | None = None,
    layer_norm: bool | None = None,
    sequence_length: int | None = None,
    observation: str | None = None,
    obs_clip: float | None = None,
    reward_norm: str | None = None,
    advantage_norm: str | None = None,
    anneal: Sequence[str] | None = None,
    anneal_shape: str | None = None,
    warmup: int | None = None,
    total_steps: int | None = None,
) -> Algorithm:
    """PPO, proximal policy optimisation with the clipped surrogate.

        max  E[min(r_t Psi_t, clip(r_t, 1 - eps, 1 + eps) Psi_t)] + beta H,  r_t = pi(a_t|s_t) / pi_old(a_t|s_t)

    Psi_t is GAE, standardised over the rollout; CleanRL, Stable-Baselines3 and Brax standardise each minibatch, as
    ``advantage_norm="minibatch"`` does. By default only CleanRL of these three clips values (``value_clip``), and none stops
    early (``target_kl``, in CleanRL and Stable-Baselines3) or adapts the step size (``desired_kl``, in none). See
    ``jaxpg.updates.KLAdaptive``, ``jaxpg.updates.above_target_kl`` and ``jaxpg.objectives.clipped_squared_error``.

    Options that are not given have the preset for the environment, see ``jaxpg.presets``.

    Args:
        env: A gymnax environment, or any object that follows ``jaxpg.types.Env``.
        num_envs: Environments that are stepped in parallel.
        num_steps: Steps of each environment per update.
        epochs: Passes over the data of an update.
        minibatches: Parts of a pass, one gradient step each.
        learning_rate: Step size of the policy, or of the shared network.
        critic_learning_rate: Step size of the critic, where it has its own network.
        max_grad_norm: Longest gradient of each network, longer ones are scaled down; 0: no clipping.
        adam_eps: Epsilon of Adam.
        gamma: Discount factor, in [0, 1].
        gae_lambda: Lambda of GAE, in [0, 1]; 0 gives one-step TD advantages, 1 returns minus values.
        clip_eps: Ratios of probabilities are clipped to 1 +- this; above 0.
        value_clip: How far a value may move from its old one before its loss is clipped, in the unit of returns; 0: not
            clipped.
        target_kl: KL divergence above which an update makes no further steps, nats; 0: never.
        desired_kl: KL divergence that the policy's learning rate is adapted to, nats; 0: not adapted.
        entropy_coef: Weight of the policy's entropy in the objective; at least 0.
        reward_scale: Rewards are multiplied by this before learning; above 0.
        value_coef: Weight of the critic's loss, where policy and critic share a network.
        network: ``auto``, ``mlp``, ``cnn``, ``gru`` or ``lstm``; or an actor-critic of your own, e.g. ``jaxpg.Shared``.
        shared: One network for policy and critic.
        policy: A policy of your own, e.g. a flax module from observations ``[N, ...]`` to a distribution.
        critic: A critic of your own, from observations ``[N, ...]`` to values ``[N]``.
        hidden: Widths of the hidden layers.
        activation: ``tanh``, ``relu``, ``silu``, ``gelu`` or ``elu``.
        layer_norm: Layer normalisation in the hidden layers.
        sequence_length: With memory: steps of the sequences that minibatches consist of; 0: all ``num_steps``.
        observation: Scaling of observations: ``none``, ``bounds`` or ``running``.
        obs_clip: With ``observation = running``: scaled observations are clipped to +- this; 0: not clipped.
        reward_norm: ``scale``: rewards times ``reward_scale``; ``running``: divided by the standard deviation of the running
            discounted return.
        advantage_norm: What advantages are standardised over: ``rollout``, ``minibatch`` or ``none``.
        anneal: Names of hyperparameters that decrease to zero over ``total_steps``.
        anneal_shape: How they decrease: ``linear`` or ``cosine``.
        warmup: Updates over which the learning rates grow linearly to their values; 0: none.
        total_steps: Environment steps of a run, for ``anneal``. Annealing is on where this, ``anneal`` or ``anneal_shape`` is
            given.

    Returns:
        The algorithm, a static object without arrays.

    Raises:
        ValueError: Of one line, for options of the wrong type, out of range, or that do not fit together.

    Source: Schulman et al. 2017.

    Examples:
        >>> import jaxpg
        >>> jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4).num_envs
        4
    """
    o = _build.choose("ppo", **locals())
    env = _build.wrap(env)
    network = _build.make_network(env, o, policy, critic, network)
    optimizer, critic_loss = _build.make_learning(o, network)
    return Algorithm(
        env=env,
        network=network,
        num_envs=o["num_envs"],
        num_steps=o["num_steps"],
        hparams=presets.hyperparameters(o),
        rollout=rollout.continuing,
        advantage=_build.make_advantage(o, advantages.gae),
        objective=_build.make_objective(o, objectives.clipped_surrogate),
        regularizers=(objectives.entropy_bonus,),
        critic_loss=critic_loss,
        update_rule=SGD(o["epochs"], o["minibatches"], optimizer, _build.make_stop(o)),
        normalizer=_build.make_normalizer(env, o),
        schedule=_build.make_schedule(o),
        sequence_length=o["sequence_length"] or None,
    )
