"""Logs as columns: Parquet says what the rows say, and only what is asked for is read."""

import json
import math
import sys
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxpg
from jaxpg.lab.config import Config
from jaxpg.lab.engine import experiment
from jaxpg.lab.policies import loading
from jaxpg.lab.report import page
from jaxpg.lab.store import columns, frames, log, remote, results, stored
from jaxpg.lab.store.files import BATCH, CONFIG, METRICS, RESULT, TABLE, Damaged, read_json, write_json

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'jaxpg[parquet]'")

WATCHERS: list[list[str]] = []  # lists of the files that are opened from now on
sys.addaudithook(lambda event, details: [each.append(str(details[0])) for each in WATCHERS if event == "open"] and None)

SEEDS, SETTINGS = 3, 6
SWEEP = Config("mine", "a maze", own=True, seeds=SEEDS, options={"total_steps": 40}, vary={"rate": range(SETTINGS)})
IDENTITY = stored.identity(SWEEP, None)


def opened(call, endings=(METRICS, TABLE)):
    """What ``call`` returns, and the names of the logs and tables that it opened, with their batches."""
    names: list[str] = []
    WATCHERS.append(names)
    try:
        found = call()
    finally:
        WATCHERS.remove(names)
    return found, sorted({"/".join(name.split("/")[-2:]) for name in names if name.endswith(endings)})


def write_batch(folder, runs, *, parquet=True, points=3):
    """A finished batch whose metrics say which run and point they are; half of the runs have no evaluation."""
    folder.mkdir(parents=True)
    write_json(folder / BATCH, {"identity": IDENTITY, "runs": runs, "width": len(runs)})
    places, number = [divmod(run, SEEDS) for run in runs], np.array(runs, float)
    with log.Log(folder / METRICS) as file:
        for p in range(points):
            metrics = {"entropy": 100 * number + p, "episode_return": np.where(p == 0, np.nan, -number - p / 7)}
            file.write(log.rows(places, 2 * p + 1, 10 * (2 * p + 1), metrics))
        file.write(log.rows(places, 4, 40, {mode: np.where(number % 2, np.nan, number) for mode in columns.MODES}))
        sealed = {"log": file.seal, "points": columns.find_points(file.path, file.size)}
        if parquet:
            tables = columns.tabulate(runs, SEEDS, log.rows_of(file.path))
            assert columns.describe_points(*tables) == sealed["points"]
            sealed["parquet"] = columns.write(folder / TABLE, runs, SEEDS, *tables)
    returns = {mode: number.tolist() for mode in columns.MODES}
    result = {"identity": IDENTITY, "runs": runs, "num_updates": 5, "returns": returns, "diverged_at": [0] * len(runs)}
    result |= {"digests": [f"digest {run}" for run in runs], "seconds": {"compile": 1.0, "train": 2.0}}
    write_json(folder / RESULT, result | sealed)


@pytest.fixture(params=["parquet", "rows"])
def directory(tmp_path, request):
    """An experiment of six settings in nine batches of two runs, with or without Parquet."""
    content = {"format": stored.FORMAT, "identity": IDENTITY, "algorithm": None}
    content |= {name: value for name, value in SWEEP.to_dict().items() if name != "run_dir"}
    (tmp_path / "sweep").mkdir()
    write_json(tmp_path / "sweep" / CONFIG, content)
    for first in range(0, SETTINGS * SEEDS, 2):
        folder = tmp_path / "sweep" / "batches" / f"{first:07d}"
        write_batch(folder, [first, first + 1], parquet=request.param == "parquet")
    return tmp_path / "sweep"


@pytest.fixture
def lazy(monkeypatch):
    """Any log counts as a large one."""
    monkeypatch.setattr(results, "AT_ONCE", 0)


