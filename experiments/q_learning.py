"""Learning values: tabular Q-learning and DQN, on the environments, the networks and the rollout of jaxpg.

Both move Q(s, a) towards r + gamma (1 - terminated) max_a' Q(s', a'): a time limit cuts the episode, not the value. Both act
epsilon-greedily and are off-policy. As in jaxpg an algorithm is static, a state holds every array, and ``update`` is pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxpg.core import networks, rollout
from jaxpg.core.distributions import Categorical
from jaxpg.core.types import Actor, Array, Env, EnvLoop, Network, PyTree


class QNetwork(nn.Module):
    """Q(s, .) as the logits of a policy, whose mode is then the greedy action. ``bounds`` of the observation go to -1 and 1."""

    num_actions: int
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    hidden: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, obs: Array) -> Categorical:
        if self.bounds:
            low, high = map(jnp.array, self.bounds)
            obs = 2.0 * (obs - low) / (high - low) - 1.0
        return Categorical(
            nn.Dense(self.num_actions, kernel_init=networks.orthogonal())(networks.MLP(self.hidden, nn.relu)(obs))
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """The same as a table ``[S, A]``, zero at first; ``index`` maps an observation to its row."""

    index: Callable[[Array], Array]
    num_states: int
    num_actions: int

    def init(self, key: Array, obs: Array) -> Array:
        return jnp.zeros((self.num_states, self.num_actions))

    def apply(self, params: Array, obs: Array) -> Categorical:
        return Categorical(params[jax.vmap(self.index)(obs)])


class Step(NamedTuple):
    """(s, a, r, s') and whether anything follows s'; leaves ``[N, ...]``."""

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    terminated: Array


class QState(struct.PyTreeNode):
    """Every array of a run. A table has no target network, no optimiser and no buffer: ``None``."""

    key: Array
    step: Array
    params: PyTree
    loop: EnvLoop
    target: PyTree = None
    opt_state: PyTree = None
    buffer: Any = None


@dataclasses.dataclass(frozen=True)
class QLearning:
    """Q(s, a) <- Q(s, a) + alpha [r + gamma max_a' Q(s', a') - Q(s, a)] [Watkins 1989], one step of each environment an update.

    epsilon falls linearly from 1 to ``epsilon`` over ``exploration`` environment steps.
    """

    env: Env
    network: Network
    num_envs: int = 4
    num_steps: int = 1
    learning_rate: float = 0.1
    gamma: float = 0.99
    epsilon: float = 0.05
    exploration: int = 10_000

    def init(self, key: Array) -> QState:
        """The state before the first step."""
        key, key_env, key_network = jax.random.split(key, 3)
        loop = rollout.reset(key_env, self.env, self.env.default_params, self.num_envs)
        return QState(key, jnp.int32(0), self.network.init(key_network, loop.obs), loop)

    def act(self, key: Array, state: QState) -> tuple[EnvLoop, Step]:
        """The next steps of all environments, as rows."""
        share = jnp.minimum(state.step * self.num_envs * self.num_steps / self.exploration, 1.0)
        epsilon = 1.0 - share * (1.0 - self.epsilon)

        def noise(key: Array, num_steps: int) -> Array:
            return jax.random.uniform(key, (num_steps, self.num_envs, 2))

        def act(memory: PyTree, obs: Array, start: Array, noise: Array) -> tuple[PyTree, Array, Categorical]:
            q = self.network.apply(state.params, obs)
            uniform = (noise[:, 1] * q.logits.shape[-1]).astype(jnp.int32)
            return memory, jnp.where(noise[:, 0] < epsilon, uniform, q.mode()), q

        loop, seen = rollout.continuing(key, self.env, self.env.default_params, Actor(noise, act), state.loop, self.num_steps)
        rows = Step(seen.obs, seen.action, seen.reward, seen.next_obs, seen.terminated)
        return loop, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)

    def update(self, state: QState) -> QState:
        """Act, and learn from that alone."""
        key, key_act = jax.random.split(state.key)
        loop, rows = self.act(key_act, state)
        best = jnp.max(self.network.apply(state.params, rows.next_obs).logits, axis=-1)
        target = rows.reward + self.gamma * (1.0 - rows.terminated) * best

        def value(params: PyTree) -> Array:
            return chosen(self.network.apply(params, rows.obs), rows.action)

        error = target - value(state.params)
        step = jax.vjp(value, state.params)[1](self.learning_rate * error)[0]  # of a table: where (s, a) was visited
        params = jax.tree.map(jnp.add, state.params, step)
        return state.replace(key=key, step=state.step + 1, params=params, loop=loop)


@dataclasses.dataclass(frozen=True)
class DQN(QLearning):
    """Q-learning with a network, a replay buffer and a target network [Mnih et al. 2015].

    The target network values the action that the network itself thinks best [van Hasselt, Guez & Silver 2016]. One Adam step on
    ``batch_size`` rows of the buffer, drawn uniformly, after every ``num_steps`` steps of each environment.
    """

    learning_rate: float = 1e-3
    num_steps: int = 1
    buffer_size: int = 50_000
    batch_size: int = 64
    warm_up: int = 1_000  # environment steps before the first gradient step
    target_every: int = 100  # updates

    def init(self, key: Array) -> QState:
        state = super().init(key)
        rows = jax.eval_shape(lambda state: self.act(state.key, state)[1], state)
        buffer = jax.tree.map(lambda x: jnp.zeros((self.buffer_size, *x.shape[1:]), x.dtype), rows)
        return state.replace(target=state.params, opt_state=self.optimizer.init(state.params), buffer=buffer)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.learning_rate)

    def loss(self, params: PyTree, target_params: PyTree, rows: Step) -> Array:
        """Huber's, of r + gamma (1 - terminated) Q_target(s', argmax Q(s', .)) - Q(s, a)."""
        best = self.network.apply(params, rows.next_obs).mode()
        future = chosen(self.network.apply(target_params, rows.next_obs), best)
        target = rows.reward + self.gamma * (1.0 - rows.terminated) * future
        return jnp.mean(optax.huber_loss(chosen(self.network.apply(params, rows.obs), rows.action), target))

    def update(self, state: QState) -> QState:
        """Act, remember, and learn from what is remembered."""
        key, key_act, key_rows = jax.random.split(state.key, 3)
        loop, rows = self.act(key_act, state)
        count = state.step * len(rows.reward)
        place = (count + jnp.arange(len(rows.reward))) % self.buffer_size
        buffer = jax.tree.map(lambda all, new: all.at[place].set(new), state.buffer, rows)
        count += len(rows.reward)
        drawn = jax.random.randint(key_rows, (self.batch_size,), 0, jnp.minimum(count, self.buffer_size))
        grads = jax.grad(self.loss)(state.params, state.target, jax.tree.map(lambda x: x[drawn], buffer))
        moves, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        new = (optax.apply_updates(state.params, moves), opt_state)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(count >= self.warm_up, new, old), new, (state.params, state.opt_state)
        )
        step = state.step + 1
        target = jax.tree.map(lambda new, old: jnp.where(step % self.target_every == 0, new, old), params, state.target)
        return state.replace(key=key, step=step, params=params, target=target, opt_state=opt_state, loop=loop, buffer=buffer)


def chosen(q: Categorical, action: Array) -> Array:
    """Q(s, a)."""
    return jnp.take_along_axis(q.logits, action[:, None], axis=-1)[:, 0]
