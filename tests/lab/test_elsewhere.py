"""jaxpg evaluate --in gymnasium: as a plain loop has it, with memory, legal actions, time limits; refusals in one line."""

import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces as their
from gymnax.environments import spaces

import jaxpg
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.engine import devices, programs
from jaxpg.lab.policies import elsewhere, loading

SMALL = ["--total-steps", 256, "--num-envs", 4, "--num-steps", 16, "--hidden", 8, "--seeds", 2, "--eval-episodes", 3]
LINES = {
    "CartPole-v1": ["train", "a2c", "--network", "gru", "--log-every", 8],
    "Pendulum-v1": ["train", "a2c", "--env", "Pendulum-v1"],
}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, programs_once, no_figures):
    """The directory of a run on each environment."""
    place = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "use_all_cores", lambda: None)
        for name, line in LINES.items():
            assert cli.main([*map(str, [*line, *SMALL]), "--run-dir", str(place / name)]) == 0
    return place


def loop(act, env_id, seed):
    """The return of one episode."""
    env, total, done = gymnasium.make(env_id), 0.0, False
    obs, _ = env.reset(seed=seed)
    act.reset()
    while not done:
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        total, done = total + float(reward), terminated or truncated
    return total


@pytest.mark.parametrize("env_id", LINES)
def test_greedy_returns_are_those_of_a_plain_loop(runs, env_id, capsys, monkeypatch):
    monkeypatch.setattr(elsewhere, "SIDE_BY_SIDE", 2)  # three episodes: two, then one
    capsys.readouterr()
    assert cli.main(["evaluate", str(runs / env_id), "--in", "gymnasium", "--greedy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    policies = [jaxpg.load_policy(runs / env_id, seed) for seed in (0, 1)]
    wanted = [np.mean([loop(act, env_id, seed) for seed in range(3)]) for act in policies]
    np.testing.assert_allclose(found["greedy_return"]["per_seed"], wanted, rtol=1e-4)
    assert "sampled_return" not in found
    assert found["in"] == f"gymnasium:{env_id}"
    assert cli.main(["evaluate", str(runs / env_id), "--greedy", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert [key for key in found if key != "in"] == list(here)


class Recorder(gymnasium.Env):
    """Pendulum's observations and half of its actions; whoever plays it is written down."""

    observation_space, action_space = their.Box(-8, 8, (3,)), their.Box(-1, 1, (1,), np.float64)
    actions = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3), {}

    def step(self, action):
        self.actions.append(action)
        return self.np_random.uniform(-1, 1, 3), 1.0, False, False, {}


@pytest.fixture
def recorder():
    """Ends after 7 steps, or never by itself."""
    gymnasium.register("Recorder-v0", Recorder, max_episode_steps=7)
    gymnasium.register("Endless-v0", Recorder)
    Recorder.actions.clear()
    yield
    for name in ("Recorder-v0", "Endless-v0"):
        del gymnasium.registry[name]


def test_actions_are_legal_there_and_time_limits_hold(runs, recorder):
    found = elsewhere.evaluate(runs / "Pendulum-v1", "gymnasium:Recorder-v0", episodes=2)
    assert {name: x.tolist() for name, x in found.returns.items()} == {"greedy_return": [7, 7], "sampled_return": [7, 7]}
    actions = np.array(Recorder.actions)
    assert actions.shape == (2 * 2 * 2 * 7, 1)
    assert np.abs(actions).max() == 1.0
    assert len(np.unique(actions[np.abs(actions) < 1])) > 10
    endless = elsewhere.evaluate(runs / "Pendulum-v1", "gymnasium:Endless-v0", episodes=1, modes=["greedy"])
    assert endless.returns["greedy_return"].tolist() == [200, 200], "the limit of training"


def test_a_seed_that_diverged_is_not_played(runs, recorder, monkeypatch):
    monkeypatch.setattr(programs, "diverged_at", lambda *_: np.array([0, 3]))
    found = elsewhere.evaluate(runs / "Pendulum-v1", "gymnasium:Recorder-v0", episodes=1)
    np.testing.assert_array_equal(found.returns["greedy_return"], [7.0, np.nan])
    assert len(Recorder.actions) == 2 * 7


class Corridor(gymnasium.Env):
    """Three places, to the right by action (1, _); the reward is what the second action says, +1 or -1."""

    observation_space = their.Dict({"far": their.Box(0, 1, (2,)), "place": their.Discrete(3)})
    action_space = their.Tuple([their.Discrete(2), their.Box(-1, 1, ())])

    def seen(self):
        return {"far": np.array([self.place / 3, 1.0]), "place": self.place}

    def reset(self, *, seed=None, options=None):
        self.place = 0
        return self.seen(), {}

    def step(self, action):
        self.place += int(action[0])
        done = self.place == 3
        self.place %= 3
        return self.seen(), float(action[1]) + 1, done, False, {}


def twin():
    """The same as two functions."""

    def see(place):
        return {"far": jnp.array([place / 3, 1.0]), "place": place}

    def step(key, place, action, params):
        place = place + action[0]
        return see(place % 3), place % 3, action[1] + 1, place == 3

    space = spaces.Dict({"far": spaces.Box(0, 1, (2,)), "place": spaces.Discrete(3)})
    actions = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, ())])
    return jaxpg.envs.FunctionalEnv(lambda key, params: (see(0), jnp.int32(0)), step, actions, 9, obs_space=space)


