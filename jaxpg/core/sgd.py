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
Stop = Callable[[Metrics, HParams], Array]  # what the loss measured on a minibatch, before its step -> no further steps


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
    """``epochs`` passes over the sequences of a batch, a new permutation each, one optimiser step per minibatch: one scan.

    The optimiser is given ``value=``, the loss, and ``kl=``, that from the old policy, if it takes them. Metrics are means over
    the steps, without that KL: an algorithm measures it when all steps are done. ``grad_norm`` is that before clipping. From
    the first minibatch where ``stop`` is true nothing changes any more; ``stopped`` is the fraction of the steps left out.
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
    """KL(pi_old || pi) on the minibatch is more than ``target_kl``, nats.

    A :class:`Stop` for :class:`SGD`. Stable-Baselines3 stops at 1.5 times its ``target_kl``, CleanRL at it, after an epoch;
    both have none by default. Theirs is an estimate from ratios, this one exact.
    """
    return metrics["kl"] > hp.target_kl


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient steps on the total loss: ``epochs`` passes over the data in ``minibatches`` parts each.

    Args:
        epochs: Passes over the rollout; 4 in CleanRL's PPO and in brax, 10 in Stable-Baselines3.
        minibatches: Parts of a pass, one step each; they must divide the number of sequences.
        optimizer: From hyperparameters to any optax transformation of all parameters; it is rebuilt in every trace, so that its
            step size stays a traced number. One that wants ``value=``, the loss, or ``kl=`` is given it.
        stop: Whether to stop early, e.g. :func:`above_target_kl`; by default never.
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
        """What the optimiser and the rule to stop read; ``None`` (anything) where one of them does not say."""
        found = [getattr(piece, "reads", None) for piece in (self.optimizer, self.stop) if piece is not None]
        return None if None in found else tuple(name for names in found for name in names or ())

    def init(self, params: PyTree, hp: HParams) -> PyTree:
        """The optimiser's state."""
        return self.optimizer(hp).init(params)

    def update(
        self, key: Array, losses: Losses, params: PyTree, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[PyTree, PyTree, Metrics]:
        """All epochs."""
        stop = None if self.stop is None else lambda metrics, rule=self.stop: rule(metrics, hp)
        optimizer = self.optimizer(hp)
        return minimize(key, losses.total, optimizer, params, opt_state, batch, self.epochs, self.minibatches, stop)
