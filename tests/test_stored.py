"""The configuration that lies in a directory: as it was written, or refused in one line; and what was different then."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxpg.lab.sweep_config import SweepConfig

from jaxpg.lab.config import RunConfig
from jaxpg.lab.engine import saving
from jaxpg.lab.store.stored import CONFIG, extended, read_config, read_json

OPTIONS = {"total_steps": 1000, "num_envs": 4, "num_steps": 16, "hidden": (8, 4), "minibatches": 2, "gamma": 0.9}
RUN = RunConfig("ppo", seeds=3, seed=7, log_every=2, checkpoint_every=1.5, keep=4, options=OPTIONS)
PLAIN = RUN.to_dict() | {"run_dir": "where it began", "device": {"count": 2}, "versions": {"jax": "0.10"}, "flags": {}}


def write(directory, content):
    directory.mkdir(exist_ok=True)
    (directory / CONFIG).write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def test_a_run_is_read_as_it_was_written_wherever_it_is_now(tmp_path):
    read = read_config(write(tmp_path / "moved", PLAIN))
    assert read.to_dict() == RUN.to_dict() | {"run_dir": str(tmp_path / "moved")}
    assert read_config(str(tmp_path / "moved")) == read


def test_a_sweep_is_read_as_it_was_written(tmp_path):
    sweep = SweepConfig(RUN, {"gamma": "0.9,0.99", "hidden": "8,4x4,none"})
    read = read_config(write(tmp_path / "moved", sweep.to_dict() | {"processes": 2}))
    assert isinstance(read, SweepConfig)
    assert (read.vary, read.settings) == (sweep.vary, sweep.settings)
    assert read.base.to_dict() == RUN.to_dict() | {"run_dir": str(tmp_path / "moved")}


FOREIGN = {
    "nothing": "",
    "no JSON": "precious",
    "half of it": json.dumps(PLAIN)[:100],
    "no text": "\ud800",
    "zeros": "\0" * 100,
    "a list": [PLAIN],
    "a number": 3,
    "null": None,
    "text": "null",
    "deep": "[" * 10**5,
    "deep in a field": '{"algo": ' + '{"a":' * 10**5 + "1" + "}" * 10**5 + "}",
    "a number of many digits": '{"algo": "ppo", "seeds": ' + "9" * 5000 + "}",
    "empty": {},
    "another program's": {"name": "a package", "version": "1.0"},
    "no algorithm": {name: value for name, value in PLAIN.items() if name != "algo"},
    "algorithm unknown": PLAIN | {"algo": "sarsa"},
    "algorithm of many lines": PLAIN | {"algo": "a\nb"},
    "algorithm a list": PLAIN | {"algo": ["ppo"]},
    "algorithm null": PLAIN | {"algo": None},
    "environment a dictionary": PLAIN | {"env": {"id": "CartPole-v1"}},
    "seeds text": PLAIN | {"seeds": "many"},
    "seeds a list": PLAIN | {"seeds": [1, 2]},
    "seeds none": PLAIN | {"seeds": 0},
    "seeds infinite": PLAIN | {"seeds": float("inf")},
    "checkpoints NaN": PLAIN | {"checkpoint_every": float("nan")},
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
    "vary empty": PLAIN | {"vary": {}},
    "vary no lists": PLAIN | {"vary": {"gamma": 0.9}},
    "vary dictionaries": PLAIN | {"vary": {"hidden": [{"a": 1}, {"a": 2}]}},
    "vary nested": PLAIN | {"vary": {"hidden": [[[8]], [[4]]]}},
    "vary unknown": PLAIN | {"vary": {"gama": [0.9]}},
    "vary null values": PLAIN | {"vary": {"gamma": [None, 0.9]}},
}


def refused(call, directory=None):
    """The line with which ``call`` refuses."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        call()
    line = str(caught.value)
    assert line.isprintable(), f"no single line: {line!r}"
    assert len(line) < 700
    return line


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_ours_is_refused_in_one_line(name, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    content = FOREIGN[name]
    data = content if isinstance(content, str) else json.dumps(content)
    (directory / CONFIG).write_bytes(data.encode(errors="surrogatepass"))
    assert refused(lambda: read_config(directory))


@pytest.mark.parametrize("name", ["nothing", "no JSON", "no text", "a list", "null", "deep", "empty", "no algorithm"])
def test_where_there_is_no_run_it_says_where_it_looked(name, tmp_path):
    content = FOREIGN[name]
    data = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / CONFIG).write_bytes(data.encode(errors="surrogatepass"))
    if name in ("empty", "no algorithm"):  # an object: what is wrong with it is named
        assert "algorithm" in refused(lambda: read_config(tmp_path))
    else:
        assert refused(lambda: read_config(tmp_path)).startswith(f"{tmp_path} holds no run: {CONFIG} ")


