"""The programs that are compiled for accelerators: what an embedder runs, and what the command line runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxpg
from jaxpg.algorithms import _named, presets
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices as lab_devices
from jaxpg.lab.engine import programs as lab_programs
from jaxpg.loops import many, sharding

CLEANRL = {"num_envs": 4, "num_steps": 128, "epochs": 4, "minibatches": 4}
SEEDS = 2048
EPISODES = 128  # of an evaluation
Devices = Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program by name: how it is compiled for some devices, and how many of them it wants."""

    name: str
    build: Callable[[Devices], jax.stages.Compiled]
    num_devices: int = 1


def algorithm(name: str, env: str = "CartPole-v1", **options: Any) -> jaxpg.Algorithm:
    """By name, with CleanRL's sizes as far as it reads them, and with the complete rollouts of the REINFORCEs."""
    known = presets.PRESETS[name]["default"]
    sizes = {} if name.startswith("reinforce") else {size: value for size, value in CLEANRL.items() if size in known}
    return _named.build(name, jaxpg.make(env), **sizes | options)


def all_programs() -> dict[str, Program]:
    """By name."""
    ppo = functools.partial(algorithm, "ppo")
    found = [update(f"{name} {SEEDS}", functools.partial(algorithm, name), SEEDS) for name in presets.ALGORITHMS]
    found += [update(f"ppo {seeds}", ppo, seeds) for seeds in (1, 256, 16384)]
    found += [
        update("ppo MountainCar-v0 preset 2048", lambda: _named.build("ppo", jaxpg.make("MountainCar-v0")), SEEDS),
        update("ppo gru 256", functools.partial(ppo, network="gru", hidden=(64,), shared=True), 256),
        update("ppo cnn 256", functools.partial(ppo, env="Breakout-MinAtar", shared=True), 256),
        *(Program(f"{part} ppo {SEEDS}", functools.partial(compile_command, part, ppo, SEEDS)) for part in PARTS),
        Program(f"4 devices share the seeds, ppo {SEEDS}", functools.partial(compile_command, "chunk", ppo, SEEDS), 4),
        Program("4 devices share the environments, ppo 64 environments", functools.partial(compile_envs, ppo, 64), 4),
    ]
    return {program.name: program for program in found}


def update(name: str, make: Callable[..., jaxpg.Algorithm], seeds: int) -> Program:
    """``algo.update`` of one seed, or vmapped over many."""
    return Program(f"update {name}", functools.partial(compile_update, make, seeds))


def compile_update(make: Callable[..., jaxpg.Algorithm], seeds: int, devices: Devices) -> jax.stages.Compiled:
    """With donated states, as every training loop has it."""
    algo, where = make(), NamedSharding(mesh(devices), PartitionSpec())
    one = functools.partial(jax.random.key, 0, impl=GENERATORS[0])
    key = jax.eval_shape(one if seeds == 1 else lambda: jax.random.split(one(), seeds))
    init, step = (algo.init, algo.update) if seeds == 1 else (jax.vmap(algo.init), jax.vmap(algo.update))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), jax.eval_shape(init, key))
    return compiled(jax.jit(step, donate_argnums=0), devices, state)


PARTS = ("start", "chunk", "evaluation")


def compile_command(part: str, make: Callable[..., jaxpg.Algorithm], seeds: int, devices: Devices) -> jax.stages.Compiled:
    """One of the programs of ``jaxpg train``."""
    traced = lab_programs.trace(make(), many.keys(0, GENERATORS[0]), EPISODES, seeds, mesh(devices))
    if part == "start":
        return traced.start.result()
    return (traced.chunk if part == "chunk" else traced.trace_evaluation()).compile()


def compile_envs(make: Callable[..., jaxpg.Algorithm], num_envs: int, devices: Devices) -> jax.stages.Compiled:
    """``algo.update`` of one seed whose environments are shared."""
    by_env = mesh(devices, "env")
    algo = sharding.shard_envs(make(num_envs=num_envs), by_env)
    state = jax.eval_shape(algo.init, jax.eval_shape(lambda: jax.random.key(0, impl=GENERATORS[0])))
    placed = sharding.layout(state, by_env)
    step = jax.jit(algo.update, out_shardings=(placed, None), donate_argnums=0)
    return compiled(step, devices, lab_devices.like(state, placed))


def mesh(devices: Devices, axis: str = "seed") -> Mesh:
    """All devices, along one axis."""
    return Mesh(np.array(devices), (axis,), axis_types=(AxisType.Auto,))


def compiled(function: Any, devices: Devices, *arguments: Any) -> jax.stages.Compiled:
    """For the platform of the devices."""
    platform = devices[0].platform.replace("gpu", "cuda")
    return function.trace(*arguments).lower(lowering_platforms=(platform,)).compile()
