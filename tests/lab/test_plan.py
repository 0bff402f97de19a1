"""The memory plan: what fits, in as few batches as can be; and XLA's own account has the last word."""

import io
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import jaxpg
from jaxpg.lab.config import Config
from jaxpg.lab.engine import devices, experiment, groups, plan, stopping

RUNS, DEVICES = st.integers(1, 5000), st.integers(1, 16)
BYTES = st.integers(1, 2**34)


@given(RUNS, DEVICES, BYTES, st.floats(1.0, 1e4))
def test_a_plan_serves_every_run_and_fits(runs, num_devices, bytes_per_run, room):
    free = math.ceil(bytes_per_run * room / plan.SLACK) + 1
    made = plan.make(runs, num_devices, bytes_per_run, free)
    assert made.width % num_devices == 0
    assert made.batches * made.width >= runs > (made.batches - 1) * made.width
    assert made.width // num_devices * bytes_per_run <= free
    assert (made.runs, made.num_devices, made.bytes_per_run, made.bytes_free) == (runs, num_devices, bytes_per_run, free)


@given(RUNS, DEVICES, st.integers(1, 3000))
def test_there_are_as_few_batches_as_full_blocks_allow_and_they_are_equal(runs, num_devices, fitting):
    """A device does ``devices.LANES`` runs side by side, block after block, and has room for ``fitting`` runs."""
    block = devices.LANES
    made = plan.make(runs, num_devices, 1000, math.ceil(fitting * 1000 / plan.SLACK) + 1)
    most = fitting // block * block if fitting >= block else fitting
    assert made.batches <= math.ceil(runs / (most * num_devices))
    if fitting * num_devices >= runs + block * num_devices:
        assert made.batches == 1
    if made.batches > 1:  # none is so large that the last one is nearly empty: what it is wider than need be is one block
        even = math.ceil(runs / num_devices / made.batches)
        assert made.width // num_devices < max(even + block, 2 * block + 1)


@given(RUNS, DEVICES, BYTES, st.floats(0.0, 0.999))
def test_where_not_even_one_run_fits_one_line_says_how_much_is_missing(runs, num_devices, bytes_per_run, share):
    free = int(bytes_per_run * share * plan.SLACK)
    with pytest.raises(ValueError, match=re.escape(f"one run needs {plan.amount(bytes_per_run)}")) as caught:
        plan.make(runs, num_devices, bytes_per_run, free)
    message = str(caught.value)
    missing = bytes_per_run / plan.SLACK - free
    assert f"a device has {plan.amount(free)} free: {plan.amount(missing)} are missing; give fewer --num-envs" in message
    assert "\n" not in message
    assert plan.make(runs, num_devices, bytes_per_run, free + math.ceil(missing) + 1).width >= num_devices


def test_numbers_of_a_plan_by_hand():
    """10 MiB a run; a device has 1000 MiB, of which 900 may be used: 90 runs, 80 in full blocks of 16."""
    MiB = 2**20
    made = plan.make(300, 2, 10 * MiB, 1000 * MiB)  # 150 on each device: two batches of 75, 80 in full blocks
    assert (made.width, made.batches) == (160, 2)
    assert str(made) == "300 runs on 2 devices in 2 batches of 160; 10.0 MiB a run, 800.0 MiB of 1000.0 MiB a device"
    assert str(plan.make(3, 1, 10 * MiB, 1000 * MiB)).startswith("3 runs on 1 device at once; 10.0 MiB a run, 30.0 MiB of")
    with pytest.raises(ValueError, match=r"one run needs 10\.0 MiB, but a device has 9\.0 MiB free: 2\.1 MiB are missing"):
        plan.make(3, 1, 10 * MiB, 9 * MiB)


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1023, "1023 bytes"), (2**20, "1.0 MiB"), (3 * 2**40, "3.0 TiB")])
def test_bytes_as_a_person_reads_them(size, text):
    assert plan.amount(size) == text


@pytest.mark.parametrize(("planned", "measured", "widths"), [
    (10, 1, [160]),  # twice as many would fit, which is no reason to compile again
    (10, 10, [160]),
    (1, 10, [320, 160]),
    (1, 56, [320, 32]),  # a single block at once
])  # fmt: skip
def test_programs_are_compiled_again_only_where_xla_needs_more_than_was_planned(planned, measured, widths, monkeypatch):
    """And the line for the user has XLA's number."""
    made = []

    class Programs:
        is_compiled = False
        bytes_per_run = measured

        def __init__(self, *others):
            *_, self.width, _, _ = others

        def compile(self):
            made.append(self.width)
            self.is_compiled = True

        def prepare_evaluation(self):
            return SimpleNamespace(result=lambda: None)

    monkeypatch.setattr(experiment.programs, "trace", Programs)
    monkeypatch.setattr(experiment.sweeping, "footprint", lambda algo: planned)
    monkeypatch.setattr(experiment, "HEADROOM", 1)
    monkeypatch.setattr(devices, "seed_mesh", lambda runs: SimpleNamespace(size=2))
    config = Config("own", own=True, seeds=300, memory=1000 / 2**30, options={"total_steps": 64})
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"))
    job = experiment.Job(config, groups.arrange(config, groups.as_function(algo)), None)
    paper = io.StringIO()
    session = experiment.Session(Console(file=paper, width=200), stopping.Stop())
    batches = experiment.divide_runs(job, 0, range(300), session)
    for batch in batches:
        experiment.compile_programs(job, 0, batch.width, session)
    assert made == widths
    assert [run for batch in batches for run in batch.runs] == [*range(300)]
    assert {batch.width for batch in batches} == {widths[-1]}
    assert all(len(batch.runs) == batch.width for batch in batches[:-1])
    assert widths[-1] // 2 * measured <= 1000
    assert f"plan: {plan.Plan(300, 2, widths[-1], measured, 1000)}\n" in paper.getvalue()


BITS = """
import jax, numpy as np
import jaxpg
from jaxpg.loops import many as sweeping
from jaxpg.lab.engine import experiment, plan

assert jax.local_device_count() == 2
plans, make = [], plan.make
plan.make = lambda *arguments: plans.append(make(*arguments)) or plans[-1]
algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))

def swept(memory):
    plans.clear()
    vary = {"learning_rate": [1e-3, 1e-2], "gamma": [0.9, 0.99, 0.999]}
    found = jaxpg.sweep(algo, vary, seeds=50, total_steps=96, eval_episodes=2, memory=memory)
    return found.metrics | found.returns, plans[0]

together, at_once = swept(2**30)
apart, in_batches = swept(50 * experiment.HEADROOM * sweeping.footprint(algo))
assert (at_once.runs, at_once.num_devices, at_once.batches) == (300, 2, 1), at_once
assert (in_batches.runs, in_batches.num_devices, in_batches.batches) == (300, 2, 5), in_batches
for name, values in together.items():
    assert values.shape[:2] == (6, 50), (name, values.shape)
    np.testing.assert_array_equal(values, apart[name], err_msg=name)
assert len(np.unique(together["policy_loss"][:, :, 2])) > 290, "runs differ"
"""


def test_three_hundred_optimised_runs_in_batches_have_the_bits_of_all_at_once():
    chosen = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    kept = {name: value for name, value in os.environ.items() if name not in chosen}
    environment = kept | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
