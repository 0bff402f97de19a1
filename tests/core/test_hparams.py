"""Hyperparameters: ranges, names, what is read, and that they are a pytree; presets: that every row can be used."""

import math
import re

import flax.struct
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxpg
from jaxpg.algorithms import presets
from jaxpg.core.hparams import HParams, check_ranges, check_read, hyperparameter, reads, round_to, unknown_name
from jaxpg.core.hparams import given as given_values
from jaxpg.core.types import TrainState


@flax.struct.dataclass
class KLHParams(HParams):
    beta: float | None = hyperparameter("weight of the KL penalty", 0.0)


@pytest.mark.parametrize(
    ("name", "value", "interval"),
    [
        ("gamma", 1.01, r"\[0, 1\]"),
        ("gamma", -0.1, r"\[0, 1\]"),
        ("gae_lambda", float("nan"), r"\[0, 1\]"),
        ("clip_eps", 0.0, r"\(0, inf\)"),
        ("max_kl", -1.0, r"\(0, inf\)"),
        ("learning_rate", -1e-3, r"\[0, inf\)"),
        ("learning_rate", float("inf"), r"\[0, inf\)"),
        ("baseline", float("-inf"), r"\(-inf, inf\)"),
        ("reward_scale", 0, r"\(0, inf\)"),
    ],
)
def test_a_value_out_of_range_is_refused(name, value, interval):
    message = rf"^{name} = {value:g} is out of range; it must lie in {interval}$"
    for number in (value, jnp.float32(value)):
        with pytest.raises(ValueError, match=message):
            check_ranges(HParams(**{name: number}))


@pytest.mark.parametrize(
    ("name", "value", "becomes", "interval"),
    [
        ("learning_rate", 1e39, "inf", r"\[0, inf\)"),
        ("baseline", -1e39, "-inf", r"\(-inf, inf\)"),
        ("clip_eps", 1e-50, "0", r"\(0, inf\)"),
        ("max_kl", 1e-39, "0", r"\(0, inf\)"),  # float32 has such subnormal numbers, compiled programs do not
    ],
)
def test_a_value_that_float32_does_not_have_is_refused_in_a_run_of_float32_only(name, value, becomes, interval):
    hp = HParams(**{name: value})
    message = rf"^{name} = {re.escape(f'{value:g}')} is {becomes} in float32 and out of range; it must lie in {interval}$"
    with pytest.raises(ValueError, match=message):
        check_ranges(hp)
    check_ranges(hp, "float64")


def test_the_smallest_number_that_is_not_zero_is_that_of_compiled_programs():
    for value in (2.0**-126, 1.5 * 2.0**-127):
        is_positive = bool(jax.jit(lambda x: x * 1.0 > 0)(jnp.float32(value)))
        assert is_positive == (round_to(value, "float32") > 0) == (value == 2.0**-126)


@pytest.mark.usefixtures("x64")
def test_an_algorithm_is_checked_in_the_precision_of_its_runs():
    hparams = jaxpg.ppo(jaxpg.make("CartPole-v1"), clip_eps=1e-50, hidden=(2,)).hparams
    with jax.enable_x64(False), pytest.raises(ValueError, match="clip_eps = 1e-50 is 0 in float32"):
        jaxpg.ppo(jaxpg.make("CartPole-v1"), hidden=(2,)).init(jax.random.key(0), hparams)


def test_a_field_of_ones_own_has_its_range():
    check_ranges(KLHParams(beta=0.0))
    with pytest.raises(ValueError, match=r"beta = -1 is out of range; it must lie in \[0, inf\)"):
        check_ranges(KLHParams(beta=-1.0))


@given(st.floats(0, 1), st.floats(1e-6, 1e6))
def test_a_value_in_range_passes(unit, positive):
    check_ranges(HParams(gamma=unit, gae_lambda=unit, clip_eps=positive, learning_rate=positive, baseline=-positive))


def test_traced_values_and_arrays_of_many_pass():
    jax.jit(lambda g: check_ranges(HParams(gamma=g)))(2.0)
    check_ranges(HParams(gamma=jnp.array([0.5, 2.0])))


