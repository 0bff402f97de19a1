"""Environments with other parameters, and those of the user's own, from the command line and from Python."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg import envs
from jaxpg.envs import _suites
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.engine import environments
from jaxpg.lab.policies import loading
from jaxpg.lab.store import log, results
from jaxpg.lab.store.files import read_json

pytestmark = pytest.mark.usefixtures("no_figures")

SMALL = ["--num-envs", "2", "--num-steps", "8", "--hidden", "4", "--seeds", "2", "--eval-episodes", "2", "--log-every", "2"]
ENDLESS = {"max_steps_in_episode": 1000, "theta_threshold_radians": 1e9, "x_threshold": 1e9}  # nothing terminates
ENDLESS_LINE = ["--env-params", "max_steps_in_episode=1000", "theta_threshold_radians=1e9", "x_threshold=1e9"]


def mean_returns(found):
    """Of every seed of the first setting, by mode."""
    return {name: values[0].tolist() for name, values in found.returns.items()}


def test_a_time_limit_of_the_command_line_is_that_of_training_of_the_evaluation_and_of_what_is_loaded(tmp_path, capsys):
    """CartPole pays 1 a step: where nothing terminates, the return is the time limit."""
    line = ["train", "a2c", *SMALL, "--num-steps", "500", "--total-steps", "2000", *ENDLESS_LINE, "--run-dir", str(tmp_path)]
    assert cli.main(line) == 0
    assert "CartPole-v1 (max_steps_in_episode = 1000, theta_" in " ".join(capsys.readouterr().out.split())
    found = results.read(tmp_path)
    assert mean_returns(found) == {"greedy_return": [1000.0, 1000.0], "sampled_return": [1000.0, 1000.0]}
    rows = log.rows_of(next((tmp_path / "batches").iterdir()) / "metrics.jsonl")
    assert {row["episode_length"] for row in rows if row["update"] == 2} == {1000.0}
    assert read_json(tmp_path / "config.json")["env_params"] == ENDLESS
    assert read_json(tmp_path / "summary.json")["solved_threshold"] is None, "475 is that of 500 steps"
    assert loading.evaluate(tmp_path).returns["greedy_return"].tolist() == [1000.0, 1000.0]
    assert cli.main(["resume", str(tmp_path), "--total-steps", "3000"]) == 0
    assert mean_returns(results.read(tmp_path)) == mean_returns(found)
    capsys.readouterr()
    assert cli.main([*line[:-4], "x_threshold=1e8", *line[-2:]]) == 2
    assert "holds another experiment: env_params: " in capsys.readouterr().err


def test_other_parameters_are_other_numbers_in_the_programs_that_are_there(tmp_path):
    """The update reads them from the state: one algorithm with other values has the same bits as one that was given them."""
    env = jaxpg.make("CartPole-v1")
    algo = jaxpg.a2c(env, num_envs=2, num_steps=8, hidden=(4,))
    changed = dataclasses.replace(algo, env=envs.with_params(algo.env, {"gravity": 5}))
    given = algo.init(jax.random.key(0), env_params=env.default_params.replace(gravity=5.0))
    for state, other in [(given, changed.init(jax.random.key(0))), (given, algo.init(jax.random.key(0)))]:
        same = [np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (state.env_params, other.env_params)), strict=True)]
        assert all(same) == (other.env_params.gravity == 5)
    after, wanted = changed.update(changed.init(jax.random.key(0)))[0], algo.update(given)[0]
    for found, other in zip(jax.tree.leaves(after.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_array_equal(found, other)


def test_spaces_are_those_of_the_parameters():
    env = envs.with_params(jaxpg.make("Pendulum-v1"), {"max_torque": 5})
    assert jaxpg.a2c(env).network.policy.head.scale == (5.0,)
    assert float(envs.legalize(env, jnp.float32(9.0), env.default_params)) == 5.0


@dataclasses.dataclass(frozen=True)
class Params:
    """Of an environment of the user's own: whole numbers stand where floats are meant."""

    speed: float = 1
    size: int = 3
    wrap: bool = False
    walls: tuple = (1.0, 2.0)


