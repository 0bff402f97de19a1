"""Adapters to other interfaces, on small environments that hold the traps of the real ones: each trap catches a naive adapter.

An environment counts 0, 1, 2, ... and observes the count; it terminates at ``DEATH``, and its time limit is ``LIMIT``. The same
environments from the packages themselves: tests/suites.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces

import jaxpg
from jaxpg import envs
from jaxpg.core import rollout, types
from jaxpg.core.spaces import MultiDiscrete
from jaxpg.envs import FunctionalEnv, _suites

KEY = jax.random.key(0)
DEATH, LIMIT = 5, 3


def play(env: Any, actions: Any, params: Any = None, key: Any = KEY) -> list[tuple]:
    """``(obs, reward, terminated, truncated, final observation)`` of each step."""
    params = env.default_params if params is None else params
    _, state = env.reset(key, params)
    seen = []
    for i, action in enumerate(actions):
        obs, state, reward, terminated, truncated, info = env.step(jax.random.fold_in(key, i), state, action, params)
        row = obs, reward, terminated, truncated, info["final_observation"]
        seen.append(jax.tree.map(lambda x: np.asarray(x).tolist(), row))
    return seen


def counts(rows: list[tuple]) -> list[tuple]:
    """The same without rewards, each observation as its only number."""
    return [(obs[0], terminated, truncated, final[0]) for obs, _, terminated, truncated, final in rows]


CUT = [(1.0, False, False, 1.0), (2.0, False, False, 2.0), (0.0, False, True, 3.0), (1.0, False, False, 1.0)]
DIED = [(1.0, False, False, 1.0), (0.0, True, False, 5.0), (1.0, False, False, 1.0)]


# The interface of Brax


class BraxState(struct.PyTreeNode):
    pipeline_state: Any
    obs: Any
    reward: Any
    done: Any
    metrics: dict = struct.field(default_factory=dict)
    info: dict = struct.field(default_factory=dict)


class Brax:
    """``action`` is added; writes into the dicts of the state, as Playground does, and keeps a key there."""

    action_size = 1

    def reset(self, key: Any) -> BraxState:
        return BraxState(jnp.zeros(1), jnp.zeros(1), jnp.zeros(()), jnp.zeros(()), {"x": 0.0}, {"rng": key, "steps": 0})

    def step(self, state: BraxState, action: Any) -> BraxState:
        x = state.pipeline_state + action
        state.metrics["x"] = x[0]
        state.info["steps"] += 1
        return state.replace(pipeline_state=x, obs=x, reward=x[0], done=jnp.asarray(x[0] >= DEATH, float))


ONE, FOUR = jnp.ones(1), jnp.full(1, 4.0)


def test_of_brax_the_limit_cuts_and_done_terminates():
    env = envs.from_brax(Brax(), LIMIT)
    assert counts(play(env, [ONE] * 4)) == CUT
    assert counts(play(env, [ONE, FOUR, ONE])) == DIED
    assert (envs.time_limit(env, None), env.action_space(None).shape) == (LIMIT, (1,))
    jaxpg.check_env(env, num_steps=64)


def test_a_state_that_brax_writes_into_is_a_copy():
    """A naive adapter passes the state on, and whoever holds it sees it change."""
    brax = Brax()

    def naive_step(key: Any, state: BraxState, action: Any, params: Any) -> tuple:
        state = brax.step(state, action)
        return state.obs, state, state.reward, state.done > 0.5

    good = envs.from_brax(brax, LIMIT)
    naive = dataclasses.replace(good, step_fn=naive_step)
    jaxpg.check_env(good, num_steps=16)
    with pytest.raises(ValueError, match=r"env.step changes the state that it is given"):
        jaxpg.check_env(naive, num_steps=16)


def test_a_repeated_action_adds_rewards_up_and_stops_at_the_end():
    env = envs.from_brax(Brax(), LIMIT, action_repeat=3)
    rows = play(env, [ONE, ONE])
    assert [(reward, terminated, final) for _, reward, terminated, _, final in rows] == [
        (1.0 + 2.0 + 3.0, False, [3.0]),
        (4.0 + 5.0, True, [5.0]),  # the sixth step is not made
    ]


def test_a_wrapper_of_brax_is_refused_because_it_resets_too():
    class Wrapper(Brax):
        env = Brax()

    with pytest.raises(ValueError, match=r"^env is a Wrapper around an environment; pass env.unwrapped, "):
        envs.from_brax(Wrapper(), 10)


def test_a_key_in_the_state_is_of_the_generator_of_the_run():
    algo = jaxpg.a2c(envs.from_brax(Brax(), LIMIT), num_envs=2, num_steps=4, hidden=(4,))
    for generator in ("threefry2x32", "philox4x32"):
        state, _ = jax.jit(algo.update)(algo.init(jax.random.key(0, impl=generator)))
        assert str(jax.random.key_impl(state.loop.env_state[0].info["rng"])).find(generator[:6]) >= 0


def test_arrays_without_numbers_in_a_state_are_trained_through_both_devices():
    """MuJoCo's states have some: contacts of a model that touches nothing."""

    class Empty(Brax):
        def reset(self, key: Any) -> BraxState:
            state = super().reset(key)
            return state.replace(info={**state.info, "contacts": jnp.zeros((0, 3))})

    algo = jaxpg.a2c(envs.from_brax(Empty(), LIMIT), num_envs=2, num_steps=4, hidden=(4,))
    found = jaxpg.sweep(algo, {"gamma": [0.9, 0.99]}, seeds=2, total_steps=16, eval_episodes=2)
    assert found.returns["greedy_return"].shape == (2, 2)


