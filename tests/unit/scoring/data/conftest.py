"""A cache of data for each test, the tokenizer whose tokens are bytes, and a hub on loopback with a process that asks it."""

import os

import pytest

from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.contract.paths import DataPaths
from support.fakes.hub import make_hub_environment, serve_hub
from support.fakes.hub_datasets import make_full_hub
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.runs.prefill_process import CommandProcess


@pytest.fixture
def data(tmp_path):
    return DataPaths(tmp_path / "eval_data")


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory):
    return resolve_tokenizer(str(BYTE_TOKENIZER), DataPaths(tmp_path_factory.mktemp("bytes")))


@pytest.fixture(scope="module")
def served_hub():
    with serve_hub(make_full_hub(count=120)) as served:
        yield served


@pytest.fixture
def hub(served_hub):
    yield served_hub
    served_hub.faults.clear()
    served_hub.on_info = None


@pytest.fixture(scope="module")
def scoring(served_hub, tmp_path_factory):
    """Runs commands in a process that takes the served hub for the real one, and builds prefill's entries itself."""
    folder = tmp_path_factory.mktemp("child")
    environ = make_hub_environment(served_hub, folder / "hf_home", os.environ)
    with CommandProcess(environ, folder, builds_here=True) as child:
        yield child


@pytest.fixture(scope="module")
def scoring_with_children(served_hub, tmp_path_factory):
    """The same, but prefill builds in processes, as a user has it."""
    folder = tmp_path_factory.mktemp("parent")
    environ = make_hub_environment(served_hub, folder / "hf_home", os.environ)
    with CommandProcess(environ, folder) as child:
        yield child
