"""The configuration that lies in a directory: as it was written, or refused in one line; and what was different then."""

import dataclasses
import hashlib
import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpg.algorithms import presets
from jaxpg.lab.cli import options
from jaxpg.lab.config import Config
from jaxpg.lab.engine import batches
from jaxpg.lab.store.files import CONFIG, SEAL, Damaged, write_json
from jaxpg.lab.store.stored import FORMAT, IDENTITY, command, identity, make_config, read_config, read_content

OPTIONS = {"total_steps": 1000, "num_envs": 4, "num_steps": 16, "hidden": (8, 4), "minibatches": 2, "gamma": 0.9}
TRAIN = Config("ppo", seeds=3, seed=7, log_every=2, checkpoint_every=1.5, keep=4, options=OPTIONS)
SWEEP = dataclasses.replace(TRAIN, vary={"gamma": "0.9,0.99", "hidden": "8,4x4,none"})
WIDTHS = [{"width": 3}, {"kind": "wide", "width": (4, 5)}]
OWN = Config("mine", "a room", own=True, env_params={"gravity": 5.0}, options={"total_steps": 8}, vary=WIDTHS)
ALGORITHM = {"a.module.Algorithm": {"num_envs": 4}}


def content_of(config, algorithm=ALGORITHM):
    """What the engine writes."""
    plain = {name: value for name, value in config.to_dict().items() if name != "run_dir"}
    return {"format": FORMAT, "identity": identity(config, algorithm)} | plain | {"algorithm": algorithm}


PLAIN = json.loads(json.dumps(content_of(SWEEP)))


def write(directory, content):
    """Put a file there, with a seal if it is an object that has none."""
    directory.mkdir(exist_ok=True)
    if isinstance(content, dict):
        write_json(directory / CONFIG, content)
    else:
        (directory / CONFIG).write_bytes(content)
    return directory


def refused(call, error=ValueError):
    """The line with which ``call`` refuses."""
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable(), f"no single line: {line!r}"
    assert len(line) < 700
    return line


@pytest.mark.parametrize("config", [TRAIN, SWEEP, OWN], ids=["train", "sweep", "own"])
def test_an_experiment_is_read_as_it_was_written_wherever_it_is_now(tmp_path, config):
    directory = write(tmp_path / "moved", content_of(config))
    read = read_config(directory)
    assert read == dataclasses.replace(config, run_dir=str(directory))
    assert read_config(str(directory)) == read == make_config(directory, read_content(directory))


def test_the_identity_is_a_digest_of_what_the_bits_of_the_runs_depend_on():
    text = (
        '{"algo":"mine","algorithm":{"a.module.Algorithm":{"num_envs":4}},"env":"a room","env_params":{"gravity":5},'
        '"eval_episodes":128,"log_every":0,"matmul_precision":"default",'
        '"options":{},"own":true,"rng":"philox4x32","seed":0,"seeds":16,"shard_envs":false,'
        '"vary":[{"width":3},{"kind":"wide","width":[4,5]}]}'
    )
    assert identity(OWN, ALGORITHM) == hashlib.sha256(text.encode()).hexdigest()
    assert identity(Config.from_dict(json.loads(json.dumps(OWN.to_dict()))), ALGORITHM) == identity(OWN, ALGORITHM)


MATTERS = {
    "algo": {"algo": "a2c", "options": {}},
    "env": {"env": "Acrobot-v1", "options": {}},
    "env_params": {"env_params": {"gravity": 5.0}},
    "own": {"own": True},
    "seeds": {"seeds": 4},
    "seed": {"seed": 1},
    "rng": {"rng": "threefry2x32"},
    "matmul_precision": {"matmul_precision": "highest"},
    "eval_episodes": {"eval_episodes": 4},
    "log_every": {"log_every": 3},
    "shard_envs": {"shard_envs": True},
    "options": {"options": OPTIONS | {"num_steps": 8}},
    "vary": {"vary": {"gamma": (0.9, 0.98)}},
    "stop_at": {"stop_at": 512},
}
MATTERS_NOT = {
    "run_dir": {"run_dir": "there"},
    "evaluate_every": {"evaluate_every": 3},
    "log": {"log": ("tensorboard",)},
    "checkpoint_every": {"checkpoint_every": 1.0},
    "keep": {"keep": 7},
    "batch_size": {"batch_size": 3},
    "memory": {"memory": 2.0},
    "parquet": {"parquet": True},
    "base_steps": {"base_steps": 500},
    "search": {"search": ("--halving", "2")},
    "total_steps": {"options": OPTIONS | {"total_steps": 2000}},
}


