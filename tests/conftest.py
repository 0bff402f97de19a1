"""What every test shares: the hypothesis profile, and float64 where a test asks for it."""

import os
import pathlib

import hypothesis
import jax
import pytest

# The suite compiles hundreds of small programs and runs each for a moment: XLA's optimiser would take most of the time.
# What a user runs, optimised, is tested through the command line in processes of its own.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

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
