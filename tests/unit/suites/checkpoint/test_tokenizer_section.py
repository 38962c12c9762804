"""The tokenizer section of nanotron's config.yaml: every key is honoured, or refused by its name."""

import pytest

from suites.checkpoint.metadata import read_training_config
from suites.common.errors import UserError


def read_section(tmp_path, section):
    path = tmp_path / "config.yaml"
    lines = "".join(f"  {line}\n" for line in section)
    path.write_text(f"tokens: {{sequence_length: 64}}\ntokenizer:\n{lines}")
    return read_training_config(path).tokenizer


@pytest.mark.parametrize(
    ("section", "tokenizer"),
    [
        (["tokenizer_name_or_path: acme/tok"], "acme/tok"),
        (["tokenizer_name_or_path: acme/tok", "tokenizer_revision: null"], "acme/tok"),
        (["tokenizer_name_or_path: acme/tok", "tokenizer_revision: step-100"], "acme/tok@step-100"),
        (["tokenizer_name_or_path: acme/tok", "tokenizer_revision: 123456"], "acme/tok@123456"),
        (["tokenizer_name_or_path: /data/tok", "tokenizer_revision: main"], "/data/tok"),
        (["tokenizer_name_or_path: acme/tok", "tokenizer_max_length: 2048"], "acme/tok"),
        (["tokenizer_name_or_path: acme/tok", "add_bos_token: null"], "acme/tok"),
    ],
)
def test_a_revision_travels_with_the_name(tmp_path, section, tokenizer):
    assert read_section(tmp_path, section) == tokenizer


@pytest.mark.parametrize("key", ["add_bos_token", "use_fast", "trust_remote_code", "tokenizer_kwargs"])
def test_another_key_is_refused_by_its_name(tmp_path, key):
    with pytest.raises(UserError, match=rf"config.yaml: tokenizer.{key} is not supported"):
        read_section(tmp_path, ["tokenizer_name_or_path: acme/tok", f"{key}: true"])