def test_every_field_is_part_of_the_identity_or_known_not_to_be():
    assert MATTERS.keys() == set(IDENTITY)
    assert MATTERS.keys() | MATTERS_NOT.keys() == {field.name for field in dataclasses.fields(Config)} | {"total_steps"}


def changed(change, config=SWEEP):
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return Config(**given | change)


@pytest.mark.parametrize("name", MATTERS)
def test_every_field_of_the_identity_changes_it(name):
    assert identity(changed(MATTERS[name]), ALGORITHM) != identity(SWEEP, ALGORITHM)


@pytest.mark.parametrize("name", sorted(presets.options("ppo", "CartPole-v1").keys() - {"total_steps"}))
def test_every_option_but_the_budget_changes_the_identity(name):
    others = {"anneal": (), "observation": "running", "hidden": (9,), "network": "gru", "activation": "relu"}
    others |= {"layer_norm": True, "shared": True}
    others |= {"reward_norm": "running", "advantage_norm": "minibatch", "anneal_shape": "cosine"}
    needs = {"value_coef": {"shared": True}, "obs_clip": {"observation": "running"}, "anneal_shape": {"anneal": ["gamma"]}}
    options = OPTIONS | needs.get(name, {})  # which reads it
    before, after = options, options | {name: others.get(name, 1 if name in presets.SIZES else 0.123)}
    assert identity(changed({"options": before}), ALGORITHM) != identity(changed({"options": after}), ALGORITHM)


def test_another_algorithm_of_the_same_name_has_another_identity():
    assert identity(OWN, ALGORITHM) != identity(OWN, {"a.module.Algorithm": {"num_envs": 5}})


@pytest.mark.parametrize("name", sorted(MATTERS_NOT))
def test_the_budget_and_where_and_how_often_it_is_saved_do_not_change_the_identity(name):
    other = changed(MATTERS_NOT[name])
    assert other != SWEEP
    assert identity(other, ALGORITHM) == identity(SWEEP, ALGORITHM)


@pytest.mark.parametrize("name", MATTERS)
def test_an_edited_configuration_is_refused_whatever_its_seal_says(tmp_path, name):
    """Somebody who knows how makes the seal fit again; the identity does not."""
    edited = {field: value for field, value in content_of(changed(MATTERS[name])).items() if field != "identity"}
    directory = write(tmp_path / "run", PLAIN | edited)
    says = f"{directory / CONFIG} was changed since it was written"
    assert refused(lambda: read_config(directory), Damaged) == says


