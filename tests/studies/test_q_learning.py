"""Q-learning and DQN find the Q* of a small MDP whose episodes are cut by a time limit; Q* is by value iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from experiments.q_learning import DQN, QLearning, QNetwork, Table
from jaxpg.envs import FunctionalEnv

NEXT = np.array([[1, 0], [2, 0], [3, 1]])  # of state and action; 3 is the end
REWARD = np.array([[0.0, 0.1], [0.5, 0.0], [1.0, -0.5]])
GAMMA = 0.8


def optimal():
    q = np.zeros((3, 2))
    for _ in range(200):
        q = REWARD + GAMMA * np.append(q.max(axis=1), 0.0)[NEXT]
    return q


def reset(key, params):
    state = jax.random.randint(key, (), 0, 3)
    return jax.nn.one_hot(state, 3), state


def step(key, state, action, params):
    new, reward = jnp.asarray(NEXT)[state, action], jnp.asarray(REWARD, jnp.float32)[state, action]
    return jax.nn.one_hot(new, 3), new, reward, new == 3


CHAIN = FunctionalEnv(reset, step, spaces.Discrete(2), max_steps=2)  # half of the episodes are cut, which must not matter
LEARNERS = {
    "table": QLearning(CHAIN, Table(lambda obs: jnp.argmax(obs), 3, 2), gamma=GAMMA, epsilon=0.5, exploration=1000),
    "network": DQN(
        CHAIN,
        QNetwork(2, hidden=()),
        gamma=GAMMA,
        epsilon=0.5,
        exploration=1000,
        learning_rate=0.01,
        buffer_size=2000,
        batch_size=64,
        warm_up=100,
        target_every=20,
    ),
}


@pytest.fixture(scope="module")
def states():
    def learned(learner):
        state = learner.init(jax.random.key(0))
        return jax.jit(lambda state: jax.lax.scan(lambda s, _: (learner.update(s), None), state, length=2000)[0])(state)

    return {name: learned(learner) for name, learner in LEARNERS.items()}


@pytest.mark.parametrize("name", LEARNERS)
def test_q_star_is_found_although_time_limits_cut_episodes(name, states):
    found = LEARNERS[name].network.apply(states[name].params, jnp.eye(3)).logits
    np.testing.assert_allclose(found, optimal(), atol=0.02)


def test_the_oldest_rows_of_the_buffer_are_overwritten(states):
    state, learner = states["network"], LEARNERS["network"]
    assert int(state.step) * learner.num_envs > learner.buffer_size
    rows = state.buffer
    assert np.all(np.abs(np.asarray(rows.obs).sum(axis=1) - 1.0) < 1e-6), "every row was written"
    s, a = np.argmax(rows.obs, axis=1), np.asarray(rows.action)
    np.testing.assert_allclose(rows.reward, REWARD[s, a], rtol=1e-6)
    np.testing.assert_array_equal(rows.terminated, NEXT[s, a] == 3)
    alive = ~np.asarray(rows.terminated)
    np.testing.assert_array_equal(np.argmax(rows.next_obs, axis=1)[alive], NEXT[s, a][alive])


def test_the_target_network_follows_at_intervals_once_there_is_something_to_follow():
    learner = LEARNERS["network"]
    state = learner.init(jax.random.key(0))
    update = jax.jit(learner.update)
    changes = []
    for _ in range(65):
        new = update(state)
        changes.append(any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (state.target, new.target)), strict=True)))
        state = new
    assert [i + 1 for i, changed in enumerate(changes) if changed] == [
        40,
        60,
    ]  # at 20 updates, 80 steps, the buffer is still warming up


def test_exploration_falls_from_all_to_its_end():
    learner = QLearning(CHAIN, Table(lambda obs: jnp.argmax(obs), 3, 2), num_envs=4000, epsilon=0.2, exploration=8000)
    state = learner.init(jax.random.key(1))
    state = state.replace(params=jnp.array([[1.0, 0.0]] * 3))
    for updates, other in ((0, 0.5), (1, 0.3), (2, 0.1), (9, 0.1)):  # half of what is random is the greedy action by chance
        _, rows = learner.act(jax.random.key(2), state.replace(step=jnp.int32(updates)))
        assert abs(float(jnp.mean(rows.action)) - other) < 0.03
