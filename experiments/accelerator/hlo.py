"""Reads an optimised XLA program as text: what is launched (GPU) or how many cycles are estimated (TPU), loop by loop."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

FREE = {  # what launches nothing
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "copy-done", "async-done", "all-reduce-done", "slice-done", "add-dependency"),
}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """``name = type op(...), attributes``: a line of a computation."""

    type: str
    op: str
    attributes: str

    def attribute(self, name: str) -> str:
        """The name or number that is given for ``name``, or nothing."""
        found = re.search(rf'\b{name}=%?"?([\w.\-]+)', self.attributes)
        return found[1] if found else ""

    @property
    def trips(self) -> int | None:
        """How often a loop is passed, where the compiler knows."""
        found = re.search(r'known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @property
    def cycles(self) -> int:
        """What a TPU's compiler estimates."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0

    @property
    def branches(self) -> list[str]:
        """Of a conditional."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        names = found[1].split(",") if found else [self.attribute("true_computation"), self.attribute("false_computation")]
        return [name.strip().lstrip("%") for name in names if name]


@dataclasses.dataclass(frozen=True)
class Census:
    """What a computation launches by itself, by kind, and its loops: ``(trips, leaves carried, census of the body)``.

    A loop of which the compiler does not know the trips counts once.
    """

    kinds: dict[str, int]
    own_cycles: int
    loops: tuple[tuple[int | None, int, Census], ...]

    @property
    def own(self) -> int:
        """Launches outside of loops."""
        return sum(self.kinds.values())

    @property
    def launches(self) -> int:
        """All launches."""
        return self.own + sum((trips or 1) * body.launches for trips, _, body in self.loops)

    @property
    def cycles(self) -> int:
        """All estimated cycles."""
        return self.own_cycles + sum((trips or 1) * body.cycles for trips, _, body in self.loops)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        loops = [{"trips": trips, "leaves": leaves} | body.to_dict() for trips, leaves, body in self.loops]
        numbers = {"own": self.own, "launches": self.launches}
        if self.cycles:
            numbers |= {"own_cycles": self.own_cycles, "cycles": self.cycles}
        return numbers | {"kinds": dict(sorted(self.kinds.items())), "loops": loops}


def count(program: str) -> Census:
    """The census of a program, the text of a compiled function.

    >>> text = '''ENTRY %main (a: f32[2]) -> f32[2] {
    ...   %a = f32[2]{0} parameter(0)
    ...   ROOT %b = f32[2]{0} copy(%a)
    ... }'''
    >>> count(text).launches
    1
    """
    computations, entry = parse(program)
    return census(computations, entry)


def parse(program: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions by computation, and the name of the entry."""
    computations: dict[str, list[Instruction]] = {}
    lines, entry = [], ""
    for line in program.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if head:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif found := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*)", line):
            lines.append(instruction(found[1]))
    return computations, entry


def instruction(text: str) -> Instruction:
    """``TYPE op(...), attributes``, where a type may be a tuple of types."""
    end, depth = 0, 0
    for end, letter in enumerate(text):  # noqa: B007 - the end is what is looked for
        depth += (letter == "(") - (letter == ")")
        if letter == " " and depth == 0:
            break
    op = re.match(r"\s*([\w\-]+)\(", text[end:])
    return Instruction(text[:end], op[1] if op else "?", text[end:])


def census(computations: dict[str, list[Instruction]], name: str) -> Census:
    """Of a computation, with what it calls."""
    kinds: collections.Counter[str] = collections.Counter()
    cycles, loops = 0, []
    for each in flat(computations, name):
        if each.op == "while":
            loops.append((each.trips, each.type.count("["), census(computations, each.attribute("body"))))
        elif each.op == "conditional":
            loops += [(1, 0, census(computations, branch)) for branch in each.branches]
        elif each.op not in FREE:
            kinds[kind(computations, each)] += 1
            cycles += each.cycles
    return Census(dict(kinds), cycles, tuple(loops))


def flat(computations: dict[str, list[Instruction]], name: str) -> Iterator[Instruction]:
    """The instructions of a computation, those of calls in place of the call."""
    for each in computations.get(name, []):
        if each.op == "call":
            yield from flat(computations, each.attribute("to_apply"))
        else:
            yield each


def kind(computations: dict[str, list[Instruction]], each: Instruction) -> str:
    """What a launch is: its operation, the target of a custom call, whether a fusion holds a matrix product."""
    if each.op == "custom-call":
        return f"custom-call {each.attribute('custom_call_target')}"
    if each.op == "fusion":
        inside = {inner.op for inner in computations.get(each.attribute("calls"), [])}
        return "fusion with product" if inside & {"dot", "convolution"} else "fusion"
    return each.op


def collectives(program: str) -> dict[str, int]:
    """Operations of all computations that devices do together."""
    found = collections.Counter(each.op.removesuffix("-start") for lines in parse(program)[0].values() for each in lines)
    return {name: found[name] for name in COLLECTIVES if found[name]}
