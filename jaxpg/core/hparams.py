"""Hyperparameters: the numbers that can be swept, annealed or differentiated. This module does not import JAX.

A field that is ``None`` is one that the algorithm does not read: it is no leaf of the pytree, and setting it is an error.
"""

from __future__ import annotations

import ctypes
import dataclasses
import difflib
import math
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    Scalar = Any  # float | jax.Array, or None where the algorithm does not read it

Piece = TypeVar("Piece", bound=Callable)


def hyperparameter(help: str, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False) -> Any:
    """A dataclass field for a hyperparameter of your own, with a line of help and a range.

    Args:
        help: One line that says what the number does.
        low: The smallest value allowed.
        high: The largest value allowed.
        open_low: ``low`` itself is not allowed: the range is ``(low, high]`` in place of ``[low, high]``.

    Returns:
        A ``dataclasses.field`` that is ``None`` by default.

    Examples:
        >>> import flax
        >>> import jaxpg
        >>> @flax.struct.dataclass
        ... class KLHParams(jaxpg.HParams):
        ...     beta: float | None = jaxpg.hyperparameter("weight of the KL penalty", 0.0)
        >>> KLHParams(beta=0.5).beta
        0.5
    """
    return dataclasses.field(default=None, metadata={"help": help, "low": low, "high": high, "open_low": open_low})


