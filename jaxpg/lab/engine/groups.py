"""The settings of an experiment, grouped by program, and descriptions of algorithms as plain data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxpg import envs
from jaxpg.algorithms import _build, _named, presets
from jaxpg.algorithms.presets import convert
from jaxpg.core import rollout
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import HParams, check_ranges, given, shown, unknown_name
from jaxpg.lab.config import Config, check_range, log_interval
from jaxpg.lab.engine import devices, programs
from jaxpg.lab.engine.batches import Batch
from jaxpg.lab.engine.environments import make_env
from jaxpg.lab.store import leaves

Make = Callable[..., Algorithm]


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that share a program: they differ only in traced hyperparameters. ``sizes`` are the sizes that they share."""

    algo: Algorithm
    sizes: Mapping[str, Any]
    course: programs.Course
    hparams: Mapping[int, HParams]  # by index of the setting

    @property
    def steps_per_update(self) -> int:
        """Environment steps of one update of one run."""
        return self.algo.num_envs * self.algo.num_steps

    def batch(self, runs: Sequence[int], seeds: int, width: int) -> Batch:
        """A batch of some of its runs, of at least ``width``, so that the devices have equal shares."""
        hparams = tuple(self.hparams[run // seeds] for run in runs)
        return Batch(tuple(runs), seeds, devices.fit_width(width), hparams, self.course, self.steps_per_update)


def make_named(config: Config) -> Make:
    """The algorithm of a configuration, as a function of sizes."""
    env = envs.with_params(make_env(config.env), config.env_params)

    def make(**sizes: Any) -> Algorithm:
        return _named.build(config.algo, env, **{**config.options, **sizes})

    return make


def make_own(config: Config, algo: Algorithm | Make) -> Make:
    """An algorithm of the user's own, with the ``env_params`` of a configuration, as a function of sizes."""
    make = as_function(algo)
    if not config.env_params:
        return make

    def make_with_params(**sizes: Any) -> Algorithm:
        algo = make(**sizes)
        env: Any = envs.with_params(algo.env, config.env_params)
        if algo.rollout is rollout.episodic:
            _build.complete_episodes(algo.num_steps, env)
        return dataclasses.replace(algo, env=env)

    return make_with_params


def arrange(config: Config, make: Make) -> list[Group]:
    """Group the settings by program, in their order; ``ValueError`` for any error in a setting."""
    traced = given(make().hparams)
    groups: dict[tuple[Any, ...], Group] = {}
    for number, setting in enumerate(config.settings):
        off = {name for name, value in setting.items() if presets.is_off(name, value)}
        sizes = {name: value for name, value in setting.items() if name not in traced or name in off}
        shared = {name: value for name, value in sizes.items() if name not in presets.SWITCHES or name in off}
        key = tuple(sorted(shared.items())), tuple(sorted(sizes))
        if key not in groups:
            steps = convert("total_steps", sizes.get("total_steps", config.total_steps), 0)
            check_range("total_steps", steps, low=1, high=None)
            algo = make(**sizes)
            budgets = config.stop_at or steps, config.base_steps or steps
            total, first = (math.ceil(n / (algo.num_envs * algo.num_steps)) for n in budgets)
            check_range(f"total_steps = {steps}: num_updates", total, 1, 2**31 - 1)
            course = programs.Course(0, total, config.log_every or log_interval(first), config.evaluate_every)
            groups[key] = Group(algo, shared, course, {})
        group = groups[key]
        read = (traced.keys() | given(group.algo.hparams).keys()) - off
        hparams = group.algo.hparams.replace(**{name: convert(name, v, 0.0) for name, v in setting.items() if name in read})
        check_ranges(hparams)
        groups[key] = dataclasses.replace(group, hparams={**group.hparams, number: hparams})
    return list(groups.values())


def as_function(algo: Algorithm | Make) -> Make:
    """``algo`` as a function of sizes; an algorithm becomes a function that takes no sizes."""
    if not isinstance(algo, Algorithm):
        if not callable(algo):
            fix = "give an Algorithm, e.g. jaxpg.ppo(env), or a function that makes one"
            raise ValueError(f"algorithm = {shown(algo)} cannot be trained; {fix}")
        function = algo

        def make_of_function(**sizes: Any) -> Algorithm:
            check_sizes(function, sizes)
            return function(**sizes)

        return make_of_function

    def make(**sizes: Any) -> Algorithm:
        for name in sizes:
            known = {field.name for field in dataclasses.fields(Algorithm)} | presets.SIZES.keys()
            if name in given(algo.hparams):
                fix = "pass a function in place of the algorithm, e.g. functools.partial(jaxpg.ppo, env)"
                raise ValueError(f"{name} = 0 switches it off, which needs another program; {fix}")
            if name in {field.name for field in dataclasses.fields(algo.hparams)}:
                raise ValueError(f"{name} is not read by this algorithm, which reads {', '.join(sorted(given(algo.hparams)))}")
            if name not in known:
                raise ValueError(unknown_name("hyperparameter", name, [*given(algo.hparams), *known]))
            fix = "pass a function of sizes in place of the algorithm, e.g. functools.partial(jaxpg.ppo, env)"
            raise ValueError(f"{name} is a size of the program, not a traced hyperparameter; {fix}")
        return algo

    return make


def check_sizes(function: Make, sizes: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for the first of ``sizes`` that ``function`` does not take."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name, value in sizes.items():
        if name not in parameters:
            own = getattr(function, "func", function)
            if own in _named.FUNCTIONS.values():
                presets.options(own.__name__, None, **{name: value})  # raises a more specific error
            raise ValueError(unknown_name("option", name, parameters))


def describe(piece: Any) -> Any:
    """Describe a piece of an algorithm as plain data: names of functions and classes, and the values of their attributes.

    Variables that a function captures or reads from outside are not included.

    >>> describe(functools.partial(log_interval, 3))
    {'functools.partial': ['jaxpg.lab.config.log_interval', 3, {}]}
    """
    if piece is None or isinstance(piece, bool | int | float | str):
        return str(piece) if isinstance(piece, float) and not math.isfinite(piece) else piece  # JSON has no such number
    if isinstance(piece, jax.Array) and leaves.is_key(piece):
        piece = jax.random.key_data(piece)
    if isinstance(piece, np.ndarray | np.generic | jax.Array):
        return describe_array(np.asarray(piece))
    if isinstance(piece, list | tuple) and not hasattr(piece, "_fields"):
        return [describe(item) for item in piece]
    if isinstance(piece, Mapping):
        return {str(name): describe(value) for name, value in piece.items()}
    if isinstance(piece, functools.partial):
        return {"functools.partial": [*map(describe, (piece.func, *piece.args, piece.keywords))]}
    if dataclasses.is_dataclass(piece) and not isinstance(piece, type):
        fields = (field.name for field in dataclasses.fields(piece) if field.init and field.name not in ("parent", "name"))
        return {describe(type(piece)): {name: describe(getattr(piece, name)) for name in fields}}
    named: Any = piece if hasattr(piece, "__qualname__") else type(piece)
    name = f"{named.__module__}.{named.__qualname__}"
    own = {} if named is piece else getattr(piece, "__dict__", {})
    attributes = {key: describe(value) for key, value in sorted(own.items()) if key[0] != "_" and is_plain(value)}
    return {name: attributes} if attributes else name


def describe_array(x: np.ndarray) -> Any:
    """The value of a scalar; the dtype, shape and digest of an array."""
    digest = hashlib.sha256(x.tobytes()).hexdigest()[:16]
    return describe(x.item()) if not x.ndim else {"dtype": str(x.dtype), "shape": list(x.shape), "sha256": digest}


def is_plain(value: Any) -> bool:
    """Whether an attribute can be described as data: a number, a text, an array, or several of them."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic | jax.Array)


def difference(old: Any, new: Any) -> tuple[Any, Any]:
    """The first difference between two values; in nested dictionaries and long lists, the first entry that differs.

    In descriptions made by ``describe``, entries are fields, and different types are named.

    >>> difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    ('a.c = 2', 'a.c = 3')
    >>> difference({"critic": {"jaxpg.core.networks.Critic": {"hidden": [4]}}}, {"critic": {"my.Critic": {"hidden": [4]}}})
    ('critic = jaxpg.core.networks.Critic', 'critic = my.Critic')
    >>> difference([{"gamma": i} for i in range(20)], [{"gamma": i} for i in range(30)])
    ('20 values', '30 values')
    >>> difference([{"gamma": i} for i in range(20)], [{"gamma": i + (i > 8)} for i in range(20)])
    ('gamma = 9', 'gamma = 10')
    """
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(f"{old}{new}") > 120:
        if len(old) != len(new):
            return f"{len(old):,} values", f"{len(new):,} values"
        return next(difference(x, y) for x, y in zip(old, new, strict=True) if x != y)
    path: list[str] = []
    while isinstance(old, Mapping) and isinstance(new, Mapping):
        name = next(name for name in [*old, *new] if name not in old or name not in new or old[name] != new[name])
        if "." not in name:
            path, old, new = [*path, name], old.get(name), new.get(name)
        elif name in old and name in new:
            old, new = old[name], new[name]
        else:
            old, new = next(iter(old), None), next(iter(new), None)
    where = ".".join(path)
    return (f"{where} = {old}", f"{where} = {new}") if path else (old, new)
