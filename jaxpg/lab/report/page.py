"""Write the report: the results of several experiments on one HTML page."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxpg import stats
from jaxpg.lab.report import figures, landscape, many, rungs, search, text
from jaxpg.lab.report.markup import document, escape, grid, paragraph, picture, warning
from jaxpg.lab.report.rows import (
    MANY,
    Row,
    all_numbers,
    best_rows,
    find_done,
    list_options,
    rank,
    rows,
    sort_values,
    summarize_settings,
    varied,
)
from jaxpg.lab.store import results, searches
from jaxpg.lab.store.files import SUMMARY
from jaxpg.lab.store.results import Results

BEST = "★"
MAX_LISTED = 50  # of more values of a number, the configuration shows only the range
SAME_BUDGET = 1.01  # budgets within this factor count as the same, since budgets are rounded up to complete updates
NOTES = {  # explanations of columns, by their heads
    "IQM": "Interquartile mean: the mean without the lowest and the highest quarter of the seeds. Its interval is a percentile "
    "bootstrap over seeds (Agarwal et al. 2021).",
    "solved": "Seeds whose greedy return is at least the threshold, with the exact 95 % interval of their share (Clopper and "
    "Pearson 1934).",
    "steps to threshold": "Environment steps until the return of a seed's training episodes first reached the threshold: the "
    "median over seeds, where a seed that never did counts as the latest, and the number of seeds that did.",
    "diverged": "Seeds whose parameters, losses or returns became infinite or NaN. They count as the worst of all, at minus "
    "infinity: then there is no mean, and there is an IQM only if they are at most a quarter of the seeds.",
    "P(best above)": f"Probability that a seed of the best row {BEST} scores above one of this row, a tie counting half, with "
    "its 95 % bootstrap interval. The best row has the highest IQM, then mean, among those that are finished. It was chosen by "
    "the numbers shown here, which overestimates it a little; new seeds would show by how much.",
}


def write(directories: Sequence[str | Path], out: Path) -> Path:
    """Write a page about the experiments in ``directories``, finished or not, to the file ``out``; return its path.

    ``ValueError`` of one line if no directory is given, one is not a run directory, or ``out`` is not HTML or not writable.
    """
    if not directories:
        raise ValueError("a report needs at least one run directory")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out = {text.printable(out)}: the report is an HTML page; give a name that ends in .html")
    expanded = itertools.chain.from_iterable(map(searches.experiments, directories))
    unique = list({Path(directory).resolve(): directory for directory in expanded}.values())
    runs = [results.read(directory) for directory in unique]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        runs = [dataclasses.replace(run, name=str(directory)) for run, directory in zip(runs, unique, strict=True)]
    finished = [
        directory for directory in directories if searches.is_search(directory) and (Path(directory) / SUMMARY).exists()
    ]
    content = page(runs, "".join(map(rungs.section, finished)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out = {text.printable(out)} cannot be written: {error.strerror}; give another --out") from None
    return out


def page(runs: Sequence[Results], head: str = "") -> str:
    """The page as HTML, with ``head`` before the results."""
    by_env: dict[str, list[Results]] = {}
    for run in runs:
        by_env.setdefault(text.name_env(run.config), []).append(run)
    algos = [dict.fromkeys(text.printable(run.config.get("algo", "")) for run in group) for group in by_env.values()]
    titles = [text.name_task(", ".join(names), env) for names, env in zip(algos, by_env, strict=True)]
    body = head + warning(describe_unfinished(runs)) + "".join(map(section, by_env.values()))
    body += f"<h2>Configuration</h2>\n{configuration(runs)}<h2>Notes</h2>\n"
    notes = [paragraph(note, term) for term, note in NOTES.items() if f">{escape(term)}</th>" in body]
    script = search.SCRIPT if 'class="search"' in body else ""
    return document("; ".join(filter(None, titles)) or "Results", body + "".join(notes), script)


def section(runs: Sequence[Results]) -> str:
    """The results on one environment: a sentence on the best row, the table, the figures."""
    if sum(len(run.settings) for run in runs) > MANY:
        return section_of_many(runs)
    table = rows(runs)
    best = max(table, key=rank)
    chosen = best if len(table) > 1 and not math.isnan(best.iqm) else None
    spec = text.score_format(row.summary for row in table)
    head = head_of(runs) + warning(compare_budgets([(row.budget, row.label) for row in table]))
    head += name_best(chosen, spec)
    return head + result_table(runs, table, chosen, spec) + "".join(pictures(runs, table))


def section_of_many(runs: Sequence[Results]) -> str:
    """``section`` for more settings than a reader can look through: the best ones, averages, and a table to search."""
    summaries = [summarize_settings(run) for run in runs]
    table = best_rows(runs, summaries, many.TOP)
    best = table[0] if not math.isnan(table[0].iqm) else None
    spec = text.score_format(row.summary for row in table)
    total = text.count(sum(len(run.settings) for run in runs), "setting")
    chosen = (
        f"The best {len(table)} of {total} by their IQM. A choice among so many overestimates: new seeds would score lower."
    )
    head = head_of(runs) + warning(compare_budgets(many.list_budgets(runs))) + name_best(best, spec) + paragraph(chosen)
    figures = "".join(many.pictures(runs, summaries, table))
    everything = f"<h3>All settings</h3>\n{many.table_of_all(runs, summaries)}"
    return head + result_table(runs, table, best, spec) + figures + everything


def head_of(runs: Sequence[Results]) -> str:
    """The heading of a section."""
    return f"<h2>{escape(text.name_task('Results', text.name_env(runs[0].config)))}</h2>\n"


def name_best(best: Row | None, spec: str) -> str:
    """A sentence on the best row, or nothing if there is none."""
    if best is None:
        return ""
    *_, centre, interval = text.format_score(best.summary, spec)
    return paragraph(f"{best.label}, with an IQM of {centre} (95 % interval: {interval}).", f"{BEST} Best")


def compare_budgets(budgets: Sequence[tuple[float, str]]) -> str:
    """A sentence if settings, given by their environment steps and names, had different budgets, else nothing."""
    known = sorted(budget for budget in budgets if budget[0] > 0)
    if not known or known[-1][0] <= SAME_BUDGET * known[0][0]:
        return ""
    ends = " to ".join(f"{steps:,.0f} ({name})" for steps, name in (known[0], known[-1]))
    return f"Not the same budget: environment steps per seed range from {ends}; higher returns may be due to more steps."


def result_table(runs: Sequence[Results], table: Sequence[Row], best: Row | None, spec: str) -> str:
    """A table with a line for each row: its label, then its ``numbers``."""
    names = list(dict.fromkeys(name for row in table for name in row.setting))
    heads = [*["run"] * (len(runs) > 1 or not names), *["algorithm"] * (len({row.algo for row in table}) > 1), *names]
    lines = []
    for row in table:
        known = {**row.options, "run": row.run, "algorithm": row.algo}
        lines.append({head: text.format_value(known.get(head, text.NONE)) for head in heads} | numbers(row, best, spec))
        lines[-1][heads[0]] += f" {BEST}" * (row is best)
    caption = "Greedy return per episode: of the final policy, with its most probable actions; one number per seed"
    if table[0].threshold is not None:
        caption += f"; {table[0].threshold:g} counts as solved"
    places = [i for i, row in enumerate(table) if row is best]
    return grid(caption, [*lines[0]], [[*line.values()] for line in lines], *places)


def numbers(row: Row, best: Row | None, spec: str) -> dict[str, str]:
    """The results of a row by column head."""
    seeds = row.returns.size
    columns = {"seeds": f"{seeds}" if row.done.all() else f"{row.scores.size} of {seeds}"}
    columns |= dict(zip(text.SCORE, text.format_score(row.summary, spec), strict=True))
    if row.threshold is not None:
        columns["solved"] = describe_solved(row)
        columns["steps to threshold"] = describe_steps(row)
    diverged = np.flatnonzero(row.diverged).tolist()
    columns["diverged"] = f"{len(diverged)}: seed{'s' * (len(diverged) > 1)} {format_spans(diverged)}" if diverged else "0"
    if best is not None:
        columns["P(best above)"] = compare_to_best(best, row)
    return columns


def format_spans(numbers: Sequence[int]) -> str:
    """Format sorted integers, with consecutive ones as ranges.

    >>> format_spans([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else f"{span[0]}" for span in spans)


def compare_to_best(best: Row, row: Row) -> str:
    """The probability that a seed of ``best`` scores above a seed of ``row``, and its interval."""
    if row is best or not row.scores.size:
        return text.NONE
    share = stats.probability_of_improvement(best.scores, row.scores)
    ends = stats.improvement_interval(best.scores, row.scores, num_replicates=2000)
    return f"{share:.2f}" if math.isnan(ends[0]) else f"{share:.2f} ({text.format_interval(ends, '.2f')})"


def describe_solved(row: Row) -> str:
    """How many seeds solved the environment, and the interval of that share."""
    if row.threshold is None or not row.scores.size:
        return text.NONE
    summary = stats.summarize_solved(row.scores, row.threshold)
    low, high = (100 * end for end in summary["ci95"])
    return f"{summary['solved']} of {row.scores.size} ({low:.0f} to {high:.0f} %)"


def describe_steps(row: Row) -> str:
    """Median steps to the threshold, and how many seeds reached it."""
    if row.threshold is None or not row.scores.size or not row.env_steps.size:
        return text.NONE
    summary = stats.summarize_steps(stats.steps_to_threshold(row.env_steps, row.curve.T[row.done], row.threshold))
    median = summary["median_steps"]
    words = f"{median:,.0f}" if math.isfinite(median) else f"over {row.env_steps[-1]:,.0f}"
    return f"{words} ({summary['reached']} of {row.scores.size})"


def pictures(runs: Sequence[Results], table: Sequence[Row]) -> Iterator[str]:
    """Learning curves, performance profile, and for each sweep figures over its hyperparameters, each alone and in pairs."""
    if any(np.isfinite(row.curve).any() for row in table):
        yield picture(*figures.compare(table))
    finished = [run for run in runs if find_done(run).any()]
    if finished:
        yield picture(*figures.profile(table))
    for run in finished:
        names = varied(run)
        if names and len(runs) > 1:
            yield f"<h3>{escape(run.name)}</h3>\n"
        yield from (picture(*landscape.sensitivity(run, name)) for name in names)
        yield from (picture(*landscape.heat_map(run, x, y)) for x, y in itertools.combinations(names, 2))


def describe_unfinished(runs: Sequence[Results]) -> str:
    """A sentence on the settings that are not finished, or nothing if all are."""
    done = [find_done(run) for run in runs]
    settings, seeds = sum(int((~each).any(axis=1).sum()) for each in done), sum(int((~each).sum()) for each in done)
    total = text.count(sum(map(len, done)), "setting")
    words = f"Not finished: {settings} of {total}, {text.count(seeds, 'seed')} without a final score."
    return words if settings else ""


def list_values(run: Results, name: str) -> str:
    """The values of a hyperparameter that varies."""
    values = sort_values(options[name] for options in list_options(run))
    if len(values) > MAX_LISTED and all_numbers(values):
        return f"{len(values):,} values from {text.format_value(values[0])} to {text.format_value(values[-1])} (varied)"
    return f"{', '.join(map(text.format_value, values))} (varied)"


def configuration(runs: Sequence[Results]) -> str:
    """A table with a column for each experiment: its options, including all varied values, its device and versions."""
    columns = []
    for run in runs:
        base = {name: run.config[name] for name in ("algo", "env", "seeds", "seed", "eval_episodes") if name in run.config}
        machine = {
            f"{kind}: {name}": run.config[kind][name] for kind in ("device", "versions") for name in run.config.get(kind, {})
        }
        params = {f"env_params: {name}": value for name, value in run.config.get("env_params", {}).items()}
        known = {**base, **params, **run.config.get("options", {}), **machine}
        varies = {name: list_values(run, name) for name in varied(run)}
        columns.append({name: text.format_value(value) for name, value in known.items()} | varies)
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [[name, *(column.get(name, text.NONE) for column in columns)] for name in names]
    return grid("Options, device and versions of each run", ["name", *(run.name for run in runs)], lines)
