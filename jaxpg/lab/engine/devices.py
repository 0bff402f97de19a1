"""The devices of this machine, and how seeds are spread over them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxpg
from jaxpg.core import _philox as philox

philox.on_several_devices()  # the lab's default generator

SEED, ENV = PartitionSpec("seed"), "env"
LANES = 16  # runs side by side on a CPU: wider does not fit the cache and is no faster


def use_all_cores() -> None:
    """Use one CPU device per core that this process may use. Call it before JAX looks for devices; later it can only warn.

    Does nothing where a GPU or TPU may be used, or where the number of CPU devices was already chosen by the user.
    """
    platforms = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    chosen = jax.config.jax_num_cpu_devices >= 0  # pyright: ignore[reportAttributeAccessIssue]
    chosen = chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or (platforms != "cpu" and (platforms or has_accelerator())):
        return
    try:
        jax.config.update("jax_num_cpu_devices", num_cores())
    except RuntimeError:
        used, cores = jax.local_device_count(), num_cores()
        if used < cores:
            fix = f"set JAX_NUM_CPU_DEVICES={cores}, or call jaxpg.use_all_cores() before anything imports gymnax"
            warnings.warn(f"{used} of {cores} cores compute: JAX was in use before; {fix}", stacklevel=3)


def keep_programs() -> None:
    """Compiled programs are kept for the next process, in ``~/.cache/jaxpg``; not where JAX was told otherwise.

    ``JAX_COMPILATION_CACHE_DIR`` names another directory, ``JAX_ENABLE_COMPILATION_CACHE=false`` keeps nothing. A directory
    that cannot be made is done without.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:  # pyright: ignore
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home, or one that is read-only
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpg"
        place.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check_platform() -> None:
    """``ValueError`` of one line where JAX finds no device to compute on, e.g. for a platform that does not exist."""
    try:
        jax.local_devices()
    except RuntimeError as error:
        asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"JAX_PLATFORMS = {asked}: {' '.join(str(error).split())[:200]}") from None


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


def env_mesh() -> Mesh:
    """All local devices, for the environments of every run."""
    return jax.make_mesh((jax.local_device_count(),), (ENV,), axis_types=(AxisType.Auto,), devices=jax.local_devices())


def lanes(runs: int, platform: str = "") -> int:
    """How many of ``runs`` a device trains side by side, block after block: all of them, but on a CPU at most ``LANES``.

    ``platform`` is that of the device, by default JAX's.

    >>> lanes(8), lanes(20), lanes(150)
    (8, 10, 16)
    """
    if (platform or jax.default_backend()) != "cpu":
        return runs
    blocks = -(-runs // LANES)
    return LANES if blocks * LANES - runs < runs / 8 else -(-runs // blocks)


def padded(num_runs: int, num_devices: int) -> int:
    """``num_runs`` rounded up to whole blocks on every device; the surplus is computed and dropped.

    >>> padded(3, 2), padded(40, 2), padded(300, 2)
    (4, 40, 320)
    """
    each = -(-num_runs // num_devices)
    block = lanes(each)
    return -(-each // block) * block * num_devices


def spread(function: Callable[..., Any], mesh: Mesh, shared: int = 0, **jit_options: Any) -> Any:
    """``function`` of many runs, leaves ``[R, ...]``, jitted: each device takes its share of the runs and works on its own.

    The first ``shared`` arguments are the same for all. ``shard_map`` rather than sharding alone: a loop that ends when its
    runs are done never waits for another device.
    """

    def each(*arguments: Any) -> Any:
        same, runs = arguments[:shared], arguments[shared:]
        specs = (*[PartitionSpec()] * shared, *[SEED] * len(runs))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=SEED, check_vma=False)(*same, *runs)

    return jax.jit(each, **jit_options)


def compile_once(traced: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    """Compile a program that runs once: on a CPU without optimisation, which takes a quarter of the time."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return traced.compile({"xla_backend_optimization_level": "0"} if on_cpu else None)


def bytes_needed(program: jax.stages.Compiled) -> int:
    """What ``program`` takes on one device while it runs, by XLA's own account; 0 where that cannot be had."""
    stats = program.memory_analysis()
    if stats is None:
        return 0
    kept = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + kept + stats.temp_size_in_bytes


def bytes_free() -> int:
    """Memory that one local device can still give: the accelerator's own, or its share of the host's."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_bytes_free() // jax.local_device_count()


def host_bytes_free() -> int:
    """Memory of the host that is free, or can be freed, within the limit of the container."""
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        known.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        known.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(known)


def layout(tree: Any, mesh: Mesh) -> Any:
    """Where the leaves that :func:`spread` returns lie: runs over the devices."""
    return jax.tree.map(lambda _: NamedSharding(mesh, SEED), tree)


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The leaves of ``tree`` whole on every device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def like(tree: Any, layout: Any) -> Any:
    """``tree`` in the abstract: shapes and dtypes, and where each leaf lies."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, layout)


def describe(mesh: Mesh) -> dict[str, Any]:
    """What computes: platform, kind and number of devices, and the cores of the host."""
    device = mesh.devices.flat[0]
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    return {"platform": device.platform, "kind": kind, "count": mesh.size, "host_cores": num_cores()}


def machine(mesh: Mesh) -> dict[str, Any]:
    """All that the bits of a result depend on besides its configuration: devices, versions and flags."""
    return {"device": describe(mesh), "versions": versions(), "flags": flags()}


def versions() -> dict[str, str]:
    """Versions of Python, of jaxpg and of what the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "gymnax", "numpy")
    ours = {"python": platform.python_version(), "jaxpg": jaxpg.__version__}
    return ours | {name: importlib.metadata.version(name) for name in packages}


def flags() -> dict[str, str]:
    """The settings of JAX and XLA on which the bits of a result depend."""
    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
    return {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")} | {name: str(getattr(jax.config, name)) for name in names}
