"""check_env: each rule of the protocol, broken on purpose, is named in one line; what keeps them all passes in silence."""

from __future__ import annotations

from typing import Any

import gymnasium
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces
from gymnax.wrappers import LogWrapper

import jaxpg
from jaxpg.core.spaces import MultiDiscrete, sample
from jaxpg.envs import FunctionalEnv, LegalActions, WithActionMask
from jaxpg.envs import _trial as env_trial


@struct.dataclass
class Limit:
    max_steps_in_episode: int


def number(key: Any) -> Any:
    """A random number in [0, 1) from the key itself: programs with fewer draws compile sooner."""
    return jax.random.key_data(key)[-1].astype(float) / 2.0**32


class Coin(spaces.Discrete):
    def sample(self, key: Any) -> Any:
        return (number(key) * self.n).astype(int)


class Walk:
    """A point on a line, written by hand: starts within 0.5, terminates beyond 1, is cut after 12 steps."""

    default_params: Any = None
    max_steps: Any = 12
    limit = 12

    def __init__(self, **changes: Any) -> None:
        self.changes = changes  # what step returns, by name, through functions

    def action_space(self, params: Any) -> Any:
        return Coin(2)

    def observation_space(self, params: Any) -> Any:
        return spaces.Box(-2.0, 2.0, (1,))

    def start(self, key: Any) -> Any:
        return number(key) - 0.5

    def reset(self, key: Any, params: Any) -> Any:
        x = self.start(key)
        return x[None], {"x": x, "time": jnp.int32(0)}

    def move(self, key: Any, x: Any, action: Any) -> Any:
        return x + 0.4 * action - 0.2

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        x, time = self.move(key, state["x"], action), state["time"] + 1
        fresh, old = self.reset(key, params), (x[None], {"x": x, "time": time})
        terminated, truncated = jnp.abs(x) > 1.0, time >= self.limit
        obs, state = self.begin(terminated | truncated, fresh, old)
        info = {"final_observation": self.final(old[0], obs)}
        names = ("obs", "state", "reward", "terminated", "truncated", "info")
        values = dict(zip(names, (obs, state, -jnp.abs(x), terminated, truncated, info), strict=True))
        values |= {name: change(values[name]) for name, change in self.changes.items() if name in names}
        return tuple(values[name] for name in names if name not in self.changes.get("without", ()))

    def begin(self, done: Any, fresh: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, old)

    def final(self, last: Any, obs: Any) -> Any:
        return last


def walk(params: Any = None, **methods: Any) -> Any:
    """A walk with other methods; those that are None are missing."""
    env = type("Walk", (Walk,), methods)()
    env.default_params = params
    return env


class Unhashable(Walk):
    __hash__: Any = None


class Without:
    """A walk that lacks a part."""

    def __init__(self, part: str) -> None:
        self.part, self.env = part, Walk()

    def __getattr__(self, name: str) -> Any:
        if name == self.part:
            raise AttributeError(name)
        return getattr(self.env, name)


class Leaking(Walk):
    last: Any = None

    def move(self, key: Any, x: Any, action: Any) -> Any:
        before, self.last = self.last, x
        return x + 0.1 * action if before is None else x + before


class Counting(Walk):
    calls = 0

    def move(self, key: Any, x: Any, action: Any) -> Any:
        self.calls += 1
        return x + 0.01 * self.calls


class InPlace(Walk):
    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        state["time"] = state["time"] + 1
        return super().step(key, state, action, params)


class ConstantStart(Walk):
    """Starts at 0 and drifts, so that the time limit finds it elsewhere."""

    def start(self, key: Any) -> Any:
        return jnp.zeros(())

    def move(self, key: Any, x: Any, action: Any) -> Any:
        return x + 0.01 * (1 + action)


class Endless(Walk):
    """Without an end or a time limit; what it says of that are Python's numbers."""

    max_steps, limit = None, 10**6

    def __init__(self) -> None:
        super().__init__(reward=lambda reward: 1, terminated=lambda flag: False, truncated=lambda flag: False)

    def move(self, key: Any, x: Any, action: Any) -> Any:
        return 0.5 * x + 0.2 * action


