"""The policy gradient theorem as a test: the library's own advantages and losses against exact gradients, by enumeration.

On a small random MDP every trajectory of a few steps is enumerated with its probability as its weight, so that a weighted mean
over them *is* the expectation. The reference is autodiff through (I - gamma P)^-1 r, or through a finite-horizon recursion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.core import advantages, objectives, optimizers
from jaxpg.core.actor_critic import Separate
from jaxpg.core.algorithm import Algorithm
from jaxpg.core.distributions import Categorical
from jaxpg.core.hparams import HParams
from jaxpg.core.sgd import SGD
from jaxpg.core.types import Params, TrainState, Trajectory

S, A, GAMMA, CUT = 3, 2, 0.9, 0.3  # states, actions, discount, probability of a time limit on any step
NUM_MDPS = 16


class MDP(NamedTuple):
    transition: jax.Array  # [S, A, S + 1]; the last outcome is termination
    reward: jax.Array  # [S, A, S + 1]
    start: jax.Array  # [S]
    theta: jax.Array  # [S, A] logits


def random_mdp(seed: int) -> MDP:
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(S + 1), (S, A))
    arrays = transition, rng.normal(size=(S, A, S + 1)), rng.dirichlet(np.ones(S)), rng.normal(size=(S, A))
    return MDP(*(jnp.asarray(x, float) for x in arrays))


def under_policy(mdp: MDP) -> tuple[jax.Array, jax.Array]:
    """P_pi [S, S] without terminations, and r_pi [S]."""
    pi = jax.nn.softmax(mdp.theta)
    return jnp.einsum("sa,sax->sx", pi, mdp.transition[..., :S]), jnp.einsum("sa,sax,sax->s", pi, mdp.transition, mdp.reward)


def exact_values(mdp: MDP, gamma: float = GAMMA) -> jax.Array:
    p, r = under_policy(mdp)
    return jnp.linalg.solve(jnp.eye(S) - gamma * p, r)


def exact_gradient(mdp: MDP, gamma: float = GAMMA) -> jax.Array:
    return jax.grad(lambda theta: mdp.start @ exact_values(mdp._replace(theta=theta), gamma))(mdp.theta)


def occupancy(mdp: MDP) -> jax.Array:
    """Discounted expected number of visits, [S]."""
    return jnp.linalg.solve(jnp.eye(S) - GAMMA * under_policy(mdp)[0].T, mdp.start)


class Table:
    """A network that looks its answer up."""

    def __init__(self, wrap: Callable[[jax.Array], Any]):
        self.wrap = wrap

    def init(self, key: jax.Array, obs: jax.Array) -> jax.Array:
        raise AssertionError("the tests bring their own parameters")

    def apply(self, params: jax.Array, obs: jax.Array) -> Any:
        return self.wrap(params[obs])


def algorithm(advantage: Any, objective: Any = objectives.policy_gradient, **hparams: float) -> Algorithm:
    hp = HParams(learning_rate=1.0, max_grad_norm=1.0, adam_eps=1e-5, **{"gamma": GAMMA, **hparams})
    return Algorithm(
        env=object(),
        network=Separate(Table(Categorical), Table(lambda v: v)),
        num_envs=1,
        num_steps=1,
        hparams=hp,
        advantage=advantage,
        objective=objective,
        update_rule=SGD(optimizer=optimizers.adam),
    )


def paths(num_steps: int, cuts: bool) -> dict[str, np.ndarray]:
    """Every sequence (state, action, outcome, cut) of ``num_steps`` steps, from every start: index arrays ``[T, B]``.

    After an episode ends the next row is the first of another episode, which begins in state 0: the automatic reset.
    """
    steps = list(itertools.product(range(A), range(S + 1), (False, True) if cuts else (False,)))
    rows = []
    for first, *sequence in itertools.product(range(S), *[steps] * num_steps):
        state = first
        path = []
        for action, outcome, cut in sequence:
            path.append((state, action, outcome, cut))
            state = 0 if cut or outcome == S else outcome
        rows.append(path)
    state, action, outcome, cut = np.array(rows).transpose(2, 1, 0)
    return {"state": state, "action": action, "outcome": outcome, "cut": cut.astype(bool)}


def enumerate_trajectories(mdp: MDP, path: dict[str, np.ndarray], cuts: bool) -> tuple[Trajectory, jax.Array]:
    """The library's record of every path, and each path's probability given its first state, ``[B]``."""
    s, a, o, cut = (path[name] for name in ("state", "action", "outcome", "cut"))
    pi = jax.nn.softmax(mdp.theta)
    chance = jnp.where(cut, CUT, 1 - CUT) if cuts else 1.0
    probability = jnp.prod(pi[s, a] * mdp.transition[s, a, o] * chance, axis=0)
    zeros = jnp.zeros(s.shape)
    trajectory = Trajectory(
        obs=jnp.asarray(s),
        action=jnp.asarray(a),
        dist=Categorical(mdp.theta[s]),
        reward=mdp.reward[s, a, o],
        terminated=jnp.asarray(o == S),
        truncated=jnp.asarray(cut),
        next_obs=jnp.asarray(np.where(o == S, 0, o)),
        episode_return=zeros,
        episode_length=zeros,
        weight=zeros,
        memory=(),
        next_memory=(),
    )
    return trajectory, probability


def gradient(algo: Algorithm, mdp: MDP, trajectory: Trajectory, values: jax.Array, hp: HParams | None = None) -> jax.Array:
    """The library's policy gradient with ``trajectory.weight`` as probabilities (their sum undoes the mean)."""
    hp = algo.hparams if hp is None else hp
    state = TrainState(None, None, Params(mdp.theta, values), {}, None, None, (), hp, None)
    batch = algo.batch(state, trajectory, hp)
    descent, _ = jax.grad(algo.losses(state, hp).policy, has_aux=True)(state.params, batch)
    return -descent.policy * jnp.sum(trajectory.weight)


