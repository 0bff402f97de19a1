"""``jaxpg.run`` with whatever algorithm, and what its directory, or one of the command line, is good for afterwards."""

import dataclasses
import functools
import json
import re
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from gymnax.environments import spaces
from rich.console import Console

import jaxpg
from jaxpg.core.distributions import Categorical
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.config import Config
from jaxpg.lab.engine import experiment, groups, stopping
from jaxpg.lab.policies import loading, render
from jaxpg.lab.report import figures, page
from jaxpg.lab.store import checkpoint, log, results
from jaxpg.lab.store.files import read_json

pytestmark = pytest.mark.usefixtures("programs_once", "no_figures")

# An environment with observations by name, and a network for it.


def reset(key, params):
    place = jax.random.uniform(key, (2,), minval=-1.0)
    return {"goal": jnp.zeros(2), "place": place}, place


def step(key, place, action, params):
    place = place + 0.2 * jnp.where(action < 2, -1.0, 1.0) * jax.nn.one_hot(action % 2, 2)
    return {"goal": jnp.zeros(2), "place": place}, place, -jnp.abs(place).sum(), jnp.abs(place).sum() > 4


class Planner(nn.Module):
    """A policy that sees how far the goal is."""

    width: int = 4

    @nn.compact
    def __call__(self, obs):
        return Categorical(nn.Dense(4)(jnp.tanh(nn.Dense(self.width)(obs["goal"] - obs["place"]))))


ENV = FunctionalEnv(reset, step, spaces.Discrete(4), max_steps=10)
CRITIC = jaxpg.networks.Critic((4,))
ALGO = jaxpg.a2c(ENV, num_envs=2, num_steps=8, policy=Planner(), critic=CRITIC)
OBS = {"goal": np.zeros((5, 2), np.float32), "place": np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)}
UPDATES = 12
compare = figures.compare  # which ``no_figures`` replaces


class Logger:
    """Remembers what it is told, and calls ``interrupt`` when ``update`` comes."""

    def __init__(self, update=10**9, interrupt=lambda: None):
        self.update, self.interrupt, self.rows, self.summaries = update, interrupt, [], []

    def write(self, rows):
        self.rows += rows
        if rows[0]["update"] >= self.update:
            self.interrupt()

    def close(self, summary):
        self.summaries.append(summary)


def run(directory, algo=ALGO, updates=UPDATES, **options):
    general = {"seeds": 2, "log_every": 3, "eval_episodes": 2, "checkpoint_every": 0, "name": "planner"}
    return jaxpg.run(algo, directory=directory, total_steps=16 * updates, **general | options)


def contents(directory):
    """What came of an experiment, but for what a clock measured."""
    folders = sorted((directory / "batches").iterdir())
    return (directory / "summary.json").read_bytes(), [(folder / "metrics.jsonl").read_bytes() for folder in folders]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, programs_once, no_figures):
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(directory)
    return directory


class Killed(BaseException):
    """What training does not survive."""


def kill():
    raise Killed


def test_an_own_algorithm_is_killed_resumed_loaded_evaluated_and_reported(uninterrupted, tmp_path, capsys, monkeypatch):
    directory = tmp_path / "run"
    with pytest.raises(Killed):
        run(directory, logger=Logger(7, kill), checkpoint_every=1e-6)
    assert not (directory / "summary.json").exists()
    assert cli.main(["resume", str(directory)]) == 2
    said = f"jaxpg: error: {directory} was trained with an algorithm of your own, which is not stored; jaxpg.run(algorithm, "
    assert capsys.readouterr().err.startswith(said)
    found = run(directory)
    assert contents(directory) == contents(uninterrupted)
    assert found.returns["greedy_return"].shape == (1, 2)

    act = jaxpg.load_policy(directory, seed=1, algo=ALGO)
    actions = act(OBS)
    assert isinstance(actions, np.ndarray)
    one_by_one = [act({name: x[i] for name, x in OBS.items()}) for i in range(5)]
    assert list(map(int, one_by_one)) == actions.tolist(), "one observation, or many"
    assert isinstance(jax.jit(act)(jax.tree.map(jnp.asarray, OBS)), jax.Array)
    with pytest.raises(ValueError, match=re.escape("obs has the structure PyTreeDef(*); the policy takes PyTreeDef({'goal'")):
        act(OBS["place"])
    evaluated = loading.evaluate(directory, algo=ALGO)
    for name, values in found.returns.items():
        np.testing.assert_array_equal(evaluated.returns[name], values[0])
    monkeypatch.setattr(figures, "compare", compare)
    assert "planner" in page.write([directory], tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match=r"was trained with an algorithm of your own: give it, load_policy\(..., algo=...\)"):
        jaxpg.load_policy(directory)