FOREIGN = {
    "nothing": b"",
    "no JSON": b"precious",
    "half of it": json.dumps(PLAIN).encode()[:100],
    "no text": "\ud800".encode(errors="surrogatepass"),
    "zeros": bytes(100),
    "a list": json.dumps([PLAIN]).encode(),
    "a number": b"3",
    "null": b"null",
    "text": b'"null"',
    "deep": b"[" * 10**5,
    "deep in a field": b'{"algo": ' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}",
    "a number of many digits": b'{"algo": "ppo", "seeds": ' + b"9" * 5000 + b"}",
    "no seal": json.dumps(PLAIN).encode(),
    "empty": {},
    "another program's": {"name": "a package", "version": "1.0"},
    "another format": PLAIN | {"format": 3},
    "format text": PLAIN | {"format": "2\n" * 100},
    "no identity": {name: value for name, value in PLAIN.items() if name != "identity"},
    "identity a list": PLAIN | {"identity": [1]},
    "no description": {name: value for name, value in PLAIN.items() if name != "algorithm"},
    "another description": PLAIN | {"algorithm": {}},
    "no algorithm": {name: value for name, value in PLAIN.items() if name != "algo"},
    "algorithm unknown": PLAIN | {"algo": "sarsa"},
    "algorithm of many lines": PLAIN | {"algo": "a\nb"},
    "algorithm a list": PLAIN | {"algo": ["ppo"]},
    "algorithm null": PLAIN | {"algo": None},
    "environment a dictionary": PLAIN | {"env": {"id": "CartPole-v1"}},
    "seeds text": PLAIN | {"seeds": "many"},
    "seeds a list": PLAIN | {"seeds": [1, 2]},
    "seeds none": PLAIN | {"seeds": 0},
    "seeds more than memory": PLAIN | {"seeds": 10**10},
    "checkpoints NaN": PLAIN | {"checkpoint_every": None},
    "own text": PLAIN | {"own": "yes"},
    "own, and another's": PLAIN | {"own": True},
    "base_steps text": PLAIN | {"base_steps": "x"},
    "options a list": PLAIN | {"options": [["gamma", 0.9]]},
    "options null": PLAIN | {"options": None},
    "options text": PLAIN | {"options": "gamma"},
    "an option unknown": PLAIN | {"options": {"gama": 0.9}},
    "an option of another algorithm": PLAIN | {"options": {"max_kl": 0.1}},
    "an option deep": PLAIN | {"options": {"hidden": [[[8]]]}},
    "an option out of range": PLAIN | {"options": {"gamma": 1.5}},
    "an option a dictionary": PLAIN | {"options": {"learning_rate": {"a": 1}}},
    "vary a list": PLAIN | {"vary": ["gamma"]},
    "vary a number": PLAIN | {"vary": 3},
    "vary null": PLAIN | {"vary": None},
    "vary an empty list": PLAIN | {"vary": []},
    "vary no lists": PLAIN | {"vary": {"gamma": 0.9}},
    "vary dictionaries": PLAIN | {"vary": {"hidden": [{"a": 1}, {"a": 2}]}},
    "vary nested": PLAIN | {"vary": {"hidden": [[[8]], [[4]]]}},
    "vary unknown": PLAIN | {"vary": {"gama": [0.9]}},
    "vary null values": PLAIN | {"vary": {"gamma": [None, 0.9]}},
    "vary and own": PLAIN | {"own": True, "vary": {"a\n": [{"a": 1}]}},
    "vary long": PLAIN | {"vary": {"observation": ["x" * 10**5] * 2}},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_ours_is_refused_in_one_line_that_names_the_file(name, tmp_path):
    directory = write(tmp_path / "run", FOREIGN[name])
    assert refused(lambda: read_config(directory)).startswith(str(directory))


def test_what_is_wrong_in_it_is_said(tmp_path):
    directory = write(tmp_path / "run", FOREIGN["an option out of range"])
    says = f"{directory / CONFIG}: gamma = 1.5 is out of range; it must lie in [0, 1]"
    assert refused(lambda: read_config(directory), Damaged) == says
    directory = write(tmp_path / "run", FOREIGN["another format"])
    assert refused(lambda: read_config(directory)) == f"{directory} has the format 3; this version reads 2"


def test_a_directory_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "file", "empty", "a\0b"):
        line = refused(lambda: read_config(tmp_path / name))  # noqa: B023
        assert line.endswith(f"holds no experiment: there is no {CONFIG}")
    (tmp_path / "folder" / CONFIG).mkdir(parents=True)
    assert (
        refused(lambda: read_config(tmp_path / "folder")) == f"{tmp_path / 'folder' / CONFIG} cannot be read (Is a directory)"
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*PLAIN, "run_dir"]), json_values, min_size=1, max_size=3))
def test_whatever_replaces_a_field_it_is_the_same_experiment_or_refused_in_one_line(tmp_path_factory, fields):
    directory = write(tmp_path_factory.getbasetemp() / "fields", PLAIN | fields)
    try:
        found = read_config(directory)
    except ValueError as error:
        found = str(error)
    if isinstance(found, Config):
        assert identity(found, ALGORITHM) == PLAIN["identity"]
        assert found.run_dir == str(directory)
    else:
        assert found.isprintable(), repr(found)


OLD = {"device": {"count": 2}, "versions": {"jaxpg": "0.1.0"}, "flags": {}, "run_dir": "where it began"}
FIELDS = (
    "algo",
    "env",
    "seeds",
    "seed",
    "rng",
    "run_dir",
    "eval_episodes",
    "log_every",
    "checkpoint_every",
    "keep",
    "shard_envs",
)


def old_content(config):
    """``config.json`` of jaxpg 0.1.0, for the same experiment."""
    content = {name: getattr(config, name) for name in (*FIELDS, "options")}
    return content | ({"vary": config.vary, "settings": config.settings} if config.vary else {}) | OLD


