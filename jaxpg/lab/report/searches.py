"""Print the results of a search in a terminal."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from jaxpg.lab.config import Config
from jaxpg.lab.report import text
from jaxpg.lab.store.searches import rung_directory
from jaxpg.lab.store.stored import command

KEPT = 3  # settings of each rung that are shown


def show(console: Console, summary: Mapping[str, Any], config: Config) -> None:
    """Print the best settings of each rung, the best of all and how to train it with other seeds, and the steps of training."""
    last, best = summary["rungs"][-1], summary["best"]
    title = f"{text.name_task(summary['algo'], text.name_env(summary))}: {text.count(summary['num_seeds'], 'seed')}"
    text.print_line(console, f"{title} for each of {len(config.settings)} settings, successive halving, greedy return", "bold")
    spec = text.score_format(score for rung in summary["rungs"] for score in rung["greedy_return"])
    names = list(dict.fromkeys(name for setting in config.settings for name in setting))
    lines: list[list[str]] = []
    for number, rung in enumerate(summary["rungs"]):
        head = [str(number), f"{len(rung['settings']):,}", f"{rung['env_steps_per_seed']:,.0f}"]
        for place, (setting, score) in enumerate(zip(rung["settings"][:KEPT], rung["greedy_return"][:KEPT], strict=True)):
            values = [text.shorten_value(config.settings[setting].get(name, text.NONE)) for name in names]
            lines.append([*(head if place == 0 else ["", "", ""]), str(setting), *values, *text.format_score(score, spec)])
    heads = ["rung", "settings", "steps per seed", "setting", *names, *text.SCORE]
    is_best = next(i for i, line in enumerate(lines) if line[0] == str(len(summary["rungs"]) - 1))
    text.print_columns(console, [heads, *lines], bold=(0, is_best + 1))
    directory = shlex.quote(str(rung_directory(config.run_dir, len(summary["rungs"]) - 1)))
    place = sorted(last["settings"]).index(best["setting"])
    facts = {
        "best": text.describe(best["values"]),
        "steps": f"{summary['env_steps']:,.0f}, {summary['env_steps'] / summary['grid_env_steps']:.0%} of the full grid",
        "policies": f"jaxpg evaluate {directory} --setting {place}",
        "report": f"jaxpg report {shlex.quote(str(config.run_dir))}",
    }
    if not config.own:
        options = {**config.options, **best["values"]}
        again = dataclasses.replace(config, options=options, vary={}, search=(), seed=(config.seed + 1) % 2**32)
        facts["unbiased"] = f"{command(again)} trains the best setting with other seeds: here it was chosen by its score"
    text.print_columns(console, list(facts.items()))
