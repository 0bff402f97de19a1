"""Print results in a terminal: of training, of a sweep, or of an evaluation."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jaxpg.lab.report import text
from jaxpg.lab.report.rows import MANY, rank, rows
from jaxpg.lab.store.files import storable
from jaxpg.lab.store.results import Results

if TYPE_CHECKING:
    from jaxpg.lab.policies.loading import Evaluation

Line = tuple[list[str], Mapping[str, Any]]  # cells that name the score, and the score
WORST = "counted as the worst"
SHOWN = 20  # of many settings


def show(console: Console, results: Results, summary: Mapping[str, Any], directory: str | Path) -> None:
    """Print the results of a finished experiment: returns, seeds that solved it or diverged, steps, speed, files.

    ``summary`` is the content of ``summary.json``. If it has several ``settings``, the best is marked; of more than ``MANY``,
    the best are shown.
    """
    settings, threshold, seeds = summary["settings"], summary["solved_threshold"], text.count(summary["num_seeds"], "seed")
    title, labels = f"{text.name_task(summary['algo'], text.name_env(summary))}: {seeds}", [""]
    solved = [[f"{one['solved']['solved']} of {summary['num_seeds']}"] if "solved" in one else [] for one in settings]
    if len(settings) == 1:
        show_scores(console, title, ["evaluation"], by_mode(settings[0]))
    elif len(settings) > MANY:
        show_best(console, title, settings, solved)
    else:
        table = rows([results])
        best, labels = max(table, key=rank), [f"{row.label}: " for row in table]
        leads = [["*" * (row is best), *map(text.shorten_value, row.setting.values())] for row in table]
        heads = ["", *table[0].setting, *["solved"] * (threshold is not None)]
        lines = [(lead + cells, one["greedy_return"]) for lead, cells, one in zip(leads, solved, settings, strict=True)]
        show_scores(console, f"{title} for each of {len(settings)} settings, greedy return", heads, lines, table.index(best))
    goal = f"a greedy return of at least {threshold:g}" if threshold is not None else ""
    if len(settings) > MANY:
        diverged = count_diverged(settings)
    else:
        named = zip(labels, settings, strict=True)
        diverged = "; ".join(f"{label}{name_seeds(one['diverged'])}" for label, one in named if one["diverged"])
    steps, updates, used = (
        span(one[key] for one in settings) for key in ("env_steps_per_seed", "num_updates", "sampled_steps")
    )
    seconds = f"{summary['compile_seconds']:.1f} s to compile, {summary['train_seconds']:.1f} s to train"
    seconds += f", the sum over {count:,} batches" if (count := summary.get("batches", 1)) > 1 else ""
    facts = {
        "solved": " with ".join([*solved[0], goal]) if len(settings) == 1 else goal,
        "diverged": f"{diverged}; {WORST}" if diverged else "",
        "steps": f"{steps} per seed in {updates} updates{f' ({used} of them used)' * (used != steps)}",
        "speed": f"{summary['env_steps_per_second']:,.0f} steps/s; {seconds}",
        "files": str(directory),
        "report": f"jaxpg report {shlex.quote(str(directory))}",
    }
    text.print_columns(console, [fact for fact in facts.items() if fact[1]])


def show_best(console: Console, title: str, settings: Sequence[Mapping[str, Any]], solved: Sequence[Sequence[str]]) -> None:
    """Print the scores of the best of many settings, as ``summary.json`` has them; ``solved`` are cells of each setting."""

    def score(i: int) -> float:
        iqm = settings[i]["greedy_return"]["iqm"]
        return -math.inf if iqm is None else iqm

    best = sorted(range(len(settings)), key=score, reverse=True)[:SHOWN]
    names = list(dict.fromkeys(name for i in best for name in settings[i]["setting"]))
    values = [[text.shorten_value(settings[i]["setting"].get(name, text.NONE)) for name in names] for i in best]
    lines = [([str(i), *cells, *solved[i]], settings[i]["greedy_return"]) for i, cells in zip(best, values, strict=True)]
    title = f"{title} for each of {len(settings):,} settings, greedy return; the best {len(best)}"
    show_scores(console, title, ["setting", *names, *["solved"] * len(solved[0])], lines, 0)


def count_diverged(settings: Sequence[Mapping[str, Any]]) -> str:
    """How many seeds of how many settings diverged; empty if none did."""
    counts = [len(one["diverged"]) for one in settings if one["diverged"]]
    return f"{text.count(sum(counts), 'seed')} of {text.count(len(counts), 'setting')}" if counts else ""


def show_evaluation(console: Console, found: Evaluation) -> None:
    """Print the returns of the policies of a run."""
    config, diverged = found.config, list_diverged(found)
    setting = f" with {text.describe(found.setting)}" if found.setting else ""
    env = text.name_env({"env": config.env, "env_params": config.env_params})
    title = f"{text.name_task(config.algo, env)}{setting}: {text.count(config.seeds, 'seed')}"
    show_scores(console, title, ["evaluation"], by_mode(found.summary))
    facts = [("policies", f"after update {found.step:,}, {text.count(found.episodes, 'episode')} each")]
    facts += [("played in", found.where)] * bool(found.where)
    facts += [("diverged", f"{name_seeds(diverged)}; {WORST}")] * bool(diverged)
    text.print_columns(console, facts)


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    """``found`` as plain data for JSON, with the names of ``summary.json``; NaN is ``None``.

    ``{"algo", "env", "num_seeds", "step", "episodes", "diverged": [{"seed", "update"}],
    "greedy_return": {"mean", "median", "iqm", "ci95", "diverged", "per_seed"}, "sampled_return": {...}}``;
    ``step`` is the update after which the checkpoint was written. ``"in"``, e.g. ``gymnasium:CartPole-v1``, exists only if the
    episodes were played in another environment than training.
    """
    config = found.config
    about = {"algo": config.algo, "env": config.env, "num_seeds": config.seeds, "step": found.step, "episodes": found.episodes}
    about |= {"in": found.where} if found.where else {}
    scores = {name: score | {"per_seed": found.returns[name].tolist()} for name, score in found.summary.items()}
    return storable(about | scores | {"diverged": list_diverged(found)})


def show_scores(console: Console, title: str, heads: Sequence[str], lines: Sequence[Line], best: int | None = None) -> None:
    """Print a table of scores, as ``jaxpg.stats.summarize`` returns them, below a ``title``; line ``best`` is highlighted."""
    spec = text.score_format(score for _, score in lines)
    text.print_line(console, title, "bold")
    cells = [[*lead, *text.format_score(score, spec)] for lead, score in lines]
    text.print_columns(console, [[*heads, *text.SCORE], *cells], bold=(0,) if best is None else (0, best + 1))


def by_mode(scores: Mapping[str, Any]) -> list[Line]:
    """The lines for the entries of ``scores`` with names like ``greedy_return``."""
    return [([name.removesuffix("_return")], score) for name, score in scores.items() if name.endswith("_return")]


def name_seeds(diverged: Iterable[Mapping[str, int]]) -> str:
    """The seeds that diverged, and when.

    >>> name_seeds([{"seed": 1, "update": 1007}, {"seed": 2, "update": 3}])
    'seed 1 (at update 1,007), seed 2 (at update 3)'
    """
    return ", ".join(f"seed {one['seed']} (at update {one['update']:,})" for one in diverged)


def list_diverged(found: Evaluation) -> list[dict[str, int]]:
    """The seeds that diverged, as in ``summary.json``."""
    return [{"seed": seed, "update": int(update)} for seed, update in enumerate(found.diverged_at) if update]


def span(numbers: Iterable[float]) -> str:
    """The smallest and the largest number.

    >>> span([4096, 4096]), span([4096.0, 8192.0])
    ('4,096', '4,096 to 8,192')
    """
    numbers = sorted(numbers)
    return " to ".join(dict.fromkeys(f"{number:,.0f}" for number in (numbers[0], numbers[-1])))
