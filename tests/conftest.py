"""What every test shares: the hypothesis profile, float64 where a test asks for it, and the command line in processes."""

import os
import subprocess
import sys

import hypothesis
import jax
import numpy as np
import pytest

# The suite compiles hundreds of small programs and runs each for a moment: XLA's optimiser would take most of the time.
# What a user runs, optimised, is tested through the command line in processes of its own.
jax.config.update("jax_disable_most_optimizations", True)
# Half the time to compile; later versions have no such option.
FASTER = " --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')}{FASTER}".strip()
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # nothing is left in the developer's home
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_num_cpu_devices", 2)  # for tests/test_sharding.py; all else computes on the first

hypothesis.settings.register_profile(
    "jaxpg",
    deadline=None,  # the first example compiles
    max_examples=40,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("jaxpg")


@pytest.fixture
def x64():
    """Computes in float64 within the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def jaxpg_process(tmp_path_factory):
    """``(arguments, log, first, **options) -> Popen``: the command line, after the code ``first``; both streams go to ``log``.

    Two CPU devices whatever the machine; compiled without optimisation, because these programs hardly run; and once a session.
    """
    cache = tmp_path_factory.mktemp("compiled")

    def start(arguments, log, first="pass", **options):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0" + FASTER,
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

    def trace_once(algo, keys, eval_episodes, width, mesh):
        bits = tuple(np.asarray(jax.random.key_data(key)).tobytes() for key in keys)
        case = algo, *bits, keys[0].dtype, eval_episodes, width, mesh
        if case not in TRACED:
            TRACED[case] = trace(algo, keys, eval_episodes, width, mesh)
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


# Slow tests of what can go wrong: `make test-faults`.
collect_ignore = [] if "JAXPG_FAULTS" in os.environ else ["faults"]
