"""What every test shares: the hypothesis profile, and float64 where a test asks for it."""

import os

import hypothesis
import jax
import pytest

# The suite compiles hundreds of small programs and runs each for a moment: XLA's optimiser would take most of the time.
# What a user runs, optimised, is tested through the command line in processes of its own.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):  # half the time to compile; later versions have no such option
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
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
