"""Loggers: TensorBoard's event files as TensorBoard reads them, W&B without a network, and loggers that fail."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib

import pytest
import scipy.stats
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from jaxpg.lab.engine import loggers

SEEDS, SETTINGS = 5, [{"learning_rate": 0.001}, {"learning_rate": 0.0001}]
NAMES = ["learning_rate=0.001", "learning_rate=0.0001"]
OPTIONS = {"learning_rate": 0.01, "gamma": 0.99, "hidden": [64, 64], "anneal": [], "num_envs": 8}


def make_config(settings=SETTINGS, seeds=SEEDS):
    return {"algo": "ppo", "env": "CartPole-v1", "seeds": seeds, "seed": 7, "options": OPTIONS, "settings": settings}


def measure(setting, seed, update):
    """A number as if measured, and one that is missing in every third row."""
    missing = (seed + update) % 3 == 0
    return {
        "entropy": math.exp(-update / 7) + seed**2 + setting,
        "episode_return": None if missing else 10.0 * update + seed**3,
    }


def make_rows(update, settings=SETTINGS, seeds=range(SEEDS), **values):
    index = [
        {"setting": n, "seed": seed, "update": update, "env_steps": 256 * update}
        for n in range(len(settings))
        for seed in seeds
    ]
    return [row | (values or measure(row["setting"], row["seed"], update)) for row in index]


def make_summary(settings=SETTINGS, seeds=SEEDS):
    def score(n):
        return {
            "mean": 1.5 + n,
            "median": 1.0 + n,
            "iqm": None,
            "ci95": [1.0, 2.0],
            "per_seed": [*map(float, range(seeds - 1)), None],
        }

    return {"settings": [{"setting": s, "greedy_return": score(n), "sampled_return": score(n)} for n, s in enumerate(settings)]}


def open_one(name, directory, config=None, resumed=False, warn=pytest.fail):
    (logger,) = loggers.open_loggers([name], directory, config or make_config(), resumed, warn)
    return logger


def checksum(data):
    """CRC-32C with TensorFlow's mask, by polynomial division."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def read_events(run):
    """The events of a TensorBoard run, without those that a later session told TensorBoard to forget."""
    events = []
    for path in sorted(run.glob("events.out.tfevents.*")):
        data, is_open = path.read_bytes(), False
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            content = data[12 : 12 + length]
            assert data[8:12] == checksum(data[:8])
            assert data[12 + length : 16 + length] == checksum(content)
            event, data = Event.FromString(content), data[16 + length :]
            assert is_open or event.file_version == "brain.Event:2"  # without it TensorBoard forgets nothing
            is_open = True
            if event.session_log.status == SessionLog.START:
                events = [old for old in events if old.step < event.step]
            events.append(event)
    return events


def read_series(run):
    """``{tag: {step: value}}``; no step may come twice."""
    found = {}
    for event in read_events(run):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.simple_value
    return found


def read_hparams(run):
    """The contents of the HParams plugin, by tag."""
    values = [value for event in read_events(run) for value in event.summary.value if value.HasField("metadata")]
    return {v.tag.removeprefix("_hparams_/"): HParamsPluginData.FromString(v.metadata.plugin_data.content) for v in values}