# gymnax before 1.0


class OldParams(struct.PyTreeNode):
    max_timesteps: int = LIMIT


class OldGymnax:
    """Resets itself in ``step``, and ``is_terminal`` is true for both kinds of end."""

    name = "Old"
    default_params = OldParams()

    def reset_env(self, key: Any, params: Any) -> tuple:
        return jnp.zeros(1), {"x": jnp.zeros(1), "time": jnp.int32(0)}

    def step_env(self, key: Any, state: Any, action: Any, params: Any) -> tuple:
        state = {"x": state["x"] + 1.0 + 3.0 * action, "time": state["time"] + 1}
        return state["x"], state, 1.0, self.is_terminal(state, params), {}

    def step(self, key: Any, state: Any, action: Any, params: Any) -> tuple:
        obs, state, reward, done, info = self.step_env(key, state, action, params)
        fresh = self.reset_env(key, params)
        return *jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, (obs, state)), reward, done, info

    def is_terminal(self, state: Any, params: Any) -> Any:
        return (state["x"][0] >= DEATH) | (state["time"] >= params.max_timesteps)

    def action_space(self, params: Any) -> Any:
        return spaces.Discrete(2)

    def observation_space(self, params: Any) -> Any:
        return spaces.Box(0.0, 10.0, (1,))


def test_of_old_gymnax_the_limit_cuts_and_what_is_terminal_without_it_terminates():
    env = envs.from_five_values(OldGymnax())
    assert counts(play(env, [0] * 4)) == CUT
    assert counts(play(env, [0, 1, 0])) == DIED
    jaxpg.check_env(env, num_steps=64, bounds=True)


def test_of_old_gymnax_the_limit_stays_a_parameter():
    env = envs.with_params(envs.from_five_values(OldGymnax()), {"max_timesteps": 2})
    assert envs.time_limit(env, env.default_params) == 2
    assert [row[2] for row in counts(play(env, [0] * 4))] == [False, True, False, True]


def test_an_automatic_reset_below_would_hide_the_final_observation():
    """A naive adapter calls ``step``, which has reset already: the final observation is the next start."""
    old = OldGymnax()

    def naive_step(key: Any, state: Any, action: Any, params: Any) -> tuple:
        obs, state, reward, done, _ = old.step(key, state, action, params)
        return obs, state, reward, done

    good = envs.from_five_values(old)
    finals = [counts(play(dataclasses.replace(good, step_fn=fn), [0] * 3))[-1][-1] for fn in (good.step_fn, naive_step)]
    assert finals == [3.0, 0.0]
    assert counts(play(dataclasses.replace(good, step_fn=naive_step), [0] * 3))[-1][1], "and a cut counts as a termination"


# TimeStep


class TimeStep(struct.PyTreeNode):
    observation: Any
    reward: Any
    discount: Any
    step_type: Any
    state: Any = ()

    def last(self) -> Any:
        return self.step_type == 2


def timestep(x: Any, time: Any, observation: Any, state: Any = ()) -> TimeStep:
    died, cut = x >= DEATH, time >= LIMIT
    return TimeStep(observation, jnp.float32(1.0), jnp.where(died, 0.0, 1.0), jnp.where(died | cut, 2, 1), state)


