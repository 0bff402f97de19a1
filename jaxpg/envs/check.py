"""check_env: find the rule of the ``jaxpg.types.Env`` protocol that an environment breaks, and its fix."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Dict, Discrete, Tuple

from jaxpg.core import _checks as checks
from jaxpg.core import rollout, spaces
from jaxpg.core.hparams import shown
from jaxpg.core.types import Array, PyTree
from jaxpg.envs import _trial as env_trial
from jaxpg.envs._limits import time_limit
from jaxpg.envs.actions import LegalActions, with_legal_actions


def check_env(
    env: Any,
    params: PyTree = None,
    *,
    key: Array | None = None,
    num_steps: int | None = None,
    sample_action: Callable[[Array], PyTree] | None = None,
    bounds: bool = False,
) -> None:
    """Raise a ``ValueError`` of one line if ``env`` breaks a rule of ``jaxpg.types.Env``: what was found; the fix.

    Before anything runs: the methods are there, the environment is hashable, ``reset`` and ``step`` work under ``jit`` and
    ``vmap``, shapes and dtypes are stable, flags are boolean, the state passed in is not changed. Then in random steps: the
    same key gives the same result, numbers are finite, ``info["final_observation"]`` is the observation before the automatic
    reset, a new episode begins after each end, and no episode exceeds the time limit. Rules about the ends of episodes are
    judged only where chance cannot explain what was seen, and the time limit only where ``num_steps`` reaches it. 32
    environments run in parallel.

    Observations must have the structure, the shapes and the kinds of numbers (floats, integers, booleans) of
    ``env.observation_space(params)`` where that is a ``Dict``, a ``Tuple`` or ``Discrete``. Actions are tried
    with the dtype of their space, and then as floats wherever there is a ``Box``, as a policy gives them.

    Args:
        env: The environment.
        params: Its parameters, by default ``env.default_params``.
        key: Of the random steps, by default ``jax.random.key(0)``.
        num_steps: Steps of each environment; by default 256, or up to 2000 where the time limit needs them.
        sample_action: ``key -> action``. By default actions are uniform over ``env.action_space(params)``, or over those that
            ``env.action_mask(state, params)`` allows of a ``Discrete`` space.
        bounds: Compare a ``Box`` of observations too, and require that observations lie in the space. ``observation="bounds"``
            uses it; observations of some gymnax environments leave their bounds.

    Raises:
        ValueError: For the first rule that is broken.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxpg
        >>> walk = jaxpg.envs.FunctionalEnv(
        ...     reset_fn=lambda key, params: (jnp.zeros(1, jnp.int32), jnp.zeros(())),
        ...     step_fn=lambda key, x, action, params: ((x + action)[None], x + action, 1.0, x + action >= 3),
        ...     space=jaxpg.spaces.Discrete(2), max_steps=10)
        >>> jaxpg.check_env(walk)
        Traceback (most recent call last):
        ValueError: env.step changes the observation from int32[1] to float32[1]; cast or reshape it, e.g. .astype(int32)
    """
    check_parts(env, sample_action, bounds)
    params = env.default_params if params is None else params
    check_numbers(params)
    space = declared(env, params, bounds)
    if sample_action is None:
        with calling("env.action_space"):
            actions = env.action_space(params)
        read("env.action_space", actions)
        sample: env_trial.Sample = functools.partial(env_trial.random_action, actions)
        check_traces(env, params, functools.partial(spaces.sample, actions), space)
        check_mask(env, params, actions)
        env = with_legal_actions(env)
        if isinstance(env, LegalActions):
            check_traces(env, params, sample, space)
    else:
        sample = lambda key, mask=None: sample_action(key)  # noqa: E731
        check_traces(env, params, sample, space)
    space = space if bounds else None
    limit = time_limit(env, params) or 0
    num_steps = (limit + 8 if 256 < limit + 8 <= 2_000 else 256) if num_steps is None else num_steps
    if num_steps < 1:
        raise ValueError(f"num_steps = {num_steps}; at least 1 is needed")
    key = jax.random.key(0) if key is None else key
    with calling("a random rollout"):
        seen, again = env_trial.run_twice(functools.partial(env_trial.trial, env, sample, space, num_steps), key, params)
    env_trial.check_trial(seen, again, limit)


def check_parts(env: Any, sample_action: Any, bounds: bool) -> None:
    """Check that all methods exist, and that the environment can be a static argument of jit."""
    check_kind(env)
    name = type(env).__name__
    if not hasattr(env, "default_params"):
        raise ValueError(f"{name} has no default_params; add them, None where there are none")
    parts = {"reset": "", "step": ""}
    parts |= {} if sample_action else {"action_space": ", or pass sample_action=lambda key: ..."}
    parts |= {"observation_space": ", or leave out bounds"} if bounds else {}
    for part, instead in parts.items():
        if not callable(getattr(env, part, None)):
            raise ValueError(f"{name} has no method {part}; add it{instead}")
    try:
        hash(env)
    except TypeError as error:
        fix = "keep arrays, lists and dicts out of its fields, e.g. a frozen dataclass with tuples"
        raise ValueError(f"{name} is not hashable ({error}); {fix}") from None


def check_argument(env: Any) -> None:
    """Raise ``ValueError`` for what cannot be an environment, without running it."""
    check_kind(env)
    missing = [part for part in ("reset", "step", "default_params") if not hasattr(env, part)]
    if missing:
        kind = type(env).__name__
        raise ValueError(f"env is a {kind} without {missing[0]}; it must be a gymnax environment (>= 1.0), or like one")


def check_kind(env: Any) -> None:
    """Raise ``ValueError`` for objects that are often passed in place of an environment."""
    if isinstance(env, str):
        raise ValueError(f"env = {env!r} is a name; pass jaxpg.make({env!r})")
    if isinstance(env, tuple):
        raise ValueError(
            "env is a tuple, as gymnax.make returns it; pass its first item, and the second to init(env_params=...)"
        )
    if isinstance(env, type):
        raise ValueError(f"env = {env.__name__} is a class; pass an instance, e.g. {env.__name__}()")
    if any(base.__module__.partition(".")[0] in ("gymnasium", "gym") for base in type(env).__mro__):
        kind = type(env).__name__
        raise ValueError(f"env is a {kind} of Gymnasium, whose steps run in Python; pass one in JAX, e.g. of jaxpg.make")


def check_numbers(params: PyTree) -> None:
    """Check that parameters can be traced."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, int | float | np.generic | np.ndarray | jax.Array):
            where = jax.tree_util.keystr(path)
            shown = " ".join(repr(leaf).split())[:80]
            raise ValueError(f"params{where} = {shown} is not a number or an array; make it an attribute of the environment")


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn an error in a user's function into a ``ValueError`` of one line that names the place."""
    try:
        yield
    except jax.errors.UnexpectedTracerError:
        fix = "return in the state what a later step needs"
        raise ValueError(f"{what} uses an array that an earlier call left outside of the state; {fix}") from None
    except Exception as error:
        is_size = "concrete values" in str(error)  # a traced value as a shape raises a plain TypeError
        if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError) or is_size:
            fix = "use jnp.where or jax.lax.cond instead of if, jnp instead of numpy, and fixed sizes"
            found = f"cannot be compiled: Python needs the value of a traced array{place(error)}"
            raise ValueError(f"{what} {found}; {fix}") from None
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{what} fails with {found}{place(error)}; it must work under jit and vmap") from error