def test_no_package_is_imported_before_it_is_asked_for():
    look = "import sys, jaxpg.lab.engine.loggers; sys.exit(bool({'tensorboardX', 'wandb'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", look], timeout=60, check=False).returncode == 0


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^unknown log 'tensorbord'; did you mean tensorboard\?$"):
        open_one("tensorbord", tmp_path)


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX.record_writer"), ("wandb", "wandb")])
def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"^log = {name}: .*{module}.*; pip install 'jaxpg\[{name}\]'$"):
        open_one(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_tensorboard_has_a_series_for_each_run_and_the_interquartile_mean_over_seeds(tmp_path):
    log = open_one("tensorboard", tmp_path)
    for update in (1, 2, 3):
        log.write(make_rows(update))
    assert sorted(path.name for path in (tmp_path / "tensorboard").iterdir()) == sorted(NAMES)
    for setting, name in enumerate(NAMES):
        everything = [[measure(setting, seed, update) for seed in range(SEEDS)] for update in (1, 2, 3)]
        for seed in range(SEEDS):
            series = read_series(tmp_path / "tensorboard" / name / f"seed{seed}")
            for metric in ("entropy", "episode_return"):
                known = {256 * (i + 1): row[seed][metric] for i, row in enumerate(everything) if row[seed][metric] is not None}
                assert series[metric] == pytest.approx(known, rel=1e-6)
        series = read_series(tmp_path / "tensorboard" / name / "all seeds")
        for metric in ("entropy", "episode_return"):
            known = [[one[metric] for one in row if one[metric] is not None] for row in everything]
            expected = {256 * (i + 1): scipy.stats.trim_mean(values, 0.25) for i, values in enumerate(known)}
            assert series[metric] == pytest.approx(expected, rel=1e-6)


def test_tensorboard_leaves_out_what_is_no_number(tmp_path):
    log = open_one("tensorboard", tmp_path, make_config([{}], 1))
    log.write(make_rows(1, [{}], [0], loss=math.nan, kl=math.inf, entropy=None, episodes=3))
    for run in ("seed0", "all seeds"):
        assert read_series(tmp_path / "tensorboard" / run) == {"episodes": {256: 3.0}}


def test_tensorboard_shows_the_hyperparameters_and_the_final_evaluation(tmp_path):
    log = open_one("tensorboard", tmp_path)
    log.write(make_rows(4))
    started = [read_hparams(tmp_path / "tensorboard" / name / "all seeds") for name in NAMES]
    assert all(found.keys() == {"experiment", "session_start_info"} for found in started)
    log.close(make_summary())
    for setting, name in enumerate(NAMES):
        found = read_hparams(tmp_path / "tensorboard" / name / "all seeds")
        assert "session_end_info" in found
        values = found["session_start_info"].session_start_info.hparams
        assert values["learning_rate"].number_value == SETTINGS[setting]["learning_rate"]
        assert (values["gamma"].number_value, values["seed"].number_value) == (0.99, 7)
        assert (values["hidden"].string_value, values["algo"].string_value) == ("64x64", "ppo")
        series = read_series(tmp_path / "tensorboard" / name / "all seeds")
        final = {tag: values for tag, values in series.items() if tag.startswith("final/")}
        listed = {info.name.tag for info in found["experiment"].experiment.metric_infos}
        assert final.keys() == {tag for tag in listed if not tag.endswith("iqm")}  # which is None here
        assert final["final/greedy_return_mean"] == {1024: 1.5 + setting}
        seeds = [read_series(tmp_path / "tensorboard" / name / f"seed{seed}") for seed in range(SEEDS)]
        assert [one.get("final/greedy_return") for one in seeds] == [{1024: 0.0}, {1024: 1.0}, {1024: 2.0}, {1024: 3.0}, None]


def test_tensorboard_after_a_resume_shows_what_an_uninterrupted_experiment_shows(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    log = open_one("tensorboard", whole)
    for update in range(1, 9):
        log.write(make_rows(update))
    log.close(make_summary())
    log = open_one("tensorboard", parts)
    for update in range(1, 6):
        log.write(make_rows(update))
    log.close(None)
    log = open_one("tensorboard", parts, resumed=True)
    for update in range(4, 9):
        log.write(make_rows(update))
    log.close(make_summary())
    runs = sorted(path.relative_to(whole) for path in whole.glob("tensorboard/*/*"))
    assert len(runs) == len(SETTINGS) * (SEEDS + 1)
    for run in runs:
        assert read_series(whole / run) == read_series(parts / run)
    assert "session_start_info" in read_hparams(parts / runs[0])


def test_tensorboard_keeps_the_last_row_of_training_where_a_resume_begins_with_the_evaluation(tmp_path):
    config = make_config([{}], 1)
    open_one("tensorboard", tmp_path, config).write(make_rows(4, [{}], [0], entropy=0.5))
    open_one("tensorboard", tmp_path, config, resumed=True).write(
        make_rows(4, [{}], [0], greedy_return=9.0, sampled_return=8.0)
    )
    series = read_series(tmp_path / "tensorboard" / "seed0")
    assert series == {"entropy": {1024: 0.5}, "greedy_return": {1024: 9.0}, "sampled_return": {1024: 8.0}}


def test_a_batch_with_some_of_the_seeds_is_no_aggregate_over_all(tmp_path):
    log = open_one("tensorboard", tmp_path, make_config([{}]))
    for seeds in ([0, 1, 2], [3, 4]):
        log.write(make_rows(1, [{}], seeds, entropy=float(sum(seeds))))
    assert read_series(tmp_path / "tensorboard" / "all seeds") == {}
    assert read_series(tmp_path / "tensorboard" / "seeds 0-2") == {"entropy": {256: 3.0}}
    assert read_series(tmp_path / "tensorboard" / "seeds 3-4") == {"entropy": {256: 7.0}}


def test_more_than_a_hundred_runs_have_no_series_of_their_own_and_no_file_stays_open(tmp_path):
    settings, said = [{"gamma": n / 60} for n in range(51)], []
    log = open_one("tensorboard", tmp_path, make_config(settings, 2), warn=said.append)
    before = len(os.listdir("/dev/fd"))
    log.write(make_rows(1, settings, range(2)))
    assert len(os.listdir("/dev/fd")) == before
    log.close(make_summary(settings, 2))
    assert [len(list(path.iterdir())) for path in (tmp_path / "tensorboard").iterdir()] == [1] * 51
    series = "the interquartile means over the seeds of each setting, but not each run"
    assert said == [f"102 runs are more than 100: {series}, are logged to tensorboard"]


def test_nothing_is_written_through_a_link_that_leads_out_of_the_run_directory(tmp_path):
    elsewhere, directory = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    directory.mkdir()
    (directory / "tensorboard").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="points outside the run directory"):
        open_one("tensorboard", directory)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        [{"x": 0.1}, {"x": 0.1 + 1e-16}],
        [{"hidden": [64, 64]}, {"hidden": [64, 63]}, {"hidden": []}],
        [{"x": "a/b"}, {"x": "a b"}, {"x": "../../c"}],
        [{f"name{n}": n for n in range(50)}, {f"name{n}": n + 1 for n in range(50)}],
    ],
)
def test_names_of_settings_are_different_and_safe_as_part_of_a_path(settings, tmp_path):
    names = loggers.name_settings(settings)
    assert len(set(names)) == len(settings)
    for name in names:
        (tmp_path / name).mkdir()
        assert (tmp_path / name).parent == tmp_path


