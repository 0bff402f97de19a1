"""An experiment that several processes train: parts that know nothing of each other, and workers of Ray and of SLURM."""

import contextlib
import dataclasses
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import jaxpg
from jaxpg import networks
from jaxpg.lab.cli.commands import main
from jaxpg.lab.config import Config, Part
from jaxpg.lab.engine import batches, experiment, groups, launch, packing, tasks
from jaxpg.lab.engine.stopping import Stop, Stopped
from jaxpg.lab.engine.with_slurm import Slurm
from jaxpg.lab.store import results
from jaxpg.lab.store.files import CONFIG, RESULT, TIMING, read_json
from jaxpg.lab.store.stored import read_config, read_content

QUIET = Console(quiet=True)
# Twelve runs in six batches, of two programs.
SWEEP = ["sweep", "a2c", "--num-envs", "2", "--num-steps", "8", "--hidden", "4", "--eval-episodes", "1", "--seeds", "3"]
SWEEP += ["--vary", "learning_rate=1e-3,1e-2", "--vary", "num_steps=8,16", "--total-steps", "320", "--batch-size", "2"]
FIRST = ["0000000", "0000002", "0000003", "0000005", "0000007", "0000010"]


@pytest.fixture(scope="module")
def local(jaxpg_process, tmp_path_factory):
    """The experiment as a single process trains it."""
    directory = tmp_path_factory.mktemp("local") / "sweep"
    log = directory.with_name("log")
    assert jaxpg_process([*SWEEP, "--run-dir", directory], log).wait(timeout=300) == 0, log.read_text()
    return directory


def contents(directory):
    """What must be the same bit for bit, whoever trained it."""
    folders = results.folders(directory)
    found = {folder.name: ((folder / "metrics.jsonl").read_bytes(), read_json(folder / "result.json")) for folder in folders}
    return {name: (rows, {k: v for k, v in result.items() if k != "seconds"}) for name, (rows, result) in found.items()}


def make_job(directory):
    """A small experiment of eight runs in three batches, claimed."""
    options = {"num_envs": 2, "num_steps": 8, "hidden": (4,), "total_steps": 64}
    config = Config("a2c", seeds=4, vary={"gamma": (0.9, 0.99)}, options=options, eval_episodes=1, batch_size=3)
    return experiment.claim(experiment.prepare(dataclasses.replace(config, run_dir=str(directory))))


@pytest.fixture
def job(tmp_path, programs_once):
    """The experiment, trained in this process with programs that are compiled once for all tests."""
    return make_job(tmp_path / "sweep")


class InThisProcess:
    """A launcher that calls the tasks one after another, the last one first."""

    def connect(self):
        pass

    def map(self, train, work, directory, stop):
        for task in reversed(work):
            yield train(task)
            stop.check()


@given(st.integers(0, 1000), st.integers(1, 64))
def test_parts_are_disjoint_complete_and_of_equal_size_but_for_one_run(total, count):
    shares = [Part(index, count).share(total) for index in range(count)]
    assert [run for share in shares for run in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["1", "2/2", "0/0", "-1/2", "a/b", "1/2/3", "0/2\n", " 0/2"])
def test_a_part_is_an_index_and_a_count(text):
    with pytest.raises(ValueError, match=r"part = .* must be INDEX/COUNT with INDEX from 0 to COUNT - 1, e.g. 0/4"):
        Part.parse(text)


