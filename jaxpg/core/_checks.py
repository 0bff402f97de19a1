"""What an algorithm's pieces must agree on: each check is one ``ValueError`` with the field, the value and the mend."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams, check_ranges, check_read, given
from jaxpg.core.types import MAX_COUNT, Array, Batch, Distribution, EnvLoop, Params, PyTree


def check_construction(algo: Any) -> None:
    """Sizes, hashability, hyperparameters: all that can be said before anything is traced."""
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
    if rows % minibatches:
        raise ValueError(f"{product} is not divisible by minibatches = {minibatches}")
    check_ranges(algo.hparams, run_precision())
    pieces = (algo.advantage, algo.objective, *algo.regularizers, algo.critic_loss, algo.update_rule, algo.normalizer)
    check_read(algo.hparams, pieces)


def run_precision() -> str:
    """In what numbers runs compute: float32, or float64 where JAX is told so."""
    return jnp.dtype(jnp.result_type(float)).name


def as_numbers(hparams: HParams) -> HParams:
    """The base values of an algorithm, which is static, as plain numbers."""
    for name, value in given(hparams).items():
        try:
            hparams = hparams.replace(**{name: float(value)})
        except TypeError:
            mend = "pass arrays and traced values to init(key, hparams)"
            raise ValueError(f"{name} is not one concrete number; {mend}") from None
    return hparams


def as_arrays(algo: Any, hparams: HParams) -> HParams:
    """The hyperparameters of one run as strong floats; exactly those that the algorithm has."""
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


def check_networks(algo: Any, params: Params, obs: PyTree, loop: EnvLoop, env_params: PyTree) -> None:
    """The networks fit each other and the environment, and the environment keeps its shapes; traced only in the abstract."""
    shape = (algo.num_envs,)
    value = jax.eval_shape(algo.critic.apply, params.critic, obs)
    if getattr(value, "shape", None) != shape:
        got = getattr(value, "shape", type(value).__name__)
        mend = "; drop the trailing axis, e.g. value[..., 0]" if got == (*shape, 1) else ""
        raise ValueError(f"critic must return one value per environment, shape {shape}, but returned {got}{mend}")
    dist = jax.eval_shape(algo.policy.apply, params.policy, obs)
    if not isinstance(dist, Distribution):
        methods = "noise, sample, log_prob, entropy, kl, mode"
        raise ValueError(f"policy must return a distribution ({methods}), but returned {type(dist).__name__}")
    action = jax.eval_shape(lambda d, k: d.sample(d.noise(k)), dist, jax.random.key(0))
    log_prob = jax.eval_shape(lambda d, a: d.log_prob(a), dist, action)
    if log_prob.shape != shape:
        raise ValueError(f"policy: log_prob must have one number per environment, shape {shape}, but has {log_prob.shape}")
    if hasattr(algo.env, "action_space"):
        check_action(algo.env.action_space(algo.env.default_params), dist, action)
    check_step(algo.env, loop, action, env_params)


def check_action(space: Any, dist: Distribution, action: Any) -> None:
    """The policy's actions lie in the environment's space."""
    if isinstance(space, spaces.Discrete):
        fits = jnp.issubdtype(action.dtype, jnp.integer) and action.ndim == 1
        if isinstance(dist, Categorical):
            fits = fits and dist.logits.shape[-1] == space.n
        wants, mend = f"{space.n} discrete actions", f"CategoricalPolicy({space.n})"
    elif isinstance(space, spaces.Box):
        fits = jnp.issubdtype(action.dtype, jnp.floating) and action.shape[1:] == tuple(space.shape)
        wants, mend = f"continuous actions of shape {tuple(space.shape)}", f"GaussianPolicy({math.prod(space.shape)})"
    else:
        return
    if not fits:
        discrete = isinstance(dist, Categorical)
        has = f"{dist.logits.shape[-1]} discrete actions" if discrete else f"{action.dtype}{action.shape[1:]}"
        raise ValueError(f"policy gives {has}, but the environment takes {wants}; use e.g. {mend}")


def check_step(env: Any, loop: EnvLoop, action: PyTree, env_params: PyTree) -> None:
    """``env.step`` returns gymnax's six values and changes neither shapes nor dtypes."""
    check_transition(loop, transition(env, loop, action, env_params))


def transition(env: Any, loop: EnvLoop, action: PyTree, env_params: PyTree) -> Any:
    """What a step of all environments returns, in the abstract; ``action`` is ``[B, ...]``."""
    keys = jax.random.split(jax.random.key(0), loop.episode_length.shape[0])
    return jax.eval_shape(jax.vmap(env.step, (0, 0, 0, None)), keys, loop.env_state, action, env_params)


def check_transition(loop: EnvLoop, result: Any) -> None:
    """``result``, of :func:`transition`, goes on from ``loop``: six values, the same shapes and dtypes."""
    if not isinstance(result, tuple) or len(result) != 6:
        count = len(result) if isinstance(result, tuple) else 1
        six = "(obs, state, reward, terminated, truncated, info)"
        raise ValueError(f"env.step returned {count} values, not {six}; gymnax >= 1.0 does")
    obs, env_state, reward, terminated, truncated, info = result
    if not isinstance(info, Mapping) or "final_observation" not in info:
        raise ValueError("env.step gives no info['final_observation'], the observation before an automatic reset; add it")
    same_structure("the observation", loop.obs, obs)
    same_structure("the state", loop.env_state, env_state)
    same_structure("info['final_observation'] against the observation", loop.obs, info["final_observation"])
    for name, value in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if value.shape != loop.episode_length.shape:
            raise ValueError(f"env.step must return a scalar {name}, but its shape is {value.shape[1:]}; squeeze it")


def same_structure(what: str, before: PyTree, after: PyTree) -> None:
    """Both have the same leaves, shapes and dtypes."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        mend = "return the same pytree as env.reset"
        raise ValueError(f"env.step changes the structure of {what}; {mend}")
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, a), b in leaves:
        old, new = (f"{x.dtype}{list(x.shape[1:])}" for x in (a, b))
        if old != new:
            where = jax.tree_util.keystr(path)
            raise ValueError(f"env.step changes {what}{where} from {old} to {new}; cast or reshape it, e.g. .astype({a.dtype})")


def check_terms(algo: Any, terms: list[Array], batch: Batch) -> None:
    """Objectives and regularisers return one number per row."""
    for piece, term in zip((algo.objective, *algo.regularizers), terms, strict=True):
        if term.shape != batch.weight.shape:
            name = getattr(piece, "__name__", type(piece).__name__)
            want = batch.weight.shape
            raise ValueError(f"{name} must return one number per row, shape {want}, but returned {term.shape}")
