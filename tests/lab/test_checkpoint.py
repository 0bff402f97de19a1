"""Checkpoints on the disk: complete or refused, whatever was done to them."""

import json
import os
import random
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.lab.store import checkpoint, leaves
from jaxpg.lab.store.checkpoint import SEAL, Checkpoints, Damaged, Snapshot

RUNS = 3


def tree(step):
    """A state of every kind of leaf that there is."""
    key = jax.random.fold_in(jax.random.key(0), step)
    return {
        "state": {
            "key": jax.random.split(key, RUNS),
            "step": jnp.full(RUNS, step, jnp.int32),
            "params": {"policy": ({"kernel": jax.random.normal(key, (RUNS, 4, 5))}, jnp.zeros((RUNS, 0)))},
            "flags": jnp.array([True, False, True]),
            "half": jnp.arange(RUNS, dtype=jnp.bfloat16) + step,
        },
        "window": {"entropy": jnp.array([jnp.nan, jnp.inf, -0.0])},
    }


SHAPES = jax.eval_shape(tree, 0)
SPEC = leaves.spec(SHAPES, RUNS)


def full(*_):
    raise OSError(28, "No space left on device")


def snapshot(step, **meta):
    return Snapshot(step, leaves.flatten(tree(step), RUNS), SPEC, meta)


