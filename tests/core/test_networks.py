"""Networks: orthogonal initialisation that cannot hang, and outputs of the right shape, scale and bounds."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxpg.core.networks import (
    CNN,
    MLP,
    BetaHead,
    CategoricalPolicy,
    ConstantCritic,
    Conv,
    Critic,
    Feedforward,
    GaussianPolicy,
    NoCritic,
    StateDependentGaussianHead,
    TanhGaussianHead,
    linear,
    orthogonal,
)

OBS = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)


@pytest.mark.parametrize("shape", [(64, 64), (4, 64), (64, 2), (64, 1), (1, 64), (1, 1), (256, 256), (3, 3, 2, 8)], ids=str)
def test_orthogonal_is_orthonormal_times_its_scale(shape):
    init = jax.jit(orthogonal(0.1), static_argnums=1)
    for seed in range(3):
        x = init(jax.random.key(seed), shape)
        assert x.shape == shape
        assert x.dtype == jnp.float32
        matrix = np.asarray(x, np.float64).reshape(-1, shape[-1]) / 0.1
        gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_orthogonal_matrices_are_made_with_float32_products_where_the_default_is_less(platform):
    make = jax.jit(jax.vmap(lambda key: orthogonal()(key, (64, 8))))
    text = make.trace(jax.random.split(jax.random.key(0), 3)).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.dot_general ") == text.count("precision = [HIGHEST, HIGHEST]") > 0


def test_a_vmapped_orthogonal_start_does_not_hang():
    """The usual initialiser's LAPACK calls deadlock the CPU thread pool under vmap and jit: hence a process and a time-out."""
    program = """
import jax, jax.numpy as jnp
from jaxpg.core.networks import orthogonal
keys = jax.random.split(jax.random.key(0), (256, 3))
def start(keys):
    return [orthogonal()(k, shape) for k, shape in zip(keys, [(4, 64), (64, 64), (64, 2)])]
worst = 0.0
for x in jax.jit(jax.vmap(start))(keys):
    x = x if x.shape[1] >= x.shape[2] else x.swapaxes(1, 2)
    gram = jnp.einsum("sij,sik->sjk", x, x, precision="highest")
    worst = max(worst, float(jnp.max(jnp.abs(gram - jnp.eye(x.shape[2])))))
print(worst)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8)], ids=str)
def test_orthogonal_matrices_are_spread_evenly(shape):
    """Haar: each entry has mean 0 and variance 1/n, is a coordinate of a uniform point on the sphere, and signs are free."""
    x = np.asarray(jax.vmap(lambda key: orthogonal()(key, shape))(jax.random.split(jax.random.key(0), 4000)))
    n = max(shape)
    np.testing.assert_allclose(x.mean(0), 0.0, atol=5 / np.sqrt(n * 4000))
    np.testing.assert_allclose(x.var(0), 1 / n, rtol=0.15)
    coordinate = stats.beta((n - 1) / 2, (n - 1) / 2, loc=-1, scale=2)
    for entry in (x[:, 0, 0], x[:, -1, -1], x[:, -1, 0]):
        assert stats.kstest(entry, coordinate.cdf).pvalue > 1e-3
    if shape == (5, 5):
        positive = np.sum(np.linalg.det(x) > 0)
        assert stats.binomtest(int(positive), 4000).pvalue > 1e-3


class HalfLinear(nn.Module):
    """A head of two linear outputs whose matrix is half orthonormal."""

    @nn.compact
    def __call__(self, x):
        return linear(2, 0.5, x)


def test_a_feedforward_network_is_the_composition_of_its_layers():
    network = Feedforward(MLP(hidden=(8, 5)), HalfLinear())
    variables = network.init(jax.random.key(0), OBS)
    encoder, head = variables["params"]["encoder"], variables["params"]["head"]
    layers = [encoder["Dense_0"], encoder["Dense_1"], head["Dense_0"]]
    assert [layer["kernel"].shape for layer in layers] == [(4, 8), (8, 5), (5, 2)]
    assert all(np.all(layer["bias"] == 0) for layer in layers)
    for layer, scale in zip(layers, [np.sqrt(2), np.sqrt(2), 0.5], strict=True):
        np.testing.assert_allclose(np.linalg.svd(layer["kernel"], compute_uv=False), scale, rtol=1e-4)
    x = np.asarray(OBS, np.float64)
    for layer in layers[:2]:
        x = np.tanh(x @ layer["kernel"])
    np.testing.assert_allclose(network.apply(variables, OBS), x @ layers[2]["kernel"], rtol=1e-4, atol=1e-5)


def test_an_observation_may_be_any_pytree_of_any_dtype():
    obs = {"image": jnp.ones((3, 2, 2), jnp.uint8), "mode": jnp.array([0, 1, 2]), "flag": jnp.array([True, False, True])}
    mlp = MLP()
    variables = mlp.init(jax.random.key(0), obs)
    assert variables["params"]["Dense_0"]["kernel"].shape == (4 + 1 + 1, 64)
    out = mlp.apply(variables, obs)
    assert out.shape == (3, 64)
    assert out.dtype == jnp.float32
    for name in obs:
        changed = mlp.apply(variables, obs | {name: jnp.zeros_like(obs[name])})
        assert not np.allclose(out, changed), f"{name} has no influence"


def test_a_categorical_policy_starts_nearly_uniform():
    policy = CategoricalPolicy(3)
    dist = policy.apply(policy.init(jax.random.key(0), OBS), OBS)
    assert dist.logits.shape == (3, 3)
    np.testing.assert_allclose(jax.nn.softmax(dist.logits), 1 / 3, atol=0.01)


def test_a_gaussian_policy_has_one_log_std_for_every_state():
    policy = GaussianPolicy(2, initial_log_std=-0.5)
    variables = policy.init(jax.random.key(0), OBS)
    dist = policy.apply(variables, OBS)
    assert variables["params"]["head"]["log_std"].shape == (2,)
    assert dist.mean.shape == (3, 2)
    np.testing.assert_allclose(dist.mean, 0.0, atol=0.03)
    np.testing.assert_array_equal(dist.log_std, np.full((3, 2), -0.5))


@pytest.mark.parametrize("bounds", [(-5.0, 2.0), (-1.0, 1.0), (-2.0, 0.5)])
def test_a_state_dependent_gaussian_starts_at_one_and_keeps_its_bounds(bounds):
    policy = Feedforward(MLP(), StateDependentGaussianHead((2,), log_std_bounds=bounds))
    variables = policy.init(jax.random.key(0), OBS)
    start = policy.apply(variables, OBS)
    assert start.mean.shape == start.log_std.shape == (3, 2)
    np.testing.assert_allclose(np.exp(start.log_std), 1.0, atol=0.1)
    assert len(np.unique(np.asarray(start.log_std))) > 1, "the standard deviation does not depend on the state"
    np.testing.assert_allclose(start.mean, 0.0, atol=0.03)
    extreme = policy.apply(jax.tree.map(lambda x: 1e4 * x, variables), OBS)
    assert np.all((extreme.log_std >= bounds[0]) & (extreme.log_std <= bounds[1]))
    assert np.ptp(extreme.log_std) == pytest.approx(bounds[1] - bounds[0], rel=1e-5)


@pytest.mark.parametrize("head", [TanhGaussianHead, BetaHead])
@pytest.mark.parametrize(("shape", "low", "high"), [((), 0.0, 3.0), ((2,), (-1.0, 10.0), (1.0, 20.0)), ((2, 3), -2.0, 5.0)])
def test_a_bounded_head_starts_in_the_middle_keeps_its_bounds_and_treats_observations_apart(head, shape, low, high):
    policy = Feedforward(MLP((8,)), head(shape, low, high))
    variables = policy.init(jax.random.key(0), OBS)
    start = policy.apply(variables, OBS)
    middle, width = np.add(low, high) / 2, np.subtract(high, low)
    np.testing.assert_array_less(abs(start.mode() - middle) / width, np.full((3, *shape), 0.02))
    far = jax.tree.map(lambda x: x + 3.0 * jax.random.normal(jax.random.key(1), x.shape), variables)
    dist = policy.apply(far, OBS)
    action = dist.sample(dist.noise(jax.random.key(2)))
    assert action.shape == (3, *shape)
    assert np.all((action >= np.asarray(low)) & (action <= np.asarray(high)))
    assert dist.log_prob(action).shape == (3,)
    assert np.all(np.isfinite(dist.log_prob(action)))
    alone = jax.tree.map(lambda *rows: jnp.concatenate(rows), *(policy.apply(far, OBS[i : i + 1]) for i in range(3)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), dist, alone)
    assert len(np.unique(np.round(np.asarray(dist.mode()), 4))) > 1, "the same for every observation"


def test_the_beta_of_a_head_has_one_maximum_within_its_bounds():
    policy = Feedforward(MLP((8,)), BetaHead((2,)))
    variables = jax.tree.map(lambda x: 50.0 * x, policy.init(jax.random.key(0), OBS))
    dist = policy.apply(variables, OBS)
    assert np.all(dist.alpha >= 1.0)
    assert np.all(dist.beta >= 1.0)
    assert np.all(abs(dist.mode()) <= 1.0)


@pytest.mark.parametrize("network", [Critic(), ConstantCritic(), NoCritic()])
def test_a_critic_gives_one_value_an_observation(network):
    obs = {"a": OBS, "b": jnp.zeros((3, 2), jnp.int32)}
    value, variables = network.init_with_output(jax.random.key(0), obs)
    assert value.shape == (3,)
    assert value.dtype == jnp.float32
    if isinstance(network, NoCritic):
        assert jax.tree.leaves(variables) == []
    if not isinstance(network, Feedforward):
        np.testing.assert_array_equal(value, 0.0)


def test_a_constant_critic_trained_by_small_steps_is_the_running_mean_of_lesson_14():
    constant, mean = ConstantCritic(), 0.0
    variables = constant.init(jax.random.key(0), OBS)
    for target in [3.0, -1.0, 4.0, 1.0, 5.0]:
        gradient = jax.grad(lambda v, g=target: jnp.mean(0.5 * (g - constant.apply(v, OBS)) ** 2))(variables)
        variables = jax.tree.map(lambda x, g: x - 0.05 * g, variables, gradient)
        mean = 0.95 * mean + 0.05 * target
    np.testing.assert_allclose(constant.apply(variables, OBS), mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride"), [((10, 10, 4), 3, 1), ((84, 80, 3), 8, 4), ((9, 7, 2), 4, 2), ((1, 2, 1), 3, 2)]
)
def test_a_convolution_is_that_of_flax(shape, kernel, stride):
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    ours, theirs = Conv(5, kernel, stride), nn.Conv(5, (kernel, kernel), stride)
    variables = jax.tree.map(lambda x: x + 0.1, ours.init(jax.random.key(1), x))

    def loss(net, variables):
        return jnp.sum(jnp.sin(net.apply(variables, x)))

    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-4, atol=1e-4)
    one, two = (jax.grad(loss, 1)(net, variables) for net in (ours, theirs))
    np.testing.assert_allclose(one["params"]["kernel"], two["params"]["kernel"], rtol=1e-3, atol=1e-3)


def test_images_of_integers_and_booleans_are_scaled():
    net, image = CNN(hidden=(8,)), jax.random.randint(jax.random.key(0), (2, 10, 10, 4), 0, 256).astype(jnp.uint8)
    variables = net.init(jax.random.key(0), image)
    np.testing.assert_allclose(net.apply(variables, image), net.apply(variables, image / 255.0), rtol=1e-5, atol=1e-6)
    flags = image > 127
    np.testing.assert_allclose(net.apply(variables, flags), net.apply(variables, flags.astype(jnp.float32)), rtol=1e-6)
    assert CNN.nature().init_with_output(jax.random.key(0), jnp.zeros((1, 84, 84, 4), jnp.uint8))[0].shape == (1, 512)
