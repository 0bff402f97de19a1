"""Random numbers on several devices, and programs kept between processes."""

import ctypes
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxpg.lab.config import GENERATORS
from jaxpg.lab.engine import devices, programs

KEPT = "import jax; from jaxpg.lab.engine import devices; devices.keep_programs(); print(jax.config.jax_compilation_cache_dir)"


def test_the_high_product_is_that_of_64_bit_integers():
    rng = np.random.default_rng(0)
    edges = np.array([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1], np.uint32)
    x = np.concatenate([np.repeat(edges, 6), rng.integers(2**32, size=1000, dtype=np.uint32)])
    y = np.concatenate([np.tile(edges, 6), rng.integers(2**32, size=1000, dtype=np.uint32)])
    exact = [(int(a) * int(b)) >> 32 for a, b in zip(x, y, strict=True)]
    assert jax.jit(jax.lax.mulhi)(x, y).tolist() == exact


@pytest.mark.parametrize("rng", GENERATORS)
def test_random_numbers_are_the_same_on_two_devices(rng):
    keys = jax.random.split(jax.random.key(5, impl=rng), 4)

    def draw(keys):
        return jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, 1), (3,)))(keys)

    mesh = devices.seed_mesh(4)
    assert mesh.size == 2
    both = jax.jit(jax.shard_map(draw, mesh=mesh, in_specs=PartitionSpec("seed"), out_specs=PartitionSpec("seed")))(keys)
    np.testing.assert_array_equal(both, jax.jit(draw)(keys))
    assert len(jnp.unique(both)) == both.size


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "{home}/.cache/jaxpg"),
        ({"XDG_CACHE_HOME": "{home}/mine"}, "{home}/mine/jaxpg"),
        ({"JAX_COMPILATION_CACHE_DIR": "{home}/other"}, "{home}/other"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, "None"),
        ({"HOME": "/dev/null"}, "None"),
    ],
)
def test_programs_are_kept_unless_jax_was_told_otherwise(tmp_path, variables, expected):
    own = ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in own} | {"HOME": str(tmp_path)}
    environment |= {name: value.format(home=tmp_path) for name, value in variables.items()}
    done = subprocess.run(
        [sys.executable, "-c", KEPT], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == expected.format(home=tmp_path)


BROKEN = """
import jax

def initialize():  # as JAX's support for CUDA does, where some of it is missing and nobody chose the CPU
    if not jax.config.jax_platforms:
        raise RuntimeError("no cuDNN")
"""


@pytest.mark.parametrize("has_support", [False, True], ids=["CPU", "CUDA without a GPU"])
def test_the_installed_command_trains_on_all_cores(has_support, tmp_path):
    """As a user starts it: none of our variables is set, and the program is the one that pip installed."""
    if has_support and (list(Path("/dev").glob("nvidia*")) or Path("/dev/dxg").exists()):
        pytest.skip("there is a GPU")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    command = [str(Path(sys.executable).with_name("jaxpg")), "train", "actor_critic", "--seeds", str(devices.num_cores())]
    command += ["--num-envs", "2", "--hidden", "4", "--total-steps", "64", "--eval-episodes", "1"]
    command += ["--run-dir", str(tmp_path / "run")]
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    if has_support:
        plugin = tmp_path / "jax_plugins" / "xla_cuda"
        plugin.mkdir(parents=True)
        (plugin / "__init__.py").write_text(BROKEN)
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    used = json.loads((tmp_path / "run" / "config.json").read_text())["device"]
    assert used["platform"] != "cpu" or used["count"] == devices.num_cores()
    assert not any(complaint in done.stderr for complaint in ("cores are used", "Traceback", "cuDNN"))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps memory, and has malloc_trim")
def test_memory_that_compiling_frees_is_returned_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def compile_something():
        """Allocate 100 MB in small pieces, and keep the last: the C library keeps what lies below it."""
        pieces = [bytes(2_000) for _ in range(50_000)]
        kept.append(pieces.pop())
        most.append(resident())

    kept, most = [], []
    programs.in_background(compile_something).result()
    assert most[0] - resident() > 80_000_000