class Recorder:
    """A logger of the user's own, which fails at the ``bad`` call."""

    def __init__(self, bad=0):
        self.calls, self.bad = [], bad

    def write(self, rows):
        self.calls.append(rows)
        if len(self.calls) == self.bad:
            raise OSError("no\nspace")

    close = write


def test_a_logger_that_fails_is_named_once_and_dropped_and_the_others_continue():
    said, sound, failing = [], Recorder(), Recorder(bad=2)
    together = loggers.Loggers([failing, sound], said.append)
    for update in (1, 2, 3):
        together.write(make_rows(update))
    together.close(None)
    assert sound.calls == [make_rows(1), make_rows(2), make_rows(3), None]
    assert len(failing.calls) == 2
    assert said == ["logger Recorder failed and is not used any more (OSError: no space)"]


def test_an_error_of_tensorboard_in_training_or_at_its_end_is_a_warning(tmp_path):
    for call in ("write", "close"):
        said = []
        together = loggers.Loggers([open_one("tensorboard", tmp_path)], said.append)
        together.write(make_rows(1))
        shutil.rmtree(tmp_path / "tensorboard")
        getattr(together, call)(make_rows(2) if call == "write" else make_summary())
        together.write(make_rows(3))
        assert len(said) == 1
        assert said[0].startswith("logger TensorBoard failed and is not used any more (FileNotFoundError: ")


