"""Two unbiased gradients of E[|z - c|^2], z = mu + sigma eps: the score function asks for the cost, the pathwise for its slope.

.venv/bin/python -m experiments.reparameterization
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments import study
from jaxpg.core.distributions import DiagGaussian
from jaxpg.core.types import Array
from jaxpg.lab.report import plots

SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0)  # in one dimension
DIMENSIONS = (1, 2, 4, 8, 16, 32)  # with the sigma of the third
ESTIMATORS = ("score function", "score function with baseline", "pathwise")
Rows = dict[str, dict[str, float]]


def cost(z: Array) -> Array:
    """|z - c|^2 with c = 0: ``[d] -> []``."""
    return jnp.sum(z**2)


@functools.partial(jax.jit, static_argnames="pathwise")
def gradients(pathwise: bool, dist: DiagGaussian, noise: Array, baseline: Array) -> DiagGaussian:
    """Estimates of the gradient of E[cost(z)] in mu and log sigma, one for each row of ``noise [N, d]``.

    Pathwise: the gradient of cost(mu + sigma eps), where eps is data [Kingma & Welling 2014]. Score function:
    (cost(z) - b) grad log p(z), where z is data [Williams 1992].
    """

    def path(dist: DiagGaussian, noise: Array) -> Array:
        return cost(dist.sample(noise))

    def score(dist: DiagGaussian, z: Array) -> Array:
        return (cost(z) - baseline) * dist.log_prob(z)

    if pathwise:
        return jax.vmap(jax.grad(path), (None, 0))(dist, noise)
    return jax.vmap(jax.grad(score), (None, 0))(dist, dist.sample(noise))


def closed_forms(dims: int, sigma: float) -> dict[str, float]:
    """Variance of the gradient in mu, summed over dimensions, at |mu - c| = 1; m = E[cost] = 1 + d s^2 is the baseline.

    Pathwise: 4 d s^2. Score function with baseline: 4 (d + 1) + 2 s^2 d (d + 4); without: m^2 d / s^2 + 4 m d more.
    """
    square, mean = sigma**2, 1 + dims * sigma**2
    centred = 4 * (dims + 1) + 2 * square * dims * (dims + 4)
    return dict(zip(ESTIMATORS, (centred + mean**2 * dims / square + 4 * mean * dims, centred, 4 * dims * square), strict=True))


def measure(key: Array, dims: int, sigma: float, samples: int) -> dict[str, Rows]:
    """What each estimator's samples say of the gradient in mu: mean over exact (in the direction mu - c) and variance.

    ``worst_error`` is the largest distance of a mean from the exact gradient, in standard errors, over mu and log sigma.
    """
    dist = DiagGaussian(jnp.full(dims, dims**-0.5), jnp.full(dims, np.log(sigma)))
    noise = jax.tree.map(lambda x: jnp.broadcast_to(x, (samples, dims)), dist).noise(key)
    exact = np.repeat([2 * dims**-0.5, 2 * sigma**2], dims)
    found, closed = {}, closed_forms(dims, sigma)
    for name in ESTIMATORS:
        baseline = 1.0 + dims * sigma**2 if "baseline" in name else 0.0
        g = gradients(name == "pathwise", dist, noise, baseline)
        rows = np.concatenate([g.mean, g.log_std], axis=1).astype(float)
        error = (rows.mean(axis=0) - exact) / (rows.std(axis=0, ddof=1) / samples**0.5)
        along = rows[:, :dims].mean(axis=1) / exact[0]
        row = {"mean": along.mean(), "standard_error": along.std(ddof=1) / samples**0.5, "worst_error": np.abs(error).max()}
        row |= {"variance": rows[:, :dims].var(axis=0, ddof=1).sum(), "closed_form": closed[name]}
        found[name] = {what: float(x) for what, x in row.items()}
    return found


def draw(by_sigma: dict[float, Any], by_dims: dict[int, Any]) -> Figure:
    """Means against sigma; variances against sigma and against the dimension, dots on the lines of the closed forms."""
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    means, sigmas, dims = figure.subplots(1, 3)
    middle = SIGMAS[2]
    for i, (name, style) in enumerate(zip(ESTIMATORS, plots.styles(3, is_ordered=False), strict=True)):
        look = {"color": style["color"], "marker": style["marker"], "markersize": 5.5, "linestyle": "none", "label": name}
        mean, error = (np.array([row[name][what] for row in by_sigma.values()]) for what in ("mean", "standard_error"))
        means.errorbar(np.array(SIGMAS) * 1.15 ** (i - 1), mean, 2 * error, **look)  # side by side
        for axes, rows in ((sigmas, by_sigma), (dims, by_dims)):
            axes.plot(list(rows), [row[name]["variance"] for row in rows.values()], **look)
        x = np.geomspace(SIGMAS[0], SIGMAS[-1], 100)
        sigmas.plot(x, [closed_forms(1, sigma)[name] for sigma in x], color=look["color"], linewidth=1.2)
        dims.plot(DIMENSIONS, [closed_forms(d, middle)[name] for d in DIMENSIONS], color=look["color"], linewidth=1.2)
    means.axhline(1.0, **plots.DASHED)
    plots.bare(means, "Both are unbiased (d = 1)", "sigma", "mean of the estimates / exact gradient")
    plots.bare(sigmas, "Variance by sigma (d = 1)", "sigma", "variance of one estimate")
    plots.bare(dims, f"Variance by d (sigma = {middle})", "dimensions d", "variance of one estimate, summed over d")
    for axes in (means, sigmas, dims):
        axes.set_xscale("log", base=2 if axes is dims else 10)
    sigmas.set_yscale("log")
    dims.set_yscale("log")
    dims.set_xticks(DIMENSIONS, [str(d) for d in DIMENSIONS])
    handles, labels = sigmas.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=plots.INK)
    return figure


def main(samples: int = 50_000, seed: int = 0, out: Path = study.FIGURES) -> dict[str, Any]:
    """Measure, print, write ``reparameterization.png`` and ``reparameterization.json`` to ``out``."""
    key_sigma, key_dims = jax.random.split(jax.random.key(seed))
    keys = jax.random.split(key_sigma, len(SIGMAS)), jax.random.split(key_dims, len(DIMENSIONS))
    by_sigma = {sigma: measure(key, 1, sigma, samples) for key, sigma in zip(keys[0], SIGMAS, strict=True)}
    by_dims = {dims: measure(key, dims, SIGMAS[2], samples) for key, dims in zip(keys[1], DIMENSIONS, strict=True)}
    for label, rows in (("sigma", by_sigma), ("d", by_dims)):
        for x, row in rows.items():
            print(f"{label} = {x:<6}" + "".join(f"{name}: {one['variance']:10.4g}   " for name, one in row.items()))
    numbers = {"samples": samples, "seed": seed, "by_sigma": by_sigma, "by_dimension": by_dims}
    return study.write("reparameterization", numbers, draw(by_sigma, by_dims), out)


if __name__ == "__main__":
    tyro.cli(main)