class XLand:
    """Parameters come first, and hold what is no number."""

    def observation_shape(self, params: Any) -> tuple:
        return 1, 1, 2

    def num_actions(self, params: Any) -> int:
        return 2

    def reset(self, params: Any, key: Any) -> TimeStep:
        return timestep(0, 0, jnp.zeros((1, 1, 2), jnp.uint8), (jnp.int32(0), jnp.int32(0)))

    def step(self, params: Any, now: TimeStep, action: Any) -> TimeStep:
        x, time = now.state[0] + 1 + 3 * action, now.state[1] + 1
        return timestep(x, time, jnp.full((1, 1, 2), x, jnp.uint8), (x, time))


class XLandParams(struct.PyTreeNode):
    max_steps: int = struct.field(pytree_node=False, default=LIMIT)
    render_mode: str = struct.field(pytree_node=False, default="rgb_array")


def test_of_a_timestep_the_discount_tells_a_termination_from_a_cut():
    env = envs.from_xland(XLand(), XLandParams())
    died = [(terminated, truncated) for _, _, terminated, truncated, _ in play(env, [0, 1, 0])]
    cut = [(terminated, truncated) for _, _, terminated, truncated, _ in play(env, [0, 0, 0, 0])]
    assert died == [(False, False), (True, False), (False, False)]
    assert cut == [(False, False), (False, False), (False, True), (False, False)]
    assert isinstance(env.observation_space(None), MultiDiscrete)
    jaxpg.check_env(env, num_steps=64)


class NavixStep(struct.PyTreeNode):
    observation: Any
    reward: Any
    step_type: Any
    t: Any


class NavixSpace(NamedTuple):
    n: Any


class Navix:
    """``step`` resets one step late, and counts cuts as 1 and terminations as 2."""

    max_steps = LIMIT
    action_space = NavixSpace(jnp.int32(2))

    def reset(self, key: Any) -> NavixStep:
        return NavixStep(jnp.zeros(1), jnp.float32(0.0), jnp.int32(0), jnp.int32(0))

    def _step(self, now: NavixStep, action: Any) -> NavixStep:
        x, t = now.observation + 1.0 + 3.0 * action, now.t + 1
        kind = jnp.where(x[0] >= DEATH, 2, jnp.where(t >= self.max_steps, 1, 0))
        return NavixStep(x, jnp.float32(1.0), kind, t)

    def step(self, now: NavixStep, action: Any) -> NavixStep:
        return jax.lax.cond(now.step_type > 0, lambda: self.reset(KEY), lambda: self._step(now, action))


def test_of_navix_an_episode_begins_at_once_and_no_action_is_lost():
    env = envs.from_navix(Navix())
    assert counts(play(env, [0] * 4)) == CUT
    assert counts(play(env, [0, 1, 0])) == DIED
    jaxpg.check_env(env, num_steps=64)


def test_a_naive_adapter_of_navix_resets_late():
    navix = Navix()

    def naive_step(key: Any, state: Any, action: Any, params: Any) -> tuple:
        after = navix.step(state, action)  # also resets, after the step that follows the end
        return after.observation, after, after.reward, after.step_type == 2, after.step_type == 1

    naive = FunctionalEnv(lambda key, params: (jnp.zeros(1), navix.reset(key)), naive_step, spaces.Discrete(2), 10)
    no_reset = dataclasses.replace(naive, max_steps=None)
    state, ended = no_reset.reset(KEY, None)[1], False
    for _ in range(4):  # stepped without our reset, as a loop that trusts Navix does
        obs, state, _, terminated, truncated, _ = no_reset.advance(KEY, state, 0, None)
        if ended:
            assert obs[0] == 0.0, "the step after the end only resets: its action is lost"
        ended = bool(terminated | truncated)


class Spec:
    """A specification of an array, of choices, or of several by name, as Jumanji has them."""

    def __init__(self, shape: Any = (), dtype: Any = jnp.float32, num_values: Any = None, **parts: Any) -> None:
        self.shape, self.dtype, self._specs = shape, jnp.dtype(dtype), parts
        if num_values is not None:
            self.num_values = np.asarray(num_values)
            self.shape, self.dtype = self.num_values.shape, jnp.dtype(jnp.int32)


class Observation(NamedTuple):
    grid: Any
    step_count: Any
    action_mask: Any


