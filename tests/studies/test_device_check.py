"""The check of a device: all of it runs on a CPU, small; what fails is recorded and stops nothing else."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest

from experiments.accelerator import device_carry, device_cases, device_check, device_parts, device_process
from jaxpg.algorithms import presets

PARTS = tuple(device_parts.PARTS)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """All of it on a CPU: the exit status, and what was written."""
    out = tmp_path_factory.mktemp("device")
    return device_check.main(out=out, budget=1200.0, cpu=True), json.loads((out / "results.json").read_text())


def test_every_part_is_there_and_passes_or_says_why_it_was_left_out(small):
    status, results = small
    assert {name: part["status"] for name, part in results["parts"].items()} == {
        **dict.fromkeys(PARTS, "passed"),
        "command_buffers": "skipped: not on a CPU",
        "purejaxrl": "skipped: no checkout is given: --purejaxrl",
    }
    assert status == 0
    parts = [part["seconds"] for part in results["parts"].values()]
    assert results["seconds"] >= sum(parts) - 0.05 * (len(parts) + 1)  # each is rounded to a tenth
    assert results["parts"]["throughput"]["device"]["platform"] == "cpu"
    assert "jax" in results["parts"]["agreement"]["versions"]
    skipped = {
        name: [case for case, found in part["cases"].items() if "skipped" in found] for name, part in results["parts"].items()
    }
    assert {name: cases for name, cases in skipped.items() if cases} == {
        "launches": ["ppo 3, profile"],
        "purejaxrl": ["2"],
        "engine": ["as many as fit"],
    }


def test_what_it_finds_on_a_cpu_is_what_a_cpu_does(small):
    parts = {name: part["cases"] for name, part in small[1]["parts"].items()}
    assert {*parts["agreement"]} == {*presets.ALGORITHMS}
    for found in parts["agreement"].values():
        assert found["highest"]["alike"] == found["runs"] == 2
        assert found["highest"]["distance"] < 1e-6
    (rate,) = parts["throughput"].values()
    assert rate["steps_per_second"] == pytest.approx(3 * 512 / (1e-3 * rate["ms_per_update"]), rel=1e-2)
    text = parts["launches"]["ppo 3, program"]
    assert text["launches"] > 128 + 16 > text["outside_loops"] > 0
    learned = parts["learning"]["CartPole-v1"]
    assert learned["greedy_return"]["mean"] > 60  # a random policy: 22
    assert learned["seconds"] > learned["compile_seconds"] + learned["train_seconds"]
    run = parts["engine"]["ppo 4"]
    assert run["planned_bytes"] > 4 * 8 * 4 * 5000  # parameters of two networks, Adam's moments, a rollout
    assert run["compile_seconds"] > 0
    resumed = parts["resume"]["programs kept"]
    assert resumed["was_running"]
    assert resumed["killed_at"][0] < resumed["updates"]
    assert resumed["same_digests"]
    assert resumed["same_log"]


def test_hyperparameters_that_are_a_thousandth_too_large_do_not_agree():
    found = device_cases.compare("a2c", ("highest",), 2, planted=1.001)
    assert found["highest"]["alike"] == 2
    assert 1e-4 < found["highest"]["distance"] < 1e-1
    assert not found["passed"]


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(tmp_path, capfd):
    nothing = tmp_path / "nothing"
    assert device_check.main(out=tmp_path, only=("purejaxrl", "command_buffers"), purejaxrl=nothing, cpu=True) == 1
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert parts["purejaxrl"]["status"] == "failed"
    assert parts["purejaxrl"]["cases"]["2"]["error"].startswith("Failed: ")
    assert parts["command_buffers"]["status"] == "skipped: not on a CPU"
    assert "== purejaxrl: failed" in capfd.readouterr().out


def test_a_part_that_cannot_even_begin_says_why(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(device_process, "SMALL", dataclasses.replace(device_parts.SMALL, seeds=None))
    device_process.write(tmp_path / "results.json", {"parts": {"throughput": {"cases": {}}}})
    assert device_process.main("throughput", tmp_path / "results.json", cpu=True) == device_process.FAILED
    part = json.loads((tmp_path / "results.json").read_text())["parts"]["throughput"]
    assert part["error"] == "TypeError: 'NoneType' object is not iterable"
    assert part["device"]["platform"] == "cpu"
    assert "Traceback" in capfd.readouterr().err


def test_a_part_whose_process_dies_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag")
    assert device_check.main(out=tmp_path, only=("engine",), cpu=True) == 1
    part = json.loads((tmp_path / "results.json").read_text())["parts"]["engine"]
    assert part["status"] == "died with status 1"
    assert part["cases"] == {}


def test_a_part_without_time_is_cut_off_and_what_was_there_stays(tmp_path):
    assert device_check.main(out=tmp_path, only=("throughput", "command_buffers"), budget=0.5, cpu=True) == 1
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert parts["throughput"] == {"status": "cut off after 0 s", "cases": {}, "seconds": pytest.approx(0.3, abs=0.3)}
    assert parts["command_buffers"]["status"] == "skipped: not on a CPU"


def test_parts_share_the_time_that_is_left():
    assert device_check.limit(100.0, "resume", PARTS) == 100.0
    limits, left = [], 450.0
    for name in PARTS:  # each takes all it may
        limits.append(device_check.limit(left, name, PARTS))
        left -= limits[-1]
    assert left == pytest.approx(0.0)
    assert min(limits) > 30
    assert device_check.limit(450.0, "resume", ("learning", "resume")) == 450.0


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(SystemExit, match="no GPU here; --cpu"):
        device_check.main(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_refused_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="only = 'everything' is no part; there are: agreement, "):
        device_check.main(out=tmp_path, only=("everything",))


def test_a_case_that_raises_is_recorded():
    found = device_process.measured(lambda: {}["no"])
    assert found["error"] == "KeyError: 'no'"
    assert device_process.has_failed(found)
    assert device_process.has_failed({"passed": False})
    assert not device_process.has_failed({"skipped": "here"})


def test_xla_knows_the_flags_of_all_parts():
    """It refuses to start with a flag, or a value, that it does not know."""
    flags = device_check.variables("command_buffers", cpu=True)
    assert device_parts.LOOPS in flags["XLA_FLAGS"]
    code = "import os, sys, jax; os.environ |= dict(line.split('=', 1) for line in sys.argv[1:]); jax.devices()"
    subprocess.run([sys.executable, "-c", code, *(f"{name}={value}" for name, value in flags.items())], check=True, timeout=60)


def test_a_profile_is_read_and_summed_up(tmp_path):
    double = jax.jit(lambda x: x @ x)
    double(jax.numpy.ones((8, 8))).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        double(jax.numpy.ones((8, 8))).block_until_ready()
    assert device_cases.recorded(tmp_path, "/device:GPU", "stream") == []
    events = device_cases.recorded(tmp_path, "/host:CPU", "")
    assert all(seconds >= 0 for _, seconds in events)
    assert any("dot" in name or "double" in name or "lambda" in name for name, _ in events)
    found = device_cases.digest([("gemm", 3e-6), ("gemm", 1e-6), ("MemcpyD2D", 2e-6), ("tanh", 1e-6)], 2)
    assert found == {
        "kernels": 1.5,
        "copies": 0.5,
        "busy_ms_per_update": pytest.approx(3.5e-3),
        "most": ["1 x 2.00 us gemm", "0.5 x 2.00 us MemcpyD2D", "0.5 x 1.00 us tanh"],
    }


def test_the_command_line_is_short_and_what_is_taken_along_has_versions():
    line = device_carry.command("results", True, "0123456789ab-dirty")
    assert len(line) <= 2000
    options = line.split("experiments.accelerator.device_check ")[1].split()
    assert options == ["--out", "results", "--purejaxrl", ".whl/purejaxrl", "--note", "0123456789ab-dirty"]
    pins = device_carry.versions()
    for name in (*device_carry.LIBRARY, *device_carry.COMMAND, *device_carry.PEER):
        assert pins[name][0].isdigit(), name
