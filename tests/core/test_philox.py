"""Philox keys: programs for a TPU hold no operation that its compiler refuses, and bits are those of XLA's operation."""

import subprocess
import sys

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxpg.core import _philox

uint32 = st.integers(0, 2**32 - 1)


@given(uint32, uint32)
def test_the_upper_half_is_that_of_exact_integers(x, y):
    assert int(jax.jit(_philox.upper_half)(np.uint32(x), np.uint32(y))) == x * y >> 32


def test_an_algorithm_is_all_that_a_program_for_a_tpu_needs():
    """In a process of its own: the command line replaces the operation for all platforms."""
    program = """
import jax, jaxpg
algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=2, hidden=(4,))
state = jax.eval_shape(algo.init, jax.eval_shape(lambda: jax.random.key(0, impl="philox4x32")))
traced = jax.jit(algo.update).trace(state)
for name in ("tpu", "cuda"):
    print("mulhi" in traced.lower(lowering_platforms=(name,)).as_text())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "True"]
