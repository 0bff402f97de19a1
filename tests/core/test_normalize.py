"""Scaling of observations and rewards against NumPy on everything seen so far."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxpg
from jaxpg.core import normalize
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.types import Trajectory
from jaxpg.envs import FunctionalEnv

T, B = 7, 3
HP = HParams(gamma=0.9, reward_scale=0.25)
GARBAGE = 1e6  # in rows of weight 0


def rollouts(seed, count, padded=0.0):
    """Consecutive rollouts of the same environments, episodes going on from one to the next; a share of rows is padding."""
    rng = np.random.default_rng(seed)
    length = np.zeros(B, int)
    for _ in range(count):
        weight = (rng.random((T, B)) >= padded).astype(np.float32)
        done = rng.random((T, B)) < 0.3
        lengths = np.zeros((T, B), int)
        for t in range(T):
            lengths[t] = length = length + 1
            length = np.where(done[t], 0, length)
        filled = weight[..., None] > 0
        obs = {
            "position": np.where(filled, rng.normal(50, 3, (T, B, 2)), GARBAGE),
            "count": np.where(filled[..., 0], rng.integers(0, 9, (T, B)), int(GARBAGE)),
        }
        yield Trajectory(
            obs=jax.tree.map(jnp.asarray, obs),
            action=jnp.zeros((T, B), int),
            dist=Categorical(jnp.zeros((T, B, 2))),
            reward=jnp.asarray(rng.normal(1, 2, (T, B))),
            terminated=jnp.asarray(done),
            truncated=jnp.zeros((T, B), bool),
            next_obs=jax.tree.map(jnp.asarray, obs),
            episode_return=jnp.zeros((T, B)),
            episode_length=jnp.asarray(lengths),
            weight=jnp.asarray(weight),
            memory=(),
            next_memory=(),
        )


def seen(trajectories, name):
    """All real observations of one component so far: ``[n, ...]``."""
    parts = [np.asarray(t.obs[name], np.float64)[np.asarray(t.weight) > 0] for t in trajectories]
    return np.concatenate(parts)


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.4, 0.9]))
def test_running_moments_are_those_of_all_real_observations(seed, padded):
    trajectories = list(rollouts(seed, 4, padded))
    running = normalize.RunningObservation(leaves=("position", "count"))
    stats = running.init(jax.tree.map(lambda x: x[0], trajectories[0].obs))
    assert stats.mean["position"].shape == (2,)
    assert stats.mean["count"].shape == ()
    for i, trajectory in enumerate(trajectories):
        stats = running.update(stats, trajectory, HP)
        assert stats.count == sum(np.sum(t.weight) for t in trajectories[: i + 1])
        for name in ("position", "count"):
            data = seen(trajectories[: i + 1], name)
            if len(data):
                np.testing.assert_allclose(stats.mean[name], data.mean(0), rtol=1e-5)
                np.testing.assert_allclose(stats.variance[name], data.var(0), rtol=1e-5, atol=1e-4)


def test_a_rollout_without_weight_changes_nothing():
    first, second = rollouts(0, 2)
    running = normalize.RunningObservation()
    stats = running.update(running.init(jax.tree.map(lambda x: x[0], first.obs)), first, HP)
    again = running.update(stats, second.replace(weight=jnp.zeros((T, B))), HP)
    jax.tree.map(np.testing.assert_array_equal, again, stats)
    fresh = running.init(jax.tree.map(lambda x: x[0], first.obs))
    still = running.update(fresh, second.replace(weight=jnp.zeros((T, B))), HP)
    jax.tree.map(np.testing.assert_array_equal, still, fresh)


def test_running_observations_are_standardised_and_clipped():
    trajectories = list(rollouts(1, 3))
    running = normalize.RunningObservation(clip=1.0, leaves=("position", "count"))
    obs = trajectories[0].obs
    stats = running.init(jax.tree.map(lambda x: x[0], obs))
    small = {"position": jnp.full((B, 2), 0.5), "count": jnp.ones(B, int)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), running.observation(stats, small), small)
    for trajectory in trajectories:
        stats = running.update(stats, trajectory, HP)
    for name in obs:
        data = seen(trajectories, name)
        expected = np.clip((np.asarray(obs[name]) - data.mean(0)) / data.std(0), -1.0, 1.0)
        scaled = running.observation(stats, obs)[name]
        assert scaled.dtype == jnp.float32
        np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-4)
        assert np.max(np.abs(scaled)) == 1.0


def test_running_rewards_are_scaled_by_the_deviation_of_the_discounted_return_of_each_episode():
    trajectories = list(rollouts(2, 3))
    running = normalize.RunningReward(clip=1.0)
    stats = running.init(jnp.zeros((B, 2)))
    reward = jnp.array([[0.1, -0.2, 100.0]])
    np.testing.assert_allclose(running.reward(stats, reward, HP), [[0.1, -0.2, 1.0]], rtol=1e-6)

    returns, current = [], np.zeros(B)
    for trajectory in trajectories:
        stats = running.update(stats, trajectory, HP)
        rewards, done = np.asarray(trajectory.reward, np.float64), np.asarray(trajectory.done)
        for t in range(T):
            for b in range(B):
                current[b] = 0.9 * current[b] + rewards[t, b]
                returns.append(current[b])
                if done[t, b]:
                    current[b] = 0.0
        deviation = np.std(returns)
        assert stats[0].variance.shape == ()
        expected = np.clip(np.array([[0.1, -0.2, 100.0]]) / deviation, -1.0, 1.0)
        np.testing.assert_allclose(running.reward(stats, reward, HP), expected, rtol=1e-5)
        np.testing.assert_allclose(running.reward(stats, trajectory.reward, HP).shape, (T, B))


def test_padding_does_not_enter_the_scale_of_rewards():
    (trajectory,) = rollouts(3, 1)
    ended = np.cumsum(np.asarray(trajectory.done), axis=0) - np.asarray(trajectory.done) > 0
    weight = jnp.asarray(~ended, float)
    running = normalize.RunningReward()
    clean, dirty = (
        running.update(running.init(jnp.zeros((B, 2))), trajectory.replace(weight=weight, reward=reward), HP)[0]
        for reward in (trajectory.reward, jnp.where(ended, GARBAGE, trajectory.reward))
    )
    assert ended.any()
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_constant_reward_is_a_factor_with_a_gradient():
    reward = jnp.array([[1.0, -4.0]])
    np.testing.assert_array_equal(normalize.ConstantReward().reward((), reward, HP), [[0.25, -1.0]])
    gradient = jax.grad(lambda hp: jnp.sum(normalize.ConstantReward().reward((), reward, hp)))(HP)
    assert gradient.reward_scale == -3.0


def test_bounded_observations_lie_between_minus_one_and_one():
    bounded = normalize.BoundedObservation.of(jaxpg.make("MountainCar-v0"))
    obs = jnp.array([[-1.2, -0.07], [0.6, 0.07], [-0.3, 0.0]])
    for batch in (obs, obs[None]):
        np.testing.assert_allclose(
            bounded.observation((), batch), np.broadcast_to([[-1, -1], [1, 1], [0, 0]], batch.shape), atol=1e-6
        )
    hash(bounded)


SHAPES = [(), (2,), (2, 3), (1, 2, 2)]
INTERVALS = [
    (-1.0, 1.0),
    (10.0, 20.0),
    (0.0, 1e-6),
    (1e6 - 1.0, 1e6 + 1.0),
    (-4e29, 4e29),
    (0.0, 1e30),
    (0.0, 1e-37),
    (3.0, 3.0),
]
DTYPES = [np.float32, np.float32, np.float16, np.int32, np.uint8, np.bool_]


def observing(space, obs):
    """An environment that declares ``space`` and gives ``obs``."""

    def step(key, state, action, params):
        return obs, state, 0.0, False

    return FunctionalEnv(lambda key, params: (obs, 0), step, spaces.Discrete(2), 4, name="Odd", obs_space=space)


@st.composite
def bounded_leaves(draw):
    """``(space, a value)``: a box of any shape and dtype; odd bounds for single floats, 0 and 1 for the others."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES))
    size = int(np.prod(shape))
    intervals = draw(
        st.lists(st.sampled_from(INTERVALS if dtype == np.float32 else [(0.0, 1.0)]), min_size=size, max_size=size)
    )
    low, high = (np.array(bound, np.float32).reshape(shape) for bound in zip(*intervals, strict=True))
    share = np.array(draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=size, max_size=size))).reshape(shape)
    value = np.clip(low + share * (high.astype(float) - low), low, high).astype(dtype)
    return spaces.Box(low, high, shape, dtype), value


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from("abc"), st.lists(bounded_leaves(), min_size=1, max_size=2), min_size=1))
def test_floats_of_any_tree_go_from_their_bounds_to_one_and_all_else_stays(tree):
    space = spaces.Dict({name: spaces.Tuple([box for box, _ in row]) for name, row in tree.items()})
    obs = {name: tuple(jnp.asarray(value) for _, value in row) for name, row in tree.items()}
    bounded = normalize.BoundedObservation.of(observing(space, obs))
    hash(bounded)
    bounded.init(jax.tree.map(lambda x: x[None], obs))
    scaled = bounded.observation((), obs)
    batch = bounded.observation((), jax.tree.map(lambda x: jnp.stack([x, x]), obs))
    for name, row in tree.items():
        for (box, value), found, several in zip(row, scaled[name], batch[name], strict=True):
            np.testing.assert_array_equal(several, np.stack([found, found]))
            if value.dtype.kind != "f":
                assert found.dtype == value.dtype
                np.testing.assert_array_equal(found, value)
                continue
            low, high = box.low.astype(float), box.high.astype(float)
            width = np.where(high > low, high - low, 1.0)
            expected = np.where(high > low, 2.0 * (value.astype(float) - low) / width - 1.0, 0.0)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
            assert np.all(np.asarray(found)[high == low] == 0.0)


