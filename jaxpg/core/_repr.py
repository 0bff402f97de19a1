"""The ``repr`` of algorithms and states: pieces by name and arrays by size, on one screen."""

from __future__ import annotations

import dataclasses
import functools
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxpg.core.hparams import printable

WIDTH, INDENT, ITEMS = 100, 16, 4  # characters of a line and of its label, and entries of a tuple that are shown
Line = tuple[str, str, int]  # label, text, and its largest number of lines


def show_algorithm(algo: Any) -> str:
    """An algorithm: sizes, environment, network, every piece by name, and the hyperparameters that are set."""
    steps = f"{algo.num_envs * algo.num_steps:,} environment steps per update"
    length = "" if algo.sequence_length is None else f", sequence_length={algo.sequence_length}"
    title = f"{type(algo).__name__}: num_envs={algo.num_envs}, num_steps={algo.num_steps}{length}; {steps}"
    told = ("env", "network", "num_envs", "num_steps", "sequence_length", "hparams")
    pieces = {name: piece for name, piece in shown_fields(algo).items() if name not in told}
    lines: list[Line] = [("env", name_piece(algo.env), 1), *network_lines(algo.network)]
    lines += [(name, name_piece(piece), 1 + (name in ("update_rule", "normalizer"))) for name, piece in pieces.items()]
    return lay_out(title, [*lines, ("hparams", list_scalars(algo.hparams), 5)])


def show_state(state: Any) -> str:
    """A state, or several with leading axes: updates done, numbers and bytes of each part, hyperparameters.

    Numbers are per run, bytes those of all runs.
    """
    axes = np.shape(state.key) if hasattr(state.key, "shape") else ()
    runs = f" of {math.prod(axes):,} runs" if axes else ""
    title = [f"{type(state).__name__}{runs}: update {show_value(state.step, len(axes))}"]
    title += [f"{count:,} environments" for count in getattr(getattr(state.loop, "episode_length", None), "shape", ())[-1:]]
    title += [f"{num_bytes(state)} in all"] * is_arrays(state)
    lines: list[Line] = []
    for name in ("params", "constants", "opt_state", "loop", "normalizer"):
        part = getattr(state, name)
        if jax.tree.leaves(part):
            inner = [f"{key} {count_numbers(x, len(axes))}" for key, x in named_parts(part)] if name == "params" else []
            size = [f"{count_numbers(part, len(axes))} numbers", num_bytes(part)] if is_arrays(part) else [name_piece(part)]
            lines.append((name, ", ".join(size) + f" ({', '.join(inner)})" * bool(inner), 1))
    lines += [(name, list_scalars(getattr(state, name), len(axes)), 5) for name in ("hparams", "env_params")]
    return lay_out(", ".join(title), lines)


def network_lines(network: Any) -> list[Line]:
    """Show a network in one line, or if that is too long, policy and critic in a line each."""
    text = name_piece(network)
    fields = shown_fields(network) if dataclasses.is_dataclass(network) else {}
    if len(text) <= WIDTH - INDENT or not 1 <= len(fields) <= 2:
        return [("network", text, 4)]
    return [("network", type(network).__name__, 1), *((f"  {name}", name_piece(part), 2) for name, part in fields.items())]


def lay_out(title: str, lines: Iterable[Line]) -> str:
    """Format a title and labelled lines, none longer than ``WIDTH``; shortened lines end in ``...``.

    >>> print(lay_out("Thing", [("size", "3", 1), ("words", "word " * 40, 1)]))
    Thing
      size          3
      words         word word word word word word word word word word word word word word word word ...
    """
    rows = [title]
    for label, text, most in lines:
        wrapped = textwrap.wrap(text, WIDTH - INDENT, max_lines=most, placeholder=" ...", break_on_hyphens=False)
        rows += [f"{head:<{INDENT}}{row}" for head, row in zip([f"  {label}", *[""] * len(wrapped)], wrapped, strict=False)]
    return "\n".join(row if len(row) <= WIDTH else f"{row[: WIDTH - 3]}..." for row in rows)


def name_piece(piece: Any) -> str:
    """Show a piece in one line: functions by name, objects by type and fields, environments by their name.

    Fields that are ``None``, ``False`` or empty are left out, as are the names of fields that hold a piece.

    >>> from jaxpg.core import networks
    >>> name_piece(networks.Critic((8,))), name_piece(functools.partial(list_scalars, axes=1)), name_piece(jnp.zeros((2, 3)))
    ('Feedforward(MLP(hidden=(8,), tanh), ValueHead())', 'partial(list_scalars, axes=1)', 'float32[2,3]')
    """
    if isinstance(piece, functools.partial):
        return name_call("partial", [piece.func, *piece.args], piece.keywords)
    if hasattr(piece, "shape") and hasattr(piece, "dtype"):
        return f"{piece.dtype}[{','.join(map(str, piece.shape))}]"
    if isinstance(piece, tuple | list):
        few = [name_piece(item) for item in piece[:ITEMS]]
        more = [f"... {len(piece)} in all"] * (len(piece) > ITEMS)
        return f"({', '.join([*few, *more])}{',' * (len(piece) == 1)})"
    if isinstance(piece, Mapping):
        few = [f"{key}: {name_piece(value)}" for key, value in list(piece.items())[:ITEMS]]
        return f"{{{', '.join([*few, *['...'] * (len(piece) > ITEMS)])}}}"
    if piece is None or isinstance(piece, bool | int | float | str):
        return repr(piece)
    if callable(piece) and isinstance(getattr(piece, "__name__", None), str):
        return piece.__name__
    is_wrapper = dataclasses.is_dataclass(piece) and any(field.name == "env" for field in dataclasses.fields(piece))
    if hasattr(piece, "reset") and hasattr(piece, "step") and not is_wrapper and hasattr(piece, "name"):
        return printable(getattr(piece, "name"))  # noqa: B009 - the type checker knows no such attribute
    return name_call(type(piece).__name__, [], shown_fields(piece) if dataclasses.is_dataclass(piece) else {})


