"""The trainers that jaxpg is compared with, at the sizes of jaxpg's options: each in a process of its own.

    .venv-suites/bin/python -m experiments.suites.peers brax '{"env": "hopper", "seeds": 1, "total_steps": 100000, ...}'

Prints one line of JSON: ``env_steps`` and ``seconds`` of the training, ``compile_seconds``, and with ``"curve": true`` the
training returns over steps and the returns of a last evaluation.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Task = dict[str, Any]  # env, seeds, seed, total_steps, curve, eval_episodes, checkout, and jaxpg's options
Found = dict[str, Any]


def train_brax(task: Task) -> Found:
    """``brax.training.agents.ppo``: one seed. Without a curve, the last third of the training by its own clock.

    With a curve: returns of training episodes, and an evaluation of the last policy, deterministic, at the end.
    """
    from brax import envs  # pyright: ignore[reportMissingImports]
    from brax.training.agents.ppo import networks, train  # pyright: ignore[reportMissingImports]

    jax.device_put_replicated = replicate  # which it calls, and which JAX 0.10 no longer has
    seen: list[tuple[int, dict[str, float]]] = []
    with_curve = task.get("curve", False)
    width = tuple(task["hidden"])
    activation = getattr(jax.nn, task["activation"]) if task["activation"] != "tanh" else jnp.tanh
    begin = time.perf_counter()
    train.train(
        envs.get_environment(task["env"]),
        num_timesteps=task["total_steps"],
        seed=task.get("seed", 0),
        episode_length=1000,
        num_envs=task["num_envs"],
        unroll_length=task["num_steps"],
        batch_size=task["num_envs"] // task["minibatches"],
        num_minibatches=task["minibatches"],
        num_updates_per_batch=task["epochs"],
        normalize_observations=True,
        learning_rate=task["learning_rate"],
        entropy_cost=task["entropy_coef"],
        discounting=task["gamma"],
        gae_lambda=task["gae_lambda"],
        clipping_epsilon=task["clip_eps"],
        max_grad_norm=task["max_grad_norm"],
        reward_scaling=task["reward_scale"],
        network_factory=functools.partial(
            networks.make_ppo_networks,
            policy_hidden_layer_sizes=width,
            value_hidden_layer_sizes=width,
            activation=activation,
        ),
        num_evals=1 if with_curve else 4,
        run_evals=with_curve,
        num_eval_envs=task.get("eval_episodes", 1),
        deterministic_eval=True,
        log_training_metrics=with_curve,
        training_metrics_steps=task["total_steps"] // 50 if with_curve else None,
        progress_fn=lambda steps, metrics: seen.append((int(steps), {name: float(x) for name, x in metrics.items()})),
    )
    if with_curve:
        rows = [(steps, metrics["episode/sum_reward"]) for steps, metrics in seen if "episode/sum_reward" in metrics]
        return {
            "env_steps": seen[-1][0],
            "seconds": time.perf_counter() - begin,
            "curve": rows,
            "greedy": [seen[-1][1]["eval/episode_reward"]],
        }
    (_, compiling), (before, warm), (after, last) = seen  # JAX 0.10 compiles a second time in the second part
    seconds = last["training/walltime"] - warm["training/walltime"]
    compile_seconds = compiling["training/walltime"] - seconds
    return {"env_steps": after - before, "seconds": seconds, "compile_seconds": compile_seconds}


def replicate(tree: Any, devices: list[Any]) -> Any:
    """A copy for each device, along a new first axis."""
    spread = jax.NamedSharding(jax.make_mesh((len(devices),), ("i",), devices=devices), jax.P("i"))
    return jax.tree.map(lambda x: jax.device_put(jnp.stack([x] * len(devices)), spread), tree)


def train_rejax(task: Task) -> Found:
    """rejax's PPO with its own Brax environment, which resets itself here as gymnax before 1.0 did: it is written for that."""
    import rejax  # pyright: ignore[reportMissingImports]
    from rejax.compat import brax2gymnax  # pyright: ignore[reportMissingImports]

    class Resetting(brax2gymnax.Brax2GymnaxEnv):
        def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any = None) -> tuple:
            key, key_reset = jax.random.split(key)
            obs, state, reward, done, _ = self.step_env(key, state, action, params)
            fresh = self.reset_env(key_reset, params)
            obs, state = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, (obs, state))
            return obs, state, reward, done, {}

    algo = rejax.PPO.create(
        env=Resetting(brax2gymnax.create(task["env"], episode_length=1000, auto_reset=False)),
        agent_kwargs={"activation": task["activation"], "hidden_layer_sizes": tuple(task["hidden"])},
        num_envs=task["num_envs"],
        num_steps=task["num_steps"],
        num_epochs=task["epochs"],
        num_minibatches=task["minibatches"],
        normalize_observations=True,
        learning_rate=task["learning_rate"],
        gamma=task["gamma"],
        gae_lambda=task["gae_lambda"],
        clip_eps=task["clip_eps"],
        ent_coef=task["entropy_coef"],
        max_grad_norm=task["max_grad_norm"],
        total_timesteps=task["total_steps"],
        eval_freq=task["total_steps"],
        skip_initial_evaluation=True,
    ).replace(eval_callback=lambda *_: jnp.zeros(()))
    return time_training(algo.train, task)