def test_bounds_far_from_zero_cost_no_digits():
    """Three float32 numbers apart: the middle is none of them, and rounded to one it is wrong by a third of half the width."""
    low, high = np.float32(1e6), np.float32(1e6 + 3 * 2.0**-4)
    bounded = normalize.BoundedObservation((normalize.Bounds((float(low),), (float(high),), (1,)),))
    np.testing.assert_allclose(bounded.observation((), jnp.array([[low], [high]])), [[-1.0], [1.0]], atol=1e-6)


def test_observations_outside_of_their_bounds_are_clipped_if_one_wants_it():
    env = jaxpg.make("MountainCar-v0")
    far = jnp.array([[60.0, -0.07]])
    assert np.max(normalize.BoundedObservation.of(env).observation((), far)) > 60.0
    np.testing.assert_allclose(normalize.BoundedObservation.of(env, clip=1.5).observation((), far), [[1.5, -1.0]], rtol=1e-6)


REFUSED = {
    "nothing is declared": (None, jnp.zeros(1), "Odd declares no bounds; use running or none"),
    "numbers of states": (spaces.Discrete(3), jnp.int32(0), "Odd declares no bounds; use running or none"),
    "one side": (spaces.Box(0.0, np.inf, (1,)), jnp.zeros(1), "Odd declares no finite bounds; use running or none"),
    "very wide": (spaces.Box(-1e30, 1e30, (1,)), jnp.zeros(1), "Odd declares no finite bounds; use running or none"),
    "one leaf of several": (
        spaces.Dict({"a": spaces.Box(0, 1, ()), "b": spaces.Tuple([spaces.Box(-np.inf, np.inf, ())])}),
        {"a": jnp.zeros(()), "b": (jnp.zeros(()),)},
        "Odd declares no finite bounds for b/0; use running or none",
    ),
    "structure": (spaces.Dict({"a": spaces.Box(0, 1, ())}), jnp.zeros(1), "Odd declares observations of another structure"),
    "no space": (object(), jnp.zeros(1), "space is a object; it must be a gymnax space"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bounds_that_cannot_be_used_are_refused_in_one_line(case):
    space, obs, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        jaxpg.a2c(observing(space, obs), observation="bounds")
    assert "\n" not in str(caught.value)


def test_observations_of_another_shape_than_declared_are_refused():
    bounded = normalize.BoundedObservation.of(observing(spaces.Box(0, 1, (2,)), jnp.zeros(3)))
    with pytest.raises(ValueError, match=r"declares observations of shape \(2,\), but gives shape \(3,\); use running or none"):
        bounded.init(jnp.zeros((4, 3)))


def test_which_leaves_are_scaled_can_be_chosen():
    space = spaces.Dict({"map": spaces.Box(-np.inf, np.inf, (2,)), "pos": spaces.Tuple([spaces.Box(0, 4, (), np.int32)] * 2)})
    obs = {"map": jnp.array([5.0, 6.0]), "pos": (jnp.int32(1), jnp.int32(2))}
    bounded = normalize.BoundedObservation.of(observing(space, obs), leaves=("pos/1",))
    scaled = bounded.observation((), obs)
    assert scaled == {"map": scaled["map"], "pos": (1, 0.0)}
    np.testing.assert_array_equal(scaled["map"], obs["map"])
    batch = jax.tree.map(lambda x: x[None], obs)
    running = normalize.RunningObservation(leaves=("pos/0",))
    stats = running.init(batch)
    assert [x.shape for x in jax.tree.leaves(stats.mean)] == [()]
    assert running.observation(stats, batch)["pos"][0].dtype == jnp.float32
    assert running.observation(stats, batch)["pos"][1].dtype == jnp.int32
    for make in (
        lambda: normalize.RunningObservation(leaves=("pos",)).init(batch),
        lambda: normalize.BoundedObservation.of(observing(space, obs), leaves=("pos",)),
    ):
        with pytest.raises(ValueError, match="leaves has 'pos', but the observation has the leaves 'map', 'pos/0', 'pos/1'"):
            make()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES)), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.1, -3.7, 1e6 + 0.3, 1e-20, 1e15]),
    st.sampled_from([0.0, 0.5]),
)
def test_constant_components_are_zero_after_the_first_update_and_stay_so(leaves, number, padded):
    (trajectory,) = rollouts(len(leaves), 1, padded)
    value = tuple(np.array(number if dtype == np.float32 else 1, dtype) for _, dtype in leaves)
    obs = tuple(jnp.full((T, B, *shape), x) for (shape, _), x in zip(leaves, value, strict=True))
    trajectory = trajectory.replace(obs=obs, next_obs=obs)
    running = normalize.RunningObservation()
    first = jax.tree.map(lambda x: x[0], obs)
    stats = running.init(first)
    for _ in range(3):
        stats = running.update(stats, trajectory, HP)
        for x, found in zip(first, running.observation(stats, first), strict=True):
            is_float = jnp.issubdtype(x.dtype, jnp.floating)
            assert found.dtype == (jnp.float32 if is_float else x.dtype)
            np.testing.assert_array_equal(found, 0 * found if is_float else x)


