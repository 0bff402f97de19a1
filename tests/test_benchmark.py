"""The benchmark of throughput: its arithmetic, how it talks to contestants, and jaxpg as one of them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from experiments.benchmark import ceiling, reference, throughput
from experiments.benchmark.contestants import command, process, roster
from jaxpg.lab.cli.commands import main

FAKE = """
import protocol
import argparse, os, sys, time
parser = protocol.arguments()
parser.add_argument("--crash", type=int, default=0)
parser.add_argument("--hang", type=int, default=0)
given = parser.parse_args()
print("chatter of a library")
os.system("echo chatter of what it starts")
trained = []

def prepare(case):
    def train():
        trained.append(case.updates)
        if len(trained) == given.crash:
            raise RuntimeError("out of luck\\nand of memory")
        time.sleep(3600 if len(trained) == given.hang else 0.001 * case.updates)
        return case.seeds * case.steps_per_seed
    return train

protocol.serve(given, prepare, ("numpy",), dict)
"""
FAKE_COMMAND = """
import json, os, pathlib, sys
run_dir = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
run_dir.mkdir(parents=True)
cache = pathlib.Path(os.environ["XDG_CACHE_HOME"])
cache.mkdir(parents=True, exist_ok=True)
(run_dir / "config.json").write_text(json.dumps({"device": {"platform": "cpu", "kind": "fake", "count": COUNT}}))
summary = {"env_steps_per_second": 4096.0, "compile_seconds": float(len(list(cache.iterdir())))}
(run_dir / "timing.json").write_text(json.dumps(summary))
(cache / str(os.getpid())).touch()
seen = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
pathlib.Path(__file__).with_name("seen.json").write_text(json.dumps(seen))
"""
CANNED = {
    "case": "1x4",
    "contestants": {
        "jaxpg": {"median": 150_000.4, "min": 140_000.0, "max": 160_000.0, "ratio": 1.0, "compile_seconds": 2.04},
        "rejax": {"median": 75_000.0, "min": 70_000.0, "max": 80_000.0, "ratio": 2.0, "compile_seconds": 3.0},
        "jaxpg-command": {"median": 1e5, "min": 9e4, "max": 1e5, "ratio": 1.5, "compile_seconds": 9.0, "wall_seconds": 12.34},
    },
    "failed": {"sbx": "ImportError: no | module"},
}


@pytest.fixture
def fakes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Contestants called jaxpg, one that crashes in its second round, one that hangs there, and one that has no packages."""
    script = tmp_path / "fake.py"
    folder = pathlib.Path(process.__file__).parent
    script.write_text(f"import sys\nsys.path.insert(0, {str(folder)!r})\n{FAKE}")
    monkeypatch.setitem(roster.CONTESTANTS, "jaxpg", roster.Contestant(str(script)))
    monkeypatch.setitem(roster.CONTESTANTS, "sb3", roster.Contestant(str(script), ("--crash", "5")))
    monkeypatch.setitem(roster.CONTESTANTS, "sbx", roster.Contestant(str(script), ("--hang", "5")))
    return tmp_path


@pytest.mark.parametrize("text", ["", "16", "16x", "x4", "0x4", "4x0", "-1x4", "1.5x4", "16x4x2", "16 x 4", "16X4", "a\nx4"])
def test_a_case_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="must be SEEDSxENVS") as caught:
        throughput.parse_case(text)
    assert len(str(caught.value).splitlines()) == 1