def name_call(name: str, arguments: Iterable[Any], keywords: Mapping[str, Any]) -> str:
    """``name(argument, keyword=value)``."""
    named = [f"{key}={name_piece(value)}" if is_plain(value) else name_piece(value) for key, value in keywords.items()]
    return f"{name}({', '.join([*map(name_piece, arguments), *named])})"


def is_plain(value: Any) -> bool:
    """Whether ``value`` is a number, text, or several of them, so that it needs the name of its field."""
    return isinstance(value, bool | int | float | str | tuple | list | Mapping) or hasattr(value, "dtype")


def shown_fields(piece: Any) -> dict[str, Any]:
    """The fields of a dataclass to show, without empty ones and the two that flax adds to a module."""
    own = {"parent", "name"} if isinstance(piece, nn.Module) else set()
    fields = {field.name: getattr(piece, field.name) for field in dataclasses.fields(piece) if field.repr}
    return {name: x for name, x in fields.items() if name not in own and x is not None and x is not False and not is_empty(x)}


def is_empty(value: Any) -> bool:
    """Whether ``value`` is a container without items."""
    return isinstance(value, tuple | list | Mapping) and not value


def named_parts(tree: Any) -> list[tuple[str, Any]]:
    """The fields of a named tuple, else the entries of a mapping."""
    named = tree._asdict() if hasattr(tree, "_asdict") else tree
    return list(named.items()) if isinstance(named, Mapping) else []


def list_scalars(tree: Any, axes: int = 0) -> str:
    """List the leaves of ``tree`` by name: values if there is one number per run, else shapes.

    >>> list_scalars({"gamma": 0.99, "table": jnp.zeros((3, 4))})
    'gamma=0.99, table=float32[3,4]'
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    return ", ".join(f"{name}={show_value(x, axes)}".lstrip("=") for name, (_, x) in zip(names, leaves, strict=True))


def show_value(x: Any, axes: int = 0) -> str:
    """Show a number, or the smallest and the largest over runs; for other arrays and tracers, dtype and shape.

    >>> show_value(jnp.array([1.0, 3.0]), axes=1), show_value(jnp.float32(0.1)), show_value(jnp.zeros((2, 3)), axes=1)
    ('1 to 3', '0.1', 'float32[2,3]')
    """
    if isinstance(x, float):
        return f"{x:g}"
    is_known = isinstance(x, np.ndarray | np.generic) or (isinstance(x, jax.Array) and not isinstance(x, Tracer))
    if not is_known or np.ndim(x) > axes or not jnp.issubdtype(x.dtype, np.number):
        return name_piece(x)
    if isinstance(x, jax.Array) and (x.is_deleted() or not x.is_fully_addressable):
        return name_piece(x)
    values = np.unique(jax.device_get(x))
    number = float if jnp.issubdtype(x.dtype, jnp.floating) else values.dtype.type
    ends = (number(values[i]) for i in (0, -1))
    return " to ".join(dict.fromkeys(f"{end:g}" if isinstance(end, float) else str(end) for end in ends))


def is_arrays(tree: Any) -> bool:
    """Whether all leaves have a shape and a dtype."""
    return all(hasattr(x, "shape") and hasattr(x, "dtype") for x in jax.tree.leaves(tree))


def count_numbers(tree: Any, axes: int = 0) -> str:
    """Count the numbers in the arrays of ``tree``, without their first ``axes``; a question mark if a leaf is not an array.

    >>> count_numbers({"kernel": jnp.zeros((16, 30, 40)), "bias": jnp.zeros((16, 40))}, axes=1)
    '1,240'
    """
    return f"{sum(math.prod(x.shape[axes:]) for x in jax.tree.leaves(tree)):,}" if is_arrays(tree) else "?"


def num_bytes(tree: Any) -> str:
    """Format the memory of all arrays of ``tree``.

    >>> num_bytes(jnp.zeros((1000, 3)))
    '11.7 KiB'
    """
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree) if is_arrays(x))
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    power = min((size.bit_length() - 1) // 10 if size else 0, len(units) - 1)
    return f"{size / 1024**power:.{1 if power else 0}f} {units[power]}"
