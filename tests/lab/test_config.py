"""What an experiment may be asked for, from the command line, JSON or Python, and what it comes to."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg import envs
from jaxpg.algorithms import _named, presets
from jaxpg.core.hparams import HParams
from jaxpg.lab.config import LOG_POINTS, MAX_RUNS, Config, log_interval, named_options, parse_vary, product, values
from jaxpg.lab.engine import experiment
from jaxpg.lab.engine.groups import arrange, make_named

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WIDTHS = st.lists(st.integers(1, 10**4), max_size=4).map(tuple)
OWN = {"own": True, "options": {"total_steps": 8}}


def refused(**given):
    """The line with which a configuration is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at by the caller
        Config(**({"algo": "ppo"} | given))
    assert str(caught.value).isprintable(), repr(str(caught.value))
    assert len(str(caught.value)) < 300
    return str(caught.value)


def course(config):
    """The course of the first program of an experiment, and its environment steps per update."""
    group = arrange(config, make_named(config))[0]
    return group.course, group.steps_per_update


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 64))
def test_the_budget_is_rounded_up_to_full_updates(total, num_envs, num_steps):
    options = {"total_steps": total, "num_envs": num_envs, "num_steps": num_steps}
    planned, steps = course(Config("a2c", options=options))
    assert planned.total == math.ceil(total / (num_envs * num_steps))
    assert total <= planned.total * steps < total + num_envs * num_steps


@given(st.integers(1, 10**6))
def test_log_points_are_about_as_many_as_wanted_and_the_interval_is_the_least_that_will_do(num_updates):
    interval = log_interval(num_updates)
    points = math.ceil(num_updates / interval)
    assert min(LOG_POINTS / 2, num_updates) <= points <= LOG_POINTS
    assert interval == 1 or math.ceil(num_updates / (interval - 1)) > LOG_POINTS


def test_the_interval_of_the_log_is_the_one_that_is_asked_for_if_any_is():
    options = {"total_steps": 16 * 400, "num_envs": 4, "num_steps": 4}
    assert course(Config("a2c", options=options))[0].log_every == log_interval(400) == 3
    found = [course(Config("a2c", log_every=every, options=options))[0].log_every for every in (1, "7", 10**6)]
    assert found == [1, 7, 10**6]


@pytest.mark.parametrize("algo", presets.ALGORITHMS)
@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])
def test_config_json_repeats_the_experiment(algo, env):
    given = {
        "seeds": 3,
        "seed": 7,
        "rng": "threefry2x32",
        "matmul_precision": "high",
        "run_dir": "here",
        "eval_episodes": 4,
        "evaluate_every": 6,
        "log_every": 5,
        "log": ("tensorboard",),
        "checkpoint_every": 2.5,
        "keep": 3,
        "batch_size": 5,
        "memory": 0.5,
        "shard_envs": True,
        "parquet": True,
        "base_steps": 500,
        "env_params": {"max_steps_in_episode": 300},
    }
    vary = {"gamma": (0.9, 0.99), "hidden": ((8, 8), ())}
    for varied in ({}, vary, [{"gamma": 0.9}, {"hidden": [4]}]):
        config = Config(algo, env, **given, options={"total_steps": 1000, "hidden": (8, 8)}, vary=varied)
        assert all(field.name in given for field in dataclasses.fields(Config) if field.metadata and field.name != "env")
        stored = json.loads(json.dumps(config.to_dict() | {"device": "a machine", "versions": {}, "flags": {"XLA_FLAGS": ""}}))
        assert {name: stored[name] for name in given} == given | {"log": ["tensorboard"]}
        assert Config.from_dict(stored) == config
        assert config.options == presets.options(algo, env, total_steps=1000, hidden=(8, 8))


