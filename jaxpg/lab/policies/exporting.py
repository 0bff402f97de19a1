"""Export trained policies as files that do not need jaxpg: a StableHLO program and its model card."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import printable
from jaxpg.lab.engine.groups import Make
from jaxpg.lab.policies import card, loading
from jaxpg.lab.store.files import write_atomically

SUFFIX, CARD = ".bin", ".md"


def export_policy(
    directory: str | Path,
    path: str | Path = "policy.bin",
    seed: int = 0,
    step: int | None = None,
    *,
    setting: int = 0,
    sampled: bool = False,
    algo: Algorithm | Make | None = None,
) -> Path:
    """Write the policy of one run as a program in StableHLO, parameters included, and a model card beside it.

    The program runs on CPUs, CUDA and TPUs and takes batches of any size. Running it needs flatbuffers and jax, in the version
    that wrote it or a newer one, but not jaxpg. The model card says how to call it: ``call(obs)``, with a key if actions are
    sampled; a policy with memory also takes and returns its memory.

    Args:
        directory: What ``jaxpg train``, ``jaxpg sweep`` or ``jaxpg.run`` wrote.
        path: The file; ``.bin`` is added if it has no ending. The card has the same name with ``.md``.
        seed: Index of the run in the setting.
        step: The update after which the checkpoint was written; by default the newest one that is not damaged.
        setting: The index among the settings of a sweep.
        sampled: Sample actions: ``call(obs, key)`` with a key from ``jax.random.key``. By default the most probable are taken.
        algo: An algorithm of your own is not stored: give the one that ``jaxpg.run`` was given.

    Returns:
        The path of the program.

    Raises:
        ValueError: As ``jaxpg.load_policy``; where flatbuffers is missing, ``jaxpg[export]``; for a file that cannot be
            written, and a network that takes batches of one size only.

    Examples:
        >>> import pathlib, tempfile
        >>> import jax, jax.export
        >>> import jax.numpy as jnp
        >>> import jaxpg
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
        >>> directory = f"{tempfile.mkdtemp()}/mine"
        >>> found = jaxpg.run(algo, directory=directory, seeds=1, total_steps=64, eval_episodes=2)
        >>> path = jaxpg.export_policy(directory, f"{directory}/policy.bin", algo=algo)
        >>> policy = jax.export.deserialize(pathlib.Path(path).read_bytes())
        >>> policy.call(jnp.zeros((10, 4))).shape
        (10,)
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(SUFFIX)
    if path.suffix == CARD:
        raise ValueError(f"out = {printable(path)} has the ending of the model card; give another one, e.g. {SUFFIX}")
    origin = loading.of_setting(directory, setting, algo)
    loading.check_seed(origin, seed)
    states, found = loading.load_states(origin, [seed], step)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("export: flatbuffers is not installed; pip install 'jaxpg[export]'")
    program = loading.policy(origin, states, 0).export(sampled=sampled)
    text = card.write(origin, seed, found, program, path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, bytes(program.serialize()))
        write_atomically(path.with_suffix(CARD), text.encode())
    except OSError as error:
        raise ValueError(f"out = {printable(path)} cannot be written: {error.strerror}; give another --out") from None
    return path
