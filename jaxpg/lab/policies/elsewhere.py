"""Evaluate policies of stored experiments in environments of Gymnasium, which are stepped in Python, not compiled."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array
from gymnax.environments.spaces import Box, Dict, Discrete, Tuple

from jaxpg import envs
from jaxpg.core import spaces
from jaxpg.core.hparams import printable, shown
from jaxpg.core.types import Array, PyTree
from jaxpg.lab.engine import programs
from jaxpg.lab.engine.environments import brief
from jaxpg.lab.policies import loading
from jaxpg.loops import many as sweeping

SUITE = "gymnasium"
SIDE_BY_SIDE = 128  # most episodes in parallel


def evaluate(
    directory: str | Path,
    where: str = SUITE,
    setting: int = 0,
    episodes: int | None = None,
    step: int | None = None,
    modes: Sequence[str] = programs.MODES,
) -> loading.Evaluation:
    """Like ``loading.evaluate``, but in ``gymnasium:ENV``; ``gymnasium`` alone means its environment of the same name.

    Episode ``i`` of each policy begins with ``reset(seed=i)``. Without a time limit in Gymnasium the one of training applies.
    """
    suite, _, env_id = where.partition(":")
    if suite != SUITE:
        raise ValueError(f"in = {printable(where)}; give {SUITE}:ENV, e.g. {SUITE}:CartPole-v1, or {SUITE}")
    origin = loading.of_setting(directory, setting)
    config, env_id = origin.config, env_id or origin.config.env
    count = episodes or config.eval_episodes
    played = make(env_id, origin.algo.env, min(count, SIDE_BY_SIDE))
    states, found = loading.load_states(origin, range(config.seeds), step)
    diverged_at = programs.diverged_at(found.arrays["state.step"], found.step)
    key = sweeping.keys(config.seed, config.rng)[1]
    returns = {f"{mode}_return": np.full(config.seeds, np.nan) for mode in modes}
    for seed, mode in itertools.product(np.flatnonzero(diverged_at == 0).tolist(), modes):
        key_seed = None if mode == "greedy" else jax.random.fold_in(key, seed)
        returns[f"{mode}_return"][seed] = play(loading.policy(origin, states, seed), played, range(count), key_seed).mean()
    about = config, config.settings[setting], found.step, count
    return loading.Evaluation(*about, returns, diverged_at, f"{SUITE}:{env_id}")


def make(env_id: str, env: Any, count: int) -> list[gymnasium.Env]:
    """Make ``count`` environments of Gymnasium; ``ValueError`` of one line if their spaces differ from those of ``env``."""
    params, named = env.default_params, f"in = {SUITE}:{printable(env_id)}"
    try:
        spec = gymnasium.make(env_id, disable_env_checker=True).spec  # imports the package in package:ENV
        limit = None if spec and spec.max_episode_steps else envs.time_limit(env, params)
        made = [gymnasium.make(env_id, max_episode_steps=limit, disable_env_checker=True) for _ in range(count)]
    except (gymnasium.error.Error, ImportError) as error:  # the error names the missing package
        raise ValueError(f"{named}: {brief(error)}") from None
    obs, obs_space = jax.eval_shape(env.reset, jax.random.key(0), params)[0], spaces.observation_space(env, params)
    trained = {"observation": describe(obs_space) if obs_space else jax.tree.map(lambda x: f"box {x.shape}", obs)}
    trained |= {"action": describe(env.action_space(params))} if hasattr(env, "action_space") else {}
    for name, ours in trained.items():
        theirs = describe(translate(named, getattr(made[0], f"{name}_space")))
        if theirs != ours:
            said = f"has the {name} {shown(theirs)}; the policies were trained with {shown(ours)}"
            raise ValueError(f"{named} {said}; name an environment with these spaces")
    return made


def translate(named: str, space: gymnasium.Space) -> Any:
    """Convert a space of Gymnasium to one of jaxpg."""
    match space:
        case gymnasium.spaces.Dict():
            return Dict({name: translate(named, part) for name, part in space.spaces.items()})
        case gymnasium.spaces.Tuple():
            return Tuple([translate(named, part) for part in space.spaces])
        case gymnasium.spaces.Box():
            return Box(jnp.asarray(space.low), jnp.asarray(space.high), space.shape, space.dtype)
        case gymnasium.spaces.Discrete(start=0):
            return Discrete(int(space.n))
        case gymnasium.spaces.MultiDiscrete() if not np.any(space.start):
            return spaces.MultiDiscrete(space.nvec)
    raise ValueError(
        f"{named} has the space {space!r}; policies support Box, Dict, Tuple, and Discrete and MultiDiscrete from 0"
    )


def describe(space: Any) -> PyTree:
    """For each array of a space, its kind and its numbers of categories or its shape."""
    return jax.tree.map(lambda x: f"{x.kind} {x.shape if x.num_categories is None else x.num_categories}", spaces.read(space))


def play(act: loading.Policy, played: Sequence[gymnasium.Env], seeds: Sequence[int], key: Array | None = None) -> np.ndarray:
    """The returns of one episode for each of ``seeds``, in the environments ``played``; with a ``key`` actions are sampled."""
    total, space, takes = np.zeros(len(seeds)), played[0].observation_space, translate("env", played[0].action_space)
    for first in range(0, len(seeds), len(played)):
        obs: Any = [env.reset(seed=seed)[0] for env, seed in zip(played, seeds[first:], strict=False)]
        count, time = len(obs), 0
        memory, alive, start = act.initial_memory(count), np.ones(count, bool), jnp.ones(count, bool)
        while alive.any():
            batch: Any = concatenate(space, obs, create_empty_array(space, count))
            key_step = None if key is None else jax.random.fold_in(jax.random.fold_in(key, first), time)
            memory, actions = act.step(memory, batch, start, key_step)
            time, actions, start = time + 1, jax.device_get(spaces.legalize(takes, actions)), jnp.zeros(count, bool)
            for i in np.flatnonzero(alive).tolist():
                obs[i], reward, terminated, truncated, _ = played[i].step(jax.tree.map(operator.itemgetter(i), actions))
                total[first + i], alive[i] = total[first + i] + float(reward), not (terminated or truncated)
    return total
