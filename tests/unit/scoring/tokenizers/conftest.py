"""A cache of data for each test, and the tokenizer whose tokens are bytes."""

import pytest

from scoring.data.tokenizer_cache import resolve_tokenizer
from suites.contract.paths import DataPaths
from support.models.nanotron_fixtures import BYTE_TOKENIZER


@pytest.fixture
def data(tmp_path):
    return DataPaths(tmp_path / "eval_data")


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory):
    return resolve_tokenizer(str(BYTE_TOKENIZER), DataPaths(tmp_path_factory.mktemp("bytes")))
