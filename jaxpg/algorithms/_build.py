"""Shared by the six algorithms: options with presets, and the pieces that options choose."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from jaxpg.algorithms import presets
from jaxpg.core import advantages, networks, normalize, objectives, optimizers, schedules
from jaxpg.core.actor_critic import Separate, Shared
from jaxpg.core.hparams import given
from jaxpg.core.recurrent import GRU, LSTM, Recurrent
from jaxpg.core.rollout import strong
from jaxpg.core.sgd import Stop, above_target_kl
from jaxpg.core.types import ActorCritic, AdvantageFn, CriticLossFn, Env, Normalizer, ObjectiveFn, Optimizer, ScheduleFn
from jaxpg.envs import time_limit, with_action_mask, with_legal_actions
from jaxpg.envs.check import check_argument

Options = dict[str, Any]
EPISODIC = ("reinforce", "reinforce_baseline")
OBJECTS = ("env", "policy", "critic", "network")  # arguments that can be objects, unlike options of the command line

LAYERS = {"gru": GRU, "lstm": LSTM}
ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "silu": nn.silu, "gelu": nn.gelu, "elu": nn.elu}


def choose(name: str, **given: Any) -> Options:
    """The options of an algorithm: its presets for the environment, replaced by arguments that are not ``None``, converted.

    The result remembers the names of these arguments in ``given``.
    """
    env = given["env"]
    check_argument(env)
    is_named = isinstance(given.get("network"), str)
    chosen = {k: v for k, v in given.items() if v is not None and (k not in OBJECTS or (k == "network" and is_named))}
    if given.get("network") is not None and not is_named and "shared" in given:
        chosen["shared"] = not isinstance(given["network"], Separate)
    options = presets.options(name, getattr(env, "name", None), **chosen)
    if name in EPISODIC:
        options["num_steps"] = complete_episodes(options["num_steps"], env)
    return options | {"given": frozenset(chosen)}


def complete_episodes(num_steps: int, env: Any) -> int:
    """``num_steps``, or the time limit of ``env`` if it is 0; ``ValueError`` if an episode can be longer."""
    limit = time_limit(env, env.default_params)
    if num_steps == 0 and limit is None:
        raise ValueError("num_steps: the environment declares no time limit; give the steps of its longest episode")
    if limit is not None and 0 < num_steps < limit:
        below = f"num_steps = {num_steps:,} is below the time limit of {limit:,} steps"
        raise ValueError(f"{below}: REINFORCE learns from complete episodes; give num_steps={limit}")
    return num_steps or limit or 0


def wrap(env: Any) -> Any:
    """Wrap ``env`` so that actions are made legal and, if it has an action mask, that is in the observation."""
    return with_legal_actions(with_action_mask(env))


def make_network(env: Any, o: Options, policy: Any, critic: Any, network: Any, default_critic: Any = None) -> ActorCritic:
    """``network`` if given, else ``Separate`` or ``Shared`` of ``policy`` and ``critic`` or their defaults."""
    if network is not None and not isinstance(network, str):
        if policy is not None or critic is not None:
            raise ValueError("network and policy or critic are given; a network is both: give one of the two")
        if not hasattr(network, "initial_memory"):
            fix = (
                "for a module that returns a distribution and a value pass network=jaxpg.Shared(module); else policy=, critic="
            )
            raise ValueError(f"network is a {type(network).__name__}, without initial_memory; {fix}")
        return network
    if o.get("shared") and (policy is not None or critic is not None):
        raise ValueError("shared = True makes one network of both; leave out policy and critic, or pass network=Shared(...)")
    if policy is not None and critic is not None:
        return Separate(policy, critic)
    parts = default_parts(env, o)
    if o.get("shared"):
        return Shared(parts(networks.PolicyAndValueHead(action_head(env))))
    if policy is None:
        policy = parts(action_head(env))
    if critic is None:
        critic = parts(networks.ValueHead()) if default_critic is None else default_critic
    return Separate(policy, critic)


def action_head(env: Any) -> nn.Module:
    """The default head for the actions of an environment."""
    try:
        return networks.make_action_head(env.action_space(env.default_params))
    except ValueError as error:
        raise ValueError(f"no default policy: {str(error).replace('space', 'the action space', 1)}; pass policy=...") from None


def default_parts(env: Any, o: Options) -> Any:
    """A function from a head to a network, feed-forward or recurrent, as the options say."""
    hidden, activation, kind = o["hidden"], ACTIVATIONS[o["activation"]], o["network"]
    space = env.observation_space(env.default_params) if hasattr(env, "observation_space") else None
    obs = jax.eval_shape(lambda key: strong(env.reset(key, env.default_params)[0]), jax.random.key(0))
    kinds = networks.kinds_of(obs, space)
    if kind == "cnn" and "image" not in kinds:
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(obs))
        raise ValueError(f"network = cnn: there is no image [H, W, C] in observations of shape {shapes}; use mlp")
    if kind == "mlp" and kinds == ("image",):
        encoder = networks.MLP(hidden, activation, o["layer_norm"])
    else:
        encoder = networks.make_encoder(obs, space, hidden, activation, o["layer_norm"])
    if kind not in LAYERS:
        return lambda head: networks.Feedforward(encoder, head)
    if not hidden:
        raise ValueError(f"hidden = () with network = {kind}; the memory is as wide as the last layer: give one")
    return lambda head: Recurrent(encoder, LAYERS[kind](hidden[-1]), head)


def make_learning(o: Options, network: ActorCritic) -> tuple[Optimizer, CriticLossFn]:
    """Optimiser and critic loss: an Adam for each of two networks, or one for both and a coefficient between the losses."""
    policy = make_policy_optimizer(o)
    loss = objectives.clipped_squared_error if o.get("value_clip") else objectives.squared_error
    if isinstance(network, Separate):
        return optimizers.ForEach(policy, make_critic_optimizer(o)), loss
    return policy, objectives.Weighted(loss)


def make_policy_optimizer(o: Options) -> Optimizer:
    """Adam with the policy's learning rate, which follows the KL divergence where ``desired_kl`` is not 0."""
    adam = optimizers.Adam(is_clipped=o["max_grad_norm"] != 0.0)
    return optimizers.KLAdaptive(adam) if o.get("desired_kl") else adam


