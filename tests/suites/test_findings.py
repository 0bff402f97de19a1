"""What was found in other packages is still there; where a package has fixed it, its adapter can become shorter."""

import importlib.util

import pytest

from experiments.suites import findings

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("name", sorted(findings.PACKAGES))
def test_a_finding_holds(name):
    package = findings.PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: make test-suites")
    assert findings.holds(name), f"{name} is no longer so: correct experiments/environment_findings.md, and perhaps an adapter"


def test_gymnax_declares_some_spaces_that_its_observations_leave():
    found = findings.gymnax_spaces()
    assert {*found} == {"Catch-bsuite", "FourRooms-misc", "GaussianBandit-misc", "MemoryChain-bsuite", "MetaMaze-misc"}
    assert found["Catch-bsuite"].startswith("env.observation_space declares int32, but an observation has float32")