def equal(one, two):
    """Two ``Results`` hold the same numbers."""
    for name in ("env_steps", "evaluation_steps", "diverged_at", "digests"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("metrics", "evaluations", "returns"):
        assert list(getattr(one, name)) == list(getattr(two, name))
        for key, values in getattr(one, name).items():
            np.testing.assert_array_equal(values, getattr(two, name)[key])
    assert (one.settings, one.seconds) == (two.settings, two.seconds)
    return True


NUMBER = st.one_of(st.none(), st.integers(-5, 5), st.floats(-1e300, 1e300, exclude_min=True, exclude_max=True))
NAMES = {False: ("entropy", "kl", "a metric"), True: columns.MODES}


@st.composite
def logs(draw):
    """Runs in any order, the number of seeds, and rows of a log in any order, of which some are missing."""
    seeds = draw(st.integers(1, 4))
    runs = draw(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True))
    rows = []
    for names in NAMES.values():
        for update in draw(st.sets(st.integers(0, 2**31 - 1), max_size=4)):
            for run in runs:
                row = {"update": update, "env_steps": 7 * update, "setting": run // seeds, "seed": run % seeds}
                if draw(st.integers(0, 5)):
                    rows.append(row | {name: draw(NUMBER) for name in names})
    return runs, seeds, draw(st.permutations(rows))


@given(logs(), st.sets(st.sampled_from([*NAMES[False], *NAMES[True]])))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parquet_has_the_numbers_of_the_rows(tmp_path, case, names):
    runs, seeds, rows = case
    wanted = columns.tabulate(runs, seeds, json.loads(json.dumps(rows)))
    sealed = columns.write(tmp_path / TABLE, runs, seeds, *wanted)
    points = json.loads(json.dumps(columns.describe_points(*wanted)))
    for chosen in (None, names):
        found = columns.read(tmp_path / TABLE, sealed, points, runs, chosen)
        for one, two in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(one.updates, two.updates)
            np.testing.assert_array_equal(one.env_steps, two.env_steps)
            assert [name for name in one.values if chosen is None or name in chosen] == list(two.values)
            for name, values in two.values.items():
                np.testing.assert_array_equal(values, one.values[name])


def test_other_programs_read_the_table(directory):
    pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'jaxpg[frames]'")
    if not (directory / "batches" / "0000004" / TABLE).exists():
        pytest.skip("there is no table")
    frame = pd.read_parquet(directory / "batches" / "0000004" / TABLE)
    kinds = {"setting": "int32", "seed": "int32", "update": "int64", "env_steps": "int64", "entropy": "float64"}
    assert frame.dtypes.astype(str).to_dict() == kinds | dict.fromkeys(("episode_return", *columns.MODES), "float64")
    assert frame[["setting", "seed", "update"]].to_numpy().tolist() == [[1, s, u] for s in (1, 2) for u in (1, 3, 4, 5)]
    rows = [json.loads(line) for line in (directory / "batches" / "0000004" / METRICS).read_text().splitlines()]
    for row in rows:
        (found,) = frame[(frame.seed == row["seed"]) & (frame["update"] == row["update"])].to_dict("records")
        for name, value in row.items():
            assert math.isnan(found[name]) if value is None else found[name] == value


@pytest.mark.parametrize("installed", [True, False])
def test_large_logs_say_what_small_ones_say(directory, monkeypatch, installed):
    small = results.read(directory)
    assert isinstance(small.metrics, dict)
    monkeypatch.setattr(results, "AT_ONCE", 0)
    monkeypatch.setattr(columns, "is_installed", lambda: installed)
    large = results.read(directory)
    assert equal(small, large)
    assert equal(small.select([4, 0]), results.read(directory).select([4, 0]))
    assert small.select([4, 0]).settings == [{"rate": 4}, {"rate": 0}]
    np.testing.assert_array_equal(small.select([4]).metrics["entropy"][0], small.metrics["entropy"][4])
    with pytest.raises(KeyError):
        large.metrics["nothing"]
    with pytest.raises(IndexError):
        small.select([SETTINGS])


@pytest.mark.usefixtures("lazy")
def test_only_what_is_asked_for_is_opened(directory):
    name = TABLE if (directory / "batches" / "0000000" / TABLE).exists() else METRICS
    found, files = opened(lambda: results.read(directory))
    assert files == [], "reading the results opens no log"
    _, files = opened(lambda: (repr(found), found.returns["greedy_return"].mean(), list(found.metrics), found.env_steps))
    assert files == []
    _, files = opened(lambda: found.select([2]))  # runs 6, 7 and 8
    assert files == [f"0000006/{name}", f"0000008/{name}"]
    _, files = opened(lambda: found.metrics["entropy"])
    assert len(files) == 9
    _, files = opened(lambda: found.metrics["entropy"])
    assert files == [], "it is kept"


@pytest.mark.usefixtures("lazy")
def test_the_report_of_many_settings_opens_the_logs_of_the_best_only(directory, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "MANY", 3)
    monkeypatch.setattr(page.many, "TOP", 2)
    _, files = opened(lambda: page.write([directory], tmp_path / "report.html"))
    assert [file.split("/")[0] for file in files] == ["0000012", "0000014", "0000016"], "settings 4 and 5 are runs 12 to 17"


def test_a_damaged_table_is_named_and_the_rows_are_read(directory):
    path = directory / "batches" / "0000004" / TABLE
    if not path.exists():
        pytest.skip("there is no table")
    whole, data = results.read(directory), path.read_bytes()
    for damage in (
        data[:-1],
        data + b" ",
        b"",
        bytes([data[0] ^ 1]) + data[1:],
        data[:99] + bytes([data[99] ^ 4]) + data[100:],
    ):
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match=rf"{path} was changed since .* finished; metrics\.jsonl is read in its place"):
            assert equal(whole, results.read(directory))
    path.unlink()
    with pytest.warns(UserWarning, match=rf"{path} cannot be read \(No such file or directory\); metrics\.jsonl is read"):
        assert equal(whole, results.read(directory))


