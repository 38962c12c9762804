"""One real Slurm with accounting and one without, for the whole session and only when a test asks."""

import os
from contextlib import closing, contextmanager

import pytest

from support.executors.harness import FakeCommandsHarness, FakeSlurmHarness, start_slurm_cluster_harness
from support.executors.local import LocalHarness


@pytest.fixture(scope="session")
def with_accounting():
    with start_slurm_cluster_harness(accounting=True) as lab:
        yield lab


@pytest.fixture(scope="session")
def without_accounting():
    with start_slurm_cluster_harness(accounting=False) as lab:
        yield lab


def ready(lab):
    """The lab; a skip that says why there is none; with CI=true a failure, since a test that never ran shows nothing."""
    try:
        return lab()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Slurm: {error}")
        pytest.skip(f"no Slurm: {error} (python3 tests/support/slurm_cluster/cluster.py install)")


@pytest.fixture
def slurm(without_accounting):
    return ready(without_accounting)


@pytest.fixture
def accounted_slurm(with_accounting):
    return ready(with_accounting)


SLURMS = [
    "model",
    "model, no accounting",
    "fake executables",
    pytest.param("slurm", marks=pytest.mark.slurm),
    pytest.param("slurm, accounting", marks=pytest.mark.slurm),
]


@pytest.fixture(params=SLURMS)
def lab(request, tmp_path):
    """Each Slurm in turn that the contract holds on."""
    with opened(request, tmp_path) as made:
        yield made


@pytest.fixture(params=["local", *SLURMS])
def any_lab(request, tmp_path):
    """Each place in turn, the machine without Slurm too."""
    with opened(request, tmp_path) as made:
        yield made


@contextmanager
def opened(request, tmp_path):
    if request.param.startswith("slurm"):
        yield request.getfixturevalue("accounted_slurm" if "accounting" in request.param else "slurm")
        return
    if request.param == "local":
        made = LocalHarness(tmp_path)
    elif request.param == "fake executables":
        made = FakeCommandsHarness(tmp_path)
    else:
        made = FakeSlurmHarness(tmp_path, accounting="no" not in request.param)
    with closing(made):
        yield made