def train_craftax_baseline(task: Task) -> Found:
    """The PPO of Craftax_Baselines, from a checkout of it; one reset for sixteen environments, as it defaults to."""
    sys.path.insert(0, task["checkout"])
    os.environ["WANDB_MODE"] = "disabled"
    import ppo  # pyright: ignore[reportMissingImports]

    rows: list[tuple[int, float]] = []
    with_curve = task.get("curve", False)
    size = task["num_envs"] * task["num_steps"]
    if with_curve:
        ppo.batch_log = lambda update, log, _: rows.append(((int(update) + 1) * size, float(log["episode_return"])))
    config = {
        "ENV_NAME": f"{task['env']}-v1",
        "TOTAL_TIMESTEPS": task["total_steps"],
        "NUM_ENVS": task["num_envs"],
        "NUM_STEPS": task["num_steps"],
        "UPDATE_EPOCHS": task["epochs"],
        "NUM_MINIBATCHES": task["minibatches"],
        "LAYER_SIZE": task["hidden"][0],
        "LR": task["learning_rate"],
        "ANNEAL_LR": "learning_rate" in task["anneal"],
        "GAMMA": task["gamma"],
        "GAE_LAMBDA": task["gae_lambda"],
        "CLIP_EPS": task["clip_eps"],
        "ENT_COEF": task["entropy_coef"],
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": task["max_grad_norm"],
        "USE_OPTIMISTIC_RESETS": True,
        "OPTIMISTIC_RESET_RATIO": 16,
        "NUM_REPEATS": task["seeds"],
        "TRAIN_ICM": False,
        "USE_E3B": False,
        "DEBUG": with_curve,
        "USE_WANDB": with_curve,
    }
    return time_training(ppo.make_train(config), task) | ({"curve": sorted(rows)} if with_curve else {})


def time_training(train: Callable[[jax.Array], Any], task: Task) -> Found:
    """One compiled program of all seeds, timed apart from its compilation."""
    keys = jax.random.split(jax.random.PRNGKey(task.get("seed", 0)), task["seeds"])
    train, keys = (train, keys[0]) if task["seeds"] == 1 else (jax.vmap(train), keys)
    begin = time.perf_counter()
    program = jax.jit(train).lower(keys).compile()
    compiled = time.perf_counter()
    jax.block_until_ready(program(keys))
    jax.effects_barrier()
    size = task["num_envs"] * task["num_steps"]
    updates = task["total_steps"] // size
    seconds = time.perf_counter() - compiled
    return {"env_steps": task["seeds"] * updates * size, "seconds": seconds, "compile_seconds": compiled - begin}


TRAINERS = {"brax": train_brax, "rejax": train_rejax, "craftax_baseline": train_craftax_baseline}


def main() -> None:
    """Train as asked, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=TRAINERS)
    parser.add_argument("task", type=json.loads)
    given = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        found = TRAINERS[given.trainer](given.task)
    print(json.dumps(found, default=lambda x: np.asarray(x).tolist()), flush=True)


if __name__ == "__main__":
    main()
