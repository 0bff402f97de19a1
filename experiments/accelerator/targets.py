"""Accelerators that are not here: what XLA's compilers ask about an H100, an H200 and a TPU v5e."""

from __future__ import annotations

import os
import re
from typing import Any

GPUS = {  # bytes a second, bytes, name: the SXM parts
    "h100": (3_352_320_000_000, 84_942_979_072, "NVIDIA H100 80GB HBM3"),
    "h200": (4_800_000_000_000, 151_397_597_184, "NVIDIA H200 141GB HBM3e"),
}
SCALAR_UNITS = {
    4: (64, 1),
    8: (64, 1),
    10: (128, 2),
    11: (128, 1),
    12: (64, 1),
    16: (128, 2),
}  # primitive type: units, per clock
MATRIX_UNITS = {10: (4, 512), 11: (4, 256), 12: (4, 32), 16: (4, 512)}


def devices(target: str) -> list[Any]:
    """Devices to compile for: ``h100``, ``h100:4`` (four of them), ``h200``, ``v5e:2x2`` (four chips of a TPU).

    ``ValueError`` for another name. The compilers must be installed, see ``requirements.txt``.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no machine of a cloud is asked
    from jax.experimental import topologies

    if target.startswith("v"):
        return topologies.get_topology_desc(target, platform="tpu").devices
    found = re.fullmatch(rf"({'|'.join(GPUS)})(?::([1-9]))?", target)
    if not found:
        raise ValueError(f"target = {target!r:.40} must be h100, h200, h100:COUNT or v5e:2x2")
    return topologies.get_topology_desc(
        "node", platform="cuda", target_config=gpu(found[1]), topology=f"1x1x{found[2] or 1}"
    ).devices


def gpu(kind: str) -> str:
    """A ``GpuTargetConfigProto`` of XLA, as text."""
    bandwidth, memory, name = GPUS[kind]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth} l2_cache_size: 52428800 device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  {rates("scalar_unit_description", 1.98, SCALAR_UNITS)}
  {rates("matrix_unit_description", 1.83, MATRIX_UNITS)}
  device_vendor: "NVIDIA Corporation" name: "{name}"
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.12.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 patch: 0 }} device_description_str: "{name}"
"""


def rates(name: str, clock_ghz: float, units: dict[int, tuple[int, int]]) -> str:
    """Arithmetic units by primitive type."""
    cells = (
        f"rate_infos {{ key: {key} value {{ clock_rate_ghz: {clock_ghz} units_per_core: {count} ops_per_clock: {ops} }} }}"
        for key, (count, ops) in units.items()
    )
    return f"{name} {{ {' '.join(cells)} }}"
