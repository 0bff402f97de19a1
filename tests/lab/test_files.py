"""The files of a run directory: one checked way in, JSON with a seal, files that are complete or not there, and a lock."""

import contextlib
import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg.lab.store import files
from jaxpg.lab.store.files import (
    SEAL,
    Damaged,
    check_directory,
    check_writable,
    load_json,
    lock,
    read_json,
    writable,
    write_atomically,
    write_json,
)

CONTENT = {"seeds": 3, "name": "läuft\n\x1b[31m", "mean": [0.1, -0.0, 1e-30, None, True], "deep": {"a": [{"b": {}}, []]}}
TREE = [  # of a run directory
    "config.json",
    "summary.json",
    "batches/0000000/batch.json",
    "batches/0000000/metrics.jsonl",
    "batches/0000000/result.json",
    "batches/0000000/checkpoints/4/SHA256SUMS",
    "batches/0000000/checkpoints/4/params/d/0a1b",
    "damaged/0000002-1/batch.json",
]


@contextlib.contextmanager
def in_seconds(seconds=20):
    """Fail, and not hang, if what is inside waits for something."""

    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"still waiting after {seconds} s"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(call, error=ValueError):
    """The line with which ``call`` refuses."""
    with pytest.raises(error) as caught, in_seconds():
        call()
    line = str(caught.value)
    assert line.isprintable(), f"no single line: {line!r}"
    return line


def says(path):
    """What the file says, or the line with which it is refused."""
    try:
        return read_json(path)
    except Damaged as error:
        return str(error)


@pytest.fixture
def directory(tmp_path):
    """Something that looks like a run directory."""
    for name in TREE:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "run"


def test_plain_files_and_folders_pass(directory, tmp_path):
    assert check_directory(str(directory)) == check_directory(directory, to_write=True) == directory
    assert check_directory(tmp_path / "nowhere") == tmp_path / "nowhere", "there is nothing in it to refuse"
    (tmp_path / "latest").symlink_to(directory)
    assert check_directory(tmp_path / "latest", to_write=True) == tmp_path / "latest", "the user's own name for it"


def replace(kind, path, outside):
    """Put something of a ``kind`` in the place of ``path``."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    else:
        path.symlink_to(outside / {"link to a file": "file", "link to a folder": "folder", "dangling link": "nothing"}[kind])


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "dangling link", "pipe", "socket"])
def test_anything_else_in_the_place_of_any_file_or_folder_is_refused_and_named(directory, tmp_path, kind):
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("precious")
    for path in sorted(directory.rglob("*")):
        path.rename(tmp_path / "kept")
        replace(kind, path, outside)
        for to_write in (False, True):
            line = refused(lambda: check_directory(directory, to_write=to_write))  # noqa: B023
            assert line.startswith(f"{path} is {'a link' if 'link' in kind else 'not a regular file'};"), path
            assert line.endswith("remove it")
        path.unlink()
        (tmp_path / "kept").rename(path)
    assert check_directory(directory) == directory
    assert sorted(p.name for p in outside.rglob("*")) == ["file", "folder"]
    assert (outside / "file").read_text() == "precious"


@pytest.mark.parametrize("name", TREE)
def test_a_file_with_a_second_name_may_be_read_and_not_written(directory, tmp_path, name):
    os.link(directory / name, tmp_path / "second")
    assert check_directory(directory) == directory
    line = refused(lambda: check_directory(directory, to_write=True))
    assert line.startswith(f"{directory / name} has a second name elsewhere (a hard link)")


@contextlib.contextmanager
def unprivileged(path):
    """Root may read everything, so it becomes somebody else for a moment, who may come as far as ``path``."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    if os.getuid():
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444], ids=oct)
@pytest.mark.parametrize("name", [".", "batches", "batches/0000000/checkpoints/4/params"])
def test_a_folder_that_may_not_be_read_is_refused_and_named(directory, tmp_path, name, mode):
    directory.chmod(0o755)
    (directory / name).chmod(mode)
    try:
        with unprivileged(tmp_path):
            line = refused(lambda: check_directory(directory))
    finally:
        (directory / name).chmod(0o755)
    assert line.startswith(str(directory / name))
    assert line.endswith("cannot be read: Permission denied")


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\u202eb", os.fsdecode(b"a\xffb")], ids=ascii)
def test_names_with_strange_letters_are_one_line(directory, name):
    (directory / name).mkdir()
    assert check_directory(directory) == directory
    (directory / name / "link").symlink_to("/dev/null")
    line = refused(lambda: check_directory(directory))
    assert line.startswith(f"{directory}/a")
    assert "b/link is a link" in line


def test_a_name_that_is_too_long_is_refused(tmp_path):
    for call in (check_directory, check_writable):
        assert "File name too long" in refused(lambda: call(tmp_path / ("x" * 300)))  # noqa: B023


