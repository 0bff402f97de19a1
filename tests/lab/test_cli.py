"""The command line: what it says, what it refuses, what its options do."""

import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error

import pytest

import jaxpg
from jaxpg import envs
from jaxpg.algorithms import _named, presets
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.cli import options
from jaxpg.lab.config import Config
from jaxpg.lab.engine import stopping
from jaxpg.lab.store.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("programs_once", "no_figures")

# Says which heavy packages a command loaded, on stderr; JAX alone takes a second.
LOADED = """
import sys
from jaxpg.lab.cli.commands import main
try:
    main(sys.argv[1:])
finally:
    print({"jax", "flax", "numpy", "scipy", "matplotlib"} & set(sys.modules) or "light", file=sys.stderr)
"""


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(cli.main(arguments))
    assert not stop.value.code
    return re.sub(r"[\s│]+", " ", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "ppo", "--help"],
        ["sweep", "ppo", "--help"],
        ["resume", "--help"],
        ["evaluate", "--help"],
        ["render", "--help"],
        ["export", "--help"],
        ["report", "--help"],
        ["envs", "--help"],
        ["--version"],
    ],
)
def test_help_is_there_at_once(arguments):
    def core_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0
        assert done.stderr == "light\n"
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(core_seconds() < 0.5 for _ in range(8)), "other tenants may slow one, not all"


def test_help_lists_what_there_is(capsys):
    commands = shown(capsys, "--help")
    assert all(f" {command} " in commands for command in options.COMMANDS)
    for command in ("train", "sweep"):
        listed = shown(capsys, command, "--help")
        assert all(name in listed for name in presets.ALGORITHMS)
    assert tuple(options.ALGORITHMS) == presets.ALGORITHMS
    assert shown(capsys, "--version").strip() == f"jaxpg {jaxpg.__version__}"


@pytest.mark.parametrize("algo", presets.ALGORITHMS)
@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])
def test_every_option_has_a_line_of_help_and_its_default(capsys, algo, env):
    text = shown(capsys, "sweep", algo, "--env", env, "--help")
    assert all(f"--{name} " in text for name in ("vary", "launcher", "part", "coordinator", "process"))
    for name, default in presets.options(algo, env).items():
        default = " ".join(map(str, default)) or "none" if isinstance(default, tuple) else default
        assert re.search(rf"--{name.replace('_', '-')} \S.* \w.* \(default: {re.escape(str(default))}\)", text), name
    general = {
        "env": Config.env,
        "seeds": 16,
        "seed": 0,
        "rng": "philox4x32",
        "matmul-precision": "default",
        "run-dir": "a new one in runs/",
        "eval-episodes": 128,
        "evaluate-every": 0,
        "log-every": 0,
        "log": "none",
        "checkpoint-every": 30.0,
        "keep": 2,
        "batch-size": 0,
        "memory": 0.0,
        "shard-envs": False,
    }
    for name, default in general.items():
        assert re.search(rf"--{name} (\[?\S+ (\.\.\.\] )?)?\w.* \(default: {re.escape(str(default))}\)", text), name


def test_commands_for_what_is_there_have_their_own_options(capsys):
    for command, names in {
        "resume": ["total-steps", "launcher", "part", "coordinator", "process"],
        "evaluate": ["setting", "episodes", "step", "greedy", "sampled", "json", "in"],
        "render": ["out", "setting", "seed", "step", "steps", "fps"],
        "export": ["out", "setting", "seed", "step", "sampled"],
    }.items():
        text = shown(capsys, command, "--help")
        assert "DIR" in text
        for name in names:
            assert re.search(rf"--{name} (\S+ )?\w.* \(default: \S+\)", text), name


def test_what_is_left_out_is_the_preset_of_the_environment():
    for line in ("--env MountainCar-v0", "--env=MountainCar-v0", "--env X --env MountainCar-v0"):
        config, _ = options.read("train", ["ppo", *line.split()])
        assert config.env == "MountainCar-v0"
        assert config.options == presets.options("ppo", "MountainCar-v0")


