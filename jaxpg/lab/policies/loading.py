"""Load policies of stored experiments, to act and to evaluate them. Nothing is written."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.core import Tracer

from jaxpg import envs, stats
from jaxpg.core import networks, rollout
from jaxpg.core.actor_critic import Separate
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.hparams import HParams, printable, shown
from jaxpg.core.types import Array, Params, PyTree, TrainState
from jaxpg.lab.config import Config
from jaxpg.lab.engine import devices, groups, programs
from jaxpg.lab.engine.environments import brief
from jaxpg.lab.engine.groups import Make
from jaxpg.lab.store import checkpoint, leaves, remote, results
from jaxpg.lab.store.checkpoint import Snapshot
from jaxpg.lab.store.files import CHECKPOINTS, Damaged
from jaxpg.lab.store.stored import make_config, read_content, without_budget
from jaxpg.loops import many as sweeping

ACTING = ("params", "constants", "normalizer", "env_params")  # the fields of a state that actions depend on
PLATFORMS = ("cpu", "cuda", "tpu")  # on which an exported policy runs


def load_policy(
    directory: str | Path, seed: int = 0, step: int | None = None, *, setting: int = 0, algo: Algorithm | Make | None = None
) -> Policy:
    """``act(obs, key=None) -> action``: the policy of one run, from a directory of ``jaxpg.run`` or of the command line.

    ``act`` takes one raw observation, or a batch ``[N, ...]`` of them. It returns the most probable actions, or with a key
    sampled ones, within their bounds. A policy with memory remembers from call to call; ``act.reset()`` begins an episode.

    Args:
        directory: What ``jaxpg train``, ``jaxpg sweep`` or ``jaxpg.run`` wrote: a path or an address, ``s3://bucket/lr``.
        seed: Index of the run in the setting.
        step: The update after which the checkpoint was written; by default the newest one that is not damaged, with a
            warning about those that are.
        setting: The index among the settings of a sweep.
        algo: An algorithm of your own is not stored: give the one that ``jaxpg.run`` was given.

    Returns:
        The policy.

    Raises:
        ValueError: Where there is no such run, seed, setting or step, or if all its checkpoints are damaged.

    Examples:
        >>> import tempfile
        >>> import jaxpg
        >>> import numpy as np
        >>> algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=4, num_steps=8, hidden=(8,))
        >>> directory = f"{tempfile.mkdtemp()}/mine"
        >>> found = jaxpg.run(algo, directory=directory, seeds=2, total_steps=64, eval_episodes=2)
        >>> act = jaxpg.load_policy(directory, seed=1, algo=algo)
        >>> act(np.zeros((10, 4))).shape
        (10,)
    """
    origin = of_setting(directory, setting, algo)
    check_seed(origin, seed)
    states, _ = load_states(origin, [seed], step)
    return policy(origin, states, 0)


class Policy:
    """A trained policy: ``act(obs, key=None) -> action``.

    ``obs`` is one observation, or a batch ``[N, ...]`` of them; the most probable actions are taken, or with a ``key`` sampled
    ones. Observations are raw: they are scaled as in training. Actions lie within their bounds. NumPy arrays give NumPy arrays,
    JAX arrays (also inside ``jit``) JAX arrays.

    A policy with memory remembers from call to call; ``act.reset()`` begins an episode. ``act.step`` does the same with
    explicit memory, for batches ``[N, ...]``, and works inside ``jit``. ``act.export()`` is a program without jaxpg.
    """

    def __init__(self, algo: Algorithm, state: TrainState, matmul_precision: str = "default") -> None:
        self._like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.loop.obs)
        state = state.replace(env_params=one_env(algo, state.env_params))
        self._algo, self._state = without_critic(algo, state)
        self._memory, self._precision = None, matmul_precision

    def __call__(self, obs: PyTree, key: Array | None = None) -> PyTree:
        """Actions for one observation, or for a batch; ``ValueError`` for observations of another structure or shape."""
        is_batch, leaves = self._is_batch(obs), jax.tree.leaves(obs)
        batch = obs if is_batch else jax.tree.map(lambda x: jnp.asarray(x)[None], obs)
        num_envs = np.shape(jax.tree.leaves(batch)[0])[0]
        memory, is_new = self._memory, self._memory is None
        if is_new:
            memory = self.initial_memory(num_envs)
        elif np.shape(jax.tree.leaves(memory)[0])[0] != num_envs:
            raise ValueError(f"obs is a batch of {num_envs}, but the last one had another size: call reset() between the two")
        if jax.tree.leaves(memory) and any(isinstance(x, Tracer) for x in leaves):
            raise ValueError("inside jit a policy with memory cannot remember; use act.step(memory, obs, start, key)")
        memory, actions = self.step(memory, batch, jnp.full(num_envs, is_new), key)
        self._memory = memory if jax.tree.leaves(memory) else None
        if not is_batch:
            actions = jax.tree.map(lambda x: x[0], actions)
        return actions if any(isinstance(x, jax.Array) for x in leaves) else jax.device_get(actions)

    def reset(self) -> None:
        """Forget: the next observation is the first one of an episode."""
        self._memory = None

    def initial_memory(self, num_envs: int) -> PyTree:
        """The memory at the start of ``num_envs`` episodes; ``()`` for a policy without memory."""
        return self._algo.network.initial_memory(num_envs)

    def step(self, memory: PyTree, obs: PyTree, start: Array, key: Array | None = None) -> tuple[PyTree, PyTree]:
        """``(memory, actions)`` for a batch ``[N, ...]``; ``start``, booleans ``[N]``, is true where an episode begins."""
        with devices.matmul_precision(self._precision):
            return decide(self._algo, self._state, memory, obs, start, key)

    def export(self, *, sampled: bool = False) -> export.Exported:
        """The policy with its parameters as StableHLO, for CPUs, CUDA and TPUs and batches of any size; loading needs JAX only.

        ``call(obs) -> actions`` takes raw observations ``[N, ...]`` and gives the most probable actions, within their bounds;
        with ``sampled`` it is ``call(obs, key)``, for a key of ``jax.random.key``. A policy with memory is
        ``call(memory, obs, start) -> (memory, actions)``, or with the key at the end. Where ``start``, booleans ``[N]``, is
        true, an episode begins and ``memory`` is ignored. Trees that contain other types than dicts, tuples and lists become
        dicts of their leaves by name.

        >>> data = load_policy("runs/cartpole", seed=3).export().serialize()     # doctest: +SKIP
        >>> jax.export.deserialize(data).call(jnp.zeros((10, 4))).shape           # doctest: +SKIP
        (10,)

        ``ValueError`` for a network that works only for one batch size. ``serialize`` needs ``jaxpg[export]``.
        """
        (size,) = export.symbolic_shape("N")
        memory = jax.tree.map(lambda x: rows_of(size, x.shape[1:], x.dtype), jax.eval_shape(lambda: self.initial_memory(1)))
        obs = jax.tree.map(lambda x: rows_of(size, x.shape, x.dtype), self._like)

        def step(before: PyTree, seen: PyTree, start: Array, key: Array | None = None) -> tuple[PyTree, PyTree]:
            after, actions = self.step(from_plain(memory, before), from_plain(obs, seen), start, key)
            return to_plain(after), to_plain(actions)

        def act(seen: PyTree, key: Array | None = None) -> PyTree:
            return step((), seen, jnp.ones(jax.tree.leaves(seen)[0].shape[0], bool), key)[1]

        has_memory = bool(jax.tree.leaves(memory))
        inputs = (to_plain(memory), to_plain(obs), rows_of(size, (), bool)) if has_memory else (to_plain(obs),)
        inputs += (jax.ShapeDtypeStruct((), jax.random.key(0).dtype),) * sampled
        try:
            return export.export(jax.jit(step if has_memory else act), platforms=PLATFORMS)(*inputs)
        except Exception as error:
            fix = "its network must take a batch of any size, e.g. x.shape[0] in place of len(x)"
            raise ValueError(f"the policy cannot be exported: {brief(error)}; {fix}") from error

    def _is_batch(self, obs: PyTree) -> bool:
        there, wanted = jax.tree.structure(obs), jax.tree.structure(self._like)
        if there != wanted:
            raise ValueError(f"obs has the structure {shown(there)}; the policy takes {shown(wanted)}")
        ranks = set()
        for x, like in zip(jax.tree.leaves(obs), jax.tree.leaves(self._like), strict=True):
            ranks.add(np.ndim(x) - len(like.shape))
            if len(ranks) > 1 or ranks - {0, 1} or np.shape(x)[np.ndim(x) - len(like.shape) :] != like.shape:
                batch = f"a batch ({'N, ' + str(like.shape)[1:]}"
                raise ValueError(f"obs has shape {np.shape(x)}; the policy takes {like.shape}, or {batch}")
        return ranks == {1}


@functools.partial(jax.jit, static_argnames="algo")
def decide(
    algo: Algorithm, state: TrainState, memory: PyTree, obs: PyTree, start: Array, key: Array | None
) -> tuple[PyTree, PyTree]:
    """Compute memory and actions, within the bounds of the action space, for a batch."""
    rows = jax.tree.map(lambda x: jnp.asarray(x)[None], (obs, start))
    memory, dist, _ = algo.apply(state, memory, *rows)
    dist = jax.tree.map(lambda x: x[0], dist)
    action = dist.mode() if key is None else dist.sample(dist.noise(key))
    return memory, envs.legalize(algo.env, action, state.env_params)


def without_critic(algo: Algorithm, state: TrainState) -> tuple[Algorithm, TrainState]:
    """The same policy with only what it needs to act: without the critic, if that is a separate network."""
    others = [field.name for field in dataclasses.fields(state) if field.name not in ACTING]
    state = state.replace(**dict.fromkeys(others))
    if not isinstance(algo.network, Separate):
        return algo, state
    constants = {name: Params(pair.policy, {}) for name, pair in state.constants.items()}
    state = state.replace(params=Params(state.params.policy, {}), constants=constants)
    return dataclasses.replace(algo, network=Separate(algo.network.policy, networks.NoCritic())), state


def rows_of(size: Any, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array of ``size`` rows; ``size`` may be symbolic."""
    return jax.ShapeDtypeStruct((size, *shape), dtype)


