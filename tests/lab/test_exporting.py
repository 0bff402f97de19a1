"""Exported policies: the actions of ``load_policy`` from a file, where jaxpg is not installed, and the card beside it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from jax import export

import jaxpg
from jaxpg.core.distributions import Categorical
from jaxpg.envs import FunctionalEnv
from jaxpg.lab.cli import commands as cli
from jaxpg.lab.policies import card
from jaxpg.lab.policies.loading import Policy

pytest.importorskip("flatbuffers", reason="flatbuffers is not installed: pip install 'jaxpg[export]'")
pytestmark = pytest.mark.usefixtures("programs_once", "no_figures")

N = 7
RUNS = {
    "discrete": "sweep ppo --env CartPole-v1 --num-envs 2 --num-steps 16 --epochs 2 --hidden 8 --vary learning_rate=0.05,0.1",
    "continuous": "train a2c --env Pendulum-v1 --env-params g=9 --num-envs 2 --num-steps 16 --hidden 8 --observation running",
    "recurrent": "train a2c --env CartPole-v1 --num-envs 2 --num-steps 16 --hidden 8 --network gru --learning-rate 0.05",
    "shared": "train a2c --env Pendulum-v1 --num-envs 2 --num-steps 16 --hidden 8 --network lstm --shared",
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory, programs_once, no_figures):
    """Where the runs were trained, by name; each is trained when it is asked for."""
    root = tmp_path_factory.mktemp("runs")

    def train(name):
        if not (root / name).exists():
            general = "--seeds 2 --total-steps 96 --eval-episodes 2 --log-every 1 --checkpoint-every 1e-6 --run-dir"
            assert cli.main([*RUNS[name].split(), *general.split(), str(root / name)]) == 0
        return root / name

    return train


def observations(name, steps=1, seed=0):
    """``[steps, N, ...]``, small and large."""
    width = 3 if "Pendulum" in RUNS[name] else 4
    return np.random.default_rng(seed).normal(scale=2.0, size=(steps, N, width)).astype(np.float32)


def check_equal(found, wanted):
    """Bit for bit where they are whole numbers, else to rounding: the programs are compiled each by itself."""
    assert found.dtype == wanted.dtype
    if np.issubdtype(wanted.dtype, np.integer):
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["discrete", "continuous"])
@pytest.mark.parametrize("sampled", [False, True])
def test_an_exported_policy_acts_as_the_loaded_one(name, sampled, directories, tmp_path):
    path = jaxpg.export_policy(directories(name), tmp_path / "new" / "policy", seed=1, sampled=sampled)
    assert path == tmp_path / "new" / "policy.bin"
    policy, act, (obs,) = (
        export.deserialize(path.read_bytes()),
        jaxpg.load_policy(directories(name), seed=1),
        observations(name),
    )
    key = (jax.random.key(5),) * sampled
    actions = policy.call(obs, *key)
    check_equal(np.asarray(actions), act(obs, *key))
    check_equal(np.asarray(policy.call(obs[:3], *key)), act(obs[:3], *key))
    assert len(np.unique(actions)) > 1
    if name == "continuous":
        assert np.abs(actions).max() <= 2.0, "within the bounds"
    if sampled:
        assert np.any(actions != policy.call(obs, jax.random.key(6)))


@pytest.mark.parametrize("name", ["recurrent", "shared"])
@pytest.mark.parametrize("sampled", [False, True])
def test_an_exported_policy_with_memory_takes_and_returns_it(name, sampled, directories):
    act = jaxpg.load_policy(directories(name), seed=1)
    policy = export.deserialize(act.export(sampled=sampled).serialize())
    steps, rng = observations(name, steps=12), np.random.default_rng(1)
    inputs, _ = jax.tree.unflatten(policy.in_tree, policy.in_avals)
    memory = jax.tree.map(lambda x: rng.normal(size=(N, *x.shape[1:])).astype(x.dtype), inputs[0])  # is forgotten at once
    ours, start, key = act.initial_memory(N), np.ones(N, bool), (jax.random.key(3),) * sampled
    for obs in steps:
        memory, actions = policy.call(memory, obs, start, *key)
        ours, wanted = act.step(ours, obs, start, *key)
        check_equal(np.asarray(actions), np.asarray(wanted))
        jax.tree.map(check_equal, memory, ours)
        start = rng.random(N) < 0.3
    fresh, _ = policy.call(memory, steps[-1], np.ones(N, bool), *key)
    later, _ = policy.call(memory, steps[-1], np.zeros(N, bool), *key)
    assert not np.any(jax.tree.leaves(fresh)[0] == jax.tree.leaves(later)[0])


@pytest.mark.parametrize("name", ["discrete", "recurrent"])
def test_the_lines_of_the_card_load_a_policy_where_only_jax_is_installed(name, directories, tmp_path):
    assert cli.main(["export", str(directories(name)), "--seed", "1", "--out", str(tmp_path / "policy.bin"), "--sampled"]) == 0
    (lines,) = re.findall("```python\n(.*?)```", (tmp_path / "policy.md").read_text(), re.DOTALL)
    (obs,) = observations(name)
    np.save(tmp_path / "obs.npy", np.resize(obs, (card.ROWS, *obs.shape[1:])))
    missing = "import sys; sys.modules |= dict.fromkeys(('jaxpg', 'flax', 'optax', 'gymnax', 'chex'))\n"
    lines = re.sub("^obs = .*$", "obs = jnp.load('obs.npy')", lines, flags=re.MULTILINE)
    save = "import numpy as np; np.save('actions.npy', actions)"
    done = subprocess.run(
        [sys.executable, "-c", f"{missing}{lines}{save}"],
        cwd=tmp_path, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    act, obs, key = jaxpg.load_policy(directories(name), seed=1), np.load(tmp_path / "obs.npy"), jax.random.key(0)
    wanted = [act(obs, key) for _ in range(2 if name == "recurrent" else 1)]
    np.testing.assert_array_equal(np.load(tmp_path / "actions.npy"), wanted[-1])


def test_the_card_says_what_the_policy_is_and_how_good(directories, tmp_path, capsys):
    directory = directories("continuous")
    assert cli.main(["export", str(directory), "--seed", "1", "--out", str(tmp_path / "policy")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "policy.bin")
    page = (tmp_path / "policy.md").read_text()
    assert page.startswith("# a2c on Pendulum-v1 (g = 9)\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    facts = {cell[0]: cell[1:] for cell in cells}
    assert facts["trained for"] == ["96 environment steps, 3 updates"]
    assert facts["run"] == ["seed 1 of 2 seeds; root seed 0"]
    assert facts["command"][0].startswith("jaxpg train a2c --env-params g=9 --env Pendulum-v1 --seeds 2 ")
    config, summary = (json.loads((directory / name).read_text()) for name in ("config.json", "summary.json"))
    assert f"jax {config['versions']['jax']}, " in facts["trained with"][0]
    assert ["input", "obs", r"float32\[N, 3\]", "numbers from -8 to 8"] in cells
    assert ["output", "actions", r"float32\[N, 1\]", "numbers from -2 to 2"] in cells
    for mode in ("greedy_return", "sampled_return"):
        score = summary["settings"][0][mode]
        this, mean, *_ = map(float, facts[mode.replace("_", " ")][:2])
        assert this == pytest.approx(score["per_seed"][1], rel=1e-2)
        assert mean == pytest.approx(score["mean"], rel=1e-2)


def test_the_card_of_a_setting_and_of_an_earlier_checkpoint_says_so(directories, tmp_path):
    jaxpg.export_policy(directories("discrete"), tmp_path / "policy.bin", setting=1, step=2)
    page = (tmp_path / "policy.md").read_text()
    assert "| setting | learning\\_rate = 0.1 (number 1 of 2) |" in page
    assert "| trained for | 64 environment steps, 2 updates |" in page
    assert "at the end of training. This policy is an earlier one, from update 2." in page


class Goal(NamedTuple):
    """Observations in a container that only this file knows."""

    place: jax.Array
    others: dict


class Planner(nn.Module):
    """A policy that looks into them."""

    size_from_len: bool = False

    @nn.compact
    def __call__(self, obs):
        rows = len(obs.place) if self.size_from_len else obs.place.shape[0]
        return Categorical(nn.Dense(3)(obs.place - obs.others["goal"]).reshape(rows, 3))


def reset(key, params):
    obs = Goal(jax.random.normal(key, (2,)), {"goal": jnp.ones(2), "time": jnp.int32(3)})
    return obs, obs


ENV = FunctionalEnv(reset, lambda key, obs, action, params: (obs, obs, 0.0, False), spaces.Discrete(3), 10)


def untrained(**options):
    algo = jaxpg.a2c(ENV, num_envs=2, num_steps=4, critic=jaxpg.networks.NoCritic(), **options)
    return Policy(algo, algo.init(jax.random.key(0)))


def test_observations_in_a_container_of_ones_own_are_a_dict_by_name():
    act, rng = untrained(policy=Planner()), np.random.default_rng(0)
    policy = export.deserialize(act.export().serialize())
    place, goal = rng.normal(size=(2, 50, 2)).astype(np.float32)
    time = np.full(50, 3, np.int32)
    actions = policy.call({"place": place, "others.goal": goal, "others.time": time})
    np.testing.assert_array_equal(actions, act(Goal(place, {"goal": goal, "time": time})))
    assert len(np.unique(actions)) == 3
    lines = card.use(policy, "policy.bin")
    assert any("'others.goal': jnp.zeros((10, 2), 'float32')" in line for line in lines)


def test_a_network_for_one_size_of_the_batch_is_refused_in_one_line():
    with pytest.raises(
        ValueError, match=r"^the policy cannot be exported: .*_DimExpr.*; its network must take a batch"
    ) as caught:
        untrained(policy=Planner(size_from_len=True)).export()
    assert "\n" not in str(caught.value)


def test_a_critic_with_a_network_of_its_own_is_not_exported():
    def size(**options):
        algo = jaxpg.ppo(
            jaxpg.make("CartPole-v1"), num_envs=2, num_steps=4, minibatches=1, network="gru", hidden=(8,), **options
        )
        return len(Policy(algo, algo.init(jax.random.key(0))).export().serialize())

    assert size(critic=jaxpg.networks.Critic((500,))) == size(critic=jaxpg.networks.Critic((3,)))


def test_a_missing_package_and_a_path_that_cannot_be_written_are_one_line(directories, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("taken")
    assert cli.main(["export", str(directories("discrete")), "--out", str(tmp_path / "file" / "policy.bin")]) == 2
    assert re.fullmatch(r"jaxpg: error: out = .* cannot be written: .*; give another --out\n", capsys.readouterr().err)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "flatbuffers" else find(name, *rest))
    assert cli.main(["export", str(directories("discrete")), "--out", str(tmp_path / "policy.bin")]) == 2
    wanted = "jaxpg: error: export: flatbuffers is not installed; pip install 'jaxpg[export]'\n"
    assert capsys.readouterr().err == wanted
    assert not (tmp_path / "policy.bin").exists()


def test_text_from_elsewhere_is_no_markup_of_the_card():
    assert card.escape("a|b <script> `x` *y*") == r"a\|b &lt;script&gt; \`x\` \*y\*"
    assert card.table(["a"], [["x|y"]]) == ["| a |", "| --- |", r"| x\|y |"]
