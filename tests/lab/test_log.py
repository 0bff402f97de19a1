"""The log of a batch of runs: rows as they come, found again by what they are of, and cut back to what was saved."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg.lab.store.files import Damaged
from jaxpg.lab.store.log import Log, parse, plain, restore, rows, rows_of, seal_of
from jaxpg.lab.store.results import tabulate

RUNS = [(0, 0), (0, 1), (1, 0)]  # setting and seed


def metrics(*returns):
    return {"episode_return": np.array(returns, np.float32), "episodes": np.arange(len(returns))}


def point(update, *returns):
    """The rows of a log point of the three runs."""
    return rows(RUNS, update, 10 * update, metrics(*(returns or (0.5 * update, np.nan, -1.0))))


POINTS = [point(update) for update in (2, 4, 5)]
ALL = [row for each in POINTS for row in each]
LINES = [json.dumps(row).encode() + b"\n" for row in ALL]


def sealed(data):
    """The seal of ``data``, computed here."""
    return {"bytes": len(data), "rows": data.count(b"\n"), "sha256": hashlib.sha256(data).hexdigest()}


def write(path, *points):
    """A log that was begun, or is continued, with these points; its seal."""
    with Log(path) as log:
        for each in points:
            log.write(each)
        log.sync()
        return log.seal


def test_rows_are_json_one_for_each_run_with_its_setting_and_seed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, point(5, np.nan, 0.1, 7.0), point(10, 2.0, np.inf, -np.inf))
    found = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]  # NaN is not JSON
    assert found[0] == {"update": 5, "env_steps": 50, "setting": 0, "seed": 0, "episode_return": None, "episodes": 0}
    assert [row["episode_return"] for row in found] == [None, 0.1, 7.0, 2.0, None, None]
    where = [(row["update"], row["setting"], row["seed"], row["env_steps"]) for row in found]
    assert where == [(5, 0, 0, 50), (5, 0, 1, 50), (5, 1, 0, 50), (10, 0, 0, 100), (10, 0, 1, 100), (10, 1, 0, 100)]
    assert rows_of(path) == found


def test_what_is_written_can_be_read_at_any_moment(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert rows_of(path) == [], "nothing is there yet"
    with Log(path) as log:
        assert rows_of(path) == []
        log.write(POINTS[0])
        assert rows_of(path) == POINTS[0]
        with open(path, "ab") as other:
            other.write(LINES[3] + LINES[4][:-1])
        assert rows_of(path) == [*POINTS[0], POINTS[1][0]], "the last line is unfinished"
        assert rows_of(path, log.seal["bytes"]) == POINTS[0]


@given(st.integers(0, sum(map(len, LINES))))
def test_a_file_that_was_torn_anywhere_has_the_rows_before(tmp_path_factory, size):
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    path.write_bytes(b"".join(LINES)[:size])
    ends = np.cumsum([len(line) for line in LINES])
    assert rows_of(path) == [row for row, end in zip(ALL, ends, strict=True) if end <= size]


def test_a_log_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    with pytest.raises(Damaged) as caught:
        rows_of(tmp_path)
    assert str(caught.value) == f"{tmp_path} cannot be read (Is a directory)"


@given(st.permutations(range(9)), st.sets(st.integers(0, 8)))
def test_a_row_is_placed_by_what_it_is_of_in_whatever_order_rows_come(order, missing):
    """Rows that are missing leave NaN, and move no other; one that is there twice counts once."""
    part = tabulate([0, 1, 2], 2, [ALL[i] for i in (*order, *order[:4]) if i not in missing])
    present = [[i for i in range(3 * p, 3 * p + 3) if i not in missing] for p in range(3)]
    columns = [p for p in range(3) if present[p]]
    assert part.env_steps.tolist() == [[20, 40, 50][p] for p in columns]
    wanted = np.full((3, len(columns)), np.nan)
    for column, p in enumerate(columns):
        for i in present[p]:
            wanted[i % 3, column] = np.nan if ALL[i]["episode_return"] is None else ALL[i]["episode_return"]
    if columns:
        np.testing.assert_array_equal(part.metrics["episode_return"], wanted)


def test_rows_of_runs_that_are_not_of_the_batch_are_left_out():
    foreign = [POINTS[0][0] | change for change in ({"setting": 7}, {"seed": 2}, {"seed": 10**12}, {"setting": 10**18})]
    part = tabulate([0, 1, 2], 2, [*foreign, *POINTS[1]])
    assert part.env_steps.tolist() == [40]
    assert part.metrics["episodes"].tolist() == [[0], [1], [2]]


def test_evaluations_are_columns_of_their_own():
    scores = rows(RUNS, 4, 40, {"greedy_return": np.array([1.0, 2.0, np.nan]), "sampled_return": np.array([3.0, 4.0, 5.0])})
    part = tabulate([0, 1, 2], 2, [*POINTS[0], *POINTS[1], *scores, *POINTS[2]])
    assert (part.env_steps.tolist(), part.evaluation_steps.tolist()) == ([20, 40, 50], [40])
    np.testing.assert_array_equal(part.evaluations["greedy_return"], [[1], [2], [np.nan]])
    assert part.metrics.keys() == {"episode_return", "episodes"}


GOOD = {"setting": 0, "seed": 0, "update": 1, "env_steps": 10, "entropy": 0.5}
NO_ROWS = {
    "nothing": b"",
    "zeros, as after a power cut": bytes(200),
    "no text": b"\xff\xfe",
    "no object": b"[5, 0]",
    "a row twice": json.dumps(GOOD).encode() * 2,
    "one that is deep": b"[" * 10**5,
    "deep in a metric": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "many digits": b'{"setting": ' + b"9" * 5000 + b"}",
    **{f"no {name}": json.dumps({k: v for k, v in GOOD.items() if k != name}).encode() for name in list(GOOD)[:4]},
    **{
        f"update {value!r:.12}": json.dumps(GOOD | {"update": value}).encode()
        for value in (None, "1", 1.0, True, -1, 2**63, 10**400, [1])
    },
    **{
        f"entropy {value!r:.12}": json.dumps(GOOD | {"entropy": value}).encode()
        for value in ("0.5", True, [0.5], {"a": 1}, float("nan"), float("inf"), 1e301, 10**400)
    },
}


@pytest.mark.parametrize("name", NO_ROWS)
def test_a_line_that_is_no_row_is_none(name):
    assert parse(NO_ROWS[name]) is None
    assert parse(json.dumps(GOOD).encode()) == GOOD


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(list(GOOD)), json_values, min_size=1, max_size=3))
def test_whatever_replaces_a_value_a_row_can_be_placed_or_is_none(fields):
    row = parse(json.dumps(GOOD | fields).encode())
    part = tabulate([0], 1, [row] if row else [])
    assert part.env_steps.size == (row is not None and row["setting"] == row["seed"] == 0)


@given(st.lists(st.integers(0, 3), max_size=5))
def test_the_seal_is_the_sha256_of_what_is_in_the_file_however_it_came_there(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    assert write(path) == sealed(b"")
    for piece in pieces:  # by one writer after another
        seal = write(path, *POINTS[:piece])
        data = path.read_bytes()
        assert seal == sealed(data) == seal_of(path, len(data))
    data = path.read_bytes()
    for size in (0, 1, len(data) // 2):
        size = min(size, len(data))
        assert seal_of(path, size) == sealed(data[:size])


def test_what_is_no_size_has_no_seal(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, POINTS[0])
    for size in (path.stat().st_size + 1, -1, None, "5", 1.0, True, [1]):
        assert seal_of(path, size) is None
    assert seal_of(tmp_path / "nowhere", 0) is None
    assert seal_of(tmp_path, 0) is None


def test_what_came_after_the_checkpoint_is_cut_and_what_is_written_again_gives_the_same_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    seal = write(path, *POINTS[:2])
    write(path, POINTS[2])
    complete = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"update": 6, "se')
    assert restore(path, seal, 4) == -1
    assert path.read_bytes() == b"".join(LINES[:6])
    assert write(path, POINTS[2]) == sealed(complete)
    assert path.read_bytes() == complete
    assert restore(path, None, 0) == -1
    assert path.read_bytes() == b"", "without a checkpoint everything comes again"


def swap(lines, i, new):
    return [*lines[:i], *new, *lines[i + 1 :]]


DAMAGES = {  # of the rows of updates 2 and 4, which are saved: what is in the file, and how many rows are lost
    "the first row": (swap(LINES, 0, [b"?" * 20 + b"\n"]), 1),
    "the first letter": (swap(LINES, 0, [b"?" + LINES[0][1:]]), 1),
    "a row within": (swap(LINES, 3, [b"\xff\xfe\n"]), 1),
    "two rows to one": (swap(swap(LINES, 4, []), 3, [LINES[3][:-1] + LINES[4]]), 2),
    "a row deleted": (swap(LINES, 4, []), 1),
    "an empty line": (swap(LINES, 4, [b"\n", LINES[4]]), 0),
    "rows exchanged": ([LINES[1], LINES[0], *LINES[2:]], 0),
    "the end torn": ([*LINES[:4], LINES[4][:7]], 2),
    "zeros at the end": ([*LINES[:4], bytes(200)], 2),
    "emptied": ([], 6),
    "a digit changed": (swap(LINES, 1, [LINES[1].replace(b'"env_steps": 20', b'"env_steps": 21')]), 0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_log_that_was_damaged_keeps_the_rows_that_can_be_read_and_says_how_many_are_lost(tmp_path, name):
    path = tmp_path / "metrics.jsonl"
    lines, lost = DAMAGES[name]
    path.write_bytes(b"".join(lines))
    assert restore(path, sealed(b"".join(LINES[:6])), 4) == lost
    kept = [json.loads(line) for line in path.read_bytes().splitlines()]
    good = [row for row in map(parse, lines) if row is not None and row["update"] <= 4]
    assert kept == good
    assert len(kept) == 6 - lost
    for row in kept:
        assert row in ALL or name == "a digit changed"


def test_a_log_that_is_gone_is_begun_again_and_all_rows_count_as_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    seal = write(path, *POINTS)
    path.unlink()
    assert restore(path, seal, 5) == 9
    assert path.read_bytes() == b""


@pytest.mark.parametrize("seal", [{}, {"bytes": "x"}, {"bytes": -1}, {"bytes": 10**30}, {"sha256": "0" * 64}])
def test_a_seal_that_is_none_cuts_nothing(tmp_path, seal):
    path = tmp_path / "metrics.jsonl"
    write(path, *POINTS)
    assert restore(path, seal, 5) == 0
    assert rows_of(path) == ALL


@pytest.mark.parametrize("what", ["file", "directory"])
def test_rows_that_nobody_could_read_are_an_error(tmp_path, what):
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    with Log(path) as log:
        log.write(POINTS[0])
        if what == "file":
            path.unlink()
        else:
            shutil.rmtree(path.parent)
        with pytest.raises(FileNotFoundError, match="it was removed during training") as caught:
            log.write(POINTS[1])
    assert caught.value.filename == str(path)


def test_rows_that_the_disk_refuses_are_an_error(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("a disk that is full is at hand on Linux only")
    with Log(tmp_path / "metrics.jsonl") as log:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, log.file.fileno())
        os.close(full)
        with pytest.raises(OSError, match="No space left on device"):
            log.write(POINTS[0])
        assert log.seal == sealed(b""), "what is not in the file is not accounted for"


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        Log(tmp_path / "metrics.jsonl")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("x", [0.1, 1e-8, 123456.79, 1 / 3, -0.0])
def test_numbers_are_short_and_lose_nothing(x):
    [number] = plain(np.array([x], np.float32))
    assert np.float32(number) == np.float32(x)
    assert len(repr(number)) <= 13