jax.tree_util.register_dataclass(Params)


@dataclasses.dataclass(frozen=True)
class Room:
    """No more of an environment than its parameters."""

    default_params: Params = Params()


@pytest.mark.parametrize(("name", "value", "becomes"), [
    ("speed", 2, 2.0), ("speed", 0.5, 0.5), ("size", 4.0, 4), ("size", np.int64(4), 4),
    ("wrap", True, True), ("walls.1", 3, 3.0),
])  # fmt: skip
def test_numbers_become_of_the_type_of_the_parameter(name, value, becomes):
    params = envs.with_params(Room(), {name: value}).default_params
    found = params.walls[1] if name == "walls.1" else getattr(params, name)
    assert (found, type(found)) == (becomes, type(becomes))
    assert dataclasses.replace(Params(), **{name.split(".")[0]: getattr(params, name.split(".")[0])}) == params, (
        "the others stay"
    )
    assert envs.with_params(Room(), {name: value}) == envs.with_params(Room(), {name: becomes}), "one program"


@pytest.mark.parametrize(("name", "value", "says"), [
    ("size", 4.5, "env_params size = 4.5 must be a whole number"),
    ("size", True, "env_params size = True must be a whole number"),
    ("speed", False, "env_params speed = False must be a number"),
    ("wrap", 1, "env_params wrap = 1 must be true or false"),
    ("speed", np.ones(2), r"env_params speed is an array of shape \(2,\); only parameters that are one number can be given"),
    ("sped", 1, "unknown parameter of the environment 'sped'; did you mean speed"),
])  # fmt: skip
def test_numbers_of_another_type_and_names_that_are_not_there_are_refused(name, value, says):
    with pytest.raises(ValueError, match=says):
        envs.with_params(Room(), {name: value})


def test_run_takes_parameters_by_name_or_as_the_environment_has_them(tmp_path):
    env = jaxpg.make("CartPole-v1")
    algo = jaxpg.a2c(env, num_envs=2, num_steps=500, hidden=(4,))
    run = functools.partial(jaxpg.run, algo, directory=tmp_path, total_steps=2000, seeds=1, eval_episodes=2)
    found = run(env_params=ENDLESS)
    assert mean_returns(found) == {"greedy_return": [1000.0], "sampled_return": [1000.0]}
    again = run(env_params=env.default_params.replace(**ENDLESS))
    assert again.digests.tolist() == found.digests.tolist(), "the same experiment"
    act = jaxpg.load_policy(tmp_path, algo=algo)
    assert act(np.zeros(4)) in (0, 1)
    assert loading.evaluate(tmp_path, algo=algo).returns["greedy_return"].tolist() == [1000.0]
    with pytest.raises(ValueError, match="holds another experiment: env_params: "):
        run(env_params=ENDLESS | {"gravity": 5.0})
    with pytest.raises(ValueError, match=r"env_params is int, which does not have the structure of env.default_params"):
        run(env_params=3)
    with pytest.raises(ValueError, match="num_steps = 500 is below the time limit of 1,000 steps"):
        jaxpg.run(jaxpg.reinforce(env), directory=tmp_path / "other", total_steps=2000, env_params=ENDLESS)


def test_sweep_takes_them_too():
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=500, hidden=(4,))
    found = jaxpg.sweep(algo, {"gamma": [0.9, 0.99]}, seeds=1, total_steps=1000, eval_episodes=2, env_params=ENDLESS)
    assert found.returns["greedy_return"].tolist() == [[1000.0], [1000.0]]


# Environments of the user's own, by the name of what makes them.

