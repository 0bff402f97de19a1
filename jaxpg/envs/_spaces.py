"""Convert spaces of other libraries to those of gymnax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Box, Dict, Discrete, Tuple

from jaxpg.core.spaces import MultiDiscrete
from jaxpg.core.types import PyTree


def describe_arrays(like: PyTree) -> Any:
    """The space of all arrays with these shapes and dtypes, in dicts and tuples."""
    if isinstance(like, Mapping):
        return Dict({key: describe_arrays(part) for key, part in like.items()})
    if isinstance(like, tuple | list):
        return Tuple([describe_arrays(part) for part in like])
    low, high = (-jnp.inf, jnp.inf) if jnp.issubdtype(like.dtype, jnp.floating) else limits(like.dtype)
    return Box(low, high, like.shape, like.dtype)


def limits(dtype: Any) -> tuple[int, int]:
    """The smallest and the largest number of an integer or boolean dtype."""
    return (0, 1) if jnp.issubdtype(dtype, jnp.bool_) else (int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max))


def from_bounds(space: Any) -> Any:
    """Convert a space of another library with the fields of gymnax: ``n``, or ``low``, ``high`` and ``shape``."""
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return box(space.low, space.high, space.shape, space.dtype)


def from_spec(spec: Any) -> Any:
    """Convert a specification of dm_env: ``num_values``, or ``minimum`` and ``maximum``, or only ``shape`` and ``dtype``.

    Specifications of several arrays, by name, become a ``Dict``.
    """
    parts = getattr(spec, "_specs", None)
    if parts:
        return Dict({name: from_spec(part) for name, part in parts.items()})
    if hasattr(spec, "num_values"):
        count = np.asarray(spec.num_values)
        return MultiDiscrete(count) if count.ndim else Discrete(int(count))
    if hasattr(spec, "minimum"):
        return box(spec.minimum, spec.maximum, spec.shape, spec.dtype)
    return describe_arrays(spec)


def from_action_spec(spec: Any) -> Any:
    """Convert a specification of actions: integers from 0 to a bound become categories."""
    is_integer = hasattr(spec, "minimum") and not hasattr(spec, "num_values") and jnp.issubdtype(spec.dtype, jnp.integer)
    if is_integer and np.all(np.asarray(spec.minimum) == 0):
        return MultiDiscrete(np.broadcast_to(np.asarray(spec.maximum) + 1, spec.shape))
    return from_spec(spec)


def box(low: Any, high: Any, shape: Any, dtype: Any) -> Box:
    """Make a ``Box`` with bounds on the host, so that they can be read during tracing."""
    low, high = np.asarray(low), np.asarray(high)
    return Box(low, high, tuple(shape), dtype)  # pyright: ignore[reportArgumentType] - declared as arrays on a device
