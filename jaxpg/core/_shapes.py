"""What the mathematics asks of its arrays, asserted when traced: a wrong shape would broadcast and be wrong in silence."""

from __future__ import annotations

from typing import Any

import chex

from jaxpg.core.types import Array


def check_floats(layout: str, **arrays: Array) -> None:
    """Refuse arrays that are not floats of one shape, with a ``ValueError`` of one line that has their names.

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