def branching(self: Any, key: Any, x: Any, action: Any) -> Any:
    return x + 0.1 if x < 0 else x - 0.1


def on_host(self: Any, key: Any, x: Any, action: Any) -> Any:
    return jax.pure_callback(lambda x: np.float32(x + 0.1), jax.ShapeDtypeStruct((), jnp.float32), x)


def at_random_on_host(self: Any, key: Any, x: Any, action: Any) -> Any:
    shape, noise = jax.ShapeDtypeStruct((), jnp.float32), np.random.default_rng()
    return jax.pure_callback(lambda x: noise.random(x.shape, np.float32), shape, x, vmap_method="broadcast_all")


def seeing(space: Any, obs: Any, action_space: Any = None) -> FunctionalEnv:
    """Declares ``space``, and observes ``obs`` all the time."""
    step = lambda key, state, action, params: (obs, state, 0.0, False)  # noqa: E731
    return FunctionalEnv(lambda key, params: (obs, 0), step, action_space or Coin(2), 9, obs_space=space)


def nan_beyond(x: Any) -> Any:
    return jnp.where(jnp.abs(x) > 0.9, jnp.nan, x)


def fresh_obs_only(self: Any, done: Any, fresh: Any, old: Any) -> Any:
    return jnp.where(done, fresh[0], old[0]), old[1]


action_sizes = (1.0, 2.0)


def assigning(self: Any, key: Any, x: Any, action: Any) -> Any:
    moved = jnp.stack([x, x])
    moved[0] = action
    return moved[0]


