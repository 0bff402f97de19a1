"""The devices of this machine, and how seeds are spread over them."""

from __future__ import annotations

import contextlib
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

philox.on_several_devices()  # the lab's default generator

SEED, ENV = PartitionSpec("seed"), "env"
LANES = 16  # runs side by side on a CPU: wider does not fit the cache and is no faster


def use_all_cores() -> None:
    """Use one CPU device for each core that this process may use.

    Call it before JAX looks for devices; later it can only warn. It does nothing where a GPU or TPU may be used, or where you
    have chosen the number of CPU devices. Where JAX's support for an accelerator is installed and no such device is there, JAX
    is told to use the CPU, so that it does not look in vain and complain.

    Examples:
        >>> import jaxpg
        >>> jaxpg.use_all_cores()
    """
    platforms, support = asked_platforms(), installed_support()
    if platforms != "cpu" and (platforms or present(support)):
        return
    if support and not platforms:
        jax.config.update("jax_platforms", "cpu")
    if is_core_count_chosen():
        return
    try:
        jax.config.update("jax_num_cpu_devices", num_cores())
    except RuntimeError:
        used, cores = jax.local_device_count(), num_cores()
        if used < cores:
            fix = f"set JAX_NUM_CPU_DEVICES={cores}, or call jaxpg.use_all_cores() before anything imports gymnax"
            warnings.warn(f"{used} of {cores} cores compute: JAX was in use before; {fix}", stacklevel=3)


def asked_platforms() -> str:
    """Where JAX was told to compute, e.g. with ``JAX_PLATFORMS``; empty where it may choose."""
    return jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]


def is_core_count_chosen() -> bool:
    """The user said how many CPU devices there are."""
    chosen = jax.config.jax_num_cpu_devices >= 0  # pyright: ignore[reportAttributeAccessIssue]
    return chosen or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")


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
    """``ValueError`` of one line where JAX finds no device to compute on, e.g. for a platform that does not exist.

    Warns where a GPU or TPU is there, JAX cannot use it and computes on a few of the cores.
    """
    try:
        platform, used, cores = jax.local_devices()[0].platform, jax.local_device_count(), num_cores()
    except RuntimeError as error:
        raise ValueError(f"JAX_PLATFORMS = {asked_platforms()}: {' '.join(str(error).split())[:200]}") from None
    is_chosen = bool(asked_platforms()) or is_core_count_chosen()
    if platform == "cpu" and used < cores and not is_chosen and (found := present(installed_support())):
        warnings.warn(
            f"a GPU or TPU seems to be here, but JAX cannot use it ({', '.join(found)} is installed): {used} of {cores} cores "
            "compute; JAX_PLATFORMS=cpu uses all of them",
            stacklevel=2,
        )


# Files of devices, by what the name of JAX's support for them contains. Where none of them exists there is no such device.
DEVICE_FILES = {
    "cuda": ("/dev/nvidia*", "/dev/dxg"),  # the second in WSL
    "rocm": ("/dev/kfd", "/dev/dxg"),
    "tpu": ("/dev/accel*", "/dev/vfio/[0-9]*"),
}


def installed_support() -> list[str]:
    """JAX's support for GPUs, TPUs and others that is installed, whether or not such a device is there."""
    names = {point.value.rpartition(".")[2] for point in importlib.metadata.entry_points(group="jax_plugins")}
    folder = importlib.util.find_spec("jax_plugins")
    if folder is not None:
        names |= {module.name for module in pkgutil.iter_modules(folder.submodule_search_locations)}
    is_tpu = importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ
    return sorted(names | ({"tpu"} if is_tpu else set()))