def is_plain(tree: PyTree) -> bool:
    """Whether a tree consists of dicts, tuples and lists, which can be read without jaxpg."""
    if type(tree) in (dict, tuple, list):
        return all(map(is_plain, tree.values() if isinstance(tree, dict) else tree))
    return tree is None or jax.tree_util.all_leaves([tree])


def to_plain(tree: PyTree) -> PyTree:
    """Convert ``tree`` to a dict of its leaves by name, unless it ``is_plain``.

    >>> to_plain({"place": (1, 2)}), to_plain(Params({"bias": 1}, 2))
    ({'place': (1, 2)}, {'policy.bias': 1, 'critic': 2})
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return tree if is_plain(tree) else {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def from_plain(like: PyTree, plain: PyTree) -> PyTree:
    """Invert ``to_plain``: the tree with the structure of ``like``."""
    return plain if is_plain(like) else jax.tree.unflatten(jax.tree.structure(like), [plain[name] for name in to_plain(like)])


def one_env(algo: Algorithm, env_params: PyTree) -> PyTree:
    """The parameters of the environment; of the first one, if each environment has its own."""
    one = rollout.spread_params(algo.env, env_params, algo.num_envs, 1)
    if rollout.param_axes(algo.env, env_params, algo.num_envs) is None:
        return one
    axes = rollout.param_axes(algo.env, one, 1)
    return jax.tree.map(lambda axis, x: x[0] if axis == 0 else x, axes, one, is_leaf=lambda axis: axis is None)


def policy(origin: Origin, states: TrainState, row: int) -> Policy:
    """The policy of one row of the result of ``load_states``."""
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) if is_abstract(x) else x[row], states)
    return Policy(origin.algo, state, origin.config.matmul_precision)


def is_abstract(x: Any) -> bool:
    """Whether only the shape of an array is known."""
    return isinstance(x, jax.ShapeDtypeStruct)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate``: returns ``[N]`` by mode, NaN for a seed that diverged; ``where`` is another environment."""

    config: Config
    setting: Mapping[str, Any]
    step: int
    episodes: int
    returns: dict[str, np.ndarray]
    diverged_at: np.ndarray
    where: str = ""

    @property
    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean, median, interquartile mean and its interval, by mode."""
        return {name: stats.summarize(values) for name, values in self.returns.items()}


def evaluate(
    directory: str | Path,
    setting: int = 0,
    episodes: int | None = None,
    step: int | None = None,
    modes: Sequence[str] = programs.MODES,
    algo: Algorithm | Make | None = None,
) -> Evaluation:
    """Evaluate each seed of a setting, with the keys of the final evaluation; ``modes`` are ``greedy`` and ``sampled``."""
    origin = of_setting(directory, setting, algo)
    config, algo = origin.config, origin.algo
    state, found = load_states(origin, range(config.seeds), step)
    mesh = devices.seed_mesh(config.seeds)
    width = devices.pad_runs(config.seeds, mesh.size)
    fresh = jax.jit(jax.vmap(algo.init))(jax.random.split(jax.random.key(0), width))
    rows = np.minimum(np.arange(width), config.seeds - 1)
    state = fresh.replace(**jax.tree.map(lambda x: x[rows], {name: getattr(state, name) for name in ACTING}))
    episodes = episodes or config.eval_episodes
    lanes = devices.lanes(width // mesh.size)
    key = sweeping.keys(config.seed, config.rng)[1]
    program = devices.spread(functools.partial(sweeping.assess, algo, key, episodes, tuple(modes), lanes), mesh)
    with devices.matmul_precision(config.matmul_precision):
        scores = jax.device_get(program(jax.device_put(state, devices.layout(state, mesh))))
    diverged_at = programs.diverged_at(found.arrays["state.step"], found.step)
    returns = {name: np.where(diverged_at > 0, np.nan, x[: config.seeds].astype(float)) for name, x in scores.items()}
    return Evaluation(config, config.settings[setting], found.step, episodes, returns, diverged_at)


@dataclasses.dataclass(frozen=True)
class Origin:
    """A setting of an experiment, and the algorithm that trained it. ``copy`` is what of its directory was fetched."""

    copy: remote.OnDisk
    config: Config
    identity: str
    setting: int
    algo: Algorithm
    hparams: HParams

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.copy.directory


def of_setting(directory: str | Path, setting: int = 0, algo: Algorithm | Make | None = None) -> Origin:
    """Read a setting of the experiment in ``directory``; ``algo`` is needed if it was trained with one of the user's own."""
    there = read_content(directory)
    config = make_config(directory, there)
    if not 0 <= setting < len(config.settings):
        raise ValueError(f"setting = {setting}: {printable(directory)} has the settings 0 to {len(config.settings) - 1}")
    if config.own and algo is None:
        raise ValueError(
            f"{printable(directory)} was trained with an algorithm of your own: give it, load_policy(..., algo=...)"
        )
    make = groups.make_named(config) if not config.own or algo is None else groups.make_own(config, algo)
    group = next(group for group in groups.arrange(config, make) if setting in group.hparams)
    described = groups.describe(make())
    described, before = without_budget(described), without_budget(there["algorithm"])
    if config.own and described != before:
        then, now = groups.difference(before, described)
        raise ValueError(
            f"algo is not the one that {printable(directory)} was trained with: {shown(then)} there, {shown(now)} here"
        )
    return Origin(remote.open_copy(directory), config, there["identity"], setting, group.algo, group.hparams[setting])


