"""The options of every algorithm and what they default to, per environment: plain data, readable without JAX.

``jaxpg.ppo(env)`` and ``jaxpg train ppo --env ...`` mean the same numbers, and both read them here. A row for an environment
holds only what differs from the algorithm's ``"default"`` row. Which hyperparameters stand in an algorithm's default row is
also which ones it reads; their meanings and ranges are in ``jaxpg.HParams``. A size may be 0 where that is the default,
and a hyperparameter of ``SWITCHES`` where that leaves out what reads it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from jaxpg.core.hparams import HParams, shown, unknown_name

# Options that are not hyperparameters: changing one compiles a new program. (help, for the command line)
SIZES = {
    "total_steps": "environment steps per run; rounded up to full updates",
    "num_envs": "environments per run, stepped in parallel",
    "num_steps": "steps of each environment per update; 0, for REINFORCE only: the time limit of the environment",
    "epochs": "passes over the rollout in each update",
    "minibatches": "minibatches of each pass, one gradient step each",
    "network": "kind of network: auto (cnn for images, else mlp), mlp, cnn, gru or lstm (an mlp or cnn, then that cell)",
    "hidden": "widths of the hidden layers of each network; a gru or lstm cell has the last width",
    "activation": "activation of the hidden layers: tanh, relu, silu, gelu or elu; convolutions always have relu",
    "layer_norm": "layer normalisation before each activation of the hidden layers",
    "shared": "one network and one optimiser for policy and critic; value_coef weighs the critic's loss",
    "sequence_length": "gru and lstm: steps of each sequence in a minibatch; 0: all num_steps",
    "observation": "scaling of observations: none, bounds (declared bounds to [-1, 1]) or running (mean and deviation so far)",
    "obs_clip": "with observation = running: scaled observations are clipped to +- this; 0: no clipping",
    "reward_norm": "scaling of rewards: scale (times reward_scale) or running (by the deviation of the discounted return)",
    "advantage_norm": "what advantages are standardised over: rollout, minibatch (PPO only), or none",
    "anneal": "hyperparameters that decay to zero over total_steps (in Python only if one of the two is given)",
    "anneal_shape": "shape of the decay: linear or cosine",
    "warmup": "updates over which the learning rates grow linearly to their values; 0: none",
}
SWITCHES = {  # hyperparameters that 0 switches off: then they are None in HParams and nothing reads them
    "max_grad_norm": "0: no limit",
    "target_kl": "0: no limit",
    "desired_kl": "0: fixed learning rate",
    "value_clip": "0: not clipped",
}
CHOICES = {
    "network": ("auto", "mlp", "cnn", "gru", "lstm"),
    "activation": ("tanh", "relu", "silu", "gelu", "elu"),
    "observation": ("none", "bounds", "running"),
    "reward_norm": ("scale", "running"),
    "advantage_norm": ("rollout", "minibatch", "none"),
    "anneal_shape": ("linear", "cosine"),
}
POLICY: dict[str, Any] = {
    "network": "auto",
    "hidden": (64, 64),
    "activation": "tanh",
    "layer_norm": False,
    "sequence_length": 0,
    "observation": "none",
    "obs_clip": 10.0,
    "reward_norm": "scale",
    "advantage_norm": "rollout",
    "anneal": (),
    "anneal_shape": "linear",
    "warmup": 0,
    "max_grad_norm": 0.5,
    "adam_eps": 1e-5,
    "gamma": 0.99,
    "reward_scale": 1.0,
}
ACTOR_CRITIC: dict[str, Any] = POLICY | {"shared": False, "value_coef": 0.5}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "reinforce": {
        "default": POLICY | {"total_steps": 500_000, "num_envs": 8, "num_steps": 0} | {"learning_rate": 1e-2},
        "CartPole-v1": {"num_envs": 2, "learning_rate": 3e-3, "anneal": ("learning_rate",)},
        "MountainCar-v0": {"observation": "bounds"},
        "MountainCarContinuous-v0": {"observation": "bounds"},
        "Pendulum-v1": {"observation": "running", "gamma": 0.95, "learning_rate": 1e-3},
    },
    "reinforce_baseline": {
        "default": ACTOR_CRITIC
        | {"total_steps": 500_000, "num_envs": 8, "num_steps": 0}
        | {"learning_rate": 5e-3, "critic_learning_rate": 5e-3},
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
        "Pendulum-v1": {
            "num_envs": 2,
            "observation": "running",
            "reward_scale": 0.1,
            "gamma": 0.95,
            "learning_rate": 3e-3,
        },
    },
    "actor_critic": {
        "default": ACTOR_CRITIC
        | {"advantage_norm": "none"}
        | {"total_steps": 499_200, "num_envs": 32, "num_steps": 4}
        | {"learning_rate": 3e-4, "critic_learning_rate": 2e-3},
        "MountainCar-v0": {"observation": "running", "reward_scale": 0.2},
        "MountainCarContinuous-v0": {"observation": "bounds"},
        "Pendulum-v1": {"num_envs": 8, "observation": "running", "reward_scale": 0.1, "gamma": 0.9, "learning_rate": 5e-4},
    },
    "a2c": {
        "default": ACTOR_CRITIC
        | {"advantage_norm": "none"}
        | {"total_steps": 499_200, "num_envs": 16, "num_steps": 16}
        | {"learning_rate": 1e-3, "critic_learning_rate": 2e-3}
        | {"gae_lambda": 0.95, "entropy_coef": 0.01},
        "CartPole-v1": {
            "num_envs": 8,
            "num_steps": 8,
            "learning_rate": 7e-4,
            "entropy_coef": 0.0,
            "anneal": ("learning_rate",),
        },
        "MountainCar-v0": {"observation": "running", "reward_scale": 0.2, "gamma": 0.995, "gae_lambda": 0.98},
        "MountainCarContinuous-v0": {"observation": "running", "reward_scale": 0.1, "learning_rate": 3e-4},
        "Pendulum-v1": {
            "num_envs": 8,
            "num_steps": 8,
            "observation": "running",
            "reward_scale": 0.1,
            "gamma": 0.9,
            "gae_lambda": 0.9,
            "learning_rate": 1.5e-3,
            "entropy_coef": 0.0,
        },
    },
    "ppo": {
        "default": ACTOR_CRITIC
        | {"total_steps": 150_000, "num_envs": 16, "num_steps": 64, "epochs": 8, "minibatches": 4}
        | {"learning_rate": 1e-3, "critic_learning_rate": 1e-3}
        | {"gae_lambda": 0.95, "entropy_coef": 0.0, "clip_eps": 0.2, "value_clip": 0.0, "target_kl": 0.0, "desired_kl": 0.0},
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
        | {"critic_learning_rate": 1e-3}
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
"""Options by algorithm and environment; a row holds what differs from the algorithm's ``"default"`` row."""

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

