"""For libraries whose training is one function of a key, with a fixed length: compiled as a whole, vmapped over the seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import protocol


def compiled(train: Callable[[jax.Array], Any], case: protocol.Case) -> protocol.Train:
    """``jit`` of ``train``; one seed is not vmapped."""
    train = train if case.seeds == 1 else jax.vmap(train)
    keys = jax.random.key(0) if case.seeds == 1 else jax.random.split(jax.random.key(0), case.seeds)
    program = jax.jit(train).lower(keys).compile()

    def run() -> int:
        jax.block_until_ready(program(keys))
        return case.seeds * case.steps_per_seed

    return run