def test_running_observations_need_not_be_clipped():
    running = normalize.RunningObservation(clip=None)
    assert running.observation(running.init(jnp.zeros((B, 2))), jnp.full((B, 2), 99.0)).max() > 98.0


def test_the_running_return_of_a_very_long_episode_keeps_its_digits():
    """1e8 steps in, it has long been where it stays: r / (1 - gamma). Whatever rounding does there is forgotten as fast."""
    gamma, reward = 0.999, 0.1
    steady = reward / (1.0 - float(np.float32(gamma)))
    running = normalize.RunningReward()
    stats, _ = running.init(jnp.zeros((B, 1)))
    (trajectory,) = rollouts(0, 1)
    length = jnp.full((4096, B), 10**8)
    long = trajectory.replace(reward=jnp.full((4096, B), reward), episode_length=length, weight=jnp.ones((4096, B)))
    _, after = jax.jit(running.update)((stats, jnp.full(B, steady)), long, HP.replace(gamma=gamma))
    np.testing.assert_allclose(after, steady, rtol=2.0**-23 / (1.0 - gamma))


def test_an_environment_without_finite_bounds_has_no_bounded_observations():
    with pytest.raises(ValueError, match=r"CartPole-v1 declares no finite bounds; use running or none"):
        normalize.BoundedObservation.of(jaxpg.make("CartPole-v1"))


