"""How good a gradient estimator is: its bias, its variance, and its signal-to-noise ratio.

An estimate g of grad J comes from one rollout: the direction in which an update would ascend. Many rollouts of one policy give
many estimates. Estimators are compared on the same states and actions: the same policy and the same key make the same
trajectory, whatever the choice of Psi.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxpg.core import rollout
from jaxpg.core.algorithm import Algorithm, quotient
from jaxpg.core.types import Array, Params, TrainState, Trajectory

__all__ = ["gradient", "gradients", "measure", "sample"]


def sample(algo: Algorithm, state: TrainState, key: Array, warm_up: int = 0) -> Trajectory:
    """A rollout of the policy in ``state``, as the next update would make it, but with its own key.

    Complete episodes have new starts. A continuing rollout begins where the environments of ``state`` are, for every key;
    ``warm_up`` steps before it, which leave no other trace, make the starts random.

    Args:
        algo: The algorithm.
        state: Its state; it is not changed.
        key: For starts, actions and environments.
        warm_up: Steps before the rollout.

    Returns:
        The trajectory, leaves ``[T, B, ...]``.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> rollout = jax.jit(lambda key: jaxpg.diagnostics.sample(algo, algo.init(key), key, warm_up=16))
        >>> jax.eval_shape(rollout, jax.random.key(0)).reward.shape
        (8, 4)
    """
    key_walk, key_rollout = jax.random.split(key)
    actor, loop = algo.actor(state), state.loop
    if warm_up:
        loop, _ = rollout.continuing(key_walk, algo.env, state.env_params, actor, loop, warm_up)
    return algo.rollout(key_rollout, algo.env, state.env_params, actor, loop, algo.num_steps)[1]


def gradient(algo: Algorithm, state: TrainState, trajectory: Trajectory) -> Array:
    """The estimate of grad J that ``algo`` makes from a trajectory: all parameters of the policy as one vector.

    This is the gradient that the first step of an update ascends, before clipping, with the reduction, the regularisers and the
    schedule of ``algo``. With ``jaxpg.objectives.sum_over_steps`` it has the scale of the policy gradient theorem. A network
    that policy and critic share is taken as one, with the policy's loss alone.

    Args:
        algo: The algorithm.
        state: Its state; it is not changed.
        trajectory: A rollout of the policy in ``state``.

    Returns:
        The gradient, ``[P]`` for ``P`` parameters.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
        >>> @jax.jit
        ... def estimate(key):
        ...     state = algo.init(key)
        ...     return jaxpg.diagnostics.gradient(algo, state, jaxpg.diagnostics.sample(algo, state, key))
        >>> jax.eval_shape(estimate, jax.random.key(0)).shape
        (58,)
    """
    hp = algo.schedule(state.hparams, state.step)
    batch = algo.batch(state, trajectory, hp)
    descent, _ = jax.grad(algo.losses(state, hp).policy, has_aux=True)(state.params, batch)
    return -ravel_pytree(descent.policy if isinstance(descent, Params) else descent)[0]


@functools.partial(jax.jit, static_argnames=("algo", "num_batches", "warm_up", "at_once"))
def gradients(
    algo: Algorithm, state: TrainState, key: Array, num_batches: int, *, warm_up: int = 0, at_once: int = 16
) -> Array:
    """``jaxpg.diagnostics.gradient`` of ``num_batches`` independent rollouts.

    To compare choices of Psi, exchange ``algo.advantage`` and keep the state and the key.

    Args:
        algo: The algorithm.
        state: Its state; it is not changed.
        key: For all rollouts.
        num_batches: How many rollouts.
        warm_up: Steps before each rollout, see ``jaxpg.diagnostics.sample``.
        at_once: How many rollouts are in memory at a time.

    Returns:
        The gradients, ``[num_batches, P]`` for ``P`` parameters.

    Raises:
        ValueError: For ``num_batches`` or ``at_once`` below 1.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), hidden=(8,))
        >>> state = algo.init(jax.random.key(0))
        >>> jaxpg.diagnostics.gradients(algo, state, jax.random.key(1), num_batches=5, warm_up=32).shape
        (5, 58)
    """
    if num_batches < 1 or at_once < 1:
        raise ValueError(f"num_batches = {num_batches}, at_once = {at_once}; both must be at least 1")

    def one(key: Array) -> Array:
        return gradient(algo, state, sample(algo, state, key, warm_up))

    return jax.lax.map(one, jax.random.split(key, num_batches), batch_size=min(at_once, num_batches))


def measure(estimates: Array, reference: Array) -> dict[str, Array]:
    """Bias, variance and signal-to-noise ratio of gradient estimates g against the true gradient.

    * ``bias``: |E g - grad J| / |grad J|;
    * ``bias_floor``: the bias that noise alone would show; it has been subtracted from the square of ``bias``;
    * ``variance``: tr Cov(g) / |grad J|^2;
    * ``signal_to_noise``: |E g|^2 / tr Cov(g);
    * ``cosine``: E[cos(g, grad J)], how well a single estimate points; 0 for an estimate of length 0.

    A mean of N estimates is longer than what it estimates, E|mean|^2 = |E g|^2 + tr Cov(g) / N; that excess is subtracted from
    each square. What is not above its noise comes out as 0, or as NaN where it would have to divide. The last two numbers do
    not depend on the scale of g. The first two do, and say little about ``Standardized`` advantages, which have their own
    scale.

    Args:
        estimates: g, ``[N, P]``, at least two.
        reference: grad J itself, ``[P]``, or independent estimates of it that are known to be unbiased, ``[M, P]``.

    Returns:
        The five scalars by name.

    Raises:
        ValueError: For fewer than two estimates, and for a reference of another length.

    Source: after Ilyas et al. 2020.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import diagnostics
        >>> found = diagnostics.measure(jnp.array([[1.0, 1.0], [3.0, -1.0]]), jnp.array([2.0, 0.0]))
        >>> {name: round(float(x), 2) for name, x in found.items()}
        {'bias': 0.0, 'bias_floor': 0.71, 'variance': 1.0, 'signal_to_noise': 0.5, 'cosine': 0.83}
    """
    mean, spread, noise = moments("estimates", estimates)
    truth, _, truth_noise = moments("reference", reference) if reference.ndim > 1 else (reference, 0.0, jnp.zeros(()))
    if mean.shape != truth.shape:
        raise ValueError(f"estimates have {mean.size} numbers each, the reference {truth.size}; both must be of one policy")
    size = square(truth) - truth_noise
    bias = jnp.maximum(square(mean - truth) - noise - truth_noise, 0.0)
    lengths = jnp.sqrt(jnp.sum(estimates**2, axis=1) * square(truth))
    return {
        "bias": jnp.sqrt(quotient(bias, size)),
        "bias_floor": jnp.sqrt(quotient(noise + truth_noise, size)),
        "variance": quotient(spread, size),
        "signal_to_noise": quotient(jnp.maximum(square(mean) - noise, 0.0), spread),
        "cosine": jnp.mean(estimates @ truth / jnp.where(lengths > 0, lengths, 1.0)),
    }


def moments(name: str, estimates: Array) -> tuple[Array, Array, Array]:
    """The mean ``[P]`` of ``estimates``, ``[N, P]``, the trace of their covariance, and that of the covariance of the mean."""
    if estimates.ndim != 2 or len(estimates) < 2:
        raise ValueError(f"{name} has shape {estimates.shape}; two estimates or more are needed, [N, P]")
    mean = jnp.mean(estimates, axis=0)
    spread = jnp.sum((estimates - mean) ** 2) / (len(estimates) - 1)
    return mean, spread, spread / len(estimates)


def square(x: Array) -> Array:
    """|x|^2."""
    return jnp.sum(x**2)