class Sum(nn.Module):
    """A critic without parameters."""

    def __call__(self, obs):
        return -jnp.abs(obs["place"]).sum(-1)


def network(**change):
    """A change of the policy or the critic of ``ALGO``."""
    return {"network": dataclasses.replace(ALGO.network, **change)}


OTHERS = [
    (network(critic=jaxpg.networks.Critic((8,))), "network.critic.encoder.hidden = [4]", "network.critic.encoder.hidden = [8]"),
    (network(critic=Sum()), f"network.critic = {groups.describe(type(CRITIC))}", f"network.critic = {groups.describe(Sum)}"),
    (network(policy=Planner(5)), "network.policy.width = 4", "network.policy.width = 5"),
    ({"env": dataclasses.replace(ENV, max_steps=11)}, "env.max_steps = 10", "env.max_steps = 11"),
    ({"env": dataclasses.replace(ENV, space=spaces.Discrete(5))}, "env.space.n = 4", "env.space.n = 5"),
    ({"num_envs": 3}, "num_envs = 2", "num_envs = 3"),
    ({"hparams": ALGO.hparams.replace(gamma=0.9)}, "hparams.gamma = 0.99", "hparams.gamma = 0.9"),
]


@pytest.mark.parametrize(("change", "there", "here"), OTHERS, ids=[here for *_, here in OTHERS])
def test_another_algorithm_is_refused_by_the_first_difference(change, there, here, uninterrupted):
    before, other = contents(uninterrupted), dataclasses.replace(ALGO, **change)
    with pytest.raises(ValueError, match="is not the one that") as refused:
        jaxpg.load_policy(uninterrupted, algo=other)
    assert f"{uninterrupted} was trained with: {there} there, {here}" in str(refused.value)
    with pytest.raises(ValueError, match="holds another experiment: ") as refused:
        run(uninterrupted, other)
    assert f"holds another experiment: algorithm: {there} there and {here}" in str(refused.value)
    assert contents(uninterrupted) == before


class Grid:
    """An environment of a plain class, with what is no part of what it is."""

    def __init__(self, size, walls=(), **others):
        self.size, self.walls, self.limits = size, np.asarray(walls), {"any": object()}
        self._cache, self.draw = {}, print
        self.__dict__ |= others


def test_pieces_are_told_apart_by_their_attributes_and_arrays_and_described_in_plain_data():
    name = groups.describe(Grid)
    assert groups.describe(Grid(3)) == groups.describe(Grid(3))
    assert groups.describe(Grid(3))[name] == {"size": 3, "walls": groups.describe(np.zeros(0))}
    assert groups.difference(*map(groups.describe, (Grid(3), Grid(4)))) == ("size = 3", "size = 4")
    pieces = [
        *[Grid(3), Grid(4), Grid(3, [1]), Grid(3, [2]), Grid(3, [1.0]), Grid(3, [[1]]), Grid(3, key=jax.random.key(0))],
        *[Grid(3, key=jax.random.key(1)), Grid(3, top=np.inf), Grid(3, top=-np.inf), Grid(3, top=np.float32(2)), Grid, 3, "3"],
        *[functools.partial(step, params=n) for n in (1, 2)],
        *[functools.partial(Planner(n), 1) for n in (1, 2)],
        *[spaces.Box(-np.inf, high, (2,)) for high in (1.0, np.inf)],
        *[jnp.float32(0.1), jnp.float32(0.2), None, True, (1, (2,)), (1, 2)],
    ]
    described = [json.dumps(groups.describe(piece), sort_keys=True, allow_nan=False) for piece in pieces]
    assert len(set(described)) == len(pieces)
    assert json.dumps(groups.describe(jnp.float32(0.5))) == "0.5"


