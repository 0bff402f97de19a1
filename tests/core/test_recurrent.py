"""Memory through time: against NumPy, against flax's own cells, and against the mistakes that recurrent code is known for."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import jaxpg
from jaxpg.core.networks import MLP, CategoricalHead, Feedforward, PolicyAndValueHead, ValueHead
from jaxpg.core.recurrent import GRU, LSTM, Recurrent, Scanned
from jaxpg.envs import FunctionalEnv

T, B, F, H = 12, 3, 4, 5
LAYERS = {
    "gru": GRU(H),
    "lstm": LSTM(H),
    "flax gru": nn.GRUCell(H, dtype=float, param_dtype=float),
    "flax lstm": nn.OptimizedLSTMCell(H, dtype=float, param_dtype=float),
}
every_layer = pytest.mark.parametrize("layer", LAYERS)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, float)


def disturb(variables: Any) -> Any:
    """Biases that are not zero."""
    return jax.tree.map(lambda x: x + 0.3 * normal(x.size, *x.shape), variables)


def starts() -> jax.Array:
    return jnp.zeros((T, B), bool).at[0, 0].set(True).at[4, 0].set(True).at[5, 1].set(True).at[6, 1].set(True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def unroll(kind: str, p: dict[str, Any], memory: Any, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """One environment after the other, one step after the other."""
    y = np.zeros((T, B, H))
    gates, w = x @ np.asarray(p["input"]["kernel"]) + np.asarray(p["input"]["bias"]), np.asarray(p["recurrent"])
    for b in range(B):
        state = [np.asarray(m)[b] for m in jax.tree.leaves(memory)]
        for t in range(T):
            if start[t, b]:
                state = [0 * m for m in state]
            h = state[-1]
            if kind == "gru":
                (a_r, a_z, a_n), (q_r, q_z, q_n) = np.split(gates[t, b], 3), np.split(h @ w, 3)
                r, z = sigmoid(a_r + q_r), sigmoid(a_z + q_z)
                n = np.tanh(a_n + r * (q_n + np.asarray(p["bias"])))
                state = [(1 - z) * n + z * h]
            else:
                i, f, g, o = np.split(gates[t, b] + h @ w, 4)
                c = sigmoid(f) * state[0] + sigmoid(i) * np.tanh(g)
                state = [c, sigmoid(o) * np.tanh(c)]
            y[t, b] = state[-1]
    return y


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_layer_is_its_equations_with_memory_forgotten_where_an_episode_begins(kind: str, x64: None) -> None:
    layer, x = LAYERS[kind], normal(0, T, B, F)
    memory = jax.tree.map(lambda m: normal(m.size, *m.shape), layer.initial_memory(B))
    p = disturb(layer.init(jax.random.key(0), memory, x, starts()))["params"]
    last, y = layer.apply({"params": p}, memory, x, starts())
    np.testing.assert_allclose(y, unroll(kind, p, memory, np.asarray(x), np.asarray(starts())), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(jax.tree.leaves(last)[-1], y[-1])


def as_flax(kind: str, p: dict[str, Any]) -> dict[str, Any]:
    """Our parameters as those of flax's cell."""
    names = {"gru": "rzn", "lstm": "ifgo"}[kind]
    split = {name: jnp.split(x, len(names), axis=-1) for name, x in (("w", p["recurrent"]), *p["input"].items())}
    cell = {}
    for i, name in enumerate(names):
        kernel, bias = {"kernel": split["kernel"][i]}, {"bias": split["bias"][i]}
        cell[f"i{name}"] = kernel | (bias if kind == "gru" else {})
        cell[f"h{name}"] = {"kernel": split["w"][i]} | (bias if kind == "lstm" else {})
    if kind == "gru":
        cell["hn"]["bias"] = p["bias"]
    return {"params": {"cell": cell}}


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_layer_and_all_its_derivatives_are_those_of_flax_s_cell_in_a_scan(kind: str, x64: None) -> None:
    layer, cell, x = LAYERS[kind], Scanned(LAYERS[f"flax {kind}"]), normal(0, T, B, F)
    memory = jax.tree.map(lambda m: normal(m.size, *m.shape), layer.initial_memory(B))
    p = disturb(layer.init(jax.random.key(0), memory, x, starts()))["params"]

    def ours(p: Any, memory: Any, x: Any) -> jax.Array:
        last, y = layer.apply({"params": p}, memory, x, starts())
        return jnp.sum(jnp.sin(y * jnp.arange(1.0, H + 1))) + sum(jnp.sum(m**2) for m in jax.tree.leaves(last))

    def theirs(p: Any, memory: Any, x: Any) -> jax.Array:
        last, y = cell.apply(as_flax(kind, p), memory, x, starts())
        return jnp.sum(jnp.sin(y * jnp.arange(1.0, H + 1))) + sum(jnp.sum(m**2) for m in jax.tree.leaves(last))

    at = p, memory, x
    toward = jax.tree.map(lambda x: normal(x.size + 1, *x.shape), at)
    for derive in (
        lambda f: f(*at),
        lambda f: jax.grad(f, (0, 1, 2))(*at),  # reverse
        lambda f: jax.jvp(f, at, toward)[1],  # forward
        lambda f: jax.jvp(jax.grad(f, (0, 1, 2)), at, toward)[1],  # forward over reverse: TRPO's Fisher-vector product
        lambda f: jax.grad(lambda *x: jax.jvp(lambda p: f(p, *x[1:]), x[:1], toward[:1])[1], (0, 1, 2))(*at),
    ):
        one, two = (jax.tree.leaves(derive(f)) for f in (ours, theirs))
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def half_life(layer: Any) -> np.ndarray:
    """Steps in which half of each unit's first memory is gone, with no input and no recurrent weights: by counting."""
    memory = jax.tree.map(jnp.ones_like, layer.initial_memory(1))
    x, start = jnp.zeros((400, 1, F)), jnp.zeros((400, 1), bool)
    p = dict(layer.init(jax.random.key(0), memory, x, start)["params"])
    p["recurrent"] = jnp.zeros_like(p["recurrent"])
    kept, memories = [], memory
    step = jax.jit(lambda memory: layer.apply({"params": p}, memory, x[:1], start[:1])[0])
    for _ in range(400):
        memories = step(memories)
        kept.append(np.asarray(jax.tree.leaves(memories)[0])[0])
    return np.sum(np.array(kept) > 0.5, axis=0)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_units_begin_with_memories_of_all_lengths_and_with_timescale_2_with_the_biases_of_flax(kind: str) -> None:
    cls = type(LAYERS[kind])
    steps = half_life(cls(64, timescale=200.0)) / np.log(2.0)
    assert steps.min() < 30
    assert 150 < steps.max() < 201
    assert 75 < steps.mean() < 125, "uniform"
    assert half_life(cls(64, timescale=2.0)).max() <= 1
    layer = cls(4, timescale=2.0)
    p = layer.init(jax.random.key(0), layer.initial_memory(1), jnp.zeros((1, 1, F)), jnp.zeros((1, 1), bool))["params"]
    assert not np.any(p["input"]["bias"])
    with pytest.raises(ValueError, match=r"timescale = 1 is out of range; give .* at least 2"):
        cls(4, timescale=1).init(jax.random.key(0), layer.initial_memory(1), jnp.zeros((1, 1, F)), jnp.zeros((1, 1), bool))


