"""Memory through time: GRU and LSTM layers, and ``Recurrent``, which puts one between an encoder and a head.

A layer maps ``(memory, x [T, B, F], start [T, B])`` to ``(memory, y [T, B, H])``; where ``start`` is true its memory is
reset. Only what must be sequential is: one product of the last output with the recurrent weights, and the gates. The inputs of
all steps are multiplied at once, and in the backward pass so are the gradients of the weights: the derivative of the scan is
written out below as a linear scan (forward mode), of which JAX makes the transpose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxpg.core.networks import masks_in, merge_time, orthogonal
from jaxpg.core.types import Array, PyTree

TIMESCALE = 200.0  # steps


@jax.custom_jvp
def gru_scan(x: Array, keep: Array, weights: Array, bias: Array, h: Array) -> Array:
    """Outputs ``[T, B, H]`` of a gated recurrent unit [Cho et al. 2014].

        r = sigmoid(x_r + h W_r),  z = sigmoid(x_z + h W_z),  n = tanh(x_n + r (h W_n + b)),  h' = (1 - z) n + z h

    Args:
        x: What the inputs add to the three gates, ``[T, B, 3 H]``.
        keep: 1, or 0 where an episode begins and h is 0: ``[T, B, 1]``.
        weights: W, ``[H, 3 H]``.
        bias: b, ``[H]``.
        h: The output before the first step, ``[B, H]``.
    """

    def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, keep = inputs
        h = keep * h
        _, z, n, _ = gru_gates(x, h @ weights, bias)
        h = (1.0 - z) * n + z * h
        return h, h

    return jax.lax.scan(step, h, (x, keep))[1]


def gru_gates(x: Array, hw: Array, bias: Array) -> tuple[Array, Array, Array, Array]:
    """r, z, n, and h W_n + b."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(x, 3, axis=-1), jnp.split(hw, 3, axis=-1)
    r, z, h_n = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z), h_n + bias
    return r, z, jnp.tanh(x_n + r * h_n), h_n


