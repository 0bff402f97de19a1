"""Environments with other parameters than their own defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxpg.core import _resets as resets
from jaxpg.core.hparams import shown, unknown_name
from jaxpg.core.types import Array, PyTree

Number = bool | int | float


@dataclasses.dataclass(frozen=True)
class WithParams:
    """``env`` with ``values``, pairs of a name and a number, in its ``default_params``; see ``jaxpg.envs.with_params``."""

    env: Any
    values: tuple[tuple[str, Number], ...]

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not set yet, for example while unpickling
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def default_params(self) -> PyTree:
        """Those of ``env`` with ``values``."""
        values, default = dict(self.values), self.env.default_params
        leaves = [values.get(name, x) for name, x in named_leaves(default)]
        return jax.tree.unflatten(jax.tree.structure(default), leaves)

    def step(self, key: Array, state: PyTree, action: PyTree, params: PyTree) -> tuple:
        """The inner environment's step."""
        return self.env.step(key, state, action, params)

    def halves(self) -> tuple[resets.Draw, resets.Step]:
        """Likewise, see ``jaxpg.core._resets.halves``."""
        return resets.halves(self.env)


def with_params(env: Any, values: Mapping[str, Any]) -> Any:
    """``env`` with other numbers in its ``default_params``.

    All that reads ``default_params`` sees them: training, evaluation, spaces, the time limit.

    Args:
        env: The environment.
        values: Numbers by name; a parameter within another is ``outer.inner``. Each becomes of the type that the parameter has.

    Returns:
        An environment, or ``env`` itself where ``values`` is empty.

    Raises:
        ValueError: For an unknown name, a number of another type, and parameters that are arrays.

    Examples:
        >>> import jaxpg
        >>> env = jaxpg.envs.with_params(jaxpg.make("CartPole-v1"), {"gravity": 5, "max_steps_in_episode": 1000.0})
        >>> env.default_params.gravity, env.default_params.max_steps_in_episode
        (5.0, 1000)
    """
    if not values:
        return env
    params = env.default_params
    known = dict(named_leaves(params))
    for name in values:
        if not known:
            raise ValueError(f"env_params {name} = {shown(values[name])}: the environment has no parameters")
        if name not in known:
            raise ValueError(unknown_name("parameter of the environment", name, known))
    is_float = {name for name, kind in getattr(type(params), "__annotations__", {}).items() if kind in (float, "float")}
    like = {name: float(known[name]) if name in is_float and not np.ndim(known[name]) else known[name] for name in values}
    return WithParams(env, tuple((name, as_type_of(name, values[name], like[name])) for name in sorted(values)))


def as_type_of(name: str, value: Any, like: Any) -> Number:
    """Convert ``value`` to the type of ``like``."""
    if np.ndim(like) or np.ndim(value):
        shape = np.shape(value) or np.shape(like)
        raise ValueError(f"env_params {name} is an array of shape {shape}; only parameters that are one number can be given")
    kind = np.asarray(like).dtype.kind
    number = value.item() if isinstance(value, np.generic | np.ndarray | jax.Array) else value
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if kind == "b" and isinstance(number, bool):
        return number
    if kind in "iu" and is_number and float(number).is_integer():
        return int(number)
    if kind == "f" and is_number:
        return float(number)
    wanted = {"b": "true or false", "i": "a whole number", "u": "a whole number"}.get(kind, "a number")
    raise ValueError(f"env_params {name} = {shown(value)} must be {wanted}")


def named_leaves(params: PyTree) -> list[tuple[str, Any]]:
    """The leaves of parameters with their names, in order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in leaves]


def differing_params(env: Any, params: PyTree) -> dict[str, Any]:
    """The numbers in ``params``, given by name or as parameters of ``env``, that differ from ``env.default_params``."""
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return dict(params)
    default = env.default_params
    if jax.tree.structure(params) != jax.tree.structure(default):
        fix = "give names and numbers, or env.default_params.replace(...)"
        raise ValueError(
            f"env_params is {type(params).__name__}, which does not have the structure of env.default_params; {fix}"
        )
    pairs = zip(named_leaves(params), named_leaves(default), strict=True)
    return {name: x for (name, x), (_, old) in pairs if not np.array_equal(x, old)}
