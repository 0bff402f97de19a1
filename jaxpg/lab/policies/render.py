"""Draw a policy before and after training, side by side: a GIF, or an HTML page for environments of Brax.

The environment decides the format, see ``write``. ``SCENES`` and ``scene_of`` say how environments are drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from jaxpg.core import rollout
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.types import Array, EnvLoop, PyTree, TrainState
from jaxpg.lab.engine import devices
from jaxpg.lab.engine.environments import brief
from jaxpg.lab.policies import loading, viewer
from jaxpg.lab.report.plots import COLORS, INK
from jaxpg.lab.report.text import printable
from jaxpg.loops import many as sweeping

BODY, ACCENT, GROUND, PALE = COLORS[0], COLORS[1], "#8a8a8a", "#dddddd"


def cart_pole(axes: Axes, obs: np.ndarray) -> None:
    """Draw an observation: position, velocity, angle (0 is upright), angular velocity. Marks show where an episode ends."""
    x, angle, wheels = obs[0], obs[2], 0.09
    axes.plot([-2.7, 2.7], [0, 0], color=GROUND, linewidth=1)
    axes.plot([[-2.4, 2.4], [-2.4, 2.4]], [[-0.12] * 2, [0.12] * 2], color=ACCENT, linewidth=2)
    for side in (-0.2, 0.2):
        axes.add_patch(Circle((x + side, wheels), wheels, color=INK, zorder=3))
    axes.add_patch(FancyBboxPatch((x - 0.32, 0.18), 0.64, 0.22, boxstyle="round,pad=0.04", color=BODY, zorder=3))
    stick(axes, [x, x + 1.3 * np.sin(angle)], [0.42, 0.42 + 1.3 * np.cos(angle)])
    frame(axes, (-2.7, 2.7), (-0.3, 2.1))


def mountain_car(goal: float, axes: Axes, obs: np.ndarray) -> None:
    """Draw an observation: position, velocity. The hill is sin 3x, not drawn to scale."""
    x = np.linspace(-1.25, 0.65, 100)
    axes.fill_between(x, np.sin(3 * x), -1.4, color=PALE)
    axes.plot(x, np.sin(3 * x), color=GROUND, linewidth=1)
    axes.plot([goal] * 2, [np.sin(3 * goal), np.sin(3 * goal) + 0.6], color=INK, linewidth=1.5)
    axes.fill([goal, goal + 0.13, goal], np.sin(3 * goal) + np.array([0.6, 0.47, 0.34]), color=ACCENT)
    axes.plot(obs[0], np.sin(3 * obs[0]) + 0.13, "o", markersize=13, color=BODY)
    frame(axes, (-1.25, 0.65), (-1.4, 1.9), "auto")


def acrobot(axes: Axes, obs: np.ndarray) -> None:
    """Draw an observation: cosine and sine of the upper angle (0 hangs down) and of the relative lower one, velocities."""
    upper, lower = np.arctan2(obs[1], obs[0]), np.arctan2(obs[3], obs[2])
    x = np.cumsum([0.0, np.sin(upper), np.sin(upper + lower)])
    y = np.cumsum([0.0, -np.cos(upper), -np.cos(upper + lower)])
    axes.plot([-2.4, 2.4], [1, 1], color=ACCENT, linewidth=1.5, linestyle=(0, (5, 4)))
    stick(axes, x, y)
    frame(axes, (-2.4, 2.4), (-2.3, 2.3))


def pendulum(axes: Axes, obs: np.ndarray) -> None:
    """Draw an observation: cosine and sine of the angle (0 is upright, counterclockwise), angular velocity."""
    axes.add_patch(Circle((0, 0), 1.0, fill=False, color=PALE, linewidth=1))
    stick(axes, [0, -obs[1]], [0, obs[0]])
    frame(axes, (-1.5, 1.5), (-1.25, 1.25))


def stick(axes: Axes, x: list | np.ndarray, y: list | np.ndarray) -> None:
    """Links with joints."""
    axes.plot(x, y, color=ACCENT, linewidth=5, solid_capstyle="round", zorder=4)
    axes.plot(x[:-1], y[:-1], "o", color=INK, markersize=6, zorder=5)


def frame(axes: Axes, x: tuple[float, float], y: tuple[float, float], aspect: str = "equal") -> None:
    """Set the visible part of the world, and hide the axes."""
    axes.set(xlim=x, ylim=y, aspect=aspect)
    axes.set_axis_off()


class Scene(NamedTuple):
    """How to draw an environment from its observation or its state, and the number of steps between two frames."""

    draw: Callable[[Axes, Any], None]
    stride: int
    of_state: bool = False


SCENES = {
    "CartPole-v1": Scene(cart_pole, 2),
    "MountainCar-v0": Scene(functools.partial(mountain_car, 0.5), 2),
    "MountainCarContinuous-v0": Scene(functools.partial(mountain_car, 0.45), 2),
    "Acrobot-v1": Scene(acrobot, 1),
    "Pendulum-v1": Scene(pendulum, 1),
}


def scene_of(name: str, env: Any, params: PyTree) -> Scene:
    """The scene of an environment: from ``SCENES``, by gymnax for MinAtar, or by the environment's own ``render``.

    ``env.render(state, params)`` returns an image, ``[H, W]`` or ``[H, W, 3]``, or a figure of pyplot, as gymnax does.
    """
    if name in SCENES:
        return SCENES[name]
    if name.endswith("-MinAtar"):
        return Scene(lambda axes, state: gymnax_minatar(axes, env, state, params), 1, of_state=True)
    if callable(getattr(env, "render", None)):
        return Scene(lambda axes, state: own_picture(axes, name, env, state, params), 1, of_state=True)
    others = "those of MinAtar and Brax, and environments with a method render(state, params)"
    raise ValueError(f"{printable(name)} cannot be drawn; those that can: {', '.join(SCENES)}, {others}")


def gymnax_minatar(axes: Axes, env: Any, state: PyTree, params: PyTree) -> None:
    """Draw a state of MinAtar with a colour for each kind of object."""
    from gymnax.visualize import vis_minatar  # with seaborn

    vis_minatar.init_minatar(axes, env, state, params)
    axes.set_axis_off()


def own_picture(axes: Axes, name: str, env: Any, state: PyTree, params: PyTree) -> None:
    """Draw the result of ``env.render``: an array, a figure and its axes, or an image in axes of its own."""
    try:
        drawn = env.render(state, params)
        its_axes = drawn[1] if isinstance(drawn, tuple) else getattr(drawn, "axes", None)
        axes.imshow(np.asarray(drawn) if its_axes is None else pixels(its_axes))
    except Exception as error:
        raise ValueError(f"{printable(name)} cannot be drawn: render(state, params) fails: {brief(error)}") from error
    axes.set_axis_off()


def pixels(axes: Axes) -> np.ndarray:
    """The pixels of the axes of a pyplot figure, without margins; closes the figure."""
    from matplotlib import pyplot

    figure: Any = axes.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba()).copy()
    pyplot.close(figure)
    left, low, right, high = np.clip(axes.bbox.padded(4).extents, 0, None).astype(int)
    return image[max(0, len(image) - high) : len(image) - low, left:right]


def write(
    directory: str | Path,
    out: Path,
    *,
    setting: int = 0,
    seed: int = 0,
    step: int | None = None,
    steps: int = 250,
    fps: int = 25,
) -> Path:
    """Write a GIF of one run to ``out``, or an HTML page for an environment of Brax; return the path with its ending.

    It shows two policies from the same start, with their most probable actions: the one before training, and the one after
    update ``step`` (by default the newest checkpoint). They play episodes for ``steps`` environment steps. ``ValueError`` of
    one line if the environment cannot be drawn or the file cannot be written.
    """
    origin = loading.of_setting(directory, setting)
    config, algo = origin.config, origin.algo
    brax_env = viewer.brax_env(algo.env)
    scene = None if brax_env else scene_of(config.env, algo.env, algo.env.default_params)
    loading.check_seed(origin, seed)
    suffix = ".html" if brax_env else ".gif"
    if out.suffix not in ("", suffix):
        raise ValueError(f"out = {printable(out)} must end with {suffix}, the format for {printable(config.env)}")
    out = out.with_suffix(suffix)
    stored, found = loading.load_states(origin, [seed], step)
    with devices.matmul_precision(config.matmul_precision):
        before = start(origin, seed)
    trained = {name: jax.tree.map(lambda x: x[0], getattr(stored, name)) for name in loading.ACTING}
    states = {
        "before training": before,
        f"after {found.step * algo.num_envs * algo.num_steps:,} steps": before.replace(**trained),
    }
    with devices.matmul_precision(config.matmul_precision):
        seen = {title: watch(algo, state, jax.random.key(seed + 1), steps) for title, state in states.items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if scene:
            film(scene, seen, config.env, out, fps)
        else:
            out.write_text(viewer.page(brax_env, {title: one.states for title, one in seen.items()}, config.env))
    except OSError as error:
        raise ValueError(f"out = {printable(out)} cannot be written: {error.strerror}; give another --out") from None
    return out


def start(origin: loading.Origin, seed: int) -> TrainState:
    """The initial state of the run of seed ``seed``, bit for bit as ``jaxpg.loops.many.start`` computed it."""
    key_train, _ = sweeping.keys(origin.config.seed, origin.config.rng)
    hparams = jax.tree.map(lambda x: jnp.full(1, x, jnp.float32), origin.hparams)
    runs = jax.jit(functools.partial(sweeping.start, origin.algo))(key_train, jnp.array([seed]), hparams)
    return jax.tree.map(lambda x: x[0], runs.state)


class Seen(NamedTuple):
    """Recorded steps: observation and state before each step, after it the return so far and the number of past episodes."""

    obs: list[PyTree]
    states: list[PyTree]
    episode_return: list[float]
    ended: list[int]  # episodes before this one


def watch(algo: Algorithm, state: TrainState, key: Array, num_steps: int) -> Seen:
    """Record ``num_steps`` steps in one environment with the most probable actions."""
    env_params = rollout.spread_params(algo.env, state.env_params, algo.num_envs, 1)
    loop, rows = rollout.reset(key, algo.env, env_params, 1, algo.network.initial_memory(1)), []
    state = state.replace(loop=None, env_params=env_params)
    for t in range(num_steps):
        before = loop.obs, loop.env_state
        loop, episode_return, done = one_step(algo, state, loop, jax.random.fold_in(key, t))
        rows.append((*before, episode_return, done))
    seen = [jax.tree.map(lambda x: x[0], row) for row in jax.device_get(rows)]
    obs, states, returns, done = (list(column) for column in zip(*seen, strict=True))
    return Seen(obs, states, returns, (np.cumsum(done) - done).tolist())


@functools.partial(jax.jit, static_argnames="algo")
def one_step(algo: Algorithm, state: TrainState, loop: EnvLoop, key: Array) -> tuple[EnvLoop, Array, Array]:
    """Do a step: the environment after it, the return of the episode so far ``[1]``, and whether the episode ended ``[1]``."""
    actor = algo.actor(state.replace(loop=loop), greedy=True)
    loop, row = rollout.continuing(key, algo.env, state.env_params, actor, loop, 1)
    return loop, row.episode_return[0], row.done[0]


def film(scene: Scene, seen: dict[str, Seen], title: str, out: Path, fps: int) -> None:
    """Draw every ``stride``-th recorded step of each policy in ``seen``, and write the frames to a GIF."""
    figure = Figure(figsize=(5.6, 2.3))
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.93, title, fontsize=10, color=INK, ha="center")
    panels = [figure.add_axes((0.01 + i / len(seen), 0.1, 1 / len(seen) - 0.02, 0.7)) for i in range(len(seen))]
    for axes, one in zip(panels, seen.values(), strict=True):  # errors in drawing should appear before the file is made
        scene.draw(axes, one.states[0] if scene.of_state else one.obs[0])
    writer = PillowWriter(fps=fps)
    with writer.saving(figure, str(out), dpi=100):
        for t in range(0, len(next(iter(seen.values())).obs), scene.stride):
            for axes, (name, one) in zip(panels, seen.items(), strict=True):
                axes.clear()
                scene.draw(axes, one.states[t] if scene.of_state else one.obs[t])
                axes.set_title(name, fontsize=10, fontweight="bold", color=INK)
                said = f"episode {one.ended[t] + 1}, return {one.episode_return[t]:.0f}"
                axes.text(0.5, -0.1, said, transform=axes.transAxes, ha="center", fontsize=9, color=INK)
            writer.grab_frame()