BROKEN = {
    "a class": (Walk, r"Walk is a class; pass an instance, e.g. Walk\(\)"),
    "a name": ("CartPole-v1", r"env = 'CartPole-v1' is a name; pass jaxpg.make\('CartPole-v1'\)"),
    "gymnax.make": ((Walk(), None), "env is a tuple, as gymnax.make returns it; pass its first item"),
    "Gymnasium": (gymnasium.make("CartPole-v1"), "is a TimeLimit of Gymnasium, whose steps run in Python; pass one in JAX"),
    "default_params": (Without("default_params"), "Without has no default_params; add them, None where there are none"),
    "reset": (walk(reset=None), "Walk has no method reset; add it"),
    "step": (Without("step"), "Without has no method step; add it"),
    "action_space": (Without("action_space"), r"no method action_space; add it, or pass sample_action=lambda key: ..."),
    "hash": (Unhashable(), "Unhashable is not hashable .*; keep arrays, lists and dicts out of its fields"),
    "params": (walk({"size": "big"}), r"params\['size'\] = 'big' is not a number or an array; make it an attribute of the env"),
    "params as sizes": (
        walk({"n": 3}, reset=lambda self, key, params: (jnp.zeros(params["n"]), 0)),
        r"env.reset cannot be compiled: .* \(<lambda>, line \d+ of test_env_check.py\); .* fixed sizes",
    ),
    "reset's pair": (walk(reset=lambda self, key, params: jnp.zeros(1)), r"not the pair \(obs, state\); return both"),
    "six values": (Walk(without=("truncated",)), r"env.step returned 5 values, not \(obs, .*; gymnax >= 1.0 does"),
    "info": (Walk(info=lambda info: None), r"env.step gives no info\['final_observation'\], .*; add it"),
    "final_observation": (Walk(info=lambda info: {}), r"env.step gives no info\['final_observation'\], .*; add it"),
    "its shape": (
        Walk(info=lambda info: {"final_observation": info["final_observation"][0]}),
        r"info\['final_observation'\] against the observation from float32\[1\] to float32\[\]; cast or reshape it",
    ),
    "obs dtype": (Walk(obs=lambda x: x.astype(int)), r"changes the observation from float32\[1\] to int32\[1\]; cast"),
    "obs shape": (Walk(obs=lambda x: x[None]), r"changes the observation from float32\[1\] to float32\[1, 1\]; .* reshape it"),
    "state structure": (Walk(state=lambda s: s | {"more": 0}), "changes the structure of the state; return the same pytree"),
    "state dtype": (Walk(state=lambda s: s | {"x": 0}), r"changes the state\['x'\] from float32\[\] to int32\[\]; cast"),
    "reward shape": (Walk(reward=lambda r: r[None]), r"must return a scalar reward, but its shape is \(1,\); squeeze it"),
    "reward dtype": (Walk(reward=lambda r: r > 0), r"returns reward as bool, not a number; cast it, e.g. .astype\(float\)"),
    "flag dtype": (Walk(truncated=lambda x: 1.0 * x), "returns truncated as float32, not bool; compare it, e.g. truncated > 0"),
    "flag shape": (Walk(terminated=lambda x: x[None]), r"must return a scalar terminated, but its shape is \(1,\); squeeze it"),
    "a branch": (
        walk(move=branching),
        r"env.step cannot be compiled: Python needs the value of a traced array \(branching, line \d+ of test_env_check.py\); "
        r"use jnp.where or jax.lax.cond instead of if",
    ),
    "numpy": (walk(move=lambda self, key, x, action: np.sin(x)), "env.step cannot be compiled: .* jnp instead of numpy"),
    "float": (walk(start=lambda self, key: jnp.float32(float(number(key)))), "env.reset cannot be compiled"),
    "a tuple and an array": (
        walk(move=lambda self, key, x, action: action_sizes + x),
        r"env.step fails with TypeError: unsupported operand .* 'tuple' and .* \(<lambda>, line \d+ of test_env_check.py\)",
    ),
    "item assignment": (walk(move=assigning), r"env.step fails with TypeError: .*immutable.*\.at\["),
    "its own error": (
        walk(move=lambda self, key, x, action: {}["speed"]),
        r"env.step fails with KeyError: 'speed' \(<lambda>, line \d+ of test_env_check.py\); it must work under jit and vmap",
    ),
    "vmap": (walk(move=on_host), "env.step under vmap fails with NotImplementedError: .*; it must work under jit and vmap"),
    "state in place": (InPlace(), r"env.step changes the state that it is given; change a copy, e.g. \{\*\*state, ...\}"),
    "state outside": (Leaking(), "uses an array that an earlier call left outside of the state; return in the state what"),
    "numpy's random": (
        walk(start=lambda self, key: jnp.float32(np.random.default_rng().random())),
        "the same key gives another result the second time; draw with jax.random from the key",
    ),
    "random on the host": (
        walk(move=at_random_on_host),
        "the same key gives another result the second time; draw with jax.ran",
    ),
    "count of calls": (Counting(), "the same key gives another result the second time; .* keep in the state what changes"),
    "nan at once": (
        walk(start=lambda self, key: jnp.log(number(key) - 0.5)),
        "env.reset gives an obs.* not finite",
    ),
    "nan in obs": (Walk(obs=nan_beyond), "random steps the observation is not finite; bound it, or end the episode"),
    "inf in final obs": (
        Walk(info=lambda info: {"final_observation": 1.0 / jnp.maximum(0.9 - info["final_observation"], 0.0)}),
        "random steps the observation is not finite",
    ),
    "inf in reward": (
        Walk(reward=lambda r: jnp.where(r < -0.9, -jnp.inf, r)),
        "random steps the reward is not finite; bound it",
    ),
    "nan in state": (Walk(state=lambda s: s | {"x": nan_beyond(s["x"])}), "random steps the state holds nan; look in env.step"),
    "final obs midway": (
        Walk(info=lambda info: jax.tree.map(jnp.zeros_like, info)),
        r"no episode ended, but info\['final_observation'\] is not the observation; set it to the observation before the",
    ),
    "no reset": (
        type("Walk", (ConstantStart,), {"begin": lambda self, done, fresh, old: old})(),
        r"no new episode begins: at \d+ ends obs is the final observation; return the observation and the state of env.reset",
    ),
    "no reset, and back by itself": (
        walk(begin=lambda self, done, fresh, old: old),
        r"\d+ of \d+ later episodes ended at once",
    ),
    "final obs too late": (
        walk(final=lambda self, last, obs: obs),
        r"at \d+ ends info\['final_observation'\] is the next episode's first observation; keep the observation before",
    ),
    "the same, from constant starts": (
        type("Walk", (ConstantStart,), {"final": lambda self, last, obs: obs})(),
        r"at \d+ ends info\['final_observation'\] is the next episode's first observation; keep the observation before",
    ),
    "obs is reset, state is not": (
        walk(begin=fresh_obs_only, max_steps=None),
        r"\d+ of \d+ later episodes ended at once, but not those after env.reset; return the state of env.reset where",
    ),
    "a mask's shape": (
        walk(action_mask=lambda self, state, params: jnp.ones(3, bool)),
        r"env.action_mask must give bool\[2\], a boolean for each action, but gives bool\[3\]",
    ),
    "a mask's dtype": (
        walk(action_mask=lambda self, state, params: jnp.ones(2)),
        r"env.action_mask must give bool\[2\], a boolean for each action, but gives float32\[2\]",
    ),
    "an empty mask": (
        walk(action_mask=lambda self, state, params: jnp.array([True, False]) & (state["time"] < 3)),
        "after 4 random steps env.action_mask allows no action at all; end the episode before that",
    ),
    "no action space": (
        walk(action_space=lambda self, params: 2),
        "env.action_space: space is a int; it must be a gymnax space: .*, or pass sample_action=lambda key: ...",
    ),
    "bounds of actions": (
        walk(action_space=lambda self, params: spaces.Dict({"turn": spaces.Box(1.0, -1.0, ())})),
        r"env.action_space: space\['turn'\] has a bound that is NaN, or a lower one above the upper",
    ),
    "a declared number of a state": (
        walk(observation_space=lambda self, params: spaces.Discrete(2)),
        r"env.observation_space declares shape \(\), but an observation has \(1,\); declare that",
    ),
    "a declared tree": (
        walk(observation_space=lambda self, params: spaces.Dict({"x": spaces.Box(-2, 2, (1,))})),
        r"env.observation_space declares PyTreeDef\({'x': \*}\), but an observation has PyTreeDef\(\*\); declare that",
    ),
    "a declared shape in a tree": (
        seeing(spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))]), (jnp.int32(0), jnp.zeros(3))),
        r"env.observation_space declares shape \(2,\) at \[1\], but an observation has \(3,\); declare that",
    ),
    "a declared dtype in a tree": (
        seeing(spaces.Dict({"mask": spaces.Box(0, 1, (2,), bool)}), {"mask": jnp.zeros(2)}),
        r"declares bool at \['mask'\], but an observation has float32; declare that, or cast the observation",
    ),
    "a float among integers": (
        seeing(spaces.Discrete(3), jnp.float32(0)),
        r"declares int32, but an observation has float32; declare that, or cast the observation",
    ),
    "time limit": (
        walk(Limit(11), max_steps=None),
        "an episode outlasts the declared time limit of 11 steps; set truncated on step 11",
    ),
    "no end": (type("Walk", (Endless,), {"max_steps": 12})(), "an episode outlasts the declared time limit of 12 steps"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_named_with_its_fix_in_one_line(rule: str) -> None:
    env, message = BROKEN[rule]
    with pytest.raises(ValueError, match=message) as caught:
        jaxpg.check_env(env)
    assert "\n" not in str(caught.value)


def test_every_rule_of_a_step_is_broken_above() -> None:
    found = " ".join(message for _, message in BROKEN.values())
    assert all(text.split(";")[0] in found for name, text in env_trial.EVERY_STEP.items() if name != "inside")


def test_the_error_of_a_user_s_function_keeps_its_cause_and_that_of_jax_does_not() -> None:
    with pytest.raises(ValueError, match="KeyError") as caught:
        jaxpg.check_env(BROKEN["its own error"][0])
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="traced") as caught:
        jaxpg.check_env(BROKEN["a branch"][0])
    assert caught.value.__suppress_context__


