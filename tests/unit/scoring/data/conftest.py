"""A cache of data for each test, and the tokenizer whose tokens are bytes."""

import pytest

from scoring.data.tokenizer import load_tokenizer
from suites.contract.paths import DataPaths
from support.models.nanotron_fixtures import BYTE_TOKENIZER


@pytest.fixture
def data(tmp_path):
    return DataPaths(tmp_path / "eval_data")


@pytest.fixture(scope="session")
def byte_tokenizer():
    return load_tokenizer("bytes", BYTE_TOKENIZER, "digest")
