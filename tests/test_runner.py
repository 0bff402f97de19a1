"""Runs from end to end, in processes of their own, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from matplotlib.image import imread

from jaxpg.lab import devices
from jaxpg.lab.config import RunConfig
from jaxpg.lab.programs import train_in_chunks
from jaxpg.lab.writers import read_metrics

# Two CPU devices whatever the machine, and compilation without optimisation: these programs hardly run.
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "COLUMNS": "120",
}
SMALL = ["--num-envs", "4", "--num-steps", "16", "--hidden", "8", "--eval-episodes", "4"]
COMMAND = [sys.executable, "-m", "jaxpg", "train"]


def start(*arguments):
    return subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_run_writes_all_it_promises_and_is_not_overwritten(tmp_path):
    directory = tmp_path / "run"
    arguments = [*COMMAND, "ppo", "--seeds", "3", "--total-steps", "2000", "--run-dir", str(directory), *SMALL]
    out, err = (process := start(*arguments)).communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Warning" not in err
    assert str(directory) in out
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "curves.png", "metrics.jsonl", "summary.json"]

    config = json.loads((directory / "config.json").read_text())
    again = RunConfig.from_dict(config)
    assert (again.seeds, again.options["num_steps"], again.num_updates) == (3, 16, 32)
    assert config["device"]["count"] == 2  # three seeds on two devices: a fourth is computed and seen nowhere
    assert {"python", "jax", "jaxlib", "flax", "optax", "gymnax", "jaxpg"} <= config["versions"].keys()

    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [(row["update"], row["seed"]) for row in rows] == [(u, s) for u in range(1, 33) for s in range(3)]
    assert all(row["env_steps"] == 64 * row["update"] for row in rows)
    assert {"policy_loss", "critic_loss", "entropy", "kl", "episode_return", "episode_length", "episodes"} <= rows[0].keys()

    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["env"], summary["algo"], summary["num_seeds"]) == ("CartPole-v1", "ppo", 3)
    assert (summary["num_updates"], summary["env_steps_per_seed"], summary["sampled_steps"]) == (32, 2048, 2048.0)
    for name in ("greedy_return", "sampled_return"):
        score = summary[name]
        assert len(score["per_seed"]) == 3
        assert score["mean"] == pytest.approx(np.mean(score["per_seed"]))
        assert score["median"] == pytest.approx(np.median(score["per_seed"]))
        assert min(score["per_seed"]) <= score["ci95"][0] <= score["iqm"] <= score["ci95"][1] <= max(score["per_seed"])
        assert all(1 <= value <= 500 for value in score["per_seed"])
    assert summary["solved_threshold"] == 475
    assert summary["solved_fraction"] == np.mean(np.array(summary["greedy_return"]["per_seed"]) >= 475)
    assert min(summary[name] for name in ("compile_seconds", "train_seconds", "env_steps_per_second")) > 0
    assert (summary["device"], summary["versions"]) == (config["device"], config["versions"])
    assert imread(directory / "curves.png").shape[0] > 500

    before = {path: path.read_bytes() for path in directory.iterdir()}
    out, err = (process := start(*arguments)).communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert "already holds a run" in err
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_ctrl_c_leaves_what_was_written_readable(tmp_path):
    directory = tmp_path / "run"
    arguments = ["reinforce_baseline", "--seeds", "2", "--total-steps", "2e6", "--run-dir", str(directory), *SMALL]
    process = start(*COMMAND, *arguments)
    deadline = time.monotonic() + 120
    while not (directory / "metrics.jsonl").exists() or not read_metrics(directory)["env_steps"].size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == f"jaxpg: interrupted; what was written until then is in {directory}"
    assert "Traceback" not in err
    assert RunConfig.from_dict(json.loads((directory / "config.json").read_text())).options["total_steps"] == 2 * 10**6
    logged = read_metrics(directory)
    assert np.all(np.diff(logged["env_steps"]) > 0)
    assert logged["entropy"].shape == (logged["env_steps"].size, 2)


def test_environments_on_two_devices_learn_what_they_learn_on_one(tmp_path):
    """``--shard-envs`` changes where things are computed, and nothing else: the first rows agree, but for rounding."""
    arguments = ["ppo", "--seeds", "2", "--total-steps", "256", *SMALL]
    runs = {"shared": ["--shard-envs"], "alone": []}
    processes = [start(*COMMAND, *arguments, *flags, "--run-dir", str(tmp_path / name)) for name, flags in runs.items()]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    shared, alone = (read_metrics(tmp_path / name) for name in runs)
    assert shared.keys() == alone.keys()
    for name, values in shared.items():
        np.testing.assert_allclose(values[:2], alone[name][:2], rtol=1e-4, atol=1e-5, err_msg=name)
    assert json.loads((tmp_path / "shared" / "config.json").read_text())["device"]["count"] == 2


def test_metrics_are_fetched_one_chunk_behind_the_dispatch():
    events = []

    def program(length):
        def run(state):
            events.append(f"dispatch {state + length}")
            return state + length, {"done": np.array([state + length])}

        return run

    state = train_in_chunks(
        {length: program(length) for length in (4, 2)},
        [4, 4, 2],
        0,
        lambda update, m: events.append(f"report {update} {m['done'][0]}"),
    )
    assert state == 10
    assert events == ["dispatch 4", "dispatch 8", "report 4 4", "dispatch 10", "report 8 8", "report 10 10"]


@pytest.mark.parametrize(("platforms", "plugins", "chosen", "wanted"), [
    ("", False, -1, True), ("cpu", True, -1, True), ("", True, -1, False), ("cuda", False, -1, False), ("cpu", False, 3, False),
])  # fmt: skip
def test_cpu_devices_are_asked_for_only_where_cpus_compute(platforms, plugins, chosen, wanted, monkeypatch):
    asked = []
    config = type(
        "Config", (), {"jax_platforms": platforms, "jax_num_cpu_devices": chosen, "update": lambda _, *x: asked.append(x)}
    )
    monkeypatch.setattr(devices.jax, "config", config())
    monkeypatch.setattr(devices, "has_accelerator", lambda: plugins)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    devices.use_all_cores()
    assert asked == [("jax_num_cpu_devices", devices.num_cores())] * wanted


def test_the_devices_can_be_chosen_before_anything_asks_jax_for_them():
    """Some imports (gymnax) make JAX look for devices; the room that chooses them must not be one of them."""
    look = "import sys; from jaxpg.lab import devices; sys.exit('gymnax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], timeout=60, check=False).returncode == 0


def test_asking_too_late_for_cpu_devices_does_no_harm(monkeypatch):
    import jax

    count = jax.local_device_count()
    monkeypatch.setattr(devices, "has_accelerator", lambda: False)
    devices.use_all_cores()
    assert jax.local_device_count() == count