def test_replace_refuses_unknown_names_and_names_the_nearest():
    hp = HParams(gamma=0.9)
    assert hp.replace(gamma=0.8, clip_eps=0.1) == HParams(gamma=0.8, clip_eps=0.1)
    assert hp.gamma == 0.9
    with pytest.raises(ValueError, match=r"unknown hyperparameter 'gama'; did you mean gamma"):
        hp.replace(gama=0.8)
    assert KLHParams(beta=1.0).replace(gamma=0.5) == KLHParams(beta=1.0, gamma=0.5)


@pytest.mark.parametrize(
    ("name", "known", "end"),
    [("cartpole-v1", ["CartPole-v1", "Breakout"], "did you mean CartPole-v1?"), ("zzz", ["a", "b"], "known: a, b")],
)
def test_unknown_names_are_answered_with_the_nearest_or_with_all(name, known, end):
    message = unknown_name("thing", name, known)
    assert message == f"unknown thing {name!r}; {end}"


@reads("gamma", "clip_eps")
def reader(hp):
    return hp.gamma * hp.clip_eps


def test_a_hyperparameter_that_is_read_must_be_given():
    check_read(HParams(gamma=0.9, clip_eps=0.1), [reader])
    with pytest.raises(ValueError, match=r"^clip_eps is None, but reader reads it; .*clip_eps="):
        check_read(HParams(gamma=0.9), [reader])


def test_a_hyperparameter_that_nobody_reads_is_refused_unless_a_piece_may_read_anything():
    hp = HParams(gamma=0.9, clip_eps=0.1, max_kl=0.5)
    with pytest.raises(ValueError, match=r"^max_kl = 0.5 is not read by this algorithm, which reads clip_eps, gamma"):
        check_read(hp, [reader])
    check_read(hp, [reader, lambda hp: hp.max_kl])
    with pytest.raises(ValueError, match="clip_eps is None"):
        check_read(HParams(gamma=0.9), [reader, lambda hp: hp.max_kl])


@pytest.mark.parametrize(
    "hp", [HParams(gamma=0.5, learning_rate=2.0), KLHParams(gamma=0.5, learning_rate=2.0, beta=3.0)], ids=["HParams", "own"]
)
def test_hyperparameters_are_a_pytree_of_what_is_given(hp):
    assert sorted(jax.tree.leaves(hp)) == sorted(given_values(hp).values())
    doubled = jax.jit(lambda hp: jax.tree.map(lambda x: 2 * x, hp))(hp)
    assert type(doubled) is type(hp)
    assert given_values(doubled) == {name: 2 * value for name, value in given_values(hp).items()}
    gradient = jax.grad(lambda hp: hp.gamma**2 * hp.learning_rate)(hp)
    assert (gradient.gamma, gradient.learning_rate, gradient.max_kl) == (2.0, 0.25, None)
    rows = jax.vmap(lambda g: hp.replace(gamma=g))(jnp.arange(3.0))
    assert rows.gamma.shape == (3,)


def test_gradients_flow_to_a_field_of_ones_own():
    assert jax.grad(lambda hp: hp.beta * hp.gamma)(KLHParams(gamma=0.5, beta=3.0)).beta == 0.5


def test_a_train_state_carries_its_hyperparameters_as_leaves():
    state = TrainState(*[()] * 7, HParams(gamma=0.5), ())
    assert jax.tree.leaves(state) == [0.5]


ROWS = [(algorithm, env) for algorithm, table in presets.PRESETS.items() for env in table]


@pytest.mark.parametrize(("algorithm", "env"), ROWS)
def test_every_preset_can_be_used(algorithm, env):
    options = presets.options(algorithm, None if env == "default" else env)
    hyperparameters = {name: value for name, value in options.items() if name not in presets.SIZES}
    HParams(**hyperparameters)  # every name is one of its fields
    check_ranges(presets.hyperparameters(options))
    assert None not in options.values()
    assert set(options) == set(presets.PRESETS[algorithm]["default"]), "an environment's row may not add an option"
    assert set(options["anneal"]) <= set(hyperparameters)
    assert options["observation"] in ("none", "bounds", "running")
    assert all(options[name] >= 1 for name in ("total_steps", "num_envs"))
    assert (options["num_steps"] == 0) == algorithm.startswith("reinforce"), "0: the time limit of the environment"
    assert options["num_envs"] * options["num_steps"] % options.get("minibatches", 1) == 0
    assert options["total_steps"] >= options["num_envs"] * options["num_steps"]


