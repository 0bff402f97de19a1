"""Make Philox keys work on several devices, and on a TPU.

Programs with keys of ``jax.random.key(seed, impl="philox4x32")`` compile in half the time of programs with JAX's default keys.
Philox multiplies 32-bit integers and uses both halves of the product [Salmon et al. 2011]. XLA has an operation for the upper
half, but cannot partition it: with jaxlib 0.10.2 and 0.11.2, programs for more than one device do not compile. On a TPU no
program compiles with it, so there the operation is replaced when this module is imported, together with the algorithms.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.interpreters import mlir

from jaxpg.core.types import Array


def on_several_devices() -> None:
    """Replace the operation for the upper half of 64-bit products by one that works on several devices, with equal results.

    >>> on_several_devices()
    >>> int(jax.jit(jax.lax.mulhi)(np.uint32(2**31), np.uint32(6)))
    3
    """
    mlir.register_lowering(jax.lax.mulhi_p, rule)


def upper_half(x: Array, y: Array) -> Array:
    """``floor(x y / 2^32)`` of unsigned 32-bit integers."""
    with jax.enable_x64(True):
        wide = jax.lax.convert_element_type(x, np.uint64) * jax.lax.convert_element_type(y, np.uint64)
        return jax.lax.convert_element_type(wide >> np.uint64(32), np.uint32)


rule = mlir.lower_fun(upper_half, multiple_results=False)
mlir.register_lowering(jax.lax.mulhi_p, rule, platform="tpu")
