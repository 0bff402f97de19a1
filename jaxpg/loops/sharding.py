"""One run on several devices, which divide its environments; gradients are averaged, and parameters are equal on all devices.

XLA partitions the rollout, values, advantages and statistics by the sharding of the environments in the state, and computes the
same numbers as one device would, random numbers included. Only the gradient steps are written here: one all-reduce each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxpg.core import objectives, rollout
from jaxpg.core._checks import default_length
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import HParams
from jaxpg.core.types import (
    ActorCritic,
    Array,
    Batch,
    Distribution,
    Losses,
    Metrics,
    Params,
    PyTree,
    ReductionFn,
    TrainState,
    UpdateRule,
)

ENV = "env"  # the axis of the mesh
Loss = Callable[[PyTree, Batch], tuple[Array, Metrics]]


def shard_envs(algo: Algorithm, mesh: Mesh) -> Algorithm:
    """The same algorithm, with its environments divided among the devices of ``mesh``.

    ``jaxpg.sharding.place`` puts a state there. The result agrees with one device up to rounding where ``minibatches = 1``.
    With more, a minibatch holds equally many rows of every device, so that its random rows differ from those on one device.

    Args:
        algo: The algorithm.
        mesh: Devices on an ``Auto`` axis called ``env``.

    Returns:
        An algorithm with the same pieces.

    Raises:
        ValueError: For sizes that the number of devices does not divide, and for pieces that have no exact mean over devices.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> mesh = jax.make_mesh((1,), ("env",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> algo = jaxpg.sharding.shard_envs(algo, mesh)
        >>> state = jaxpg.sharding.place(algo.init(jax.random.key(0)), mesh)
        >>> state, metrics = jax.jit(algo.update)(state)
        >>> int(state.step)
        1
    """
    check(algo, mesh)
    rule = Sharded(algo.update_rule, mesh, algo.num_envs, algo.reduction)
    return dataclasses.replace(algo, network=StepByStep(algo.network, algo.num_envs), update_rule=rule)


def layout(state: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of each leaf of a ``jaxpg.types.TrainState``: environments over the devices, all else on each of them.

    For the ``out_shardings`` of a program that is compiled ahead: a state keeps this layout through updates.

    Args:
        state: A state; leaves may be abstract, and have leading axes, e.g. of seeds, as many as ``state.step`` has.
        mesh: Devices on an axis called ``env``.

    Returns:
        A pytree of ``jax.sharding.NamedSharding`` like ``state``.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> mesh = jax.make_mesh((1,), ("env",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jax.eval_shape(algo.init, jax.random.key(0))
        >>> jaxpg.sharding.layout(state, mesh).loop.obs.spec == jax.sharding.PartitionSpec("env")
        True
    """
    everywhere, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P(*[None] * state.step.ndim, ENV))
    placed = jax.tree.map(lambda _: everywhere, state)
    return placed.replace(loop=jax.tree.map(lambda _: spread, state.loop))


def place(state: TrainState, mesh: Mesh) -> TrainState:
    """The state on the devices of ``mesh``, in the layout of ``jaxpg.sharding.layout``.

    Args:
        state: A state, from ``algo.init``.
        mesh: Devices on an axis called ``env``.

    Returns:
        The same state, with its environments divided among the devices.

    Examples:
        >>> import jax
        >>> import jaxpg
        >>> mesh = jax.make_mesh((1,), ("env",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> algo = jaxpg.ppo(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8)
        >>> state = jaxpg.sharding.place(algo.init(jax.random.key(0)), mesh)
        >>> state.loop.obs.sharding.spec == jax.sharding.PartitionSpec("env")
        True
    """
    return jax.device_put(state, layout(state, mesh))


@dataclasses.dataclass(frozen=True)
class Sharded:
    """An update rule that each device applies to its own rows, with losses that are means over all devices."""

    rule: UpdateRule
    mesh: Mesh
    num_envs: int
    reduction: ReductionFn = objectives.mean_over_steps

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The hyperparameters that the rule reads."""
        return getattr(self.rule, "reads", None)

    def init(self, params: PyTree, hp: HParams) -> PyTree:
        """The rule's state."""
        return self.rule.init(params, hp)

    def update(
        self, key: Array, losses: Losses, params: PyTree, opt_state: PyTree, batch: Batch, hp: HParams
    ) -> tuple[PyTree, PyTree, Metrics]:
        """The update of the rule. Metrics are computed on each device and averaged once, after all steps."""

        def one_device(
            key: Array, params: PyTree, opt_state: PyTree, batch: Batch, hp: HParams
        ) -> tuple[PyTree, PyTree, Metrics]:
            batch = jax.tree.map(lambda x: jax.lax.collapse(x, 1, 3), batch)
            share = weight_share(batch.weight)
            loss_share = share if self.reduction == objectives.mean_over_steps else jnp.ones_like(share)
            params, opt_state, metrics = self.rule.update(
                key, averaged(losses, share, loss_share), params, opt_state, batch, hp
            )
            scaled = {name: x * (loss_share if name.endswith("_loss") else share) for name, x in metrics.items()}
            flat, unravel = ravel_pytree(scaled)
            return params, opt_state, unravel(jax.lax.pmean(flat, ENV))

        rows = jax.tree.map(lambda x: x.reshape(x.shape[0], x.shape[1] // self.num_envs, self.num_envs, *x.shape[2:]), batch)
        run = jax.shard_map(one_device, mesh=self.mesh, in_specs=(P(), P(), P(), P(None, None, ENV), P()), out_specs=P())
        return run(key, params, opt_state, rows, hp)


@dataclasses.dataclass(frozen=True)
class StepByStep:
    """A network that is applied to ``num_envs`` rows at a time: with rows ``[T * B]`` each device would get all of them.

    (On one device all rows at once are faster, because the first gradient step can reuse the values.)
    """

    network: ActorCritic
    num_envs: int

    def init(self, key: Array, obs: PyTree) -> dict[str, PyTree]:
        """The network's variables."""
        return self.network.init(key, obs)

    def initial_memory(self, num_envs: int) -> PyTree:
        """The network's."""
        return self.network.initial_memory(num_envs)

    def apply(self, variables: PyTree, memory: PyTree, obs: PyTree, start: Array) -> tuple[PyTree, Distribution, Array]:
        """Apply the network, to any number of rows."""
        num_steps, rows = start.shape
        is_rollout = rows == self.num_envs and num_steps > 1 and not jax.tree.leaves(memory)
        if not is_rollout and (num_steps > 1 or rows % self.num_envs or rows == self.num_envs):
            return self.network.apply(variables, memory, obs, start)  # one step, or a part of a minibatch, or sequences

        def cut(x: Array) -> Array:
            return x.reshape(num_steps * rows // self.num_envs, 1, self.num_envs, *x.shape[2:])

        def join(x: Array) -> Array:
            return x.reshape(num_steps, rows, *x.shape[3:])

        many = jax.tree.map(lambda x: x.reshape(rows // self.num_envs, self.num_envs, *x.shape[1:]), memory)
        apply = jax.vmap(self.network.apply, (None, 0, 0, 0))
        memory, dist, value = apply(variables, many, *jax.tree.map(cut, (obs, start)))
        return jax.tree.map(lambda x: jax.lax.collapse(x, 0, 2), memory), *jax.tree.map(join, (dist, value))


def weight_share(weight: Array) -> Array:
    """D W_local / sum_devices W: with this factor, the mean of D local weighted means is the weighted mean of all rows."""
    total = jax.lax.pmean(jnp.sum(weight), ENV)
    return jnp.sum(weight) / jnp.where(total > 0, total, 1.0)


def averaged(losses: Losses, share: Array, loss_share: Array) -> Losses:
    """Average losses over the devices, which have equal parameters; metrics are not averaged."""

    def copy(params: PyTree) -> PyTree:
        """One copy per device, as a single vector, so that the gradient needs one all-reduce."""
        flat, unravel = ravel_pytree(params)
        return unravel(jax.lax.pcast(flat, ENV, to="varying"))

    def copy_each(params: PyTree) -> PyTree:
        """The same with separate vectors for policy and critic, so that only those with a gradient are exchanged."""
        return Params(*map(copy, params)) if isinstance(params, Params) else copy(params)

    def mean(loss: Loss, copy: Callable[[PyTree], PyTree]) -> Loss:
        def over_devices(params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
            value, metrics = loss(copy(params), batch)
            if "kl" in metrics:  # steps may depend on it, and all devices must do the same steps
                metrics = metrics | {"kl": jax.lax.pmean(metrics["kl"] * share, ENV)}
            return jax.lax.pmean(value * loss_share, ENV), metrics

        return over_devices

    def kl(params: PyTree, batch: Batch) -> Array:
        return jax.lax.pmean(losses.kl(copy_each(params), batch) * share, ENV)

    return Losses(mean(losses.total, copy), mean(losses.policy, copy_each), mean(losses.critic, copy_each), kl)


def check(algo: Algorithm, mesh: Mesh) -> None:
    """Raise ``ValueError`` unless the sizes are divisible and the mean over devices is exact."""
    axes = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if axes.get(ENV) != AxisType.Auto:
        fix = f"jax.make_mesh((n,), ({ENV!r},), axis_types=(AxisType.Auto,))"
        raise ValueError(f"mesh has the axes {axes}, but needs an Auto axis {ENV!r}; make it with {fix}")
    devices, parts = mesh.shape[ENV], getattr(algo.update_rule, "minibatches", 1)
    if algo.num_envs % devices:
        fix = "make it a multiple"
        raise ValueError(f"num_envs = {algo.num_envs} is not divisible by the {devices} devices that share them; {fix}")
    length = algo.sequence_length or default_length(algo)
    rows = algo.num_envs // devices * algo.num_steps // length
    if rows % parts:
        product = f"num_envs / devices * num_steps = {algo.num_envs} / {devices} * {algo.num_steps} = {rows}"
        product += f", in sequences of {length}," if length > 1 else ""
        raise ValueError(f"{product} is not divisible by minibatches = {parts}; make it a multiple")
    if algo.reduction not in (objectives.mean_over_steps, objectives.sum_over_steps):
        name = getattr(algo.reduction, "__name__", algo.reduction)
        raise ValueError(f"reduction = {name} may have no mean over devices; take mean_over_steps or sum_over_steps")
    if any(isinstance(piece, objectives.Standardized) for piece in (algo.objective, *algo.regularizers)):
        fix = "take advantage_norm = rollout, or jaxpg.advantages.Standardized"
        raise ValueError(f"advantage_norm = minibatch would standardise the rows of each device apart; {fix}")
    if parts > 1 and algo.rollout != rollout.continuing:
        name = getattr(algo.rollout, "__name__", algo.rollout)
        raise ValueError(f"minibatches = {parts} of a rollout with weights ({name}) have no exact mean over devices; take 1")
