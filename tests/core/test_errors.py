"""Bad input gets one line that names the field, the value and the fix, before anything runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.algorithms import _named
from jaxpg.core import advantages, objectives, schedules
from jaxpg.core.networks import MLP, CategoricalPolicy, GaussianPolicy
from jaxpg.envs import FunctionalEnv

ENV = jaxpg.make("CartPole-v1")
SMALL = {"num_envs": 4, "num_steps": 4, "hidden": (4,)}


def replace(**pieces: Any) -> Any:
    """A2C with other pieces; ``policy`` and ``critic`` are those of its network."""

    def build() -> jaxpg.Algorithm:
        algo = jaxpg.a2c(ENV, **SMALL)
        nets = {name: x for name, x in pieces.items() if name in ("policy", "critic")}
        others = {name: x for name, x in pieces.items() if name not in nets}
        return dataclasses.replace(algo, network=dataclasses.replace(algo.network, **nets), **others)

    return build


def start(**pieces: Any) -> Any:
    return lambda: replace(**pieces)().init(jax.random.key(0))


def start_with(**hparams: Any) -> Any:
    algo = jaxpg.a2c(ENV, **SMALL)
    return lambda: algo.init(jax.random.key(0), algo.hparams.replace(**hparams))


class Wide(nn.Module):
    """A critic that keeps its trailing axis."""

    @nn.compact
    def __call__(self, obs: Any) -> Any:
        return MLP((1,))(obs)


def changed(**wrong: Any) -> Any:
    """CartPole whose ``step`` returns something else than it should."""

    class Changed:
        default_params = ENV.default_params

        def reset(self, key: Any, params: Any) -> Any:
            return ENV.reset(key, params)

        def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
            names = ("obs", "state", "reward", "terminated", "truncated", "info")
            values = dict(zip(names, ENV.step(key, state, action, params), strict=True))
            values |= {name: change(values[name]) for name, change in wrong.items() if name in values}
            return tuple(values[name] for name in names if name not in wrong.get("without", ()))

    return Changed()


class Endless:
    """An environment that declares nothing."""

    default_params = None
    reset = step = None


BAD = {
    "environment": (lambda: jaxpg.make("CartPol-v1"), "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
    "option": (lambda: _named.build("ppo", ENV, learning_rat=1.0), "unknown option 'learning_rat'; did you mean learning_rate"),
    "unread option": (lambda: _named.build("a2c", ENV, clip_eps=0.1), "clip_eps = 0.1 is not read by a2c, which reads"),
    "hidden hyperparameter": (start_with(clip_eps=0.2), "clip_eps = 0.2 is not read by this algorithm, which reads"),
    "missing hyperparameter": (start_with(gamma=None), "gamma is None, but this algorithm reads it"),
    "unknown hyperparameter": (start_with(gama=0.9), "unknown hyperparameter 'gama'; did you mean gamma"),
    "gamma": (lambda: jaxpg.ppo(ENV, gamma=1.01), r"gamma = 1.01 is out of range; it must lie in \[0, 1\]"),
    "clip_eps": (lambda: jaxpg.ppo(ENV, clip_eps=0.0), r"clip_eps = 0 is out of range; it must lie in \(0, inf\)"),
    "not finite": (start_with(learning_rate=float("nan")), "learning_rate = nan is out of range"),
    "array in a static place": (
        lambda: dataclasses.replace(jaxpg.a2c(ENV), hparams=jaxpg.a2c(ENV).hparams.replace(gamma=jnp.ones(2))),
        r"gamma is not one concrete number; pass arrays and traced values to init\(key, hparams\)",
    ),
    "vector": (start_with(gamma=jnp.ones(3)), r"gamma has shape \(3,\); a run takes one number, vmap over init"),
    "integer for a key": (
        lambda: jaxpg.a2c(ENV, **SMALL).init(0),
        r"key = 0 is not a key; use jax.random.key\(0\), and vmap over init for many",
    ),
    "state of another size": (
        lambda: jaxpg.a2c(ENV, **SMALL | {"num_envs": 8}).update(start()()),
        "the state is one of num_envs = 4, but the algorithm has num_envs = 8",
    ),
    "key in place of a state": (
        lambda: jaxpg.a2c(ENV, **SMALL).update(jax.random.key(0)),
        r"the state is no TrainState; pass what algo.init\(key\) or the last update returned",
    ),
    "module in place of a network": (
        lambda: jaxpg.a2c(ENV, network=CategoricalPolicy(2)),
        r"a Feedforward, without initial_memory; for a module that .* and a value pass network=jaxpg.Shared\(module\)",
    ),
    "env_params": (
        lambda: jaxpg.a2c(ENV, **SMALL).init(jax.random.key(0), env_params=ENV.default_params.replace(length=jnp.ones(3))),
        r"env_params.length has shape \(3,\), but there are num_envs = 4 environments; give one value for each, \(4,\)",
    ),
    "num_envs": (lambda: jaxpg.ppo(ENV, num_envs=0), "num_envs = 0; at least 1 is needed"),
    "num_steps": (lambda: jaxpg.ppo(ENV, num_steps=-1), "num_steps = -1; at least 1 is needed"),
    "epochs": (lambda: jaxpg.ppo(ENV, epochs=0), "epochs = 0; at least 1 is needed"),
    "minibatches": (
        lambda: jaxpg.ppo(ENV, num_envs=4, num_steps=100, minibatches=3),
        r"num_envs \* num_steps = 4 \* 100 = 400 is not divisible by minibatches = 3",
    ),
    "trpo minibatches": (
        lambda: jaxpg.trpo(ENV, num_envs=2, num_steps=5, minibatches=4),
        r"num_envs \* num_steps = 2 \* 5 = 10 is not divisible by minibatches = 4",
    ),
    "observation": (lambda: jaxpg.ppo(ENV, observation="maybe"), "observation = maybe must be none, bounds or running"),
    "bounds": (lambda: jaxpg.ppo(ENV, observation="bounds"), "observation = bounds: CartPole-v1 declares no finite bounds"),
    "unhashable": (replace(regularizers=[objectives.entropy_bonus]), "regularizers is not hashable"),
    "piece without its number": (
        replace(objective=objectives.clipped_surrogate),
        "clip_eps is None, but clipped_surrogate reads it",
    ),
    "number without its piece": (replace(regularizers=()), "entropy_coef = 0.0 is not read by this algorithm"),
    "few actions": (
        start(policy=CategoricalPolicy(3)),
        "policy gives 3 discrete actions, but the environment takes 2 discrete",
    ),
    "continuous policy": (
        start(policy=GaussianPolicy(1)),
        r"policy gives continuous actions of shape \(1,\), but the environment takes 2 discrete actions; "
        r"use e.g. networks.CategoricalHead\(2\)",
    ),
    "discrete policy": (
        lambda: jaxpg.ppo(jaxpg.make("Pendulum-v1"), policy=CategoricalPolicy(2)).init(jax.random.key(0)),
        r"policy gives 2 discrete actions, but the environment takes continuous actions of shape \(1,\); "
        r"use e.g. networks.GaussianHead\(\(1,\)\)",
    ),
    "no distribution": (start(policy=MLP((2,))), "policy must return a distribution"),
    "critic": (
        start(critic=Wide()),
        r"critic must return one value for each observation, but returned \(1,\) for each; drop the trailing axis, e.g. value",
    ),
    "obs dtype": (
        start(env=changed(obs=lambda x: x.astype(jnp.int32))),
        r"changes the observation from float32\[4\] to int32\[4\]",
    ),
    "state dtype": (
        start(env=changed(state=lambda s: s.replace(x=s.x.astype(jnp.float16)))),
        r"env.step changes the state.x from float32\[\] to float16\[\]",
    ),
    "reward shape": (start(env=changed(reward=lambda r: r[None])), r"must return a scalar reward, but its shape is \(1,\)"),
    "no final observation": (start(env=changed(info=lambda info: {})), r"gives no info\['final_observation'\]"),
    "five values": (start(env=changed(without=("truncated",))), "env.step returned 5 values, not"),
    "n-step": (lambda: advantages.NStep(0), "n = 0; an n-step advantage needs n >= 1"),
    "schedule": (lambda: schedules.Linear(("gamma",), 0), "num_updates = 0; a schedule needs at least one update"),
    "long schedule": (
        lambda: schedules.Linear(("gamma",), 2**31),
        r"num_updates = 2147483648; a run has at most 2\*\*31 - 1 updates, make each one larger",
    ),
    "long run": (
        lambda: jaxpg.train(jaxpg.a2c(ENV, **SMALL), jaxpg.a2c(ENV, **SMALL).init(jax.random.key(0)), 2**31),
        r"num_updates = 2147483648; a run has at most 2\*\*31 - 1 updates, make each one larger",
    ),
    "large rollout": (
        lambda: jaxpg.a2c(ENV, num_envs=2**16, num_steps=2**16),
        r"num_envs \* num_steps = 65536 \* 65536 = 4294967296; a rollout has at most 2\*\*31 - 1 rows, make it smaller",
    ),
    "long evaluation": (
        lambda: jaxpg.evaluate(replace()(), start()(), jax.random.key(0), 8, greedy=True, max_steps=2**31),
        r"max_steps = 2147483648; an episode is counted from 1 to 2\*\*31 - 1 steps",
    ),
    "long episode": (
        lambda: FunctionalEnv(lambda k, p: (0, 0), lambda *a: None, spaces.Discrete(2), max_steps=2**31),
        r"max_steps = 2147483648; an episode is counted from 1 to 2\*\*31 - 1 steps",
    ),
    "log_every": (
        lambda: jaxpg.train(jaxpg.a2c(ENV, **SMALL), jaxpg.a2c(ENV, **SMALL).init(jax.random.key(0)), 5, 2),
        "num_updates = 5 must be a multiple of log_every = 2",
    ),
    "num_episodes": (
        lambda: jaxpg.evaluate(replace()(), start()(), jax.random.key(0), 0, greedy=True),
        "num_episodes = 0; at least 1 is needed",
    ),
    "no time limit": (
        lambda: jaxpg.evaluate(replace(env=Endless())(), start()().replace(env_params=None), jax.random.key(0), 8, greedy=True),
        r"declares no time limit \(default_params.max_steps_in_episode\); pass max_steps",
    ),
    "no default policy": (
        lambda: jaxpg.ppo(FunctionalEnv(lambda k, p: (0, 0), lambda *a: None, object(), max_steps=3)),
        "no default policy: the action space is a object; it must be a gymnax space: .*; pass policy=",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_that_says_what_to_do(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def objective_of_a_scalar(dist: Any, batch: Any, hp: Any) -> Any:
    return jnp.mean(dist.log_prob(batch.action))


def test_errors_at_trace_time() -> None:
    algo = dataclasses.replace(jaxpg.a2c(ENV, **SMALL), objective=objective_of_a_scalar)
    with pytest.raises(
        ValueError, match=r"objective_of_a_scalar must return one number per row, shape \(16,\), but returned \(\)"
    ):
        jax.eval_shape(algo.update, algo.init(jax.random.key(0)))
    algo = dataclasses.replace(jaxpg.a2c(ENV, **SMALL), schedule=schedules.Linear(("clip_eps",), 3))
    with pytest.raises(ValueError, match="clip_eps cannot be annealed: this algorithm reads only"):
        jax.eval_shape(algo.update, algo.init(jax.random.key(0)))
    alone = jaxpg.reinforce(ENV, num_envs=1, hidden=(4,))
    algo = dataclasses.replace(alone, advantage=advantages.leave_one_out_baseline)
    with pytest.raises(ValueError, match="num_envs = 1; leave_one_out_baseline needs at least 2 environments"):
        jax.eval_shape(algo.update, algo.init(jax.random.key(0)))
