"""The progress of training on screen: a bar, or lines if there is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from jaxpg.lab.report.text import print_line

INTERVAL = 5.0  # seconds between lines where there is no terminal


class Progress:
    """Show the stage, the share done, steps per second over all runs, mean return and time left. A context manager.

    ``names`` are the names of the runs, by default ``seed 0``, ``seed 1``, ...
    """

    def __init__(
        self,
        console: Console,
        env_steps: int,
        num_seeds: int,
        clock: Callable[[], float] = time.monotonic,
        names: Sequence[str] = (),
    ) -> None:
        self.console, self.env_steps, self.clock = console, env_steps, clock
        self.names = names or [f"seed {seed}" for seed in range(num_seeds)]
        self.returns = np.full(num_seeds, np.nan)  # of each seed, the newest that is known
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
        """Show ``what`` while the code inside runs, and then how long it took."""
        begin = time.monotonic()
        if not console.is_terminal:
            print_line(console, what)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Bar(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
            bar.add_task(what)
            yield
        if not console.is_terminal:
            print_line(console, f"{what} took {time.monotonic() - begin:.1f} s")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def stage(self, name: str, env_steps: int = 0) -> None:
        """Begin a new stage, at ``env_steps`` per seed; steps per second are measured from here."""
        self.name, self.started, self.begun = name, self.clock(), env_steps
        self.bar.update(self.task, description=name)
        self.line(name)

    def advance(self, env_steps: int, episode_return: np.ndarray) -> None:
        """Show that ``env_steps`` per seed are done; ``episode_return`` is ``[S]``, NaN if no episode has ended since."""
        self.returns = np.where(np.isnan(episode_return), self.returns, episode_return)
        said = self.describe(env_steps)
        self.bar.update(self.task, completed=env_steps, said=said)
        if self.clock() - self.printed >= INTERVAL:
            self.line(f"{self.name}  {env_steps / self.env_steps:4.0%}  {env_steps:,} steps per seed  {said}")

    def diverged(self, at: np.ndarray) -> None:
        """Warn once of each run that diverged; ``at`` is the update, ``[S]``, 0 for a run that did not."""
        for i in np.flatnonzero((at > 0) & ~self.lost).tolist():
            self.warn(
                f"{self.names[i]} diverged at update {at[i]:,} and keeps its state before that update; the other runs continue"
            )
        self.lost |= at > 0

    def warn(self, text: str) -> None:
        """Print a warning, also where progress is not shown."""
        warn(self.console, text)

    def describe(self, env_steps: int) -> str:
        """Describe speed, return and time left in one line."""
        done, elapsed = env_steps - self.begun, max(self.clock() - self.started, 1e-9)
        left = elapsed * (self.env_steps - env_steps) / done
        known = self.returns[~np.isnan(self.returns)]
        score = f"{known.mean():.1f}" if known.size else "-"
        speed = done * self.returns.size / elapsed
        return f"{speed:,.0f} steps/s  return {score}  {int(left) // 60}:{int(left) % 60:02d} left"

    def line(self, text: str) -> None:
        """Print a plain line if there is no terminal for a bar."""
        if not self.console.is_terminal:
            print_line(self.console, text)
            self.printed = self.clock()


class TaskProgress:
    """Show how many batches and runs of an experiment are finished, whichever process trains them. A context manager."""

    def __init__(self, console: Console, tasks: int, runs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.tasks, self.runs, self.clock = console, tasks, runs, clock
        self.done = self.done_runs = 0
        self.scores = self.scored = 0.0
        self.started = self.printed = clock()
        columns = (TextColumn("training  "), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}"))
        self.bar = Bar(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task("training", total=runs, said="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, runs: int, score: float, failed: int) -> None:
        """A batch of ``runs`` runs ended, with the mean return ``score``; ``failed`` batches have failed so far."""
        self.done, self.done_runs = self.done + 1, self.done_runs + runs
        if not np.isnan(score):
            self.scores, self.scored = self.scores + score * runs, self.scored + runs
        said = self.describe(failed)
        self.bar.update(self.task, completed=self.done_runs, said=said)
        now = self.clock()
        if not self.console.is_terminal and (now - self.printed >= INTERVAL or self.done == self.tasks):
            print_line(self.console, said)
            self.printed = now

    def describe(self, failed: int) -> str:
        """Describe what is done, the mean return and the time left in one line."""
        left = (self.clock() - self.started) * (self.tasks - self.done) / self.done
        mean = f"{self.scores / self.scored:.1f}" if self.scored else "-"
        done = f"{self.done:,} of {self.tasks:,} batches, {self.done_runs:,} of {self.runs:,} runs"
        return f"{done}  greedy return {mean}  {int(left) // 60}:{int(left) % 60:02d} left" + f"  {failed:,} failed" * bool(
            failed
        )


def warn(console: Console, text: str) -> None:
    """Print a warning, on standard error if ``console`` is quiet."""
    print_line(Console(stderr=True) if console.quiet else console, f"jaxpg: {text}")
