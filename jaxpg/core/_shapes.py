"""Check shapes when functions are traced: an array of a wrong shape would broadcast silently."""

from __future__ import annotations

from typing import Any

import chex

from jaxpg.core.types import Array


def check_floats(layout: str, **arrays: Array) -> None:
    """Raise ``ValueError`` unless all arrays are floats of the same shape.

    ``layout`` names the axes, such as ``[T, B]``; its ``...`` are any number of axes.

    >>> import jax.numpy as jnp
    >>> check_floats("[T, ...]", value=jnp.zeros((5, 2)), reward=jnp.zeros((5, 2)))
    >>> check_floats("[N]", value=jnp.zeros((5, 1)), target=jnp.zeros(5))
    Traceback (most recent call last):
    ValueError: [Chex] Assertion assert_equal_shape failed: Arrays have different shapes: [(5, 1), (5,)].
    [value, target must be floats of one shape [N]]
    """
    values, axes = [*arrays.values()], layout.strip("[]").split(", ")
    message = f"{', '.join(arrays)} must be floats of one shape {layout}"
    rule: dict[str, Any] = {"exception_type": ValueError, "custom_message": message}
    chex.assert_type(values, float, **rule)
    chex.assert_equal_shape(values, **rule)
    chex.assert_shape(values, tuple(... if axis == "..." else None for axis in axes), **rule)
