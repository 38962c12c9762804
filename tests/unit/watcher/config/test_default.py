"""The shipped default.yaml: every key of the schema stands in it, with what it means."""

import re

import msgspec
import pytest

from watcher.config import file_schema
from watcher.config.loader import DEFAULT_CONFIG_FILE
from watcher.config.settings import LimitSettings

SECTIONS = [
    *(value for value in vars(file_schema).values() if isinstance(value, type) and issubclass(value, msgspec.Struct)),
    LimitSettings,
]
KEYS = sorted({name for section in SECTIONS for name in section.__struct_encode_fields__})


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_explained(key):
    text = DEFAULT_CONFIG_FILE.read_text(encoding="utf-8")
    assert re.search(rf"(?<![\w.]){re.escape(key)}(:|`|,| and | defaults| means|/)", text), key
