"""The ladder: each algorithm is the one below it with a piece exchanged.

``jaxpg.ppo(env, num_envs=8, learning_rate=1e-3)``: options default to :mod:`jaxpg.presets`, for the environment where it has a
row there. For anything beyond options, exchange a piece of the result with ``dataclasses.replace``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gymnax.environments import spaces

from jaxpg.algorithms import presets
from jaxpg.core import advantages, networks, normalize, objectives, rollout, schedules, updates
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Env, Network, Normalizer, ScheduleFn
from jaxpg.envs import with_legal_actions

Options = dict[str, Any]


def reinforce_pieces(o: Options) -> dict[str, Any]:
    """Whole episodes, the reward that followed each action, no critic, one gradient step."""
    return {
        "rollout": rollout.episodic,
        "critic": networks.NoCritic(),
        "critic_loss": objectives.no_critic_loss,
        "advantage": advantages.Standardized(advantages.reward_to_go),
        "objective": objectives.policy_gradient,
        "update_rule": updates.SGD(optimizer=updates.adam),
    }


def reinforce_baseline_pieces(o: Options) -> dict[str, Any]:
    """REINFORCE + a learned baseline v(s)."""
    return reinforce_pieces(o) | {
        "critic": networks.Critic(o["hidden"]),
        "critic_loss": objectives.squared_error,
        "advantage": advantages.Standardized(advantages.learned_baseline),
        "update_rule": updates.SGD(),
    }


def actor_critic_pieces(o: Options) -> dict[str, Any]:
    """REINFORCE with baseline + bootstrapping: unfinished episodes, the one-step TD error."""
    return reinforce_baseline_pieces(o) | {"rollout": rollout.continuing, "advantage": advantages.one_step_td}


def a2c_pieces(o: Options) -> dict[str, Any]:
    """Actor-critic + longer returns and an entropy bonus."""
    return actor_critic_pieces(o) | {"advantage": advantages.gae, "regularizers": (objectives.entropy_bonus,)}


def ppo_pieces(o: Options) -> dict[str, Any]:
    """A2C + the clipped surrogate, which allows many gradient steps on the same data."""
    return a2c_pieces(o) | {
        "advantage": advantages.Standardized(advantages.gae),
        "objective": objectives.clipped_surrogate,
        "update_rule": updates.SGD(o["epochs"], o["minibatches"]),
    }


def trpo_pieces(o: Options) -> dict[str, Any]:
    """A2C + the surrogate within a trust region, in place of a gradient step."""
    critic = updates.SGD(o["epochs"], o["minibatches"], updates.critic_adam)
    return a2c_pieces(o) | {
        "advantage": advantages.Standardized(advantages.gae),
        "objective": objectives.surrogate,
        "update_rule": updates.TrustRegion(critic=critic),
    }


LADDER: dict[str, Callable[[Options], dict[str, Any]]] = {
    "reinforce": reinforce_pieces,
    "reinforce_baseline": reinforce_baseline_pieces,
    "actor_critic": actor_critic_pieces,
    "a2c": a2c_pieces,
    "ppo": ppo_pieces,
    "trpo": trpo_pieces,
}


def build(name: str, env: Env, *, policy: Network | None = None, critic: Network | None = None, **chosen: Any) -> Algorithm:
    """The algorithm called ``name`` on ``env``, with its preset options and those ``chosen``; networks of your own if given.

    Presets that anneal do so only where a budget is named (``total_steps``) or annealing is asked for (``anneal``): a run of
    unknown length has no end to anneal to, and a step size of zero after it would be a silent one.

    Raises ``ValueError`` for an unknown name or option, one that the algorithm does not read, and values that do not fit.
    """
    o = presets.options(name, getattr(env, "name", None), **chosen)
    pieces = LADDER[name](o)
    fields = {field.name for field in dataclasses.fields(HParams)}
    return Algorithm(
        env=with_legal_actions(env),
        policy=policy or default_policy(env, tuple(o["hidden"])),
        critic=critic or pieces.pop("critic"),
        num_envs=o["num_envs"],
        num_steps=o["num_steps"],
        hparams=HParams(**{k: v for k, v in o.items() if k in fields}),
        normalizer=normalizer(env, o["observation"]),
        schedule=schedule(o) if {"anneal", "total_steps"} & chosen.keys() else schedules.constant,
        **{k: v for k, v in pieces.items() if k != "critic"},
    )


def default_policy(env: Any, hidden: tuple[int, ...]) -> Network:
    """A softmax policy for discrete actions, a Gaussian one for a vector of continuous actions."""
    space = env.action_space(env.default_params)
    if isinstance(space, spaces.Discrete):
        return networks.CategoricalPolicy(space.n, hidden)
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return networks.GaussianPolicy(space.shape[0], hidden)
    raise ValueError(f"no default policy for the action space {space}; pass policy=...")


def normalizer(env: Env, observation: str) -> Normalizer:
    """Rewards times ``reward_scale``; observations as the option says."""
    if observation == "none":
        return normalize.ConstantReward()
    if observation == "bounds":
        return normalize.Chain(normalize.BoundedObservation.of(env), normalize.ConstantReward())
    if observation == "running":
        return normalize.Chain(normalize.RunningObservation(), normalize.ConstantReward())
    raise ValueError(f"observation = {observation!r}; it must be none, bounds or running")


def schedule(o: Options) -> ScheduleFn:
    """Constant, or linearly to zero over the whole updates that hold ``total_steps``, for the hyperparameters in ``anneal``."""
    if not o["anneal"]:
        return schedules.constant
    rows = max(1, o["num_envs"] * o["num_steps"])  # sizes below 1 are refused by Algorithm
    return schedules.Linear(tuple(o["anneal"]), -(-o["total_steps"] // rows))


def reinforce(env: Env, **options: Any) -> Algorithm:
    """REINFORCE: grad J = E[sum_t grad log pi(a_t|s_t) G_t] from whole episodes [Williams 1992].

    >>> import jaxpg
    >>> jaxpg.reinforce(jaxpg.make("CartPole-v1"), num_envs=4).num_envs
    4
    """
    return build("reinforce", env, **options)


def reinforce_baseline(env: Env, **options: Any) -> Algorithm:
    """REINFORCE with a learned baseline: Psi_t = G_t - v(s_t) [Sutton & Barto 2018, section 13.4]."""
    return build("reinforce_baseline", env, **options)


def actor_critic(env: Env, **options: Any) -> Algorithm:
    """One-step actor-critic: Psi_t = r_t + gamma v(s_{t+1}) - v(s_t) [Sutton & Barto 2018, section 13.5]."""
    return build("actor_critic", env, **options)


def a2c(env: Env, **options: Any) -> Algorithm:
    """Advantage actor-critic: GAE (with ``gae_lambda=1`` the n-step advantage) and an entropy bonus [Mnih et al. 2016]."""
    return build("a2c", env, **options)


def ppo(env: Env, **options: Any) -> Algorithm:
    """Proximal policy optimisation with the clipped surrogate [Schulman et al. 2017]."""
    return build("ppo", env, **options)


def trpo(env: Env, **options: Any) -> Algorithm:
    """Trust region policy optimisation [Schulman et al. 2015]."""
    return build("trpo", env, **options)