def test_values_may_be_text():
    options = {"total_steps": "1e4", "gamma": ".9", "hidden": ["8"], "epochs": 2.0}
    saving = {"log_every": "5", "checkpoint_every": "10", "keep": 3.0, "memory": "1.5", "base_steps": "2"}
    text = Config.from_dict({"algo": "ppo", "seeds": "4", "run_dir": "here", "options": options} | saving)
    options = {"total_steps": 10_000, "gamma": 0.9, "hidden": (8,), "epochs": 2}
    saving = {"log_every": 5, "checkpoint_every": 10.0, "keep": 3, "memory": 1.5, "base_steps": 2}
    number = Config("ppo", seeds=4, run_dir="here", options=options, **saving)
    assert text == number
    assert [type(getattr(text, name)) for name in saving] == [int, float, int, float, int]
    assert [type(text.options[name]) for name in ("total_steps", "gamma", "epochs")] == [int, float, int]


def test_memory_is_in_gib_and_only_zero_means_all_that_is_free():
    assert [Config("ppo", memory=gib).memory_bytes for gib in (0, 1e-10, 0.5, 2)] == [None, 1, 2**29, 2**31]


def test_a_directory_is_named_if_none_is_given_and_no_two_have_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config("ppo", "MountainCar-v0", seed=3)
    found = {experiment.make_directory(config) for _ in range(3)}
    assert len(found) == 3
    assert all(path.is_dir() and path.parent == Path("runs") for path in found)
    assert all(path.name.startswith("ppo_MountainCar-v0_seed3_") for path in found)


def test_a_configuration_is_frozen():
    config = Config("ppo")
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, 3)


BAD = [
    ({"algo": "pppo"}, "unknown algorithm 'pppo'; did you mean ppo"),
    ({"algo": ["ppo"]}, "unknown algorithm"),
    ({"env": "../up"}, "env = ../up is not the name of an environment, e.g. CartPole-v1"),
    ({"env": "brax/../up"}, "env = brax/../up is not the name of an environment, e.g. CartPole-v1"),
    ({"env": ""}, "env = '' is not the name of an environment"),
    ({"own": "yes"}, "own = yes must be true or false"),
    ({"seeds": 0}, "seeds = 0 must be at least 1"),
    ({"seeds": "many"}, "seeds = many must be a whole number"),
    ({"seeds": 2.5}, "seeds = 2.5 must be a whole number"),
    ({"seeds": True}, "seeds = True must be a whole number"),
    ({"seeds": None}, "seeds = None must be a whole number"),
    ({"seeds": 10**10}, "seeds = 10000000000 must be at most 1048576"),
    ({"seed": -1}, "seed = -1 must be at least 0"),
    ({"seed": 2**32}, "seed = 4294967296 must be at most 4294967295"),
    ({"eval_episodes": 0}, "eval_episodes = 0 must be at least 1"),
    ({"evaluate_every": -1}, "evaluate_every = -1 must be at least 0"),
    ({"log_every": -1}, "log_every = -1 must be at least 0"),
    ({"log_every": 2**31}, "log_every = 2147483648 must be at most 2147483647"),
    ({"log_every": 2.5}, "log_every = 2.5 must be a whole number"),
    ({"log": "tensorboard"}, "log = tensorboard must be a list"),
    ({"log": [3]}, "log = 3 must be text"),
    ({"checkpoint_every": -0.5}, "checkpoint_every = -0.5 must be at least 0"),
    ({"checkpoint_every": "nan"}, "checkpoint_every = nan must be at least 0"),
    ({"checkpoint_every": "inf"}, "checkpoint_every = inf must be at most 1000000000"),
    ({"checkpoint_every": "often"}, "checkpoint_every = often must be a number"),
    ({"memory": -1}, "memory = -1 must be at least 0"),
    ({"memory": "nan"}, "memory = nan must be at least 0"),
    ({"base_steps": -1}, "base_steps = -1 must be at least 0"),
    ({"base_steps": "x"}, "base_steps = x must be a whole number"),
    ({"rng": "rbg"}, "rng = rbg must be philox4x32 or threefry2x32"),
    ({"rng": 3}, "rng = 3 must be text"),
    ({"matmul_precision": "tf32"}, "matmul_precision = tf32 must be one of default, high, highest"),
    ({"matmul_precision": None}, "matmul_precision = None must be text"),
    ({"keep": 1}, "keep = 1 must be at least 2"),
    ({"keep": 2**31}, "keep = 2147483648 must be at most"),
    ({"keep": True}, "keep = True must be a whole number"),
    ({"shard_envs": "yes"}, "shard_envs = yes must be true or false"),
    ({"options": [1]}, "options = [1] must be names and their values"),
    ({"options": None}, "options = None must be names and their values"),
    ({"options": {3: 4}}, "options = {3: 4} must be names and their values"),
    ({"run_dir": 3}, "run_dir = 3 must be text"),
    ({"env_params": {"length": np.ones(2)}}, "number; one for each environment is what algo.init(key, env_params=...)"),
    ({"options": {"gamma": 1.5}}, "gamma = 1.5 is out of range"),
    ({"options": {"gamma": "nan"}}, "gamma = nan is out of range"),
    ({"options": {"clip_eps": 0}}, "clip_eps = 0 is out of range"),
    ({"options": {"clip_eps": "a"}}, "clip_eps = a must be a number"),
    ({"options": {"max_kl": 0.1}}, "max_kl = 0.1 is not read by ppo"),
    ({"algo": "trpo", "options": {"shared": ""}}, "shared is not read by trpo"),
    ({"options": {"gama": 0.9}}, "unknown option 'gama'; did you mean gamma"),
    ({"options": {"total_steps": 0}}, "total_steps = 0 must be at least 1"),
    ({"options": {"total_steps": "inf"}}, "total_steps = inf must be a whole number"),
    ({"options": {"total_steps": 1e15, "num_envs": 1, "num_steps": 1}}, "num_updates = 1000000000000000 must be at most"),
    ({"options": {"num_envs": -4}}, "num_envs = -4 must be at least 1"),
    ({"options": {"epochs": 0}}, "epochs = 0 must be at least 1"),
    ({"options": {"hidden": (64, 0)}}, "hidden = 0 must be at least 1"),
    ({"options": {"hidden": 64}}, "hidden = 64 must be a list"),
    ({"options": {"anneal": "gamma"}}, "anneal = gamma must be a list"),
    ({"options": {"anneal": ["gama"]}}, "unknown hyperparameter in anneal 'gama'; did you mean gamma"),
]