BRAX = {  # the step size, discount and lambda of PPO on MuJoCo [Schulman et al. 2017]
    "total_steps": 999_424,
    "num_envs": 64,
    "num_steps": 32,
    "minibatches": 16,
    "observation": "running",
    "learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
}
PRESETS["ppo"] |= {
    "brax/inverted_pendulum": BRAX | {"reward_scale": 0.1},
    "brax/inverted_double_pendulum": BRAX | {"reward_scale": 0.01},
    "brax/hopper": BRAX | {"reward_scale": 0.1},
    "brax/reacher": BRAX | {"gamma": 0.95},  # Brax's own discount there
    "playground/CartpoleBalance": BRAX | {"gamma": 0.995},  # Playground's own [Zakka et al. 2025]
    "playground/CartpoleSwingup": BRAX | {"gamma": 0.995},
}

GRID = {
    "total_steps": 999_424,
    "num_envs": 32,
    "num_steps": 128,
    "epochs": 4,
    "minibatches": 8,
    "learning_rate": 5e-4,
    "critic_learning_rate": 5e-4,
    "entropy_coef": 0.01,
    "anneal": ("learning_rate", "critic_learning_rate"),
}
PRESETS["ppo"] |= {  # once Navix is solved, advantages are noise: standardised noise makes the policy unlearn the solution
    "navix/Navix-Empty-8x8-v0": GRID | {"advantage_norm": "none"},
    "navix/Navix-DoorKey-5x5-v0": GRID | {"advantage_norm": "none"},
    "xland/MiniGrid-DoorKey-6x6": GRID,  # without standardisation a GRU does not find the goal
}