def test_a_logger_of_ten_lines_gets_the_rows_and_the_summary(uninterrupted, tmp_path):
    logger = Logger()
    run(tmp_path, logger=logger)
    assert logger.rows == log.rows_of(next((tmp_path / "batches").iterdir()) / "metrics.jsonl")
    (summary,) = logger.summaries
    stored = read_json(tmp_path / "summary.json") | read_json(tmp_path / "timing.json")
    assert json.loads(json.dumps(summary)) == stored
    assert (tmp_path / "summary.json").read_bytes() == (uninterrupted / "summary.json").read_bytes()


def test_a_logger_that_fails_is_named_and_not_used_any_more(uninterrupted, tmp_path, capsys):
    def fail():
        raise RuntimeError("no connection\nat all")

    logger = Logger(3, fail)
    run(tmp_path, logger=logger)
    why = "logger Logger failed and is not used any more (RuntimeError: no connection at all)"
    assert capsys.readouterr().err == f"jaxpg: {why}\n"
    assert len(logger.rows) == 2
    assert contents(tmp_path) == contents(uninterrupted)


@pytest.mark.parametrize("name", ["tensorboard", ["tensorboard"]])
def test_a_logger_may_be_named(name, tmp_path):
    run(tmp_path, logger=name)
    assert len(list((tmp_path / "tensorboard").glob("*seed*"))) == 3
    with pytest.raises(ValueError, match="unknown log 'tensorbord'; did you mean tensorboard"):
        run(tmp_path, logger="tensorbord")


@pytest.mark.parametrize(("number", "ends"), [
    (signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit),
])  # fmt: skip
def test_ctrl_c_leaves_a_directory_that_continues(number, ends, uninterrupted, tmp_path):
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    logger = Logger(5, lambda: signal.raise_signal(number))
    with pytest.raises(ends) as stopped:
        run(tmp_path, logger=logger)
    assert stopped.value.args == (128 + number,)
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before, "who listens lets go"
    assert logger.summaries == [None]
    found = results.read(tmp_path)
    (folder,) = (tmp_path / "batches").iterdir()
    (saved,) = checkpoint.steps(folder / "checkpoints")
    assert found.env_steps[0, -1] / 16 <= saved < found.env_steps[0, -1] / 16 + 3, "no update that was finished is lost"
    assert np.isnan(found.returns["greedy_return"]).all()
    run(tmp_path)
    assert contents(tmp_path) == contents(uninterrupted)


def test_it_trains_in_a_thread_and_leaves_signals_alone(uninterrupted, tmp_path):
    found, handlers = [], []
    logger = Logger(3, lambda: handlers.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=lambda: found.append(run(tmp_path, logger=logger)))
    thread.start()
    thread.join()
    assert found[0].returns["greedy_return"].shape == (1, 2)
    assert set(handlers) == {signal.getsignal(signal.SIGTERM)}
    assert contents(tmp_path) == contents(uninterrupted)


def test_the_same_call_does_nothing_and_one_with_more_steps_trains_further(uninterrupted, tmp_path):
    logger = Logger()
    directory = shutil.copytree(uninterrupted, tmp_path / "run")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    found = run(directory, logger=logger)
    assert not logger.rows
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    assert found.digests.tolist() == results.read(uninterrupted).digests.tolist()
    run(directory, updates=14, logger=logger)
    run(tmp_path / "longer", updates=14)
    assert {row["update"] for row in logger.rows} == {14}
    assert contents(directory) == contents(tmp_path / "longer")
    with pytest.raises(ValueError, match="options: total_steps = 224 there and total_steps = 192 here"):
        run(directory)


