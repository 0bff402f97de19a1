"""Steps in two halves against the whole steps of the environments, number by number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.core import _resets as resets
from jaxpg.envs import FunctionalEnv, LegalActions

NAMES = ["CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Catch-bsuite", "Breakout-MinAtar", "DeepSea-bsuite"]
WALK = FunctionalEnv(
    reset_fn=lambda key, params: (lambda x: (x[None], x))(jax.random.uniform(key)),
    step_fn=lambda key, x, action, params: (
        (x + action)[None],
        x + action + 0.1 * jax.random.normal(key),
        x,
        x + action > 3,
    ),
    space=spaces.Discrete(2),
    max_steps=4,
)


class Doubled(FunctionalEnv):
    """Rewards of its own, by way of ``step`` alone."""

    def step(self, key, state, action, params):
        obs, state, reward, *rest = super().step(key, state, action, params)
        return obs, state, 2 * reward, *rest


@dataclasses.dataclass(frozen=True)
class Passing:
    """A wrapper that hands on what it does not define."""

    env: object

    def __getattr__(self, name):
        return getattr(self.env, name)

    def step(self, key, state, action, params):
        obs, state, reward, *rest = self.env.step(key, state, action, params)
        return obs, state, reward - 1.0, *rest


ENVIRONMENTS = {name: jaxpg.make(name) for name in NAMES} | {
    "clipped": LegalActions(jaxpg.make("Pendulum-v1")),
    "functions": WALK,
    "a step of its own": Doubled(**vars(WALK)),
    "wrapped": Passing(WALK),
    "wrapped and clipped": LegalActions(Passing(jaxpg.make("MountainCarContinuous-v0"))),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_both_halves_are_the_step(name):
    env = ENVIRONMENTS[name]
    params, space = env.default_params, env.action_space(env.default_params)
    draw, step = resets.halves(env)

    def both(state, key):
        key, key_action = jax.random.split(key)
        action = space.sample(key_action)
        whole = env.step(key, state, action, params)
        return whole[1], (whole, step(draw(key, params), state, action, params))

    @jax.jit
    def run(key):
        return jax.lax.scan(both, env.reset(key, params)[1], jax.random.split(key, 40))[1]

    whole, parts = run(jax.random.key(3))
    assert set(parts[5]) >= {"final_observation"}
    whole, parts = (((*x[:5], x[5]["final_observation"])) for x in (whole, parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), whole, parts)


@pytest.mark.parametrize(
    ("name", "is_split"),
    {"CartPole-v1": True, "DeepSea-bsuite": False, "functions": True, "a step of its own": False, "wrapped": False}.items(),
)
def test_a_reset_is_drawn_only_where_the_step_is_known(name, is_split):
    env = ENVIRONMENTS[name]
    drawn = resets.halves(env)[0](jax.random.key(0), env.default_params)
    assert (len(jax.tree.leaves(drawn)) > 1) == is_split


def test_no_step_of_a_rollout_draws_anything():
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8)
    state = algo.init(jax.random.key(0))
    loop = jax.make_jaxpr(lambda s: algo.rollout(s.key, algo.env, s.env_params, algo.actor(s), s.loop, 8))(state)
    [choice] = [eqn for eqn in loop.jaxpr.eqns if eqn.primitive.name == "cond"]  # by platform
    branches = [branch.jaxpr.eqns for branch in choice.params["branches"]]
    scans = [eqn for eqns in branches for eqn in eqns if eqn.primitive.name == "scan"]
    assert len(scans) == len(branches) == 2
    for scan in scans:
        assert "random_" not in str(scan.params["jaxpr"])
        assert jnp.shape(scan.outvars[0].aval)[:1] == (2,)
