"""What a person sees: progress while a run goes on (a bar, or lines where there is no terminal) and the table at its end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from jaxpg import stats
from jaxpg.lab.config import SOLVED
from jaxpg.lab.report import rows
from jaxpg.lab.store.results import Results

if TYPE_CHECKING:
    from jaxpg.lab.policies.loading import Evaluation

INTERVAL = 5.0  # seconds between lines where there is no terminal


class Progress:
    """Stage, share done, steps per second over all seeds, mean return so far, time left. A context manager."""

    def __init__(self, console: Console, env_steps: int, num_seeds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.env_steps, self.clock = console, env_steps, clock
        self.returns = np.full(num_seeds, np.nan)  # of each seed, where its last finished episodes were
        self.lost = np.zeros(num_seeds, bool)
        self.started = self.printed = clock()
        self.begun = 0  # env_steps when the stage began
        columns = (TextColumn("{task.description:<10}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}"))
        self.bar = Bar(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.name = "starting"
        self.task = self.bar.add_task("starting", total=env_steps, said="")

    @staticmethod
    @contextlib.contextmanager
    def waiting(console: Console, what: str) -> Iterator[None]:
        """``what`` is going on inside, and for how long."""
        begin = time.monotonic()
        if not console.is_terminal:
            console.print(what, highlight=False, soft_wrap=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            bar.add_task(what)
            yield
        if not console.is_terminal:
            console.print(f"{what} took {time.monotonic() - begin:.1f} s", highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def stage(self, name: str, env_steps: int = 0) -> None:
        """A new stage of the run; the clock for steps per second starts with it, at ``env_steps`` per seed."""
        self.name, self.started, self.begun = name, self.clock(), env_steps
        self.bar.update(self.task, description=name)
        self.line(name)

    def advance(self, env_steps: int, episode_return: np.ndarray) -> None:
        """``env_steps`` per seed are done; ``episode_return`` is ``[S]``, NaN for a seed where no episode ended of late."""
        self.returns = np.where(np.isnan(episode_return), self.returns, episode_return)
        said = self.describe(env_steps)
        self.bar.update(self.task, completed=env_steps, said=said)
        if self.clock() - self.printed >= INTERVAL:
            self.line(f"{self.name}  {env_steps / self.env_steps:4.0%}  {env_steps:,} steps per seed  {said}")

    def diverged(self, at: np.ndarray) -> None:
        """The update at which each seed diverged, ``[S]``, 0 for one that did not; each is said once."""
        for seed in np.flatnonzero((at > 0) & ~self.lost):
            self.warn(f"seed {seed} diverged at update {at[seed]:,} and stays as it was before; the others go on")
        self.lost |= at > 0

    def warn(self, text: str) -> None:
        """A line that is shown whatever the screen."""
        self.console.print(f"jaxpg: {text}", highlight=False, soft_wrap=True)

    def describe(self, env_steps: int) -> str:
        """Speed, return and time left in one line."""
        done, elapsed = env_steps - self.begun, max(self.clock() - self.started, 1e-9)
        left = elapsed * (self.env_steps - env_steps) / done
        known = self.returns[~np.isnan(self.returns)]
        score = f"{known.mean():.1f}" if known.size else "-"
        speed = done * self.returns.size / elapsed
        return f"{speed:,.0f} steps/s  return {score}  {int(left) // 60}:{int(left) % 60:02d} left"

    def line(self, text: str) -> None:
        """A plain line, where there is no terminal for a bar."""
        if not self.console.is_terminal:
            self.console.print(text, highlight=False, soft_wrap=True)
            self.printed = self.clock()


def show_summary(console: Console, summary: dict[str, Any], run_dir: str) -> None:
    """The numbers of a finished run and where its files are."""
    title = f"{summary['algo']} on {summary['env']}: {summary['num_seeds']} seeds"
    console.print(scores(title, {name: summary[f"{name}_return"] for name in ("greedy", "sampled")}))
    steps, used = summary["env_steps_per_seed"], summary["sampled_steps"]
    padding = "" if used == steps else f" ({used:,.0f} of them used)"
    lines = [
        f"steps     {steps:,} per seed in {summary['num_updates']:,} updates{padding}",
        f"speed     {summary['env_steps_per_second']:,.0f} steps/s; "
        f"{summary['compile_seconds']:.1f} s to compile, {summary['train_seconds']:.1f} s to train",
        f"files     {run_dir}",
    ]
    if summary["diverged"]:
        at = {row["seed"]: row["update"] for row in summary["diverged"]}
        who = lost(np.array([at.get(seed, 0) for seed in range(summary["num_seeds"])]))
        lines.insert(0, f"diverged  {who}: they count as the worst")
    if summary["solved_threshold"] is not None:
        solved = round(summary["solved_fraction"] * summary["num_seeds"])
        threshold = f"(greedy return of at least {summary['solved_threshold']:g})"
        lines.insert(0, f"solved    {solved} of {summary['num_seeds']} seeds {threshold}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def show_evaluation(console: Console, found: Evaluation) -> None:
    """The returns of the policies of a run."""
    config = found.config
    title = f"{config.algo} on {config.env}: {config.seeds} seeds"
    console.print(scores(title, {name.removesuffix("_return"): score for name, score in found.summary.items()}))
    console.print(f"policies  after update {found.step:,}, {found.episodes} episodes each", highlight=False, soft_wrap=True)
    if found.diverged_at.any():
        console.print(f"diverged  {lost(found.diverged_at)}: they count as the worst", highlight=False, soft_wrap=True)


def scores(title: str, summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of what :func:`jaxpg.stats.summarize` says of each kind of evaluation."""
    table = Table("evaluation", "mean", "median", "IQM", "95 % interval", title_justify="left", title_style="bold", title=title)
    for name, score in summaries.items():
        low, high = (math.nan if end is None else end for end in score["ci95"])
        interval = "-" if math.isnan(high) else f"{said(low)} to {said(high)}"
        table.add_row(name, *(said(score[key]) for key in ("mean", "median", "iqm")), interval)
    return table


