"""What staleness costs: A3C as A2C whose workers hold parameters that are some updates old.

.venv/bin/python -m experiments.staleness
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import struct
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

import jaxpg
from experiments import study
from jaxpg import stats
from jaxpg.core import algorithm, rollout
from jaxpg.core.types import Array, Batch, Metrics, Params, PyTree, TrainState
from jaxpg.lab.report import plots
from jaxpg.loops import train as training

DELAYS = (0, 1, 2, 4, 8, 16, 32)
RATES = (1.0, 4.0)  # times the step sizes of the preset
THRESHOLD = 150.0  # a return
KINDS = ("old gradients (A3C)", "old data")


class Delayed(struct.PyTreeNode):
    """A run, and the parameters after its last updates: leaves ``[slots, ...]``, those after update n at n modulo slots."""

    state: TrainState
    past: Params


def start(state: TrainState, longest: int) -> Delayed:
    """Before the first update there was nothing but the first parameters."""
    return Delayed(state, jax.tree.map(lambda x: jnp.broadcast_to(x, (longest + 1, *x.shape)), state.params))


def update(algo: jaxpg.Algorithm, run: Delayed, delay: Array, lag_of_data: Array) -> tuple[Delayed, Metrics]:
    """One update of ``algo`` in which the actors' parameters are ``delay`` updates old; traced, 0 is ``algo.update`` itself.

    A worker of A3C holds a copy theta' of the parameters: with it, it acts, estimates advantages and takes the gradient, which
    then moves the shared theta [Mnih et al. 2016, algorithm S3]. With ``lag_of_data`` 1 the gradient is taken at theta, and
    only the data and their advantages are old: the lag of a queue between actors and learner [Espeholt et al. 2018, section 4].
    Nothing is corrected for the difference of the policies.
    """
    state, slots = run.state, jax.tree.leaves(run.past)[0].shape[0]
    key, key_rollout, key_update = jax.random.split(state.key, 3)
    hp = algo.schedule(state.hparams, state.step)
    held = jax.tree.map(lambda x: x[jnp.maximum(state.step - delay, 0) % slots], run.past)
    worker = state.replace(params=held)

    loop, trajectory = algo.rollout(key_rollout, algo.env, state.env_params, algo.actor(worker), state.loop, algo.num_steps)
    batch = algo.batch(worker, trajectory, hp)
    losses = algo.losses(state, hp)
    away = jax.tree.map(lambda old, new: (1 - lag_of_data) * (old - new), held, state.params)

    def at_held(params: PyTree, batch: Batch) -> tuple[Array, Metrics]:
        return losses.total(jax.tree.map(jnp.add, params, away), batch)

    params, opt_state, _ = algo.update_rule.update(
        key_update, losses._replace(total=at_held), state.params, state.opt_state, batch, hp
    )
    stats = algo.normalizer.update(state.normalizer, trajectory, hp)
    step = state.step + 1
    past = jax.tree.map(lambda x, new: x.at[step % slots].set(new), run.past, params)
    after = state.replace(key=key, step=step, params=params, opt_state=opt_state, loop=loop, normalizer=stats)
    metrics = algo.policy_metrics(state.replace(params=params), batch, hp) | algorithm.rollout_metrics(trajectory, batch)
    return Delayed(rollout.strong(after), past), metrics


def train(algo: jaxpg.Algorithm, run: Delayed, delay: Array, lag_of_data: Array, windows: int, length: int) -> Metrics:
    """``windows`` times ``length`` updates: metrics ``[windows]``."""

    def window(run: Delayed, _: None) -> tuple[Delayed, Metrics]:
        run, metrics = jax.lax.scan(lambda r, _: update(algo, r, delay, lag_of_data), run, length=length)
        return run, training.summary(metrics)

    return jax.lax.scan(window, run, length=windows)[1]


def measure(seeds: int, updates: int, points: int) -> tuple[dict[str, np.ndarray], int]:
    """Metrics of every combination, ``[kinds, rates, delays, seeds, points]``, and the environment steps of a point."""
    algo = jaxpg.a2c(jaxpg.make("CartPole-v1"), **study.A2C, hidden=(32, 32))
    base, longest = algo.hparams, max(DELAYS)

    def run(kind: Array, rate: Array, delay: Array, key: Array) -> Metrics:
        hparams = base.replace(learning_rate=rate * base.learning_rate, critic_learning_rate=rate * base.critic_learning_rate)
        metrics = train(algo, start(algo.init(key, hparams), longest), delay, kind, points, updates // points)
        return {name: metrics[name] for name in ("episode_return", "kl")}

    for axis in range(4):
        run = jax.vmap(run, [0 if i == 3 - axis else None for i in range(4)])
    keys = jax.random.split(jax.random.key(0), seeds)
    found = jax.jit(run)(jnp.array([0.0, 1.0]), jnp.array(RATES), jnp.array(DELAYS), keys)
    return {name: np.asarray(x, float) for name, x in found.items()}, algo.num_envs * algo.num_steps * (updates // points)


def row(delay: int, env_steps: np.ndarray, returns: np.ndarray, kl: np.ndarray) -> dict[str, Any]:
    """One line of the study: ``returns`` and ``kl`` are ``[seeds, points]``."""
    filled = plots.without_gaps(returns.T)
    reached = stats.steps_to_threshold(env_steps, returns, THRESHOLD)
    quartiles = np.quantile(reached, [0.25, 0.75], method="inverted_cdf")  # some may be inf
    line = {"delay": delay, "reached": stats.summarize_steps(reached), "quartiles": quartiles.tolist()}
    line |= {"mean_return": stats.summarize(np.nanmean(filled, axis=0)), "last_return": stats.summarize(filled[-1])}
    return line | {"kl": float(np.mean(kl)), "median": np.nanmedian(filled, axis=1).round(1).tolist()}


def draw(numbers: dict[str, Any]) -> Figure:
    """The return over training for each delay of A3C, and how many steps it takes to reach the threshold."""
    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves, places = numbers["curves"][KINDS[0]][f"{RATES[0]:g}"], range(len(DELAYS))
    for curve, style in zip(curves, plots.styles(len(DELAYS), True), strict=True):
        left.plot(numbers["env_steps"], curve["median"], label=f"{curve['delay']}", color=style["color"], linewidth=1.8)
    left.axhline(THRESHOLD, **plots.DASHED)
    plots.dress(left, "A3C's gradients: return by the delay, preset step sizes")
    for i, (kind, rates) in enumerate(numbers["curves"].items()):
        for (rate, rows), dashes in zip(rates.items(), ("-", "--"), strict=False):
            style = {"color": plots.COLORS[i], "linestyle": dashes, "marker": plots.MARKERS[i], "linewidth": 1.8}
            label = kind if rate == "1" else f"{kind}, step sizes x {rate}"
            right.plot(places, [row["reached"]["median_steps"] for row in rows], label=label, **style)
            right.fill_between(places, *np.array([row["quartiles"] for row in rows]).T, color=plots.COLORS[i], alpha=0.12, lw=0)
    plots.bare(right, f"Steps until a return of {THRESHOLD:g}", "delay in updates", "environment steps per seed")
    right.yaxis.set_major_formatter(EngFormatter(sep=""))
    right.set_xticks(places, [str(delay) for delay in DELAYS])
    right.set_ylim(bottom=0)
    right.legend(frameon=False, fontsize=9, labelcolor=plots.INK, handlelength=3.2, loc="upper left")
    return figure


def main(seeds: int = 12, updates: int = 400, points: int = 80, out: Path = study.FIGURES) -> dict[str, Any]:
    """Train every combination for ``updates`` updates of 256 steps and compare."""
    found, steps = measure(seeds, updates, points)
    env_steps = steps * np.arange(1, points + 1)
    curves: dict[str, Any] = {kind: {} for kind in KINDS}
    for i, kind in enumerate(KINDS):
        for j, rate in enumerate(RATES):
            parts = zip(DELAYS, found["episode_return"][i, j], found["kl"][i, j], strict=True)
            curves[kind][f"{rate:g}"] = rows = [row(delay, env_steps, returns, kl) for delay, returns, kl in parts]
            for r in rows:
                words = f"{r['reached']['median_steps']:.0f} steps to {THRESHOLD:g}, mean return {r['mean_return']['mean']:.0f}"
                print(f"{kind}, step sizes x {rate:g}, delay {r['delay']:2}: {words}", flush=True)
    numbers = {"env": "CartPole-v1", "seeds": seeds, "updates": updates, "env_steps": env_steps.tolist(), "curves": curves}
    return study.write("staleness", numbers, draw(numbers), out)


if __name__ == "__main__":
    tyro.cli(main)