def test_without_a_directory_it_gets_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run("", updates=1, name="my planner")
    (directory,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"my-planner_functional_seed0_\d{8}-\d{6}", directory.name)
    assert found.name == directory.name
    assert (directory / "summary.json").exists()


# Policies of stored experiments, here of the command line's.

SIZES = {"num_envs": 2, "num_steps": 8, "hidden": (4,)}


def make_config(directory, **fields):
    general = {"seeds": 3, "log_every": 3, "eval_episodes": 2, "checkpoint_every": 0, "run_dir": str(directory)}
    return Config("a2c", **general | fields, options=SIZES | {"total_steps": 16 * 10})


def train(config, logger=None, stop=None):
    job, stop = experiment.claim(experiment.prepare(config)), stop or stopping.Stop()
    return experiment.run(job, Console(quiet=True), stop, logger or Logger())


@pytest.fixture(scope="module")
def swept(tmp_path_factory, programs_once, no_figures):
    """Two settings, three seeds each."""
    directory = tmp_path_factory.mktemp("swept") / "run"
    train(make_config(directory, vary={"learning_rate": (1e-3, 0.1)}))
    return directory


def test_what_is_trained_with_a_precision_acts_is_evaluated_and_drawn_with_it(tmp_path, monkeypatch):
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=4, hidden=(3,))
    found = jaxpg.run(algo, directory=tmp_path / "own", seeds=1, total_steps=8, eval_episodes=1, matmul_precision="highest")
    assert found.config["matmul_precision"] == "highest"
    options = {"num_envs": 2, "num_steps": 4, "hidden": (3,), "total_steps": 8}
    fields = {"seeds": 1, "eval_episodes": 1, "matmul_precision": "high", "run_dir": str(tmp_path / "named")}
    train(Config("a2c", **fields, options=options))
    seen, apply = [], jaxpg.Algorithm.apply

    def watched(algo, *arguments):
        seen.append(jax.config.jax_default_matmul_precision)
        return apply(algo, *arguments)

    monkeypatch.setattr(jaxpg.Algorithm, "apply", watched)
    for directory, own, precision in ((tmp_path / "own", algo, "highest"), (tmp_path / "named", None, "high")):
        act = jaxpg.load_policy(directory, algo=own)
        for call in (lambda: act(np.zeros(4)), lambda: loading.evaluate(directory, algo=own, modes=["greedy"])):  # noqa: B023
            seen.clear()
            call()
            assert set(seen) == {precision}
    seen.clear()
    render.write(tmp_path / "named", tmp_path / "policy.gif", steps=2)
    assert set(seen) == {"high"}
    assert jax.config.jax_default_matmul_precision is None


def arrays_of(directory, run):
    """What the newest checkpoint holds of one run, by name."""
    (folder,) = (directory / "batches").iterdir()
    place = folder / "checkpoints"
    spec = read_spec(place / "10")
    return {name: x[run] for name, x in checkpoint.read(place, 10, spec).arrays.items()}


def read_spec(step):
    return json.loads((step / "meta" / "metadata").read_text())["spec"]


def logits_of(arrays, obs):
    """By hand."""
    hidden, head = (f"state.params.policy.{part}.Dense_0.{{}}".format for part in ("encoder", "head"))
    x = np.tanh(obs @ arrays[hidden("kernel")] + arrays[hidden("bias")])
    return x @ arrays[head("kernel")] + arrays[head("bias")]


