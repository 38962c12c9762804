"""A token's id that no model can hold is one line with the file, the token and the id, before any library reads it."""

import json
import re

import pytest

from scoring.tokenizers.document_checks import MAX_TOKEN_ID, refuse_damaged_files
from scoring.tokenizers.reading import read_tokenizer_folder
from suites.common.errors import ExitCode, UserError
from support.tokenizers.folders import ENDS, FAST
from support.tokenizers.vocabularies import byte_level, save

pytestmark = pytest.mark.scoring

DOCUMENTS = {  # kind -> file, a document that gives a token an id
    "vocabulary": ("tokenizer.json", lambda index: {"model": {"vocab": {"a": 0, "h": index}}}),
    "added token": ("tokenizer.json", lambda index: {"model": {}, "added_tokens": [{"id": index, "content": "h"}]}),
    "vocab.json": ("vocab.json", lambda index: {"h": index}),
    "added_tokens.json": ("added_tokens.json", lambda index: {"h": index}),
    "tekken": ("tekken.json", lambda index: {"vocab": [{"rank": index, "token_bytes": "h"}]}),
}


@pytest.mark.parametrize("index", [2**31 + 5, 2**32, 10**30, MAX_TOKEN_ID + 1, -1, 3.5, True, None, "7", [1]])
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_an_id_that_no_model_holds_is_refused_by_name(kind, index):
    name, make = DOCUMENTS[kind]
    refuse_damaged_files({name: json.dumps(make(MAX_TOKEN_ID)).encode()})
    with pytest.raises(UserError, match=f"{name} gives the token 'h' the id {re.escape(str(index))}; ids are integers") as caught:
        refuse_damaged_files({name: json.dumps(make(index)).encode()})
    assert caught.value.code == ExitCode.CANNOT_SCORE


@pytest.mark.parametrize("index", ["2147483653", "-1", "x", "9" * 5000])
def test_ids_of_added_tokens_decoder_are_checked_too(index):
    document = json.dumps({"added_tokens_decoder": {index: {"content": "h"}}}).encode()
    with pytest.raises(UserError, match=f"tokenizer_config.json gives the token 'h' the id {index[:40]}"):
        refuse_damaged_files({"tokenizer_config.json": document})
    refuse_damaged_files({"tokenizer_config.json": document.replace(index.encode(), b"7")})


@pytest.mark.parametrize(
    "document",
    [{"model": None}, {"model": {"vocab": [["a", 0.5]]}}, {"added_tokens": [None, {}]}, {"added_tokens_decoder": None}],
)
def test_documents_of_other_forms_are_left_to_the_libraries(document):
    refuse_damaged_files({"tokenizer.json": json.dumps(document).encode(), "chat_template.jinja": b"x"})


@pytest.mark.parametrize("content", [b"[]", b"{", b"[" * 100_000, b"\xff"])
def test_a_damaged_document_is_named(content):
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        refuse_damaged_files({"tokenizer.json": content})


def test_a_folder_is_refused_before_its_vocabulary_is_built(tmp_path):
    save(tmp_path, byte_level("<s>", "</s>"), {"tokenizer_class": FAST, **ENDS})
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"]["vocab"]["h"] = 2**31 + 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"acme: tokenizer\.json gives the token 'h' the id 2147483653") as caught:
        read_tokenizer_folder(tmp_path, "acme", use_fast=True)
    assert caught.value.code == ExitCode.CANNOT_SCORE
