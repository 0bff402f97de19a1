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
    """Proximal policy optimisation with the clipped surrogate [Schulman et al. 2017].

    objective  min(r_t Psi_t, clip(r_t, 1 - eps, 1 + eps) Psi_t) + beta H,  r_t = pi(a_t|s_t) / pi_old(a_t|s_t)

    Psi_t is GAE, standardised over the rollout; CleanRL, Stable-Baselines3 and brax standardise each minibatch, as
    ``advantage_norm="minibatch"`` does. ``value_clip`` is on in CleanRL only, ``desired_kl`` in none of them; CleanRL and
    Stable-Baselines3 have a ``target_kl``, off by default. See :class:`jaxpg.updates.KLAdaptive`,
    :func:`jaxpg.updates.above_target_kl`, :func:`jaxpg.objectives.clipped_squared_error`.

    >>> import jaxpg
    >>> jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4).num_envs
    4

    Args:
        env: A gymnax environment, or one of your own.
        num_envs: Environments side by side.
        num_steps: Steps of each environment per update.
        epochs: Passes over the data of an update.
        minibatches: Parts of a pass, one gradient step each.
        learning_rate: Step size of the policy, or of the shared network.
        critic_learning_rate: Step size of the critic's Adam, where it has a network of its own.
        max_grad_norm: Longest gradient, per network; longer ones are scaled down. 0: none.
        adam_eps: Epsilon of Adam.
        gamma: Discount factor, in [0, 1].
        gae_lambda: 0: one-step TD advantages, 1: returns minus values.
        clip_eps: Ratios of probabilities are clipped to 1 +- this.
        value_clip: A value that moves farther than this from its old one gains nothing; 0: not clipped.
        target_kl: KL divergence above which an update makes no further steps, nats; 0: never.
        desired_kl: KL divergence that the policy's learning rate is adapted to, nats; 0: not adapted.
        entropy_coef: Weight of the entropy, at least 0.
        reward_scale: Rewards are multiplied by this before learning.
        value_coef: Weight of the critic's loss, where policy and critic share a network.
        network: ``auto``, ``mlp``, ``cnn``, ``gru`` or ``lstm``; or an actor-critic of your own, e.g. :class:`jaxpg.Shared`.
        shared: One network for policy and critic.
        policy: A policy of your own, e.g. a flax module from observations ``[N, ...]`` to a distribution.
        critic: A critic of your own, from observations ``[N, ...]`` to values ``[N]``.
        hidden: Widths of the hidden layers.
        activation: ``tanh``, ``relu``, ``silu``, ``gelu`` or ``elu``.
        layer_norm: Layer normalisation in the hidden layers.
        sequence_length: With memory: steps of the sequences that minibatches are made of; 0: all ``num_steps``.
        observation: Scaling of observations: ``none``, ``bounds`` or ``running``.
        obs_clip: With ``observation = running``: scaled observations are clipped to +- this; 0: not.
        reward_norm: ``scale``: rewards times ``reward_scale``; ``running``: by the deviation of the discounted return so far.
        advantage_norm: Over what advantages are standardised: ``rollout``, ``minibatch`` or ``none``.
        anneal: Hyperparameters that go to zero over ``total_steps``.
        anneal_shape: How they go there: ``linear`` or ``cosine``.
        warmup: Updates over which learning rates grow linearly to their values; 0: none.
        total_steps: Environment steps of a run, over which ``anneal`` goes; giving it, ``anneal`` or ``anneal_shape`` switches
            annealing on.

    What is not given is the preset for the environment, see :mod:`jaxpg.presets`. Raises ``ValueError``, of one line, for
    options of the wrong type, out of range, or that do not fit together.
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
