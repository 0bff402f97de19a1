"""The options of every algorithm and what they default to, per environment: plain data, readable without JAX.

``jaxpg.ppo(env)`` and ``jaxpg train ppo --env ...`` mean the same numbers, and both read them here. A row for an environment
holds only what differs from the algorithm's ``"default"`` row. Which hyperparameters stand in an algorithm's default row is
also which ones it reads; their meanings and ranges are in :class:`jaxpg.HParams`. A size may be 0 where that is the default.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxpg.core.hparams import shown, unknown_name

# Options that are not hyperparameters: changing one compiles a new program. (help, for the command line)
SIZES = {
    "total_steps": "environment steps per seed; rounded up to whole updates",
    "num_envs": "environments side by side",
    "num_steps": "steps of each environment per update; 0, for REINFORCE only: the time limit of the environment",
    "epochs": "passes over the data of an update",
    "minibatches": "parts of one pass, one gradient step each",
    "network": "auto (cnn for images, else mlp), mlp, cnn, gru or lstm (an mlp or cnn, then a cell with memory)",
    "hidden": "widths of the hidden layers, of each network; a cell with memory is as wide as the last",
    "activation": "tanh, relu, silu, gelu or elu, between the hidden layers; a cnn has relu",
    "layer_norm": "layer normalisation before each activation of the hidden layers",
    "shared": "one network for policy and critic, with one optimiser and value_coef between the losses",
    "sequence_length": "with memory: steps of the sequences that minibatches are made of; 0: all num_steps",
    "observation": "scaling of observations: none, bounds (declared bounds to [-1, 1]) or running (mean and deviation so far)",
    "anneal": "hyperparameters that go linearly to zero over total_steps (in Python: where that or total_steps is given)",
}
CHOICES = {
    "network": ("auto", "mlp", "cnn", "gru", "lstm"),
    "activation": ("tanh", "relu", "silu", "gelu", "elu"),
    "observation": ("none", "bounds", "running"),
}
POLICY: dict[str, Any] = {
    "network": "auto",
    "hidden": (64, 64),
    "activation": "tanh",
    "layer_norm": False,
    "sequence_length": 0,
    "observation": "none",
    "anneal": (),
}
ACTOR_CRITIC: dict[str, Any] = POLICY | {"shared": False, "value_coef": 0.5}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "reinforce": {
        "default": POLICY
        | {"total_steps": 500_000, "num_envs": 8, "num_steps": 0}
        | {"learning_rate": 1e-2, "max_grad_norm": 0.5, "gamma": 0.99, "reward_scale": 1.0},
        "CartPole-v1": {"num_envs": 2, "learning_rate": 3e-3, "anneal": ("learning_rate",)},
        "MountainCar-v0": {"observation": "bounds"},
        "MountainCarContinuous-v0": {"observation": "bounds"},
        "Pendulum-v1": {"observation": "bounds"},
    },
    "reinforce_baseline": {
        "default": ACTOR_CRITIC
        | {"total_steps": 500_000, "num_envs": 8, "num_steps": 0}
        | {"learning_rate": 5e-3, "critic_learning_rate": 5e-3, "max_grad_norm": 0.5, "gamma": 0.99, "reward_scale": 1.0},
        "CartPole-v1": {  # 200 episodes
            "total_steps": 100_000,
            "num_envs": 1,
            "learning_rate": 4e-3,
            "critic_learning_rate": 4e-2,
            "anneal": ("learning_rate",),
        },
        "MountainCar-v0": {
            "observation": "running",
            "reward_scale": 0.2,
            "gamma": 0.995,
            "learning_rate": 1e-3,
        },
        "Acrobot-v1": {"num_envs": 2, "learning_rate": 1e-3},
        "MountainCarContinuous-v0": {"observation": "bounds"},
        "Pendulum-v1": {"observation": "bounds", "reward_scale": 0.1, "gamma": 0.95, "learning_rate": 2e-3},
    },
    "actor_critic": {
        "default": ACTOR_CRITIC
        | {"total_steps": 499_200, "num_envs": 32, "num_steps": 4}
        | {"learning_rate": 3e-4, "critic_learning_rate": 2e-3, "max_grad_norm": 0.5, "gamma": 0.99, "reward_scale": 1.0},
        "MountainCar-v0": {"observation": "running", "reward_scale": 0.2},
        "MountainCarContinuous-v0": {"observation": "bounds"},
        "Pendulum-v1": {"num_envs": 8, "observation": "bounds", "reward_scale": 0.1, "gamma": 0.9, "learning_rate": 1e-3},
    },
    "a2c": {
        "default": ACTOR_CRITIC
        | {"total_steps": 499_200, "num_envs": 16, "num_steps": 16}
        | {"learning_rate": 1e-3, "critic_learning_rate": 2e-3, "max_grad_norm": 0.5, "gamma": 0.99, "reward_scale": 1.0}
        | {"gae_lambda": 0.95, "entropy_coef": 0.01},
        "MountainCar-v0": {"observation": "running", "reward_scale": 0.2, "gamma": 0.995, "gae_lambda": 0.98},
        "MountainCarContinuous-v0": {"observation": "running", "reward_scale": 0.1, "learning_rate": 3e-4},
        "Pendulum-v1": {
            "num_envs": 8,
            "num_steps": 8,
            "observation": "bounds",
            "reward_scale": 0.1,
            "gamma": 0.9,
            "gae_lambda": 0.9,
            "learning_rate": 2e-3,
            "entropy_coef": 0.0,
        },
    },
    "ppo": {
        "default": ACTOR_CRITIC
        | {"total_steps": 150_000, "num_envs": 16, "num_steps": 64, "epochs": 8, "minibatches": 4}
        | {"learning_rate": 1e-3, "critic_learning_rate": 1e-3, "max_grad_norm": 0.5, "gamma": 0.99, "reward_scale": 1.0}
        | {"gae_lambda": 0.95, "entropy_coef": 0.0, "clip_eps": 0.2},
        "CartPole-v1": {
            "total_steps": 99_840,
            "num_envs": 8,
            "num_steps": 32,
            "epochs": 20,
            "minibatches": 1,
            "learning_rate": 1e-4,
            "gamma": 0.98,
            "gae_lambda": 0.8,
            "anneal": ("learning_rate", "critic_learning_rate", "clip_eps"),
        },
        "MountainCar-v0": {
            "total_steps": 249_856,
            "epochs": 20,
            "gamma": 0.995,
            "gae_lambda": 0.98,
            "entropy_coef": 0.01,
            "reward_scale": 0.2,
            "observation": "running",
            "anneal": ("learning_rate", "critic_learning_rate", "entropy_coef"),
        },
        "Acrobot-v1": {"total_steps": 499_712, "num_steps": 128},
        "MountainCarContinuous-v0": {"total_steps": 98_304, "num_steps": 128, "observation": "running"},
        "Pendulum-v1": {"total_steps": 299_008, "num_steps": 128, "observation": "bounds", "reward_scale": 0.1, "gamma": 0.95},
    },
    "trpo": {
        "default": POLICY
        | {"total_steps": 250_000, "num_envs": 16, "num_steps": 64, "epochs": 8, "minibatches": 4}
        | {"critic_learning_rate": 1e-3, "max_grad_norm": 0.5, "gamma": 0.99, "reward_scale": 1.0}
        | {"gae_lambda": 0.95, "entropy_coef": 0.0, "max_kl": 0.01, "cg_damping": 0.1},
        "MountainCar-v0": {
            "num_steps": 128,
            "observation": "running",
            "reward_scale": 0.2,
            "gamma": 0.995,
            "gae_lambda": 0.98,
            "entropy_coef": 0.02,
            "max_kl": 0.03,
        },
        "MountainCarContinuous-v0": {"num_steps": 128, "observation": "running", "reward_scale": 0.1},
        "Pendulum-v1": {"observation": "bounds", "reward_scale": 0.1, "gamma": 0.95},
    },
}

MINATAR = {
    "total_steps": 1_000_000,
    "num_envs": 64,
    "epochs": 4,
    "minibatches": 8,
    "hidden": (128,),
    "shared": True,
    "learning_rate": 3e-3,
    "entropy_coef": 0.01,
    "anneal": ("learning_rate",),
}
PRESETS["ppo"] |= {f"{game}-MinAtar": MINATAR for game in ("Asterix", "Breakout", "Freeway", "SpaceInvaders")}

ALGORITHMS = tuple(PRESETS)


def options(algorithm: str, env_id: str | None, /, **given: Any) -> dict[str, Any]:
    """What ``algorithm`` defaults to on ``env_id`` (its general defaults for any other environment), with ``given`` on top.

    >>> options("ppo", "MountainCar-v0", gamma=0.995)["gamma"], options("ppo", None, hidden=[32], num_envs=1e1)["num_envs"]
    (0.995, 10)

    ``ValueError`` for an unknown algorithm, an option that no algorithm has, one that this algorithm does not read, and a value
    that is not of the option's type. Whether numbers are in range is seen when an algorithm is made.
    """
    if algorithm not in ALGORITHMS:  # a tuple, which may be asked for what cannot be hashed
        raise ValueError(unknown_name("algorithm", algorithm, PRESETS))
    table = PRESETS[algorithm]
    defaults = table["default"] | table.get(env_id or "default", {})
    everyone = {name for rows in PRESETS.values() for name in rows["default"]}
    for name, value in given.items():
        if name not in everyone:
            raise ValueError(unknown_name("option", name, sorted(defaults)))
        if name not in defaults:
            read = ", ".join(sorted(other for other in defaults if (other in SIZES) == (name in SIZES)))
            raise ValueError(f"{name} = {shown(value)} is not read by {algorithm}, which reads {read}")
    options = {name: convert(name, value, defaults[name]) for name, value in (defaults | given).items()}
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise ValueError(f"{name} = {shown(options[name])} must be {', '.join(choices[:-1])} or {choices[-1]}")
    if "shared" in options:
        unread, why = ("critic_learning_rate", "shares") if options["shared"] else ("value_coef", "does not share")
        if options[unread] != defaults[unread]:
            raise ValueError(f"{unread} = {options[unread]} is not read where the critic {why} the network of the policy")
        if options["anneal"] == defaults["anneal"]:  # the preset's is for what is read
            options["anneal"] = tuple(name for name in options["anneal"] if name != unread)
    return options


def convert(name: str, value: Any, like: Any) -> Any:
    """``value`` as the type of ``like``: text becomes numbers, a list a tuple; nothing is rounded.

    >>> convert("seeds", "16", 1), convert("hidden", ["32", "32"], (64, 64)), convert("shared", "true", False)
    (16, (32, 32), True)
    """
    if isinstance(like, tuple):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"{name} = {shown(value)} must be a list")
        return tuple(convert(name, item, like[0] if like else "") for item in value)
    if isinstance(like, bool) and (isinstance(value, bool) or value in ("true", "false")):
        return value in (True, "true")
    try:
        if isinstance(value, bool) or isinstance(like, bool) or (isinstance(like, str) and not isinstance(value, str)):
            raise ValueError
        if not isinstance(like, int):
            return type(like)(value)
        if isinstance(value, int):
            return value
        whole = int(float(value))
        if whole != float(value):
            raise ValueError
        return whole
    except (TypeError, ValueError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(like)]
        raise ValueError(f"{name} = {shown(value)} must be {kind}") from None