def test_a_directory_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / CONFIG).mkdir(parents=True)
    for name in ("nowhere", "file", "folder"):
        assert refused(lambda: read_config(tmp_path / name)).startswith(f"{tmp_path / name} holds no run: {CONFIG} cannot be")  # noqa: B023


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*PLAIN, "vary", "settings"]), json_values, min_size=1, max_size=3), json_values)
def test_whatever_replaces_a_field_is_read_or_refused_in_one_line(tmp_path_factory, fields, whole):
    directory = tmp_path_factory.getbasetemp()
    for content in (PLAIN | fields, whole):
        write(directory, content if not isinstance(content, str) else json.dumps(content))
        found = ""
        try:
            found = read_config(directory)
        except ValueError as error:
            found = str(error)
        assert isinstance(found, RunConfig | SweepConfig) or (found and found.isprintable()), repr(found)


def test_an_object_is_read_as_it_is(tmp_path):
    path = write(tmp_path / "x", '{"a": [1, {"b": null}]}') / CONFIG
    assert read_json(path) == {"a": [1, {"b": None}]}


def test_a_run_that_goes_further_is_the_same_run_and_keeps_the_interval_of_its_log():
    run = RunConfig("a2c", run_dir="here", options={"total_steps": 64 * 400, "num_envs": 4, "num_steps": 16})
    longer = extended(run, 64 * 4000)
    assert (longer.num_updates, longer.log_interval, run.log_interval) == (4000, 3, 3)
    assert longer.options == run.options | {"total_steps": 64 * 4000}
    same = {"run_dir", "seeds", "seed", "env", "algo", "eval_episodes", "checkpoint_every", "keep", "shard_envs"}
    assert all(getattr(longer, name) == getattr(run, name) for name in same)
    assert extended(longer, 64 * 4000) == longer
    assert extended(run, 64 * 400 - 63).num_updates == 400, "as many updates, rounded up"


def test_a_run_is_not_made_shorter():
    run = RunConfig("a2c", options={"total_steps": 1000, "num_envs": 4, "num_steps": 16})
    for steps in (1, 960):
        line = refused(lambda: extended(run, steps))  # noqa: B023
        assert line == f"total_steps = {steps} are fewer than the 1024 that the run has; give more"
    assert "num_updates" in refused(lambda: extended(run, 2**53))


NOW = {"device": {"kind": "cpu", "count": 2}, "versions": {"jax": "0.10", "numpy": "2.0"}, "flags": {"XLA_FLAGS": ""}}


def compared(then):
    said = []
    saving.compare(then, NOW, said.append)
    assert all(line.isprintable() for line in said)
    return said


def test_what_was_different_when_a_checkpoint_was_written_is_named():
    assert compared(json.loads(json.dumps(NOW))) == []
    assert compared(NOW | {"more": {"jax": "0.1"}}) == [], "what nobody asks for does not matter"
    then = NOW | {"device": {"kind": "cpu", "count": 1}, "versions": {"jax": "0.9", "numpy": "2.0"}}
    rest = "the run goes on, but not bit for bit as it would have"
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