def test_a_table_with_a_right_seal_and_wrong_content_is_damaged(tmp_path):
    rows = log.rows([(0, 0), (0, 1)], 1, 10, {"entropy": np.arange(2.0)})
    tables = columns.tabulate([0, 1], 2, rows)
    points = columns.describe_points(*tables)
    sealed = columns.write(tmp_path / TABLE, [0, 1], 2, *tables)
    with pytest.raises(Damaged, match="was not written by jaxpg"):
        columns.read(tmp_path / TABLE, sealed, points, [0, 1, 2])
    (tmp_path / TABLE).write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(Damaged, match="cannot be read"):
        columns.read(tmp_path / TABLE, columns.seal(b"PAR1 no table PAR1"), points, [0, 1])


@pytest.mark.usefixtures("lazy")
def test_a_large_log_that_was_changed_is_left_out_when_it_is_read(directory):
    before, folder = results.read(directory), directory / "batches" / "0000004"
    (folder / METRICS).write_bytes((folder / METRICS).read_bytes().replace(b"400", b"401"))
    (folder / TABLE).unlink(missing_ok=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = results.read(directory)
        assert not caught, "its result is as it was"
        np.testing.assert_array_equal(found.returns["greedy_return"], before.returns["greedy_return"])
        entropy = found.metrics["entropy"]
    assert f"the curves of a batch of runs are left out: {folder / METRICS} was changed" in str(caught[-1].message)
    assert np.isnan(entropy[1, 1:]).all(), "runs 4 and 5"
    assert not np.isnan(np.delete(entropy.reshape(-1, 3), [4, 5], axis=0)).any()


def test_an_experiment_from_before_there_were_tables_is_read(directory):
    path = directory / CONFIG
    content = read_json(path)
    path.unlink()
    write_json(path, {name: value for name, value in content.items() if name != "parquet"})
    assert results.read(directory).returns["greedy_return"].shape == (SETTINGS, SEEDS)


def test_rows_are_tabulated_one_update_at_a_time():
    """The rows of a large batch do not fit into memory together: the generator counts those that are held."""
    alive = weakref.WeakSet()

    class Row(dict):
        __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def rows():
        for update in range(1, 51):
            for seed in range(4):
                row = Row(update=update, env_steps=update, setting=0, seed=seed, entropy=float(update + seed))
                alive.add(row)
                assert len(alive) <= 2 * 4 + 1
                yield row

    found, _ = columns.tabulate(range(4), 4, rows())
    np.testing.assert_array_equal(found.values["entropy"], np.arange(4)[:, None] + np.arange(1.0, 51))


def test_no_changed_log_is_continued(directory):
    """Also where the table is intact: the log is what training continues."""
    folder = directory / "batches" / "0000004"
    assert results.read_result(folder, IDENTITY, SETTINGS * SEEDS)[1] == read_json(folder / RESULT)
    (folder / METRICS).write_bytes((folder / METRICS).read_bytes().replace(b"400", b"401"))
    with pytest.raises(Damaged, match="was changed since its runs were finished"):
        results.read_result(folder, IDENTITY, SETTINGS * SEEDS)


def test_one_table_for_all(directory, tmp_path, monkeypatch):
    pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'jaxpg[frames]'")
    wanted = results.read(directory)
    monkeypatch.setattr(results, "AT_ONCE", 0)
    monkeypatch.setattr(frames, "NUMBERS", 40)  # two settings at a time
    found = results.read(directory)
    for table in frames.TABLES:
        path = found.to_parquet(tmp_path / f"{table}.parquet", table)
        pd.testing.assert_frame_equal(pd.read_parquet(path), wanted.to_pandas(table), check_dtype=False)
        pd.testing.assert_frame_equal(found.to_pandas(table), wanted.to_pandas(table))
    assert sorted(path.name for path in tmp_path.glob("*.parquet*")) == [f"{table}.parquet" for table in sorted(frames.TABLES)]
    with pytest.raises(ValueError, match="must be one of"):
        found.to_parquet(tmp_path / "x", "all")


def test_a_run_is_found_without_reading_the_others(directory):
    origin = loading.Origin(remote.OnDisk(directory), SWEEP, IDENTITY, 3, None, None)
    for run in range(SETTINGS * SEEDS):
        [(folder, row)], files = opened(lambda: loading.locate(origin, [run]), BATCH)  # noqa: B023
        assert (int(folder.name), row) == (run // 2 * 2, (run % 2, 2))
        assert files == [f"{folder.name}/{BATCH}"]
    with pytest.raises(ValueError, match="has no checkpoint of seed 2 of setting 3 yet"):
        loading.locate(origin, [SETTINGS * SEEDS + 2])


def test_a_run_is_found_whatever_the_batches_hold(directory):
    for first, runs in ((4, [4, 9, 2]), (8, [8, 5, 3])):
        path = directory / "batches" / f"{first:07d}" / BATCH
        (path.parent / RESULT).unlink()
        write_json(path, {"identity": IDENTITY, "runs": runs, "width": 3})
        origin = loading.Origin(remote.OnDisk(directory), SWEEP, IDENTITY, 0, None, None)
        assert [(int(folder.name), row) for folder, row in loading.locate(origin, runs)] == [(first, (i, 3)) for i in range(3)]


def test_training_writes_the_table_it_was_asked_for(tmp_path):
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), num_envs=2, num_steps=8, hidden=(4,))
    options = {"seeds": 2, "total_steps": 64, "eval_episodes": 1, "evaluate_every": 3}
    plain, both = (jaxpg.run(algo, directory=tmp_path / name, parquet=name == "b", **options) for name in "ab")
    assert not (tmp_path / "a" / "batches" / "0000000" / TABLE).exists()
    assert (tmp_path / "b" / "batches" / "0000000" / TABLE).exists()
    one, two = (read_json(tmp_path / name / CONFIG)["identity"] for name in "ab")
    assert one == two, "it does not change what is trained"
    _, files = opened(lambda: results.read(tmp_path / "b"))
    assert files == [f"0000000/{TABLE}"]
    for kind in ("metrics", "evaluations"):
        for name, values in getattr(plain, kind).items():
            np.testing.assert_array_equal(values, getattr(both, kind)[name])
    points = [read_json(tmp_path / name / "batches" / "0000000" / RESULT)["points"] for name in "ab"]
    assert points[0] == points[1]
    assert points[0]["evaluations"]["updates"] == [3, 4]


def test_without_pyarrow_it_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(columns.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"^parquet needs pyarrow: pip install 'jaxpg\[parquet\]'$"):
        experiment.prepare(Config("ppo", parquet=True, run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_metric_with_the_name_of_an_evaluation_is_refused(tmp_path):
    rows = [
        *log.rows([(0, 0)], 1, 10, {"sampled_return": np.ones(1)}),
        *log.rows([(0, 0)], 1, 10, {mode: np.ones(1) for mode in columns.MODES}),
    ]
    with pytest.raises(ValueError, match="sampled_return is a metric and an evaluation; give the metric another name"):
        columns.write(tmp_path / TABLE, [0], 1, *columns.tabulate([0], 1, rows))
