"""The study of two gradient estimators, small: unbiased, and the variances of the closed forms."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss

from experiments import reparameterization as study


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pathlib.Path]:
    out = tmp_path_factory.mktemp("reparameterization")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "DIMENSIONS", (1, 8))
        return study.main(samples=20_000, out=out), out


def rows(numbers: dict[str, Any], name: str) -> list[dict[str, float]]:
    return [row[name] for which in ("by_sigma", "by_dimension") for row in numbers[which].values()]


@pytest.mark.parametrize("name", study.ESTIMATORS)
def test_every_estimator_is_unbiased(name: str, found: Any) -> None:
    assert max(row["worst_error"] for row in rows(found[0], name)) < 4.5  # standard errors, the worst of 28 components


@pytest.mark.parametrize("name", study.ESTIMATORS)
def test_variances_are_those_of_the_closed_forms(name: str, found: Any) -> None:
    variance, closed = np.array([(row["variance"], row["closed_form"]) for row in rows(found[0], name)]).T
    np.testing.assert_allclose(variance, closed, rtol=0.15)


@pytest.mark.parametrize("sigma", study.SIGMAS)
def test_closed_forms_agree_with_quadrature(sigma: float) -> None:
    """In one dimension all three are polynomials in eps of degree 6 at most, over sigma."""
    eps, weight = hermegauss(20)
    weight = weight / weight.sum()
    z = 1.0 + sigma * eps
    baseline = weight @ z**2
    closed = study.closed_forms(1, sigma)
    for name, g in zip(study.ESTIMATORS, (z**2 * eps / sigma, (z**2 - baseline) * eps / sigma, 2 * z), strict=True):
        assert weight @ g == pytest.approx(2.0)
        assert weight @ (g - 2.0) ** 2 == pytest.approx(closed[name])


def test_the_pathwise_gradient_varies_least_and_the_baseline_helps(found: Any) -> None:
    plain, centred, pathwise = (np.array([row["variance"] for row in rows(found[0], name)]) for name in study.ESTIMATORS)
    assert np.all(pathwise < centred)
    assert np.all(centred < plain)


def test_only_the_plain_score_function_explodes_as_sigma_shrinks(found: Any) -> None:
    narrow, wide = (found[0]["by_sigma"][sigma] for sigma in (0.03, 0.3))
    plain, centred, pathwise = (narrow[name]["variance"] / wide[name]["variance"] for name in study.ESTIMATORS)
    assert plain > 20
    assert 0.7 < centred < 1.3
    assert pathwise == pytest.approx(0.01, rel=0.1)


def test_figure_and_numbers_are_written(found: Any) -> None:
    numbers, out = found
    assert json.loads((out / "reparameterization.json").read_text())["samples"] == numbers["samples"]
    assert (out / "reparameterization.png").stat().st_size > 10_000
