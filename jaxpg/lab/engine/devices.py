"""The devices of this machine, and how seeds are spread over them."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.metadata
import importlib.util
import os
import pkgutil
import platform
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxpg
from jaxpg.core import _philox as philox
from jaxpg.lab.engine import hosts
from jaxpg.lab.store import leaves

philox.on_several_devices()  # the lab's default generator

SEED, ENV = PartitionSpec("seed"), "env"
LANES = 16  # runs in parallel on a CPU core: more do not fit into the cache and are no faster


def use_all_cores(cores: int = 0) -> None:
    """Use one CPU device for each core that this process may use.

    Call it before JAX looks for devices; later it can only warn. It does nothing where a GPU or TPU may be used, or where you
    have chosen the number of CPU devices. If a plugin of JAX for an accelerator is installed but there is no such device, JAX
    is told to use the CPU, so that it does not search for the device and print a warning.

    Args:
        cores: The number of CPU devices, if not one for each core.

    Examples:
        >>> import jaxpg
        >>> jaxpg.use_all_cores()
    """
    cores = cores or num_cores()
    platforms, support = asked_platforms(), installed_support()
    if platforms != "cpu" and (platforms or present(support)):
        return
    if support and not platforms:
        jax.config.update("jax_platforms", "cpu")
    if is_core_count_chosen() or jax.distributed.is_initialized():  # one device in each of several processes
        return
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:
        used = jax.local_device_count()
        if used < cores:
            fix = f"set JAX_NUM_CPU_DEVICES={cores}, or call jaxpg.use_all_cores() directly after importing jaxpg"
            warnings.warn(f"{used} of {cores} cores are used: JAX was in use before; {fix}", stacklevel=3)


def asked_platforms() -> str:
    """The platforms that JAX was told to use, e.g. with ``JAX_PLATFORMS``; empty if it may choose."""
    return jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]


def is_core_count_chosen() -> bool:
    """Whether the user has set the number of CPU devices."""
    chosen = jax.config.jax_num_cpu_devices >= 0  # pyright: ignore[reportAttributeAccessIssue]
    return chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")


def keep_programs() -> None:
    """Cache compiled programs for the next process in ``~/.cache/jaxpg``, unless JAX is configured otherwise.

    ``JAX_COMPILATION_CACHE_DIR`` names another directory, ``JAX_ENABLE_COMPILATION_CACHE=false`` switches the cache off. If the
    directory cannot be made, nothing is cached.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:  # pyright: ignore
        return
    with contextlib.suppress(OSError, RuntimeError):  # no home, or one that is read-only
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxpg"
        place.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check_platform() -> None:
    """Raise a ``ValueError`` of one line if JAX finds no device, e.g. for a platform that does not exist.

    Warns if there is a GPU or TPU that JAX cannot use, so that it computes on only some of the CPU cores.
    """
    try:
        platform, used, cores = jax.local_devices()[0].platform, jax.local_device_count(), num_cores()
    except RuntimeError as error:
        raise ValueError(f"JAX_PLATFORMS = {asked_platforms()}: {' '.join(str(error).split())[:200]}") from None
    is_chosen = bool(asked_platforms()) or is_core_count_chosen()
    if platform == "cpu" and used < cores and not is_chosen and (found := present(installed_support())):
        warnings.warn(
            f"a GPU or TPU seems to be here, but JAX cannot use it ({', '.join(found)} is installed): {used} of {cores} cores "
            "are used; JAX_PLATFORMS=cpu uses all of them",
            stacklevel=2,
        )


# Device files, by a part of the name of JAX's plugin for the device. If none of them exists, there is no such device.
DEVICE_FILES = {
    "cuda": ("/dev/nvidia*", "/dev/dxg"),  # the second is used by WSL
    "rocm": ("/dev/kfd", "/dev/dxg"),
    "tpu": ("/dev/accel*", "/dev/vfio/[0-9]*"),
}


def installed_support() -> list[str]:
    """The installed plugins of JAX for GPUs, TPUs and others, whether or not there is such a device."""
    names = {point.value.rpartition(".")[2] for point in importlib.metadata.entry_points(group="jax_plugins")}
    folder = importlib.util.find_spec("jax_plugins")
    if folder is not None:
        names |= {module.name for module in pkgutil.iter_modules(folder.submodule_search_locations)}
    is_tpu = importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ
    return sorted(names | ({"tpu"} if is_tpu else set()))


