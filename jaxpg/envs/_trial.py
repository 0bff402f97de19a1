"""Random steps in an environment, and checks of their results, for ``jaxpg.check_env``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Box, Discrete

from jaxpg.core import spaces
from jaxpg.core.rollout import strong
from jaxpg.core.types import Array, PyTree
from jaxpg.envs.masks import MASK

Seen = dict[str, Any]  # [T, B] for every step; [NUM_STARTS] for new starts
Sample = Callable[..., PyTree]  # (key, mask of the legal actions or None) -> action
NUM_ENVS, NUM_STARTS = 32, 128
EVERY_STEP = {  # what must hold after each step, and the error if it does not
    "finite_obs": "the observation is not finite; bound it, or end the episode before it overflows",
    "finite_reward": "the reward is not finite; bound it, or end the episode before it overflows",
    "real_state": "the state holds nan; look in env.step for 0 / 0, inf - inf and roots of negative numbers",
    "inside": "the observation lies outside env.observation_space; widen its bounds, or clip the observation",
    "any_legal": "env.action_mask allows no action at all; end the episode before that",
}


def trial(env: Any, sample: Sample, space: Any, num_steps: int, key: Array, params: PyTree) -> Seen:
    """Do random steps, and new starts in two halves: one gives the range of starts, the other how reliable it is.

    ``space`` is the declared space of observations, or ``None`` if bounds are not checked.
    """
    params = strong(params)
    num_resets = NUM_ENVS + 2 * NUM_STARTS
    keys = jax.random.split(key, num_resets + 2 * NUM_ENVS * num_steps)
    obs, state = strong(jax.vmap(env.reset, (0, None))(keys[:num_resets], params))
    starts = jax.tree.map(lambda x: x[NUM_ENVS:-NUM_STARTS], obs)
    others = jax.tree.map(lambda x: x[-NUM_STARTS:], obs)

    def step(before: PyTree, keys: Array) -> tuple[PyTree, Seen]:  # of one environment
        obs, state, length = before
        mask = legal(env, obs, state, params)
        *result, info = env.step(keys[0], state, sample(keys[1], mask), params)
        new_obs, state, final_obs, *rest = strong((*result[:2], info["final_observation"], *result[2:]))
        transition = Transition(obs, new_obs, final_obs, *rest)
        seen = look(transition, starts, space) | {"real_state": every(lambda x: x == x, state), "length": length + 1}
        seen["any_legal"] = every(lambda x: jnp.any(x, axis=-1), mask)
        return (new_obs, state, (length + 1) * ~seen["done"]), seen

    first = jax.tree.map(lambda x: x[:NUM_ENVS], (obs, state, jnp.zeros(num_resets, jnp.int32)))
    seen = jax.lax.scan(jax.vmap(step), first, keys[num_resets:].reshape(num_steps, NUM_ENVS, 2))[1]
    like = jax.vmap(like_start, (None, 0))(starts, others)
    return seen | {"finite_start": finite(obs), "others_like_start": like, "others_same": jax.vmap(same)(starts, others)}


class Transition(NamedTuple):
    """One step of one environment."""

    obs: PyTree
    new_obs: PyTree  # after the automatic reset, if there was one
    final_obs: PyTree  # before it
    reward: Array
    terminated: Array
    truncated: Array


def look(transition: Transition, starts: PyTree, space: Any) -> Seen:
    """The properties of a step that are recorded."""
    obs, new_obs, final_obs, reward, terminated, truncated = transition
    return {
        "finite_obs": finite((new_obs, final_obs)),
        "finite_reward": finite(reward),
        "inside": space is None or spaces.contains(space, obs) & spaces.contains(space, final_obs),
        "same": same(new_obs, final_obs),
        "like_start": like_start(starts, new_obs),
        "done": terminated | truncated,
        "cut": truncated & ~terminated,
        "reward": reward,
        "digest": sum(jnp.mean(x.astype(float)) for x in jax.tree.leaves((obs, final_obs))),
    }


def random_action(space: Any, key: Array, mask: PyTree = None) -> PyTree:
    """A random action as a policy gives it: floats for a ``Box``, and a legal choice for a ``Discrete`` with a mask."""
    if isinstance(space, Discrete) and mask is not None:
        return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf)).astype(space.dtype)

    def raw(path: str, space: Any, x: Array) -> Array:
        return x.astype(float) if isinstance(space, Box) else x

    return spaces.walk(raw, space, spaces.sample(space, key))


def legal(env: Any, obs: PyTree, state: PyTree, params: PyTree) -> PyTree:
    """The mask of legal actions of the environment or in its observation; ``None`` if there is none."""
    if callable(getattr(env, MASK, None)):
        return env.action_mask(state, params)
    return obs.get(MASK) if isinstance(obs, Mapping) else None


def every(test: Callable[..., Array], *trees: PyTree) -> Array:
    """Whether ``test`` of the leaves is true in all components."""
    return jnp.all(jnp.array([jnp.all(test(*leaves)) for leaves in zip(*map(jax.tree.leaves, trees), strict=True)]))


def finite(tree: PyTree) -> Array:
    """Whether nothing is nan or infinite."""
    return every(jnp.isfinite, tree)


def same(a: PyTree, b: PyTree) -> Array:
    """Whether both are equal up to rounding: a program may compute the same number in two ways."""
    return every(lambda x, y: jnp.abs(x.astype(float) - y) <= 1e-5 * (1.0 + jnp.abs(y)), a, b)


def like_start(starts: PyTree, obs: PyTree) -> Array:
    """Whether each component lies in the range of ``starts [NUM_STARTS, ...]``, widened to twice its size."""

    def test(many: Array, x: Array) -> Array:
        low, high = jnp.min(many.astype(float), 0), jnp.max(many.astype(float), 0)
        margin = 0.5 * (high - low) + 1e-5 * (1.0 + jnp.abs(x))
        return (low - margin <= x) & (x <= high + margin)

    return every(test, starts, obs)


def run_twice(program: Callable[[Array, PyTree], Seen], key: Array, params: PyTree) -> tuple[Seen, Seen]:
    """Trace and run the same trial twice, to detect state outside of JAX; if both traces agree, it is compiled once."""
    first, second = (jax.jit(lambda key, params: program(key, params)).lower(key, params) for _ in range(2))
    compiled = first.compile()
    other = compiled if first.as_text() == second.as_text() else second.compile()
    return jax.device_get((compiled(key, params), other(key, params)))


def check_trial(seen: Seen, again: Seen, limit: int) -> None:
    """Raise ``ValueError`` for the first rule that a trial broke; ``limit`` is the declared time limit, or 0."""
    check_same(seen, again)
    check_steps(seen)
    check_ends(seen)
    if limit and np.any(seen["length"] > limit):
        fix = f"set truncated on step {limit} at the latest, or declare more"
        raise ValueError(f"an episode outlasts the declared time limit of {limit} steps; {fix}")


def check_same(seen: Seen, again: Seen) -> None:
    """Check that the same key gives the same result. Only early steps are compared, because rounding errors grow."""
    for name in ("digest", "reward", "done"):
        if not np.allclose(seen[name][:16], again[name][:16], rtol=1e-3, atol=1e-5, equal_nan=True):
            fix = "draw with jax.random from the key, and keep in the state what changes"
            raise ValueError(f"the same key gives another result the second time; {fix}")


def check_steps(seen: Seen) -> None:
    """Check what must hold on every step; report the rule that is broken first."""
    if not seen["finite_start"]:
        raise ValueError("env.reset gives an observation that is not finite; fill every component with a number")
    broken = {int(np.argmin(seen[name].all(axis=1))): name for name in reversed(EVERY_STEP) if not seen[name].all()}
    if broken:
        raise ValueError(f"after {min(broken) + 1} random steps {EVERY_STEP[broken[min(broken)]]}")
    if not seen["same"][~seen["done"]].all():
        fix = "set it to the observation before the automatic reset, on every step"
        raise ValueError(f"no episode ended, but info['final_observation'] is not the observation; {fix}")


def check_ends(seen: Seen) -> None:
    """Check that a new episode begins after each end and that ``final_observation`` belongs to the old one, if possible."""
    done, like = seen["done"], seen["like_start"]
    count, same = int(done.sum()), seen["same"][done].all()
    if same and not like[done].any() and is_improbable(1.0 - seen["others_like_start"].mean(), count):
        fix = "return the observation and the state of env.reset there"
        raise ValueError(f"no new episode begins: at {count} ends obs is the final observation; {fix}")
    later, first = (
        done[1:][done[:-1]],
        done[0].mean(),
    )  # share of episodes that end at once: those started by step, and by env.reset
    if later.sum() > 0.5 * later.size and is_improbable(2.0 * max(first, 1 / NUM_ENVS) ** 0.5, later.size):
        fix = "return the state of env.reset where an episode ends, not only its observation"
        raise ValueError(f"{later.sum()} of {later.size} later episodes ended at once, but not those after env.reset; {fix}")
    if same and starts_repeat_improbably(seen):
        fix = "keep the observation before the automatic reset for it"
        raise ValueError(f"at {count} ends info['final_observation'] is the next episode's first observation; {fix}")


def starts_repeat_improbably(seen: Seen) -> bool:
    """Whether all final observations equal the next start, which cannot be chance if starts differ from each other.

    If all starts are equal, only ends by the time limit count, which can occur at any observation. Terminations do not count,
    and need not: the value after a termination is zero anyway.
    """
    done, cut, like = seen["done"], seen["cut"], seen["like_start"]
    between = like[~done].mean() if not done.all() else 1.0
    differ = is_improbable(seen["others_same"].mean() ** 0.5, int(done.sum()))
    return differ or bool(like[cut].all() and is_improbable(between, int(cut.sum())))


def is_improbable(chance: float, times: int) -> bool:
    """Whether an event is improbable so often in a row; ``chance``, from few samples, counts as at least 1 in 32."""
    return min(max(float(chance), 1 / NUM_ENVS), 1.0) ** times < 1e-6
