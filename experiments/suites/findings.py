"""What was found in the environments of other packages, each with the input that shows it: the list in environment_findings.md.

.venv-suites/bin/python -m experiments.suites.findings            # of the packages that are installed
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np

import jaxpg

KEY = jax.random.key(0)


def brax_fast() -> str:
    """``brax.envs.get_environment("fast").backend`` raises AttributeError."""
    from brax import envs  # pyright: ignore[reportMissingImports]

    try:
        return str(envs.get_environment("fast").backend)
    except AttributeError as error:
        return f"AttributeError: {error}"


def brax_starts() -> list[float]:
    """The pole's angle at the starts of three episodes of ``brax.envs.create``, which resets by itself: the same one."""
    from brax import envs  # pyright: ignore[reportMissingImports]

    env = envs.create("inverted_pendulum", episode_length=1)
    state, step, angles = jax.jit(env.reset)(KEY), jax.jit(env.step), []
    for _ in range(3):
        state = step(state, jnp.zeros(1))
        angles.append(float(state.obs[1]))
    return angles


def craftax_limit() -> tuple[bool, float, int]:
    """``done``, ``info["discount"]`` and the health of a player that only ran out of time: an end by death reads the same."""
    from craftax.craftax_env import make_craftax_env_from_name  # pyright: ignore[reportMissingImports]

    env = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)
    params = env.default_params.replace(max_timesteps=1)
    _, state = env.reset(KEY, params)
    _, state, _, done, info = env.step(KEY, state, 0, params)
    return bool(done), float(info["discount"]), int(state.player_health)


def jumanji_limit() -> dict[str, float]:
    """The discount of the last step when only the time limit ends an episode: 0, that of a termination."""
    from jumanji import environments  # pyright: ignore[reportMissingImports]

    found = {}
    for name in ("Snake", "Maze", "SlidingTilePuzzle"):
        env = getattr(environments, name)(time_limit=1)
        state, timestep = env.reset(KEY)
        _, timestep = env.step(state, jnp.argmax(timestep.observation.action_mask))
        found[name] = float(timestep.discount)
    return found


def jumanji_mask() -> int:
    """Of 16 random episodes of Snake, those with a state before the end in which the mask allows no action."""
    import jumanji  # pyright: ignore[reportMissingImports]

    env = jumanji.make("Snake-v1")

    def play(key: jax.Array) -> jax.Array:
        def step(carry: Any, key: jax.Array) -> tuple:
            state, timestep, found = carry
            mask = timestep.observation.action_mask
            found |= ~timestep.last() & ~mask.any()
            after = env.step(state, jnp.argmax(jnp.where(mask, jax.random.uniform(key, (4,)), -1.0)))
            kept = jax.tree.map(lambda old, new: jnp.where(timestep.last(), old, new), (state, timestep), after)
            return (*kept, found), None

        return jax.lax.scan(step, (*env.reset(key), jnp.array(False)), jax.random.split(key, 2000))[0][2]

    return int(jax.jit(jax.vmap(play))(jax.random.split(KEY, 16)).sum())


def navix_space() -> tuple[int, int]:
    """The largest number that ``observation_space`` declares, and that an observation holds."""
    import navix  # pyright: ignore[reportMissingImports]

    env = navix.make("Navix-Empty-5x5-v0")
    return int(env.observation_space.maximum), int(env.reset(KEY).observation.max())


def navix_state() -> int:
    """The largest number in an observation of KeyCorridor: -2 as an unsigned byte."""
    import navix  # pyright: ignore[reportMissingImports]

    return int(navix.make("Navix-KeyCorridorS3R1-v0").reset(KEY).observation.max())


def navix_sample() -> tuple[int, int]:
    """The number of actions, and the largest of 10,000 that ``action_space.sample`` draws: the last one never."""
    import navix  # pyright: ignore[reportMissingImports]

    space = navix.make("Navix-Empty-5x5-v0").action_space
    return int(space.n), int(jax.vmap(space.sample)(jax.random.split(KEY, 10_000)).max())


def navix_reset() -> list[int]:
    """The time after each of four steps with a limit of 2: the third step does nothing but reset."""
    import navix  # pyright: ignore[reportMissingImports]

    env = navix.make("Navix-Empty-5x5-v0", max_steps=2)
    timestep, times = env.reset(KEY), []
    for _ in range(4):
        timestep = env.step(timestep, jnp.int32(2))
        times.append(int(timestep.t))
    return times


def navix_limit() -> tuple[int, int]:
    """The limit of a DoorKey of 16 x 16 by its class, 4 x 16 x 16, and by ``navix.make``."""
    import navix  # pyright: ignore[reportMissingImports]

    return navix.environments.DoorKey.create(height=16, width=16).max_steps, navix.make("Navix-DoorKey-16x16-v0").max_steps


def playground_state() -> tuple[float, float]:
    """A number in the state that ``step`` was given, before and after the step."""
    from mujoco_playground import registry  # pyright: ignore[reportMissingImports]

    env = registry.load("CartpoleBalance", config_overrides={"impl": "jax"})
    state = env.reset(KEY)
    before = float(state.metrics["reward/upright"])
    env.step(state, jnp.zeros(1))
    return before, float(state.metrics["reward/upright"])


def gymnax_spaces() -> dict[str, str]:
    """What ``jaxpg.check_env(env, bounds=True)`` says of gymnax's environments."""
    found = {}
    for name in gymnax.registered_envs:
        if name != "MNISTBandit-bsuite":  # which downloads its pictures
            try:
                jaxpg.check_env(jaxpg.make(name), bounds=True, num_steps=64)
            except ValueError as error:
                found[name] = str(error)
    return found


FINDINGS: dict[str, tuple[str, Callable[[], Any], Any]] = {  # name: (package, function, what it returned)
    "brax_fast": ("brax", brax_fast, "AttributeError: 'Fast' object has no attribute '_backend'"),
    "craftax_limit": ("craftax", craftax_limit, (True, 0.0, 9)),
    "jumanji_limit": ("jumanji", jumanji_limit, dict.fromkeys(("Snake", "Maze", "SlidingTilePuzzle"), 0.0)),
    "navix_limit": ("navix", navix_limit, (1024, 100)),
    "navix_reset": ("navix", navix_reset, [1, 2, 0, 1]),
    "navix_sample": ("navix", navix_sample, (7, 5)),
    "navix_space": ("navix", navix_space, (8, 10)),
    "navix_state": ("navix", navix_state, 254),
}


def holds(name: str) -> bool:
    """Whether a finding is still there. Those with numbers that depend on a generator are judged by what they mean."""
    if name == "brax_starts":
        return len({round(angle, 6) for angle in brax_starts()}) == 1
    if name == "jumanji_mask":
        return jumanji_mask() > 0
    if name == "playground_state":
        return len({*playground_state()}) == 2
    _, function, expected = FINDINGS[name]
    return bool(np.all(function() == expected))


OTHERS = {"brax_starts": "brax", "jumanji_mask": "jumanji", "playground_state": "mujoco_playground"}
PACKAGES = {name: package for name, (package, *_) in FINDINGS.items()} | OTHERS


def main() -> None:
    """Print every finding of an installed package, with what it returns now."""
    for name, package in sorted(PACKAGES.items()):
        if importlib.util.find_spec(package):
            print(f"{name:18}{'' if holds(name) else 'no longer: '}{globals()[name]()}", flush=True)
    for name, said in gymnax_spaces().items():
        print(f"{name:18}{said}")


if __name__ == "__main__":
    main()