def present(support: Iterable[str], exists: Callable[[str], bool] | None = None) -> list[str]:
    """The plugins in ``support`` for which there may be a device. Asking JAX instead would fix the number of CPU devices.

    ``exists`` says whether a file matches a pattern. For an unknown plugin it is assumed that there is a device.

    >>> present(["tpu", "xla_cuda13"], lambda pattern: pattern == "/dev/nvidia*"), present(["own"], lambda pattern: False)
    (['xla_cuda13'], ['own'])
    """
    exists = exists or (lambda pattern: bool(glob.glob(pattern)))

    def may_be_there(name: str) -> bool:
        kind = next((kind for kind in DEVICE_FILES if kind in name), None)
        is_hidden = kind == "cuda" and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        is_forced = kind == "tpu" and "JAX_FORCE_TPU_INIT" in os.environ
        return kind is None or is_forced or (not is_hidden and any(map(exists, DEVICE_FILES[kind])))

    return list(filter(may_be_there, support))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable() -> list[Any]:
    """The devices of all processes that compute together; otherwise those of this process."""
    return jax.devices() if hosts.place().count > 1 else jax.local_devices()


def seed_mesh(num_seeds: int) -> Mesh:
    """The devices that train ``num_seeds`` seeds: as few seeds per device as possible, and no idle devices.

    Where several processes compute together, all their devices are used, because all of them run the program.
    """
    per_device = -(-num_seeds // len(usable()))
    used = usable() if hosts.place().count > 1 else usable()[: -(-num_seeds // per_device)]
    return jax.make_mesh((len(used),), ("seed",), axis_types=(AxisType.Auto,), devices=used)


def fit_width(width: int) -> int:
    """``width`` runs, rounded up to as many on each device of their mesh."""
    return -(-width // seed_mesh(width).size) * seed_mesh(width).size


def env_mesh() -> Mesh:
    """All devices, which divide the environments of each run."""
    return jax.make_mesh((len(usable()),), (ENV,), axis_types=(AxisType.Auto,), devices=usable())


def lanes(runs: int, platform: str = "") -> int:
    """How many of ``runs`` a device trains in parallel: all of them, but on a CPU at most ``LANES``, block after block.

    ``platform`` is the platform of the device, by default that of JAX.

    >>> lanes(8), lanes(20), lanes(150)
    (8, 10, 16)
    """
    if (platform or jax.default_backend()) != "cpu":
        return runs
    blocks = -(-runs // LANES)
    return LANES if blocks * LANES - runs < runs / 8 else -(-runs // blocks)


def pad_runs(num_runs: int, num_devices: int) -> int:
    """``num_runs`` rounded up to full blocks on every device; the results of additional runs are dropped.

    >>> pad_runs(3, 2), pad_runs(40, 2), pad_runs(300, 2)
    (4, 40, 320)
    """
    each = -(-num_runs // num_devices)
    block = lanes(each)
    return -(-each // block) * block * num_devices


def spread(function: Callable[..., Any], mesh: Mesh, shared: int = 0, *, out_shardings: Any = None, **jit_options: Any) -> Any:
    """Jit a ``function`` of many runs, leaves ``[R, ...]``, so that each device computes its share of the runs independently.

    Its results are divided among the devices too, unless there are other ``out_shardings``.

    The first ``shared`` arguments are the same for all runs. ``shard_map`` is used, because with sharding alone a loop that
    ends when its runs are done would wait for the other devices.
    """

    def each(*arguments: Any) -> Any:
        same, runs = arguments[:shared], arguments[shared:]
        specs = (*[PartitionSpec()] * shared, *[SEED] * len(runs))
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=SEED, check_vma=False)(*same, *runs)

    by_run = NamedSharding(mesh, SEED)  # explicit, because XLA would replicate arrays without elements
    return jax.jit(each, out_shardings=out_shardings or by_run, **jit_options)


def compile_once(traced: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    """Compile a program that runs once: on a CPU without optimisation, which takes a quarter of the time."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return traced.compile({"xla_backend_optimization_level": "0"} if on_cpu else None)


def return_memory() -> None:
    """Return to the system the memory that compiling has freed: glibc keeps it, hundreds of megabytes for a large program."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other libraries do not have it
    if trim is not None:
        trim(0)


def bytes_needed(program: jax.stages.Compiled) -> int:
    """The memory that ``program`` needs on one device, as reported by XLA; 0 if that is not available."""
    stats = program.memory_analysis()
    if stats is None:
        return 0
    kept = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + kept + stats.temp_size_in_bytes


def bytes_free() -> int:
    """Free memory of each local device: that of an accelerator, or its share of the memory of the host."""
    local = jax.local_devices()
    if local[0].platform == "cpu":
        return host_bytes_free() // (len(local) * hosts.count_here())
    left = [bytes_left(device.memory_stats()) for device in local]
    if None in left and local[0].platform in ("gpu", "tpu"):  # other platforms may share the memory of the host
        fix = "set memory to the GiB that may be used on each device, or unset XLA_PYTHON_CLIENT_ALLOCATOR"
        raise ValueError(
            f"memory = 0: the allocator of this {local[0].platform.upper()} does not report its free memory; {fix}"
        )
    return host_bytes_free() // len(local) if None in left else min(size for size in left if size is not None)


def bytes_left(stats: Mapping[str, int] | None) -> int | None:
    """The free memory of an allocator with these ``stats``; ``None`` if it does not report it.

    By default JAX uses at most 75 % of the memory of a GPU. That is the limit here, not the total or free memory of the GPU.

    >>> bytes_left({"bytes_limit": 60 * 2**30, "bytes_in_use": 2**30}) == 59 * 2**30
    True
    """
    limit = (stats or {}).get("bytes_limit", 0)
    return max(limit - (stats or {}).get("bytes_in_use", 0), 0) if limit else None


def host_bytes_free() -> int:
    """Available memory of the host, within the limit of the container."""
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        known.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        known.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(known)


def layout(tree: Any, mesh: Mesh) -> Any:
    """The shardings of the leaves that ``spread`` returns: runs divided among the devices."""
    return jax.tree.map(lambda _: NamedSharding(mesh, SEED), tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The shardings for leaves that are replicated on every device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def put(tree: Any, layout: Any) -> Any:
    """Put arrays on their devices; where several processes compute together, all of them must have the same ``tree``."""
    if hosts.place().count == 1:
        return jax.device_put(tree, layout)
    return jax.jit(leaves.identity, out_shardings=layout)(tree)


def like(tree: Any, layout: Any) -> Any:
    """The shapes, dtypes and shardings of ``tree``."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, layout)


def describe(mesh: Mesh) -> dict[str, Any]:
    """The hardware: platform, kind and number of devices, and the cores of the host."""
    device = mesh.devices.flat[0]
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    return {"platform": device.platform, "kind": kind, "count": mesh.size, "host_cores": num_cores()}


def find_nondeterminism(platform: str, xla_flags: str, are_kernels_kept: bool) -> str:
    """Why a resumed run may not be bit for bit the same as an uninterrupted one, and what to set; empty if it will be.

    ``xla_flags`` is the value of ``XLA_FLAGS``. With ``are_kernels_kept`` the next process uses the kernels that XLA chose in
    the first one. CPUs and TPUs are deterministic.

    >>> find_nondeterminism("gpu", "--xla_gpu_deterministic_ops=true", False), find_nondeterminism("cpu", "", False)
    ('', '')
    """
    if platform != "gpu":
        return ""
    pairs = (flag.lstrip("-").partition("=") for flag in xla_flags.split())
    given = {name: value for name, _, value in pairs}  # the last flag of a name counts
    is_on = {name for name, value in given.items() if value.lower() in ("", "true", "1")}
    is_deterministic = "xla_gpu_deterministic_ops" in is_on
    is_ordered = is_deterministic or "xla_gpu_exclude_nondeterministic_ops" in is_on
    is_fixed = is_deterministic or are_kernels_kept or given.get("xla_gpu_autotune_level") == "0"
    is_fixed = is_fixed or bool(given.get("xla_gpu_per_fusion_autotune_cache_dir"))
    reasons = ["the order of sums may change"] * (not is_ordered) + ["XLA chooses kernels by measured speed"] * (not is_fixed)
    if not reasons:
        return ""
    fix = "XLA_FLAGS=--xla_gpu_deterministic_ops=true, set before the start, avoids that"
    return f"on a GPU {' and '.join(reasons)}: a resumed run may not be bit for bit the same as an uninterrupted one; {fix}"


def are_kernels_kept() -> bool:
    """Whether JAX caches programs for the next process, and with them the kernels that XLA chose."""
    caches = getattr(jax.config, "jax_persistent_cache_enable_xla_caches", None) or ""
    is_on = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir  # pyright: ignore
    return bool(is_on) and (caches == "all" or "xla_gpu_per_fusion_autotune_cache_dir" in caches)


def matmul_precision(name: str) -> contextlib.AbstractContextManager[None]:
    """Matrix products of float32 that are traced inside have this precision; ``default`` keeps the setting of JAX."""
    return contextlib.nullcontext() if name == "default" else jax.default_matmul_precision(name)


def machine(mesh: Mesh) -> dict[str, Any]:
    """All that bit-for-bit results depend on besides the configuration: devices, versions and flags."""
    return {"device": describe(mesh), "versions": versions(), "flags": flags()}


def versions() -> dict[str, str]:
    """Versions of Python, of jaxpg and of the packages that affect the results."""
    packages = ("jax", "jaxlib", "flax", "optax", "gymnax", "numpy")
    ours = {"python": platform.python_version(), "jaxpg": jaxpg.__version__}
    return ours | {name: importlib.metadata.version(name) for name in packages}


def flags() -> dict[str, str]:
    """The settings of JAX and XLA on which bit-for-bit results depend."""
    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
    return {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")} | {name: str(getattr(jax.config, name)) for name in names}
