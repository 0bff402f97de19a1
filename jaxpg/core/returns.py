"""Returns and advantages as recursions over time: arrays ``[T, ...]`` in, arrays ``[T, ...]`` out; no flags, no networks.

All arrays are floats of one shape; anything else is a ``ValueError`` when the function is traced. The flags of an environment
enter as numbers, which ``jaxpg.advantages`` computes once:

* ``discount_t = gamma * (1 - terminated_t)``: nothing follows a termination;
* ``trace_t = lambda * (1 - done_t)``: the recursion stops where an episode ends, also by a time limit. There, and in the last
  row, it continues with ``next_value_t``, the value of the *final* observation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxpg.core import _platform
from jaxpg.core._shapes import check_floats
from jaxpg.core.types import Array


def td_error(reward: Array, discount: Array, value: Array, next_value: Array) -> Array:
    """delta_t = r_t + discount_t v'_t - v_t, the one-step TD error.

    Args:
        reward: r_t, ``[T, ...]``.
        discount: gamma (1 - terminated_t), ``[T, ...]``.
        value: v_t = v(s_t), ``[T, ...]``.
        next_value: v'_t = v(s_{t+1}), ``[T, ...]``.

    Returns:
        delta, ``[T, ...]``.

    Raises:
        ValueError: For arrays that are not floats of one shape.

    Source: Sutton & Barto 2018, eq. 6.5.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import returns
        >>> returns.td_error(jnp.array([1.0]), jnp.array([0.5]), jnp.array([2.0]), jnp.array([3.0]))
        Array([0.5], dtype=float32)
    """
    check_floats("[T, ...]", reward=reward, discount=discount, value=value, next_value=next_value)
    return reward + discount * next_value - value


def lambda_return(reward: Array, discount: Array, trace: Array, next_value: Array) -> Array:
    """G_t = r_t + discount_t [(1 - trace_t) v'_t + trace_t G_{t+1}], with G_T = v'_{T-1}.

    ``trace = 0`` gives one-step targets. ``trace = 1 - done`` gives the discounted return, with the value where it is cut.

    Args:
        reward: r_t, ``[T, ...]``.
        discount: gamma (1 - terminated_t), ``[T, ...]``.
        trace: lambda (1 - done_t), ``[T, ...]``.
        next_value: v'_t = v(s_{t+1}), ``[T, ...]``.

    Returns:
        G, ``[T, ...]``.

    Raises:
        ValueError: For arrays that are not floats of one shape.

    Source: Sutton & Barto 2018, eq. 12.18.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import returns
        >>> half, ones = jnp.full(2, 0.5), jnp.ones(2)
        >>> returns.lambda_return(ones, half, trace=ones, next_value=jnp.array([0.0, 8.0]))
        Array([3.5, 5. ], dtype=float32)
    """
    check_floats("[T, ...]", reward=reward, discount=discount, trace=trace, next_value=next_value)

    known = reward + discount * (1.0 - trace) * next_value
    return _platform.backward(known, discount * trace, next_value[-1])


def discounted_return(reward: Array, discount: Array) -> Array:
    """G_t = r_t + discount_t G_{t+1}, with G_T = 0: the reward to go, without any value.

    Args:
        reward: r_t, ``[T, ...]``.
        discount: gamma (1 - terminated_t), ``[T, ...]``.

    Returns:
        G, ``[T, ...]``.

    Raises:
        ValueError: For arrays that are not floats of one shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import returns
        >>> [f"{g:.2f}" for g in returns.discounted_return(jnp.array([1.0, 2.0, 3.0]), jnp.full(3, 0.9))]
        ['5.23', '4.70', '3.00']
    """
    return lambda_return(reward, discount, jnp.ones_like(reward), jnp.zeros_like(reward))


def n_step_return(reward: Array, discount: Array, trace: Array, next_value: Array, n: int) -> Array:
    """G_t = r_t + discount_t r_{t+1} + ..., n rewards, then the discounted value v'_{t+n-1}.

    ``trace = 1 - done`` stops the sum where an episode ends. Near the last row there are fewer than ``n`` rewards.

    Args:
        reward: r_t, ``[T, ...]``.
        discount: gamma (1 - terminated_t), ``[T, ...]``.
        trace: 1 - done_t, ``[T, ...]``.
        next_value: v'_t = v(s_{t+1}), ``[T, ...]``.
        n: How many rewards, a Python integer of at least 1; the cost is ``n`` passes.

    Returns:
        G, ``[T, ...]``.

    Raises:
        ValueError: For arrays that are not floats of one shape.

    Source: Sutton & Barto 2018, eq. 7.1.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import returns
        >>> ones = jnp.ones(3)
        >>> returns.n_step_return(ones, 0.5 * ones, trace=ones, next_value=4.0 * ones, n=2)
        Array([2.5, 2.5, 3. ], dtype=float32)
    """
    check_floats("[T, ...]", reward=reward, discount=discount, trace=trace, next_value=next_value)
    inside = trace.at[-1].set(0.0)  # nothing is known beyond the last row

    def longer(_: int, g: Array) -> Array:
        following = jnp.concatenate([g[1:], g[-1:]])
        return reward + discount * ((1.0 - inside) * next_value + inside * following)

    return jax.lax.fori_loop(0, n - 1, longer, reward + discount * next_value)


def generalized_advantage(reward: Array, discount: Array, trace: Array, value: Array, next_value: Array) -> Array:
    """A_t = delta_t + discount_t trace_t A_{t+1}, with delta_t = r_t + discount_t v'_t - v_t.

    ``trace = lambda * (1 - done)``. With lambda = 0 this is ``td_error``; with lambda = 1 it is the return minus the value.

    Args:
        reward: r_t, ``[T, ...]``.
        discount: gamma (1 - terminated_t), ``[T, ...]``.
        trace: lambda (1 - done_t), ``[T, ...]``.
        value: v_t = v(s_t), ``[T, ...]``.
        next_value: v'_t = v(s_{t+1}), ``[T, ...]``.

    Returns:
        A, ``[T, ...]``.

    Raises:
        ValueError: For arrays that are not floats of one shape.

    Source: Schulman et al. 2016, eq. 16.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import returns
        >>> ones, zeros = jnp.ones(2), jnp.zeros(2)
        >>> returns.generalized_advantage(ones, 0.5 * ones, trace=0.5 * ones, value=zeros, next_value=zeros)
        Array([1.25, 1.  ], dtype=float32)
    """
    check_floats("[T, ...]", reward=reward, discount=discount, trace=trace, value=value, next_value=next_value)

    delta = td_error(reward, discount, value, next_value)
    return _platform.backward(delta, discount * trace)