@every_layer
def test_stepping_is_replaying(layer: str, x64: None) -> None:
    net, obs, start = Recurrent(MLP((F,)), LAYERS[layer], CategoricalHead(2)), normal(0, T, B, F), starts()
    memory = net.initial_memory(B)
    variables = disturb(net.init(jax.random.key(0), memory, obs, start))
    last, replayed = net.apply(variables, memory, obs, start)
    for t in range(T):
        memory, dist = net.apply(variables, memory, obs[t : t + 1], start[t : t + 1])
        np.testing.assert_allclose(dist.logits[0], replayed.logits[t], rtol=1e-10)
    np.testing.assert_allclose(*(np.concatenate(jax.tree.leaves(m)) for m in (memory, last)), rtol=1e-10)


@every_layer
def test_nothing_leaks_between_environments_or_across_the_start_of_an_episode(layer: str) -> None:
    net, obs, start = Recurrent(MLP((F,)), LAYERS[layer], ValueHead()), normal(0, T, B, F).astype(jnp.float32), starts()
    memory = net.initial_memory(B)
    variables = disturb(net.init(jax.random.key(0), memory, obs, start))
    by_obs = jax.jacrev(lambda obs: net.apply(variables, memory, obs, start)[1])(obs)  # [T, B, T, B, F]
    influence = np.abs(np.asarray(by_obs)).sum(-1)
    for b in range(B):
        others = [other for other in range(B) if other != b]
        assert np.all(influence[:, b][:, :, others] == 0), "another environment"
    assert np.all(influence[4:, 0, :4, 0] == 0), "before the start"
    assert np.all(influence[4, 0, 4, 0] > 0)
    assert np.all(influence[:4, 0, 4:, 0] == 0), "the future"
    assert influence[3, 0, 0, 0] > 0, "the past of the same episode"


