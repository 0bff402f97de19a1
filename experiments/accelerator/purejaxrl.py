"""PureJaxRL's PPO beside ours in the census: the same environments and sizes, from a checkout of its own.

    .venv-accelerator/bin/python -m experiments.accelerator.purejaxrl --checkout PATH

What is changed from outside: gymnax 1.0 is given the five values of before; Brax and Navix, which PPO on CartPole does not
need, are empty modules; the orthogonal initialiser is a normal one of the same scale, which changes the start and no update.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnax
import jax
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from experiments.accelerator import census, programs
from experiments.benchmark.contestants.five_values import FiveValues
from jaxpg.lab.config import GENERATORS

UPDATES = 10  # of the complete training that it is compiled as; a loop, of which one pass is an update
CONFIG = {
    "LR": 2.5e-4,
    "NUM_ENVS": programs.CLEANRL["num_envs"],
    "NUM_STEPS": programs.CLEANRL["num_steps"],
    "TOTAL_TIMESTEPS": UPDATES * programs.CLEANRL["num_envs"] * programs.CLEANRL["num_steps"],
    "UPDATE_EPOCHS": programs.CLEANRL["epochs"],
    "NUM_MINIBATCHES": programs.CLEANRL["minibatches"],
    "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95,
    "CLIP_EPS": 0.2,
    "ENT_COEF": 0.01,
    "VF_COEF": 0.5,
    "MAX_GRAD_NORM": 0.5,
    "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1",
    "ANNEAL_LR": False,
    "DEBUG": False,
}


def its_ppo(checkout: Path) -> Any:
    """Its module ``ppo``."""
    if not (checkout / "purejaxrl" / "ppo.py").exists():
        raise SystemExit(f"checkout = {checkout} has no purejaxrl/ppo.py; clone PureJaxRL there")
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update({"envs": None, "EpisodeWrapper": None, "AutoResetWrapper": None})
    sys.path.insert(0, str(checkout / "purejaxrl"))
    import ppo  # pyright: ignore[reportMissingImports]

    original = gymnax.make
    ppo.gymnax.make = lambda name: (FiveValues(original(name)[0]), original(name)[1])
    ppo.orthogonal = lambda scale: jax.nn.initializers.variance_scaling(scale**2, "fan_in", "normal")
    return ppo


def build(ppo: Any, seeds: int, devices: programs.Devices) -> jax.stages.Compiled:
    """All of its training, compiled."""
    train, where = ppo.make_train(dict(CONFIG)), NamedSharding(programs.mesh(devices), PartitionSpec())
    one = functools.partial(jax.random.key, 0, impl=GENERATORS[0])
    key = jax.eval_shape(one if seeds == 1 else lambda: jax.random.split(one(), seeds))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=where)
    return programs.compiled(jax.jit(train if seeds == 1 else jax.vmap(train)), devices, key)


def of_one_update(row: dict[str, Any]) -> dict[str, Any]:
    """The loop over updates, as a row of the census."""
    loop = next(loop for loop in row["loops"] if loop["trips"] == UPDATES)
    return row | {name: loop[name] for name in ("own", "launches", "kinds", "loops")}


def main(
    checkout: Path, targets: tuple[str, ...] = ("h100",), seeds: tuple[int, ...] = (1, 256, 2048), out: Path = census.HERE
) -> None:
    """Compile, count and add to ``census.json``.

    Args:
        checkout: A clone of PureJaxRL.
        targets: ``h100``; of a TPU's loops the compiler does not tell the passes.
        seeds: How many, one number a program.
        out: Where ``census.json`` and ``census.md`` are.
    """
    ppo, path = its_ppo(checkout), out / "census.json"
    numbers = json.loads(path.read_text())
    for target in targets:
        for count in seeds:
            program = programs.Program(f"PureJaxRL {count}", functools.partial(build, ppo, count))
            row = of_one_update(census.measure(program, target))
            numbers["programs"][f"{target}: {program.name}"] = row | {"commit": census.commit()}
            print(f"{target}: {program.name}: {row['launches']:,} launches", *census.loops(row), sep="\n    ", flush=True)
    path.write_text(json.dumps(numbers, indent=1) + "\n")
    (out / "census.md").write_text(census.table(numbers["programs"]) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
