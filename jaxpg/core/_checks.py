"""Check that the pieces of an algorithm fit together; a ``ValueError`` of one line names the field, the value and the fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.core import spaces
from jaxpg.core.distributions import Categorical, MultiCategorical
from jaxpg.core.hparams import HParams, check_ranges, check_read, given, shown
from jaxpg.core.rollout import param_axes
from jaxpg.core.types import MAX_COUNT, Array, Batch, Distribution, EnvLoop, PyTree


def check_construction(algo: Any) -> None:
    """Check sizes, hashability and hyperparameters, without tracing anything."""
    for name in ("num_envs", "num_steps"):
        if getattr(algo, name) < 1:
            raise ValueError(f"{name} = {getattr(algo, name)}; at least 1 is needed")
    for field in dataclasses.fields(algo):
        try:
            hash(getattr(algo, field.name))
        except TypeError as error:
            raise ValueError(f"{field.name} is not hashable ({error}); use tuples and frozen dataclasses in it") from None
    rows, minibatches = algo.num_envs * algo.num_steps, getattr(algo.update_rule, "minibatches", 1)
    product = f"num_envs * num_steps = {algo.num_envs} * {algo.num_steps} = {rows}"
    if rows > MAX_COUNT:
        raise ValueError(f"{product}; a rollout has at most 2**31 - 1 rows, make it smaller")
    length = algo.sequence_length or default_length(algo)
    if length < 1 or algo.num_steps % length:
        raise ValueError(f"sequence_length = {length} must divide num_steps = {algo.num_steps}")
    if rows // length % minibatches:
        cut = "" if length == 1 else f", {rows // length} sequences of {length} steps,"
        raise ValueError(f"{product}{cut} is not divisible by minibatches = {minibatches}")
    check_ranges(algo.hparams, run_precision())
    pieces = (algo.advantage, algo.objective, *algo.regularizers, algo.critic_loss, algo.update_rule, algo.normalizer)
    check_read(algo.hparams, pieces)


def default_length(algo: Any) -> int:
    """The default sequence length: 1 without memory, so that single rows are shuffled, else ``num_steps``."""
    memory = jax.eval_shape(lambda: algo.network.initial_memory(algo.num_envs))
    return algo.num_steps if jax.tree.leaves(memory) else 1


def check_key(key: Any) -> None:
    """Raise ``ValueError`` if ``key`` is not a single key."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape != ():
        given = f"an array of shape {key.shape}" if getattr(key, "shape", ()) else shown(key)
        raise ValueError(f"key = {given} is not a key; use jax.random.key(0), and vmap over init for many")


def check_state(algo: Any, state: Any) -> None:
    """Check that the state was made by an algorithm with these sizes."""
    if not hasattr(state, "loop"):
        raise ValueError("the state is no TrainState; pass what algo.init(key) or the last update returned")
    num_envs = state.loop.episode_length.shape[-1:]
    if num_envs != (algo.num_envs,):
        raise ValueError(f"the state is one of num_envs = {num_envs[0]}, but the algorithm has num_envs = {algo.num_envs}")


def check_env_params(algo: Any, env_params: PyTree) -> None:
    """Check that parameters with one more axis than the defaults have one value for each of ``num_envs`` environments."""
    default = algo.env.default_params
    if jax.tree.structure(default) != jax.tree.structure(env_params):
        return
    for (path, value), own in zip(jax.tree_util.tree_leaves_with_path(env_params), jax.tree.leaves(default), strict=True):
        wanted, shape = (algo.num_envs, *jnp.shape(own)), jnp.shape(value)
        if len(shape) == len(wanted) and shape[1:] == wanted[1:] and shape != wanted:
            found = f"env_params{jax.tree_util.keystr(path)} has shape {shape}, but there are num_envs = {algo.num_envs}"
            raise ValueError(f"{found} environments; give one value for each, {wanted}, or one for all, {wanted[1:]}")


def check_observation(obs: PyTree) -> None:
    """Check that an observation holds at least one array, which tells a network the batch size."""
    if not jax.tree.leaves(obs):
        raise ValueError(f"the observation is {obs}, without any array; give a constant one, e.g. jnp.zeros(1)")


def run_precision() -> str:
    """The dtype of runs: float32, or float64 if JAX is configured for it."""
    return jnp.dtype(jnp.result_type(float)).name


def as_numbers(hparams: HParams) -> HParams:
    """Convert the base values of an algorithm, which is static, to plain numbers."""
    for name, value in given(hparams).items():
        try:
            hparams = hparams.replace(**{name: float(value)})
        except TypeError:
            fix = "pass arrays and traced values to init(key, hparams)"
            raise ValueError(f"{name} is not one concrete number; {fix}") from None
    return hparams