@dataclasses.dataclass(frozen=True)
class HParams:
    """Every hyperparameter of the library; an algorithm reads some of them, the others are ``None``.

    A pytree: values may be traced, so that ``vmap`` sweeps them and ``grad`` differentiates with respect to them. To add your
    own, subclass it with ``@flax.struct.dataclass`` and ``jaxpg.hyperparameter``.

    Args:
        learning_rate: Step size of the policy, or of all parameters where policy and critic share a network; at least 0.
        critic_learning_rate: Step size of the critic; at least 0.
        max_grad_norm: Longest gradient of each network, longer ones are scaled down; above 0.
        adam_eps: Epsilon of Adam, added to the root of the second moment; at least 0.
        gamma: Discount factor, in [0, 1].
        gae_lambda: Lambda of GAE, in [0, 1]; 0 gives the one-step TD advantage, 1 the return minus the value.
        baseline: The constant that ``jaxpg.advantages.constant_baseline`` subtracts from returns.
        entropy_coef: Weight of the policy's entropy in the objective; at least 0.
        clip_eps: PPO clips the ratio of probabilities to 1 +- this; above 0.
        target_kl: KL divergence above which an update makes no further steps, nats; above 0.
        desired_kl: KL divergence that the policy's step size is adapted to, nats; above 0.
        max_kl: Largest mean KL divergence of one policy step of TRPO, nats; above 0.
        cg_damping: Multiple of the identity added to the Fisher matrix in TRPO; at least 0.
        value_coef: Weight of the critic's loss where policy and critic share a network; at least 0.
        value_clip: How far a value may move from its old one before its loss is clipped, in the unit of returns; above 0.
        reward_scale: Rewards are multiplied by this before learning; above 0.

    Examples:
        >>> import jaxpg
        >>> jaxpg.HParams(learning_rate=1e-3, gamma=0.99).replace(gamma=0.9).gamma
        0.9
    """

    learning_rate: Scalar = hyperparameter("learning rate of the policy, or of all parameters if they share an optimiser", 0.0)
    critic_learning_rate: Scalar = hyperparameter("learning rate of the critic", 0.0)
    max_grad_norm: Scalar = hyperparameter(
        "largest gradient norm, per network; larger ones are scaled down", 0.0, open_low=True
    )
    adam_eps: Scalar = hyperparameter("epsilon of Adam, added to the square root of the second moment", 0.0)
    gamma: Scalar = hyperparameter("discount factor of the return", 0.0, 1.0)
    gae_lambda: Scalar = hyperparameter("lambda of GAE; 0: one-step TD advantage, 1: return minus value", 0.0, 1.0)
    baseline: Scalar = hyperparameter("constant that is subtracted from returns")
    entropy_coef: Scalar = hyperparameter("weight of the policy's entropy in the objective", 0.0)
    clip_eps: Scalar = hyperparameter("the probability ratio is clipped to 1 +- this", 0.0, open_low=True)
    target_kl: Scalar = hyperparameter("KL divergence above which an update stops early, nats", 0.0, open_low=True)
    desired_kl: Scalar = hyperparameter(
        "KL divergence to aim for by adapting the policy's learning rate, nats", 0.0, open_low=True
    )
    max_kl: Scalar = hyperparameter("largest mean KL divergence of one policy step, nats", 0.0, open_low=True)
    cg_damping: Scalar = hyperparameter("multiple of the identity added to the Fisher matrix", 0.0)
    value_coef: Scalar = hyperparameter("weight of the critic's loss, if policy and critic share a network", 0.0)
    value_clip: Scalar = hyperparameter("the value loss is clipped at old value +- this", 0.0, open_low=True)
    reward_scale: Scalar = hyperparameter("rewards are multiplied by this before learning", 0.0, open_low=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with ``changes``; a ``ValueError`` for an unknown name, with the nearest known ones."""
        unknown = set(changes) - {f.name for f in dataclasses.fields(self)}
        if unknown:
            raise ValueError(unknown_name("hyperparameter", min(unknown), [f.name for f in dataclasses.fields(self)]))
        return dataclasses.replace(self, **changes)


def reads(*names: str) -> Callable[[Piece], Piece]:
    """Declare which hyperparameters a function reads.

    An algorithm then raises a ``ValueError`` by name for a hyperparameter that is read and not set, or set and not read by
    anything.

    Args:
        *names: Names of fields of ``HParams`` or of a subclass.

    Returns:
        A decorator that sets the attribute ``reads`` of the function.

    Examples:
        >>> import jaxpg
        >>> @jaxpg.reads("clip_eps")
        ... def objective(dist, batch, hp): ...
        >>> objective.reads
        ('clip_eps',)
    """

    def declare(function: Piece) -> Piece:
        setattr(function, "reads", names)  # noqa: B010 - a function has no such attribute for the type checker
        return function

    return declare


def given(hp: HParams) -> dict[str, Any]:
    """The hyperparameters that are set, by name.

    >>> given(HParams(gamma=0.9))
    {'gamma': 0.9}
    """
    values = {f.name: getattr(hp, f.name) for f in dataclasses.fields(hp)}
    return {name: value for name, value in values.items() if value is not None}


def check_ranges(hp: HParams, precision: str = "float32") -> None:
    """Raise ``ValueError`` for values that are not finite or out of range; traced values are not checked.

    So is a value that is not finite, or no longer above an open bound, in the ``precision`` of the run, float32 or float64.

    >>> check_ranges(HParams(gamma=1.5))
    Traceback (most recent call last):
    ValueError: gamma = 1.5 is out of range; it must lie in [0, 1]
    >>> check_ranges(HParams(learning_rate=1e39))
    Traceback (most recent call last):
    ValueError: learning_rate = 1e+39 is inf in float32 and out of range; it must lie in [0, inf)
    """
    for field in dataclasses.fields(hp):
        value, limit = getattr(hp, field.name), field.metadata
        if value is None:
            continue
        try:
            number = float(value)
        except TypeError:  # a tracer, or an array of several numbers
            continue
        except (ValueError, OverflowError):
            raise ValueError(f"{field.name} = {shown(value)} must be a number") from None
        low, high, open_low = limit.get("low", -math.inf), limit.get("high", math.inf), limit.get("open_low", False)
        used, least = round_to(number, precision), round_to(low, precision)
        if not math.isfinite(used) or not low <= number <= high or (open_low and used <= least):
            interval = f"{'(' if open_low or low == -math.inf else '['}{low:g}, {high:g}{')' if high == math.inf else ']'}"
            becomes = f" is {used:g} in {precision} and" if f"{used:g}" != f"{number:g}" else " is"
            raise ValueError(f"{field.name} = {number:g}{becomes} out of range; it must lie in {interval}")


def round_to(number: float, precision: str) -> float:
    """Round a number as a run does: to float32 or float64, and subnormal numbers to 0 as in compiled programs.

    >>> round_to(1e39, "float32"), round_to(1e-39, "float32"), round_to(1e-39, "float64")
    (inf, 0.0, 1e-39)
    """
    rounded = ctypes.c_float(number).value if precision == "float32" else number
    smallest = 2.0**-126 if precision == "float32" else 2.0**-1022
    return 0.0 if abs(rounded) < smallest else rounded


def check_read(hp: HParams, pieces: Iterable[Any]) -> None:
    """Refuse a hyperparameter that a piece reads and that is ``None``, or that is set and that no piece reads.

    A piece without a ``reads`` attribute may read anything: then only missing ones are refused.

    >>> check_read(HParams(gamma=0.9, clip_eps=0.2), [reads("gamma")(lambda hp: hp.gamma)])
    Traceback (most recent call last):
    ValueError: clip_eps = 0.2 is not read by this algorithm, which reads gamma; hparams.replace(clip_eps=None)
    """
    values, read, declared = given(hp), set(), True
    for piece in pieces:
        names = getattr(piece, "reads", None)
        declared = declared and names is not None
        for name in names or ():
            if name not in values:
                label = getattr(piece, "__name__", type(piece).__name__)
                raise ValueError(f"{name} is None, but {label} reads it; give it a value, e.g. hparams.replace({name}=...)")
            read.add(name)
    unread = [name for name in values if name not in read]
    if declared and unread:
        known = ", ".join(sorted(read))
        value = values[unread[0]]
        raise ValueError(
            f"{unread[0]} = {value} is not read by this algorithm, which reads {known}; hparams.replace({unread[0]}=None)"
        )


def unknown_name(kind: str, name: Any, known: Iterable[str]) -> str:
    """An error in one line for an unknown name, with the nearest known names.

    >>> unknown_name("algorithm", "pppo", ["ppo", "trpo", "a2c"])
    "unknown algorithm 'pppo'; did you mean ppo?"
    >>> unknown_name("option", "lr", ["learning_rate", "critic_learning_rate", "gamma"])
    "unknown option 'lr'; did you mean learning_rate?"
    """
    known = list(known)
    lower = {k.lower(): k for k in known}
    text = name if isinstance(name, str) else shown(name)
    near = [lower[k] for k in difflib.get_close_matches(text[:80].lower(), lower, n=3, cutoff=0.6)]
    near = near or [k for k in known if "".join(word[:1] for word in k.lower().split("_")) == text.lower()]  # its initials
    if near:
        return f"unknown {kind} {text!r:.80}; did you mean {' or '.join(near)}?"
    few = textwrap.shorten(", ".join(known), 160, placeholder=" ...")
    return f"unknown {kind} {text!r:.80}; known: {few}"


def shown(value: Any) -> str:
    r"""Show a value in one line of at most 80 characters, with escapes if needed.

    >>> shown(0.5), shown("fast"), shown("a\nb"), shown("")
    ('0.5', 'fast', "'a\\nb'", "''")
    """
    try:
        text = str(value)
    except ValueError:  # Python does not print an integer of thousands of digits
        text = "a number of thousands of digits"
    text = text if text.isprintable() and text.strip() else repr(text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def printable(text: object) -> str:
    r"""Make ``text`` safe for a terminal or a page: one line, with unprintable characters escaped as in ``repr``.

    That is control characters (escape sequences, newlines), changes of the writing direction and lone surrogates.

    >>> printable("runs/a\n\x1b[31mb\u202e"), printable("[red] é")
    ('runs/a\\n\\x1b[31mb\\u202e', '[red] é')
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
