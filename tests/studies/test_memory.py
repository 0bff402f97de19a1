"""What is asked for later is answered with memory and guessed without; wrappers show what they say, and so does the text."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from experiments import memory, study
from jaxpg.envs import FunctionalEnv

GALLERY = (study.FIGURES.parents[1] / "docs/gallery/memory_images_masks.md").read_text()
STORED = json.loads((study.FIGURES / "memory.json").read_text())["cells"]


def episode(env, actions, seed=0):
    """Observations, rewards and ends, one step after the other."""
    params = env.default_params
    obs, state = env.reset(jax.random.key(seed), params)
    rows = []
    for i, action in enumerate(actions):
        after, state, reward, terminated, truncated, info = env.step(jax.random.key(i), state, jnp.int32(action), params)
        rows.append((obs, float(reward), bool(terminated | truncated), info["final_observation"]))
        obs = after
    return rows


def test_a_probe_shows_the_symbol_once_and_pays_for_the_right_answer_at_the_end():
    env, answers = memory.probe(3), set()
    for seed in range(20):
        shown = int(np.argmax(episode(env, [0], seed)[0][0]))
        answers.add(shown)
        for action in range(memory.SYMBOLS):
            rows = episode(env, [3, 3, 3, action], seed)
            assert [reward for _, reward, _, _ in rows] == [0, 0, 0, action == shown]
            assert [done for _, _, done, _ in rows] == [False, False, False, True]
            np.testing.assert_array_equal(rows[0][0], np.eye(5)[shown])
            np.testing.assert_array_equal([obs for obs, *_ in rows[1:]], [np.zeros(5), np.zeros(5), np.eye(5)[4]])
    assert answers == set(range(memory.SYMBOLS))


def counter():
    """Observations (t, -t) for three steps; every episode begins with another number of tens."""

    def see(state):
        return jnp.stack([state, -state])

    def reset(key, params):
        start = 10.0 * jax.random.randint(key, (), 1, 9)
        return see(start), start

    space = spaces.Box(jnp.array([0.0, -99.0]), jnp.array([99.0, 0.0]), (2,))
    return FunctionalEnv(
        reset, lambda key, t, action, params: (see(t + 1), t + 1, 1.0, False), spaces.Discrete(2), 3, obs_space=space
    )


def test_a_stack_is_the_last_observations_and_forgets_when_an_episode_ends():
    inner, rows = episode(counter(), [0] * 7), episode(memory.Stack(counter()), [0] * 7)
    past = []
    for (obs, _, done, final), (frames, _, ended, last) in zip(inner, rows, strict=True):
        past = [*past, obs] if past else [obs] * memory.FRAMES
        np.testing.assert_array_equal(frames, np.concatenate(past[-memory.FRAMES :]))
        np.testing.assert_array_equal(last, np.concatenate([*past, final][-memory.FRAMES :]))
        assert ended == done
        past = [] if done else past


def test_what_is_kept_of_an_observation_is_kept_of_the_final_one_and_of_the_bounds():
    env = memory.Partial(counter(), (1,))
    for (obs, _, _, final), (seen, _, _, last) in zip(episode(counter(), [0] * 7), episode(env, [0] * 7), strict=True):
        np.testing.assert_array_equal((seen, last), (obs[1:], final[1:]))
    space, stacked = env.observation_space(None), memory.Stack(env).observation_space(None)
    assert (space.shape, np.ravel(space.low).tolist(), np.ravel(space.high).tolist()) == ((1,), [-99.0], [0.0])
    assert (stacked.shape, np.ravel(stacked.low).tolist()) == ((4,), [-99.0] * 4)


def test_without_velocities_two_components_are_left_and_every_environment_keeps_the_rules():
    for name, task in memory.tasks().items():
        for env in (task.env, memory.Stack(task.env)):
            obs = env.reset(jax.random.key(0), env.default_params)[0]
            assert obs.shape == env.observation_space(env.default_params).shape
            if name in ("cartpole", "pendulum"):
                assert obs.shape[-1] == 2 * (memory.FRAMES if env is not task.env else 1)
    jaxpg.check_env(memory.Stack(memory.tasks()["cartpole"].env))


def test_the_forecast_regrets_nothing_and_its_luck_is_what_the_chain_pays_at_random():
    env = jaxpg.make("UmbrellaChain-bsuite")
    best, params = memory.Forecast(), env.default_params
    for seed in range(4):
        obs, state = env.reset(jax.random.key(seed), params)
        total, random, last = 0.0, 0.0, state
        for i in range(params.chain_length):
            action = best.apply(jnp.zeros(()), obs[None]).mode()[0]
            last, (obs, state, reward, *_) = state, env.step_env(jax.random.key(i), state, action, params)[:4]
            total += float(reward)
            random += float(reward) * (i < params.chain_length - 1)
        assert int(state.total_regret) == 0
        assert total - random == 1.0
        assert int(last.time) == params.chain_length - 1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two probes and the umbrella, with and without memory, small."""
    out = tmp_path_factory.mktemp("memory")
    options = {"num_envs": 32, "num_steps": 12, "epochs": 4, "minibatches": 1, "hidden": (16,), "gamma": 0.9}
    options |= {"learning_rate": 5e-3, "critic_learning_rate": 5e-3}
    few = {"probe-5": memory.Task("short", memory.probe(2), 24_000, 2, options, solved=0.99, chance=0.25)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "tasks", lambda: few)
        memory.main(memories=("gru", "mlp"), out=out)
        memory.main(memories=("lstm", "stack"), out=out)
        text = memory.table(json.loads((out / "memory.json").read_text())["cells"])
    assert (out / "memory.png").stat().st_size > 10_000
    return json.loads((out / "memory.json").read_text())["cells"], text


def test_with_memory_all_answers_are_right_and_without_a_quarter(small):
    cells, text = small
    for name in ("gru", "lstm", "stack"):
        assert min(cells[f"probe-5 {name}"]["greedy"]) > 0.99, name  # four frames hold three
    assert 0.1 < min(cells["probe-5 mlp"]["greedy"]) <= max(cells["probe-5 mlp"]["greedy"]) < 0.45
    assert "| 1.00, 1.00, 2 of 2 | 1.00, 1.00, 2 of 2 | 1.00, 1.00, 2 of 2 |" in text


def test_the_table_in_the_text_is_what_is_stored():
    assert memory.table(STORED) in GALLERY


def test_what_the_text_says_of_the_stored_numbers_holds():
    for delay in (5, 20, 80):
        assert STORED[f"probe-{delay} gru"]["solved"]["solved"] == len(STORED[f"probe-{delay} gru"]["greedy"]) == 16
        for blind in ("mlp", "stack"):
            assert max(STORED[f"probe-{delay} {blind}"]["greedy"]) < 0.4
    assert STORED["cartpole gru"]["summary"]["median"] == 500.0
    assert len(STORED["cartpole gru"]["greedy"]) == 16
