"""Three hundred run directories that were damaged, linked elsewhere or made by somebody else, through every command.

No raw exception, no hang, nothing written outside, and no number changed in silence.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import warnings
from pathlib import Path

import pytest

from jaxpg.lab.cli import commands
from jaxpg.lab.engine import devices
from jaxpg.lab.store import files

NUMBER = int(os.environ.get("JAXPG_DIRECTORIES", "300"))
TRAIN = ["train", "a2c", "--seeds", "2", "--num-envs", "2", "--num-steps", "4", "--hidden", "4", "--eval-episodes", "2"]
TRAIN += ["--log-every", "5", "--total-steps", "160"]
SWEEP = ["sweep", *TRAIN[1:], "--vary", "gamma=0.9,0.99"]
HOSTILE = ["\x1b[31mred\x1b[0m", "[bold]x[/bold]", "a\nb", 10**30, -1, 0.5, None, [], {}, True, "NaN", [[1]], "../../outside"]


@pytest.fixture(autouse=True)
def command_line(monkeypatch):
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)
    monkeypatch.setattr(devices, "keep_programs", lambda: None)
    monkeypatch.setattr(commands, "defer", lambda *_: None)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A finished experiment, an interrupted one, and a finished sweep."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "use_all_cores", lambda: None)
        patch.setattr(devices, "keep_programs", lambda: None)
        patch.setattr(commands, "defer", lambda *_: None)
        assert call([*TRAIN, "--run-dir", folder / "finished"])[0] == 0
        assert call([*SWEEP, "--run-dir", folder / "sweep"])[0] == 0
        shutil.copytree(folder / "finished", folder / "interrupted")
        for path in ("summary.json", "timing.json", "curves.png", "batches/0000000/result.json"):
            (folder / "interrupted" / path).unlink()
    return folder


class TookTooLong(BaseException):
    """A command that hangs."""


def call(arguments, seconds=120):
    """Exit code and everything that was printed, in bounded time."""

    def give_up(*_):
        raise TookTooLong(arguments)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), warnings.catch_warnings():
            warnings.simplefilter("default")
            code = commands.main([*map(str, arguments)])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, text.getvalue()


def tree(directory):
    """Every entry below, with its content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        is_plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(directory))] = path.read_bytes() if is_plain else os.lstat(path).st_mode
    return found


def entries(directory):
    """What can be damaged: files and folders, locks left out."""
    return [path for path in sorted(directory.rglob("*")) if not path.name.startswith(".lock")]


def damage(directory, outside, chance):
    """Do one bad thing to ``directory``; in words."""
    path = chance.choice(entries(directory))
    plain = [one for one in entries(directory) if one.is_file()]
    kind = chance.choice(DAMAGES)
    return f"{kind.__name__} {kind(path, chance.choice(plain), outside, chance).relative_to(directory)}"


def remove(path, file):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path


def replace_by_link(path, file, outside, chance):
    target = outside / ("folder" if path.is_dir() else "victim")
    remove(path, file)
    path.symlink_to(chance.choice([target, outside / "missing"]))
    return path


def replace_by_pipe(path, file, outside, chance):
    remove(path, file)
    os.mkfifo(path)
    return path


def replace_by_socket(path, file, outside, chance):
    remove(path, file)
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name has a hundred letters at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)
    return path


def replace_by_hard_link(path, file, outside, chance):
    file.unlink()
    os.link(outside / "victim", file)
    return file


def replace_file_by_folder(path, file, outside, chance):
    file.unlink()
    file.mkdir()
    return file


def replace_folder_by_file(path, file, outside, chance):
    folder = file.parent if file.parent.name != path.anchor else file
    if (folder / "config.json").exists():
        return delete(path, file, outside, chance)
    shutil.rmtree(folder)
    folder.write_text("file")
    return folder


def delete(path, file, outside, chance):
    return remove(path, file)


def flip(path, file, outside, chance):
    data = bytearray(file.read_bytes() or b"x")
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(bytes(data))
    return file


def truncate(path, file, outside, chance):
    data = file.read_bytes()
    file.write_bytes(data[: chance.randrange(len(data) + 1)])
    return file


def append(path, file, outside, chance):
    file.write_bytes(file.read_bytes() + chance.choice([b"{}\n", b"\0" * 100, b'{"update": 1}\n', b"[" * 100_000]))
    return file


