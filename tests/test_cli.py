"""The command line: what it says, what it refuses, what its options do."""

import re
import resource
import signal
import subprocess
import sys

import pytest

import jaxpg
from jaxpg import algorithms, envs, presets
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.cli import options
from jaxpg.lab.config import Config
from jaxpg.lab.engine import devices, stopping

# Says which heavy packages a command loaded, on stderr; JAX alone takes a second.
LOADED = """
import sys
from jaxpg.lab.cli.commands import main
try:
    main(sys.argv[1:])
finally:
    print({"jax", "flax", "numpy", "scipy", "matplotlib"} & set(sys.modules) or "light", file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The devices of this process are not the command's to choose."""
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)


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
        ["report", "--help"],
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
    assert all(f" {command} " in commands for command in ("train", "sweep", "resume", "evaluate", "render", "report"))
    for command in ("train", "sweep"):
        listed = shown(capsys, command, "--help")
        assert all(name in listed for name in presets.ALGORITHMS)
    assert tuple(options.ALGORITHMS) == presets.ALGORITHMS
    assert shown(capsys, "--version").strip() == f"jaxpg {jaxpg.__version__}"


@pytest.mark.parametrize("algo", presets.ALGORITHMS)
@pytest.mark.parametrize("env", ["CartPole-v1", "MountainCar-v0"])
def test_every_option_has_a_line_of_help_and_its_default(capsys, algo, env):
    text = shown(capsys, "sweep", algo, "--env", env, "--help")
    assert all(f"--{name} " in text for name in ("vary", "memory", "distributed", "silence"))
    for name, default in presets.options(algo, env).items():
        default = " ".join(map(str, default)) or "none" if isinstance(default, tuple) else default
        assert re.search(rf"--{name.replace('_', '-')} \S.* \w.* \(default: {re.escape(str(default))}\)", text), name
    run = {
        "env": Config.env,
        "seeds": 16,
        "seed": 0,
        "rng": "philox4x32",
        "run-dir": "a new one in runs/",
        "eval-episodes": 128,
    }
    run |= {"log-every": 0, "checkpoint-every": 30.0, "keep": 2, "shard-envs": False}
    for name, default in run.items():
        assert re.search(rf"--{name} (\S+ )?\w.* \(default: {re.escape(str(default))}\)", text), name


def test_what_is_there_to_go_on_with_has_its_own_options(capsys):
    for command, names in {
        "resume": ["total-steps"],
        "evaluate": ["episodes", "step", "greedy", "sampled"],
        "render": ["out", "seed", "step", "steps", "fps"],
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


def another(value):
    """A value as text that is not the one given, and still fits."""
    if isinstance(value, tuple):
        return ["4"] if value else ["gamma"]
    return [{"none": "running"}[value]] if isinstance(value, str) else [str(value * 2 if value else 0.5)]


OPTIONS = [(algo, name) for algo in presets.ALGORITHMS for name in presets.options(algo, None)]


@pytest.mark.parametrize(("algo", "name"), OPTIONS, ids=[f"{algo}-{name}" for algo, name in OPTIONS])
def test_every_option_changes_the_algorithm(algo, name):
    def build(*arguments):
        config, _ = options.read("train", [algo, *arguments])
        return config, algorithms.build(algo, envs.make(config.env), **config.options)

    value = {"gamma": ["0.5"], "gae_lambda": ["0.5"]}.get(name, another(presets.options(algo, None)[name]))
    annealed = ["--anneal", "gamma"] if name == "total_steps" else []  # otherwise only the number of updates
    before, algorithm = build(*annealed)
    after, changed = build(f"--{name.replace('_', '-')}", *value, *annealed)
    assert [k for k in before.options if before.options[k] != after.options[k]] == [name]
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
    "train ppo --seeds": "Missing value for argument '--seeds'",
    "train ppo --seeds --seed 3": "Missing value for argument '--seeds'",
    "train ppo --seeds x": "seeds = x must be a whole number",
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
    "train ppo --observation sideways": "observation = 'sideways'",
    "train ppo --anneal clip_epss": "clip_epss",
    "train ppo --run-dir taken": "taken/config.json cannot be read",
    "train ppo --run-dir taken/config.json": "taken/config.json is a file",
    "train ppo --num-envs 3 --num-steps 4 --shard-envs": "num_envs = 3 is not divisible by the 2 devices",
    "train ppo --vary gamma=1": "unknown option 'vary'",
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
    "sweep ppo --vary gamma=0.9 --silence 0": "silence = 0 must be at least 1",
    "sweep ppo --vary gamma=0.9 --distributed here": "distributed = here must be auto or HOST:PORT,COUNT,INDEX",
    "sweep ppo --vary gamma=0.9 --distributed 127.0.0.1:1,2,2": "INDEX from 0 to COUNT - 1",
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
    "evaluate taken --greed": "unknown option 'greed'; did you mean greedy",
    "render": "the directory of an experiment is missing",
    "render nowhere": "nowhere holds no experiment: there is no config.json",
    "render taken --fps fast": "fps = fast must be a whole number",
    "render taken --sted 1": "unknown option 'sted'; did you mean step or seed or steps",
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

    monkeypatch.setattr(algorithms, "build", broken)
    with pytest.raises(type(error), match="a bug"):
        cli.main(["train", "ppo"])


@pytest.mark.parametrize("number", stopping.SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("line", ["train ppo", "sweep ppo --vary gamma=0.9,0.99"])
def test_interrupted_before_anything_was_written(line, number, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    monkeypatch.setattr(algorithms, "build", lambda *_, **__: signal.raise_signal(number))
    assert cli.main(line.split()) == 128 + number
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"jaxpg: interrupted ({number.name}); nothing was written\n")
    assert not list(tmp_path.iterdir())
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before, "who listens lets go"
