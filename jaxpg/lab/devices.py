"""The devices of this machine, and how seeds are spread over them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxpg

SEED = PartitionSpec("seed")


def use_all_cores() -> None:
    """One CPU device per core this process may use. Call it before JAX looks for devices; afterwards it does nothing.

    Does nothing either where a GPU or TPU may be used, or where the number of CPU devices was already chosen by the user.
    """
    platforms = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    chosen = jax.config.jax_num_cpu_devices >= 0  # pyright: ignore[reportAttributeAccessIssue]
    chosen = chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or (platforms != "cpu" and (platforms or has_accelerator())):
        return
    with contextlib.suppress(RuntimeError):  # JAX already looked
        jax.config.update("jax_num_cpu_devices", num_cores())


def has_accelerator() -> bool:
    """JAX could use a GPU or TPU: its support is installed (asking JAX itself would fix the number of CPU devices)."""
    return bool(importlib.metadata.entry_points(group="jax_plugins")) or importlib.util.find_spec("libtpu") is not None


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_mesh(num_seeds: int) -> Mesh:
    """The local devices that share ``num_seeds`` evenly, with as few seeds on each as can be."""
    per_device = -(-num_seeds // jax.local_device_count())
    used = jax.local_devices()[: -(-num_seeds // per_device)]
    return jax.make_mesh((len(used),), ("seed",), axis_types=(AxisType.Auto,), devices=used)


def padded(num_seeds: int, mesh: Mesh) -> int:
    """``num_seeds`` rounded up to a multiple of the devices; the surplus is computed and dropped."""
    return -(-num_seeds // mesh.size) * mesh.size


def over_seeds(function: Callable[..., Any], mesh: Mesh, **jit_options: Any) -> Any:
    """``function`` of one seed, jitted for all: leaves ``[S, ...]``, vmapped on each device, each device on its own.

    ``shard_map`` rather than a sharded ``vmap``: a loop that ends when its seeds are done never waits for another device.
    """
    spread = jax.shard_map(jax.vmap(function), mesh=mesh, in_specs=SEED, out_specs=SEED, check_vma=False)
    return jax.jit(spread, **jit_options)


def compile_once(traced: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    """Compile a program that runs once: on a CPU without optimisation, which takes a quarter of the time."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return traced.compile({"xla_backend_optimization_level": "0"} if on_cpu else None)


def like(tree: Any, mesh: Mesh) -> Any:
    """What :func:`over_seeds` returns, in the abstract: shapes and dtypes as in ``tree``, seeds spread over ``mesh``."""
    sharding = NamedSharding(mesh, SEED)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def describe(mesh: Mesh) -> dict[str, Any]:
    """What computes: platform, kind and number of devices, and the cores of the host."""
    device = mesh.devices.flat[0]
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    return {"platform": device.platform, "kind": kind, "count": mesh.size, "host_cores": num_cores()}


def versions() -> dict[str, str]:
    """Versions of Python, of jaxpg and of what the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "gymnax", "numpy")
    ours = {"python": platform.python_version(), "jaxpg": jaxpg.__version__}
    return ours | {name: importlib.metadata.version(name) for name in packages}
