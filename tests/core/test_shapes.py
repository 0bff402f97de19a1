"""Arrays of a wrong shape or dtype are refused by name when a function is traced, before they broadcast."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import jaxpg
from jaxpg.core import advantages, objectives, returns
from jaxpg.core._shapes import check_floats
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Batch, Trajectory

T, B, N = 5, 2, 6
GOOD, COLUMN, ROW = jnp.ones((T, B)), jnp.ones((T, B, 1)), jnp.ones(B)
HP = HParams(gamma=0.9, gae_lambda=0.9, clip_eps=0.2)


def batch(**changes):
    row = jnp.ones(N)
    columns = dict.fromkeys(("log_prob", "value", "advantage", "target", "weight"), row)
    dist, others = Categorical(jnp.zeros((N, 2))), {"start": jnp.zeros(N, bool), "memory": ()}
    return Batch(obs=row, action=jnp.zeros(N, int), dist=dist, **columns, **others).replace(**changes)


def trajectory():
    fields = dict.fromkeys(Trajectory.__dataclass_fields__, GOOD)
    flags = dict.fromkeys(("terminated", "truncated"), jnp.zeros((T, B), bool))
    return Trajectory(**fields | flags)


RETURNS = {
    "td_error": (returns.td_error, 4),
    "lambda_return": (returns.lambda_return, 4),
    "discounted_return": (returns.discounted_return, 2),
    "n_step_return": (lambda *arrays: returns.n_step_return(*arrays, n=2), 4),
    "generalized_advantage": (returns.generalized_advantage, 5),
}


@pytest.mark.parametrize(
    "wrong", [COLUMN, ROW, jnp.ones((T, B), int), jnp.float32(1.0)], ids=["column", "row", "int", "scalar"]
)
@pytest.mark.parametrize("name", RETURNS)
def test_returns_of_arrays_that_differ(name, wrong):
    function, count = RETURNS[name]
    for place in range(count):
        arrays = [wrong if i == place else GOOD for i in range(count)]
        with pytest.raises(ValueError, match=r"reward, .* must be floats of one shape \[T, \.\.\.\]\]") as caught:
            jax.eval_shape(function, *arrays)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("psi", [advantages.reward_to_go, advantages.one_step_td, advantages.gae, advantages.NStep(2)])
@pytest.mark.parametrize("wrong", [COLUMN, ROW])
def test_advantages_of_values_that_do_not_fit_the_rewards(psi, wrong):
    psi(trajectory(), GOOD, GOOD, HP)
    for value, next_value in ((wrong, GOOD), (GOOD, wrong)):
        with pytest.raises(ValueError, match=r"\[reward, weight, value, next_value must be floats of one shape \[T, B\]\]"):
            psi(trajectory(), value, next_value, HP)


OBJECTIVES = (objectives.policy_gradient, objectives.surrogate, objectives.clipped_surrogate)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_of_advantages_in_a_column(objective):
    with pytest.raises(ValueError, match=r"log_prob, .*advantage must be floats of one shape \[N\]\]"):
        objective(batch().dist, batch(advantage=jnp.ones((N, 1))), HP)


def test_a_critic_loss_and_means_of_columns():
    column = jnp.ones((N, 1))
    with pytest.raises(ValueError, match=r"\[value, target must be floats of one shape \[N\]\]"):
        objectives.squared_error(column, batch(), HP)
    for mean in (objectives.weighted_mean, objectives.deviations, lambda x, w: objectives.sum_over_steps(x, w, 3)):
        with pytest.raises(ValueError, match=r"\[x, weight must be floats of one shape \[.*\]\]"):
            mean(column, jnp.ones(N))


def test_pieces_of_ones_own_that_return_columns():
    def advantage(trajectory, value, next_value, hp):
        psi, target = advantages.gae(trajectory, value, next_value, hp)
        return psi[..., None], target

    def critic_loss(value, batch, hp):
        return objectives.squared_error(value, batch, hp)[:, None]

    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=3, hidden=(2,))
    state = algo.init(jax.random.key(0))
    for pieces, names in (({"advantage": advantage}, "advantage, target, reward"), ({"critic_loss": critic_loss}, "x, weight")):
        with pytest.raises(ValueError, match=rf"\[{names} must be floats of one shape"):
            jax.eval_shape(dataclasses.replace(algo, **pieces).update, state)


def test_any_number_of_axes_may_follow():
    for shape in ((4,), (4, 2), (4, 2, 3)):
        check_floats("[T, ...]", one=jnp.ones(shape), two=jnp.zeros(shape, jnp.bfloat16))
        check_floats("[...]", one=jnp.ones(shape))
    with pytest.raises(ValueError, match=r"\[one must be floats of one shape \[T, B\]\]"):
        check_floats("[T, B]", one=jnp.ones(4))