@pytest.mark.parametrize(("setting", "seed"), [(0, 0), (0, 2), (1, 1)])
def test_a_policy_acts_outside_as_its_parameters_say(setting, seed, swept):
    act = jaxpg.load_policy(swept, seed, setting=setting)
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    logits = logits_of(arrays_of(swept, 3 * setting + seed), obs)
    greedy = act(obs)
    assert greedy.tolist() == logits.argmax(-1).tolist()
    assert isinstance(greedy, np.ndarray)
    assert [int(act(x)) for x in obs[:5]] == greedy[:5].tolist(), "one observation, or many"
    assert act(obs.astype(np.float64)).tolist() == greedy.tolist()
    assert isinstance(jax.jit(act)(jnp.asarray(obs)), jax.Array)
    sampled = np.mean(act(np.tile(obs[0], (4000, 1)), jax.random.key(0)))
    wanted = np.exp(logits[0, 1]) / np.exp(logits[0]).sum()
    assert abs(sampled - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 4000)


@pytest.mark.parametrize(("call", "says"), [
    (lambda d: jaxpg.load_policy(d, 3), "seed = 3: .* has the seeds 0 to 2"),
    (lambda d: jaxpg.load_policy(d, -1), "seed = -1: "),
    (lambda d: jaxpg.load_policy(d, setting=2), "setting = 2: .* has the settings 0 to 1"),
    (lambda d: jaxpg.load_policy(d, step=5), "step = 5: .* has checkpoints of the updates 10"),
    (lambda d: jaxpg.load_policy(d)(np.zeros(5)), r"obs has shape \(5,\); the policy takes \(4,\), or a batch \(N, 4,\)"),
    (lambda d: loading.evaluate(d, 2), "setting = 2"),
    (lambda d: jaxpg.load_policy(d / "nowhere"), "nowhere holds no experiment: there is no config.json"),
])  # fmt: skip
def test_what_is_not_there_is_refused_in_one_line(call, says, swept):
    with pytest.raises(ValueError, match=says) as refused:
        call(swept)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("setting", [0, 1])