def save(place, steps, scores=None, keep=2):
    """Save in turn; what was said, and what was warned of."""
    said, warned = [], []
    place.parent.mkdir(exist_ok=True)
    store = Checkpoints(place, keep, said.append, warned.append)
    for step, score in zip(steps, scores or [0.0] * len(steps), strict=True):
        store.save(snapshot(step, note=step), score)
    store.close()
    return said, warned


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two sound checkpoints, of the updates 10 and 20."""
    place = tmp_path_factory.mktemp("run") / "checkpoints"
    assert save(place, [10, 20]) == (["update 10 is saved", "update 20 is saved"], [])
    return place


@pytest.fixture
def place(original, tmp_path):
    """A copy of them."""
    return shutil.copytree(original, tmp_path / "checkpoints")


def newest(place, expected=SPEC, belongs=lambda _: None):
    said = []
    return checkpoint.newest(place, expected, belongs, said.append), said


def test_what_comes_back_is_what_was_saved_bit_for_bit(original):
    found, said = newest(original)
    assert (found.step, found.meta, said) == (20, {"note": 20}, [])
    assert leaves.digest(found.arrays) == leaves.digest(snapshot(20).arrays)
    assert leaves.digest(found.arrays) != leaves.digest(snapshot(10).arrays)
    back = leaves.unflatten(SHAPES, found.arrays)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree(20)), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        bits = [np.asarray(jax.random.key_data(x) if leaves.is_key(x) else x).tobytes() for x in (a, b)]
        assert bits[0] == bits[1]
    again = jax.random.uniform(back["state"]["key"][1], 3)
    np.testing.assert_array_equal(again, jax.random.uniform(tree(20)["state"]["key"][1], 3))


def test_missing_rows_repeat_the_last(original):
    wider = jax.tree.map(lambda x: jax.ShapeDtypeStruct((5, *x.shape[1:]), x.dtype), SHAPES)
    back = leaves.unflatten(wider, newest(original)[0].arrays)
    assert back["state"]["flags"].tolist() == [True, False, True, True, True]
    assert back["state"]["key"].shape == (5,)


def test_parameters_can_be_read_alone(original):
    only = {name: spec for name, spec in SPEC.items() if name.startswith(checkpoint.PARAMS)}
    found = checkpoint.read(original, 10, only, ("params",))
    assert found.arrays.keys() == {"state.step", "state.params.policy.0.kernel", "state.params.policy.1"}
    np.testing.assert_array_equal(
        found.arrays["state.params.policy.0.kernel"], snapshot(10).arrays["state.params.policy.0.kernel"]
    )


def test_the_latest_and_the_best_stay_also_when_another_process_continues(tmp_path):
    place = tmp_path / "checkpoints"
    save(place, [1, 2, 3, 4], [5.0, 9.0, 7.0, 1.0])
    assert checkpoint.steps(place) == [2, 3, 4]
    save(place, [5, 6], [2.0, -1e30])
    assert checkpoint.steps(place) == [2, 5, 6]


def test_more_may_be_kept(tmp_path):
    place = tmp_path / "checkpoints"
    save(place, [1, 2, 3, 4, 5], [9.0, 1.0, 2.0, 3.0, 4.0], keep=3)
    assert checkpoint.steps(place) == [1, 3, 4, 5]


def contents(place):
    return {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_the_step_that_is_there_already_is_not_written_again_and_nothing_is_said(place):
    before = contents(place)
    assert save(place, [20]) == ([], [])
    assert contents(place) == before
    assert save(place, [30, 30, 30]) == (["update 30 is saved"], [])


def test_an_earlier_step_is_not_written_and_that_is_said(place):
    before = contents(place)
    assert save(place, [15]) == (
        [],
        ["update 15 was not saved (this update or a later one is already saved); everything saved before is kept"],
    )
    assert contents(place) == before


def test_what_is_on_the_disk_and_why_the_newest_is_not_is_known(place, monkeypatch):
    store = Checkpoints(place, 2, lambda _: None, lambda _: None)
    assert (store.latest, store.failure) == (20, "")

    def save_and_wait(step):
        store.save(snapshot(step), 0.0)
        store.wait()
        return store.latest, store.failure

    assert save_and_wait(30) == (30, "")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "seal", full)
        assert save_and_wait(40) == (30, "No space left on device")
    assert save_and_wait(40) == (40, "")
    store.close()
    assert checkpoint.steps(place) == [30, 40]
    nowhere = Checkpoints(place / "nowhere", 2, lambda _: None, lambda _: None)
    assert nowhere.latest == 0
    nowhere.close()


def test_the_seal_is_one_that_sha256sum_reads(original):
    if not shutil.which("sha256sum"):
        pytest.skip("sha256sum is not installed")
    done = subprocess.run(["sha256sum", "--check", "--strict", SEAL], cwd=original / "20", capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == len((original / "20" / SEAL).read_text().splitlines()) > 10


def files(place, step=20):
    return sorted(path for path in (place / str(step)).rglob("*") if path.is_file())


def delete(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def grow(path):
    path.write_bytes(path.read_bytes() + b"\n")


def add(path):
    (path.parent / "another").write_text("")


@pytest.mark.parametrize("damage", [delete, truncate, empty, grow, add], ids=lambda f: f.__name__)
def test_every_file_counts(original, tmp_path, damage):
    """Whichever file is damaged: it is said which step, that step is put aside, the one before is used."""
    assert len(files(original)) > 10
    for i, path in enumerate(files(original)):
        if damage is truncate and not path.stat().st_size:
            continue
        place = shutil.copytree(original, tmp_path / f"{i}" / "checkpoints")
        damage(place / path.relative_to(original))
        found, (said,) = newest(place)
        assert found.step == 10, path
        assert leaves.digest(found.arrays) == leaves.digest(snapshot(10).arrays)
        assert "the checkpoint of update 20 was put aside in damaged/" in said, path
        assert checkpoint.steps(place) == [10]
        (aside,) = (place.parent / "damaged").iterdir()
        assert aside.name.startswith("20-")


def test_no_flipped_bit_passes(place):
    """200 random bits, one at a time, over all files by their size."""
    chance = random.Random(0)
    paths = files(place)
    for path in chance.choices(paths, [path.stat().st_size for path in paths], k=200 - len(paths)) + paths:
        content = bytearray(path.read_bytes())
        bit = chance.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(Damaged):
            checkpoint.read(place, 20, SPEC)
        path.write_bytes(whole)
    assert checkpoint.read(place, 20, SPEC).step == 20


def test_where_nothing_is_sound_there_is_nothing(place):
    for step in (10, 20):
        (place / str(step) / SEAL).unlink()
    found, said = newest(place)
    assert found is None
    assert [text[:28] for text in said] == ["the checkpoint of update 20 ", "the checkpoint of update 10 "]
    assert newest(place.parent / "nowhere") == (None, [])


def test_a_checkpoint_of_another_experiment_is_put_aside_and_the_one_before_is_asked(place):
    asked = []

    def belongs(meta):
        asked.append(meta)
        if meta["note"] == 20:
            raise Damaged("it belongs to another experiment")

    found, said = newest(place, belongs=belongs)
    assert (found.step, asked) == (10, [{"note": 20}, {"note": 10}])
    assert said == ["the checkpoint of update 20 was put aside in damaged/: it belongs to another experiment"]
    assert checkpoint.steps(place) == [10]


OTHER = {
    "wider": SPEC | {"state.params.policy.0.kernel": {"dtype": "float32", "shape": [3, 4, 6]}},
    "another dtype": SPEC | {"state.half": {"dtype": "float32", "shape": [3]}},
    "another generator": SPEC | {"state.key": SPEC["state.key"] | {"key": "philox4x32"}},
    "more runs": leaves.spec(SHAPES, RUNS - 1),
    "one more": SPEC | {"state.more": {"dtype": "float32", "shape": [3]}},
    "one less": {name: spec for name, spec in SPEC.items() if name != "state.flags"},
}


@pytest.mark.parametrize("name", OTHER)
def test_a_checkpoint_of_other_arrays_is_refused_and_the_first_difference_named(place, name):
    leaf = next(leaf for leaf in [*OTHER[name], *SPEC] if OTHER[name].get(leaf) != SPEC.get(leaf))
    with pytest.raises(Damaged, match=f"^it belongs to another run: {leaf} is ") as refused:
        checkpoint.read(place, 20, OTHER[name])
    assert "\n" not in str(refused.value)
    found, said = newest(place, OTHER[name])
    assert (found, len(said), checkpoint.steps(place)) == (None, 2, [])


def reseal(place):
    """What somebody does who knows how: the seal fits again."""
    (place / "20" / SEAL).write_text(checkpoint.checksums(place / "20"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda meta: meta["spec"].update({"state.flags": {"dtype": "int8", "shape": [3]}}), "state.flags is"),
        (lambda meta: meta["spec"]["window.entropy"].update(shape=[10**12]), "window.entropy is"),
        (lambda meta: meta["spec"].pop("state.half"), "state.half is missing there"),
        (lambda meta: meta["spec"].update({"../../etc": {"dtype": "int8", "shape": [3]}}), "../../etc is"),
        (lambda meta: meta["spec"]["state.key"].update(key="rbg"), "state.key is"),
        (lambda meta: meta["spec"].update({"a\n\x1b[31m": "b\n" * 10**5}), r"'a.n.x1b.31m' is 'b.nb"),
        (lambda meta: meta.update(spec=[1, 2]), "describes no arrays"),
        (lambda meta: meta.update(step=21), "its metadata was not written by jaxpg"),
        (lambda meta: meta.update(meta="a text"), "its metadata was not written by jaxpg"),
        (lambda meta: meta.clear(), "its metadata was not written by jaxpg"),
        (lambda meta: meta["digest"].update(rest="0" * 64), "the digest of rest is wrong"),
        (lambda meta: meta.pop("digest"), "cannot be read"),
    ],
)
def test_a_checkpoint_that_was_made_by_hand_is_refused_whatever_its_seal_says(place, change, words):
    path = place / "20" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    reseal(place)
    with pytest.raises(Damaged, match=words) as refused:
        checkpoint.read(place, 20, SPEC)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("content", ["[]", "3", "{", "", "null", "[" * 100_000])
def test_foreign_json_is_refused(place, content):
    (place / "20" / "meta" / "metadata").write_text(content)
    reseal(place)
    with pytest.raises(Damaged):
        checkpoint.read(place, 20, SPEC)


def test_arrays_of_another_run_are_refused(place, tmp_path):
    """The rest of another step, under the right names: only the digest can tell."""
    shutil.rmtree(place / "20" / "rest")
    shutil.copytree(place / "10" / "rest", place / "20" / "rest")
    reseal(place)
    with pytest.raises(Damaged, match="the digest of rest is wrong"):
        checkpoint.read(place, 20, SPEC)


def test_links_and_pipes_are_refused(place, tmp_path):
    (place / "20" / "else\nwhere").symlink_to(tmp_path)
    with pytest.raises(Damaged, match=r"^else.{2}where is not a regular file$"):
        checkpoint.read(place, 20, SPEC)
    (place / "20" / "else\nwhere").unlink()
    (place / "20" / SEAL).unlink()
    os.mkfifo(place / "20" / SEAL)
    with pytest.raises(Damaged, match="SHA256SUMS is not a regular file"):
        checkpoint.read(place, 20, SPEC)
    (place / "30").symlink_to(place / "10")
    (place / "007").mkdir()
    assert checkpoint.steps(place) == [10, 20]


def test_a_description_too_large_is_not_even_read(place, monkeypatch):
    monkeypatch.setattr(checkpoint, "META_BYTES", 100)
    with pytest.raises(Damaged, match="too large"):
        checkpoint.read(place, 20, SPEC)


def test_where_nothing_can_be_written_training_continues_and_what_was_there_stays(place, monkeypatch):
    monkeypatch.setattr(checkpoint, "seal", full)
    said, warned = save(place, [30])
    assert said == []
    assert warned == ["update 30 was not saved (No space left on device); everything saved before is kept"]
    monkeypatch.undo()
    found, said = newest(place)
    assert (found.step, said) == (20, [])
    assert save(place, [40]) == (["update 40 is saved"], [])


@pytest.mark.parametrize("size", [0, 100])
def test_a_disk_that_is_full_is_one_line_and_nothing_is_left_behind(place, capfd, size):
    """No file of this process may be larger than ``size``: the system itself refuses."""
    before, limits = contents(place), resource.getrlimit(resource.RLIMIT_FSIZE)
    said, warned = [], []
    store = Checkpoints(place, 2, said.append, warned.append)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        store.save(snapshot(30), 0.0)
        store.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (said, warned) == ([], ["update 30 was not saved (File too large); everything saved before is kept"])
    assert contents(place) == before
    assert capfd.readouterr() == ("", "")
    store.save(snapshot(30), 0.0)
    store.close()
    assert said == ["update 30 is saved"]


TALES = {
    "UNKNOWN: Error writing file: " * 9 + "Failed: Disk is full [os_error_code=ENOSPC: 28] [a\n='b']": "Disk is full)",
    "a tale\nof many\x1b[0m\n\nlines, " + "x" * 10**5: "a tale of many",
    "": "ValueError)",
}


@pytest.mark.parametrize("tale", TALES, ids=TALES.values())
def test_whatever_orbax_says_is_one_line_of_bounded_length(place, monkeypatch, tale):
    def fail(*_, **__):
        raise ValueError(tale)

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", fail)
    said, (line,) = save(place, [30])
    assert said == []
    assert line.startswith(f"update 30 was not saved ({TALES[tale]}")
    assert line.endswith("); everything saved before is kept")
    assert line.isprintable()
    assert len(line) < 300


def test_what_could_not_be_sealed_displaces_nothing(place, monkeypatch):
    monkeypatch.setattr(checkpoint, "seal", full)
    save(place, [30, 40, 50, 60])
    assert newest(place)[0].step == 20
    assert checkpoint.steps(place) == [20]


def test_killed_before_the_seal_the_one_before_is_there(place, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    monkeypatch.setattr(checkpoint, "seal", kill)
    with pytest.raises(Killed):
        Checkpoints(place, 2, pytest.fail, pytest.fail).write(snapshot(30), 0.0)
    found, (said,) = newest(place)
    assert found.step == 20
    assert "update 30" in said


def test_a_directory_that_was_removed_is_not_made_again(tmp_path):
    place = tmp_path / "run" / "checkpoints"
    place.parent.mkdir()
    said, warned = [], []
    store = Checkpoints(place, 2, said.append, warned.append)
    store.save(snapshot(1), 0.0)
    store.wait()
    shutil.rmtree(place.parent)
    store.save(snapshot(2), 0.0)
    store.close()
    assert said == ["update 1 is saved"]
    assert warned[0].startswith("update 2 was not saved")
    assert not place.parent.exists()


def test_what_a_checkpoint_counts_on_is_on_the_disk_before_it(tmp_path):
    events = []
    store = Checkpoints(
        tmp_path / "checkpoints", 2, lambda _: events.append("said"), events.append, lambda: events.append("log")
    )
    store.save(snapshot(1), 0.0)
    store.close()
    assert events == ["log", "said"]


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        leaves.spec({"a": {"b": jnp.zeros(1)}, "a.b": jnp.zeros(1)}, 1)


def test_a_digest_tells_every_difference():
    base = {"a": np.zeros(4, np.float32), "b": np.zeros(2, np.int32)}
    others = [
        {"a": np.zeros(4, np.float32), "c": np.zeros(2, np.int32)},
        {"a": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.int32)},
        {"a": np.zeros(4, np.int32), "b": np.zeros(2, np.int32)},
        {"a": -np.zeros(4, np.float32), "b": np.zeros(2, np.int32)},
        {"a": np.zeros(4, np.float32)},
    ]
    assert leaves.digest(dict(reversed(base.items()))) == leaves.digest(base)
    assert len({leaves.digest(arrays) for arrays in [base, *others]}) == len(others) + 1


def test_nothing_is_left_open(place):
    """Reading leaves no file descriptor behind: a training that resumes again and again must not run out of them."""
    count = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for _ in range(3):
        checkpoint.read(place, 20, SPEC)
    after = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    assert after <= count + 2