def check_seed(origin: Origin, seed: int) -> None:
    """Raise ``ValueError`` for a seed that the experiment does not have."""
    if not 0 <= seed < origin.config.seeds:
        raise ValueError(f"seed = {seed}: {printable(origin.copy.name)} has the seeds 0 to {origin.config.seeds - 1}")


def load_states(origin: Origin, seeds: Sequence[int], step: int | None) -> tuple[TrainState, Snapshot]:
    """Load the states ``[N, ...]`` of seeds from their checkpoints; only the arrays that acting needs are read.

    If the seeds are in several batches, the states are from the newest update that all of the batches have.
    """
    with origin.copy.named():
        return load_copied(origin, seeds, step)


def load_copied(origin: Origin, seeds: Sequence[int], step: int | None) -> tuple[TrainState, Snapshot]:
    """``load_states`` from files, which are fetched if they are not on this machine."""
    origin.copy.fetch_policies()
    wanted = [origin.setting * origin.config.seeds + seed for seed in seeds]
    places = locate(origin, wanted)
    common = step or min(newest_step(folder) for folder, _ in places)
    several = len({folder for folder, _ in places}) > 1
    pieces: dict[Path, Snapshot] = {}
    for folder, count in {folder: count for folder, (_, count) in places}.items():
        state = jax.eval_shape(jax.vmap(origin.algo.init), jax.random.split(jax.random.key(0), count))
        spec = leaves.spec({"state": {name: getattr(state, name) for name in (*ACTING, "step")}}, count)
        fetch = functools.partial(origin.copy.fetch_checkpoint, folder.name)
        pieces[folder] = read_checkpoint(folder / CHECKPOINTS, common if several else step, spec, fetch)
    found = next(iter(pieces.values()))
    arrays = {name: np.stack([pieces[folder].arrays[name][row] for folder, (row, _) in places]) for name in found.arrays}
    state = jax.eval_shape(jax.vmap(origin.algo.init), jax.random.split(jax.random.key(0), len(seeds)))
    read = leaves.unflatten({"state": {name: getattr(state, name) for name in ACTING}}, arrays)["state"]
    return state.replace(**jax.tree.map(jnp.asarray, read)), dataclasses.replace(found, arrays=arrays)