@gru_scan.defjvp
def gru_scan_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """``dh' = (1 - z) dn + (h - n) dz + z dh`` for all steps; the coefficients are computed for all steps at once."""
    x, keep, weights, bias, h = primals
    dx, _, dweights, dbias, dh = tangents
    y = gru_scan(x, keep, weights, bias, h)
    before = keep * jnp.concatenate([h[None], y[:-1]])
    r, z, n, h_n = gru_gates(x, before @ weights, bias)
    on_r, on_z, on_n = r * (1.0 - r), z * (1.0 - z) * (before - n), (1.0 - z) * (1.0 - n**2)
    gates = jnp.concatenate([on_n * h_n * on_r, on_z, on_n * r], axis=-1)  # dh' by h W, less the path of z h
    known = jnp.concatenate([gates[..., : -n.shape[-1]], on_n], axis=-1) * dx + gates * (before @ dweights)
    known = sum(jnp.split(known, 3, axis=-1)) + on_n * r * dbias

    def step(dh: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        known, keep, gates, z = inputs
        dh = keep * dh
        dh = known + sum(jnp.split(gates * (dh @ weights), 3, axis=-1)) + z * dh
        return dh, dh

    return y, jax.lax.scan(step, dh, (known, keep, gates, z))[1]


@jax.custom_jvp
def lstm_scan(x: Array, keep: Array, weights: Array, c: Array, h: Array) -> tuple[Array, Array]:
    """Cells and outputs ``[T, B, H]`` of a long short-term memory [Hochreiter & Schmidhuber 1997; Gers et al. 2000].

        i, f, o = sigmoid(x + h W)_{i, f, o},  g = tanh(x + h W)_g,  c' = f c + i g,  h' = o tanh(c')

    Args:
        x: What the inputs add to the four gates i, f, g, o, with biases: ``[T, B, 4 H]``.
        keep: 1, or 0 where an episode begins and c and h are 0: ``[T, B, 1]``.
        weights: W, ``[H, 4 H]``.
        c: The cell before the first step, ``[B, H]``.
        h: The output before it, ``[B, H]``.
    """

    def step(memory: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        x, keep = inputs
        c, h = (keep * m for m in memory)
        i, f, g, o = lstm_gates(x + h @ weights)
        c = f * c + i * g
        memory = c, o * jnp.tanh(c)
        return memory, memory

    return jax.lax.scan(step, (c, h), (x, keep))[1]


def lstm_gates(x: Array) -> tuple[Array, Array, Array, Array]:
    """i, f, g, o."""
    i, f, g, o = jnp.split(x, 4, axis=-1)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


@lstm_scan.defjvp
def lstm_scan_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Any, Any]:
    """``dc' = f dc + c df + g di + i dg`` and ``dh' = tanh(c') do + o (1 - tanh(c')^2) dc'`` for all steps."""
    x, keep, weights, c, h = primals
    dx, _, dweights, dc, dh = tangents
    cells, y = lstm_scan(x, keep, weights, c, h)
    cell, before = (keep * jnp.concatenate([first[None], later[:-1]]) for first, later in ((c, cells), (h, y)))
    i, f, g, o = lstm_gates(x + before @ weights)
    squashed = jnp.tanh(cells)
    on_c = jnp.concatenate([g * i * (1.0 - i), cell * f * (1.0 - f), i * (1.0 - g**2)], axis=-1)
    gates = jnp.concatenate([on_c, squashed * o * (1.0 - o)], axis=-1)  # of i, f, g on c', of o on h'
    slope = o * (1.0 - squashed**2)
    known = gates * (dx + before @ dweights)

    def step(tangent: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        known, keep, gates, f, slope = inputs
        dc, dh = (keep * t for t in tangent)
        by_i, by_f, by_g, by_o = jnp.split(known + gates * (dh @ weights), 4, axis=-1)
        dc = f * dc + by_i + by_f + by_g
        tangent = dc, by_o + slope * dc
        return tangent, tangent

    return (cells, y), jax.lax.scan(step, (dc, dh), (known, keep, gates, f, slope))[1]


class GRU(nn.Module):
    """A gated recurrent unit; its memory is the last output, ``[B, features]``, 0 at the start of an episode.

        r = sigmoid(x_r + h W_r),  z = sigmoid(x_z + h W_z)
        n = tanh(x_n + r (h W_n + b)),  h' = (1 - z) n + z h

    The same function as ``flax.linen.GRUCell`` scanned over time, several times faster. At the start of training its units
    forget within 2 to ``timescale`` steps; with 2 all biases are 0, as in flax.

    Attributes:
        features: Width of the memory and of the output.
        timescale: The longest memory at the start of training, in steps, at least 2; by default 200.

    Raises:
        ValueError: For ``timescale`` below 2, when parameters are made.

    Source: Cho et al. 2014; initial biases Tallec & Ollivier 2018.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import GRU
        >>> gru, x, start = GRU(4), jnp.zeros((5, 3, 8)), jnp.zeros((5, 3), bool)
        >>> (memory, y), variables = gru.init_with_output(jax.random.key(0), gru.initial_memory(3), x, start)
        >>> memory.shape, y.shape
        ((3, 4), (5, 3, 4))
    """

    features: int
    timescale: float = TIMESCALE

    def initial_memory(self, num_envs: int) -> Array:
        """Zeros, ``[num_envs, features]``."""
        return jnp.zeros((num_envs, self.features), jnp.result_type(float))

    @nn.compact
    def __call__(self, memory: Array, x: Array, start: Array) -> tuple[Array, Array]:
        bias_init = spread_timescales((0, 1, 0), self.timescale)
        x = nn.Dense(3 * self.features, bias_init=bias_init, param_dtype=x.dtype, name="input")(x)
        weights = self.param("recurrent", recurrent_weights(3), (self.features, 3 * self.features), x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), x.dtype)
        y = gru_scan(x, kept(start, x), weights, bias, memory)
        return y[-1], y


class LSTM(nn.Module):
    """Long short-term memory; its memory is the cell and the output, ``[B, features]`` each, 0 at the start of an episode.

        i, f, o = sigmoid(x + h W)_{i, f, o},  g = tanh(x + h W)_g
        c' = f c + i g,  h' = o tanh(c')

    The same function as ``flax.linen.OptimizedLSTMCell`` scanned over time, faster.

    Attributes:
        features: Width of the cell and of the output.
        timescale: The longest memory at the start of training, in steps, at least 2; by default 200.

    Raises:
        ValueError: For ``timescale`` below 2, when parameters are made.

    Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import LSTM
        >>> lstm, x, start = LSTM(4), jnp.zeros((5, 3, 8)), jnp.zeros((5, 3), bool)
        >>> ((c, h), y), variables = lstm.init_with_output(jax.random.key(0), lstm.initial_memory(3), x, start)
        >>> c.shape, h.shape, y.shape
        ((3, 4), (3, 4), (5, 3, 4))
    """

    features: int
    timescale: float = TIMESCALE

    def initial_memory(self, num_envs: int) -> tuple[Array, Array]:
        """Zeros: cell and output, ``[num_envs, features]`` each."""
        zeros = jnp.zeros((num_envs, self.features), jnp.result_type(float))
        return zeros, zeros

    @nn.compact
    def __call__(self, memory: tuple[Array, Array], x: Array, start: Array) -> tuple[tuple[Array, Array], Array]:
        bias_init = spread_timescales((-1, 1, 0, 0), self.timescale)
        x = nn.Dense(4 * self.features, bias_init=bias_init, param_dtype=x.dtype, name="input")(x)
        weights = self.param("recurrent", recurrent_weights(4), (self.features, 4 * self.features), x.dtype)
        c, y = lstm_scan(x, kept(start, x), weights, *memory)
        return (c[-1], y[-1]), y


class Scanned(nn.Module):
    """Any flax RNN cell as a layer: its carry is fresh where an episode begins."""

    cell: nn.RNNCellBase

    def initial_memory(self, num_envs: int) -> PyTree:
        """The cell's carry at the start of an episode."""
        return initial_carry(self.cell, num_envs)

    @nn.compact
    def __call__(self, memory: PyTree, x: Array, start: Array) -> tuple[PyTree, Array]:
        fresh = self.initial_memory(start.shape[1])

        def step(cell: nn.RNNCellBase, memory: PyTree, inputs: tuple[Array, Array]) -> tuple[PyTree, Array]:
            x, start = inputs
            memory = jax.tree.map(lambda new, old: jnp.where(expand(start, old), new, old), fresh, memory)
            return cell(memory, x)

        scan = nn.scan(step, variable_broadcast=True, split_rngs={"params": False})
        return scan(self.cell, memory, (x, start))


class Recurrent(nn.Module):
    """head(layer(encoder(obs))) through time, for a layer with memory.

    ``(memory, obs [T, B, ...], start [T, B])`` becomes the memory after ``T`` steps and the head's results, ``[T, B, ...]``.
    The encoder and the head see all ``T * B`` rows at once; only the layer is sequential, and its memory is reset where
    ``start`` is true.

    Attributes:
        encoder: From observations ``[N, ...]`` to features ``[N, F]``.
        layer: ``GRU``, ``LSTM``, or any flax RNN cell.
        head: From the layer's output ``[N, H]`` to a distribution, values ``[N]``, or both.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxpg.networks import GRU, MLP, CategoricalHead, Recurrent
        >>> net = Recurrent(MLP((8,)), GRU(4), CategoricalHead(2))
        >>> memory, obs, start = net.initial_memory(3), jnp.zeros((5, 3, 2)), jnp.zeros((5, 3), bool)
        >>> (memory, dist), variables = net.init_with_output(jax.random.key(0), memory, obs, start)
        >>> memory.shape, dist.logits.shape
        ((3, 4), (5, 3, 2))
    """

    encoder: nn.Module
    layer: nn.Module
    head: nn.Module

    def initial_memory(self, num_envs: int) -> PyTree:
        """The layer's memory at the start of an episode, leaves ``[num_envs, ...]``."""
        if isinstance(self.layer, nn.RNNCellBase):
            return initial_carry(self.layer, num_envs)
        return self.layer.initial_memory(num_envs)  # pyright: ignore[reportAttributeAccessIssue]

    @nn.compact
    def __call__(self, memory: PyTree, obs: PyTree, start: Array) -> tuple[PyTree, Any]:
        rows = merge_time(obs)
        features = self.encoder(rows)
        features = features.reshape(*start.shape, features.shape[-1])
        layer = Scanned(self.layer) if isinstance(self.layer, nn.RNNCellBase) else self.layer
        memory, x = layer(memory, features, start)  # pyright: ignore[reportCallIssue]
        out = self.head(merge_time(x), *masks_in(rows))
        return memory, jax.tree.map(lambda x: x.reshape(*start.shape, *x.shape[1:]), out)


def initial_carry(cell: nn.RNNCellBase, num_envs: int) -> PyTree:
    """The carry of a flax cell at the start of an episode, which does not depend on the key."""
    return cell.initialize_carry(jax.random.key(0), (num_envs, 1))  # only the batch size of the shape is read


def recurrent_weights(gates: int) -> Callable[..., Array]:
    """Concatenated orthogonal matrices, one for each gate, as in the cells of flax."""

    def init(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        square = orthogonal()
        return jnp.concatenate([square(k, (shape[0], shape[0]), dtype) for k in jax.random.split(key, gates)], axis=1)

    return init


def spread_timescales(signs: tuple[int, ...], timescale: float) -> Callable[..., Array]:
    """Biases of gates: ``sign * log(u)``, u uniform in [1, timescale - 1], one for each unit [Tallec & Ollivier 2018].

    A gate sigmoid(log u) keeps u / (1 + u) of the memory, which decays as exp(-t / tau) with tau about 1 + u. With biases of 0
    half of it is gone after every step, and what was seen 20 steps ago has no gradient left to learn from.
    """
    if timescale < 2.0:
        raise ValueError(f"timescale = {timescale} is out of range; give the steps of the longest memory at first, at least 2")

    def init(key: Array, shape: tuple[int], dtype: Any) -> Array:
        log_u = jnp.log(jax.random.uniform(key, (shape[0] // len(signs),), dtype, 1.0, timescale - 1.0))
        return jnp.concatenate([sign * log_u for sign in signs])

    return init


def kept(start: Array, x: Array) -> Array:
    """The factor of the memory: 0 where an episode begins, else 1; ``[T, B, 1]``."""
    return 1.0 - start[..., None].astype(x.dtype)


def expand(x: Array, like: Array) -> Array:
    """Append axes to ``x`` until it has as many as ``like``."""
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))
