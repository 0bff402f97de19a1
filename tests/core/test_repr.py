"""What an algorithm and a state show of themselves: everything that matters, on one screen."""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import given
from jaxpg.envs import FunctionalEnv, with_params

FUNCTIONS = (jaxpg.reinforce, jaxpg.reinforce_baseline, jaxpg.actor_critic, jaxpg.a2c, jaxpg.ppo, jaxpg.trpo)
CART = jaxpg.make("CartPole-v1")
ALGO = jaxpg.ppo(CART, num_envs=4, num_steps=8, hidden=(64, 64))


def lines_of(thing):
    """The lines that it shows; none is too long, none holds an address or an object that says nothing."""
    lines = repr(thing).splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    assert not re.search(r"0x[0-9a-f]{6}|<function|None", repr(thing))
    return lines


def words_of(thing):
    return " ".join(" ".join(lines_of(thing)).split())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("options", [{}, {"network": "lstm", "observation": "running", "reward_norm": "running"}], ids=str)
def test_an_algorithm_shows_its_environment_network_pieces_and_hyperparameters(function, options):
    algo = function(jaxpg.make("Pendulum-v1"), **options)
    words = words_of(algo)
    assert f"num_envs={algo.num_envs}, num_steps={algo.num_steps}" in words
    assert "env LegalActions(Pendulum-v1) network Separate policy " in words
    assert all(part in words for part in ("hidden=(64, 64)", "GaussianHead", *["LSTM(features=64"] * bool(options)))
    pieces = [
        algo.rollout,
        algo.objective,
        algo.critic_loss,
        algo.reduction,
        getattr(algo.advantage, "advantage", algo.advantage),
    ]
    assert all(piece.__name__ in words for piece in pieces)
    assert type(algo.update_rule).__name__ in words
    shown = dict(re.findall(r"(\w+)=([^ ,]+)", words.partition(" hparams ")[2]))
    assert {name: float(value) for name, value in shown.items()} == pytest.approx(given(algo.hparams))


def test_what_other_libraries_and_users_wrote_is_shown_by_name():
    def mine(dist, batch, hp):
        return batch.advantage

    class Plain:
        def __call__(self, trajectory, value, next_value, hp):
            return value, value

    env = with_params(CART, {"gravity": 5.0})
    algo = dataclasses.replace(jaxpg.a2c(env), objective=mine, advantage=Plain(), critic_loss=functools.partial(mine, hp=3))
    words = words_of(algo)
    assert "env WithParams(CartPole-v1, values=(('gravity', 5.0),)) " in words
    assert "objective mine " in words
    assert "advantage Plain() " in words
    assert "critic_loss partial(mine, hp=3) " in words


def test_an_algorithm_with_everything_and_long_names_fits_a_screen():
    class Wide(nn.Module):
        first_width: int = 3
        every_name_is_long: tuple = tuple(range(300))
        another: tuple = ("a text that is not short at all",) * 9
        and_one_more: tuple = ("and another one that is longer than that",) * 9

        @nn.compact
        def __call__(self, obs):
            return Categorical(nn.Dense(2)(obs)), obs[:, 0]

    limits = jnp.linspace(-1.0, 1.0, 300)
    space = spaces.Box(limits - 2.0, limits, (300,))
    env = FunctionalEnv(
        lambda key, params: (limits, limits), lambda *_: None, spaces.Discrete(2), 10, name="long " * 50, obs_space=space
    )
    algo = dataclasses.replace(
        jaxpg.ppo(
            env, network=jaxpg.Shared(Wide()), target_kl=0.5, desired_kl=0.1, value_clip=0.2, warmup=3, sequence_length=4
        ),
        normalizer=jaxpg.normalize.Chain(jaxpg.normalize.BoundedObservation.of(env), jaxpg.normalize.ConstantReward()),
    )
    words = words_of(algo)
    assert " ... " in words
    assert all(f"{name}=" in words for name in given(algo.hparams))


def test_showing_an_algorithm_changes_nothing_of_it():
    other = jaxpg.ppo(CART, num_envs=4, num_steps=8, hidden=(64, 64))
    assert (repr(ALGO), ALGO, hash(ALGO)) == (repr(other), other, hash(other))
    longer = dataclasses.replace(ALGO, num_steps=16)
    assert longer != ALGO
    assert "num_steps=16" in repr(longer)
    faster = dataclasses.replace(ALGO, hparams=ALGO.hparams.replace(learning_rate=0.5))
    assert faster == ALGO, "hyperparameters are no part of the program"
    assert "learning_rate=0.5," in repr(faster)


def test_a_state_shows_updates_and_the_size_of_each_part():
    state, _ = jax.jit(ALGO.update)(ALGO.init(jax.random.key(0)))
    words = words_of(state)
    policy, critic = 5 * 64 + 65 * 64 + 65 * 2, 5 * 64 + 65 * 64 + 65  # (inputs + 1) x outputs of each layer
    total = sum(np.asarray(jax.random.key_data(x) if x is state.key else x).nbytes for x in jax.tree.leaves(state))
    assert words.startswith(f"TrainState: update 1, 4 environments, {total / 1024:.1f} KiB in all params ")
    kib = 4 * (policy + critic) / 1024
    assert f"params {policy + critic:,} numbers, {kib:.1f} KiB (policy {policy:,}, critic {critic:,}) " in words
    assert f"opt_state {2 * (policy + critic) + 2:,} numbers" in words  # Adam: two moments of each, a count for each network
    assert "gravity=9.8, " in words
    assert "clip_eps=0.2, " in words


def test_a_state_of_several_runs_shows_what_one_has_and_the_range_over_all():
    states = jax.vmap(ALGO.init)(jax.random.split(jax.random.key(0), 3))
    rates = jnp.array([0.5, 0.25, 0.125])
    states = states.replace(step=jnp.array([3, 3, 2]), hparams=states.hparams.replace(learning_rate=rates))
    words = words_of(states)
    assert words.startswith("TrainState of 3 runs: update 2 to 3, 4 environments, ")
    assert "params 9,155 numbers" in words
    assert " learning_rate=0.125 to 0.5, " in words


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.eval_shape, jax.make_jaxpr], ids=lambda f: f.__name__)
def test_a_state_without_values_shows_shapes(transform):
    seen = []

    def look(state):
        seen.append(words_of(state))
        return state.step

    states = jax.vmap(ALGO.init)(jax.random.split(jax.random.key(0), 2))
    state = states if transform is jax.vmap else jax.tree.map(lambda x: x[0], states)
    found = transform(look, state) if transform is jax.eval_shape else transform(look)(state)
    assert seen[0].startswith("TrainState: update int32[], 4 environments, ")
    assert "params 9,155 numbers" in seen[0]
    assert "gamma=float32[]" in seen[0]
    if transform is jax.make_jaxpr:
        assert not found.eqns, "it became a part of the program"


def test_a_state_that_holds_no_arrays_can_still_be_shown():
    state = ALGO.init(jax.random.key(0))
    abstract = jax.eval_shape(ALGO.init, jax.random.key(0))
    assert "params 9,155 numbers" in words_of(abstract)
    for other in (0, "data"):  # as for in_axes of vmap, and for shardings
        assert "gamma=" in words_of(jax.tree.map(lambda _, other=other: other, state))
    assert repr(jax.tree.map(lambda _: None, state)).startswith("TrainState: update None")
    donated = jax.tree.map(jnp.copy, state)
    jax.jit(lambda state: jax.tree.map(jnp.copy, state), donate_argnums=0)(donated)
    assert donated.step.is_deleted()
    assert "update int32[], 4 environments" in words_of(donated)
