"""One run over two devices is the run on one device, with one all-reduce for each gradient step."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxpg
from jaxpg import envs
from jaxpg.algorithms.presets import ALGORITHMS
from jaxpg.core import normalize, objectives, rollout
from jaxpg.core._shuffle import permutations
from jaxpg.core.types import Batch
from jaxpg.loops import sharding

ONE_PART = {"ppo": {"epochs": 3, "minibatches": 1}, "trpo": {"epochs": 3, "minibatches": 1}}
COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(-start)?\("
)
# Takes a third of the time to compile; later versions have no such option.
FAST = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else None


def mesh(num_devices, axis="env", kind=AxisType.Auto):
    return jax.make_mesh((num_devices,), (axis,), axis_types=(kind,), devices=jax.devices("cpu")[:num_devices])


def small(name, **options):
    name, *kinds = name.split()
    options |= {"shared": True} if "shared" in kinds else {}
    options |= {"network": "gru"} if "gru" in kinds else {}
    env = envs.with_params(jaxpg.make("CartPole-v1"), {"max_steps_in_episode": 16})  # REINFORCE takes complete episodes
    return getattr(jaxpg, name)(env, **{"hidden": (8,), "num_envs": 4, "num_steps": 16} | options)


def compiled(function, *arguments, **options):
    return jax.jit(function, **options).lower(*arguments).compile(FAST)


@functools.cache
def started(name):
    algo, key = small(name, **ONE_PART.get(name.split()[0], {})), jax.random.key(0)
    return algo, compiled(algo.init, key)(key)


def difference(one, two):
    """The largest absolute difference of two trees; a NaN equals a NaN."""
    one, two = jax.device_get((jax.tree.leaves(one), jax.tree.leaves(two)))
    assert all(np.array_equal(np.isnan(a), np.isnan(b)) for a, b in zip(one, two, strict=True))
    return max(np.max(np.abs(np.nan_to_num(1.0 * a - b)), initial=0.0) for a, b in zip(one, two, strict=True))


def collectives(program):
    """(kind, the arrays it gives as text, whether it runs in a loop) for each collective of a compiled program."""
    found, entry = [], False
    for line in program.as_text().splitlines():
        if line and not line[0].isspace():
            entry = line.startswith("ENTRY")
        if match := COLLECTIVE.search(line):
            found.append((match[2], re.findall(r"\w+\[[\d,]*\]", match[1]), not entry))
    return found


def check_collectives(name, found, num_policy, num_critic):
    """One all-reduce for each step along a gradient; once an update, a few scalars; and no row of a trajectory travels."""
    assert {kind for kind, _, _ in found} == {"all-reduce"}
    policy, both, scalar = f"f32[{num_policy}]", f"f32[{num_policy + num_critic}]", "f32[]"
    in_loops = sorted(arrays for _, arrays, in_loop in found if in_loop)
    once = [array for _, arrays, in_loop in found if not in_loop for array in arrays]
    gradients = [array for array in once if array in (policy, both)]
    if name == "trpo":  # the critic's steps; a line search compares loss and KL; conjugate gradients
        assert in_loops == sorted([[f"f32[{num_critic}]"], [scalar, scalar], [policy]])
        assert gradients == [policy, policy]  # the gradient, and a product with the Fisher matrix for the length of the step
    elif name == "ppo":
        assert in_loops == [[both]]
        assert gradients == []
    else:  # a single step is no loop
        assert in_loops == []
        assert gradients == [both if num_critic else policy]
    rest = [array for array in once if array not in gradients]
    assert set(rest) - {scalar} <= {f"f32[{n}]" for n in (2, 3, 4)}, "metrics"
    assert len(rest) <= 20
    assert sum(not in_loop for _, _, in_loop in found) <= 7


@pytest.mark.parametrize("name", [*ALGORITHMS, "a2c shared", "ppo gru", "trpo gru", "ppo gru shared"])
def test_ten_updates_on_two_devices_are_those_on_one(name):
    algo, start = started(name)
    one, two = start, sharding.place(start, mesh(2))
    alone, shared = compiled(algo.update, one), compiled(sharding.shard_envs(algo, mesh(2)).update, two)
    alone_metrics = metrics = {}
    for _ in range(10):
        one, alone_metrics = alone(one)
        two, metrics = shared(two)  # compiled ahead, it refuses a state that does not lie where the first one did
    assert difference(one.params, two.params) < 1e-5
    assert difference((one.loop, alone_metrics), (two.loop, metrics)) < 1e-5
    assert difference(one.params, start.params) > 1e-3
    assert {x.sharding.spec for x in jax.tree.leaves(two.loop)} == {PartitionSpec("env")}
    if name in ALGORITHMS:
        check_collectives(name, collectives(shared), *(sum(x.size for x in jax.tree.leaves(part)) for part in start.params))


def by_hand(algo, state):
    """The parameters after one update of PPO on one device, whose minibatches are those that two devices would take."""
    _, key_rollout, key_update = jax.random.split(state.key, 3)
    actor, hp, params = algo.actor(state), state.hparams, state.params
    _, trajectory = algo.rollout(key_rollout, algo.env, state.env_params, actor, state.loop, algo.num_steps)
    batch = algo.batch(state, trajectory, hp)
    optimizer, opt_state = algo.update_rule.optimizer(hp), state.opt_state
    rows = np.arange(64).reshape(16, 2, 2).swapaxes(0, 1).reshape(2, 32)  # [step, device, env] -> [device, its rows]
    losses = algo.losses(state, hp)
    for order in permutations(key_update, algo.update_rule.epochs, 32):
        for part in jnp.split(order, algo.update_rule.minibatches):
            chosen = jax.tree.map(lambda x: x[:, jnp.asarray(rows)[:, part].ravel()], batch)  # noqa: B023
            gradient, _ = jax.grad(losses.total, has_aux=True)(params, chosen)
            step, opt_state = optimizer.update(gradient, opt_state)
            params = optax.apply_updates(params, step)
    return params


def test_a_minibatch_holds_rows_of_each_device_and_seeds_may_be_vmapped_over_it():
    algo = small("ppo", epochs=2, minibatches=2)
    per_env = normalize.Chain(normalize.RunningObservation(), normalize.RunningReward())  # its statistics have an array [B]
    algo = dataclasses.replace(algo, normalizer=per_env, hparams=algo.hparams.replace(reward_scale=None))
    both = sharding.shard_envs(algo, mesh(2))
    keys = jax.random.split(jax.random.key(1), 2)
    where = sharding.layout(jax.eval_shape(jax.vmap(both.init), keys), mesh(2))
    state = compiled(jax.vmap(both.init), keys, out_shardings=where)(keys)
    update = compiled(jax.vmap(lambda s: jaxpg.train(both, s, 1)), state, out_shardings=(where, None))
    reference = None
    in_loops = [arrays for _, arrays, in_loop in collectives(update) if in_loop]
    assert in_loops == [["f32[2,107]"]], "both seeds in one all-reduce"
    for _ in range(2):
        before, (state, _) = state, update(state)
        for seed in range(2):
            alone, after = jax.device_put(jax.tree.map(lambda x: x[seed], (before, state)), jax.devices("cpu")[0])  # noqa: B023
            reference = reference or compiled(functools.partial(by_hand, algo), alone)
            assert difference(reference(alone), after.params) < 1e-5
            assert difference(alone.params, after.params) > 1e-4


def one_update(name, reduction):
    """``rule -> (hp -> parameters and metrics)`` on rows whose weights differ much between the devices, and the algorithm."""
    algo, state = started(name)
    algo = dataclasses.replace(algo, reduction=reduction)
    keys = jax.random.split(jax.random.key(1), 5)
    obs, (advantage, target, value) = jax.random.normal(keys[0], (64, 4)), jax.random.normal(keys[1], (3, 64))
    dist, _ = algo.predict(state, obs)
    action = dist.sample(dist.noise(keys[2]))
    weight = jax.random.bernoulli(keys[3], jnp.tile(jnp.array([0.9, 0.9, 0.2, 0.1]), 16)).astype(float)
    start = jnp.zeros(64, bool)
    rows = Batch(obs, action, dist.log_prob(action), dist, value, advantage, target, weight, start, ())
    batch = jax.tree.map(lambda x: x[None], rows)  # sequences of one step

    def by(rule):
        def update(hp):
            params, _, metrics = rule.update(keys[4], algo.losses(state, hp), state.params, state.opt_state, batch, hp)
            return params, metrics

        return update

    return algo, state.hparams, by


@pytest.mark.parametrize(("name", "reduction"), [
    ("reinforce_baseline", objectives.mean_over_steps),
    ("reinforce_baseline", objectives.sum_over_steps),
    ("trpo", objectives.mean_over_steps),
])  # fmt: skip
def test_rows_of_unequal_weight_count_as_on_one_device(name, reduction):
    algo, hp, by = one_update(name, reduction)
    one = compiled(by(algo.update_rule), hp)(hp)
    two = compiled(by(sharding.shard_envs(algo, mesh(2)).update_rule), hp)(hp)
    assert difference(one, two) < 1e-5


def test_what_a_step_depends_on_is_the_same_on_every_device():
    """The KL that stops an update and adapts the step size is that of all rows, of whatever weight."""
    details = {"target_kl": 1e-3, "desired_kl": 1e-4, "epochs": 8, "minibatches": 1, "learning_rate": 8e-3}
    algo = small("ppo", **details)
    start = algo.init(jax.random.key(0))
    one, two = start, sharding.place(start, mesh(2))
    alone, shared = compiled(algo.update, one), compiled(sharding.shard_envs(algo, mesh(2)).update, two)
    stopped = []
    for _ in range(4):
        (one, metrics), (two, same) = alone(one), shared(two)
        assert difference(((one.params, one.opt_state), metrics), ((two.params, two.opt_state), same)) < 1e-5
        stopped.append(float(metrics["stopped"]))
    assert 0.0 < max(stopped) < 1.0
    assert one.opt_state.policy.scale != 1.0

    _, trajectory = algo.rollout(jax.random.key(1), algo.env, start.env_params, algo.actor(start), start.loop, 16)
    batch = algo.batch(start, trajectory, start.hparams)
    batch = batch.replace(weight=jnp.tile(jnp.array([1.0, 1.0, 0.0, 1.0]), 16)[None])

    def update(rule):
        return lambda hp: rule.update(jax.random.key(4), algo.losses(start, hp), start.params, start.opt_state, batch, hp)

    rules = algo.update_rule, sharding.shard_envs(algo, mesh(2)).update_rule
    first, second = (compiled(update(rule), start.hparams)(start.hparams) for rule in rules)
    assert difference(first, second) < 1e-5


def test_hyperparameter_gradients_are_those_on_one_device():
    algo, hp, by = one_update("reinforce_baseline", objectives.mean_over_steps)

    def gradient(rule):
        outer = lambda hp: sum(jnp.sum(jnp.sin(3.0 * x)) for x in jax.tree.leaves(by(rule)(hp)[0]))  # noqa: E731
        return jax.tree.leaves(compiled(jax.grad(outer), hp)(hp))

    one, two = gradient(algo.update_rule), gradient(sharding.shard_envs(algo, mesh(2)).update_rule)
    assert any(jnp.abs(x) > 1.0 for x in one)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def largest(x, weight, num_steps):
    return jnp.max(x)


@pytest.mark.parametrize(("algo", "wanted", "error"), [
    (small("a2c", num_envs=5), mesh(2), "num_envs = 5 is not divisible by the 2 devices that share them; make it a multiple"),
    (
        small("ppo", num_envs=6, num_steps=5, minibatches=2),
        mesh(2),
        "num_envs / devices * num_steps = 6 / 2 * 5 = 15 is not divisible by minibatches = 2; make it a multiple",
    ),
    (small("a2c"), mesh(2, "seed"), "mesh has the axes {'seed': Auto}, but needs an Auto axis 'env'"),
    (small("a2c"), mesh(2, kind=AxisType.Explicit), "mesh has the axes {'env': Explicit}, but needs an Auto axis 'env'"),
    (
        dataclasses.replace(small("a2c"), reduction=largest),
        mesh(2),
        "reduction = largest may have no mean over devices; take mean_over_steps or sum_over_steps",
    ),
    (
        small("ppo", advantage_norm="minibatch"),
        mesh(1),
        "advantage_norm = minibatch would standardise the rows of each device apart; take advantage_norm = rollout",
    ),
    (
        dataclasses.replace(small("ppo", minibatches=2), rollout=rollout.episodic),
        mesh(2),
        "minibatches = 2 of a rollout with weights (episodic) have no exact mean over devices; take 1",
    ),
])  # fmt: skip
def test_what_cannot_be_shared_exactly_is_refused(algo, wanted, error):
    with pytest.raises(ValueError, match=re.escape(error)) as caught:
        sharding.shard_envs(algo, wanted)
    assert "\n" not in str(caught.value)
