import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg import presets
from jaxpg.lab.config import LOG_POINTS, RunConfig, chunk_lengths


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 64))
def test_the_budget_is_rounded_up_to_whole_updates(total, envs, steps):
    config = RunConfig("a2c", options={"total_steps": total, "num_envs": envs, "num_steps": steps})
    assert config.num_updates == math.ceil(total / (envs * steps))
    assert total <= config.env_steps < total + envs * steps


@given(st.integers(1, 10**6))
def test_chunks_add_up_and_are_about_as_many_as_wanted(num_updates):
    lengths = chunk_lengths(num_updates)
    assert sum(lengths) == num_updates
    assert min(LOG_POINTS / 2, num_updates) <= len(lengths) <= 2 * LOG_POINTS
    assert len(set(lengths[:-1])) <= 1
    assert lengths[-1] <= lengths[0]


@pytest.mark.parametrize("algo", presets.ALGORITHMS)
@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])
def test_config_json_repeats_the_run(algo, env):
    config = RunConfig(algo, env, seeds=3, seed=7, run_dir="here", options={"total_steps": 1000, "hidden": (8, 8)})
    stored = json.loads(json.dumps(config.to_dict() | {"device": "a machine", "versions": {}}))
    assert RunConfig.from_dict(stored) == config
    assert config.options == presets.options(algo, env, total_steps=1000, hidden=(8, 8))


def test_values_may_be_text():
    options = {"total_steps": "1e4", "gamma": ".9", "hidden": ["8"], "epochs": 2.0}
    text = RunConfig.from_dict({"algo": "ppo", "seeds": "4", "run_dir": "here", "options": options})
    number = RunConfig(
        "ppo", seeds=4, run_dir="here", options={"total_steps": 10_000, "gamma": 0.9, "hidden": (8,), "epochs": 2}
    )
    assert text == number
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