def test_an_interruption_passes_through_a_logger():
    class Interrupted(Recorder):
        def write(self, rows):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loggers.Loggers([Interrupted()], pytest.fail).write(make_rows(1))


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """Weights & Biases without a network, and without the account that a developer may have."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'jaxpg[wandb]'")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    yield wandb
    wandb.teardown()


def read_wandb(path):
    """The records of an offline W&B run, from LevelDB's log format: blocks of 32 KiB with records of CRC, length and type."""
    record = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    data, place, content, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while place < len(data):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
            continue
        crc, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part = data[place + 7 : place + 7 + length]
        assert crc == zlib.crc32(part, zlib.crc32(bytes([kind])))
        content, place = content + part, place + 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(record.FromString(content))
            content = b""
    return records


def read_items(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_wandb_runs(directory):
    """``{run id: its records, of all sessions}``, once W&B's own process has written them and ended."""
    pytest.importorskip("wandb").teardown()
    runs = {}
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=os.path.getmtime):
        records = read_wandb(path)
        (run_id,) = {record.run.run_id for record in records if record.HasField("run")}
        runs.setdefault(run_id, []).extend(records)
    return runs


def test_wandb_offline_has_a_run_for_each_setting_which_a_resume_continues(wandb, tmp_path):
    directory = tmp_path / "experiment"
    directory.mkdir()
    log = open_one("wandb", directory)
    log.write(make_rows(1))
    log.close(None)
    log = open_one("wandb", directory, resumed=True)
    log.write(make_rows(2))
    log.close(make_summary())
    runs = read_wandb_runs(directory)
    assert sorted(run_id.split("-")[1] for run_id in runs) == ["0", "1"]
    for run_id, records in runs.items():
        setting = int(run_id.split("-")[1])
        run = next(record.run for record in records if record.HasField("run"))
        assert (run.project, run.run_group, run.display_name) == ("jaxpg", "experiment", NAMES[setting])
        config = read_items(run.config.update)
        assert config["learning_rate"] == SETTINGS[setting]["learning_rate"]
        assert (config["env"], config["gamma"], config["hidden"]) == ("CartPole-v1", 0.99, "64x64")
        assert any(r.metric.glob_name == "*" and r.metric.step_metric == "env_steps" for r in records)
        history = [read_items(record.history.item) for record in records if record.HasField("history")]
        assert [row["env_steps"] for row in history] == [256, 512]
        for update, row in enumerate(history, 1):
            numbers = [measure(setting, seed, update) for seed in range(SEEDS)]
            known = {f"seed{n}/{k}": v for n, one in enumerate(numbers) for k, v in one.items() if v is not None}
            assert {name: value for name, value in row.items() if name.startswith("seed")} == known
            assert row["entropy"] == pytest.approx(scipy.stats.trim_mean([one["entropy"] for one in numbers], 0.25))
        summary = {}
        for record in records:
            summary |= read_items(record.summary.update)
        assert summary["final/greedy_return_mean"] == 1.5 + setting
        assert "final/greedy_return_iqm" not in summary  # None
        assert [record.exit.exit_code for record in records if record.HasField("exit")] == [1, 0]


def test_wandb_leaves_single_runs_out_where_there_are_more_than_a_hundred(wandb, tmp_path):
    log = open_one("wandb", tmp_path, make_config([{}], 101), warn=lambda text: None)
    log.write(make_rows(1, [{}], range(101), entropy=0.5))
    log.write(make_rows(1, [{}], range(50), entropy=0.25))
    log.close(None)
    (records,) = read_wandb_runs(tmp_path).values()
    rows = [read_items(record.history.item) for record in records if record.HasField("history")]
    assert [{name for name in row if not name.startswith("_")} for row in rows] == [
        {"env_steps", "entropy"},
        {"env_steps", "seeds 0-49/entropy"},
    ]


def test_wandb_that_cannot_start_is_refused_in_one_line(wandb, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"^log = wandb: 101 settings need as many W&B runs at once, but at most 100 are possible; "
    ):
        open_one("wandb", tmp_path, make_config([{"gamma": n / 200} for n in range(101)], 1), warn=lambda text: None)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ValueError, match=r"^log = wandb: [^\n]*; WANDB_MODE=offline needs no account and no network$"):
        open_one("wandb", tmp_path)
    (tmp_path / "wandb" / "experiment_id").write_text("abc")
    with pytest.raises(ValueError, match=r"experiment_id holds abc, which is not an id; delete it for new W&B runs$"):
        open_one("wandb", tmp_path, resumed=True)
