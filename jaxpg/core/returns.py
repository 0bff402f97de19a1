"""Returns and advantages as recursions: arrays ``[T, ...]`` in, arrays ``[T, ...]`` out; no flags, no networks.

All are floats of one shape; anything else is a ``ValueError`` when it is traced.

The two flags of an environment enter here as numbers, made once by the caller (:mod:`jaxpg.advantages`):

``discount_t = gamma * (1 - terminated_t)``: what follows a termination is worth nothing;
``trace_t = lambda * (1 - done_t)``: the recursion is cut where an episode ends, also by a time limit, and there, as at the
last row, it continues with ``next_value_t``, the value of the *final* observation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg.core import _platform
from jaxpg.core._shapes import check_floats
from jaxpg.core.types import Array


def td_error(reward: Array, discount: Array, value: Array, next_value: Array) -> Array:
    """delta_t = r_t + discount_t v'_t - v_t  [Sutton & Barto 2018, eq. 6.5].

    >>> td_error(jnp.array([1.0]), jnp.array([0.5]), jnp.array([2.0]), jnp.array([3.0]))
    Array([0.5], dtype=float32)
    """
    check_floats("[T, ...]", reward=reward, discount=discount, value=value, next_value=next_value)
    return reward + discount * next_value - value


def lambda_return(reward: Array, discount: Array, trace: Array, next_value: Array) -> Array:
    """G_t = r_t + discount_t [(1 - trace_t) v'_t + trace_t G_{t+1}], with G_T = v'_{T-1}  [Sutton & Barto 2018, eq. 12.18].

    ``trace = 0`` gives one-step targets; ``trace = 1 - done`` the discounted return, bootstrapped where it is cut.
    """
    check_floats("[T, ...]", reward=reward, discount=discount, trace=trace, next_value=next_value)

    known = reward + discount * (1.0 - trace) * next_value
    return _platform.backward(known, discount * trace, next_value[-1])


def discounted_return(reward: Array, discount: Array) -> Array:
    """G_t = r_t + discount_t G_{t+1}, with G_T = 0: reward to go, without any value.

    >>> [f"{g:.2f}" for g in discounted_return(jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 0.9))]
    ['5.23', '4.70', '3.00']
    """
    return lambda_return(reward, discount, jnp.ones_like(reward), jnp.zeros_like(reward))


def n_step_return(reward: Array, discount: Array, trace: Array, next_value: Array, n: int) -> Array:
    """G_t = r_t + discount_t r_{t+1} + ... (n rewards) + discounted v'_{t+n-1}  [Sutton & Barto 2018, eq. 7.1].

    ``trace = 1 - done`` cuts the sum where an episode ends; near the last row there are fewer than ``n`` rewards.
    ``n >= 1`` is a size: the cost is ``n`` passes.
    """
    check_floats("[T, ...]", reward=reward, discount=discount, trace=trace, next_value=next_value)
    inside = trace.at[-1].set(0.0)  # nothing is known beyond the last row

    def longer(_: int, g: Array) -> Array:
        following = jnp.concatenate([g[1:], g[-1:]])
        return reward + discount * ((1.0 - inside) * next_value + inside * following)

    return jax.lax.fori_loop(0, n - 1, longer, reward + discount * next_value)


def generalized_advantage(reward: Array, discount: Array, trace: Array, value: Array, next_value: Array) -> Array:
    """A_t = delta_t + discount_t trace_t A_{t+1}, delta_t = r_t + discount_t v'_t - v_t  [Schulman et al. 2016, eq. 16].

    ``trace = lambda * (1 - done)``. With lambda = 0 this is :func:`td_error`, with lambda = 1 the return minus the value.
    """
    check_floats("[T, ...]", reward=reward, discount=discount, trace=trace, value=value, next_value=next_value)

    delta = td_error(reward, discount, value, next_value)
    return _platform.backward(delta, discount * trace)
