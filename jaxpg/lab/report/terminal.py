"""What a command prints at its end: the results of a run, of a sweep, or of an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jaxpg.lab.report import text
from jaxpg.lab.report.rows import Row, rank, rows
from jaxpg.lab.store.files import storable
from jaxpg.lab.store.results import Results

if TYPE_CHECKING:
    from jaxpg.lab.policies.loading import Evaluation

WORST = "counted as the worst"


def show(console: Console, results: Results, summary: Mapping[str, Any], directory: str | Path) -> None:
    """Print the results of a finished run or sweep: returns, seeds that solved it or diverged, steps, speed, files.

    ``summary`` is what ``summary.json`` holds; a sweep has several of its ``settings``, and the best is marked.
    """
    settings, task, seeds = summary["settings"], text.name_task(summary["algo"], summary["env"]), summary["num_seeds"]
    if len(settings) == 1:
        labels, solved = [""], "".join(f"{one['solved']['solved']} of {seeds} seeds: " for one in settings if "solved" in one)
        show_scores(console, f"{task}: {text.count(seeds, 'seed')}", settings[0])
    else:
        table, solved = rows([results]), ""
        labels = [f"{row.label}: " for row in table]
        text.print_line(console, f"{task}: greedy return of {len(settings)} settings, {text.count(seeds, 'seed')} each", "bold")
        show_settings(console, table, settings)
    steps, updates, used = (
        span(one[name] for one in settings) for name in ("env_steps_per_seed", "num_updates", "sampled_steps")
    )
    diverged = [f"{label}{name_seeds(one['diverged'])}" for label, one in zip(labels, settings, strict=True) if one["diverged"]]
    seconds = f"{summary['compile_seconds']:.1f} s to compile, {summary['train_seconds']:.1f} s to train"
    threshold = summary["solved_threshold"]
    lines = {
        "solved": "" if threshold is None else f"{solved}a greedy return of at least {threshold:g}",
        "diverged": f"{'; '.join(diverged)}; {WORST}" if diverged else "",
        "steps": f"{steps} per seed in {updates} updates{f' ({used} of them used)' * (used != steps)}",
        "speed": f"{summary['env_steps_per_second']:,.0f} steps/s; {seconds}",
        "files": str(directory),
        "report": f"jaxpg report {shlex.quote(str(directory))}",
    }
    text.print_columns(console, [line for line in lines.items() if line[1]], bold=())


def show_evaluation(console: Console, found: Evaluation) -> None:
    """Print the returns of the policies of a run."""
    config, diverged = found.config, list_diverged(found)
    show_scores(console, f"{text.name_task(config.algo, config.env)}: {text.count(config.seeds, 'seed')}", found.summary)
    lines = [("policies", f"after update {found.step:,}, {text.count(found.episodes, 'episode')} each")]
    lines += [("diverged", f"{name_seeds(diverged)}; {WORST}")] * bool(diverged)
    text.print_columns(console, lines, bold=())


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    """``found`` as plain data for JSON, with the names of ``summary.json``; NaN is ``None``.

    ``{"algo", "env", "num_seeds", "step", "episodes", "diverged": [{"seed", "update"}],
    "greedy_return": {"mean", "median", "iqm", "ci95", "diverged", "per_seed"}, "sampled_return": {...}}``;
    ``step`` is the update after which the checkpoint was written.
    """
    config = found.config
    about = {"algo": config.algo, "env": config.env, "num_seeds": config.seeds, "step": found.step, "episodes": found.episodes}
    scores = {name: score | {"per_seed": found.returns[name].tolist()} for name, score in found.summary.items()}
    return storable(about | scores | {"diverged": list_diverged(found)})


def show_scores(console: Console, title: str, scores: Mapping[str, Any]) -> None:
    """A line for each of the ``scores`` named ``..._return``: what :func:`jaxpg.stats.summarize` says of them."""
    returns = {name.removesuffix("_return"): score for name, score in scores.items() if name.endswith("_return")}
    spec = text.score_format(returns.values())
    text.print_line(console, title, "bold")
    lines = [[name, *text.format_score(score, spec)] for name, score in returns.items()]
    text.print_columns(console, [["evaluation", *text.SCORE], *lines])


def show_settings(console: Console, table: Sequence[Row], settings: Sequence[Mapping[str, Any]]) -> None:
    """A line for each setting of a sweep, the best marked."""
    best, spec = max(table, key=rank), text.score_format(one["greedy_return"] for one in settings)
    lines = [["", *table[0].setting, *text.SCORE, *["solved"] * ("solved" in settings[0])]]
    for row, one in zip(table, settings, strict=True):
        values = map(text.shorten_value, row.setting.values())
        solved = [f"{one['solved']['solved']} of {row.returns.size}"] * ("solved" in one)
        lines.append(["*" * (row is best), *values, *text.format_score(one["greedy_return"], spec), *solved])
    text.print_columns(console, lines, bold=(0, 1 + table.index(best)))


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
