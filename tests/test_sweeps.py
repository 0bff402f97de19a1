"""Sweeps: every run is the run alone, whatever runs beside it, and however many at once."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxpg
from jaxpg import sweeping, training
from jaxpg.lab.engine import devices, programs, sweeps
from jaxpg.lab.store import leaves
from jaxpg.training import COUNTS

ENV = jaxpg.make("CartPole-v1")
SIZES = {"num_envs": 4, "num_steps": 8, "hidden": (8,)}
ALGO = jaxpg.a2c(ENV, **SIZES)
MAKE = functools.partial(jaxpg.a2c, ENV, **SIZES)
RATES = [1e-3, 0.03, 0.3]
SETTINGS = [*({"learning_rate": rate} for rate in RATES), {"learning_rate": 1e38, "critic_learning_rate": 1e38}]
SEED, SEEDS, EPISODES = 7, 3, 2
COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|collective-\w+|reduce-scatter")

COMPILED = []  # an entry for each program that XLA compiles
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


# Half the time to compile; later versions have no such option.
FAST = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What this process compiles, it compiles with ``FAST``."""
    original = jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, given=None: original(self, (given or {}) | FAST))


def swept(algorithm, vary, seeds=SEEDS, **options):
    """A sweep of two updates, its programs, and how many XLA compiled."""
    assert jax.local_device_count() == 2, "tests/conftest.py gives this process two CPU devices"
    made, original = [], programs.compiled
    sweeping.keys(SEED)  # its small programs are not those of a sweep
    COMPILED.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "compiled", lambda traced: made.append(original(traced)) or made[-1])
        found = jaxpg.sweep(algorithm, vary, seeds=seeds, total_steps=64, seed=SEED, eval_episodes=EPISODES, **options)
    return found, made, len(COMPILED)


@functools.cache
def whole():
    """The sweep that the others are held against: four settings, of which the last diverges."""
    return swept(ALGO, SETTINGS)


@functools.cache
def alone():
    """``(setting, seed) -> metrics, returns, update at which it diverged`` of a single run, by the pure functions only."""
    key_train, key_eval = sweeping.keys(SEED)
    hparams = jax.tree.map(np.float32, ALGO.hparams)
    init = jax.jit(ALGO.init).lower(key_train, hparams).compile()
    train = jaxpg.train.lower(ALGO, init(key_train, hparams), 1).compile()
    evaluation = {
        f"{'greedy' if greedy else 'sampled'}_return": jaxpg.evaluate.lower(
            ALGO, init(key_train, hparams), key_eval, EPISODES, greedy=greedy
        ).compile()
        for greedy in (True, False)
    }

    def run(setting, seed):
        hparams = jax.tree.map(np.float32, ALGO.hparams.replace(**setting))
        state, points, diverged_at = init(jax.random.fold_in(key_train, seed), hparams), [], 0
        for number in (1, 2):
            after, metrics = train(state)
            if not diverged_at and not is_finite(after, metrics):
                diverged_at = number
            if diverged_at:  # it stays where it was, and nothing is known of it
                metrics = {name: np.zeros(1) if name in COUNTS else np.full(1, np.nan) for name in metrics}
            else:
                state = after
            points.append(metrics)
        returns = {name: np.mean(evaluate(state, key_eval)["episode_return"]) for name, evaluate in evaluation.items()}
        return {name: np.concatenate([point[name] for point in points]) for name in points[0]}, returns, diverged_at

    return run


def is_finite(state, metrics):
    numbers = [*jax.tree.leaves(state.params), *(metrics[name] for name in metrics if name.endswith("loss"))]
    return all(np.isfinite(x).all() for x in numbers)


def assert_rows_equal(found, settings, whole_settings, seeds=SEEDS):
    """Those rows of ``found`` are those rows of :func:`whole`, to 1e-5."""
    reference = whole()[0]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    assert found.metrics.keys() == reference.metrics.keys()
    for i, j in zip(settings, whole_settings, strict=True):
        for name, values in found.metrics.items():
            close(values[i, :, :2], reference.metrics[name][j, :seeds], err_msg=name)
        for name, values in found.returns.items():
            close(values[i], reference.returns[name][j, :seeds], err_msg=name)


def test_every_run_is_the_run_alone():
    found, _, _ = whole()
    assert found.env_steps.tolist() == [[32.0, 64.0]] * 4
    assert found.settings == SETTINGS
    for i, setting in enumerate(SETTINGS):
        for seed in range(SEEDS):
            metrics, returns, diverged_at = alone()(setting, seed)
            assert found.metrics.keys() == metrics.keys()
            assert found.diverged_at[i, seed] == diverged_at == 2 * (i == 3)
            for name, values in metrics.items():
                np.testing.assert_allclose(found.metrics[name][i, seed], values, rtol=1e-5, atol=1e-5, err_msg=name)
            for name, value in returns.items():
                np.testing.assert_allclose(found.returns[name][i, seed], np.nan if diverged_at else value, rtol=1e-5)
    losses = found.metrics["policy_loss"]
    assert np.unique(losses[:3, :, 1]).size == 9, "no two runs are the same"
    assert not np.isnan(losses[:, :, 0]).any(), "what was measured before a run diverged is kept"
    assert np.array_equal(losses[:, :, 0], np.tile(losses[0, :, 0], (4, 1))), "before the first step, settings are"


