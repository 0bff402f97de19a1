"""Whatever is asked for: a run that can be traced to the last shape, or one line that names what is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jaxpg import envs
from jaxpg.algorithms import _named, presets
from jaxpg.core.hparams import HParams, check_ranges
from jaxpg.lab.cli import options
from jaxpg.lab.config import GENERATORS, PRECISIONS, Config

many = settings(
    max_examples=500 if "JAXPG_FAULTS" in os.environ else 60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ENVS = ["CartPole-v1", "MountainCar-v0", "Pendulum-v1", "Catch-bsuite"]
UNBOUNDED = ["CartPole-v1"]  # declares no finite bounds of its observations
HYPERPARAMETERS = set(HParams.__dataclass_fields__)

# Text as it may come from a file or a shell; lines, escapes and what looks like a number included.
text = st.text(max_size=12) | st.sampled_from(["", " ", "a\nb", "\x1b[31m", "\r", "\u2028", "\0", "\ud800", "x" * 300, "None"])
junk = st.sampled_from([None, True, [], {}, [[1]], {"a": 1}, object, b"x", math.nan, math.inf, -math.inf, 1j, 10**400])
no_number = text.filter(lambda x: not is_number(x)) | junk
no_whole = no_number | st.floats(allow_nan=False).filter(lambda x: not x.is_integer()) | st.integers(max_value=-1)


def is_number(x: str) -> bool:
    try:
        float(x)
    except ValueError:
        return False
    return True


def written(values: st.SearchStrategy) -> st.SearchStrategy:
    """Numbers as they are, and as text."""
    return st.one_of(values, values.map(str))


unit, positive = written(st.floats(0, 1)), written(st.floats(1e-6, 1e6))
RANGE = {"gamma": unit, "gae_lambda": unit} | {name: positive | st.just(0) for name in presets.SWITCHES}
FIELDS = {  # name: (values that will do, values that will not)
    "seeds": (written(st.integers(1, 9)) | st.just(4.0), no_whole | st.just(0)),
    "seed": (written(st.integers(0, 2**32 - 1)), no_whole | st.just(2**32)),
    "eval_episodes": (written(st.integers(1, 9)), no_whole | st.just(0)),
    "log_every": (written(st.integers(0, 9)), no_whole | st.just(2**31)),
    "checkpoint_every": (written(st.floats(0, 1e9)), no_number | st.sampled_from([-1, "-0.1", 1e10])),
    "keep": (written(st.integers(2, 9)), no_whole | st.integers(-1, 1)),
    "rng": (st.sampled_from(GENERATORS), text | junk),
    "matmul_precision": (st.sampled_from(PRECISIONS), text | junk),
    "run_dir": (text, junk | st.integers()),
    "evaluate_every": (written(st.integers(0, 9)), no_whole | st.just(2**31)),
    "log": (st.lists(st.sampled_from(["tensorboard", "wandb"]), max_size=2), text | st.integers()),
    "batch_size": (written(st.integers(0, 9)), no_whole | st.just(2**23)),
    "memory": (written(st.floats(0, 1e9)), no_number | st.sampled_from([-1, "-0.1", 1e10])),
    "base_steps": (written(st.integers(0, 9)), no_whole | st.just(2**54)),
    "stop_at": (written(st.integers(0, 1)), no_whole | st.just(2**54)),
    "search": (st.lists(text, max_size=2), text | st.integers()),
    "env_params": (
        st.dictionaries(st.just("max_steps_in_episode"), written(st.integers(5, 99))),
        text | st.integers() | st.dictionaries(text, no_number.filter(lambda x: not isinstance(x, bool)), min_size=1),
    ),
    "own": (st.just(False), text | st.integers() | junk.filter(lambda x: not isinstance(x, bool))),
    "shard_envs": (st.booleans(), text | st.integers() | junk.filter(lambda x: x is not True)),
    "parquet": (st.booleans(), text | st.integers() | junk.filter(lambda x: x is not True)),
}
OPTIONS = {
    "total_steps": (written(st.integers(1, 9999)), no_whole | st.sampled_from([0, 2**53, "1e300"])),
    "num_envs": (written(st.integers(1, 4)), no_whole | st.just(0)),
    "num_steps": (written(st.integers(1, 4)), no_whole | st.just(0)),
    "epochs": (written(st.integers(1, 2)), no_whole | st.just(0)),
    "minibatches": (written(st.integers(1, 3)), no_whole | st.just(0)),
    "hidden": (
        st.lists(written(st.integers(1, 3)), max_size=2) | st.just((2, 3)),
        text | st.integers() | st.lists(no_whole | st.just(0), min_size=1, max_size=2),
    ),
    "observation": (
        st.sampled_from(["none", "bounds", "running"]),
        (text | junk).filter(lambda x: x not in ("none", "bounds", "running")),
    ),
    "network": (st.sampled_from(["auto", "mlp", "gru", "lstm"]), text | junk),
    "activation": (st.sampled_from(["tanh", "relu", "silu", "gelu", "elu"]), text | junk),
    "layer_norm": (st.sampled_from([True, False, "true"]), text | st.integers()),
    "shared": (st.sampled_from([True, False, "false"]), text | st.integers()),
    "sequence_length": (written(st.just(0)), no_whole),
    "obs_clip": (written(st.floats(0.1, 20.0)) | st.just(0), no_number | st.sampled_from([-1, "nan", "inf"])),
    "reward_norm": (st.sampled_from(["scale", "running"]), text | junk),
    "advantage_norm": (st.sampled_from(["rollout", "none"]), text | junk),
    "anneal_shape": (st.sampled_from(["linear", "cosine"]), text | junk),
    "warmup": (written(st.integers(0, 9)), no_whole | st.sampled_from([-1, 2**31])),
    "anneal": (st.just([]), text | st.integers() | st.lists(text | junk, min_size=1, max_size=2)),
} | {name: (RANGE.get(name, positive), no_number | st.sampled_from([-1.0, "-1", "1e999"])) for name in HYPERPARAMETERS}


def bad_algorithm() -> st.SearchStrategy:
    return (text | junk).filter(lambda x: not isinstance(x, str) or x not in presets.ALGORITHMS)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """What :class:`Config` is given, and the words of which its refusal must have one; none where it must not refuse."""
    algo, env = draw(st.sampled_from(presets.ALGORITHMS)), draw(st.sampled_from(ENVS))
    known = presets.options(algo, env)
    fields = {name: draw(FIELDS[name][0]) for name in draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=3))}
    always = {"num_envs", "num_steps", "hidden", *({"minibatches"} & known.keys())}  # the presets are large
    names = draw(st.sets(st.sampled_from(sorted(known)), max_size=4)) | always
    chosen = {name: draw(OPTIONS[name][0]) for name in sorted(names)}
    if "anneal" in chosen:
        chosen["anneal"] = draw(st.lists(st.sampled_from(sorted(HYPERPARAMETERS & known.keys())), max_size=2))
    asked = {"algo": algo, "env": env, "options": chosen} | fields
    blamed = []
    if int(chosen["num_envs"]) * int(chosen["num_steps"]) % int(chosen.get("minibatches", 1)):
        blamed.append("minibatches")
    if chosen.get("observation", known["observation"]) == "bounds" and env in UNBOUNDED:
        blamed.append("observation")
    if algo.startswith("reinforce"):  # an episode may be longer
        blamed.append("num_steps")
    if chosen.get("network") in ("gru", "lstm") and not chosen["hidden"]:
        blamed.append("hidden")
    asked_for = known | chosen
    unread = {"obs_clip"} if asked_for["observation"] != "running" else set()
    unread |= {"reward_scale"} if asked_for["reward_norm"] == "running" else set()
    if "shared" in known:
        unread |= {"critic_learning_rate" if chosen.get("shared") is True else "value_coef"}
    annealed = chosen.get("anneal", ())
    blamed += [name for name in unread if float(asked_for[name]) != known[name] or name in annealed]
    blamed += [name for name in presets.SWITCHES if name in annealed and float(asked_for[name]) == 0.0]
    if asked_for["anneal_shape"] == "cosine" and not asked_for["anneal"]:
        blamed.append("anneal_shape")
    if 0.0 < float(asked_for.get("target_kl", 0.0)) <= 2.0 * float(asked_for.get("desired_kl", 0.0)):
        blamed.append("target_kl")
    for kind in draw(st.lists(st.sampled_from(["field", "option", "name", "unread", "algo", "env", "options"]), max_size=2)):
        blamed += spoil(draw, kind, asked)
    return asked, blamed


def spoil(draw: st.DrawFn, kind: str, asked: dict[str, Any]) -> list[str]:
    """Put something wrong into ``asked``; the words that name it."""
    known = presets.options(asked["algo"], None) if asked["algo"] in presets.ALGORITHMS else {}
    there = asked["options"] if isinstance(asked["options"], dict) else {}
    if kind == "field":
        name = draw(st.sampled_from(sorted(FIELDS)))
        asked[name] = draw(FIELDS[name][1])
        return [f"{name} ="]
    if kind == "option" and known:
        name = draw(st.sampled_from(sorted(known)))
        there[name] = draw(OPTIONS[name][1])
        if name == "total_steps" and there[name] == 2**53:  # too many updates, of whatever size
            there |= {"num_envs": 1, "num_steps": 1} | ({"minibatches": 1} if "minibatches" in known else {})
        return [name]
    if kind == "name":
        name = draw(text.filter(lambda x: x not in OPTIONS) | st.sampled_from(["gama", "env_id", "algorithm", "self"]))
        there[name] = draw(junk)
        return ["unknown option"]
    if kind == "unread" and known and OPTIONS.keys() - known.keys():
        name = draw(st.sampled_from(sorted(OPTIONS.keys() - known.keys())))
        there[name] = draw(OPTIONS[name][0] | junk)
        return [name]
    if kind == "algo":
        asked["algo"] = draw(bad_algorithm())
        return ["algorithm"]
    if kind == "env":
        asked["env"] = draw((text | junk).filter(lambda x: x not in ENVS))
        return ["env"]
    if kind == "options":
        asked["options"] = draw(st.sampled_from([None, 3, "gamma", [1], {3: 4}, {None: 1}]))
        return ["options ="]
    return []


def refusal(call: Callable[[], Any]) -> str | None:
    """The one line with which ``call`` refuses; ``None`` where it does not. Whatever else it raises goes through."""
    try:
        call()
    except ValueError as error:
        line = str(error)
        assert line.isprintable(), f"no single line: {line!r}"
        assert len(line) < 700, "nobody reads that"
        return line
    return None


def traced(asked: dict[str, Any]) -> None:
    """As the command line does: check, build, trace; nothing is computed."""
    config = Config(**asked)
    env = envs.with_params(envs.make(config.env), config.env_params)
    algo = _named.build(config.algo, env, **config.options)
    jax.eval_shape(algo.update, jax.eval_shape(algo.init, jax.random.key(0)))


EXAMPLES = [  # (fields, options, the name of what is wrong)
    ({"algo": []}, {}, "algorithm"),
    ({"algo": None}, {}, "algorithm"),
    ({"algo": 10**5000}, {}, "algorithm"),
    ({"env": ["CartPole-v1"]}, {}, "env ="),
    ({"seeds": "1\n2"}, {}, "seeds ="),
    ({"seed": 10**5000}, {}, "seed ="),
    ({"options": {3: 4}}, {}, "options ="),
    ({}, {"env_id": 1}, "unknown option 'env_id'"),
    ({}, {"algorithm": "a2c"}, "unknown option 'algorithm'"),
    ({}, {"max_kl": "\n"}, "max_kl ="),
    ({}, {"anneal": ["epochs"]}, "hyperparameter in anneal 'epochs'"),
    ({}, {"anneal": ["\n"]}, "in anneal"),
    ({}, {"total_steps": 2**53, "num_envs": 1, "num_steps": 1}, "total_steps = 9007199254740992: num_updates ="),
]


@pytest.mark.parametrize(("fields", "chosen", "blamed"), EXAMPLES, ids=[str(i) for i in range(len(EXAMPLES))])
def test_what_was_once_no_line_or_named_nothing(fields: dict[str, Any], chosen: dict[str, Any], blamed: str) -> None:
    assert blamed in (refusal(lambda: Config(**{"algo": "ppo", "options": chosen} | fields)) or "")


def test_every_field_and_every_option_is_tried() -> None:
    fields = {field.name for field in dataclasses.fields(Config)}
    assert set(FIELDS) == fields - {"algo", "env", "options", "vary"}, "give a new one values that will do, and others"
    assert set(OPTIONS) >= {name for algo in presets.ALGORITHMS for name in presets.options(algo, None)}


@many
@given(configurations())
def test_a_configuration_is_traced_or_refused_with_the_name_of_what_is_wrong(case: tuple[dict[str, Any], list[str]]) -> None:
    asked, blamed = case
    line = refusal(lambda: traced(asked))
    if not blamed:
        assert line is None
    else:
        assert any(name in (line or "") for name in blamed), line


def raises(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_a_refusal_is_one_line_and_a_bug_is_none() -> None:
    assert refusal(raises(ValueError("gamma = 3"))) == "gamma = 3"
    assert refusal(lambda: None) is None
    for line in ("a\nb", "\x1b[31m", "\r", "\u2028"):
        with pytest.raises(AssertionError, match="no single line"):
            refusal(raises(ValueError(line)))
    with pytest.raises(TypeError):
        refusal(raises(TypeError("unhashable")))


@pytest.mark.parametrize("value", ["fast", 10**400, 10**5000, "a\nb"], ids=["text", "huge", "unprintable", "lines"])
@pytest.mark.parametrize("check", [
    lambda value: check_ranges(HParams(learning_rate=value)),
    lambda value: Config("ppo", options={"learning_rate": value}),
], ids=["HParams", "Config"])  # fmt: skip
def test_a_hyperparameter_that_is_no_number_is_named(check: Callable[[Any], Any], value: Any) -> None:
    assert (refusal(lambda: check(value)) or "").startswith("learning_rate = ")


def test_a_configuration_without_an_algorithm_is_refused() -> None:
    assert "unknown algorithm" in (refusal(lambda: Config.from_dict({"seeds": 3})) or "")


NAMES = [
    "--seeds",
    "--seed",
    "--env",
    "--gamma",
    "--hidden",
    "--anneal",
    "--max-kl",
    "--shard-envs",
    "--run-dir",
    "--help",
    "-h",
]
word = (
    st.sampled_from(NAMES)
    | st.sampled_from(["--", "-", "---", "=", "--=", "-x", "--no-such", "--ENV", "--tyro-print-completion", "@x", "│", "{"])
    | st.sampled_from(["3", "0", "-1", "0.5", "nan", "1e4", "CartPole-v1", "gamma", "bash", *presets.ALGORITHMS])
    | st.builds("{}={}".format, st.sampled_from(NAMES), text)
    | text
)
lines = st.lists(word, max_size=6) | st.builds(
    lambda algo, rest: [algo, *rest], st.sampled_from(presets.ALGORITHMS), st.lists(word, max_size=6)
)


@settings(many)
@given(lines)
@example(["ppo", "--tyro-print-completion", "x"])
@example(["ppo", "--tyro_write_completion", "bash", "stolen"])
def test_a_command_line_is_read_or_refused_in_one_line(arguments: list[str]) -> None:
    screen, stop, line = io.StringIO(), None, None
    try:
        with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
            line = refusal(lambda: options.read("train", arguments))
    except SystemExit as error:
        stop = error
    assert line != ""
    if stop is None:
        assert screen.getvalue() == ""
    else:
        assert not stop.code
        assert "usage: jaxpg train" in screen.getvalue()
        assert {"-h", "--help"} & set(arguments)


good_lines = st.fixed_dictionaries(
    {}, optional={"--seeds": st.integers(1, 9), "--gamma": st.floats(0, 1), "--run-dir": st.just("x"), "--num-envs": st.just(3)}
)


@settings(many)
@given(st.sampled_from(presets.ALGORITHMS), good_lines)
def test_a_good_command_line_is_read_as_it_is_meant(algo: str, chosen: dict[str, Any]) -> None:
    config, own = options.read("train", [algo, *(str(x) for pair in chosen.items() for x in pair)])
    for name, value in chosen.items():
        name = name.lstrip("-").replace("-", "_")
        assert config.options.get(name, getattr(config, name, None)) == value
    assert own == {}
