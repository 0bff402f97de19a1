"""Stochastic gradient descent on the losses of one rollout: epochs, minibatches, and when to stop early."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxpg.core._packed import Packed
from jaxpg.core._shuffle import permutations
from jaxpg.core.hparams import HParams, reads
from jaxpg.core.optimizers import actor_critic_adam, global_norm
from jaxpg.core.types import Array, Batch, Losses, Metrics, Optimizer, PyTree

Loss = Callable[[PyTree, Batch], tuple[Array, Metrics]]
Stop = Callable[[Metrics, HParams], Array]  # (metrics of the loss on a minibatch, before its step) -> whether to stop


def minimize(
    key: Array,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    params: PyTree,
    opt_state: PyTree,
    batch: Batch,
    epochs: int,
    minibatches: int,
    stop: Callable[[Metrics], Array] | None = None,
) -> tuple[PyTree, PyTree, Metrics]:
    """``epochs`` passes over the sequences of a batch, each in a new random order, with one optimiser step per minibatch.

    The optimiser is given ``value=``, the loss, and ``kl=``, the KL divergence from the old policy, if it accepts them. From
    the first minibatch where ``stop`` is true, nothing changes any more.

    Args:
        key: For the random order.
        loss: ``(params, batch) -> (loss, metrics)``.
        optimizer: An optax transformation.
        params: The parameters to train.
        opt_state: The optimiser's state.
        batch: Sequences, leaves ``[L, N, ...]``.
        epochs: Passes over the batch.
        minibatches: Parts of each pass; a divisor of ``N``.
        stop: From the metrics of a minibatch, before its step, to whether to stop; by default never.

    Returns:
        New parameters, new optimiser state, and metrics. Metrics are means over the steps; ``grad_norm`` is before clipping,
            ``stopped`` the share of steps left out. The KL divergence is left out; an algorithm measures it after all steps.

    Raises:
        ValueError: Where ``minibatches`` does not divide the number of sequences.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from jaxpg import types, updates
        >>> zeros = jnp.zeros((1, 4))  # four sequences of one step
        >>> batch = types.Batch(zeros, zeros, zeros, (), zeros, zeros, target=zeros + 1, weight=zeros, start=zeros, memory=())
        >>> def loss(w, batch):
        ...     return jnp.mean((w - batch.target) ** 2), {}
        >>> sgd, w = optax.sgd(0.25), jnp.zeros(())
        >>> w, _, metrics = updates.minimize(jax.random.key(0), loss, sgd, w, sgd.init(w), batch, epochs=2, minibatches=2)
        >>> float(w)  # four steps, each halves the distance to 1
        0.9375
    """
    n = batch.advantage.shape[1]
    if n % minibatches:
        raise ValueError(f"the {n} sequences of an update are not divisible by minibatches = {minibatches}")
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry: tuple[PyTree, PyTree, Array], rows: Array | None) -> tuple[tuple, Packed]:
        params, opt_state, stopped = carry
        part = batch if rows is None else jax.tree.map(lambda x: x[:, rows], batch)
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, part)
        updates, new_state = optimizer.update(grads, opt_state, params, value=value, kl=metrics.get("kl"))
        new = optax.apply_updates(params, updates), new_state
        metrics = metrics | {"grad_norm": global_norm(grads)}
        if stop is not None:
            stopped = stopped | stop(metrics)
            new = jax.tree.map(lambda x, old: jnp.where(stopped, old, x), new, (params, opt_state))
            metrics = {name: jnp.where(stopped, 0.0, x) for name, x in metrics.items()} | {"stopped": stopped.astype(float)}
        return (*new, stopped), Packed.of({name: x[None] for name, x in metrics.items() if name != "kl"})

    steps = epochs * minibatches
    rows = None if minibatches == 1 else permutations(key, epochs, n).reshape(steps, n // minibatches)  # else in any order
    stopped = jnp.array(False)
    (params, opt_state, _), measured = jax.lax.scan(step, (params, opt_state, stopped), rows, length=steps)
    metrics = jax.tree.map(jnp.mean, measured.tree())
    if stop is not None:
        taken = jnp.maximum(1.0 - metrics["stopped"], 1.0 / steps)
        metrics = {name: x if name == "stopped" else x / taken for name, x in metrics.items()}
    return params, opt_state, metrics


@reads("target_kl")
def above_target_kl(metrics: Metrics, hp: HParams) -> Array:
    """KL(pi_old || pi) of a minibatch is more than ``target_kl``: a rule for ``jaxpg.SGD(stop=...)``.

    Stable-Baselines3 stops at 1.5 times its ``target_kl``; CleanRL at ``target_kl``, after an epoch. Both have none by default.
    They estimate the KL from ratios; here it is exact.

    Args:
        metrics: Metrics of a minibatch before its step; reads ``kl``, nats.
        hp: Hyperparameters; reads ``target_kl``, nats.

    Returns:
        A boolean scalar; true stops the update.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxpg import HParams, updates
        >>> bool(updates.above_target_kl({"kl": jnp.array(0.03)}, HParams(target_kl=0.02)))
        True
    """
    return metrics["kl"] > hp.target_kl


@dataclasses.dataclass(frozen=True)
class SGD:
    """Gradient steps on the total loss: ``epochs`` passes over the data of an update, each in ``minibatches`` parts.

    Args:
        epochs: Passes over the rollout; 4 in CleanRL's PPO, 2 in Brax's, 10 in Stable-Baselines3's.
        minibatches: Parts of a pass, one step each; they must divide the number of sequences.
        optimizer: From hyperparameters to an optax transformation of all parameters. It is rebuilt in every trace, so that
            its step size may be traced. It is given ``value=``, the loss, and ``kl=``, if it accepts them.
        stop: A rule to stop an update early, e.g. ``jaxpg.updates.above_target_kl``; by default never.

    Raises:
        ValueError: For ``epochs`` or ``minibatches`` below 1.

    Examples:
        >>> import dataclasses
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"))
        >>> algo = dataclasses.replace(algo, update_rule=jaxpg.SGD(epochs=2, minibatches=4))
        >>> algo.update_rule.reads
        ('learning_rate', 'adam_eps', 'max_grad_norm', 'critic_learning_rate', 'adam_eps', 'max_grad_norm')
    """

    epochs: int = 1
    minibatches: int = 1
    optimizer: Optimizer = actor_critic_adam
    stop: Stop | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}; at least 1 is needed")

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The hyperparameters that the optimiser and the rule to stop read; ``None`` (any) where one of them does not say."""
        found = [getattr(piece, "reads", None) for piece in (self.optimizer, self.stop) if piece is not None]
        return None if None in found else tuple(name for names in found for name in names or ())

    def init(self, params: PyTree, hp: HParams) -> PyTree:
        """The optimiser's state."""
        return self.optimizer(hp).init(params)

    def update(
        self, key: Array, losses: Losses, params: PyTree, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[PyTree, PyTree, Metrics]:
        """All epochs of one update."""
        stop = None if self.stop is None else lambda metrics, rule=self.stop: rule(metrics, hp)
        optimizer = self.optimizer(hp)
        return minimize(key, losses.total, optimizer, params, opt_state, batch, self.epochs, self.minibatches, stop)
