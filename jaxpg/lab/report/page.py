"""The report: what runs and sweeps came to, as one HTML page."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxpg import stats
from jaxpg.lab.report import figures, landscape
from jaxpg.lab.report.markup import document, escape, glossary, grid, picture
from jaxpg.lab.report.rows import Row, digits, ordered, rank, rows, value, varied, word
from jaxpg.lab.store import results
from jaxpg.lab.store.results import Results

NONE = "–"  # noqa: RUF001
BEST = "★"
NOTES = {  # on columns of the table, by their heads
    "IQM": "Interquartile mean: the mean without the lowest and the highest quarter of the seeds. Its interval is a percentile "
    "bootstrap over seeds (Agarwal et al. 2021).",
    "solved": "Seeds whose greedy return is at least the threshold, with the exact 95 % interval of their share (Clopper and "
    "Pearson 1934).",
    "steps to threshold": "Environment steps until the return of a seed's training episodes first reached the threshold: the "
    "median over seeds, where one that never did counts as later than all, and how many did.",
    "diverged": "Seeds whose parameters are not finite. They count as the worst of all, at minus infinity: a mean does not "
    "exist then, and an IQM only while they are a quarter at most.",
    "P(best above)": f"Probability that a seed of the best row {BEST} scores above one of this row, a tie counting half, with "
    "its 95 % bootstrap interval. The best row has the highest IQM, then mean, among those that are finished. It was chosen by "
    "the numbers shown, so they flatter it a little: fresh seeds would say by how much.",
}


def write(directories: Sequence[str | Path], out: Path) -> Path:
    """A page on the runs and sweeps in ``directories``, finished or not, as the file ``out``, which is also returned.

    ``ValueError`` of one line if there is none, one holds no run, or the file cannot be written.
    """
    if not directories:
        raise ValueError("a report needs at least one run directory")
    unique = list({Path(directory).resolve(): directory for directory in directories}.values())
    runs = [results.read(directory) for directory in unique]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        runs = [dataclasses.replace(run, name=str(directory)) for run, directory in zip(runs, unique, strict=True)]
    text = page(runs)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out = {out} cannot be written: {error.strerror}; give another --out") from None
    return out


def page(runs: Sequence[Results]) -> str:
    """The whole page as text."""
    table = rows(runs)
    environments = {row.env: [other for other in table if other.env == row.env] for row in table}
    title = "; ".join(f"{', '.join(dict.fromkeys(row.algo for row in group))} on {env}" for env, group in environments.items())
    sections = [environment([run for run in runs if run.config["env"] == env], group) for env, group in environments.items()]
    body = f"""<p>{escape(size(runs, table))}</p>
{missing(table)}{"".join(sections)}<h2>Configuration</h2>
{facts("Options of each run", [configuration(run) for run in runs], runs)}<h2>Machine and versions</h2>
{facts("What computed the numbers", [machine(run) for run in runs], runs)}"""
    notes = {term: text for term, text in NOTES.items() if f">{escape(term)}</th>" in body}
    return document(title, f"{body}<h2>How to read the numbers</h2>\n{glossary(notes)}")


def environment(runs: Sequence[Results], table: Sequence[Row]) -> str:
    """What the runs on one environment came to: the best row in words, the table, the figures."""
    best = max(table, key=rank)
    chosen = best if len(table) > 1 and not math.isnan(best.iqm) else None
    head = f"<h2>Results on {escape(table[0].env)}</h2>\n"
    if chosen is not None:
        head += f"<p>{BEST} Best: <strong>{escape(chosen.label)}</strong>, {escape(score(chosen))}.</p>\n"
    return head + result_table(runs, table, chosen) + "".join(pictures(runs, table))


def score(row: Row) -> str:
    """Interquartile mean, its interval and what is solved, in words."""
    summary, decimals = stats.summarize(row.scores), digits(row.scores)
    words = f"with an interquartile mean of {summary['iqm']:.{decimals}f}"
    if row.scores.size > 1:
        words += f" (95 % interval {interval(summary['ci95'], decimals)})"
    return words + ("" if row.threshold is None else f"; {solved(row)[0]} seeds solved it")


def result_table(runs: Sequence[Results], table: Sequence[Row], best: Row | None) -> str:
    """A line for each row; what it is made of in :func:`numbers`."""
    names = list(dict.fromkeys(name for row in table for name in row.setting))
    options = {run.name: run.config["options"] for run in runs}
    known = [("run", lambda row: row.run)] * (len(runs) > 1 or not names)
    known += [("algorithm", lambda row: row.algo)] * (len({row.algo for row in table}) > 1)
    known += [(name, lambda row, name=name: word((options[row.run] | row.setting).get(name, NONE))) for name in names]
    best_line = next((i for i, row in enumerate(table) if row is best), None)
    decimals = digits(np.concatenate([row.scores for row in table]))
    lines, columns = [], {}
    for row in table:
        columns = {name: tell(row) for name, tell in known} | numbers(row, best, decimals)
        lines.append([*columns.values()])
        lines[-1][0] += f" {BEST}" * (row is best)
    caption = "Greedy return per episode: of the policy at the end, with its most likely actions; one number per seed"
    if table[0].threshold is not None:
        caption += f"; {table[0].threshold:g} counts as solved"
    return grid(caption, [*columns], lines, best_line)


def numbers(row: Row, best: Row | None, decimals: int) -> dict[str, str]:
    """What a row came to, by the head of its column."""
    count = row.returns.size
    columns = {"seeds": f"{count}" if row.done.all() else f"{row.scores.size} of {count}"}
    nothing = {"mean": math.nan, "median": math.nan, "iqm": math.nan, "ci95": [math.nan, math.nan]}
    known = stats.summarize(row.scores) if row.scores.size else nothing
    columns |= {head: number(known[head.lower()], decimals) for head in ("mean", "median", "IQM")}
    columns["95 % interval"] = interval(known["ci95"], decimals)
    if row.threshold is not None:
        columns["solved"] = " ".join(solved(row))
        columns["steps to threshold"] = steps(row)
    lost = np.flatnonzero(row.diverged).tolist()
    columns["diverged"] = f"{len(lost)}: seed{'s' * (len(lost) > 1)} {spans(lost)}" if lost else "0"
    if best is not None:
        columns["P(best above)"] = improvement(best, row)
    return columns


def spans(numbers: Sequence[int]) -> str:
    """Whole numbers in order, neighbours as spans.

    >>> spans([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def improvement(best: Row, row: Row) -> str:
    """How likely a seed of ``best`` scores above one of ``row``."""
    if row is best or not row.scores.size:
        return NONE
    share = stats.probability_of_improvement(best.scores, row.scores)
    ends = stats.improvement_interval(best.scores, row.scores, num_replicates=2000)
    return f"{share:.2f}" if math.isnan(ends[0]) else f"{share:.2f} ({interval(ends, 2)})"


def solved(row: Row) -> tuple[str, str]:
    """How many seeds solved the environment, and the interval of that share."""
    if row.threshold is None or not row.scores.size:
        return NONE, ""
    summary = stats.summarize_solved(row.scores, row.threshold)
    low, high = (100 * end for end in summary["ci95"])
    return f"{summary['solved']} of {row.scores.size}", f"({low:.0f} to {high:.0f} %)"


def steps(row: Row) -> str:
    """Median steps to the threshold, and how many seeds reached it."""
    if row.threshold is None or not row.scores.size or not row.env_steps.size:
        return NONE
    summary = stats.summarize_steps(stats.steps_to_threshold(row.env_steps, row.curve.T[row.done], row.threshold))
    median = summary["median_steps"]
    words = f"{median:,.0f}" if math.isfinite(median) else f"over {row.env_steps[-1]:,.0f}"
    return f"{words} ({summary['reached']} of {row.scores.size})"


def pictures(runs: Sequence[Results], table: Sequence[Row]) -> Iterator[str]:
    """Learning curves, profile, and for each run what it varies: each alone, and by twos."""
    if any(np.isfinite(row.curve).any() for row in table):
        yield picture(*figures.compare(table))
    finished = [run for run in runs if any(row.done.any() for row in rows([run]))]
    if finished:
        yield picture(*figures.profile(table))
    for run in finished:
        names = varied(run)
        if names and len(runs) > 1:
            yield f"<h3>{escape(run.name)}</h3>\n"
        yield from (picture(*landscape.sensitivity(run, name)) for name in names)
        yield from (picture(*landscape.heat_map(run, x, y)) for x, y in itertools.combinations(names, 2))


def size(runs: Sequence[Results], table: Sequence[Row]) -> str:
    """How much there is, in words."""
    seeds = " or ".join(map(str, sorted({run.config["seeds"] for run in runs})))
    counts = ((len(runs), "run"), (len(table), "setting"))
    words = ", ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in counts)
    return f"{words}, {seeds} seed{'s' * (seeds != '1')} each."


def missing(table: Sequence[Row]) -> str:
    """A remark on the settings that are not finished, if there are any."""
    open_rows = [row for row in table if not row.done.all()]
    if not open_rows:
        return ""
    count, seeds = len(open_rows), sum(int((~row.done).sum()) for row in open_rows)
    verb, have = ("is" if count == 1 else "are"), ("has" if seeds == 1 else "have")
    noun = "setting" if len(table) == 1 else "settings"
    return (
        f'<p class="missing">{count} of {len(table)} {noun} {verb} not finished: {seeds} seeds {have} no final score yet.</p>\n'
    )


def configuration(run: Results) -> dict[str, str]:
    """The options of a run; of one that it varies, all values."""
    base = {name: run.config[name] for name in ("algo", "env", "seeds", "seed", "eval_episodes") if name in run.config}
    values = {name: word(given) for name, given in (base | dict(run.config["options"])).items()}
    return values | {
        name: ", ".join(map(word, ordered([value(run, setting, name) for setting in run.settings]))) + " (varied)"
        for name in varied(run)
    }


def machine(run: Results) -> dict[str, str]:
    """Device and versions, as far as the run recorded them."""
    device = {f"device: {name}": word(value) for name, value in run.config.get("device", {}).items()}
    return device | {name: word(value) for name, value in run.config.get("versions", {}).items()}


def facts(caption: str, columns: Sequence[Mapping[str, str]], runs: Sequence[Results]) -> str:
    """A table with a column for each run."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return "<p>Not recorded.</p>\n"
    return grid(
        caption, ["name", *(run.name for run in runs)], [[name, *(c.get(name, NONE) for c in columns)] for name in names]
    )


def number(value: float, decimals: int) -> str:
    """A number, or a dash where there is none."""
    return NONE if math.isnan(value) else f"{value:.{decimals}f}"


def interval(ends: Sequence[float], decimals: int) -> str:
    """Both ends; a lower one that does not exist while the upper does is minus infinity, as diverged seeds count."""
    low, high = ends
    if math.isnan(high):
        return NONE
    return f"{'-∞' if math.isnan(low) else f'{low:.{decimals}f}'} to {high:.{decimals}f}"