def test_an_evaluation_is_that_of_the_end_of_training(setting, swept, capsys):
    found, summary = loading.evaluate(swept, setting), read_json(swept / "summary.json")["settings"][setting]
    assert (found.step, found.episodes, found.diverged_at.tolist()) == (10, 2, [0, 0, 0])
    assert found.setting == {"learning_rate": (1e-3, 0.1)[setting]}
    for name, values in found.returns.items():
        assert values.tolist() == summary[name]["per_seed"]
    assert cli.main(["evaluate", str(swept), "--setting", str(setting), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    for name in ("greedy_return", "sampled_return"):
        assert shown[name]["per_seed"] == summary[name]["per_seed"]
        assert shown[name]["mean"] == pytest.approx(summary[name]["mean"])


def test_an_evaluation_may_have_other_episodes_and_only_one_mode(swept, capsys):
    assert cli.main(["evaluate", str(swept), "--episodes", "1", "--greedy"]) == 0
    text = capsys.readouterr().out
    assert "after update 10, 1 episode each" in text
    assert "greedy" in text
    assert "sampled" not in text


def test_seeds_of_one_setting_may_lie_in_several_batches(swept, tmp_path, memory_for):
    """Batches of two: the second holds the last seed of the first setting and the first of the second."""
    config = make_config(tmp_path, vary={"learning_rate": (1e-3, 0.1)}, memory=memory_for(1, make_config("")))
    stop = stopping.Stop()
    logger = Logger(6, lambda: logger.rows[-1]["setting"] and stop.request(signal.SIGTERM))
    with pytest.raises(stopping.Stopped):
        train(config, logger, stop)
    steps = [checkpoint.steps(folder / "checkpoints")[-1] for folder in sorted((tmp_path / "batches").iterdir())]
    assert steps[0] == 10 > steps[1]
    with pytest.raises(ValueError, match=f"step = {steps[1]}: .* has checkpoints of the updates 10"):
        loading.evaluate(tmp_path)  # the newest that all seeds might have
    assert loading.load_states(loading.of_setting(tmp_path), [2], None)[1].step == steps[1]
    with pytest.raises(ValueError, match="has no checkpoint of seed 1 of setting 1 yet"):
        jaxpg.load_policy(tmp_path, 1, setting=1)
    found = train(config)
    assert len(list((tmp_path / "batches").iterdir())) == 3
    obs = np.random.default_rng(0).normal(size=(64, 4))
    for setting in (0, 1):
        evaluated = loading.evaluate(tmp_path, setting)
        for name, values in evaluated.returns.items():
            np.testing.assert_array_equal(values, found.returns[name][setting])
        for seed in range(3):
            one, two = (jaxpg.load_policy(directory, seed, setting=setting)(obs) for directory in (tmp_path, swept))
            assert one.tolist() == two.tolist()


def test_a_policy_is_not_loaded_from_a_damaged_checkpoint(swept, tmp_path):
    directory = shutil.copytree(swept, tmp_path / "run")
    (folder,) = (directory / "batches").iterdir()
    (folder / "checkpoints" / "10" / "params" / "_METADATA").write_text("{}")
    with pytest.raises(ValueError, match="update 10 cannot be used: its checksums are wrong"):
        jaxpg.load_policy(directory, step=10)
    with pytest.warns(UserWarning, match="update 10 cannot be used"), pytest.raises(ValueError, match="no checkpoint"):
        jaxpg.load_policy(directory)


def test_continuous_actions_are_within_their_bounds_and_observations_scaled_as_in_training(tmp_path):
    env = jaxpg.make("MountainCarContinuous-v0")
    algo = jaxpg.a2c(env, num_envs=2, num_steps=8, hidden=(4,), observation="running")
    run(tmp_path, algo, updates=10)
    arrays = arrays_of(tmp_path, 0)
    obs = np.random.default_rng(0).normal(size=(500, 2))
    act = jaxpg.load_policy(tmp_path, algo=algo)
    sampled = act(obs, jax.random.key(0))
    assert sampled.shape == (500, 1)
    assert (sampled.min(), sampled.max()) == (-1.0, 1.0)
    mean, variance = (x for name, x in sorted(arrays.items()) if name.startswith("state.normalizer.") and x.shape == (2,))
    scaled = np.clip((obs - mean) / np.sqrt(variance + 1e-8), -10, 10)
    np.testing.assert_allclose(act(obs), np.clip(logits_of(arrays, scaled), -1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_a_policy_with_memory_remembers_until_it_is_reset(shared, tmp_path):
    env = jaxpg.make("CartPole-v1")
    algo = jaxpg.ppo(env, network="gru", shared=shared, num_envs=2, num_steps=8, minibatches=2, hidden=(6,), learning_rate=0.05)
    jaxpg.run(algo, directory=tmp_path, total_steps=160, seeds=1, eval_episodes=2)
    act = jaxpg.load_policy(tmp_path, algo=algo)
    obs = np.random.default_rng(0).normal(size=(40, 3, 4)).astype(np.float32)
    memory, start, by_hand = act.initial_memory(3), jnp.ones(3, bool), []
    step = jax.jit(act.step)
    for x in obs:
        memory, actions = step(memory, x, start)
        by_hand.append(actions)
        start = jnp.zeros(3, bool)
    remembered = np.array([act(x) for x in obs])
    np.testing.assert_array_equal(remembered, by_hand)
    act.reset()
    np.testing.assert_array_equal([act(x) for x in obs], by_hand)
    forgotten = []
    for x in obs:
        act.reset()
        forgotten.append(act(x))  # and the last one is remembered below
    assert np.any(remembered != forgotten), "it does not use its memory"
    with pytest.raises(ValueError, match="obs is a batch of 2, but the last one had another size: call reset"):
        act(obs[0, :2])
    with pytest.raises(ValueError, match=r"use act\.step"):
        jax.jit(act)(jnp.asarray(obs[0]))