def another(name, value):
    """A value as text that is not the one given, and still fits."""
    if isinstance(value, bool):
        return []
    if isinstance(value, tuple):
        return ["4"] if value else ["gamma"]
    special = {"gamma": "0.5", "gae_lambda": "0.5", "sequence_length": "4", "num_steps": str(value * 2 or 1000)}
    special |= {"network": "gru", "activation": "relu", "observation": "running", "warmup": "2", "anneal_shape": "cosine"}
    special |= {"reward_norm": "running", "advantage_norm": "none" if value == "rollout" else "rollout"}
    return [special.get(name) or str(value * 2 if value else 0.5)]


OPTIONS = [(algo, name) for algo in presets.ALGORITHMS for name in presets.options(algo, None)]


@pytest.mark.parametrize(("algo", "name"), OPTIONS, ids=[f"{algo}-{name}" for algo, name in OPTIONS])
def test_every_option_changes_the_algorithm(algo, name):
    def build(*arguments):
        config, _ = options.read("train", [algo, *arguments])
        return config, _named.build(algo, envs.make(config.env), **config.options)

    value = another(name, presets.options(algo, None)[name])
    needs = {"value_coef": ["--shared"], "sequence_length": ["--network", "gru"]}
    needs |= {"obs_clip": ["--observation", "running"], "anneal_shape": ["--anneal", "gamma"]}
    needs |= {"total_steps": ["--anneal", "gamma"]}  # otherwise only the number of updates
    before, algorithm = build(*needs.get(name, []))
    after, changed = build(f"--{name.replace('_', '-')}", *value, *needs.get(name, []))
    differ = {k for k in before.options if before.options[k] != after.options[k]}
    if name == "shared" and "critic_learning_rate" in before.options["anneal"]:  # a shared network has none
        assert after.options["anneal"] == tuple(k for k in before.options["anneal"] if k != "critic_learning_rate")
        differ -= {"anneal"}
    assert differ == {name}
    assert (changed, changed.hparams) != (algorithm, algorithm.hparams)