def recall(max_steps: int = 6, terminates: bool = False) -> FunctionalEnv:
    """A bit is shown in the first observation, asked for later, and the reward is for the right answer at the end."""

    def observe(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        bit, time = state
        return jnp.stack([jnp.where(time == 0, 2.0 * bit - 1.0, 0.0), time / max_steps])

    def reset(key: jax.Array, params: Any) -> Any:
        state = jax.random.bernoulli(key).astype(float), jnp.zeros((), float)
        return observe(state), state

    def step(key: jax.Array, state: Any, action: jax.Array, params: Any) -> Any:
        bit, time = state
        state = bit, time + 1.0
        return observe(state), state, 1.0 * (action == bit) * (time == max_steps - 1), terminates & (time == max_steps - 1)

    return FunctionalEnv(reset, step, spaces.Discrete(2), max_steps)


class Ignores(nn.Module):
    """A layer that does not look at its memory."""

    def initial_memory(self, num_envs: int) -> jax.Array:
        return jnp.zeros((num_envs, 1))

    @nn.compact
    def __call__(self, memory: jax.Array, x: jax.Array, start: jax.Array) -> Any:
        return memory + 1.0, x


@pytest.mark.parametrize("name", ["reinforce_baseline", "a2c", "ppo", "trpo"])
def test_a_network_that_ignores_its_memory_is_the_feed_forward_one(name: str, x64: None) -> None:
    options = {"num_envs": 4, "num_steps": 8} | ({"epochs": 3, "minibatches": 1} if name in ("ppo", "trpo") else {})
    heads, env = (CategoricalHead(2), ValueHead()), recall(8)
    plain = getattr(jaxpg, name)(env, **options, network=jaxpg.Separate(*(Feedforward(MLP((6,)), head) for head in heads)))
    network = jaxpg.Separate(*(Recurrent(MLP((6,)), Ignores(), head) for head in heads))
    with_memory = dataclasses.replace(plain, network=network)
    one, two = plain.init(jax.random.key(0)), with_memory.init(jax.random.key(0))
    assert jax.tree.structure(one.params) == jax.tree.structure(two.params)
    two = two.replace(params=one.params)
    one, metrics = jax.jit(plain.update)(one)
    two, found = jax.jit(with_memory.update)(two)
    for a, b in zip(jax.tree.leaves((one.params, metrics)), jax.tree.leaves((two.params, found)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def recurrent(name: str = "ppo", env: Any = None, **options: Any) -> jaxpg.Algorithm:
    sizes = {"num_envs": 4, "num_steps": 8, "hidden": (6,), "network": "gru"}
    return getattr(jaxpg, name)(env or recall(5), **sizes | options)


def rolled_out(algo: jaxpg.Algorithm, updates: int = 1) -> tuple[Any, Any]:
    """A state in the middle of episodes, and the rollout that its next update would learn from."""
    state, update = algo.init(jax.random.key(0)), jax.jit(algo.update)
    for _ in range(updates):
        state, _ = update(state)

    @jax.jit
    def rollout(s: Any) -> Any:
        return algo.rollout(jax.random.key(1), algo.env, s.env_params, algo.actor(s), s.loop, algo.num_steps)[1]

    return state, rollout(state)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_the_ratio_is_1_before_the_first_step_for_sequences_of_any_length(length: int, shared: bool, x64: None) -> None:
    """Each sequence begins with the memory that the rollout had there, also in the middle of an episode."""
    algo = recurrent(minibatches=1, sequence_length=length, shared=shared)
    state, trajectory = rolled_out(algo)
    batch = jax.jit(algo.batch)(state, trajectory, state.hparams)
    assert batch.obs.shape == (length, 32 // length, 2)
    memory = jax.tree.map(lambda x: x[0], batch.memory)
    _, dist, value = algo.network.apply({"params": state.params}, memory, batch.obs, batch.start)
    np.testing.assert_allclose(jnp.exp(dist.log_prob(batch.action) - batch.log_prob), 1.0, rtol=1e-12)
    np.testing.assert_allclose(value, batch.value, rtol=1e-9, atol=1e-12)
    assert np.asarray(batch.start).sum() > 4, "episodes end inside the rollout"


def test_a_gradient_through_sequences_is_the_finite_difference_through_a_start_in_the_middle(x64: None) -> None:
    algo = recurrent("a2c")
    state, trajectory = rolled_out(algo)
    assert trajectory.start[1:].any()
    batch, losses = algo.batch(state, trajectory, state.hparams), algo.losses(state, state.hparams)
    flat, unravel = jax.flatten_util.ravel_pytree(state.params)
    loss = jax.jit(lambda x: losses.total(unravel(x), batch)[0])
    direction = normal(5, flat.size)
    difference = (loss(flat + 1e-6 * direction) - loss(flat - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(flat), direction), difference, rtol=1e-6)


def test_moving_a_start_by_one_step_changes_the_loss() -> None:
    algo = recurrent("a2c")
    state, trajectory = rolled_out(algo)
    losses = algo.losses(state, state.hparams)
    batch = algo.batch(state, trajectory, state.hparams)
    late = batch.replace(start=jnp.roll(batch.start, 1, axis=0))
    assert losses.policy(state.params, batch)[0] != losses.policy(state.params, late)[0]


def test_the_value_of_a_final_observation_is_that_with_the_memory_after_its_episode_s_last_step(x64: None) -> None:
    """Against stepping by hand; the three usual mistakes (a fresh memory, that before the step, the next episode's) differ."""
    algo = recurrent("actor_critic", recall(3), gamma=0.5, reward_scale=1.0)
    state, trajectory = rolled_out(algo)
    critic, p = algo.network.critic, {"params": state.params.critic}

    def one_value(memory: Any, obs: Any, b: int, start: bool) -> float:
        memory = jax.tree.map(lambda x: x[b : b + 1], memory)
        return float(critic.apply(p, memory, obs[None, b : b + 1], jnp.array([[start]]))[1][0, 0])

    value, advantage, target = jax.jit(algo.estimate)(state, trajectory, state.hparams)
    memory, cut = state.loop.memory[1], 0
    mistakes: dict[str, list[float]] = {"fresh": [], "before": [], "next": []}
    for t in range(algo.num_steps):
        after, v = critic.apply(p, memory, trajectory.obs[t][None], trajectory.start[t][None])
        np.testing.assert_allclose(value[t], v[0], rtol=1e-9, atol=1e-12)
        for b in range(algo.num_envs):
            following = one_value(after, trajectory.next_obs[t], b, False)
            expected = trajectory.reward[t, b] + 0.5 * following * (1 - trajectory.terminated[t, b])
            np.testing.assert_allclose(target[t, b], expected, rtol=1e-9, atol=1e-12)
            if trajectory.truncated[t, b]:
                cut += 1
                mistakes["fresh"].append(one_value(after, trajectory.next_obs[t], b, True) - following)
                mistakes["before"].append(one_value(memory, trajectory.next_obs[t], b, False) - following)
                if t + 1 < algo.num_steps:
                    mistakes["next"].append(float(value[t + 1, b]) - following)
        memory = after
    assert cut >= 4
    assert all(np.abs(errors).min() > 1e-6 for errors in mistakes.values())
    np.testing.assert_allclose(advantage, target - value, rtol=1e-9, atol=1e-12)


def test_evaluation_and_a_vmapped_run_remember() -> None:
    """A GRU answers what it was shown; without memory half of the answers are right."""
    options = {"num_envs": 16, "num_steps": 12, "hidden": (16,), "epochs": 8, "minibatches": 1, "gamma": 0.9}
    options |= {"learning_rate": 5e-3, "critic_learning_rate": 5e-3}
    found = {}
    for network in ("gru", "mlp"):
        algo = jaxpg.ppo(recall(4, terminates=True), network=network, **options)
        state, _ = jaxpg.train(algo, algo.init(jax.random.key(0)), 120, 120)
        found[network] = np.asarray(jaxpg.evaluate(algo, state, jax.random.key(1), 128, greedy=True)["episode_return"])
    assert found["gru"].mean() == 1.0
    assert 0.3 < found["mlp"].mean() < 0.7


def test_sequences_must_divide_the_rollout_and_the_minibatches_the_sequences() -> None:
    with pytest.raises(ValueError, match="sequence_length = 3 must divide num_steps = 8"):
        recurrent(sequence_length=3)
    with pytest.raises(ValueError, match=r"= 32, 4 sequences of 8 steps, is not divisible by minibatches = 8"):
        recurrent(minibatches=8)
    assert recurrent(minibatches=8, sequence_length=4).init(jax.random.key(0)).step == 0


def test_trpo_refuses_a_shared_network_by_name() -> None:
    network = jaxpg.Shared(Recurrent(MLP((4,)), GRU(4), PolicyAndValueHead(CategoricalHead(2))))
    algo = jaxpg.trpo(recall(), network=network, num_envs=4, num_steps=8, minibatches=1)
    with pytest.raises(ValueError, match=r"TrustRegion \(TRPO\) takes no shared network; .* jaxpg.Separate\(policy, critic\)"):
        algo.init(jax.random.key(0))


def test_memory_of_another_structure_is_refused() -> None:
    class Grows(Ignores):
        @nn.compact
        def __call__(self, memory: jax.Array, x: jax.Array, start: jax.Array) -> Any:
            return (memory, memory), x

    algo = jaxpg.a2c(recall(), policy=Recurrent(MLP((4,)), Grows(), CategoricalHead(2)), num_envs=4, num_steps=8)
    with pytest.raises(ValueError, match=r"the network changes the structure of memory; return .* as initial_memory"):
        algo.init(jax.random.key(0))