def test_sizes_and_hyperparameters_have_different_names_and_all_are_used():
    fields = set(HParams.__dataclass_fields__)
    assert not fields & set(presets.SIZES)
    assert set(presets.SIZES) <= {name for table in presets.PRESETS.values() for name in table["default"]}


@pytest.mark.parametrize(
    ("algorithm", "given_options", "message"),
    [
        (
            "ppo",
            {"obs_clip": -1.0, "observation": "running"},
            "obs_clip = -1.0 must be a number of at least 0; 0 does not clip",
        ),
        ("ppo", {"obs_clip": float("nan")}, "obs_clip = nan must be"),
        ("a2c", {"obs_clip": 5.0}, "obs_clip = 5.0 is not read where observation = none"),
        ("a2c", {"warmup": -1}, "warmup = -1 must be a number of updates"),
        ("a2c", {"advantage_norm": "minibatch"}, "advantage_norm = minibatch: the policy of a2c learns from complete rollouts"),
        ("ppo", {"reward_norm": "running", "reward_scale": 0.5}, "reward_scale = 0.5 is not read where reward_norm = running"),
        ("ppo", {"anneal_shape": "cosine"}, "anneal_shape = cosine is not read where anneal is empty"),
        ("ppo", {"anneal": ["target_kl"]}, "anneal = target_kl: it is not read where target_kl = 0"),
        (
            "ppo",
            {"shared": True, "anneal": ["critic_learning_rate"]},
            "anneal = critic_learning_rate: it is not read where the",
        ),
        ("ppo", {"target_kl": 0.02, "desired_kl": 0.01}, "target_kl = 0.02 stops an update before desired_kl = 0.01 lowers"),
        ("a2c", {"target_kl": 0.02}, "target_kl = 0.02 is not read by a2c"),
        ("ppo", {"activation": math.tanh}, r"activation = <built-in function tanh> is a function; give its name"),
        ("ppo", {"hidden": ["64,32"]}, r"hidden = 64,32 must be a list with spaces: 64 32"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(algorithm, given_options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        presets.options(algorithm, None, **given_options)


@pytest.mark.parametrize("name", presets.SWITCHES)
def test_zero_switches_off_and_all_other_values_are_one_program(name):
    def algorithm(value):
        return jaxpg.ppo(jaxpg.make("CartPole-v1"), hidden=(2,), **{name: value})

    off, one, other = map(algorithm, (0, 0.01, 0.02))
    assert (one, hash(one)) == (other, hash(other))
    assert off != one
    assert name not in given_values(off.hparams)
    assert (one.hparams.replace(**{name: None}), given_values(one.hparams)[name]) == (off.hparams, 0.01)
    with pytest.raises(ValueError, match=rf"{name} = -1 is out of range; it must lie in \(0, inf\)"):
        algorithm(-1)


def test_options_go_from_the_general_to_the_given():
    row, general = presets.PRESETS["ppo"]["MountainCar-v0"], presets.PRESETS["ppo"]["default"]
    assert presets.options("ppo", "MountainCar-v0")["reward_scale"] == row["reward_scale"] != general["reward_scale"]
    assert presets.options("ppo", "MyEnv")["reward_scale"] == presets.options("ppo", None)["reward_scale"] == 1.0
    assert presets.options("ppo", "MountainCar-v0", reward_scale=2.0)["reward_scale"] == 2.0
    before = presets.options("ppo", None)
    presets.options("ppo", None, gamma=0.1)["clip_eps"] = 7.0
    assert presets.options("ppo", None) == before


@pytest.mark.parametrize(
    ("algorithm", "given_options", "message"),
    [
        ("pppo", {}, r"^unknown algorithm 'pppo'; did you mean ppo"),
        ("ppo", {"gama": 0.9}, r"^unknown option 'gama'; did you mean gamma"),
        ("ppo", {"max_kl": 0.9}, r"^max_kl = 0.9 is not read by ppo, which reads .*clip_eps"),
        ("reinforce", {"gae_lambda": 0.9}, r"^gae_lambda = 0.9 is not read by reinforce"),
    ],
)
def test_options_refuse_what_does_not_exist_or_is_not_read(algorithm, given_options, message):
    with pytest.raises(ValueError, match=message):
        presets.options(algorithm, None, **given_options)
