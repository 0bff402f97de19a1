"""What a worker gets and what it returns. A process that unpickles them has imported nothing yet that uses JAX's devices."""

from __future__ import annotations

import dataclasses
import pickle  # noqa: TID251 - of what the process that started this one has sent, never of a file


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a task ended: its runs, what its worker warned of, and the mean greedy return, NaN if it is not known.

    ``batches`` are the names of the folders that hold its results: one, or several if it did not fit into the memory at once.
    ``failure`` says in one line why the runs are not finished; it is empty if they are.
    """

    runs: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    score: float = float("nan")
    batches: tuple[str, ...] = ()
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class Packed:
    """A function of ``runs``, pickled, for a process that chooses its devices before it unpickles the function.

    ``cores`` are the CPU devices to use, 0 for all cores that the process may use.
    """

    function: bytes
    cores: int = 0

    def __call__(self, runs: tuple[int, ...]) -> Outcome:
        """Call the function; ``RuntimeError`` if JAX was in use before with another number of devices."""
        from jaxpg.lab.engine import devices  # nothing else yet: importing gymnax already uses the devices

        devices.use_all_cores(self.cores)
        devices.keep_programs()
        return pickle.loads(self.function)(runs)  # noqa: S301 - from the process that started this one