def first_step_gradient(algo: Algorithm, mdp: MDP, num_steps: int = 2) -> jax.Array:
    """E_{s ~ occupancy}[grad log pi(a_0|s) Psi_0] over rollouts of ``num_steps`` with terminations and time limits inside."""
    path = paths(num_steps, cuts=True)
    trajectory, probability = enumerate_trajectories(mdp, path, cuts=True)
    weight = jnp.zeros(path["state"].shape).at[0].set(probability * occupancy(mdp)[path["state"][0]])
    return gradient(algo, mdp, trajectory.replace(weight=weight), exact_values(mdp))


def errors(estimate: Callable[[MDP], jax.Array], exact: Callable[[MDP], jax.Array] = exact_gradient) -> np.ndarray:
    """Largest relative error on each of the random MDPs, in float64."""
    with jax.enable_x64(True):
        mdps = jax.tree.map(lambda *x: jnp.stack(x), *(random_mdp(seed) for seed in range(NUM_MDPS)))
        difference, truth = jax.jit(jax.vmap(lambda m: (estimate(m) - exact(m), exact(m))))(mdps)
        return np.asarray(jnp.max(jnp.abs(difference), (1, 2)) / jnp.max(jnp.abs(truth), (1, 2)))


BOOTSTRAPPED = {
    "reward_to_go": algorithm(advantages.reward_to_go),
    "constant_baseline": algorithm(advantages.constant_baseline, baseline=1.7),
    "learned_baseline": algorithm(advantages.learned_baseline),
    "one_step_td": algorithm(advantages.one_step_td),
    "n_step": algorithm(advantages.NStep(2)),
    "gae": algorithm(advantages.gae, gae_lambda=0.7),
    "surrogate": algorithm(advantages.gae, objectives.surrogate, gae_lambda=0.7),
    "clipped_surrogate": algorithm(advantages.gae, objectives.clipped_surrogate, gae_lambda=0.7, clip_eps=0.2),
}


@pytest.mark.parametrize("name", BOOTSTRAPPED)
def test_every_unbiased_estimator_gives_the_exact_gradient(name: str) -> None:
    assert errors(lambda mdp: first_step_gradient(BOOTSTRAPPED[name], mdp)).max() < 1e-10


def action_dependent(trajectory: Trajectory, value: Any, next_value: Any, hp: HParams) -> Any:
    g, _ = advantages.reward_to_go(trajectory, value, next_value, hp)
    return g - jnp.where(trajectory.action == 0, 1.0, -1.0), g


def time_limit_as_death(trajectory: Trajectory, value: Any, next_value: Any, hp: HParams) -> Any:
    return advantages.gae(trajectory.replace(terminated=trajectory.done), value, next_value, hp)


def termination_ignored(trajectory: Trajectory, value: Any, next_value: Any, hp: HParams) -> Any:
    return advantages.gae(trajectory.replace(terminated=jnp.zeros_like(trajectory.done)), value, next_value, hp)


def previous_done(trajectory: Trajectory, value: Any, next_value: Any, hp: HParams) -> Any:
    late = {name: jnp.roll(getattr(trajectory, name), 1, axis=0) for name in ("terminated", "truncated")}
    return advantages.gae(trajectory.replace(**late), value, next_value, hp)


def wrong_values(trajectory: Trajectory, value: Any, next_value: Any, hp: HParams) -> Any:
    return advantages.one_step_td(trajectory, value, 0.5 * next_value, hp)


