"""What a worker gets and what it returns. A process that unpickles them has imported nothing yet that uses JAX's devices."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle  # noqa: TID251 - of what the process that started this one has sent, never of a file
import sys
import traceback
import types
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a task ended: its runs, what its worker warned of, and the mean greedy return, NaN if it is not known.

    ``batches`` are the names of the folders that hold its results: one, or several if it did not fit into the memory at once.
    ``failure`` says in one line why the runs are not finished; it is empty if they are. ``trace`` is the traceback, if there is
    one.
    """

    runs: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    score: float = float("nan")
    batches: tuple[str, ...] = ()
    failure: str = ""
    trace: str = ""


@dataclasses.dataclass(frozen=True)
class Packed:
    """A function of ``runs``, pickled, for a process that chooses its devices before it unpickles the function.

    ``cores`` are the CPU devices to use, 0 for all cores that the process may use.
    """

    function: bytes
    cores: int = 0

    def __call__(self, runs: tuple[int, ...]) -> Outcome:
        """Call the function; an exception, of the user's own code for example, becomes the ``failure`` of the outcome."""
        from jaxpg.lab.engine import devices  # nothing else yet: importing gymnax already uses the devices

        devices.use_all_cores(self.cores)
        devices.keep_programs()
        try:
            return pickle.loads(self.function)(runs)  # noqa: S301 - from the process that started this one
        except Exception as error:  # the process that shows it has no other way to know
            first = next(iter(str(error).strip().splitlines()), "")
            return Outcome(runs, failure=f"{type(error).__name__}: {first}"[:300], trace=traceback.format_exc())


def pack(function: Any, cloudpickle: Any, cores: int = 0) -> Packed:
    """Pickle a function of ``runs`` with the module ``cloudpickle``, of which Ray has its own.

    What JAX wraps, such as ``jax.numpy.tanh``, is sent by its name or keeps it: unpickled as it is, it would have none, and an
    algorithm with it would be another one. A class of a script, which is sent with its code, is a pytree again where it is
    unpickled.

    Raises:
        ValueError: For a pytree class of a script that is neither flattened as dataclasses are nor has ``tree_flatten`` and
            ``tree_unflatten``.
    """

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type):
                return with_pytree(obj, super().reducer_override(obj))
            module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
            if not isinstance(module, str) or not isinstance(name, str) or isinstance(obj, types.FunctionType):
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


def with_pytree(kind: type, reduced: Any) -> Any:
    """How to pickle a class: as cloudpickle does, ``reduced``, and what it needs to be a pytree, if it is one."""
    if not isinstance(reduced, tuple) or len(reduced) < 6 or not is_pytree(kind):  # fewer than 6 parts: sent by its name
        return reduced
    data = () if has_methods(kind) else find_children(kind)
    make, arguments, state, *_, set_state = reduced
    if "_flax_dataclass" in vars(kind):  # else a PyTreeNode is registered when it is made, before it has its fields
        arguments = (*arguments[:3], arguments[3] | {"_flax_dataclass": True}, *arguments[4:])
    return make, arguments, (set_state, state, data), None, None, restore_pytree


def is_pytree(kind: type) -> bool:
    """Whether a class is registered as a pytree."""
    import jax  # only now: see Packed

    if issubclass(kind, tuple | list | dict):  # JAX knows named tuples; it knows no other subclass without a registration
        return False
    blank = object.__new__(kind)
    try:
        return not any(leaf is blank for leaf in jax.tree.leaves(blank))
    except Exception:  # of its flattening, which a blank instance has nothing for: JAX calls it only where it is registered
        return True


def has_methods(kind: type) -> bool:
    """Whether a class flattens itself, as ``jax.tree_util.register_pytree_node_class`` wants it."""
    return hasattr(kind, "tree_flatten") and hasattr(kind, "tree_unflatten")


def find_children(kind: type) -> tuple[str, ...]:
    """The fields of a pytree class that are its children; ``ValueError`` if it is not flattened as dataclasses are."""
    import jax

    refusal = f"the pytree {kind.__qualname__} is defined in the script; define it in a module that you import"
    if not dataclasses.is_dataclass(kind):
        raise ValueError(refusal)
    blank, names = object.__new__(kind), {}
    for field in dataclasses.fields(kind):
        mark = object()
        object.__setattr__(blank, field.name, mark)
        names[id(mark)] = field.name
    try:
        return tuple(names[id(leaf)] for leaf in jax.tree.leaves(blank))
    except Exception as error:  # its flattening computes something of the fields
        raise ValueError(refusal) from error


def restore_pytree(kind: type, state: tuple[Any, Any, tuple[str, ...]]) -> None:
    """Restore a class, and register it as a pytree unless this process has done so."""
    import jax

    set_state, own, data = state
    set_state(kind, own)
    if is_pytree(kind):
        return
    if hasattr(kind, "tree_flatten_with_keys"):
        jax.tree_util.register_pytree_with_keys_class(kind)
    elif has_methods(kind):
        jax.tree_util.register_pytree_node_class(kind)
    else:
        others = [field.name for field in dataclasses.fields(kind) if field.init and field.name not in data]
        jax.tree_util.register_dataclass(kind, data, others)


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