@pytest.mark.parametrize(("options", "message"), [
    ("--part 0/2", "part = 0/2 needs --run-dir, the same for all parts"),
    ("--part 0/2 --run-dir runs/a --log tensorboard", "log: loggers need a single process; leave it out with --part"),
    ("--launcher ray --log tensorboard", "log: loggers need a single process; leave it out with --launcher"),
    ("--launcher ray --part 0/2 --run-dir runs/a", "part: the workers of --launcher train all parts; give one of the two"),
    ("--launcher ray --coordinator auto", "coordinator: the processes train together; leave out --launcher and --part"),
    ("--coordinator auto --run-dir s3://a/b", "run_dir = s3://a/b: processes that train together need a directory on a shared"),
    ("--launcher rya", "unknown launcher 'rya'; did you mean ray?"),
    ("--launcher local:1", "launcher = local:1: only ray takes an address; give local"),
    ("--launcher slurm", "launcher = slurm: there is no sbatch here; start the command on a login node of the cluster"),
    ("--launcher ray:127.0.0.1:1", "launcher = ray:127.0.0.1:1: nothing answers there ("),
    ("--resources num_gpus=1", "resources are given to workers; choose them with --launcher ray or --launcher slurm"),
    ("--launcher ray --resources num_gpus=many", "resources num_gpus = many must be a number of at least 0"),
    ("--launcher ray --resources num_gpus", "resources 'num_gpus' must be NAME=VALUE, e.g. num_gpus=1"),
])  # fmt: skip
def test_options_that_cannot_be_used_are_refused_in_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*SWEEP, *options.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"jaxpg: error: {message}")
    assert err.count("\n") == 1


def test_parts_train_their_runs_and_the_last_one_writes_the_summary(job, tmp_path, capsys):
    alone = dataclasses.replace(job.config, run_dir=str(tmp_path / "alone"))
    experiment.run(experiment.claim(experiment.prepare(alone)), QUIET, Stop())
    directory = Path(job.config.run_dir)
    for index in (1, 0):
        part = experiment.claim(experiment.prepare(job.config, part=Part(index, 2)))
        experiment.run(part, QUIET, Stop())
        assert (directory / "summary.json").exists() == (index == 0)
    assert [path.name for path in results.folders(directory)] == ["0000000", "0000003", "0000004", "0000007"]
    found, expected = results.read(directory), results.read(tmp_path / "alone")
    assert (found.digests == expected.digests).all()


def test_the_seconds_of_compiling_count_once_for_all_batches_of_a_program(tmp_path):
    directory = tmp_path / "sweep"
    experiment.run(make_job(directory), QUIET, Stop())
    seconds = [read_json(path / RESULT)["seconds"] for path in results.folders(directory)]
    assert [one["compile"] > 0 for one in seconds] == [True, False, False]
    timing = read_json(directory / TIMING)
    assert timing["batches"] == 3
    assert timing["compile_seconds"] == pytest.approx(sum(one["compile"] for one in seconds))


def test_a_part_says_how_many_runs_of_others_are_missing(local, jaxpg_process, tmp_path):
    directory, log = tmp_path / "parts", tmp_path / "log"
    for index, said in ((1, "jaxpg: part 1/2 is finished; 6 runs of other parts are not"), (0, "jaxpg report ")):
        assert jaxpg_process([*SWEEP, "--run-dir", directory, "--part", f"{index}/2"], log).wait(timeout=300) == 0
        assert said in log.read_text()
    assert results.read(directory).digests.tolist() == results.read(local).digests.tolist()


def test_parts_work_at_the_same_time_but_not_with_a_process_that_trains_everything(job):
    directory = Path(job.config.run_dir)
    first, second = (dataclasses.replace(job, part=Part(index, 2)) for index in range(2))
    busy = "is being written by another process"
    with experiment.lock_share(first), experiment.lock_share(second):
        with pytest.raises(ValueError, match=busy):
            experiment.run(first, QUIET, Stop())
        with pytest.raises(ValueError, match=busy):
            experiment.run(job, QUIET, Stop())
        with pytest.raises(ValueError, match=busy):
            launch.run(job, InThisProcess(), QUIET, Stop())
    assert not list(directory.glob("batches/*"))


def test_a_batch_is_trained_by_one_process_at_a_time(job, monkeypatch):
    monkeypatch.setattr(batches, "PATIENCE", 0.1)
    batch = job.groups[0].batch([0, 1, 2], 4, 4)
    with batches.lock_batch(Path(job.config.run_dir), batch), pytest.raises(ValueError, match="is being written by another"):
        experiment.run(job, QUIET, Stop())