def test_trees_of_spaces_play_as_their_twin_does():
    algo = jaxpg.a2c(twin(), hidden=(8,))
    gymnasium.register("Corridor-v0", Corridor)
    try:
        played = elsewhere.make("Corridor-v0", algo.env, 2)
        for seed in range(3):
            state = algo.init(jax.random.key(seed))
            wanted = jaxpg.evaluate(algo, state, jax.random.key(1), 1, greedy=True)["episode_return"]
            found = elsewhere.play(loading.Policy(algo, state), played, range(2))
            np.testing.assert_allclose(found, np.repeat(wanted, 2), rtol=1e-5)
    finally:
        del gymnasium.registry["Corridor-v0"]


BAD = {
    "gymnasium:Pendulum-v1": "in = gymnasium:Pendulum-v1 has the observation box (3,); the policies were trained with box (4,)",
    "gymnasium:Nope-v1": "in = gymnasium:Nope-v1: NameNotFound: Environment `Nope` doesn't exist",
    "gymnasium:nowhere:Nope-v1": "in = gymnasium:nowhere:Nope-v1: ModuleNotFoundError: No module named 'nowhere'",
    "gymnasium:Shifted-v0": "in = gymnasium:Shifted-v0 has the space Discrete(2, start=1); policies support Box, ",
    "gymnasium:Three-v0": "in = gymnasium:Three-v0 has the action discrete 3; the policies were trained with discrete 2",
    "brax:ant": "in = brax:ant; give gymnasium:ENV, e.g. gymnasium:CartPole-v1, or gymnasium",
}


@pytest.mark.parametrize("where", BAD)
def test_what_cannot_be_played_is_refused_in_one_line(where, runs, capsys):
    for name, actions in (("Shifted-v0", their.Discrete(2, start=1)), ("Three-v0", their.Discrete(3))):
        kind = type(name, (Recorder,), {"observation_space": their.Box(-8, 8, (4,)), "action_space": actions})
        gymnasium.register(name, kind)
    try:
        assert cli.main(["evaluate", str(runs / "CartPole-v1"), "--in", where]) == 2
    finally:
        del gymnasium.registry["Shifted-v0"], gymnasium.registry["Three-v0"]
    error = capsys.readouterr().err
    assert error.startswith(f"jaxpg: error: {BAD[where]}")
    assert error.count("\n") == 1
