"""What every test shares: how programs are compiled and kept, hypothesis, float64 on request, and the command line."""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile

import hypothesis
import jax
import numpy as np
import pytest

# The suite compiles thousands of small programs and runs each for a moment: XLA's optimiser would take most of the time.
# What a user runs, optimised, is tested in processes that drop XLA_FLAGS (tests/lab/test_devices.py, tests/lab/test_plan.py).
jax.config.update("jax_disable_most_optimizations", True)
# A third of the time to compile; later versions have no such option.
FASTER = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1" * (jax.__version_info__ < (0, 11))
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')}{FASTER}".strip()
jax.config.update("jax_num_cpu_devices", 2)  # for tests/loops/test_sharding.py; all else computes on the first

# Processes that tests start share what they compile: the workers of xdist, and the processes, inherit the variables. The
# folder is new for each session, because a process that a test kills may leave half a file in it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ |= {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(prefix="jaxpg-programs-"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

hypothesis.settings.register_profile(
    "jaxpg",
    deadline=None,  # the first example compiles
    max_examples=40,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("jaxpg")


def pytest_configure(config):
    """What the tests compile in their own process is kept in pytest's cache, for the next session too."""
    programs = config.cache.mkdir("programs")
    if "PYTEST_XDIST_WORKER" not in os.environ and sum(path.stat().st_size for path in programs.iterdir()) > 2**30:
        shutil.rmtree(programs)
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_unconfigure():
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def x64():
    """Computes in float64 within the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def jaxpg_process():
    """``(arguments, log, first, **options) -> Popen``: the command line, after the code ``first``; both streams go to ``log``.

    Two CPU devices whatever the machine; compiled without optimisation, because these programs hardly run.
    """

    def start(arguments, log, first="pass", **options):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=0",
            "COLUMNS": "120",
        }
        code = f"import sys; {first}; from jaxpg.lab.cli.commands import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        with open(log, "wb") as file:
            return subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **options
            )

    return start


TRACED = {}  # programs of the engine, by what they are traced from


@pytest.fixture(scope="module")
def programs_once():
    """The engine traces and compiles its programs once a session, however often the same experiment is started."""
    from jaxpg.lab.engine import programs

    trace = programs.trace

    def trace_once(algo, keys, eval_episodes, width, mesh, matmul_precision):
        bits = tuple(np.asarray(jax.random.key_data(key)).tobytes() for key in keys)
        case = algo, *bits, keys[0].dtype, eval_episodes, width, mesh, matmul_precision
        if case not in TRACED:
            TRACED[case] = trace(algo, keys, eval_episodes, width, mesh, matmul_precision)
        TRACED[case].seconds = TRACED[case].seconds or 1.0  # as if it were compiled again
        return TRACED[case]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "trace", trace_once)
        yield


@pytest.fixture(scope="module")
def no_figures():
    """Finished experiments draw nothing."""
    from jaxpg.lab.report import figures, landscape, plots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "learning_curve", lambda *_: None)
        patch.setattr(figures, "compare", lambda *_: [None])
        patch.setattr(landscape, "sensitivity", lambda *_: [None])
        patch.setattr(plots, "save", lambda *_: None)
        yield


@pytest.fixture
def memory_for(programs_once):
    """``(runs, config)``: the GiB in which so many runs fit on a device of an experiment, and for no more."""
    from jaxpg.lab.engine import experiment

    def measure(runs, config):
        programs = experiment.prepare(dataclasses.replace(config, seeds=2, vary={}, run_dir="")).programs(0, 2)
        if not programs.is_compiled:
            programs.compile()
        programs.prepare_evaluation().result()
        return (runs + 0.5) * programs.bytes_per_run / experiment.plan.SLACK / 2**30

    return measure


# Slow tests of what can go wrong: `make test-faults`.
collect_ignore = [] if "JAXPG_FAULTS" in os.environ else ["faults"]