def as_arrays(algo: Any, hparams: HParams) -> HParams:
    """Convert the hyperparameters of a run to floats without weak type; they must be those that the algorithm reads."""
    check_ranges(hparams, run_precision())
    have, want = given(hparams), given(algo.hparams)
    for name in have.keys() - want.keys():
        raise ValueError(f"{name} = {have[name]} is not read by this algorithm, which reads {', '.join(sorted(want))}")
    for name in want.keys() - have.keys():
        raise ValueError(f"{name} is None, but this algorithm reads it; e.g. algo.hparams.replace(...) keeps the others")
    for name, value in have.items():
        if jnp.shape(value) != ():
            raise ValueError(f"{name} has shape {jnp.shape(value)}; a run takes one number, vmap over init for many")
    return jax.tree.map(lambda x: jnp.asarray(x, float), hparams)


def check_networks(algo: Any, key: Array, variables: PyTree, obs: PyTree, loop: EnvLoop, env_params: PyTree) -> None:
    """Check by abstract tracing that networks and environment fit together and that the environment keeps its shapes."""
    for path, x in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            where = jax.tree_util.keystr(path)
            fix = "make it a variable of another collection, self.variable('constants', ...)"
            raise ValueError(f"the parameter {where} is {x.dtype}, which has no gradient; {fix}")
    memory, dist, value = forward(algo, variables, loop.memory, obs, (1, algo.num_envs))
    same_structure("memory", "the network", loop.memory, memory, "return the same pytree as initial_memory")
    check_output(dist, value, (1, algo.num_envs))
    for num_steps, num_envs in ((2, 3), (1, 5)):  # other sizes than in the rollout, as in updates and evaluations
        memory = algo.network.initial_memory(num_envs)
        _, dist, value = forward(algo, variables, memory, obs, (num_steps, num_envs))
        check_output(dist, value, (num_steps, num_envs))
    dist = jax.tree.map(lambda x: jax.ShapeDtypeStruct((algo.num_envs, *x.shape[2:]), x.dtype), dist)
    action = jax.eval_shape(lambda d, k: d.sample(d.noise(k)), dist, jax.random.key(0))
    if hasattr(algo.env, "action_space"):
        check_action(algo.env.action_space(algo.env.default_params), dist, action)
    check_step(algo.env, key, loop, action, env_params)


def forward(algo: Any, variables: PyTree, memory: PyTree, obs: PyTree, shape: tuple[int, int]) -> Any:
    """The abstract outputs of the network for observations like ``obs``, ``[T, B, ...]``."""
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*shape, *x.shape[1:]), x.dtype), obs)
    result = jax.eval_shape(algo.network.apply, variables, memory, many, jax.ShapeDtypeStruct(shape, bool))
    if not isinstance(result, tuple) or len(result) != 3:
        raise ValueError("network.apply must return (memory, distribution, value)")
    return result


def check_output(dist: Any, value: Any, shape: tuple[int, int]) -> None:
    """Check that the network returns a distribution and a value for each observation."""
    got = getattr(value, "shape", type(value).__name__)
    if got != shape:
        got = got[2:] if isinstance(got, tuple) and got[:2] == shape else got
        fix = "; drop the trailing axis, e.g. value[..., 0]" if got == (1,) else ""
        raise ValueError(f"critic must return one value for each observation, but returned {got} for each{fix}")
    if not isinstance(dist, Distribution):
        methods = "noise, sample, log_prob, entropy, kl, mode"
        raise ValueError(f"policy must return a distribution ({methods}), but returned {type(dist).__name__}")
    for path, x in jax.tree_util.tree_leaves_with_path(dist):
        if x.shape[:2] != shape:
            fix = "broadcast it over the batch, e.g. jnp.broadcast_to(log_std, mean.shape)"
            where = f"{type(dist).__name__}{jax.tree_util.keystr(path)}"
            raise ValueError(f"policy: {where} has shape {x.shape}, without the axes {shape} of the observations; {fix}")
    action = jax.eval_shape(lambda d, k: d.sample(d.noise(k)), dist, jax.random.key(0))
    log_prob = jax.eval_shape(lambda d, a: d.log_prob(a), dist, action)
    if getattr(log_prob, "shape", None) != shape:
        raise ValueError(f"policy: log_prob must have one number for each observation, but has the shape {log_prob.shape}")