def test_workers_find_what_one_process_finds_and_train_nothing_twice(job, tmp_path, monkeypatch):
    alone = dataclasses.replace(job.config, run_dir=str(tmp_path / "alone"))
    experiment.run(experiment.claim(experiment.prepare(alone)), QUIET, Stop())
    found = launch.run(job, InThisProcess(), QUIET, Stop())
    assert (found.digests == results.read(tmp_path / "alone").digests).all()
    assert contents(Path(job.config.run_dir)).keys() == contents(tmp_path / "alone").keys() == {"0000000", "0000003", "0000006"}
    monkeypatch.setattr(batches, "train", lambda *_: pytest.fail("it was trained again"))
    worker = tasks.Worker(job.config.run_dir, read_seal(job), batch_size=3)
    outcome = worker((0, 1, 2))
    assert (outcome.failure, outcome.warnings) == ("", ())
    assert outcome.score == pytest.approx(found.returns["greedy_return"].ravel()[:3].mean())
    launch.run(job, InThisProcess(), QUIET, Stop())  # nothing is left


def read_seal(job):
    return launch.digest(read_content(job.config.run_dir))


def test_an_error_in_an_algorithm_is_found_before_workers_start():
    def loss(*_):
        return "not a number"

    algo = dataclasses.replace(jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8), critic_loss=loss)
    for trains_here in (True, False):
        with pytest.raises((ValueError, TypeError)):
            experiment.prepare(Config("own", own=True, options={"total_steps": 16}), algo, trains_here=trains_here)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, jax.jit(lambda x: 2 * x)], ids=["jax.numpy", "jax.nn", "own"])
def test_an_algorithm_is_the_same_for_the_worker(activation):
    """JAX's own pickling loses the names of what it has compiled."""
    critic = networks.Feedforward(networks.MLP((4,), activation=activation), networks.ValueHead())
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, critic=critic)
    packed = packing.pack(lambda runs: (groups.describe(algo), algo.init(jax.random.key(0)).step), cloudpickle)
    code = "import sys, json, pickle; described, step = pickle.load(sys.stdin.buffer)(()); print(json.dumps(described))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(packed), capture_output=True, check=False)
    assert json.loads(done.stdout or b"0") == json.loads(json.dumps(groups.describe(algo))), done.stderr.decode()


SCRIPT = """
import dataclasses, flax, jax, jax.numpy as jnp, jaxpg
from jaxpg import networks

@flax.struct.dataclass
class KLHParams(jaxpg.HParams):
    beta: float | None = jaxpg.hyperparameter("weight of the KL penalty", 0.0)

class Coin(jaxpg.distributions.Categorical):  # a flax.struct.PyTreeNode
    scale: jax.Array = None
    label: str = flax.struct.field(pytree_node=False, default="coin")

@jax.tree_util.register_pytree_node_class
class Pair:
    def __init__(self, one, two, label):
        self.one, self.two, self.label = one, two, label
    def tree_flatten(self):
        return (self.one, self.two), self.label
    @classmethod
    def tree_unflatten(cls, label, children):
        return cls(*children, label)

@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Scale:
    by: jax.Array
    name: str = dataclasses.field(default="half", metadata={"static": True})

class Head(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return Coin(flax.linen.Dense(2)(x), scale=jnp.sum(x, axis=-1))

@jaxpg.reads("beta")
def penalty(dist, batch, hp):
    scale = jax.tree.map(lambda x: x, Scale(jnp.float32(0.5)))
    pair = jax.tree.map(jnp.exp, Pair(dist.log_prob(batch.action), -batch.log_prob, "ratio"))
    assert (scale.name, pair.label, dist.label, dist.scale.shape) == ("half", "ratio", "coin", batch.log_prob.shape)
    return scale.by * pair.one * pair.two * batch.advantage - hp.beta * batch.dist.kl(dist)

policy = networks.Feedforward(networks.MLP((4,)), Head())
algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, minibatches=2, policy=policy)
algo = dataclasses.replace(algo, objective=penalty, hparams=KLHParams(**vars(algo.hparams) | {"clip_eps": None, "beta": 3.0}))

def train(runs):
    _, metrics = jax.jit(algo.update)(algo.init(jax.random.key(0)))
    return {name: float(value) for name, value in metrics.items() if jnp.isfinite(value)}
"""


