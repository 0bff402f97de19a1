"""Environments of other packages: checked, trained by the installed command, interrupted, resumed, loaded. `make test-suites`.

A suite whose package is not installed is skipped, with what to install. What the adapters must know is tested on small
environments in tests/envs/test_adapters.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxpg
from jaxpg.envs import _suites
from jaxpg.lab.policies import loading
from jaxpg.lab.store import log, results

NAMES = (
    "brax/inverted_pendulum",
    "craftax/Craftax-Classic-Symbolic",
    "jumanji/Snake-v1",
    "navix/Navix-Empty-5x5-v0",
    "pgx/minatar-breakout",
    "playground/CartpoleBalance",
    "xland/MiniGrid-Empty-5x5",
)
CHECKED = (  # besides: other kinds of observations, actions and ends
    "brax/hopper",
    "brax/reacher",
    "jumanji/Cleaner-v0",
    "jumanji/Knapsack-v1",
    "jumanji/Minesweeper-v0",
    "jumanji/RubiksCube-v0",
    "jumanji/Tetris-v0",
    "navix/Navix-DoorKey-5x5-v0",
    "navix/Navix-LavaGapS5-v0",
    "pgx/2048",
    "pgx/minatar-asterix",
    "pgx/minatar-freeway",
    "pgx/minatar-seaquest",
    "pgx/minatar-space_invaders",
    "playground/PendulumSwingup",
    "xland/XLand-MiniGrid-R1-9x9",
)
COMMAND = Path(sys.executable).with_name("jaxpg")
pytestmark = pytest.mark.filterwarnings("default")  # of other packages, about themselves


def need(name: str) -> None:
    """Skip where the package of an environment is missing."""
    suite = name.partition("/")[0]
    if not _suites.is_installed(suite):
        pytest.skip(f"{suite} is not installed: pip install 'jaxpg[{suite}]'")


def start(*arguments: object) -> subprocess.Popen:
    """The installed command in a process of its own, compiled as for a user."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen([COMMAND, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """What it printed."""
    said = process.communicate(timeout=900)[0].decode()
    assert process.returncode == code, said[-3000:]
    return said


def train(name: str, directory: Path) -> subprocess.Popen:
    """Two seeds, 20,000 steps."""
    return start("train", "ppo", "--env", name, "--total-steps", 20_000, "--seeds", 2, "--run-dir", directory)


def rows_of(directory: Path) -> list[dict]:
    """The log of all batches."""
    return [row for path in sorted(directory.glob("batches/*/metrics.jsonl")) for row in log.rows_of(path)]


@pytest.mark.parametrize("name", [*NAMES, *CHECKED])
def test_an_environment_keeps_the_rules(name):
    need(name)
    jaxpg.check_env(jaxpg.make(name), num_steps=32 if name.startswith(("craftax", "playground")) else 128)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_trains_and_resumes_bit_for_bit_and_the_policy_acts(name, tmp_path):
    need(name)
    finish(train(name, tmp_path / "once"))
    process = train(name, tmp_path / "twice")
    while not rows_of(tmp_path / "twice") and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)
    assert len(rows_of(tmp_path / "twice")) < len(rows_of(tmp_path / "once"))
    finish(start("resume", tmp_path / "twice"))
    assert rows_of(tmp_path / "twice") == rows_of(tmp_path / "once")
    assert same(results.read(tmp_path / "twice").returns, results.read(tmp_path / "once").returns)
    states = [loading.load_states(loading.of_setting(tmp_path / each, 0), [0, 1], None)[0] for each in ("once", "twice")]
    assert same(*([getattr(state, name) for name in loading.ACTING] for state in states))
    act = jaxpg.load_policy(tmp_path / "once", 1)
    env = jaxpg.make(name)
    obs, _ = env.reset(jax.random.key(0), env.default_params)
    one = act(jax.tree.map(np.asarray, obs))
    assert np.shape(one) == env.action_space(env.default_params).shape


def same(first: object, second: object) -> bool:
    """Bit for bit."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@pytest.mark.parametrize("suite", _suites.SUITES)
def test_every_suite_lists_its_environments_and_refuses_what_it_has_not(suite):
    need(f"{suite}/")
    names = _suites.list_names(suite)
    assert {name for name in (*NAMES, *CHECKED) if name.startswith(f"{suite}/")} <= {*names}
    with pytest.raises(ValueError, match=rf"^unknown environment '{suite}/nothing'"):
        jaxpg.make(f"{suite}/nothing")
    assert names[0] in finish(start("envs", suite))


def test_a_limit_of_brax_is_a_cut():
    """After 1,000 steps of an ant that does not fall: Brax's own wrapper says done, and tells a cut only in ``info``."""
    need("brax/")
    env = jaxpg.make("brax/reacher")  # which never terminates
    _, (state, _) = env.reset(jax.random.key(0), None)
    step = jax.jit(env.step)
    _, _, _, terminated, truncated, _ = step(jax.random.key(1), (state, 999), np.zeros(2, np.float32), None)
    assert (bool(terminated), bool(truncated)) == (False, True)
    _, _, _, terminated, truncated, _ = step(jax.random.key(1), (state, 998), np.zeros(2, np.float32), None)
    assert (bool(terminated), bool(truncated)) == (False, False)


def test_a_limit_of_craftax_is_a_cut_and_a_parameter():
    need("craftax/")
    env = jaxpg.envs.with_params(jaxpg.make("craftax/Craftax-Classic-Symbolic"), {"max_timesteps": 2})
    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    step = jax.jit(env.step)
    ends = []
    for i in range(2):
        _, state, _, terminated, truncated, _ = step(jax.random.key(i), state, 0, params)
        ends.append((bool(terminated), bool(truncated)))
    assert ends == [(False, False), (False, True)]
    assert jaxpg.envs.time_limit(env, params) == 2