DECLARED = [
    (None, "Walk has no method observation_space; add it, or leave out bounds"),
    (
        lambda self, params: spaces.Box(-2, 2, (2,)),
        r"env.observation_space declares shape \(2,\), but an observation has \(1,\)",
    ),
    (
        lambda self, params: spaces.Box(-1, 1, (1,)),
        "random steps the observation lies outside env.observation_space; widen its",
    ),
    (
        lambda self, params: spaces.Box(-2, 2, (1,), jnp.int32),
        "env.observation_space declares int32, but an observation has float32; declare that, or cast the observation",
    ),
    (lambda self, params: "a line", "env.observation_space: space is a str; it must be a gymnax space"),
    (
        lambda self, params: spaces.Space.sample(self, params),  # what gymnax's base class does
        "Walk.observation_space declares nothing; add it, or leave out bounds",
    ),
]


def test_all_leaves_of_declared_bounds_are_judged() -> None:
    obs = {"flag": jnp.array(True), "place": (jnp.int32(3), jnp.array([0.5, 1.5]))}
    for most, category, fits in ((2.0, 4, True), (1.0, 4, False), (2.0, 3, False)):
        place = spaces.Tuple([spaces.Discrete(category), spaces.Box(0.0, most, (2,))])
        env = seeing(spaces.Dict({"flag": spaces.Box(0, 1, (), bool), "place": place}), obs)
        jaxpg.check_env(env)
        if fits:
            jaxpg.check_env(env, bounds=True)
        else:
            with pytest.raises(ValueError, match=r"the observation lies outside env.observation_space"):
                jaxpg.check_env(env, bounds=True)