def test_pytrees_of_a_script_are_pytrees_in_the_worker():
    """Their classes are sent with their code, which JAX has never seen there."""
    script = {"__name__": "a_script"}
    exec(SCRIPT, script)  # noqa: S102 - it is above
    expected = script["train"](())
    packed = pickle.dumps(packing.pack(script["train"], cloudpickle))
    for _ in range(2):
        assert pickle.loads(packed)(()) == expected  # noqa: S301 - where they are registered, as after a second task
    code = "import sys, json, pickle; print(json.dumps(pickle.load(sys.stdin.buffer)(())))"
    done = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True, check=False)
    assert json.loads(done.stdout or b"0") == pytest.approx(expected, rel=1e-4, abs=1e-6), done.stderr.decode()


def test_a_pytree_that_cannot_be_sent_is_named():
    """It is not known how the worker could flatten it; as a leaf, or without its children, it would be something else."""

    class Plain:
        first = 1.0

    @dataclasses.dataclass
    class Computing:
        first: float = 1.0

    for kind in (Plain, Computing):
        jax.tree_util.register_pytree_node(kind, lambda x: ((abs(x.first),), None), lambda *_, kind=kind: kind())
        with pytest.raises(ValueError, match=rf"the pytree .*{kind.__name__} is defined in the script; define it in a module"):
            packing.pack(lambda runs, kind=kind: kind(), cloudpickle)


def test_an_exception_in_a_worker_is_named_with_its_traceback(job):
    def broken(runs):
        raise KeyError(f"no {runs[0]}")

    packed = packing.pack(broken, cloudpickle)
    with pytest.raises(OSError, match=r"3 of 3 batches failed; the one of run 6: KeyError: 'no 6'") as raised:
        launch.run(
            dataclasses.replace(job, config=dataclasses.replace(job.config, batch_size=3)),
            InThisProcess(),
            QUIET,
            Stop(),
            train=packed,
        )
    assert "in broken\n" in raised.value.__notes__[0]


def test_what_was_begun_is_a_task_as_it_is(job):
    """A batch whose worker was lost keeps its runs, also with another batch size."""
    batches.make_folder(Path(job.config.run_dir), {"identity": job.identity, "runs": (0, 1, 2, 3, 4), "width": 6})
    assert list(tasks.plan_tasks(job, 2, lambda *_: None)) == [(0, 1, 2, 3, 4), (5, 6), (7,)]


def test_batches_that_fail_are_named_and_the_others_are_kept(job):
    def train(task):
        return worker(task) if task[0] else packing.Outcome(task, failure="the node was lost")

    worker = tasks.Worker(job.config.run_dir, read_seal(job), batch_size=3)
    with pytest.raises(OSError, match="1 of 3 batches failed; the one of run 0: the node was lost"):
        launch.run(job, InThisProcess(), QUIET, Stop(), train=train)
    assert contents(Path(job.config.run_dir)).keys() == {"0000003", "0000006"}
    assert not Path(job.config.run_dir, "summary.json").exists()


def test_a_worker_reports_what_is_wrong_in_one_line(job):
    Path(job.config.run_dir, CONFIG).write_text("{}")
    outcome = tasks.Worker(job.config.run_dir, "another")((0, 1, 2))
    assert re.fullmatch(r"\S*config.json has no checksum; it was not written by this version of jaxpg", outcome.failure)
    assert math.isnan(outcome.score)


def test_a_stop_ends_the_launcher(job):
    stop = Stop()

    def train(task):
        stop.request(signal.SIGINT)
        return packing.Outcome(task)

    with pytest.raises(Stopped):
        launch.run(job, InThisProcess(), QUIET, stop, train=train)


def test_warnings_of_workers_are_shown_once(capsys):
    outcomes = [packing.Outcome((i,), ("seed 3 diverged",) if i < 2 else ("the disk is slow",)) for i in range(3)]
    with launch.TaskProgress(QUIET, 3, 3) as progress:
        assert launch.follow(outcomes, progress, QUIET, []) == []
    assert capsys.readouterr().err == "jaxpg: seed 3 diverged\njaxpg: the disk is slow\n"