def test_a_run_that_diverges_is_nan_and_marked_and_changes_no_other():
    found, _, _ = whole()
    assert found.diverged.tolist() == [[False] * SEEDS] * 3 + [[True] * SEEDS]
    assert found.diverged_at.tolist() == [[0] * SEEDS] * 3 + [[2] * SEEDS]
    for name, values in found.metrics.items():
        assert np.array_equal(values[3, :, 1], np.full(SEEDS, 0.0 if name in COUNTS else np.nan), equal_nan=True), name
    for values in found.returns.values():
        assert np.array_equal(np.isnan(values), found.diverged)
    without, _, _ = one_setting()
    assert not without.diverged.any()
    assert_rows_equal(without, [0], [1])


def chunks(made, *lengths, is_new=False):
    """The runs of :func:`whole` after so many updates at a time, as arrays by name, and the last metrics."""
    hparams = [ALGO.hparams.replace(**setting) for setting in SETTINGS for _ in range(SEEDS)]
    runs, metrics = programs.begun(made, [*range(SEEDS)] * len(SETTINGS), hparams), {}
    for length in lengths:
        runs, metrics = made.chunk(np.int32(length), np.bool_(is_new), runs)
    return leaves.flatten(runs, len(hparams)), jax.device_get(metrics)


def test_however_many_updates_are_done_at_once_bits_are_the_same():
    found, (made,), _ = whole()
    at_once, metrics = chunks(made, 2)
    one_by_one, same = chunks(made, 1, 1)
    assert leaves.digest(at_once) == leaves.digest(one_by_one)
    for name, values in metrics.items():
        np.testing.assert_array_equal(values, same[name], err_msg=name)
    points = [chunks(made, *[1] * count, is_new=True)[1] for count in (1, 2)]
    for name, values in found.metrics.items():
        logged = np.stack([point[name] for point in points], axis=-1)
        np.testing.assert_array_equal(logged.reshape(values.shape), values, err_msg=name)
        window = values[:3].sum(axis=-1) if name in COUNTS else values[:3].mean(axis=-1)
        if name not in training.EPISODIC:  # which are means over episodes
            np.testing.assert_allclose(metrics[name].reshape(4, SEEDS)[:3], window, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_run_that_diverges_stays_at_its_last_finite_state():
    _, (made,), _ = whole()
    runs = slice(3 * SEEDS, 4 * SEEDS)
    (before, first), (after, second) = chunks(made, 1), chunks(made, 2)
    for name, values in after.items():
        np.testing.assert_array_equal(values[runs], before[name][runs], err_msg=name)
    for name, values in second.items():  # of the updates before, of which there is one
        np.testing.assert_array_equal(values[runs], first[name][runs], err_msg=name)
    assert second["step"].reshape(4, SEEDS).tolist() == [[2] * SEEDS] * 3 + [[1] * SEEDS]
    assert all(np.isfinite(values[runs]).all() for name, values in after.items() if name.startswith("state.params."))


@functools.cache
def one_setting():
    """Three runs on two devices: a fourth is computed."""
    return swept(ALGO, {"learning_rate": [RATES[1]]})


def test_what_pads_the_devices_is_not_seen():
    found, (made,), _ = one_setting()
    assert (made.mesh.size, made.width) == (2, 4)
    assert {x.shape for x in found.metrics.values()} == {(1, 3, 2)}
    assert {x.shape for x in (*found.returns.values(), found.diverged_at)} == {(1, 3)}
    assert_rows_equal(found, [0], [1])


@functools.cache
def two_groups():
    return swept(MAKE, {"num_envs": [4, 2], "learning_rate": [RATES[2], RATES[0]]}, seeds=2)


def test_programs_are_compiled_once_a_group_whatever_the_number_of_settings():
    assert whole()[2] == one_setting()[2] == 3  # start, chunk, evaluation
    assert two_groups()[2] == 2 * 3


def test_an_update_is_traced_once_for_all_programs(monkeypatch):
    traced, original = [], jaxpg.Algorithm.update
    monkeypatch.setattr(jaxpg.Algorithm, "update", lambda algo, state: traced.append(algo) or original(algo, state))
    algo = MAKE(num_steps=7)  # no other test has traced it
    programs.trace(algo, sweeping.keys(SEED), EPISODES, 4, devices.seed_mesh(4))
    assert traced == [algo]


def test_a_product_of_sizes_ends_in_nan_where_a_setting_has_fewer_log_points():
    found, made, _ = two_groups()
    assert found.settings == [{"num_envs": n, "learning_rate": rate} for n in (4, 2) for rate in (RATES[2], RATES[0])]
    np.testing.assert_array_equal(found.env_steps, [[32, 64, np.nan, np.nan]] * 2 + [[16, 32, 48, 64]] * 2)
    for name, values in found.metrics.items():
        assert values.shape == (4, 2, 4)
        assert np.isnan(values[:2, :, 2:]).all(), name
    assert not np.isnan(found.metrics["entropy"][2:]).any()
    assert found.returns["greedy_return"].shape == (4, 2)
    assert [program.width for program in made] == [4, 4]
    assert_rows_equal(found, [0, 1], [2, 0], seeds=2)


def test_no_program_of_a_sweep_exchanges_anything_between_devices():
    _, (made,), _ = whole()
    for text in (program.as_text() for program in (made.start, made.chunk, made.evaluation)):
        assert "num_partitions=2" in text or "num_replicas=2" in text
        assert not COLLECTIVE.findall(text)
    total = jax.shard_map(lambda x: jax.lax.psum(x, "seed"), mesh=made.mesh, in_specs=devices.SEED, out_specs=PartitionSpec())
    assert COLLECTIVE.findall(jax.jit(total).lower(np.ones(2)).compile().as_text()), "one would be seen"


def test_one_device_in_lots_gives_the_same_as_two_at_once_and_lots_are_as_small_as_xla_needs_them(monkeypatch):
    _, (wide,), _ = whole()
    one = devices.seed_mesh(1)
    monkeypatch.setattr(devices, "seed_mesh", lambda runs: one)
    monkeypatch.setattr(sweeps, "HEADROOM", 0)  # the plan from shapes: all at once
    found, made, num_compiled = swept(ALGO, SETTINGS, memory=wide.bytes_per_run * 6)
    assert wide.mesh.size == 2
    assert [program.mesh.size for program in made] == [1, 1]
    assert made[0].width == 12
    assert made[1].width <= 6, "there is room for six at most"
    assert num_compiled == 2 * 3
    assert_rows_equal(found, range(4), range(4))


def test_xla_counts_at_least_the_state_of_a_run():
    _, (made,), _ = whole()
    state = jax.eval_shape(ALGO.init, jax.random.key(0))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert size < made.bytes_per_run < 100 * size


REFUSED = [
    (ALGO, {"num_envs": [4, 8]}, {}, "num_envs is a size of the program", "functools.partial(jaxpg.ppo, env)"),
    (ALGO, [{"gamma": 0.9}, {"hidden": (4,)}], {}, "hidden is a size of the program", "functools.partial"),
    (ALGO, {"learning_rat": [1e-3]}, {}, "unknown hyperparameter 'learning_rat'", "did you mean learning_rate"),
    (MAKE, {"learning_rat": [1e-3]}, {}, "unknown option 'learning_rat'", "did you mean learning_rate"),
    (ALGO, {"clip_eps": [0.1]}, {}, "clip_eps is not read by this algorithm, which reads", "entropy_coef, gae_lambda"),
    (MAKE, {"clip_eps": [0.1]}, {}, "clip_eps = 0.1 is not read by a2c", "entropy_coef, gae_lambda"),
    (ALGO, {"gamma": [0.9, 1.5]}, {}, "gamma = 1.5 is out of range", "must lie in [0, 1]"),
    (ALGO, {"learning_rate": [float("nan")]}, {}, "learning_rate = nan is out of range", "must lie in [0, inf)"),
    (ALGO, {"gamma": "0.9,0.99"}, {}, "gamma = . must be a number", ""),
    (ALGO, {"gamma": [0.9, None]}, {}, "gamma = None must be a number", ""),
    (ALGO, {"gamma": [[0.9]]}, {}, "gamma = [0.9] must be a number", ""),
    (ALGO, {"total_steps": [64]}, {}, "total_steps is a size of the program", "functools.partial"),
    (MAKE, {"total_steps": [64, 0]}, {}, "total_steps = 0", "must be at least 1"),
    (MAKE, {"num_envs": [4, 0]}, {}, "num_envs = 0", "at least 1"),
    (ALGO, [], {}, "vary is empty", "at least one setting"),
    (ALGO, {"gamma": []}, {}, "vary is empty", "at least one setting"),
    (ALGO, {"gamma": [0.9]}, {"seeds": 0}, "seeds = 0", "must be at least 1"),
    (ALGO, {"gamma": [0.9]}, {"total_steps": 0}, "total_steps = 0", "must be at least 1"),
    (ALGO, {"gamma": [0.9]}, {"eval_episodes": -1}, "eval_episodes = -1", "must be at least 1"),
    (ALGO, {"gamma": [0.9]}, {"memory": 1024}, "one run needs", "are missing"),
]


@pytest.mark.parametrize(("algorithm", "vary", "options", "says", "mend"), REFUSED, ids=[f"{x[3]}, {x[1]}" for x in REFUSED])
def test_what_cannot_be_swept_is_refused_in_one_line_before_anything_is_compiled(algorithm, vary, options, says, mend):
    sweeping.keys(0)  # its small programs are not those of a sweep
    COMPILED.clear()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        jaxpg.sweep(algorithm, vary, **{"seeds": 2, "total_steps": 32} | options)
    message = str(caught.value)
    assert message.startswith(says)
    assert mend in message
    assert "\n" not in message
    assert not COMPILED