def test_cases_and_presets() -> None:
    assert throughput.parse_case("256x4") == (256, 4)
    assert len(throughput.Options().cases) == 6
    assert throughput.Options().contestants == tuple(roster.CONTESTANTS)
    accelerator = throughput.Options("accelerator", contestants=("jaxpg",))
    assert (accelerator.cases, accelerator.contestants, accelerator.steps_per_seed) == (("2048x4",), ("jaxpg",), 500_000)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"contestants": ("ppo",)}, "unknown contestant 'ppo'; known: jaxpg, "),
        ({"cases": ("4",)}, "SEEDSxENVS"),
        ({"interpreter": ("rejax=/no/such/python",)}, "NAME=PATH of a Python that exists"),
        ({"interpreter": ("rejax",)}, "NAME=PATH"),
        ({"interpreter": (f"nobody={sys.executable}",)}, "unknown contestant"),
        ({"repetitions": 0}, "above 0"),
        ({"seconds": -1.0}, "above 0"),
    ],
)
def test_wrong_options_are_refused(wrong: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        throughput.Options(**wrong)


def test_medians_extremes_and_ratios_of_neighbours() -> None:
    rates = [(10.0, 5.0), (30.0, 10.0), (20.0, 2.0)]
    rounds = [
        {"jaxpg": {"env_steps": ours, "seconds": 1.0}, "rejax": {"env_steps": 2 * theirs, "seconds": 2.0}}
        for ours, theirs in rates
    ]
    found = throughput.summarize(rounds, {"jaxpg": {"updates": 7}, "rejax": {}})
    assert found["jaxpg"] | {"repetitions": []} == {
        "updates": 7,
        "median": 20.0,
        "min": 10.0,
        "max": 30.0,
        "ratio": 1.0,
        "repetitions": [],
    }
    assert found["rejax"]["median"] == 5.0
    assert found["rejax"]["ratio"] == 3.0  # of 2, 3 and 10, not 20 / 5
    assert found["rejax"]["repetitions"][2] == {"env_steps": 4.0, "seconds": 2.0}
    assert throughput.summarize(rounds, {"rejax": {}})["rejax"]["ratio"] is None


def test_the_number_of_updates_follows_from_a_probe() -> None:
    assert throughput.updates_for({"seconds": 0.1}, 10, 3.0) == 300
    assert throughput.updates_for({"seconds": 60.0}, 1, 3.0) == 1


def test_the_table_has_a_line_for_every_contestant() -> None:
    lines = throughput.table([CANNED]).splitlines()
    assert lines[2] == "| 1x4 | jaxpg | 150,000 (140,000 to 160,000) | 1.00 | 2.0 | |"
    assert lines[3] == "| 1x4 | rejax | 75,000 (70,000 to 80,000) | 2.00 | 3.0 | |"
    assert lines[4] == "| 1x4 | jaxpg-command | 100,000 (90,000 to 100,000) | 1.50 | 9.0 | 12.3 |"
    assert lines[5] == "| 1x4 | sbx | no number: ImportError: no / module | | | |"
    assert len({line.count("|") for line in lines}) == 1


def test_the_figure_is_drawn_whatever_is_missing(tmp_path: pathlib.Path) -> None:
    throughput.draw([CANNED, CANNED | {"case": "16x4", "contestants": {}}], tmp_path / "a.png")
    throughput.draw([CANNED | {"contestants": {}}], tmp_path / "b.png")
    assert min(file.stat().st_size for file in tmp_path.iterdir()) > 5_000


def test_contestants_take_turns_and_who_fails_is_named(fakes: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    contestants = ("jaxpg", "sb3", "sbx", "purejaxrl", "jaxpg-shard-envs")
    options = throughput.Options(
        cases=("2x64",), contestants=contestants, seconds=0.02, repetitions=3, timeout=5.0, out=fakes,
        interpreter=(f"sb3={sys.executable}", f"sbx={sys.executable}"),
    )  # fmt: skip
    throughput.main(options)
    written = json.loads((fakes / "throughput.json").read_text())
    (case,) = written["cases"]
    (one,) = case["contestants"].values()  # the seeds are two, so that jaxpg-shard-envs does not take part
    assert list(case["contestants"]) == ["jaxpg"]
    assert one["updates"] > 1  # the probe was of one
    assert [run["env_steps"] for run in one["repetitions"]] == [2 * 64 * 128 * one["updates"]] * 3
    assert one["min"] <= one["median"] <= one["max"]
    assert one["ratio"] == 1.0
    assert set(one["versions"]) == {"python", "numpy"}
    assert case["failed"]["sb3"] == "RuntimeError: out of luck and of memory"
    assert case["failed"]["sbx"].startswith("no answer within 5 s; chatter of")
    assert "--purejaxrl PATH" in case["failed"]["purejaxrl"]
    assert written["machine"]["cores"] >= 1
    assert (fakes / "throughput.md").read_text() in capfd.readouterr().out
    assert (fakes / "throughput.png").stat().st_size > 5_000


@pytest.fixture
def fake_command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], pathlib.Path]:
    """``(count) -> path`` of a command that says it computed on ``count`` devices, and is the contestant ``jaxpg-command``."""

    def make(count: int) -> pathlib.Path:
        path = tmp_path / "jaxpg"
        path.write_text(f"#!{sys.executable}\n{FAKE_COMMAND.replace('COUNT', str(count))}")
        path.chmod(0o755)
        monkeypatch.setitem(roster.CONTESTANTS, "jaxpg-command", roster.Contestant("run_command.py", ("--command", str(path))))
        return path

    return make