def test_progress_of_batches_counts_runs_and_weighs_returns():
    now = [0.0]
    progress = launch.TaskProgress(QUIET, 4, 10, clock=lambda: now[0])
    now[0] = 30.0
    progress.advance(4, 100.0, 0)
    progress.advance(1, 0.0, 1)
    assert progress.describe(1) == "2 of 4 batches, 5 of 10 runs  greedy return 80.0  0:30 left  1 failed"


def workers_of(pid):
    """The processes of Ray workers below process ``pid`` that train."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    rows = [line.split(None, 2) for line in found]
    below = {str(pid)}
    for _ in range(5):
        below |= {row[0] for row in rows if row[1] in below}
    return [int(row[0]) for row in rows if row[0] in below and row[2].startswith("ray::jaxpg")]


def addresses_of(name):
    """The addresses, in hexadecimal, on which processes of this name listen."""
    sockets = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if name in (folder / "comm").read_text():
                sockets |= {os.readlink(path)[8:-1] for path in (folder / "fd").iterdir() if "socket:" in os.readlink(path)}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path("/proc/net", kind).read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}


@pytest.mark.parametrize(("resources", "message"), [
    (["num_gpus=64", "num_cpus=0"], "resources num_gpus = 64, num_cpus = 0: no node of Ray has that (at most GPU = 0, CPU = "),
    (["num_gpu=1"], "unknown resource 'num_gpu'; did you mean num_gpus or num_cpus?"),
])  # fmt: skip
def test_resources_that_no_node_has_are_refused_in_one_line(resources, message, jaxpg_process, tmp_path):
    options = ["--launcher", "ray", "--resources", *resources]
    assert jaxpg_process([*SWEEP, "--run-dir", tmp_path / "ray", *options], tmp_path / "log").wait(timeout=60) == 2
    [line] = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("jaxpg: ")]
    assert line.startswith(f"jaxpg: error: {message}")
    assert not (tmp_path / "ray").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found with ps, and who listens in /proc")
def test_a_sweep_on_ray_is_bit_for_bit_that_of_one_process_also_if_a_worker_is_killed(local, jaxpg_process, tmp_path):
    directory, log = tmp_path / "sweep", tmp_path / "log"
    first = "import os; del os.environ['JAX_NUM_CPU_DEVICES']"  # as users have it: workers choose their devices
    process = jaxpg_process([*SWEEP, "--run-dir", directory, "--launcher", "ray"], log, first)
    deadline = time.monotonic() + 200
    while not (workers := workers_of(process.pid)):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same as IPv6
    for name in ("gcs_server", "raylet", "ray::"):
        assert addresses_of(name) <= loopback, name
    assert addresses_of("raylet")
    os.kill(workers[0], signal.SIGKILL)
    assert process.wait(timeout=300) == 0, log.read_text()
    assert contents(directory) == contents(local)
    assert list(contents(directory)) == FIRST
    assert "plan: 12 runs in 6 batches of up to 2" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_jobs_of_submitit_train_what_one_process_trains(local, tmp_path, monkeypatch):
    """With its executor for this machine, which starts the same processes as SLURM would."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=0"
    for name, value in {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": flags}.items():
        monkeypatch.setenv(name, value)
    config = dataclasses.replace(read_config(local), run_dir=str(tmp_path / "sweep"))
    job = experiment.claim(experiment.prepare(config))
    found = launch.run(job, Slurm({"timeout_min": 5}, cluster="local"), QUIET, Stop())
    assert contents(tmp_path / "sweep") == contents(local)
    assert found.digests.tolist() == results.read(local).digests.tolist()
    assert read_config(tmp_path / "sweep").seeds == 3, "the files of submitit are no damage"


def test_parameters_that_submitit_does_not_know_are_refused(job):
    with pytest.raises(ValueError, match=r"resources = .*gpus.*: "):
        Slurm({"gpus": 1}, cluster="local").connect()