CORRIDOR = """
import dataclasses, jax, jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from jaxpg.envs import FunctionalEnv

@struct.dataclass
class Params:
    reward: float = 1.0

def make():
    return FunctionalEnv(
        reset_fn=lambda key, params: (jnp.zeros(2), jax.random.uniform(key)),
        step_fn=lambda key, x, action, params: (jnp.stack([x, x + action]), x + action, params.reward, x + action >= 3),
        space=spaces.Discrete(2), max_steps=10, default_params=Params())

class Maze:
    make = staticmethod(make)

def fail():
    raise RuntimeError("no\\nmaze")

def a_pair():
    return make(), Params()

class Unhashable:
    __hash__ = None
    default_params = Params()
    def reset(self, key, params): ...
    def step(self, key, state, action, params): ...
"""


@pytest.fixture
def corridor(tmp_path, monkeypatch):
    """A directory with a module that is importable from nowhere else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "corridor.py").write_text(CORRIDOR)
    for name in ("corridor", "broken", "script"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    environments.import_env.cache_clear()
    return tmp_path


def contents(directory):
    """All that has the same bytes whenever it is computed."""
    names = ("summary.json", "metrics.jsonl")
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.name in names}


LINE = ["train", "a2c", "--env", "corridor:make", *SMALL, "--total-steps", "128", "--env-params", "reward=2"]


def test_an_environment_of_a_module_is_trained_resumed_evaluated_loaded_and_not_drawn(corridor, capsys):
    assert cli.main([*LINE, "--run-dir", "planned"]) == 0
    assert cli.main([*LINE, "--total-steps", "64", "--run-dir", "run"]) == 0
    environments.import_env.cache_clear()  # another process makes another object
    assert cli.main(["resume", "run", "--total-steps", "128"]) == 0
    assert contents(corridor / "run") == contents(corridor / "planned")
    found = results.read("run")
    assert 2 * 3 <= found.returns["sampled_return"].min() <= found.returns["sampled_return"].max() <= 2 * 10, "2 a step"
    capsys.readouterr()
    assert cli.main(["evaluate", "run", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["env"] == "corridor:make"
    assert evaluated["greedy_return"]["per_seed"] == found.returns["greedy_return"][0].tolist()
    act = jaxpg.load_policy("run", seed=1)
    assert act(np.zeros(2)) in (0, 1)
    assert float(act._state.env_params.reward) == 2.0
    assert cli.main(["render", "run"]) == 2
    said = "corridor:make cannot be drawn; those that can: CartPole-v1, MountainCar-v0"
    assert capsys.readouterr().err.startswith(f"jaxpg: error: {said}")


def test_without_a_directory_the_name_of_the_module_is_part_of_one(corridor):
    assert cli.main([*LINE, "--env", "corridor:Maze.make"]) == 0
    (directory,) = (corridor / "runs").iterdir()
    assert directory.name.startswith("a2c_corridor-Maze.make_seed0_")


@pytest.mark.parametrize(("env", "says"), [
    ("corridor:nothing", "env = corridor:nothing: corridor has no nothing"),
    ("corridor:Maze.nothing", "env = corridor:Maze.nothing: corridor has no Maze.nothing"),
    ("corridr:make", "env = corridr:make: corridr cannot be imported: ModuleNotFoundError: No module named 'corridr'"),
    ("broken:make", "env = broken:make: broken cannot be imported: SyntaxError: "),
    ("script:make", "env = script:make: script cannot be imported: SystemExit: 3"),
    ("corridor:fail", "env = corridor:fail: the call without arguments fails: RuntimeError: no maze"),
    (
        "corridor:a_pair",
        "env = corridor:a_pair did not return an environment: env is a tuple, as gymnax.make returns it; pass its",
    ),
    ("corridor:Params", "env = corridor:Params did not return an environment: env is a Params without reset"),
    ("corridor:Unhashable", "env = corridor:Unhashable returned an environment that is not hashable (TypeError: "),
])  # fmt: skip
def test_what_makes_no_environment_is_one_line(env, says, corridor, capsys):
    (corridor / "broken.py").write_text("def make(:")
    (corridor / "script.py").write_text("raise SystemExit(3)")
    assert cli.main(["train", "ppo", "--env", env]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxpg: error: {says}")
    assert error.count("\n") == 1
    assert not (corridor / "runs").exists()


# REINFORCE learns from complete episodes.


@pytest.mark.parametrize("name", ["reinforce", "reinforce_baseline"])
def test_reinforce_takes_the_time_limit_that_the_environment_has(name):
    make = getattr(jaxpg, name)
    for env_id in ("CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Freeway-MinAtar"):
        env = jaxpg.make(env_id)
        assert make(env, hidden=(4,)).num_steps == envs.horizon(env)
    longer = envs.with_params(jaxpg.make("MountainCar-v0"), {"max_steps_in_episode": 300})
    assert make(longer).num_steps == 300
    assert make(longer, num_steps=400).num_steps == 400
    with pytest.raises(ValueError, match=r"^num_steps = 299 is below the time limit of 300 steps: .*; give num_steps=300$"):
        make(longer, num_steps=299)


def test_on_the_command_line_reinforce_trains_on_complete_episodes(tmp_path):
    sizes = ["--num-envs", "2", "--hidden", "4", "--seeds", "1", "--eval-episodes", "1"]
    line = ["train", "reinforce", *sizes, "--total-steps", "40", "--env-params", "max_steps_in_episode=11", "x_threshold=1e9"]
    assert cli.main([*line, "theta_threshold_radians=1e9", "--run-dir", str(tmp_path)]) == 0
    (row, last) = log.rows_of(next((tmp_path / "batches").iterdir()) / "metrics.jsonl")
    assert (row["env_steps"], row["episodes"], row["episode_length"], last["env_steps"]) == (22, 2.0, 11.0, 44)


def test_the_list_of_environments_ends_with_the_other_suites_and_what_to_do_for_them(capsys, monkeypatch):
    monkeypatch.setattr(_suites, "is_installed", lambda suite: suite == "navix")
    assert cli.main(["envs"]) == 0
    said = capsys.readouterr().out
    assert "CartPole-v1" in said
    assert "pip install 'jaxpg[brax]'" in said
    assert "jaxpg envs navix" in said


def test_a_suite_lists_its_names(capsys, monkeypatch):
    toy = _suites.Suite("json", lambda module: ["a", "b"], lambda *given: jaxpg.make("CartPole-v1"))
    monkeypatch.setitem(_suites.SUITES, "toy", toy)
    assert cli.main(["envs", "toy"]) == 0
    assert capsys.readouterr().out.split() == ["toy/a", "toy/b"]


def test_a_name_with_its_suite_is_that_of_the_run_directory_and_of_all_that_reads_it(tmp_path, monkeypatch, capsys):
    def make_toy(module, name, env_id):
        return dataclasses.replace(line_of_five(), name=env_id)

    monkeypatch.setitem(_suites.SUITES, "toy", _suites.Suite("json", lambda module: ["five"], make_toy))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "a2c", "--env", "toy/five", *SMALL, "--total-steps", "64"]) == 0
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name.startswith("a2c_toy-five_seed0_")
    assert read_json(directory / "config.json")["env"] == "toy/five"
    assert cli.main(["resume", str(directory), "--total-steps", "128"]) == 0
    assert cli.main(["evaluate", str(directory), "--greedy"]) == 0
    assert "toy/five" in capsys.readouterr().out
    assert jaxpg.load_policy(directory)(np.zeros(1, np.float32)).shape == ()


def line_of_five():
    """Five steps, then a cut."""
    return envs.FunctionalEnv(
        lambda key, params: (jnp.zeros(1), jnp.zeros(1)),
        lambda key, x, action, params: (x + 1.0, x + 1.0, 1.0, False),
        spaces.Discrete(2),
        5,
    )