def show_sweep(console: Console, found: Results, run_dir: str) -> None:
    """The settings of a finished sweep, the best marked, and where its files are."""
    lines = rows.rows([found])
    best = max(range(len(lines)), key=lambda i: rows.rank(lines[i]))
    names = rows.varied(found)
    table = Table("", *names, "mean", "median", "IQM", "95 % interval", title_justify="left", title_style="bold")
    seeds = found.config["seeds"]
    table.title = f"{found.config['algo']} on {found.config['env']}: greedy return of {len(lines)} settings, {seeds} seeds each"
    threshold = SOLVED.get(found.config["env"])
    if threshold is not None:
        table.add_column("solved")
    for i, line in enumerate(lines):
        score = stats.summarize(line.scores)
        cells = [*(rows.brief(line.setting[name]) for name in names), *(said(score[key]) for key in ("mean", "median", "iqm"))]
        low, high = score["ci95"]
        solved = [] if threshold is None else [f"{np.sum(line.scores >= threshold)} of {seeds}"]
        interval = "-" if math.isnan(high) else f"{said(low)} to {said(high)}"
        table.add_row("*" if i == best else "", *cells, interval, *solved, style="bold" if i == best else "")
    console.print(table)
    diverged = [f"{line.label}: {lost(line.diverged_at)}" for line in lines if line.diverged.any()]
    if diverged:
        console.print("diverged  " + "; ".join(diverged) + " (they count as the worst)", highlight=False, soft_wrap=True)
    console.print(f"files     {run_dir}\npage      jaxpg report {run_dir}", highlight=False, soft_wrap=True)


def lost(diverged_at: np.ndarray) -> str:
    """Who diverged, and when.

    >>> lost(np.array([0, 17, 3]))
    'seed 1 (at update 17), seed 2 (at update 3)'
    """
    return ", ".join(f"seed {seed} (at update {at:,})" for seed, at in enumerate(diverged_at) if at)


def said(value: float | None) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"