@pytest.mark.parametrize(("given", "says"), BAD, ids=[says for _, says in BAD])
def test_refuses_in_one_line(given, says):
    assert says in refused(**given)


def test_settings_are_all_combinations_the_last_name_fastest():
    config = Config("ppo", vary={"gamma": "0.9,0.99", "num_envs": "4,8", "learning_rate": (1e-3,)})
    wanted = [(0.9, 4), (0.9, 8), (0.99, 4), (0.99, 8)]
    assert config.settings == [{"gamma": gamma, "num_envs": n, "learning_rate": 1e-3} for gamma, n in wanted]
    assert [list(setting) for setting in config.settings] == [["gamma", "num_envs", "learning_rate"]] * 4


def test_an_experiment_that_varies_nothing_has_one_setting():
    assert Config("ppo").settings == [{}]


def test_settings_may_be_listed_each_with_names_of_its_own():
    listed = Config("ppo", vary=[{"gamma": "0.9"}, {"hidden": [8], "gamma": 0.99}, {}])
    assert listed.settings == [{"gamma": 0.9}, {"hidden": (8,), "gamma": 0.99}, {}]


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(), min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_product_counts_like_an_odometer(vary):
    found = product(vary)
    shape = [len(v) for v in vary.values()]
    assert len(found) == np.prod(shape)
    for number, setting in enumerate(found):
        digits = np.unravel_index(number, shape)
        assert setting == {name: vary[name][digit] for name, digit in zip(vary, digits, strict=True)}


@given(st.lists(FINITE, min_size=1, max_size=6))
def test_a_list_of_numbers_is_read_as_written(numbers):
    assert values("gamma", ",".join(map(repr, numbers)), 0.99) == numbers


@given(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=6), st.sampled_from([",", ", ", " , "]))
def test_a_list_of_integers_is_read_as_written(numbers, comma):
    found = values("num_envs", comma.join(map(str, numbers)), 8)
    assert found == numbers
    assert {type(number) for number in found} == {int}


