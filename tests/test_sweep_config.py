"""What ``--vary`` may say, and what it comes to."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpg.lab.engine.sweep_runner import SAME
from jaxpg.lab.sweep_config import SweepConfig, parse_vary, product, values

from jaxpg import presets
from jaxpg.hparams import HParams
from jaxpg.lab.config import RunConfig

FINITE = st.floats(allow_nan=False, allow_infinity=False)
WIDTHS = st.lists(st.integers(1, 10**4), max_size=4).map(tuple)


def test_settings_are_all_combinations_the_last_name_fastest():
    config = SweepConfig(RunConfig("ppo"), {"gamma": "0.9,0.99", "num_envs": "4,8", "learning_rate": (1e-3,)})
    wanted = [(0.9, 4), (0.9, 8), (0.99, 4), (0.99, 8)]
    assert config.settings == [{"gamma": gamma, "num_envs": n, "learning_rate": 1e-3} for gamma, n in wanted]
    assert [list(setting) for setting in config.settings] == [["gamma", "num_envs", "learning_rate"]] * 4


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
def test_a_list_of_whole_numbers_is_read_as_written(numbers, comma):
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
    names = HParams.__dataclass_fields__.keys() & presets.options(algo, "CartPole-v1").keys()
    config = SweepConfig(RunConfig(algo), {"anneal": ",".join(["none", *sorted(names), " ".join(sorted(names))])})
    assert config.vary["anneal"] == ((), *((name,) for name in sorted(names)), tuple(sorted(names)))


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


def test_text_is_read_as_any_other_value():
    text = SweepConfig(RunConfig("ppo"), {"gamma": "0.9, .99", "hidden": "64x32,none", "observation": "none,running"})
    given = {"gamma": [0.9, "0.99"], "hidden": [[64, 32], []], "observation": ("none", "running")}
    assert SweepConfig(RunConfig("ppo"), given) == text
    assert text.vary == {"gamma": (0.9, 0.99), "hidden": ((64, 32), ()), "observation": ("none", "running")}


def test_one_setting_is_the_run_that_it_asks_for():
    base = RunConfig("ppo", seeds=3, run_dir="here", options={"num_steps": 16, "gamma": 0.5})
    config = SweepConfig(base, {"gamma": "0.9,0.99", "hidden": "8,4x4"})
    run = config.at(config.settings[3])
    assert run == RunConfig("ppo", seeds=3, run_dir="here", options={"num_steps": 16, "gamma": 0.99, "hidden": (4, 4)})


def test_what_makes_a_sweep_the_same_survives_json_and_nothing_else_passes_for_it():
    def stored(**changes):
        vary = {"hidden": "8,4x4,none", "critic_learning_rate": "log:1e-4:1e-2:5", "anneal": "none,max_kl gamma"}
        base = {"algo": "trpo", "seeds": 3, "run_dir": "here", "options": {"num_steps": 16}}
        config = SweepConfig(RunConfig(**base | changes.pop("base", {})), vary | changes)
        return json.loads(json.dumps(config.to_dict()))

    once = stored()
    assert set(SAME) <= once.keys()
    assert json.loads(json.dumps(once)) == once == stored()
    assert once["vary"]["hidden"] == [[8], [4, 4], []]
    assert [setting["hidden"] for setting in once["settings"][::10]] == [[8], [4, 4], []]
    for change in (
        {"hidden": "8,4x4"},
        {"critic_learning_rate": "log:1e-4:1e-2:4"},
        {"base": {"seeds": 4}},
        {"base": {"seed": 1}},
        {"base": {"eval_episodes": 4}},
        {"base": {"log_every": 2}},
        {"base": {"env": "Acrobot-v1"}},
        {"base": {"options": {"num_steps": 8}}},
    ):
        other = stored(**change)
        assert any(other[name] != once[name] for name in SAME), change
    for change in ({"run_dir": "there"}, {"checkpoint_every": 1.0}):  # where it lies and how often it is saved change no bit
        assert all(stored(base=change)[name] == once[name] for name in SAME)


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


BAD = [
    ({}, "a sweep needs something to vary"),
    ({"gamma": ""}, "vary gamma = '' must be values with commas between"),
    ({"gamma": "0.9,,0.99"}, "vary gamma = '0.9,,0.99' must be values"),
    ({"gamma": []}, "vary gamma = : give every value once, and at least one"),
    ({"gamma": 0.9}, "gamma = 0.9 must be a list"),
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
]


@pytest.mark.parametrize(("vary", "says"), BAD, ids=[says for _, says in BAD])
def test_refuses_in_one_line(vary, says):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        SweepConfig(RunConfig("a2c"), vary)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
