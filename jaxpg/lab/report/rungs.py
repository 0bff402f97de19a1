"""The results of a search by successive halving: the best settings of each rung, in a terminal and on a page."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxpg.lab.config import Config
from jaxpg.lab.report import text
from jaxpg.lab.report.markup import grid, paragraph
from jaxpg.lab.store.files import SUMMARY, read_json
from jaxpg.lab.store.searches import grid_config, read_search, rung_directory
from jaxpg.lab.store.stored import command, report_damage

KEPT = 3  # settings of each rung that are shown
CHOSEN = "the best setting was chosen by its score, which overestimates it; train it again with other seeds"


def read(directory: str | Path) -> tuple[dict[str, Any], Config]:
    """The summary of a finished search, and the configuration of its full grid."""
    return read_json(Path(directory) / SUMMARY), grid_config(directory, read_search(directory))[0]


def show(console: Console, directory: str | Path) -> None:
    """Print the best settings of each rung, the best of all and how to train it with other seeds, and the steps of training."""
    with report_damage(Path(directory) / SUMMARY):
        summary, config = read(directory)
        title, (heads, lines, best) = name(summary, config), tabulate(summary, config)
        last = rung_directory(directory, len(summary["rungs"]) - 1)
        setting = sorted(summary["rungs"][-1]["settings"]).index(summary["best"]["setting"])
        facts = {
            "best": text.describe(summary["best"]["values"]),
            "steps": describe_steps(summary),
            "policies": f"jaxpg evaluate {shlex.quote(str(last))} --setting {setting}",
            "report": f"jaxpg report {shlex.quote(str(directory))}",
        }
        if not config.own:
            facts |= {"then": train_again(summary, config), "because": CHOSEN}
    text.print_line(console, title, "bold")
    text.print_columns(console, [heads, *lines], bold=(0, best + 1))
    text.print_columns(console, list(facts.items()))


def section(directory: str | Path) -> str:
    """The same as HTML."""
    with report_damage(Path(directory) / SUMMARY):
        summary, config = read(directory)
        heads, lines, best = tabulate(summary, config)
        said = f"{text.describe(summary['best']['values'])}; {CHOSEN}."
        return (
            grid(name(summary, config), heads, lines, best)
            + paragraph(said, "Best")
            + paragraph(describe_steps(summary), "Steps")
        )


def name(summary: Mapping[str, Any], config: Config) -> str:
    """What was searched."""
    seeds = text.count(summary["num_seeds"], "seed")
    task = text.name_task(summary["algo"], text.name_env(summary))
    return f"{task}: {seeds} for each of {len(config.settings)} settings, successive halving, greedy return"


def describe_steps(summary: Mapping[str, Any]) -> str:
    """The steps of training, and of that of the full grid."""
    used, full = summary["env_steps"], summary["grid_env_steps"]
    return f"{used:,.0f} steps of training, {used / full:.0%} of the {full:,.0f} of the full grid"


def tabulate(summary: Mapping[str, Any], config: Config) -> tuple[list[str], list[list[str]], int]:
    """Heads and lines of a table with the best settings of each rung, and the line of the best of all."""
    spec = text.score_format(score for rung in summary["rungs"] for score in rung["greedy_return"])
    names = list(dict.fromkeys(name for setting in config.settings for name in setting))
    lines, best = list[list[str]](), 0
    for number, rung in enumerate(summary["rungs"]):
        best = len(lines)
        for setting, score in list(zip(rung["settings"], rung["greedy_return"], strict=True))[:KEPT]:
            head = [str(number), f"{len(rung['settings']):,}", f"{rung['env_steps_per_seed']:,.0f}"]
            values = [text.shorten_value(config.settings[setting].get(name, text.NONE)) for name in names]
            lines.append([*head, str(setting), *values, *text.format_score(score, spec)])
    return ["rung", "settings", "steps per seed", "setting", *names, *text.SCORE], lines, best


def train_again(summary: Mapping[str, Any], config: Config) -> str:
    """The command that trains the best setting with the next root seed."""
    options = {**config.options, **summary["best"]["values"]}
    return command(dataclasses.replace(config, options=options, vary={}, search=(), seed=(config.seed + 1) % 2**32))