PRESETS["ppo"]["craftax/Craftax-Classic-Symbolic"] = {  # Craftax Baselines' [Matthews et al. 2024], with fewer environments
    "total_steps": 999_424,
    "num_envs": 64,
    "epochs": 4,
    "minibatches": 8,
    "hidden": (128, 128, 128),
    "learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "gae_lambda": 0.8,
    "entropy_coef": 0.01,
    "max_grad_norm": 1.0,
    "anneal": ("learning_rate", "critic_learning_rate"),
}

ALGORITHMS = tuple(PRESETS)
"""The names of the algorithms, as ``jaxpg train`` takes them."""


def options(algorithm: str, env_id: str | None, /, **given: Any) -> dict[str, Any]:
    """The options of ``algorithm`` on ``env_id``: its preset, or its defaults for any other environment, with ``given`` on top.

    Args:
        algorithm: The name of an algorithm, e.g. ``ppo``.
        env_id: The name of an environment; ``None``: the algorithm's defaults.
        **given: Options in place of those of the preset.

    Returns:
        The options by name, with the types of the preset.

    Raises:
        ValueError: For an unknown algorithm, an unknown option, one that this algorithm does not read, and a value of the wrong
            type. Ranges are checked when the algorithm is made.

    Examples:
        >>> from jaxpg import presets
        >>> presets.options("ppo", "MountainCar-v0", gamma=0.99)["observation"]
        'running'
        >>> presets.options("ppo", None, hidden=[32], num_envs=1e1)["num_envs"]
        10
    """
    if algorithm not in ALGORITHMS:  # a tuple, because `in` works there for values that cannot be hashed
        raise ValueError(unknown_name("algorithm", algorithm, PRESETS))
    table = PRESETS[algorithm]
    defaults = table["default"] | table.get(env_id or "default", {})
    everyone = {name for rows in PRESETS.values() for name in rows["default"]}
    for name, value in given.items():
        if name not in everyone:
            raise ValueError(unknown_name("option", name, sorted(defaults)))
        if name not in defaults:
            read = ", ".join(sorted(other for other in defaults if (other in SIZES) == (name in SIZES)))
            said = name if value == "" else f"{name} = {shown(value)}"  # a switch of the command line has no value
            raise ValueError(f"{said} is not read by {algorithm}, which reads {read}")
    options = {name: convert(name, value, defaults[name]) for name, value in (defaults | given).items()}
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise ValueError(f"{name} = {shown(options[name])} must be {', '.join(choices[:-1])} or {choices[-1]}")
    check_together(algorithm, options, defaults)
    return options