class Jumanji:
    """Two choices at once, of 2 and 3; only (1, 2) is legal, and after three steps nothing is."""

    time_limit = LIMIT
    action_spec = Spec(num_values=[2, 3])
    observation_spec = Spec(grid=Spec((1,)), step_count=Spec(num_values=LIMIT + 1), action_mask=Spec((2, 3), bool))

    def observe(self, last: Any, time: Any) -> TimeStep:
        mask = jnp.zeros((2, 3), bool).at[1, 2].set(time < 2)
        x = jnp.where(time >= LIMIT, DEATH, 0)
        return timestep(x, time, Observation(last.astype(float)[None], time, mask))

    def reset(self, key: Any) -> tuple:
        return jnp.int32(0), self.observe(jnp.int32(0), jnp.int32(0))

    def step(self, time: Any, action: Any) -> tuple:
        return time + 1, self.observe(10 * action[0] + action[1], time + 1)


def test_of_jumanji_a_mask_over_combinations_is_respected():
    env = envs.from_jumanji(Jumanji())
    assert env.action_space(None).n == 6
    jaxpg.check_env(env, num_steps=16)
    algo = jaxpg.ppo(env, num_envs=4, num_steps=2, epochs=1, minibatches=1, hidden=(4,))
    loop, trajectory = roll(algo, 2)
    assert np.all(np.asarray(trajectory.action) == 5), "(1, 2)"
    assert trajectory.next_obs["grid"].ravel().tolist() == [12.0] * 8
    assert loop.obs["step_count"].tolist() == pytest.approx([2 / 3] * 4)


def test_of_jumanji_a_state_without_a_legal_action_allows_all():
    env = envs.from_jumanji(Jumanji())
    masks = [final["action_mask"] for *_, final in play(env, [5, 5])]
    assert masks == [[False] * 5 + [True], [True] * 6]


def test_of_jumanji_several_rewards_are_refused():
    class Agents(Jumanji):
        def reset(self, key: Any) -> tuple:
            state, first = super().reset(key)
            return state, first.replace(reward=jnp.zeros(2))

    with pytest.raises(ValueError, match=r"^jumanji gives 2 agents a reward each; jaxpg trains one policy on one reward$"):
        envs.from_jumanji(Agents())


# pgx


class PgxState(struct.PyTreeNode):
    observation: Any
    rewards: Any
    terminated: Any
    truncated: Any
    legal_action_mask: Any


class Pgx:
    """Only the action that is the count modulo 2 is legal."""

    id, num_players, num_actions = "toy", 1, 2

    def init(self, key: Any) -> PgxState:
        return self.at(jnp.zeros(1))

    def at(self, x: Any) -> PgxState:
        mask = jnp.arange(2) == x[0].astype(int) % 2
        return PgxState(x, jnp.ones(1), x[0] >= DEATH, jnp.asarray(False), mask)

    def step(self, state: PgxState, action: Any, key: Any = None) -> PgxState:
        assert key is not None, "randomness is a third argument"
        return self.at(state.observation + 1.0)


def test_of_pgx_the_mask_of_the_state_is_respected_and_the_limit_cuts():
    env = envs.from_pgx(Pgx(), max_steps=LIMIT)
    assert counts(play(env, [0] * 4)) == CUT
    jaxpg.check_env(env, num_steps=64)
    _, trajectory = roll(jaxpg.ppo(env, num_envs=3, num_steps=3, epochs=1, minibatches=1, hidden=(4,)), 3)
    assert trajectory.action.tolist() == [[0] * 3, [1] * 3, [0] * 3]


def test_of_pgx_a_game_of_two_is_refused():
    class Chess(Pgx):
        id, num_players = "chess", 2

    with pytest.raises(ValueError, match=r"^pgx/chess has 2 players"):
        envs.from_pgx(Chess())


# Starts that are shared


def roll(algo: Any, num_steps: int, seed: int = 0) -> tuple:
    """A rollout from a fresh state."""
    state = algo.init(jax.random.key(seed))
    return rollout.continuing(jax.random.key(1), algo.env, state.env_params, algo.actor(state), state.loop, num_steps)


def lottery(interval: int) -> FunctionalEnv:
    """Every start is another number; an episode has three steps."""
    return FunctionalEnv(
        reset_fn=lambda key, params: (x := jax.random.uniform(key, (1,)), x),
        step_fn=lambda key, x, action, params: (x, x, jax.random.uniform(key), False),
        space=spaces.Discrete(2),
        max_steps=3,
        start_interval=interval,
    )


def starts_of(trajectory: types.Trajectory) -> np.ndarray:
    """The number of each episode that begins in a rollout, environment by environment."""
    begins = np.asarray(trajectory.start)
    return np.array([np.asarray(trajectory.obs)[:, i, 0][begins[:, i]] for i in range(begins.shape[1])])