@given(st.lists(WIDTHS, min_size=1, max_size=5))
def test_a_list_of_widths_is_read_as_written(widths):
    text = ",".join("x".join(map(str, item)) or "none" for item in widths)
    assert values("hidden", text, (64, 64)) == widths


@pytest.mark.parametrize("algo", presets.ALGORITHMS)
def test_every_hyperparameter_may_be_annealed_or_none(algo):
    """Some have an x in their name, which stands between numbers only."""
    known = presets.options(algo, "CartPole-v1").keys()
    used = {name: value for name, value in {"target_kl": 0.1, "desired_kl": 0.01, "value_clip": 0.2}.items() if name in known}
    seen = set()
    for shared in {False, "shared" in known}:
        options = used | ({"shared": True} if shared else {})
        unread = presets.unread(presets.options(algo, "CartPole-v1", **options))
        names = sorted((HParams.__dataclass_fields__.keys() & known) - unread.keys())
        config = Config(algo, options=options, vary={"anneal": ",".join(["none", *names, " ".join(names)])})
        assert config.vary["anneal"] == ((), *((name,) for name in names), tuple(names))
        seen.update(names)
    assert seen == HParams.__dataclass_fields__.keys() & known


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(2, 50))
def test_a_linear_range_is_numpys_to_twelve_digits(low, high, count):
    found = values("baseline", f"lin:{low!r}:{high!r}:{count}", 0.0)
    np.testing.assert_allclose(found, np.linspace(low, high, count), rtol=1e-11, atol=1e-11 * max(abs(low), abs(high)) + 1e-300)
    assert found[0] == pytest.approx(low, rel=1e-11, abs=1e-300)


@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12), st.integers(2, 50))
def test_a_logarithmic_range_is_numpys_to_twelve_digits(low, high, count):
    found = values("learning_rate", f"log:{low!r}:{high!r}:{count}", 1e-3)
    np.testing.assert_allclose(found, np.geomspace(low, high, count), rtol=1e-11)


def test_ranges_have_round_numbers_and_both_ends():
    assert values("learning_rate", "log:1e-4:1e-1:4", 1e-3) == [1e-4, 1e-3, 1e-2, 1e-1]
    assert values("gamma", "lin:1:0.7:4", 0.99) == [1.0, 0.9, 0.8, 0.7]
    assert values("num_envs", "log:4:64:5", 8) == [4, 8, 16, 32, 64]


def test_what_varies_is_read_from_text_as_from_lists():
    text = Config("ppo", vary={"gamma": "0.9, .99", "hidden": "64x32,none", "observation": "none,running"})
    given = {"gamma": [0.9, "0.99"], "hidden": [[64, 32], []], "observation": ("none", "running")}
    assert Config("ppo", vary=given) == text
    assert text.vary == {"gamma": (0.9, 0.99), "hidden": ((64, 32), ()), "observation": ("none", "running")}


def test_one_setting_is_trained_as_the_run_that_it_asks_for():
    options = {"num_steps": 16, "gamma": 0.5}
    config = Config("ppo", seeds=3, options=options, vary={"gamma": "0.9,0.99", "hidden": "8,4x4"})
    assert config.settings[3] == {"gamma": 0.99, "hidden": (4, 4)}
    alone = Config("ppo", seeds=3, options=options | {"gamma": 0.99, "hidden": (4, 4)})
    assert named_options(config, config.settings[3]) == alone.options
    groups = arrange(config, make_named(config))
    assert [list(group.hparams) for group in groups] == [[0, 2], [1, 3]], "a program for each size"
    by_hand = _named.build("ppo", envs.make("CartPole-v1"), **alone.options)
    assert (groups[1].algo.network, groups[1].algo.num_steps) == (by_hand.network, by_hand.num_steps)
    assert groups[1].hparams[3] == by_hand.hparams