def locate(origin: Origin, wanted: Sequence[int]) -> list[tuple[Path, tuple[int, int]]]:
    """For each run, the folder of its batch, its row in it, and the number of rows; ``ValueError`` if it is in no batch.

    A folder has the name of the first run of its batch. Therefore those with the nearest names before a run are read first, and
    usually no other.
    """
    num_runs = len(origin.config.settings) * origin.config.seeds
    folders = results.folders(origin.directory)
    firsts = [int(folder.name) for folder in folders]
    found: dict[int, tuple[Path, tuple[int, int]]] = {}
    seen: set[int] = set()
    for run in wanted:
        nearest = bisect.bisect_right(firsts, run)
        for place in (*reversed(range(nearest)), *range(nearest, len(folders))):
            if run in found:
                break
            if place not in seen:
                seen.add(place)
                found |= read_rows(folders[place], origin.identity, num_runs)
    if missing := [run for run in wanted if run not in found]:
        seed = missing[0] % origin.config.seeds
        raise ValueError(f"{printable(origin.directory)} has no checkpoint of seed {seed} of setting {origin.setting} yet")
    return [found[run] for run in wanted]


def read_rows(folder: Path, identity: str, num_runs: int) -> dict[int, tuple[Path, tuple[int, int]]]:
    """The runs of a batch with its folder, their rows in it, and the number of rows; none, with a warning, if it is damaged."""
    try:
        runs = results.read_result(folder, identity, num_runs)[0]["runs"]
    except ValueError as error:
        warnings.warn(f"a batch of runs is left out: {error}", stacklevel=6)
        return {}
    return {run: (folder, (row, len(runs))) for row, run in enumerate(runs)}


def newest_step(folder: Path) -> int:
    """The update of the newest checkpoint of a batch, damaged or not; 0 if there is none."""
    return max(checkpoint.steps(folder / CHECKPOINTS), default=0)


def read_checkpoint(place: Path, step: int | None, spec: leaves.Spec, fetch: Callable[[int], None]) -> Snapshot:
    """Read the checkpoint of ``step``, or the newest one that is not damaged; ``ValueError`` if there is none.

    ``fetch`` is called with the update of a checkpoint before it is read.
    """
    steps = checkpoint.steps(place)
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise ValueError(f"step = {step}: {printable(place)} has checkpoints of the updates {there}")
    for at in [step] if step is not None else reversed(steps):
        fetch(at)
        try:
            return checkpoint.read(place, at, spec, ("params",))
        except Damaged as error:
            if step is not None:
                raise ValueError(f"the checkpoint of update {at:,} cannot be used: {error}") from None
            warnings.warn(f"the checkpoint of update {at:,} cannot be used: {error}", stacklevel=5)
    raise ValueError(f"{printable(place)} has no checkpoint that can be used")