@pytest.mark.parametrize("interval", [1, 6, 100])
def test_an_interval_shares_one_start_in_each_environment_and_the_next_interval_has_another(interval):
    algo = jaxpg.a2c(lottery(interval), num_envs=5, num_steps=12, hidden=(4,))
    found = starts_of(roll(algo, 12)[1])
    assert found.shape == (5, 4)
    assert len(np.unique(found)) == {1: 20, 6: 5 + 5 + 5, 100: 5 + 5}[interval]  # the first was there before the rollout
    assert np.all((found >= 0.0) & (found < 1.0))


def test_starts_that_are_shared_have_the_distribution_of_a_reset():
    """Of 4,000 rollouts the second start is uniform, as the first: mean 1/2, variance 1/12."""
    algo = jaxpg.a2c(lottery(6), num_envs=4000, num_steps=6, hidden=(4,))
    found = starts_of(roll(algo, 6)[1])[:, 1]
    assert found.mean() == pytest.approx(0.5, abs=5 * (1 / 12 / 4000) ** 0.5)
    assert found.var() == pytest.approx(1 / 12, rel=0.06)


def test_without_an_end_the_interval_changes_nothing_but_the_keys():
    """Dynamics without randomness: the same trajectory."""

    def make(interval: int) -> FunctionalEnv:
        return FunctionalEnv(
            lambda key, params: (jnp.zeros(1), jnp.zeros(1)),
            lambda key, x, action, params: (x + 1.0, x + 1.0, x[0], False),
            spaces.Discrete(1),
            50,
            start_interval=interval,
        )

    once, often = (roll(jaxpg.a2c(make(k), num_envs=2, num_steps=12, hidden=(4,)), 12) for k in (4, 1))
    jax.tree.map(np.testing.assert_array_equal, once[1].replace(dist=()), often[1].replace(dist=()))
    jax.tree.map(np.testing.assert_array_equal, once[0], often[0])


def test_an_interval_is_the_largest_divisor_that_is_allowed():
    from jaxpg.core import _resets as resets

    assert [resets.interval(lottery(16), n) for n in (1, 8, 16, 24, 17, 64)] == [1, 8, 16, 12, 1, 16]
    with pytest.raises(ValueError, match=r"^start_interval = 0; at least 1 step has a start$"):
        lottery(0)


def test_an_evaluation_computes_no_start_but_the_first():
    """A reset that sorts: the compiled loop of an evaluation does not."""
    env = FunctionalEnv(
        lambda key, params: (x := jnp.sort(jax.random.normal(key, (7,))), x),
        lambda key, x, action, params: (x, x, 1.0, False),
        spaces.Discrete(2),
        5,
    )
    algo = jaxpg.a2c(env, num_envs=2, num_steps=4, hidden=(4,))
    state = algo.init(KEY)
    evaluation = jaxpg.evaluate.lower(algo, state, KEY, 3, greedy=True).compile().as_text()
    update = jax.jit(algo.update).lower(state).compile().as_text()
    assert [text.count(" sort(") for text in (evaluation, update)] == [1, 1], "at the beginning, and in the rollout"
    assert jaxpg.evaluate(algo, state, KEY, 3, greedy=True)["episode_return"].tolist() == [5.0] * 3


# Names


def test_a_suite_that_is_not_installed_is_one_line_with_what_to_install(monkeypatch):
    monkeypatch.setitem(_suites.SUITES, "none", _suites.Suite("no_such_package", lambda module: (), lambda *given: None))
    with pytest.raises(
        ValueError, match=r"^env = none/\.\.\.: No module named 'no_such_package'; pip install 'jaxpg\[none\]'$"
    ):
        jaxpg.make("none/ant")
    assert not _suites.is_installed("none")


def test_a_misspelt_suite_is_one_line():
    with pytest.raises(ValueError, match=r"^unknown suite of environments 'brx'; did you mean brax\?$"):
        jaxpg.make("brx/ant")
    with pytest.raises(ValueError, match=r"^env_id = 3 is not a name; pass text, e\.g\. 'CartPole-v1'$"):
        jaxpg.make(3)


def test_what_a_package_fails_with_is_one_line(monkeypatch):
    def fail(*given: Any) -> Any:
        raise OSError("cannot\ndownload")

    monkeypatch.setitem(_suites.SUITES, "toy", _suites.Suite("json", lambda module: ["a"], fail))
    with pytest.raises(ValueError, match=r"^env = toy/a: its package raised OSError: .?cannot download.?$"):
        jaxpg.make("toy/a")
    with pytest.raises(ValueError, match=r"^unknown environment 'toy/b'"):
        jaxpg.make("toy/b")