@pytest.mark.parametrize(
    "config",
    [
        Config("a2c"),
        TRAIN,
        SWEEP,
        dataclasses.replace(TRAIN, shard_envs=True, rng="threefry2x32", options={"hidden": (), "anneal": ()}),
        Config("trpo", "MountainCar-v0", vary={"anneal": "none,max_kl gamma", "max_kl": "log:1e-3:1e-1:3"}),
    ],
    ids=["presets", "train", "sweep", "empty lists", "annealed"],
)
def test_for_a_directory_of_0_1_0_it_says_the_command_that_trains_the_same_again(tmp_path, config):
    (tmp_path / CONFIG).write_text(json.dumps(old_content(config)))
    line = refused(lambda: read_content(tmp_path))
    start = f"{tmp_path} was written by jaxpg 0.1.0, whose format is no longer supported; to train it again: "
    assert line.startswith(start)
    program, kind, *arguments = shlex.split(line.removeprefix(start))
    assert (program, kind) == ("jaxpg", "sweep" if config.vary else "train")
    read, _ = options.read(kind, arguments, [options.VARY] if config.vary else [])
    assert read == dataclasses.replace(config, run_dir="")
    assert command(config) == line.removeprefix(start)


def test_what_only_looks_like_a_directory_of_0_1_0_is_refused_in_one_line(tmp_path):
    for change in ({"algo": "sarsa"}, {"env": 3}, {"options": {"gama": 1}}, {"seeds": [1]}, {"algo": "x\n" * 10**5}):
        (tmp_path / CONFIG).write_text(json.dumps(old_content(TRAIN) | change))
        assert refused(lambda: read_content(tmp_path)).startswith(f"{tmp_path / CONFIG}")


def test_a_configuration_that_lost_its_format_but_has_a_seal_is_refused(tmp_path):
    write(tmp_path, {name: value for name, value in PLAIN.items() if name not in ("format", "options")})
    assert json.loads((tmp_path / CONFIG).read_text())[SEAL]
    assert refused(lambda: read_content(tmp_path)) == f"{tmp_path} has the format None; this version reads 2"


NOW = {"device": {"kind": "cpu", "count": 2}, "versions": {"jax": "0.10", "numpy": "2.0"}, "flags": {"XLA_FLAGS": ""}}


def compared(then):
    said = []
    batches.compare(then, NOW, said.append)
    assert all(line.isprintable() for line in said)
    return said


def test_what_was_different_when_a_checkpoint_was_written_is_named():
    assert compared(json.loads(json.dumps(NOW))) == []
    assert compared(NOW | {"more": {"jax": "0.1"}}) == [], "what nobody asks for does not matter"
    then = NOW | {"device": {"kind": "cpu", "count": 1}, "versions": {"jax": "0.9", "numpy": "2.0"}}
    rest = "training continues, but its results may not be bit for bit the same"
    assert compared(then) == [f"count was 1 and is 2; {rest}", f"jax was 0.9 and is 0.10; {rest}"]


@pytest.mark.parametrize("then", [None, 3, "device", [], {}, {"device": None, "versions": [1], "flags": "x"}])
def test_where_a_checkpoint_does_not_say_what_it_was_written_with_all_is_different(then):
    names = [line.split(" was ")[0] for line in compared(then)]
    assert names == ["kind", "count", "jax", "numpy", "XLA_FLAGS"]
    assert all(" was None and is " in line for line in compared(then))


def test_foreign_words_in_a_checkpoint_do_not_reach_the_terminal():
    said = compared(NOW | {"versions": {"jax": "\x1b[31m\n" + "x" * 10**6, "numpy": {"a": ["\n"]}}})
    assert len(said) == 2
    assert all(len(line) < 700 for line in said)


def test_an_experiment_that_anneals_can_be_trained_further():
    """The length of a schedule is that of the run: it is no part of the identity, all else of the algorithm is."""
    from jaxpg.lab.engine.groups import describe, make_named

    config = Config("ppo", options={"total_steps": 8192})
    assert config.options["anneal"]
    longer = config.extended(16384)
    short, long = (describe(make_named(one)()) for one in (config, longer))
    assert short != long
    assert identity(config, short) == identity(longer, long)
    other = dataclasses.replace(config, options={**config.options, "anneal": ()})
    assert identity(other, describe(make_named(other)())) != identity(config, short)