def test_actions_are_tried_as_the_space_has_them_and_as_training_sends_them() -> None:
    """An environment of integers sees integers either way; one that needs floats is found out by the first."""
    seen: list[Any] = []

    def step(key: Any, state: Any, action: Any, params: Any) -> Any:
        seen.append(jax.tree.map(lambda x: x.dtype.name, action))
        return jnp.zeros(1), state, 1.0 * (action["gear"][0] == 3), False

    space = spaces.Dict({"gear": spaces.Box(0, 4, (1,), jnp.int32), "turn": MultiDiscrete([2, 3])})
    env = FunctionalEnv(lambda key, params: (jnp.zeros(1), jnp.zeros(())), step, space, 3)
    jaxpg.check_env(env)
    assert {tuple(sorted(x.items())) for x in seen} == {(("gear", "int32"), ("turn", "int32"))}
    received: list[Any] = []

    class Raw(FunctionalEnv):  # legalizes by itself
        def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
            received.append(action["gear"].dtype.name)
            return super().step(key, state, {**action, "gear": action["gear"].astype(int)}, params)

    jaxpg.check_env(LegalActions(Raw(**vars(env))))
    assert set(received) == {"int32"}


def test_random_actions_obey_the_mask_and_reach_all_that_it_allows() -> None:
    mask = jnp.array([False, True, True, False])
    actions = jax.vmap(lambda key: env_trial.random_action(spaces.Discrete(4), key, mask))(
        jax.random.split(jax.random.key(0), 99)
    )
    assert set(actions.tolist()) == {1, 2}

    def step(key: Any, state: Any, action: Any, params: Any) -> Any:
        return jnp.where(mask[action], jnp.zeros(1), jnp.nan), state, 0.0, False

    env = FunctionalEnv(lambda key, params: (jnp.zeros(1), 0), step, spaces.Discrete(4), 9, mask_fn=lambda state, params: mask)
    jaxpg.check_env(env)
    jaxpg.check_env(WithActionMask(env))
    with pytest.raises(ValueError, match="the observation is not finite"):
        jaxpg.check_env(WithActionMask(env), sample_action=lambda key: jax.random.randint(key, (), 0, 4))


