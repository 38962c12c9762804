"""The reader of other processes' documents: every poison is one of two errors, soon, and names its file."""

import json
import math
import os
from pathlib import Path

import msgspec
import pytest
import yaml

from suites.common.documents import (
    MAX_DEPTH,
    AmbiguousDocument,
    DamagedDocument,
    OversizedDocument,
    check_yaml_limits,
    parse_json,
    read_content,
    read_json,
    read_json_object_if_readable,
    read_line,
    read_struct,
    read_tail,
)
from suites.common.errors import UserError
from suites.common.yaml_reader import read_yaml
from suites.contract.comparison import read_comparison_document
from suites.contract.exit_record import read_exit_records
from suites.contract.liveness import read_liveness
from suites.contract.scoring_request import read_scoring_request
from suites.contract.tier_files import TIER_SECTIONS, check_tier_file
from support.faults.fuzzed_files import assert_memory_below
from support.faults.poisoned_files import KINDS_OF_FILE, POISONS, poison


class Small(msgspec.Struct):
    schema: int = 0
    at: float = 0.0


READERS = {
    "content": (read_content, (OSError, DamagedDocument)),
    "json": (read_json, (OSError, DamagedDocument)),
    "struct": (lambda path: read_struct(path, Small), (OSError, DamagedDocument)),
    "line": (read_line, (OSError, DamagedDocument)),
    "tail": (lambda path: read_tail(path, 100), OSError),
    "object": (read_json_object_if_readable, ()),
    "yaml": (lambda path: read_yaml(path, {}), UserError),
    "request": (read_scoring_request, UserError),
    "comparison": (read_comparison_document, UserError),
    "liveness": (lambda path: read_liveness(path, 0.0), (OSError, ValueError)),
    "exit records": (lambda path: read_exit_records(path.parent), ()),
    **{
        tier: (lambda path, tier=tier: check_tier_file(path, tier=tier, fingerprint="f", suite_digest="d", names=("a",)), ())
        for tier in TIER_SECTIONS
    },
}


@pytest.mark.parametrize("name", POISONS)
@pytest.mark.parametrize("reader", READERS)
def test_no_poison_gets_out_of_a_reader_but_as_its_own_errors(tmp_path, reader, name):
    path = tmp_path / "exit.0.json"
    poison(path, name)
    read, errors = READERS[reader]
    message = str(path)
    try:
        assert_memory_below(lambda: read(path), 200_000_000)
    except errors as error:
        message = str(error)
    assert str(path) in message or reader == "liveness"
    assert "\n" not in message


@pytest.mark.parametrize("name", KINDS_OF_FILE)
def test_what_is_no_file_is_never_a_document(tmp_path, name):
    poison(tmp_path / "x", name)
    with pytest.raises((OSError, DamagedDocument)):
        read_content(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b'{"a": 1, "a": 1}', "a"),
        (b'{"a": 1, "b": 2, "a": null}', "a"),
        (b'{"x": {"b": 1, "b": 2}}', "b"),
        (b'[1, {"x": [{"deep": [], "deep": {}}]}]', "deep"),
        (b'{"\\u0061": 1, "a": 2}', "a"),
        (b'{"": 1, "": 2}', ""),
        ('{"é": 1, "é": 2}'.encode(), "é"),
    ],
)
def test_a_key_twice_is_ambiguous_and_named(tmp_path, content, key):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    for read in (read_json, lambda each: read_struct(each, Small)):
        with pytest.raises(AmbiguousDocument) as caught:
            read(path)
        assert str(caught.value) == f"{path}: it has the key {key!r} twice"


@pytest.mark.parametrize("text", ['{"a": 1, "A": 2}', '[{"a": 1}, {"a": 1}]', '{"a": {"a": 1}}', '{"a": "a", "b": "a"}', "{}"])
def test_keys_that_only_look_alike_are_not_ambiguous(text):
    assert parse_json(text.encode(), "x") == json.loads(text)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_is_no_path_is_damage(name):
    with pytest.raises(DamagedDocument, match="no path"):
        read_content(Path(name))


@pytest.mark.parametrize("text", ["1" * 400, "1e400", "1" * 5000])
def test_a_number_beyond_floats_is_infinite_however_it_is_written(text):
    assert parse_json(f'{{"a": [{text}, -{text}]}}'.encode(), "x") == {"a": [math.inf, -math.inf]}


def test_numbers_within_floats_keep_their_digits():
    assert parse_json(f'[{"1" * 299}, 1, 0.5, "{"1" * 400}"]'.encode(), "x") == [int("1" * 299), 1, 0.5, "1" * 400]


def test_nesting_ends_where_it_says():
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x")
    with pytest.raises(DamagedDocument, match="nested more than 64 deep"):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "x")


def test_a_larger_file_is_named_with_its_limit(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x" * 11)
    assert read_content(path, 11) == b"x" * 11
    with pytest.raises(OversizedDocument, match="x: larger than 10 bytes"):
        read_content(path, 10)


def test_a_missing_file_is_not_a_damaged_one(tmp_path):
    assert read_json(tmp_path / "none") is None
    with pytest.raises(FileNotFoundError):
        read_content(tmp_path / "none")


def test_a_file_that_may_not_be_read_may_be_read_later(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("{}")

    def refused(*_given):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionError):
        read_json(path)
    assert read_json_object_if_readable(path) == {}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"[" * 100_000, ValueError),
        (b"a: {" * 100_000, ValueError),
        (b"- " * 100_000, ValueError),
        (b"- 1\n" * 300_000, ValueError),
        (b"a: " + b"1:" * 100_000 + b"1", ValueError),
        (b"a: \x00", yaml.YAMLError),
    ],
)
def test_yaml_that_no_loader_should_build_is_refused_first(content, error):
    with pytest.raises(error):
        check_yaml_limits(content)
