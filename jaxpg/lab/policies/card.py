"""Write the model card of an exported policy, in Markdown: what it is, how it was trained, its scores, how to use it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from jaxpg import stats
from jaxpg.core import spaces
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.types import PyTree
from jaxpg.lab.engine import devices, programs
from jaxpg.lab.policies.loading import Origin
from jaxpg.lab.report import text
from jaxpg.lab.store import frames, results, stored
from jaxpg.lab.store.checkpoint import Snapshot

ROWS = 10  # batch size of the example


def write(origin: Origin, seed: int, found: Snapshot, program: export.Exported, name: str) -> str:
    """Write the card of a policy that is exported to the file ``name``."""
    config, algo = origin.config, origin.algo
    env = text.name_env({"env": config.env, "env_params": config.env_params})
    setting = config.settings[origin.setting]
    diverged_at = int(programs.diverged_at(found.arrays["state.step"], found.step)[0])
    steps = found.step * algo.num_envs * algo.num_steps
    facts = {
        "algorithm": config.algo,
        "environment": env,
        "setting": f"{text.describe(setting)} (number {origin.setting} of {len(config.settings)})" if setting else "",
        "trained for": f"{steps:,} environment steps, {found.step:,} updates",
        "diverged": f"at update {diverged_at:,}; it learned nothing after that" if diverged_at else "",
        "run": f"seed {seed} of {text.count(config.seeds, 'seed')}; root seed {config.seed}",
        "command": "" if config.own else stored.command(config),
        "trained with": list_versions(stored.read_content(origin.directory).get("versions", {})),
        "exported with": list_versions(devices.versions()),
        "runs on": ", ".join(program.platforms),
    }
    return "\n".join([
        f"# {escape(text.name_task(config.algo, env))}",
        "",
        "A trained policy as a program in StableHLO, written by jaxpg.",
        "",
        *table(["", ""], [fact for fact in facts.items() if fact[1]]),
        "",
        "## Inputs and outputs",
        "",
        *table(["", "array", "type", "values"], list_arrays(algo, program)),
        "",
        "## Scores",
        "",
        *list_scores(origin, seed, found),
        "",
        "## Use",
        "",
        "```bash",
        f"pip install 'jax>={jax.__version__}' flatbuffers",
        "```",
        "",
        "```python",
        *use(program, name),
        "```",
        "",
    ])  # fmt: skip


def list_versions(versions: Mapping[str, Any]) -> str:
    """List packages and their versions."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def arguments(program: export.Exported) -> dict[str, PyTree]:
    """The inputs of a policy by name; a policy with memory has at least three."""
    given, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    return dict(zip(("memory", "obs", "start", "key") if len(given) > 2 else ("obs", "key"), given, strict=False))


def list_arrays(algo: Algorithm, program: export.Exported) -> list[list[str]]:
    """A line for each input or output array: its name, its dtype and shape, and the range of its values."""
    env: Any = algo.env
    params, inputs = env.default_params, arguments(program)
    out = jax.tree.unflatten(program.out_tree, program.out_avals)
    outputs = {"memory": out[0], "actions": out[1]} if "memory" in inputs else {"actions": out}
    known = {"obs": spaces.observation_space(env, params)}
    known |= {"actions": env.action_space(params)} if hasattr(env, "action_space") else {}
    lines = []
    for side, trees in (("input", inputs), ("output", outputs)):
        for name, tree in trees.items():
            arrays, values = jax.tree_util.tree_leaves_with_path(tree), describe_values(known.get(name), tree)
            for (path, x), said in zip(arrays, values, strict=True):
                shape = ", ".join(map(str, x.shape))
                lines.append([side, f"{name}{jax.tree_util.keystr(path)}", f"{x.dtype}[{shape}]", said])
    return lines


def describe_values(space: Any, tree: PyTree) -> list[str]:
    """The range of values of each array of ``tree`` by its space; empty for kinds of spaces that jaxpg does not know."""
    nothing = [""] * len(jax.tree.leaves(tree))
    try:
        leaves, structure = jax.tree.flatten(spaces.read(space))
    except ValueError:
        return nothing
    return [describe(x) for x in leaves] if structure == jax.tree.structure(tree) else nothing


def describe(leaf: spaces.Leaf) -> str:
    """The range of values of one array of a space."""
    kind = "numbers" if leaf.num_categories is None else "categories"
    return f"{kind} from {leaf.low.min(initial=np.inf):g} to {leaf.high.max(initial=-np.inf):g}"


def list_scores(origin: Origin, seed: int, found: Snapshot) -> list[str]:
    """The scores of the evaluation at the end of training: of this policy, and of all seeds of the setting."""
    scores, i = results.read(origin.copy.name), origin.setting
    rows = {mode: frames.scores(scores, mode, i) for mode in scores.returns}
    if not any(values.size for values in rows.values()):
        return ["Training is not finished, so there is no evaluation yet."]
    lines = []
    for mode, values in rows.items():
        score = stats.summarize(values)
        spec = text.score_format([score])
        this = text.format_number(float(scores.returns[mode][i, seed]), spec)
        lines.append([mode.replace("_", " "), this, *text.format_score(score, spec)])
    count = text.count(len(rows[results.MODES[0]]), "seed")
    last = np.nanmax(scores.env_steps[i], initial=0.0) / (origin.algo.num_envs * origin.algo.num_steps)
    early = f" This policy is an earlier one, from update {found.step:,}." if found.step < last else ""
    about = f"Mean return of {text.count(origin.config.eval_episodes, 'episode')} per seed, at the end of training.{early}"
    return [about, "", *table(["", f"seed {seed}", *(f"{count}: {head}" for head in text.SCORE)], lines)]


def use(program: export.Exported, name: str) -> list[str]:
    """Lines of Python that load the policy and act."""
    inputs = arguments(program)
    made = {key: jax.tree.map(Zeros, tree) for key, tree in inputs.items() if key in ("memory", "obs")}
    key = ", key" if "key" in inputs else ""
    lines = [
        "from pathlib import Path",
        "",
        *["import jax"] * bool(key),
        "import jax.numpy as jnp",
        "from jax import export",
        "",
        f"policy = export.deserialize(Path({name!r}).read_bytes())",
        f"obs = {made['obs']}  # a batch of {ROWS} observations, as the environment gives them",
    ]
    lines += ["key = jax.random.key(0)  # use a new key for each call"] * bool(key)
    if "memory" not in inputs:
        return [*lines, f"actions = policy.call(obs{key})"]
    return [
        *lines,
        f"memory = {made['memory']}",
        f"memory, actions = policy.call(memory, obs, jnp.ones({ROWS}, bool){key})  # episodes begin: memory is forgotten",
        f"memory, actions = policy.call(memory, obs, jnp.zeros({ROWS}, bool){key})  # they continue",
    ]


class Zeros:
    """An array in the example. The ``repr`` of a tree of these is Python code."""

    def __init__(self, like: Any) -> None:
        self.shape, self.dtype = (ROWS, *like.shape[1:]), like.dtype

    def __repr__(self) -> str:
        return f"jnp.zeros({self.shape}, {str(self.dtype)!r})"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    rows = [heads, ["---"] * len(heads), *(list(map(escape, line)) for line in lines)]
    return [f"| {' | '.join(row)} |" for row in rows]


def escape(words: str) -> str:
    """Escape ``words`` for a cell of a Markdown table."""
    shown = html.escape(text.printable(words), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in shown)