def check_together(algorithm: str, options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise ``ValueError`` for options that contradict each other. Unread ones leave the preset's ``anneal``."""
    if not 0.0 <= options["obs_clip"] < math.inf:
        raise ValueError(f"obs_clip = {options['obs_clip']} must be a number of at least 0; 0 does not clip")
    if not 0 <= options["warmup"] < 2**31:
        raise ValueError(f"warmup = {options['warmup']} must be a number of updates, from 0 to 2**31 - 1")
    if options["advantage_norm"] == "minibatch" and algorithm != "ppo":
        raise ValueError(
            f"advantage_norm = minibatch: the policy of {algorithm} learns from complete rollouts; use rollout or none"
        )
    if 0.0 < options.get("target_kl", 0.0) <= 2.0 * options.get("desired_kl", 0.0):
        bound = f"desired_kl = {options['desired_kl']} lowers the learning rate (only above twice that value)"
        raise ValueError(f"target_kl = {options['target_kl']} stops an update before {bound}; give a larger target_kl, or 0")
    why_unread = unread(options)
    for name, why in why_unread.items():
        if options[name] != defaults[name]:
            raise ValueError(f"{name} = {options[name]} is not read where {why}")
    if options["anneal"] == defaults["anneal"]:  # the preset: keep only hyperparameters that are read
        options["anneal"] = tuple(name for name in options["anneal"] if name not in why_unread)
    for name in options["anneal"]:
        if name in why_unread or is_off(name, options.get(name)):
            raise ValueError(f"anneal = {name}: it is not read where {why_unread.get(name, f'{name} = 0')}")


def unread(options: dict[str, Any]) -> dict[str, str]:
    """The options that are not read because of other options, and the reason for each."""
    found = {}
    if "shared" in options:
        name, why = ("critic_learning_rate", "shares") if options["shared"] else ("value_coef", "does not share")
        found[name] = f"the critic {why} the network of the policy"
    if options["reward_norm"] == "running":
        found["reward_scale"] = "reward_norm = running"
    if options["observation"] != "running":
        found["obs_clip"] = f"observation = {options['observation']}"
    if not options["anneal"]:
        found["anneal_shape"] = "anneal is empty"
    return found


def hyperparameters(options: dict[str, Any]) -> HParams:
    """The hyperparameters among the options; ``None`` for those that nothing reads.

    >>> hyperparameters(options("ppo", None, max_grad_norm=0)).max_grad_norm is None
    True
    """
    without_use = unread(options)
    names = [field.name for field in dataclasses.fields(HParams) if field.name in options and field.name not in without_use]
    return HParams(**{name: None if is_off(name, options[name]) else options[name] for name in names})


def is_off(name: str, value: Any) -> bool:
    """Whether ``value`` switches a hyperparameter off.

    >>> is_off("target_kl", 0), is_off("target_kl", 0.02), is_off("entropy_coef", 0.0)
    (True, False, False)
    """
    return name in SWITCHES and value == 0


def convert(name: str, value: Any, like: Any) -> Any:
    """Convert ``value`` to the type of ``like``: text to numbers, a list to a tuple; nothing is rounded.

    >>> convert("seeds", "16", 1), convert("hidden", ["32", "32"], (64, 64)), convert("shared", "true", False)
    (16, (32, 32), True)
    """
    if isinstance(like, tuple):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"{name} = {shown(value)} must be a list")
        for item in value:
            if isinstance(item, str) and "," in item and like and not isinstance(like[0], str):  # numbers
                raise ValueError(f"{name} = {shown(item)} must be a list with spaces: {shown(item.replace(',', ' '))}")
        return tuple(convert(name, item, like[0] if like else "") for item in value)
    if name == "activation" and callable(value):
        fix = "give its name, or build networks with it and pass them as policy and critic"
        raise ValueError(f"activation = {shown(value)} is a function; {fix}")
    if isinstance(like, bool) and (isinstance(value, bool) or value in ("true", "false")):
        return value in (True, "true")
    try:
        if isinstance(value, bool) or isinstance(like, bool) or (isinstance(like, str) and not isinstance(value, str)):
            raise ValueError
        if not isinstance(like, int):
            return type(like)(value)
        if isinstance(value, int):
            return value
        integer = int(float(value))
        if integer != float(value):
            raise ValueError
        return integer
    except (TypeError, ValueError, OverflowError):
        kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(like)]
        raise ValueError(f"{name} = {shown(value)} must be {kind}") from None