@pytest.mark.parametrize(("space", "message"), DECLARED)
def test_declared_bounds_are_judged_when_asked_for(space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jaxpg.check_env(walk(observation_space=space), bounds=True)


def test_the_number_of_steps() -> None:
    with pytest.raises(ValueError, match="num_steps = 0; at least 1 is needed"):
        jaxpg.check_env(Walk(), num_steps=0)
    jaxpg.check_env(walk(max_steps=11), num_steps=11)  # too few to see that an episode goes on


def test_params_of_one_s_own_declare_the_time_limit() -> None:
    jaxpg.check_env(walk(Limit(11), max_steps=None), Limit(12))


def docstring_walk() -> FunctionalEnv:
    """Every episode starts at 0 and ends at 3."""
    return FunctionalEnv(
        reset_fn=lambda key, params: (jnp.zeros(1), jnp.zeros(())),
        step_fn=lambda key, x, action, params: ((x + action)[None], x + action, 1.0, x + action >= 3),
        space=Coin(2),
        max_steps=10,
    )


def guess() -> FunctionalEnv:
    """Episodes of one step, whose last observation is the first; a start is one of two."""

    def reset(key: Any, params: Any) -> Any:
        sign = jnp.sign(number(key) - 0.5)[None]
        return sign, sign

    return FunctionalEnv(reset, lambda k, x, action, p: (x, x, 1.0 * (x[0] == action), True), Coin(2), max_steps=2)


def bandit() -> FunctionalEnv:
    """Nothing to see, and cut after one step."""
    reset = (jnp.zeros(1), jnp.zeros(()))
    return FunctionalEnv(lambda key, params: reset, lambda k, x, action, p: (*reset, action, False), Coin(2), max_steps=1)


def round_trip() -> FunctionalEnv:
    """Every episode terminates where all of them start, and nowhere else: as if the final observation were the next start."""

    def step(key: Any, x: Any, action: Any, params: Any) -> Any:
        x = (x + 1 + action) % 4
        return x[None], x, 0.0, x == 0

    return FunctionalEnv(lambda key, params: (jnp.zeros(1, int), jnp.int32(0)), step, Coin(2), max_steps=99)


def odd_but_right() -> FunctionalEnv:
    """Observations and actions are pytrees, weakly typed; the state holds a key, and inf for "nothing yet"; no bounds."""
    space = spaces.Dict({"push": Coin(2), "pull": spaces.Box(-1.0, 1.0, (2,))})

    def reset(key: Any, params: Any) -> Any:
        return {"flag": 0, "vector": (jnp.zeros(2), True)}, {"key": key, "best": jnp.inf, "moved": 0}

    def step(key: Any, state: Any, action: Any, params: Any) -> Any:
        best = jnp.minimum(state["best"], action["pull"][0])
        vector = (number(state["key"]) * jnp.ones(2), action["push"] > 0)
        return {"flag": 1, "vector": vector}, {"key": key, "best": best, "moved": 1}, action["push"], best < -0.9

    return FunctionalEnv(reset, step, space, max_steps=9)


RIGHT = {
    "bounds that are not asked for": lambda: walk(observation_space=DECLARED[2][0]),
    "constant starts": ConstantStart,
    "no end": Endless,
    "its docstring": docstring_walk,
    "one step": guess,
    "nothing to see": bandit,
    "round trip": round_trip,
    "odd": odd_but_right,
    "LegalActions": lambda: LegalActions(jaxpg.make("Pendulum-v1")),
    "LogWrapper": lambda: LogWrapper(Walk()),  # its state keeps numbers beyond the end of an episode
}
GYMNAX = ("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "Pendulum-v1")


@pytest.mark.parametrize("name", RIGHT)
def test_what_keeps_the_rules_passes(name: str) -> None:
    assert jaxpg.check_env(RIGHT[name]()) is None


@pytest.mark.parametrize("name", GYMNAX)
def test_gymnax_s_environments_pass(name: str) -> None:
    jaxpg.check_env(jaxpg.make(name), bounds=True)


def test_actions_of_one_s_own_instead_of_a_space() -> None:
    env = Without("action_space")
    jaxpg.check_env(env, sample_action=lambda key: jax.random.randint(key, (), 0, 2))
    with pytest.raises(ValueError, match=r"env.step fails with .*; it must work under jit and vmap"):
        jaxpg.check_env(env, sample_action=lambda key: {"left": 1})


def test_random_actions_lie_in_the_space_also_where_it_has_no_bounds() -> None:
    for low, high in ((-1.0, 2.0), (0.0, jnp.inf), (-jnp.inf, jnp.inf), (-3.4e38, 3.4e38)):
        box = spaces.Box(low, high, (256,))
        actions = np.asarray(sample(box, jax.random.key(0)))
        assert np.isfinite(actions).all()
        assert (actions >= low).all()
        assert (actions <= high).all()
        assert actions.std() > 0.5
    assert sample(spaces.Discrete(3), jax.random.key(0)).dtype == jnp.int32


def test_all_that_gymnax_registers_has_been_looked_at() -> None:
    """A new release with other environments: run check_env over them, then change this number."""
    assert len(gymnax.registered_envs) == 26