BAD = {
    "foo": "unknown command 'foo'",
    "--foo": "unknown command '--foo'",
    "train": "train needs an algorithm: reinforce",
    "train pppo": "unknown algorithm 'pppo'; did you mean ppo",
    "train ppo --gama 0.9": "unknown option 'gama'; did you mean gamma",
    "train ppo --seedz 2": "unknown option 'seedz'; did you mean seed or seeds",
    "train ppo --max-kl 0.1": "max_kl = 0.1 is not read by ppo, which reads",
    "train trpo --clip-eps=0.1": "clip_eps = 0.1 is not read by trpo, which reads",
    "train ppo 5": "unexpected '5'; an option starts with --",
    "train ppo --seeds 3 4": "unexpected '4'",
    "train ppo --env-params gravity": "env_params 'gravity' must be NAME=VALUE, e.g. max_steps_in_episode=1000",
    "train ppo --env-params gravity=1 gravity=2": "env_params gravity is given twice; give it once",
    "train ppo --env-params gravity=1 --env-params length=2": "env_params is given twice; put all NAME=VALUE after one",
    "train ppo --env-params gravity=fast": "env_params gravity = fast must be a number",
    "train ppo --env-params gravity=nan": "env_params gravity = nan must be a finite number",
    "train ppo --env-params gravity=true": "env_params gravity = True must be a number",
    "train ppo --env-params gravty=1": "unknown parameter of the environment 'gravty'; did you mean gravity?",
    "sweep ppo --vary gamma=0.9 --env-params max_steps_in_episode=1.5": "max_steps_in_episode = 1.5 must be a whole number",
    "sweep ppo --vary env_params=1": "unknown option 'env_params'",
    "train ppo --env Acrobot-v1 --env-params available_torque=1": "available_torque is an array of shape (3,); only parameters",
    "train ppo --env nowhere.mazes:make": "env = nowhere.mazes:make: nowhere.mazes cannot be imported: ModuleNotFoundError: No",
    "train ppo --env json:maze": "env = json:maze: json has no maze",
    "train ppo --env math:pi": "env = math:pi is a float; it must be a function or a class that returns an environment",
    "train ppo --env json:loads": "env = json:loads: the call without arguments fails: TypeError: loads() missing 1 required",
    "train ppo --env builtins:dict": "env = builtins:dict did not return an environment: env is a dict without reset",
    "train ppo --env brx/ant": "unknown suite of environments 'brx'; did you mean brax?",
    "envs brx": "unknown suite of environments 'brx'; did you mean brax?",
    "train ppo --env :make": "env = :make is not the name of an environment, e.g. CartPole-v1 or package.module:factory",
    "train reinforce --num-steps 499": "num_steps = 499 is below the time limit of 500 steps: REINFORCE learns from complete",
    "train ppo --num-steps 0": "num_steps = 0 must be at least 1",
    "train ppo --layer-norm true": "unexpected 'true'",
    "train ppo --value-coef 1": "value_coef = 1.0 is not read where the critic does not share the network of the policy",
    "sweep ppo --vary shared=yes": "shared = yes must be true or false",
    "sweep ppo --vary network=mlp,cnn": "network = cnn: there is no image [H, W, C] in observations of shape (4,); use mlp",
    "train ppo --seeds": "Missing value for argument '--seeds'",
    "train ppo --seeds --seed 3": "Missing value for argument '--seeds'",
    "train ppo --seeds x": "seeds = x must be a whole number",
    "train ppo --hidden 64,32": "hidden = 64,32 must be a list with spaces: 64 32",
    "train ppo --seeds 0": "seeds = 0 must be at least 1",
    "train ppo --seeds -1": "seeds = -1 must be at least 1",
    "train ppo --total-steps 0": "total_steps = 0 must be at least 1",
    "train ppo --num-envs 0": "num_envs = 0 must be at least 1",
    "train ppo --learning-rate fast": "learning_rate = fast must be a number",
    "train ppo --gamma 1.5": "gamma = 1.5 is out of range; it must lie in [0, 1]",
    "train ppo --clip-eps 0": "clip_eps = 0 is out of range",
    "train ppo --learning-rate nan": "learning_rate = nan is out of range",
    "train ppo --env Cartpole-v1": "unknown environment 'Cartpole-v1'; did you mean CartPole-v1",
    "train ppo --num-envs 3 --num-steps 5 --minibatches 4": "3 * 5 = 15 is not divisible by minibatches = 4",
    "train ppo --observation sideways": "observation = sideways must be none, bounds or running",
    "train ppo --anneal clip_epss": "clip_epss",
    "train ppo --run-dir taken": "taken/config.json cannot be read",
    "train ppo --run-dir taken/config.json": "taken/config.json is a file",
    "train ppo --num-envs 3 --num-steps 4 --shard-envs": "num_envs = 3 is not divisible by the 2 devices",
    "train ppo --vary gamma=1": "trains one setting; jaxpg sweep",
    "sweep": "sweep needs an algorithm: reinforce",
    "sweep pppo": "unknown algorithm 'pppo'; did you mean ppo",
    "sweep ppo": "a sweep needs something to vary",
    "sweep ppo --vary": "Missing value for argument '--vary'",
    "sweep ppo --vary gamma": "vary 'gamma' must be NAME=VALUES",
    "sweep ppo --vary gamma=": "vary gamma = '' must be values with commas between",
    "sweep ppo --vary gamma=0.9,,1": "vary gamma = '0.9,,1' must be values",
    "sweep ppo --vary gama=0.9": "unknown option 'gama'; did you mean gamma",
    "sweep ppo --vary max_kl=0.1": "max_kl = 0.1 is not read by ppo",
    "sweep ppo --vary gamma=0.9,fast": "gamma = fast must be a number",
    "sweep ppo --vary gamma=0.9,1.5": "gamma = 1.5 is out of range",
    "sweep ppo --vary gamma=0.9,0.9": "give every value once",
    "sweep ppo --vary gamma=0.9 --vary gamma=0.8": "vary gamma is given twice",
    "sweep ppo --vary gamma=log:0:1:3": "vary gamma = 'log:0:1:3' must be log:LOW:HIGH:COUNT with positive",
    "sweep ppo --vary gamma=lin:0:1": "vary gamma = 'lin:0:1' must be lin:LOW:HIGH:COUNT",
    "sweep ppo --vary num_envs=8,2.5": "num_envs = 2.5 must be a whole number",
    "sweep ppo --vary num_envs=3,8 --num-steps 5 --minibatches 4": "3 * 5 = 15 is not divisible by minibatches = 4",
    "sweep ppo --vary gamma=0.9 --memory -1": "memory = -1 must be at least 0",
    "sweep ppo --vary gamma=0.9 --memory lots": "memory = lots must be a number",
    "sweep ppo --vary gamma=0.9 --batch-size -1": "batch_size = -1 must be at least 0",
    "sweep ppo --vary gamma=0.9 --part 2/2": "part = 2/2 must be INDEX/COUNT with INDEX from 0 to COUNT - 1, e.g. 0/4",
    "sweep ppo --vary gamma=0.9 --run-dir taken": "taken/config.json cannot be read",
    "train ppo --log-every -1": "log_every = -1 must be at least 0",
    "train ppo --checkpoint-every soon": "checkpoint_every = soon must be a number",
    "train ppo --keep 0": "keep = 0 must be at least 2",
    "resume": "the directory of an experiment is missing",
    "resume nowhere": "nowhere holds no experiment: there is no config.json",
    "resume taken": "taken/config.json cannot be read",
    "resume taken other": "unexpected 'other'",
    "resume taken --total-steps more": "total_steps = more must be a whole number",
    "resume taken --total-steps -1": "total_steps = -1 must be at least 0",
    "resume taken --totl-steps 5": "unknown option 'totl-steps'; did you mean total_steps",
    "resume taken --seeds 5": "unknown option 'seeds'",
    "evaluate": "the directory of an experiment is missing",
    "evaluate nowhere": "nowhere holds no experiment: there is no config.json",
    "evaluate taken": "taken/config.json cannot be read",
    "evaluate taken --episodes 0.5": "episodes = 0.5 must be a whole number",
    "evaluate taken --episodes -1": "episodes = -1 must be at least 0",
    "evaluate taken --step -1": "step = -1 must be at least 0",
    "evaluate taken --greedy --sampled": "greedy and sampled: give one of them",
    "evaluate taken --i x": "unknown option 'i'; did you mean in",
    "evaluate taken --greed": "unknown option 'greed'; did you mean greedy",
    "render": "the directory of an experiment is missing",
    "render nowhere": "nowhere holds no experiment: there is no config.json",
    "render taken --fps fast": "fps = fast must be a whole number",
    "render taken --sted 1": "unknown option 'sted'; did you mean step or seed or steps",
    "export": "the directory of an experiment is missing",
    "export nowhere": "nowhere holds no experiment: there is no config.json",
    "export taken --seed x": "seed = x must be a whole number",
    "export taken --sample": "unknown option 'sample'; did you mean sampled",
    "report": "report needs the directory of an experiment",
    "report nowhere": "nowhere holds no experiment",
    "report taken": "taken/config.json cannot be read",
    "report taken --ou x": "unknown option 'ou'; did you mean out",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("precious")
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("jaxpg: error: ")
    assert BAD[line] in err
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["taken", "taken/config.json"]


@pytest.mark.parametrize("error", [TypeError("a bug"), ValueError("a bug\nof many lines")])
def test_a_bug_is_not_called_bad_input(error, monkeypatch):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(_named, "build", broken)
    with pytest.raises(type(error), match="a bug"):
        cli.main(["train", "ppo"])


@pytest.mark.parametrize("number", stopping.SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("line", ["train ppo", "sweep ppo --vary gamma=0.9,0.99"])
def test_interrupted_before_anything_was_written(line, number, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    monkeypatch.setattr(_named, "build", lambda *_, **__: signal.raise_signal(number))
    assert cli.main(line.split()) == 128 + number
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"jaxpg: interrupted ({number.name}); nothing was written\n")
    assert not list(tmp_path.iterdir())
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before, "who listens lets go"


def test_an_error_that_is_not_of_the_disk_promises_nothing(monkeypatch, capsys, tmp_path):
    """An environment that would have to be downloaded, without a network."""
    monkeypatch.chdir(tmp_path)

    def make(name):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(envs, "make", make)
    assert cli.main(["train", "ppo", "--env", "MNISTBandit-bsuite"]) == 1
    error = "jaxpg: error: <urlopen error Name or service not known>; nothing was written\n"
    assert capsys.readouterr().err == error
    assert not list(tmp_path.iterdir())


# What there is to say about a finished experiment.

SMALL = {"seeds": 2, "num-envs": 2, "num-steps": 8, "hidden": 4, "eval-episodes": 1, "total-steps": 96, "log-every": 2}


def train(directory, *more):
    words = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    return cli.main(["train", "a2c", *words, "--run-dir", str(directory), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, programs_once, no_figures):
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert train(directory) == 0
    return directory


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def results_of(directory):
    """All that has the same bytes whenever it is computed."""
    names = ("summary.json", "metrics.jsonl", "batch.json")
    return {path: data for path, data in contents(directory).items() if path.name in names}


def test_to_resume_what_is_finished_shows_the_result_and_does_nothing(finished, capsys):
    before = contents(finished)
    assert train(finished) == 0
    out, _ = capsys.readouterr()
    assert cli.main(["resume", str(finished)]) == 0
    assert capsys.readouterr() == (out, f"jaxpg: {finished} is finished; more with --total-steps\n")
    assert str(finished) in out
    assert contents(finished) == before


def test_more_steps_are_trained_by_a_resume(programs_once, no_figures, tmp_path, capsys):
    directory = tmp_path / "further"
    assert train(directory, "--anneal") == 0  # what is annealed depends on the budget
    assert cli.main(["resume", str(directory), "--total-steps", "128"]) == 0
    assert train(tmp_path / "planned", "--anneal", "--total-steps", "128") == 0
    assert results_of(directory) == results_of(tmp_path / "planned")


IMPOSSIBLE = {
    "resume {} --total-steps 10": "total_steps = 10 is less than the 96 of this experiment; give more",
    "resume {} --total-step 10": "unknown option 'total-step'; did you mean total_steps",
    "resume {} more": "unexpected 'more'",
    "evaluate {} --step 7": "step = 7: {}/batches/0000000/checkpoints has checkpoints of the updates 6",
    "evaluate {} --setting 1": "setting = 1: {} has the settings 0 to 0",
    "evaluate {} --episodes x": "episodes = x must be a whole number",
    "render {} --seed 2": "seed = 2: {} has the seeds 0 to 1",
    "export {} --seed 2": "seed = 2: {} has the seeds 0 to 1",
    "export {} --step 7": "step = 7: {}/batches/0000000/checkpoints has checkpoints of the updates 6",
    "export {} --out policy.md": "out = policy.md has the ending of the model card; give another one, e.g. .bin",
    "train ppo --run-dir {}": "run_dir = {} holds another experiment: algo is a2c there and ppo here; give another --run-dir",
    "train a2c --run-dir {}": "run_dir = {} holds another experiment: seeds is 2 there and 16 here; give another --run-dir",
    "sweep a2c --vary gamma=0.9 --seeds 2 --run-dir {}": "run_dir = {} holds another experiment: eval_episodes is 1 there",
}


@pytest.mark.parametrize("line", IMPOSSIBLE)
def test_what_cannot_be_done_with_an_experiment_is_refused_in_one_line(line, finished, capsys):
    before = contents(finished)
    assert cli.main([word.format(finished) for word in line.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxpg: error: {IMPOSSIBLE[line].format(finished)}")
    assert error.count("\n") == 1
    assert contents(finished) == before


@pytest.mark.parametrize("change", [
    {"env": "../../etc"}, {"algo": "../ppo"}, {"options": [1]}, {"options": {"hidden": {"a": 1}}}, {"seeds": [3]},
    {"seed": None}, {"options": None}, {"vary": 3}, {"vary": {"gamma": "x"}}, {"seeds": 10**30}, {"env": 3}, {"seeds": 3},
    {"identity": "0" * 64}, {"algorithm": None}, {"format": 3}, None,
], ids=str)  # fmt: skip
def test_a_configuration_that_was_made_by_hand_is_refused_in_one_line(change, finished, tmp_path, capsys):
    """Also where its seal fits; ``None`` is a text editor, which leaves the seal as it was."""
    directory = shutil.copytree(finished, tmp_path / "run")
    path = directory / "config.json"
    if change is None:
        path.write_text(path.read_text().replace('"seeds": 2', '"seeds": 3'))
    else:
        write_json(path, read_json(path) | change)
    before = contents(directory)
    for command in ("resume", "evaluate", "render", "export", "report"):
        assert cli.main([command, str(directory)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("jaxpg: error: ")
        assert error.count("\n") == 1
    assert train(directory) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(directory) == before


OF_A_DIRECTORY = ["resume {}", "evaluate {}", "render {}", "export {}", "report {}", "train ppo --run-dir {}"]


@pytest.mark.parametrize("command", OF_A_DIRECTORY)
def test_a_directory_of_the_first_version_is_refused_with_the_command_that_trains_the_same(command, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"algo": "ppo", "env": "Acrobot-v1", "seeds": 4, "seed": 3, "options": {"gamma": 0.9}}))
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n')
    before = contents(tmp_path)
    assert cli.main([word.format(tmp_path) for word in command.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxpg: error: {tmp_path} was written by jaxpg 0.1.0, whose format is no longer supported; ")
    words = error.partition("again: jaxpg ")[2].split()
    config, _ = options.read(words[0], words[1:])
    assert (config.algo, config.env, config.seeds, config.seed, config.options["gamma"]) == ("ppo", "Acrobot-v1", 4, 3, 0.9)
    assert error.count("\n") == 1
    assert contents(tmp_path) == before


# Nobody has to read what is printed.


class Broken(io.TextIOBase):
    """A stream that takes some characters and then no more."""

    def __init__(self, number, space):
        self.number, self.space = number, space

    def write(self, text):
        self.space -= len(text)
        if self.space < 0:
            raise OSError(self.number, os.strerror(self.number))  # EPIPE makes it a BrokenPipeError
        return len(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC], ids=os.strerror)
@pytest.mark.parametrize("space", [0, 60])
@pytest.mark.parametrize("streams", [["stdout"], ["stderr"], ["stdout", "stderr"]], ids=str)
def test_training_ends_where_output_cannot_be_written(streams, space, number, finished, tmp_path, monkeypatch, capfd):
    for name in streams:
        monkeypatch.setattr(sys, name, Broken(number, space))
    assert train(tmp_path / "run") == 0
    monkeypatch.undo()
    out, err = capfd.readouterr()
    assert results_of(tmp_path / "run") == results_of(finished)
    for text in (out, err):
        assert "Error" not in text
        assert "Exception" not in text
        assert os.strerror(number) not in text


def test_the_command_works_in_a_thread(finished, tmp_path, capsys):
    codes, before = [], [signal.getsignal(each) for each in stopping.SIGNALS]
    thread = threading.Thread(target=lambda: codes.append(train(tmp_path / "run")))
    thread.start()
    thread.join()
    assert codes == [0]
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before
    assert results_of(tmp_path / "run") == results_of(finished)
    assert str(tmp_path / "run") in capsys.readouterr().out


def test_a_platform_that_does_not_exist_is_one_line(jaxpg_process, tmp_path):
    first = "import os; os.environ['JAX_PLATFORMS'] = 'nonsense'"
    process = jaxpg_process(["train", "ppo", "--run-dir", tmp_path / "run"], tmp_path / "log", first)
    assert process.wait(120) == 2
    error = (tmp_path / "log").read_text()
    assert error.startswith("jaxpg: error: JAX_PLATFORMS = nonsense: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