def make_critic_optimizer(o: Options) -> Optimizer:
    """Adam with the critic's learning rate."""
    return optimizers.Adam("critic_learning_rate", is_clipped=o["max_grad_norm"] != 0.0)


def make_stop(o: Options) -> Stop | None:
    """Stop an update when the KL divergence exceeds ``target_kl``; ``None`` if that is 0."""
    return above_target_kl if o["target_kl"] else None


def make_advantage(o: Options, advantage: AdvantageFn) -> AdvantageFn:
    """``advantage``, standardised over the rollout where ``advantage_norm`` says so."""
    return advantages.Standardized(advantage) if o["advantage_norm"] == "rollout" else advantage


def make_objective(o: Options, objective: ObjectiveFn) -> ObjectiveFn:
    """``objective``, of advantages standardised over each minibatch where ``advantage_norm`` says so."""
    return objectives.Standardized(objective) if o["advantage_norm"] == "minibatch" else objective


def make_normalizer(env: Env, o: Options) -> Normalizer:
    """Observations and rewards as the options say: ``observation``, ``obs_clip`` and ``reward_norm``."""
    reward = normalize.RunningReward() if o["reward_norm"] == "running" else normalize.ConstantReward()
    if o["observation"] == "none":
        return reward
    if o["observation"] == "bounds":
        return normalize.Chain(normalize.BoundedObservation.of(env), reward)
    return normalize.Chain(normalize.RunningObservation(o["obs_clip"] or None), reward)


def make_schedule(o: Options) -> ScheduleFn:
    """Anneal hyperparameters to zero over ``total_steps``, and warm up learning rates over the first ``warmup`` updates.

    The annealing of a preset is used only if ``total_steps`` or ``anneal`` is given: otherwise the length of training is
    unknown, and training beyond the preset's ``total_steps`` would silently have a learning rate of zero.
    """
    anneal = schedules.constant
    if o["anneal"] and o["given"] & {"anneal", "anneal_shape", "total_steps"}:
        rows = max(1, o["num_envs"] * o["num_steps"])  # Algorithm raises an error for sizes below 1
        num_updates = -(-o["total_steps"] // rows)
        if o["anneal_shape"] == "linear":
            anneal = schedules.Linear(o["anneal"], num_updates)
        else:
            anneal = schedules.Scaled(o["anneal"], schedules.Cosine(num_updates))
    if o["warmup"] == 0:
        return anneal
    rates = tuple(name for name in ("learning_rate", "critic_learning_rate") if name in given(presets.hyperparameters(o)))
    warm_up = schedules.Scaled(rates, schedules.WarmUp(o["warmup"]))
    return warm_up if anneal is schedules.constant else schedules.Chain(warm_up, anneal)
