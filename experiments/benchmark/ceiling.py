"""How far from the ceiling? Arithmetic per environment step, what the devices can do, and the share that training reaches.

    .venv/bin/python -m experiments.benchmark.ceiling

PPO of CleanRL's sizes on CartPole-v1. Operations are counted by hand and, piece by piece, by XLA (it counts the body of a loop
once, so programs tell nothing). The ceiling is the rate of a large float32 matrix product on every device at once;
everything is measured in turn, in one process, and given as medians. Writes ``ceiling.json``.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import PartitionSpec

import jaxpg
from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices, programs
from jaxpg.loops import many as sweeping

FIGURES = Path(__file__).parent.parent / "figures"
LOOPS = 50  # repetitions of a small operation within one call
NUM_OBS, NUM_ACTIONS = 4, 2  # of CartPole-v1


def products_by_hand(outputs: int, hidden: tuple[int, int] = (64, 64)) -> tuple[int, int]:
    """Floating-point operations of a network's matrix products for one observation: forward; forward and backward.

    Backward, every product has two of its size, but the first layer needs no gradient with respect to the observation.
    """
    first, rest = 2 * NUM_OBS * hidden[0], 2 * hidden[0] * hidden[1] + 2 * hidden[1] * outputs
    return first + rest, 2 * first + 3 * rest


def by_hand(epochs: int) -> float:
    """Per environment step: one action, two values, ``epochs`` gradients of both networks."""
    (act, policy), (value, critic) = products_by_hand(NUM_ACTIONS), products_by_hand(1)
    return act + 2 * value + epochs * (policy + critic)


def by_xla(algo: jaxpg.Algorithm, epochs: int, minibatches: int) -> float:
    """The same and all other arithmetic, as XLA counts it in the compiled pieces: rollout step, advantages, gradient."""
    state = algo.init(jax.random.key(0))
    draw = jax.eval_shape(
        lambda s: algo.rollout(s.key, algo.env, s.env_params, algo.actor(s), s.loop, algo.num_steps)[1], state
    )
    batch = jax.eval_shape(lambda s, t: algo.batch(s, t, s.hparams), state, draw)
    rows = algo.num_envs * algo.num_steps // minibatches
    part = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, rows, *x.shape[2:]), x.dtype), batch)

    def one_step(s: Any) -> Any:
        return algo.actor(s).act(s.loop.memory, s.loop.obs, s.loop.episode_length == 0, jnp.zeros(algo.num_envs))

    act = operations(one_step, state) / algo.num_envs
    at_once = dataclasses.replace(algo, update_rule=jaxpg.SGD())  # XLA counts a loop over parts of the rollout as one pass
    judged = operations(lambda s, t: at_once.batch(s, t, s.hparams), state, draw) / (algo.num_envs * algo.num_steps)
    gradient = (
        operations(lambda s, b: jax.grad(algo.losses(state, s.hparams).total, has_aux=True)(s.params, b), state, part) / rows
    )
    return act + judged + epochs * gradient


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    """XLA's count for one compiled program."""
    counted = jax.jit(function).lower(*arguments).compile().cost_analysis()
    assert counted is not None, "this backend counts nothing"
    return float(counted["flops"])


def on_all_devices(function: Callable[[jax.Array], jax.Array], x: np.ndarray) -> Callable[[], Any]:
    """``function``, ``LOOPS`` times over on each device at once, each with its own ``x``."""
    mesh = devices.seed_mesh(jax.local_device_count())

    def each(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, LOOPS, lambda _, x: function(x), x)

    seed = PartitionSpec("seed")
    program = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=seed, out_specs=seed, check_vma=False))
    many = jax.device_put(np.concatenate([x] * mesh.size), jax.sharding.NamedSharding(mesh, seed))
    return lambda: jax.block_until_ready(program(many))


def product(rows: int, width: int) -> tuple[Callable[[], Any], float]:
    """``[rows, width] x [width, width]`` on every device, and its operations in 1e9."""
    weights = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0].astype(np.float32)
    run = on_all_devices(lambda x: x @ weights, np.ones((rows, width), np.float32))
    return run, 2 * rows * width**2 * LOOPS * jax.local_device_count() / 1e9


def training(algo: jaxpg.Algorithm, seeds: int, updates: int) -> tuple[Callable[[], Any], float]:
    """``updates`` updates of all seeds, and their environment steps in 1e6."""
    mesh = devices.seed_mesh(seeds)
    program = programs.trace(algo, sweeping.keys(0, GENERATORS[0]), 1, devices.pad_runs(seeds, mesh.size), mesh)
    program.compile()
    runs = program.begin(range(seeds), [algo.hparams] * seeds)

    def run() -> None:
        nonlocal runs
        runs, _ = jax.block_until_ready(program.chunk(np.int32(updates), np.bool_(False), runs))

    return run, seeds * updates * algo.num_envs * algo.num_steps / 1e6


def main(seeds: int = 16, num_envs: int = 4, updates: int = 100, repetitions: int = 9, out: Path = FIGURES) -> dict[str, Any]:
    """Count, measure, compare."""
    epochs = minibatches = 4
    algo = jaxpg.ppo(
        jaxpg.make("CartPole-v1"), num_envs=num_envs, num_steps=128, epochs=epochs, minibatches=minibatches, hidden=(64, 64)
    )
    count = jax.local_device_count()
    rows = num_envs * algo.num_steps // minibatches
    size = 2**24
    measured = {
        "training, 1e6 steps/s": training(algo, seeds, updates),
        "product 1024x1024, GFLOP/s": product(1024, 1024),
        f"product {rows}x64, GFLOP/s": product(rows, 64),
        f"tanh {rows}x64, 1e9/s": (on_all_devices(jnp.tanh, np.ones((rows, 64), np.float32)), rows * 64 * LOOPS * count / 1e9),
        "copy, GB/s": (on_all_devices(lambda x: x + 1.0, np.ones(size, np.float32)), 8 * size * LOOPS * count / 1e9),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for repetition in range(repetitions + 1):  # the first is not counted
        for name, (run, _) in measured.items():
            begin = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    rates = {name: work / statistics.median(seconds[name]) for name, (_, work) in measured.items()}
    hand, xla = by_hand(epochs), by_xla(algo, epochs, minibatches)
    reached, ceiling = rates["training, 1e6 steps/s"], rates["product 1024x1024, GFLOP/s"] * 1e3 / hand
    found = {
        "seeds": seeds,
        "num_envs": num_envs,
        "devices": f"{count} x {jax.local_devices()[0].device_kind}",
        "FLOP per step, products by hand": hand,
        "FLOP per step, XLA": xla,
        **rates,
        "ceiling, 1e6 steps/s": ceiling,
        "share of the ceiling": reached / ceiling,
        "share of the small products": reached / (rates[f"product {rows}x64, GFLOP/s"] * 1e3 / hand),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "ceiling.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name:40s} {value:12.3f}" if isinstance(value, float) else f"{name:40s} {value!s:>12s}")
    return found


if __name__ == "__main__":
    tyro.cli(main)