def present(support: Iterable[str], exists: Callable[[str], bool] | None = None) -> list[str]:
    """The part of the installed ``support`` for which there may be a device; asking JAX would fix the number of CPU devices.

    Judged by ``exists``, whether there is a file of a pattern. What is not known may be there.

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
    """``num_runs`` rounded up to full blocks on every device; the surplus is computed and dropped.

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

    by_run = NamedSharding(mesh, SEED)  # not only inferred: of an array without numbers XLA says that every device has all
    return jax.jit(each, out_shardings=by_run, **jit_options)


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
    """Memory that each local device can still give: an accelerator's own, or its share of the host's."""
    local = jax.local_devices()
    if local[0].platform == "cpu":
        return host_bytes_free() // len(local)
    left = [bytes_left(device.memory_stats()) for device in local]
    if None in left and local[0].platform in ("gpu", "tpu"):  # others may share the host's memory
        fix = "say what a device may spend with memory, in GiB, or unset XLA_PYTHON_CLIENT_ALLOCATOR"
        raise ValueError(
            f"memory = 0: the allocator of this {local[0].platform.upper()} does not tell how much it can give; {fix}"
        )
    return host_bytes_free() // len(local) if None in left else min(size for size in left if size is not None)


def bytes_left(stats: Mapping[str, int] | None) -> int | None:
    """What the allocator with these ``stats`` can still give, ``None`` where it does not say.

    JAX keeps to a share of a GPU's memory, 75 % by default: that is its limit, not what the card has, nor what is free there.

    >>> bytes_left({"bytes_limit": 60 * 2**30, "bytes_in_use": 2**30}) == 59 * 2**30
    True
    """
    limit = (stats or {}).get("bytes_limit", 0)
    return max(limit - (stats or {}).get("bytes_in_use", 0), 0) if limit else None


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
    """Where the leaves that ``spread`` returns lie: runs over the devices."""
    return jax.tree.map(lambda _: NamedSharding(mesh, SEED), tree)


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """All of the leaves of ``tree`` on every device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def like(tree: Any, layout: Any) -> Any:
    """``tree`` in the abstract: shapes and dtypes, and where each leaf lies."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, layout)


def describe(mesh: Mesh) -> dict[str, Any]:
    """What computes: platform, kind and number of devices, and the cores of the host."""
    device = mesh.devices.flat[0]
    kind = platform.processor() or platform.machine() if device.platform == "cpu" else device.device_kind
    return {"platform": device.platform, "kind": kind, "count": mesh.size, "host_cores": num_cores()}


def doubt_bits(platform: str, xla_flags: str, are_kernels_kept: bool) -> str:
    """Why a run that is resumed may have other bits than an uninterrupted one, and what to set; empty where no reason is known.

    ``xla_flags`` are those of ``XLA_FLAGS``. With ``are_kernels_kept`` the next process takes the kernels that XLA chose in the
    first. On a CPU and a TPU none of this is left to chance.

    >>> doubt_bits("gpu", "--xla_gpu_deterministic_ops=true", False), doubt_bits("cpu", "", False)
    ('', '')
    """
    if platform != "gpu":
        return ""
    pairs = (flag.lstrip("-").partition("=") for flag in xla_flags.split())
    given = {name: value for name, _, value in pairs}  # the last of a name counts
    is_on = {name for name, value in given.items() if value.lower() in ("", "true", "1")}
    is_deterministic = "xla_gpu_deterministic_ops" in is_on
    is_ordered = is_deterministic or "xla_gpu_exclude_nondeterministic_ops" in is_on
    is_fixed = is_deterministic or are_kernels_kept or given.get("xla_gpu_autotune_level") == "0"
    is_fixed = is_fixed or bool(given.get("xla_gpu_per_fusion_autotune_cache_dir"))
    reasons = ["sums may be added in any order"] * (not is_ordered) + ["XLA chooses kernels by their speed"] * (not is_fixed)
    if not reasons:
        return ""
    fix = "XLA_FLAGS=--xla_gpu_deterministic_ops=true, set before the start, makes them the same"
    return f"on a GPU {' and '.join(reasons)}: a resumed run may not have the bits of an uninterrupted one; {fix}"


def are_kernels_kept() -> bool:
    """JAX keeps programs for the next process, and with them the kernels that XLA chose."""
    caches = getattr(jax.config, "jax_persistent_cache_enable_xla_caches", None) or ""
    is_on = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir  # pyright: ignore
    return bool(is_on) and (caches == "all" or "xla_gpu_per_fusion_autotune_cache_dir" in caches)


def matmul_precision(name: str) -> contextlib.AbstractContextManager[None]:
    """Products of float32 numbers that are traced inside have this precision; ``default`` leaves JAX's setting as it is."""
    return contextlib.nullcontext() if name == "default" else jax.default_matmul_precision(name)


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