def test_options_choose_how_observations_and_rewards_are_scaled():
    env = jaxpg.make("MountainCar-v0")

    def choose(**options):
        return jaxpg.a2c(env, hidden=(2,), **options)

    constant, running = normalize.ConstantReward(), normalize.RunningReward()
    assert choose(observation="none").normalizer == constant
    assert choose(observation="running").normalizer == normalize.Chain(normalize.RunningObservation(clip=10.0), constant)
    clipped = choose(observation="running", obs_clip=5, reward_norm="running")
    assert clipped.normalizer == normalize.Chain(normalize.RunningObservation(clip=5.0), running)
    assert clipped.hparams.reward_scale is None
    assert choose(observation="running", obs_clip=0).normalizer.first == normalize.RunningObservation(clip=None)
    state = clipped.init(jax.random.key(0))
    after, _ = jax.jit(clipped.update)(state)
    assert float(after.normalizer[1][0].count) == 16 * 16


def test_identity_changes_nothing():
    (trajectory,) = rollouts(4, 1)
    identity = normalize.identity
    stats = identity.init(trajectory.obs)
    assert jax.tree.leaves(identity.update(stats, trajectory, HP)) == []
    assert identity.observation(stats, trajectory.obs) is trajectory.obs
    assert identity.reward(stats, trajectory.reward, HP) is trajectory.reward


def test_chain_applies_one_after_the_other_on_statistics_of_raw_data():
    trajectories = list(rollouts(5, 2))
    running, constant = normalize.RunningReward(), normalize.ConstantReward()
    for first, second in ((running, constant), (constant, running)):
        chain = normalize.Chain(first, second)
        assert sorted(chain.reads) == ["gamma", "reward_scale"]
        chained, alone = chain.init(jnp.zeros((B, 2))), running.init(jnp.zeros((B, 2)))
        for trajectory in trajectories:
            chained, alone = chain.update(chained, trajectory, HP), running.update(alone, trajectory, HP)
        reward = jnp.array([[0.1, 0.2, -0.3]])
        np.testing.assert_allclose(chain.reward(chained, reward, HP), 0.25 * running.reward(alone, reward, HP), rtol=1e-6)
    observe = normalize.Chain(
        *(normalize.BoundedObservation((normalize.Bounds((low,), (high,), (1,)),)) for low, high in ((0.0, 4.0), (-1.0, 3.0)))
    )
    np.testing.assert_allclose(observe.observation(((), ()), jnp.array([[4.0], [0.0]])), [[0.0], [-1.0]])
