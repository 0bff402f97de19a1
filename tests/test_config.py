import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg import presets
from jaxpg.lab.config import LOG_POINTS, RunConfig, log_interval


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 64))
def test_the_budget_is_rounded_up_to_whole_updates(total, envs, steps):
    config = RunConfig("a2c", options={"total_steps": total, "num_envs": envs, "num_steps": steps})
    assert config.num_updates == math.ceil(total / (envs * steps))
    assert total <= config.env_steps < total + envs * steps


@given(st.integers(1, 10**6))
def test_log_points_are_about_as_many_as_wanted_and_the_interval_is_the_least_that_will_do(num_updates):
    interval = log_interval(num_updates)
    points = math.ceil(num_updates / interval)
    assert min(LOG_POINTS / 2, num_updates) <= points <= LOG_POINTS
    assert interval == 1 or math.ceil(num_updates / (interval - 1)) > LOG_POINTS


def test_the_interval_of_the_log_is_the_one_that_is_asked_for_if_any_is():
    options = {"total_steps": 16 * 400, "num_envs": 4, "num_steps": 4}
    assert RunConfig("a2c", options=options).log_interval == log_interval(400) == 3
    assert [RunConfig("a2c", log_every=every, options=options).log_interval for every in (1, "7", 10**6)] == [1, 7, 10**6]


@pytest.mark.parametrize("algo", presets.ALGORITHMS)
@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])
def test_config_json_repeats_the_run(algo, env):
    own = {
        "seeds": 3,
        "seed": 7,
        "rng": "threefry2x32",
        "run_dir": "here",
        "log_every": 5,
        "checkpoint_every": 2.5,
        "keep": 3,
        "shard_envs": True,
    }
    config = RunConfig(algo, env, **own, options={"total_steps": 1000, "hidden": (8, 8)})
    stored = json.loads(json.dumps(config.to_dict() | {"device": "a machine", "versions": {}, "flags": {"XLA_FLAGS": ""}}))
    assert {name: stored[name] for name in own} == own
    assert RunConfig.from_dict(stored) == config
    assert config.options == presets.options(algo, env, total_steps=1000, hidden=(8, 8))


def test_values_may_be_text():
    options = {"total_steps": "1e4", "gamma": ".9", "hidden": ["8"], "epochs": 2.0}
    saving = {"log_every": "5", "checkpoint_every": "10", "keep": 3.0}
    text = RunConfig.from_dict({"algo": "ppo", "seeds": "4", "run_dir": "here", "options": options} | saving)
    options = {"total_steps": 10_000, "gamma": 0.9, "hidden": (8,), "epochs": 2}
    number = RunConfig("ppo", seeds=4, run_dir="here", log_every=5, checkpoint_every=10.0, keep=3, options=options)
    assert text == number
    assert [type(x) for x in (text.log_every, text.checkpoint_every, text.keep)] == [int, float, int]
    assert [type(text.options[name]) for name in ("total_steps", "gamma", "epochs")] == [int, float, int]


def test_a_run_directory_is_named_if_none_is_given():
    assert RunConfig("ppo", "MountainCar-v0", seed=3).run_dir.startswith("runs/ppo_MountainCar-v0_seed3_")


def test_a_configuration_is_frozen():
    config = RunConfig("ppo")
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, 3)


BAD = [
    ({"algo": "pppo"}, "unknown algorithm 'pppo'; did you mean ppo"),
    ({"seeds": 0}, "seeds = 0 must be at least 1"),
    ({"seeds": "many"}, "seeds = many must be a whole number"),
    ({"seeds": 2.5}, "seeds = 2.5 must be a whole number"),
    ({"seeds": True}, "seeds = True must be a whole number"),
    ({"seeds": None}, "seeds = None must be a whole number"),
    ({"seed": -1}, "seed = -1 must be at least 0"),
    ({"seed": 2**32}, "seed = 4294967296 must be at most 4294967295"),
    ({"eval_episodes": 0}, "eval_episodes = 0 must be at least 1"),
    ({"log_every": -1}, "log_every = -1 must be at least 0"),
    ({"log_every": 2**31}, "log_every = 2147483648 must be at most 2147483647"),
    ({"log_every": 2.5}, "log_every = 2.5 must be a whole number"),
    ({"checkpoint_every": -0.5}, "checkpoint_every = -0.5 must be at least 0"),
    ({"checkpoint_every": "nan"}, "checkpoint_every = nan must be at least 0"),
    ({"checkpoint_every": "inf"}, "checkpoint_every = inf must be at most 1000000000"),
    ({"checkpoint_every": "often"}, "checkpoint_every = often must be a number"),
    ({"rng": "rbg"}, "unknown rng 'rbg'; known: philox4x32, threefry2x32"),
    ({"rng": 3}, "rng = 3 must be text"),
    ({"keep": 1}, "keep = 1 must be at least 2"),
    ({"keep": 2**31}, "keep = 2147483648 must be at most"),
    ({"keep": True}, "keep = True must be a whole number"),
    ({"shard_envs": "yes"}, "shard_envs = yes must be true or false"),
    ({"options": [1]}, "options = [1] must be names and their values"),
    ({"options": None}, "options = None must be names and their values"),
    ({"run_dir": 3}, "run_dir = 3 must be text"),
    ({"options": {"gamma": 1.5}}, "gamma = 1.5 is out of range"),
    ({"options": {"gamma": "nan"}}, "gamma = nan is out of range"),
    ({"options": {"clip_eps": 0}}, "clip_eps = 0 is out of range"),
    ({"options": {"clip_eps": "a"}}, "clip_eps = a must be a number"),
    ({"options": {"max_kl": 0.1}}, "max_kl = 0.1 is not read by ppo"),
    ({"options": {"gama": 0.9}}, "unknown option 'gama'; did you mean gamma"),
    ({"options": {"total_steps": 0}}, "total_steps = 0 must be at least 1"),
    ({"options": {"total_steps": "inf"}}, "total_steps = inf must be a whole number"),
    ({"options": {"total_steps": 1e15, "num_envs": 1, "num_steps": 1}}, "num_updates = 1000000000000000 must be at most"),
    ({"options": {"num_envs": -4}}, "num_envs = -4 must be at least 1"),
    ({"options": {"epochs": 0}}, "epochs = 0 must be at least 1"),
    ({"options": {"hidden": (64, 0)}}, "hidden = 0 must be at least 1"),
    ({"options": {"hidden": 64}}, "hidden = 64 must be a list"),
    ({"options": {"anneal": "gamma"}}, "anneal = gamma must be a list"),
]


@pytest.mark.parametrize(("given", "says"), BAD, ids=[says for _, says in BAD])
def test_refuses_in_one_line(given, says):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        RunConfig(**({"algo": "ppo"} | given))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