def test_of_an_algorithm_of_ones_own_any_name_may_vary_and_numbers_of_numpy_become_numbers_of_json():
    vary = {"gamma": np.linspace(0.9, 1, 3), "epochs": np.arange(2), "width": [[8, 4], 16], "kind": ["a", None, True]}
    config = Config("mine", "a room", **OWN, vary=vary)
    assert config.vary == {"gamma": (0.9, 0.95, 1.0), "epochs": (0, 1), "width": ((8, 4), 16), "kind": ("a", None, True)}
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_vary_is_read_from_the_command_line():
    given = ["gamma=0.9,0.99", "--learning-rate=log:1e-4:1e-2:3", " hidden =64x64,32"]
    assert parse_vary(given) == {"gamma": "0.9,0.99", "learning_rate": "log:1e-4:1e-2:3", "hidden": "64x64,32"}
    assert parse_vary([]) == {}


BAD_TEXT = [
    (["gamma"], "vary 'gamma' must be NAME=VALUES"),
    (["=0.9"], "vary '=0.9' must be NAME=VALUES"),
    (["gamma=0.9", "gamma=0.99"], "vary gamma is given twice"),
    (["learning_rate=1", "learning-rate=2"], "vary learning_rate is given twice"),
]


@pytest.mark.parametrize(("texts", "says"), BAD_TEXT, ids=[says for _, says in BAD_TEXT])
def test_refuses_what_is_not_a_name_and_values(texts, says):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        parse_vary(texts)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_VARY = [
    ({"gamma": ""}, "vary gamma = '' must be values with commas between"),
    ({"gamma": "0.9,,0.99"}, "vary gamma = '0.9,,0.99' must be values"),
    ({"gamma": []}, "vary gamma = '': give every value once, and at least one"),
    ({"gamma": 0.9}, "vary gamma = 0.9 must be a list of values"),
    ({"gamma": "0.9,0.90"}, "vary gamma = 0.9, 0.9: give every value once"),
    ({"gamma": ["0.9", 0.9]}, "vary gamma = 0.9, 0.9: give every value once"),
    ({"hidden": "8,4x4,8"}, "vary hidden = (8,), (4, 4), (8,): give every value once"),
    ({"gamma": "0.9,1.5"}, "gamma = 1.5 is out of range; it must lie in [0, 1]"),
    ({"gamma": "0.9,nan"}, "gamma = nan is out of range"),
    ({"gamma": "high"}, "gamma = high must be a number"),
    ({"gamma": "geo:0.9:1:3"}, "gamma = geo:0.9:1:3 must be a number"),
    ({"num_envs": "4,4.5"}, "num_envs = 4.5 must be a whole number"),
    ({"num_envs": "0,4"}, "num_envs = 0 must be at least 1"),
    ({"num_envs": "lin:4:8:4"}, "num_envs = 5.33333333333 must be a whole number"),
    ({"hidden": "64y"}, "hidden = 64y must be a whole number"),
    ({"hidden": "64x"}, "hidden = '' must be a whole number"),
    ({"hidden": "64x0"}, "hidden = 0 must be at least 1"),
    ({"hidden": "lin:8:16:2"}, "hidden = 8.0 must be a list"),
    ({"gamma": "lin:0.9:1"}, "vary gamma = 'lin:0.9:1' must be lin:LOW:HIGH:COUNT with numbers LOW and HIGH"),
    ({"gamma": "lin:0.9:1:3:4"}, "vary gamma = 'lin:0.9:1:3:4' must be lin:LOW:HIGH:COUNT"),
    ({"gamma": "lin:0.9:1:1"}, "COUNT of at least 2"),
    ({"gamma": "lin:0.9:inf:3"}, "vary gamma = 'lin:0.9:inf:3' must be lin:LOW:HIGH:COUNT"),
    ({"learning_rate": "log:0:1:3"}, "vary learning_rate = 'log:0:1:3' must be log:LOW:HIGH:COUNT with positive LOW and HIGH"),
    ({"learning_rate": "log:1e-3:1e-3:3"}, "vary learning_rate = 0.001, 0.001, 0.001: give every value once"),
    ({"clip_eps": "0.1,0.2"}, "clip_eps = 0.1,0.2 is not read by a2c"),
    ({"gama": "0.9"}, "unknown option 'gama'; did you mean gamma"),
    ({"seeds": "4,8"}, "unknown option 'seeds'"),
    ({"total_steps": "1e15", "num_envs": "1", "num_steps": "1"}, "num_updates = 1000000000000000 must be at most"),
    ({3: [1]}, "vary 3 = [1]: the name of a hyperparameter must be text"),
    ([{"gamma": 0.9}, {"gamma": 1.5}], "gamma = 1.5 is out of range"),
    ([{"gamma": 0.9}, {"clip_eps": 0.2}], "clip_eps = 0.2 is not read by a2c"),
    ([], "vary = [] must be names and their values, or a list of settings"),
    ([3], "vary = [3] must be names and their values, or a list of settings"),
    ("gamma", "vary = gamma must be names and their values, or a list of settings"),
    (3, "vary = 3 must be names and their values, or a list of settings"),
    (None, "vary = None must be names and their values, or a list of settings"),
]


