"""The memory plan: how many runs are trained at once, made before the first of them starts."""

from __future__ import annotations

import dataclasses

from jaxpg.lab.engine import devices

SLACK = 0.9  # share of the free memory that a plan may use


@dataclasses.dataclass(frozen=True)
class Plan:
    """Train ``runs`` runs on ``num_devices`` devices in batches of ``width``. Bytes are for one device."""

    runs: int
    num_devices: int
    width: int
    bytes_per_run: int
    bytes_free: int

    @property
    def batches(self) -> int:
        """The number of batches, trained one after another."""
        return -(-self.runs // self.width)

    @property
    def share(self) -> float:
        """The share of the free memory of a device that is used."""
        return self.bytes_per_run * -(-self.width // self.num_devices) / max(self.bytes_free, 1)

    def __str__(self) -> str:
        """One line for the user."""
        how = "at once" if self.batches == 1 else f"in {self.batches} batches of {self.width}"
        many = "1 device" if self.num_devices == 1 else f"{self.num_devices} devices"
        used = amount(self.bytes_per_run * -(-self.width // self.num_devices))
        sizes = f"{amount(self.bytes_per_run)} a run, {used} of {amount(self.bytes_free)} a device"
        return f"{self.runs} runs on {many} {how}; {sizes}"


def make(runs: int, num_devices: int, bytes_per_run: int, bytes_free: int) -> Plan:
    """Plan as few batches as fit into the memory, of equal size. ``ValueError`` if not even one run fits.

    >>> print(make(300, 2, 2**20, 2**30))
    300 runs on 2 devices at once; 1.0 MiB a run, 160.0 MiB of 1.0 GiB a device
    >>> make(300, 2, 2**20, 60 * 2**20).batches
    4
    """
    fitting = int(bytes_free * SLACK) // max(bytes_per_run, 1)
    if fitting < 1:
        missing = amount(bytes_per_run / SLACK - bytes_free)
        raise ValueError(
            f"one run needs {amount(bytes_per_run)}, but a device has {amount(bytes_free)} free: {missing} are missing; "
            "give fewer --num-envs, fewer --num-steps or narrower --hidden"
        )
    fitting = fitting // devices.LANES * devices.LANES or fitting  # full blocks
    wanted = -(-runs // num_devices)
    batches = -(-wanted // fitting)
    each = -(-wanted // batches)
    if batches > 1:  # at least two full blocks, so that each run is bit for bit the same as if all fitted at once
        each = min(max(-(-each // devices.LANES), 2) * devices.LANES, fitting)
    return Plan(runs, num_devices, devices.pad_runs(each * num_devices, num_devices), bytes_per_run, bytes_free)


def amount(size: float) -> str:
    """Format a number of bytes for a reader.

    >>> amount(1536)
    '1.5 KiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
