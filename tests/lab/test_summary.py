"""The summary of thousands of settings: what is in it, what it costs to read, and that it says what a small one says."""

import hashlib
import types

import numpy as np
import pytest

from jaxpg import stats
from jaxpg.lab.config import Config
from jaxpg.lab.engine import summary
from jaxpg.lab.report import rows
from jaxpg.lab.store.files import SUMMARY, read_json, write_json
from jaxpg.lab.store.results import Deferred, Results

S, N, P = 12, 5, 4
CONFIG = Config("ppo", seeds=N, options={"total_steps": 40}, vary={"gamma": [i / 20 for i in range(S)]})
GROUP = types.SimpleNamespace(hparams=range(S), course=types.SimpleNamespace(total=10), steps_per_update=4)


def make(defer=None):
    """Results of twelve settings; with ``defer``, each reading of curves is noted there."""
    rng = np.random.default_rng(0)
    diverged_at = np.zeros((S, N), int)
    diverged_at[3, 1] = 7
    returns = {
        name: np.where(diverged_at > 0, np.nan, rng.normal(480, 20, (S, N))) for name in ("greedy_return", "sampled_return")
    }
    metrics = {name: rng.normal(size=(S, N, P)) for name in ("sampled_steps", "episode_return", "entropy")}
    metrics["episode_return"] = 450 + 20 * metrics["episode_return"]

    def read(names, settings=None):
        chosen = list(range(S) if settings is None else settings)
        defer.append((tuple(names), chosen))
        return {name: metrics[name][chosen] for name in names}

    digests = np.array([[f"digest {i} {j}" for j in range(N)] for i in range(S)], object)
    curves = metrics if defer is None else Deferred(metrics, read)
    env_steps, nothing = np.tile(10.0 * np.arange(1, P + 1), (S, 1)), np.zeros((S, 0))
    config = {"identity": "this one", "algo": "ppo", "env": CONFIG.env}
    return Results("x", config, CONFIG.settings, env_steps, curves, returns, diverged_at, nothing, {}, digests)


def summarize(found):
    return summary.summarize(CONFIG, [GROUP], found)


def test_each_setting_has_the_statistics_of_its_runs():
    found = make()
    for i, row in enumerate(summarize(found)["settings"]):
        assert row["setting"] == CONFIG.settings[i]
        for name, values in found.returns.items():
            assert repr(row[name]) == repr(stats.summarize(values[i]) | {"per_seed": values[i].tolist()})
        assert row["sampled_steps"] == pytest.approx(found.metrics["sampled_steps"][i].sum(axis=1).mean())
        steps = [
            next((10.0 * p for p, x in enumerate(run, 1) if x >= 475), np.inf) for run in found.metrics["episode_return"][i]
        ]
        assert row["to_threshold"]["reached"] == np.isfinite(steps).sum()
        assert row["digests"] == [f"digest {i} {j}" for j in range(N)]
        assert row["diverged"] == ([{"seed": 1, "update": 7}] if i == 3 else [])


def test_of_many_settings_the_bootstrap_is_computed_together_and_all_else_is_the_same(monkeypatch):
    small = summarize(make())
    monkeypatch.setattr(rows, "MANY", 5)
    large = summarize(make())
    for one, two in zip(small["settings"], large["settings"], strict=True):
        for name in ("greedy_return", "sampled_return"):
            ends, others = one[name].pop("ci95"), two[name].pop("ci95")
            width = np.nan_to_num(ends[1] - ends[0], nan=40.0)
            assert others == pytest.approx(ends, abs=0.1 * width, nan_ok=True)
            assert repr(one[name].pop("per_seed")) == repr(two[name].pop("per_seed"))
            for key, value in one[name].items():
                assert two[name][key] == pytest.approx(value, nan_ok=True)
            del one[name], two[name]
        assert one == two


def test_curves_are_read_once_some_settings_at_a_time(monkeypatch):
    monkeypatch.setattr(summary, "BLOCK", 5 * N * P)
    seen = []
    assert repr(summarize(make(seen))) == repr(summarize(make()))
    wanted = ("sampled_steps", "episode_return")
    assert seen == [(wanted, list(range(5))), (wanted, list(range(5, 10))), (wanted, [10, 11])]


def test_of_very_many_runs_the_summary_has_one_digest_for_each_setting(monkeypatch, tmp_path):
    monkeypatch.setattr(summary, "SEEDS_OF", S * N - 1)
    write_json(tmp_path / SUMMARY, summarize(make()))
    for i, row in enumerate(read_json(tmp_path / SUMMARY)["settings"]):
        assert row["digest"] == hashlib.sha256("".join(f"digest {i} {j}" for j in range(N)).encode()).hexdigest()
        assert "digests" not in row
        assert "per_seed" not in row["greedy_return"]
        assert row["greedy_return"].keys() == {"mean", "median", "iqm", "ci95", "diverged"}


def test_the_figures_of_many_settings_show_the_best_and_the_averages(monkeypatch):
    monkeypatch.setattr(rows, "MANY", 5)
    seen = []
    drawn = summary.draw(CONFIG, make(seen))
    assert list(drawn) == ["curves.png", "sensitivity_gamma.png"]
    iqm = [row["greedy_return"]["iqm"] for row in summarize(make())["settings"]]
    assert seen == [(("episode_return",), sorted(np.argsort(iqm)[-8:].tolist()))]