@pytest.mark.parametrize("biased", [action_dependent, time_limit_as_death, termination_ignored, previous_done, wrong_values])
def test_a_biased_estimator_fails(biased: Any) -> None:
    algo = algorithm(advantages.reads("gamma", "gae_lambda")(biased), gae_lambda=0.7)
    assert errors(lambda mdp: first_step_gradient(algo, mdp)).min() > 1e-3


def finite_horizon_gradient(mdp: MDP, num_steps: int, gamma: float) -> jax.Array:
    """grad of E[sum_{t < T} gamma^t r_t], by pushing the state distribution forward."""

    def objective(theta: jax.Array) -> jax.Array:
        p, r = under_policy(mdp._replace(theta=theta))
        total, visits = jnp.zeros(()), mdp.start
        for t in range(num_steps):
            total, visits = total + gamma**t * visits @ r, visits @ p
        return total

    return jax.grad(objective)(mdp.theta)


def complete_episodes(mdp: MDP, num_steps: int) -> tuple[Trajectory, jax.Array]:
    """Every episode of at most ``num_steps`` steps, weight 1 until its end, and the probability of each."""
    path = paths(num_steps, cuts=False)
    trajectory, probability = enumerate_trajectories(mdp, path, cuts=False)
    terminated = trajectory.terminated.at[-1].set(True)
    alive = jnp.cumsum(terminated, axis=0) - terminated == 0
    return trajectory.replace(terminated=terminated, weight=alive * 1.0), probability * mdp.start[path["state"][0]]


EPISODIC = {
    # total return carries gamma^t itself; the others take it as a weight, as J has it
    "total_return": (algorithm(advantages.total_return), False),
    "reward_to_go": (algorithm(advantages.reward_to_go), True),
    "constant_baseline": (algorithm(advantages.constant_baseline, baseline=-0.6), True),
    "learned_baseline": (algorithm(advantages.learned_baseline), True),
}


@pytest.mark.parametrize("name", EPISODIC)
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_complete_episodes_give_the_exact_gradient(name: str, gamma: float) -> None:
    algo, discount_rows = EPISODIC[name]
    algo = algorithm(algo.advantage, **{"gamma": gamma} | ({"baseline": -0.6} if name == "constant_baseline" else {}))

    def estimate(mdp: MDP) -> jax.Array:
        trajectory, probability = complete_episodes(mdp, 3)
        rows = (gamma ** jnp.arange(3.0))[:, None] if discount_rows else 1.0
        weighted = trajectory.replace(weight=trajectory.weight * probability * rows)
        return gradient(algo, mdp, weighted, jnp.array([0.3, -2.0, 5.0]))  # any b(s) will do

    assert errors(estimate, lambda mdp: finite_horizon_gradient(mdp, 3, gamma)).max() < 1e-10


def pair_gradient(algo: Algorithm, mdp: MDP, num_steps: int) -> jax.Array:
    """The expectation over all pairs of independent episodes, as two environments of one rollout."""
    trajectory, probability = complete_episodes(mdp, num_steps)
    values = jnp.zeros(S)
    first, second = (x.ravel() for x in np.indices((probability.shape[0],) * 2))

    def one(i: jax.Array, j: jax.Array) -> jax.Array:
        pair = jax.tree.map(lambda x: x[:, jnp.stack([i, j])], trajectory)
        return probability[i] * probability[j] * gradient(algo, mdp, pair, values) / 2  # per episode

    return jnp.sum(jax.vmap(one)(jnp.asarray(first), jnp.asarray(second)), axis=0)


def test_leave_one_out_is_unbiased_and_the_batch_mean_shrinks_by_one_over_b() -> None:
    leave_one_out = algorithm(advantages.leave_one_out_baseline, gamma=1.0)
    assert errors(lambda m: pair_gradient(leave_one_out, m, 2), lambda m: finite_horizon_gradient(m, 2, 1.0)).max() < 1e-10
    batch_mean = algorithm(advantages.batch_mean_baseline, gamma=1.0)
    shrunk = errors(lambda m: pair_gradient(batch_mean, m, 1), lambda m: 0.5 * finite_horizon_gradient(m, 1, 1.0))
    assert shrunk.max() < 1e-10


@pytest.mark.parametrize("name", ["gae", "surrogate", "clipped_surrogate"])
def test_the_theorem_in_float32(name: str) -> None:
    algo = BOOTSTRAPPED[name]
    for seed in range(NUM_MDPS):
        mdp = random_mdp(seed)
        exact = np.asarray(exact_gradient(mdp))
        assert np.abs(np.asarray(first_step_gradient(algo, mdp, 1)) - exact).max() < 1e-6 * max(1.0, np.abs(exact).max())
