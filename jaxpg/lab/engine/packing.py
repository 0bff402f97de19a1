"""What a worker gets and what it returns. A process that unpickles them has imported nothing yet that uses JAX's devices."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle  # noqa: TID251 - of what the process that started this one has sent, never of a file
import sys
import types
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a task ended: its runs, what its worker warned of, and the mean greedy return, NaN if it is not known.

    ``batches`` are the names of the folders that hold its results: one, or several if it did not fit into the memory at once.
    ``failure`` says in one line why the runs are not finished; it is empty if they are.
    """

    runs: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    score: float = float("nan")
    batches: tuple[str, ...] = ()
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class Packed:
    """A function of ``runs``, pickled, for a process that chooses its devices before it unpickles the function.

    ``cores`` are the CPU devices to use, 0 for all cores that the process may use.
    """

    function: bytes
    cores: int = 0

    def __call__(self, runs: tuple[int, ...]) -> Outcome:
        """Call the function; ``RuntimeError`` if JAX was in use before with another number of devices."""
        from jaxpg.lab.engine import devices  # nothing else yet: importing gymnax already uses the devices

        devices.use_all_cores(self.cores)
        devices.keep_programs()
        return pickle.loads(self.function)(runs)  # noqa: S301 - from the process that started this one


def pack(function: Any, cloudpickle: Any, cores: int = 0) -> Packed:
    """Pickle a function of ``runs`` with the module ``cloudpickle``, of which Ray has its own.

    What JAX wraps, such as ``jax.numpy.tanh``, is sent by its name or keeps it: unpickled as it is, it would have none, and an
    algorithm with it would be another one.
    """

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
            if not isinstance(module, str) or not isinstance(name, str) or isinstance(obj, type | types.FunctionType):
                return super().reducer_override(obj)
            if find(module, name) is obj:
                return name  # pickle imports it from its module
            if type(obj).__name__ == "PjitFunction":
                make, arguments, state, *_ = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
                return make, arguments, (state, {"__module__": module, "__qualname__": name}), None, None, restore
            return super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file).dump(function)
    return Packed(file.getvalue(), cores)


def find(module: str, name: str) -> Any:
    """What ``name`` is in a module that is loaded, or ``None``.

    >>> find("jaxpg.lab.engine.packing", "Packed.__call__").__name__
    '__call__'
    """
    return functools.reduce(lambda found, part: getattr(found, part, None), name.split("."), sys.modules.get(module))


def restore(made: Any, state: tuple[Any, Mapping[str, str]]) -> None:
    """Restore what JAX has compiled, and its names."""
    made.__setstate__(state[0])
    for name, value in state[1].items():
        setattr(made, name, value)