def check_action(space: Any, dist: Any, action: Any) -> None:
    """Check that the actions of the policy, ``[B, ...]``, fit the action space; unknown kinds of spaces are not checked."""
    if not isinstance(space, spaces.KINDS):
        return
    parts = getattr(dist, "parts", dist)

    def leaf(path: str, space: Any, action: Any, dist: Any = None) -> None:
        shape, choices = spaces.shape_of(space), None
        if isinstance(dist, Categorical | MultiCategorical):
            choices = dist.logits.shape[-1]
        if isinstance(space, spaces.Box):
            fits = jnp.issubdtype(action.dtype, jnp.floating) or spaces.is_integer(space)
            wants, head = f"continuous actions of shape {shape}", f"networks.GaussianHead({shape})"
        else:
            counts = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
            fits = jnp.issubdtype(action.dtype, jnp.integer) and choices in (None, max(counts))
            wants, head = f"{max(counts)} discrete actions", f"networks.CategoricalHead({max(counts)})"
            if shape:
                wants, head = f"discrete actions of shape {shape}", "networks.MultiCategoricalHead"
        if not fits or action.shape[1:] != shape:
            where = "" if path == "space" else f" in {path}"
            raise ValueError(
                f"policy gives {describe_action(action, choices)}, but the environment takes {wants}{where}; use e.g. {head}"
            )

    try:
        spaces.walk(leaf, space, action, *([] if parts is dist and isinstance(space, spaces.Dict | spaces.Tuple) else [parts]))
    except ValueError as error:
        if not str(error).startswith("space"):
            raise
        raise ValueError(f"policy: the action {error}") from None


def describe_action(action: Any, choices: int | None) -> str:
    """Describe the actions of a policy; ``choices`` is the number of categories of a softmax."""
    shape = action.shape[1:]
    if choices is not None and not shape:
        return f"{choices} discrete actions"
    is_continuous, is_discrete = (jnp.issubdtype(action.dtype, kind) for kind in (jnp.floating, jnp.integer))
    kind = "continuous" if is_continuous else "discrete" if is_discrete else str(action.dtype)
    return f"{kind} actions of shape {shape}" + (f" with {choices} choices each" if choices is not None else "")


def check_step(env: Any, key: Array, loop: EnvLoop, action: PyTree, env_params: PyTree) -> None:
    """Check that ``env.step`` returns the six values of gymnax and keeps shapes and dtypes."""
    check_transition(loop, transition(env, key, loop, action, env_params))


def transition(env: Any, key: Array, loop: EnvLoop, action: PyTree, env_params: PyTree) -> Any:
    """The abstract result of a step of all environments; ``action`` is ``[B, ...]``.

    ``key`` must have the generator of the run, because a state may hold keys that are derived from it.
    """
    num_envs = loop.episode_length.shape[0]
    keys = jax.eval_shape(lambda key: jax.random.split(key, num_envs), key)
    axes = param_axes(env, env_params, num_envs)
    return jax.eval_shape(jax.vmap(env.step, (0, 0, 0, axes)), keys, loop.env_state, action, env_params)


def check_transition(loop: EnvLoop, result: Any) -> None:
    """Check that ``result``, from ``transition``, has six values with the shapes and dtypes of ``loop``."""
    if not isinstance(result, tuple) or len(result) != 6:
        count = len(result) if isinstance(result, tuple) else 1
        six = "(obs, state, reward, terminated, truncated, info)"
        raise ValueError(f"env.step returned {count} values, not {six}; gymnax >= 1.0 does")
    obs, env_state, reward, terminated, truncated, info = result
    if not isinstance(info, Mapping) or "final_observation" not in info:
        raise ValueError("env.step gives no info['final_observation'], the observation before an automatic reset; add it")
    same_structure("the observation", "env.step", loop.obs, obs)
    same_structure("the state", "env.step", loop.env_state, env_state)
    same_structure("info['final_observation'] against the observation", "env.step", loop.obs, info["final_observation"])
    for name, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if value.shape != loop.episode_length.shape:
            raise ValueError(f"env.step must return a scalar {name}, but its shape is {value.shape[1:]}; squeeze it")


def same_structure(
    what: str, who: str, before: PyTree, after: PyTree, fix: str = "return the same pytree as env.reset"
) -> None:
    """Check that both trees have the same leaves, shapes and dtypes."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(f"{who} changes the structure of {what}; {fix}")
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, a), b in leaves:
        old, new = (f"{x.dtype}{list(x.shape[1:])}" for x in (a, b))
        if old != new:
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{who} changes {what}{where} from {old} to {new}; cast or reshape it, e.g. .astype({a.dtype})")


def check_terms(algo: Any, terms: list[Array], batch: Batch) -> None:
    """Check that objectives and regularisers return one number per row."""
    for piece, term in zip((algo.objective, *algo.regularizers), terms, strict=True):
        if term.shape != batch.weight.shape:
            name = getattr(piece, "__name__", type(piece).__name__)
            want = batch.weight.shape
            raise ValueError(f"{name} must return one number per row, shape {want}, but returned {term.shape}")