def test_the_command_is_timed_by_its_own_clock_and_as_a_process(
    fake_command: Callable[[int], pathlib.Path], tmp_path: pathlib.Path
) -> None:
    fake_command(command.available_cores())
    options = throughput.Options(
        cases=("8x4",), contestants=("jaxpg-command",), steps_per_seed=1024, repetitions=2, timeout=20.0, out=tmp_path
    )
    (case,) = throughput.main(options)["cases"]
    assert case["failed"] == {}
    found = case["contestants"]["jaxpg-command"]
    assert found["median"] == pytest.approx(4096.0)
    assert found["compile_seconds"] == 0.0  # of the first process, which the next follow
    assert [run["compile_seconds"] for run in found["repetitions"]] == [1.0, 2.0]
    assert [run["env_steps"] for run in found["repetitions"]] == [8 * 1024] * 2
    assert 0.0 < found["wall_seconds"] < 2.0  # the clock of the command says 8 * 1024 / 4096
    assert found["versions"]["devices"] == f"{command.available_cores()} x fake"


def test_the_command_runs_as_a_user_runs_it(
    fake_command: Callable[[int], pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_none")
    command.train(fake_command(99), 2, 512, {"num_envs": 4}, tmp_path / "run", tmp_path / "cache")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert not [name for name in seen["environment"] if name.startswith(("JAX_", "XLA_"))]
    assert seen["environment"]["PATH"] == os.environ["PATH"]
    assert " ".join(seen["arguments"]) == (
        f"train ppo --env CartPole-v1 --seeds 2 --total-steps 512 --eval-episodes 1 --run-dir {tmp_path / 'run'} --num-envs 4"
    )


def test_a_command_that_leaves_cores_unused_has_no_number(
    fake_command: Callable[[int], pathlib.Path], tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_command(0)
    (case,) = throughput.main(throughput.Options(cases=("8x4",), contestants=("jaxpg-command",), out=tmp_path))["cases"]
    why = f"RuntimeError: the command used 0 CPU devices, and {command.available_cores()} cores were there for 8 seeds"
    assert case["failed"] == {"jaxpg-command": why}
    assert f"8x4 jaxpg-command FAILED: {why}" in capfd.readouterr().err


def test_a_command_that_fails_says_why(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeError, match=r"^\S+ ended with 2: .*No such file or directory"):
        command.train(pathlib.Path(sys.executable), 2, 512, {}, tmp_path / "run", tmp_path / "cache")


@pytest.mark.parametrize(
    ("seeds", "cores", "fewest"),
    [(1, 2, 1), (2, 2, 2), (3, 2, 2), (16, 2, 2), (3, 4, 3), (5, 4, 3), (16, 16, 16), (20, 16, 10), (256, 64, 64)],
)
def test_the_fewest_devices_on_which_none_has_two_seeds_more_than_needed(seeds: int, cores: int, fewest: int) -> None:
    assert fewest == min(n for n in range(1, cores + 1) if max(map(len, np.array_split(range(seeds), n))) == -(-seeds // cores))
    command.check_devices({"platform": "cpu", "count": fewest}, seeds, cores)
    command.check_devices({"platform": "gpu", "count": 1}, seeds, cores)
    with pytest.raises(RuntimeError, match=f"used {fewest - 1} CPU devices, and {cores} cores were there"):
        command.check_devices({"platform": "cpu", "count": fewest - 1}, seeds, cores)


def test_the_command_has_the_options_that_the_benchmark_gives_it(tmp_path: pathlib.Path) -> None:
    folder = pathlib.Path(command.__file__).parent
    show = "import json; from jaxpg_options import OPTIONS; import protocol; print(json.dumps(OPTIONS), file=protocol.private)"
    shown = subprocess.run([sys.executable, "-c", show], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    options = json.loads(shown.stdout)
    given = options | {"hidden": tuple(options["hidden"]), "anneal": (), "num_envs": 2}
    assert main(command.train_arguments(2, 256, given, tmp_path / "run")) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["options"] == written["options"] | options | {"anneal": [], "num_envs": 2, "total_steps": 256}
    assert command.read_device(tmp_path / "run")["count"] >= 1
    assert {"env_steps_per_second", "compile_seconds"} <= json.loads((tmp_path / "run" / "timing.json").read_text()).keys()


def test_a_contestant_that_cannot_start_says_why() -> None:
    child = process.Child([sys.executable, "-c", "import no_such_module"], timeout=20.0)
    with pytest.raises(process.Failed, match="ModuleNotFoundError: No module named 'no_such_module'"):
        child.ask("go")
    child.close()
    child.close()


def test_chatter_stays_out_of_the_answers_and_the_end_of_input_ends_a_contestant(fakes: pathlib.Path) -> None:
    command = [sys.executable, str(fakes / "fake.py"), "--seeds", "1", "--num-envs", "4", "--updates", "1"]
    done = subprocess.run(command, input="go\n", capture_output=True, text=True, timeout=20, check=True)
    assert [sorted(json.loads(line)) for line in done.stdout.splitlines()] == [
        ["compile_seconds", "ready", "versions"],
        ["env_steps", "seconds"],
    ]
    assert done.stderr.count("chatter") == 2


def test_an_environment_that_cannot_be_made_is_a_failure(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HERE", tmp_path)
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "bench").write_text("a file where a directory must be")
    with pytest.raises(process.Failed, match=r"none\.txt cannot be installed"):
        process.environment("none.txt", tmp_path / "bench")


def test_jaxpg_takes_part(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # it hardly runs
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip())
    options = throughput.Options(
        cases=("2x2",), contestants=("jaxpg",), steps_per_seed=300, repetitions=1, timeout=60.0, out=tmp_path
    )
    (case,) = throughput.main(options)["cases"]
    assert case["failed"] == {}
    ours = case["contestants"]["jaxpg"]
    assert ours["updates"] == 2  # of 256 steps
    assert [run["env_steps"] for run in ours["repetitions"]] == [2 * 2 * 256]
    assert ours["compile_seconds"] > 0
    assert "jax" in ours["versions"]


def test_arithmetic_by_hand_is_nearly_all_that_xla_counts():
    algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=128, epochs=4, minibatches=4, hidden=(64, 64))
    assert ceiling.by_hand(4) == 236_032
    assert 1.0 < ceiling.by_xla(algo, 4, 4) / ceiling.by_hand(4) < 1.1


def test_the_frozen_reference_learns():
    init, update = reference.make(4)
    state = jax.jit(init)(jax.random.key(0))
    after = jax.jit(lambda state: jax.lax.fori_loop(0, 3, lambda _, s: update(s), state))(state)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state[1], after[1])
    assert all(0.0 < x < 0.1 for x in jax.tree.leaves(moved))