def place(error: Exception) -> str:
    """The innermost line of code outside JAX and this file."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(code, line) for code, line in frames if not code.co_filename.startswith((*jax.__path__, __file__))]
    return "".join(f" ({code.co_name}, line {line} of {code.co_filename.split('/')[-1]})" for code, line in own[-1:])


def check_traces(env: Any, params: PyTree, sample: Callable[[Array], PyTree], space: Any) -> None:
    """Check everything that tracing shows, first for one environment, then for several under vmap."""
    key, params = jax.random.key(0), jax.eval_shape(rollout.strong, params)
    with calling("env.reset"):
        start = jax.eval_shape(env.reset, key, params)
    if not isinstance(start, tuple) or len(start) != 2:
        raise ValueError(f"env.reset returned {type(start).__name__}, not the pair (obs, state); return both")
    with calling("the action space"):
        actions = jax.eval_shape(jax.vmap(sample), jax.random.split(key, env_trial.NUM_ENVS))
    action = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), actions)
    check_untouched(env, key, jax.eval_shape(rollout.strong, start[1]), action, params)
    with calling("env.reset under vmap"):
        loop = jax.eval_shape(lambda key, params: rollout.reset(key, env, params, env_trial.NUM_ENVS), key, params)
    with calling("env.step under vmap"):
        result = checks.transition(env, key, loop, actions, params)
    checks.check_transition(loop, result)
    check_dtypes(*result[2:5])
    if space is not None:
        check_observation(space, start[0])


def declared(env: Any, params: PyTree, bounds: bool) -> Any:
    """The declared space of observations to check, or ``None``; a ``Box`` is checked only with ``bounds``."""
    with calling("env.observation_space"):
        space = spaces.observation_space(env, params)
    if bounds and space is None:
        raise ValueError(f"{type(env).__name__}.observation_space declares nothing; add it, or leave out bounds")
    if not bounds and not isinstance(space, Dict | Tuple | Discrete | spaces.MultiDiscrete):
        return None
    read("env.observation_space", space)
    return space


def read(name: str, space: Any) -> PyTree:
    """The leaves of a space; ``ValueError`` with the name of its method if it cannot be used."""
    try:
        return spaces.read(space)
    except ValueError as error:
        instead = ", or pass sample_action=lambda key: ..." if name == "env.action_space" else ""
        raise ValueError(f"{name}: {error}{instead}") from None


def check_observation(space: Any, obs: PyTree) -> None:
    """Check that an abstract observation has the declared structure, shapes and kinds of numbers."""
    leaves, structure = jax.tree.flatten(spaces.read(space))
    if structure != jax.tree.structure(obs):
        found = f"declares {shown(structure)}, but an observation has {shown(jax.tree.structure(obs))}"
        raise ValueError(f"env.observation_space {found}; declare that")
    for leaf, (path, x) in zip(leaves, jax.tree_util.tree_leaves_with_path(obs), strict=True):
        at = f" at {jax.tree_util.keystr(path)}" if path else ""
        if leaf.shape != x.shape:
            raise ValueError(
                f"env.observation_space declares shape {leaf.shape}{at}, but an observation has {x.shape}; declare that"
            )
        if kind(leaf.dtype) != kind(x.dtype):
            found = f"declares {leaf.dtype}{at}, but an observation has {x.dtype}"
            raise ValueError(f"env.observation_space {found}; declare that, or cast the observation")


def kind(dtype: Any) -> str:
    """The kind of a dtype: floats, integers or booleans."""
    kinds = {"floats": jnp.floating, "integers": jnp.integer, "booleans": jnp.bool_}
    return next((name for name, group in kinds.items() if jnp.issubdtype(dtype, group)), str(dtype))


def check_mask(env: Any, params: PyTree, actions: Any) -> None:
    """Check that the mask of ``Discrete`` actions has a boolean for each of them."""
    if not isinstance(actions, Discrete):
        return
    key, params = jax.random.key(0), jax.eval_shape(rollout.strong, params)
    with calling("env.action_mask"):
        obs, state = jax.eval_shape(env.reset, key, params)
        mask = jax.eval_shape(functools.partial(env_trial.legal, env), obs, state, params)
    if mask is None:
        return
    if getattr(mask, "shape", None) != (actions.n,) or mask.dtype != bool:
        got = f"{mask.dtype}{list(mask.shape)}" if hasattr(mask, "shape") else type(mask).__name__
        raise ValueError(f"env.action_mask must give bool[{actions.n}], a boolean for each action, but gives {got}")


def check_dtypes(reward: Array, terminated: Array, truncated: Array) -> None:
    """Check that the reward is a number and that flags are booleans."""
    if not jnp.issubdtype(reward.dtype, jnp.integer) and not jnp.issubdtype(reward.dtype, jnp.floating):
        raise ValueError(f"env.step returns reward as {reward.dtype}, not a number; cast it, e.g. .astype(float)")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if flag.dtype != bool:
            raise ValueError(f"env.step returns {name} as {flag.dtype}, not bool; compare it, e.g. {name} > 0")


def check_untouched(env: Any, key: Array, state: PyTree, action: PyTree, params: PyTree) -> None:
    """Check that ``step`` can be traced and does not change the state that it is given, which others may still use."""
    touched = []

    def step(*given: PyTree) -> PyTree:
        before, structure = jax.tree.flatten(given)
        result = env.step(*given)
        after, kept = jax.tree.flatten(given)
        touched.append(kept != structure or any(a is not b for a, b in zip(before, after, strict=True)))
        return result

    with calling("env.step"):
        jax.eval_shape(step, key, state, action, params)
    if any(touched):
        fix = "change a copy, e.g. {**state, ...} or state.replace(...)"
        raise ValueError(f"env.step changes the state that it is given; {fix}")
