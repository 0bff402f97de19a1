"""What an update may launch on an accelerator, counted in its lowered program: nothing grows unless a number here is changed.

A loop launches its body on every pass, so its passes, the arrays that it carries and the operations of its body are counted.
What compilers for accelerators make of them is in ``experiments/accelerator/census.json``.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import pytest

from jaxpg import make
from jaxpg.algorithms import _named, presets


class Loop(NamedTuple):
    """Passes, arrays carried, and operations of the body; those of loops inside are counted by themselves."""

    passes: int
    leaves: int
    operations: int


# Operations outside of loops, and the loops in their order: the rollout, values, steps of the optimiser, metrics of the policy.
ROLLOUT = Loop(32, 26, 1240)  # 4 steps a pass
BUDGET = {
    "reinforce": (3182, [Loop(125, 26, 1240), Loop(1, 18, 301)]),
    "reinforce_baseline": (3197, [Loop(125, 26, 1136), Loop(1, 29, 470)]),
    "actor_critic": (2166, [ROLLOUT, Loop(1, 29, 474)]),
    "a2c": (2313, [ROLLOUT, Loop(1, 30, 563)]),
    "ppo": (2774, [ROLLOUT, Loop(4, 12, 76), Loop(16, 33, 711), Loop(4, 15, 232)]),
    "trpo": (
        3250,
        [ROLLOUT, Loop(4, 12, 76), Loop(10, 15, 254), Loop(10, 16, 246), Loop(16, 18, 249), Loop(4, 12, 162)],
    ),
}

SIZES = {"num_envs": 4, "num_steps": 128, "epochs": 4, "minibatches": 4}  # CleanRL's


def lowered(name: str) -> Any:
    """The update of 4 seeds, for a GPU that need not be here, as a module of StableHLO."""
    known = presets.PRESETS[name]["default"]
    sizes = {} if name.startswith("reinforce") else {size: value for size, value in SIZES.items() if size in known}
    algo = _named.build(name, make("CartPole-v1"), **sizes)
    state = jax.eval_shape(jax.vmap(algo.init), jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4)))
    return jax.jit(jax.vmap(algo.update)).trace(state).lower(lowering_platforms=("cuda",)).compiler_ir()


def count(functions: dict[str, Any], block: Any) -> tuple[int, list[Loop]]:
    """Operations of a block without its loops, and these."""
    operations, loops = 0, []
    for op in (each.operation for each in block.operations):
        for inner in inside(functions, op):
            more, nested = count(functions, inner)
            loops += [Loop(passes(op), len(op.results), more), *nested] if op.name == "stablehlo.while" else nested
            operations += 0 if op.name == "stablehlo.while" else more
        operations += op.name not in ("stablehlo.while", "stablehlo.case", "func.call", "func.return", "stablehlo.return")
    return operations, loops


def inside(functions: dict[str, Any], op: Any) -> Iterator[Any]:
    """The blocks that an operation runs as programs of their own."""
    if op.name == "func.call":
        yield functions[op.attributes["callee"].value].regions[0].blocks[0]
    elif op.name == "stablehlo.while":
        yield op.regions[1].blocks[0]
    elif op.name == "stablehlo.case":
        yield from (region.blocks[0] for region in op.regions)


def passes(loop: Any) -> int:
    """The constant that the counter of a scan is compared with; 0 for a loop that ends otherwise."""
    found = [op.operation for op in loop.regions[0].blocks[0].operations if op.operation.name == "stablehlo.constant"]
    return int(next(iter(found[0].attributes["value"]))) if found else 0


@pytest.mark.parametrize("name", presets.ALGORITHMS)
def test_an_update_launches_no_more_than_its_budget(name: str) -> None:
    module = lowered(name)
    functions = {op.attributes["sym_name"].value: op for op in module.body.operations}
    found = count(functions, functions["main"].regions[0].blocks[0])
    operations, loops = BUDGET[name]
    assert [loop[:2] for loop in found[1]] == [loop[:2] for loop in loops]
    counts = [found[0], *(loop.operations for loop in found[1])]
    budget = [operations, *(loop.operations for loop in loops)]
    other = 0.0 if jax.__version__.startswith("0.10.") else 0.1  # releases of JAX spell operations differently
    assert all(count <= limit * (1.0 + other) for count, limit in zip(counts, budget, strict=True)), (counts, budget)
    assert all(count >= 0.9 * limit for count, limit in zip(counts, budget, strict=True)), "less: lower the budget"


def test_what_is_added_is_counted() -> None:
    """A loop in a loop, in a function, in a branch."""

    def add(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jax.lax.platform_dependent(x, cpu=double, default=triple), None), x, length=7)[0]

    module = jax.jit(add).trace(jax.numpy.ones(3)).lower(lowering_platforms=("cuda",)).compiler_ir()
    functions = {op.attributes["sym_name"].value: op for op in module.body.operations}
    _, (outer, inner) = count(functions, functions["main"].regions[0].blocks[0])
    assert (outer.passes, inner.passes, inner.leaves) == (7, 3, 3)
    assert inner.operations > 2


def double(x: jax.Array) -> jax.Array:
    """What a CPU does."""
    return x + x


def triple(x: jax.Array) -> jax.Array:
    """What accelerators do."""
    return jax.lax.fori_loop(0, 3, lambda _, total: total + x, x * 0)
