"""Run by ``make wheel``: what a user does first, the command and the lines of the quickstart, with the wheel alone."""

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import jax

import jaxpg


def main() -> None:
    command = Path(sys.executable).with_name("jaxpg")
    jaxpg.use_all_cores()
    assert "site-packages" in jaxpg.__file__, jaxpg.__file__
    with tempfile.TemporaryDirectory() as folder:
        options = ["--env", "CartPole-v1", "--seeds", "4", "--total-steps", "20000", "--run-dir", f"{folder}/run"]
        subprocess.run([command, "train", "ppo", *options], check=True)
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
    assert summary["settings"], summary

    env = jaxpg.make("CartPole-v1")
    algo = jaxpg.ppo(env)
    state = algo.init(jax.random.key(0))
    state, metrics = jaxpg.train(algo, state, num_updates=40, log_every=10)
    result = jaxpg.evaluate(algo, state, jax.random.key(1), num_episodes=16, greedy=True)
    assert metrics["episode_return"].shape == (4,)
    assert result["episode_return"].shape == (16,)
    print(f"jaxpg {metadata.version('jaxpg')} on Python {sys.version.split()[0]}, jax {jax.__version__}: the wheel works")


if __name__ == "__main__":
    main()