def edit_and_seal(path, file, outside, chance):
    """Somebody who knows how seals are made changes a value of a JSON file."""
    names = [one for one in file.parents[0].parent.rglob("*.json") if files.SEAL in one.read_text(errors="replace")]
    target = chance.choice(names) if names else file
    try:
        content = json.loads(target.read_text())
    except ValueError:
        return flip(path, file, outside, chance)
    if not isinstance(content, dict) or files.SEAL not in content:
        return flip(path, file, outside, chance)
    content.pop(files.SEAL)
    name = chance.choice(list(content))
    content[name] = chance.choice(HOSTILE)
    files.write_json(target, content)
    return target


def edit_row(path, file, outside, chance):
    """Somebody changes a digit of the log, or a type."""
    logs = [one for one in entries(path if path.is_dir() else path.parent) if one.name == "metrics.jsonl"]
    if not logs:
        return flip(path, file, outside, chance)
    target = chance.choice(logs)
    lines = target.read_text().splitlines()
    row = json.loads(lines[0])
    row[chance.choice(list(row))] = chance.choice(HOSTILE)
    target.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    return target


DAMAGES = [
    replace_by_link,
    replace_by_pipe,
    replace_by_socket,
    replace_by_hard_link,
    replace_file_by_folder,
    replace_folder_by_file,
    delete,
    flip,
    flip,
    truncate,
    append,
    edit_and_seal,
    edit_and_seal,
    edit_row,
]


def through(directory, name):
    """Every command that reads a directory."""
    yield ["report", directory, "--out", directory.parent / "page.html"]
    yield ["evaluate", directory, "--episodes", "1", "--greedy", "--json"]
    yield ["render", directory, "--out", directory.parent / "policy.gif", "--steps", "2"]
    yield ["resume", directory]
    yield [*(SWEEP if name == "sweep" else TRAIN), "--run-dir", directory]
    yield ["report", directory, "--out", directory.parent / "page.html"]


@pytest.mark.parametrize("part", range(6))
def test_damaged_directories(part, sound, tmp_path):
    silent = []
    for number in range(part, NUMBER, 6):
        chance = random.Random(number)
        name = chance.choice(["finished", "interrupted", "sweep"])
        place = tmp_path / str(number)
        directory, outside = place / "run", place / "outside"
        shutil.copytree(sound / name, directory)
        (outside / "folder").mkdir(parents=True)
        (outside / "victim").write_text("untouched\n")
        (outside / "folder" / "config.json").write_text("{}")
        before = tree(outside)
        what = f"{number}: {name}: {damage(directory, outside, chance)}"
        reference = (sound / ("sweep" if name == "sweep" else "finished") / "summary.json").read_bytes()
        warned = False
        for arguments in through(directory, name):
            try:
                code, text = call(arguments)
            except SystemExit as stop:
                code, text = stop.code, ""
            except Exception as error:
                raise AssertionError(f"{what}: {arguments[0]} raised {type(error).__name__}: {error}") from error
            assert code in (0, 1, 2), what
            assert "Traceback" not in text, f"{what}: {arguments[0]}: {text}"
            assert "\x1b" not in text, what
            assert tree(outside) == before, f"{what}: {arguments[0]} wrote outside"
            if code:
                lines = [line for line in text.splitlines() if line.startswith("jaxpg: error:")]
                assert len(lines) == 1, f"{what}: {arguments[0]}: {text}"
            warned = warned or code != 0 or "jaxpg: " in text
            if code == 0 and arguments[0] in ("resume", "train", "sweep"):
                now = (directory / "summary.json").read_bytes()
                if now != reference and not warned:
                    silent.append(f"{what}: {arguments[0]}")
        shutil.rmtree(place)
    assert not silent, "numbers changed in silence:\n" + "\n".join(silent)


@pytest.mark.parametrize("where", ["report", "evaluate", "render", "resume"])
def test_what_is_no_experiment_is_refused_in_one_line(where, tmp_path):
    """An empty folder, a file, nothing at all, a directory of jaxpg 0.1.0, a name with a newline."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"algo": "ppo", "env": "CartPole-v1", "seeds": 16, "seed": 0, "options": {}}))
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("old", "file", "empty", "nothing", "a\nb", "x" * 300):
        code, text = call([where, tmp_path / name])
        assert code == 2, name
        assert len(text.strip().splitlines()) == 1, text
        assert text.startswith("jaxpg: error:")
    assert "jaxpg 0.1.0" in call([where, old])[1]
    assert Path.cwd().joinpath("report.html").exists() is False