@pytest.mark.parametrize(("vary", "says"), BAD_VARY, ids=[says for _, says in BAD_VARY])
def test_refuses_what_cannot_vary_in_one_line(vary, says):
    assert says in refused(algo="a2c", vary=vary)


BAD_OWN = [
    ({"options": {}}, "total_steps = None must be a whole number"),
    ({"options": {"total_steps": 0}}, "total_steps = 0 must be at least 1"),
    ({"vary": {"width": [{"a": 1}]}}, "vary width = {'a': 1} must be a number, text, or a list of them"),
    ({"vary": [{"width": [8, {8}]}]}, "vary width = {8} must be a number, text, or a list of them"),
    ({"vary": {"policy": [print, len]}}, "vary policy = <built-in function print> must be a number, text, or a list of them"),
    ({"vary": {"a\nb": [{}]}}, r"vary 'a\nb' = {} must be a number, text, or a list of them"),
    ({"vary": {"a\nb": [1, 1]}}, r"vary 'a\nb' = 1, 1: give every value once"),
    ({"vary": {"text": ["x" * 10**6] * 2}}, "give every value once"),
    ({"vary": {"width": 8}}, "vary width = 8 must be a list of values"),
]


@pytest.mark.parametrize(("given", "says"), BAD_OWN, ids=[says for _, says in BAD_OWN])
def test_refuses_what_does_not_fit_to_an_algorithm_of_ones_own(given, says):
    assert says in refused(algo="mine", **OWN | given)


def test_runs_have_a_limit_over_all_settings():
    seeds = MAX_RUNS // 4
    assert Config("ppo", seeds=seeds, vary={"gamma": "lin:0.9:0.99:4"}).seeds == seeds
    says = f"seeds = {seeds} of 5 settings are more than 4,194,304 runs"
    assert refused(seeds=seeds, vary={"gamma": "lin:0.9:0.99:5"}) == says
    assert refused(seeds=seeds, vary=[{"gamma": 0.9}] * 5) == says


def test_an_experiment_that_is_extended_is_the_same_and_keeps_the_interval_of_its_log():
    config = Config("a2c", run_dir="here", options={"total_steps": 64 * 400, "num_envs": 4, "num_steps": 16})
    longer = config.extended(64 * 4000)
    assert [(planned.total, planned.log_every) for planned, _ in map(course, (config, longer))] == [(400, 3), (4000, 3)]
    assert longer.to_dict() == config.to_dict() | {
        "options": dict(config.options) | {"total_steps": 64 * 4000},
        "base_steps": 64 * 400,
    }
    assert longer.extended(64 * 4000) == longer
    assert course(longer.extended(64 * 40_000))[0].log_every == 3, "of the first of all"
    assert course(config.extended(64 * 400 + 1))[0].total == 401, "rounded up"
    assert Config.from_dict(longer.to_dict()) == longer


def test_an_experiment_is_not_made_shorter():
    config = Config("a2c", options={"total_steps": 1000, "num_envs": 4, "num_steps": 16})
    for steps in (1, 960):
        with pytest.raises(ValueError, match=f"^total_steps = {steps} is less than the 1000 of this experiment; give more$"):
            config.extended(steps)
    with pytest.raises(ValueError, match="num_updates"):
        config.extended(2**53)
    with pytest.raises(ValueError, match="total_steps varies in this experiment, so that it cannot be trained further"):
        Config("a2c", vary={"total_steps": "1e3,1e4"}).extended(10**6)