def test_what_a_running_writer_removes_meanwhile_is_no_obstacle(directory, monkeypatch):
    """A temporary file that is gone when it is looked at, and a temporary folder."""
    (directory / ".result.json.part").touch()
    (directory / "5.orbax-checkpoint-tmp").mkdir()
    scan = os.scandir

    def scandir(path):
        if "tmp" in os.path.basename(path):
            os.rmdir(path)
        with scan(path) as entries:
            found = list(entries)
        for entry in found:
            if entry.name.endswith(".part"):
                os.unlink(entry.path)
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", scandir)
    assert check_directory(directory, to_write=True) == directory
    assert not (directory / ".result.json.part").exists()
    assert not (directory / "5.orbax-checkpoint-tmp").exists()


def test_the_seal_is_the_sha256_of_the_content(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, CONTENT | {"numbers": (math.nan, math.inf, 1.5)})
    there = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN and Infinity are not JSON
    seal = there.pop(SEAL)
    assert there == CONTENT | {"numbers": [None, None, 1.5]}
    assert seal == hashlib.sha256(json.dumps(there, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert read_json(path) == there
    write_json(path, dict(reversed(there.items())))
    assert read_json(path) == there, "the order of the fields does not matter"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A file, and the bytes that were written to it."""
    path = tmp_path_factory.mktemp("sealed") / "x.json"
    write_json(path, CONTENT)
    return path, path.read_bytes()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TREES = st.recursive(
    LEAVES, lambda part: st.lists(part) | st.lists(part).map(tuple) | st.dictionaries(st.text(), part), max_leaves=20
)


@given(st.dictionaries(st.text(), TREES))
def test_any_content_is_read_as_json_says_it_with_null_where_a_number_is_not_finite(tmp_path_factory, content):
    path, before = tmp_path_factory.mktemp("any") / "content.json", repr(content)
    write_json(path, {name: part for name, part in content.items() if name != SEAL})
    expected = json.loads(json.dumps(content), parse_constant=lambda _: None)  # NaN, Infinity, -Infinity
    expected.pop(SEAL, None)
    assert repr(read_json(path)) == repr(expected)
    assert repr(content) == before  # it was shared, not changed


def test_only_what_json_cannot_hold_is_copied():
    rows = [{"mean": 1.0, "hidden": [64, 64]}, {"mean": float("nan"), "hidden": [64, 64]}]
    plain = files.storable({"rows": rows, "read_only": types.MappingProxyType({"seed": 0})})
    assert json.loads(json.dumps(plain)) == {"rows": [rows[0], {"mean": None, "hidden": [64, 64]}], "read_only": {"seed": 0}}
    assert plain["rows"][0] is rows[0]
    assert plain["rows"][1]["hidden"] is rows[1]["hidden"]


def test_no_flipped_bit_changes_a_value(sealed):
    """Every bit: the file is refused, but for the letters in 1e-30, \\u00e4 and \\u001b, which may be capitals."""
    path, data = sealed
    path.write_bytes(data)
    passed = []
    with open(path, "r+b") as file:
        for bit in range(8 * len(data)):
            at = bit // 8
            os.pwrite(file.fileno(), bytes([data[at] ^ 1 << bit % 8]), at)
            found = says(path)
            if isinstance(found, dict):
                assert found == CONTENT
                passed.append(chr(data[at]))
            else:
                assert found.isprintable()
            os.pwrite(file.fileno(), data[at : at + 1], at)
    assert sorted(passed) == ["b", "e", "e"]


def mutate(data, start, size, new):
    return data[: start % len(data)] + new + data[start % len(data) + size :]


@given(st.integers(0), st.integers(0, 300), st.binary(max_size=8) | st.sampled_from([b"[", b"{}", b'"', b"null", b"9" * 5000]))
def test_whatever_is_done_to_a_file_it_says_what_it_said_or_is_refused_in_one_line(sealed, start, size, new):
    path, data = sealed
    path.write_bytes(mutate(data, start, size, new))
    found = says(path)
    assert found == CONTENT or (isinstance(found, str) and found.startswith(str(path)) and found.isprintable())


NO_JSON = {
    "nothing": b"",
    "words": b"precious",
    "no text": b"\xff\xfe\x00\xd8",
    "zeros": bytes(100),
    "half": json.dumps(CONTENT).encode()[:50],
    "deep lists": b"[" * 10**5,
    "deep objects": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "a number of many digits": b'{"a": ' + b"9" * 5000 + b"}",
}
NO_OBJECT = {"a list": b"[{}]", "a number": b"3", "null": b"null", "a text": b'"null"'}


@pytest.mark.parametrize("name", NO_JSON | NO_OBJECT)
def test_what_is_no_json_object_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / "x.json"
    path.write_bytes((NO_JSON | NO_OBJECT)[name])
    why = "cannot be read (" if name in NO_JSON else "was not written by jaxpg"
    for read in (read_json, load_json):
        assert refused(lambda: read(path), Damaged).startswith(f"{path} {why}")  # noqa: B023


def test_objects_of_any_depth_are_refused_in_one_line(tmp_path):
    """Also where it is just possible to read them, and no more to write them."""
    for depth in range(900, 1010):
        for inner in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            (tmp_path / "x.json").write_text(f'{{"{SEAL}": 1, "x": {inner}}}')
            refused(lambda: read_json(tmp_path / "x.json"), Damaged)


def test_an_object_without_a_seal_or_with_another_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert refused(lambda: read_json(path), Damaged) == f"{path} has no checksum; it was not written by this version of jaxpg"
    assert load_json(path) == {}
    for seal in ("0" * 64, None, 3, [], {}):
        path.write_text(json.dumps({SEAL: seal}))
        changed = f"{path} was changed since it was written; restore it, or start again in another directory"
        assert refused(lambda: read_json(path), Damaged) == changed


def test_a_file_that_is_missing_or_no_file_or_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "x.json"
    assert refused(lambda: read_json(path), Damaged) == f"{path} cannot be read (No such file or directory)"
    path.mkdir()
    assert refused(lambda: read_json(path), Damaged) == f"{path} cannot be read (Is a directory)"
    path.rmdir()
    path.touch()
    os.truncate(path, 2**42)  # of nothing: it takes no place on the disk
    assert refused(lambda: read_json(path), Damaged) == f"{path} cannot be read (it is too large)"


def test_a_file_is_complete_or_what_it_was(tmp_path, monkeypatch):
    """Whichever call is the last that is made before the process ends."""
    path = tmp_path / "x.json"
    write_json(path, {"version": 1})
    with pytest.raises(TypeError):
        write_json(path, {"version": object()})
    assert read_json(path) == {"version": 1}

    def killed(*_):
        raise KeyboardInterrupt

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, call, killed)
            with pytest.raises(KeyboardInterrupt):
                write_json(path, {"version": 2})
        assert read_json(path) == {"version": 1}
    (tmp_path / ".x.json.part").write_bytes(b'{"vers')
    write_json(path, {"version": 3})
    assert read_json(path) == {"version": 3}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_call_returns(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.replace

    def spy_fsync(descriptor):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def spy_replace(old, new):
        calls.append("replace")
        rename(old, new)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("which file a descriptor is of can be asked on Linux only")
    monkeypatch.setattr(files.os, "fsync", spy_fsync)
    monkeypatch.setattr(files.os, "replace", spy_replace)
    write_atomically(tmp_path / "x", b"data")
    assert calls == [".x.part", "replace", tmp_path.name]


def test_what_the_disk_refuses_is_one_line_about_the_directory(tmp_path):
    with writable(tmp_path / "a\nb"):
        pass
    (tmp_path / "file").touch()

    def write():
        with writable(tmp_path / "a\nb"):
            (tmp_path / "file" / "x").mkdir()

    line = refused(write)
    assert line == f"run_dir = {tmp_path}/a\\nb cannot be written: Not a directory; give another --run-dir"


def test_a_path_where_no_directory_can_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep" / "run"):
        line = refused(lambda: check_writable(path))  # noqa: B023
        assert line == f"run_dir = {path} cannot be made: {tmp_path / 'file'} is a file; give another --run-dir"
    check_writable(tmp_path / "new" / "run")
    assert sorted(os.listdir(tmp_path)) == ["file"], "to look changes nothing"


def test_a_directory_that_may_not_be_written_is_refused_and_left_as_it_is(directory, tmp_path):
    directory.chmod(0o555)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with unprivileged(tmp_path):
        for path in (directory, directory / "new" / "run"):
            line = refused(lambda: check_writable(path))  # noqa: B023
            assert line == f"run_dir = {path} cannot be written: no permission in {directory}; give another --run-dir"
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_a_directory_has_one_writer_at_a_time(tmp_path):
    busy = f"run_dir = {tmp_path} is being written by another process; wait for it, or stop it"

    def another():
        with lock(tmp_path / ".lock"):
            pytest.fail("two writers")

    with lock(tmp_path / ".lock"), lock(tmp_path / ".lock of another part"):
        assert refused(another) == busy
    with lock(tmp_path / ".lock"):
        assert refused(another) == busy


def test_a_shared_lock_keeps_out_only_those_who_want_to_be_alone(tmp_path):
    path = tmp_path / ".lock"
    busy = pytest.raises(ValueError, match="is being written by another process")
    with lock(path, shared=True), lock(path, shared=True), busy, lock(path):
        pytest.fail("two writers")
    with lock(path), busy, lock(path, shared=True):
        pytest.fail("two writers")


def test_a_lock_may_be_waited_for(tmp_path):
    held = contextlib.ExitStack()
    held.enter_context(lock(tmp_path / ".lock"))
    release = threading.Timer(0.2, held.close)
    release.start()
    begin = time.monotonic()
    with lock(tmp_path / ".lock", patience=30.0):
        assert time.monotonic() - begin > 0.15
    release.join()


def test_the_lock_ends_with_the_process_however_it_ends(tmp_path):
    code = "import sys, time; from jaxpg.lab.store.files import lock, Path\n"
    code += "with lock(Path(sys.argv[1], '.lock')): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ValueError, match="is being written by another process"), lock(tmp_path / ".lock"):
            pass
        other.kill()
        other.wait()
        with lock(tmp_path / ".lock"):
            pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), lock(tmp_path / ".lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()
