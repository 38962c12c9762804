"""Rows from files of every kind and from the hub's layout; documents from rows; every misfit named."""

import gzip
import json
import re
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoring.sources import hub
from scoring.sources.documents import iter_documents
from scoring.sources.hub import open_hub_source
from scoring.sources.local_files import open_local_files
from suites.common.errors import ExitCode, UserError
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition

pytestmark = pytest.mark.scoring

ROWS = [{"text": "one\n", "n": 1}, {"text": "zwei", "n": 2}, {"text": "", "n": 3}, {"text": "vier", "n": 4}]


def write_rows(path: Path, rows=ROWS) -> str:
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)
    return str(path)


def texts(*patterns: str, **definition) -> list[str]:
    slice_ = SliceDefinition(data_files=patterns, **definition)
    return list(iter_documents(slice_, open_local_files(hash_data_files(patterns))))


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.parquet", "b.v2.jsonl"])
def test_every_kind_of_file_gives_the_same_documents(tmp_path, name):
    assert texts(write_rows(tmp_path / name)) == ["one\n", "zwei", "vier"]


def test_a_text_file_is_one_document_with_its_own_bytes(tmp_path):
    (tmp_path / "a.txt").write_bytes("é\r\n\n".encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"packed"))
    assert texts(str(tmp_path / "*.txt*")) == ["é\r\n\n", "packed"]


def test_globs_are_sorted_and_patterns_keep_their_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("2.txt", "1.txt", "sub/3.txt"):
        (tmp_path / name).write_text(name)
    assert texts(str(tmp_path / "sub/*.txt"), str(tmp_path / "?.txt")) == ["sub/3.txt", "1.txt", "2.txt"]
    assert texts(str(tmp_path / "**/*.txt")) == ["1.txt", "2.txt", "sub/3.txt"]


def test_columns_are_joined_filtered_and_rows_without_a_value_left_out(tmp_path):
    rows = [
        {"q": "1+1", "a": "2", "ok": True},
        {"q": "1+2", "a": "4", "ok": False},
        {"q": "1+3", "a": None, "ok": True},
        {"q": "2+3", "a": "{5}", "ok": True},
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert texts(path, text_template="{q}\n\n{a}", where={"ok": True}) == ["1+1\n\n2", "2+3\n\n{5}"]


def test_wikitext_lines_are_joined_by_article(tmp_path):
    lines = ["", " = One = \n", "", " Text of one . \n", " = not a title = \n", "", " = = Part = = \n", "", " More . \n", ""]
    lines += ["", " = Two = \n", "", " Text of two . \n"]
    path = write_rows(tmp_path / "a.jsonl", [{"text": line} for line in lines])
    found = texts(path, articles="wikitext")
    assert [document.splitlines()[0] for document in found] == ["= One = ", "= Two = "]
    assert "More ." in found[0]
    assert "not a title" in found[0]
    assert "Part" in found[0]


def test_a_lone_surrogate_does_not_stop_a_slice(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    assert texts(str(tmp_path / "a.jsonl")) == ["a?b"]


@pytest.mark.parametrize(
    ("name", "content", "definition", "said", "code"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"te', {}, r"a\.jsonl:2: not JSON", ExitCode.CANNOT_SCORE),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, {}, r"a\.jsonl:2: not JSON", ExitCode.CANNOT_SCORE),
        ("a.jsonl", b"[1]\n", {}, r"a\.jsonl:1: not a JSON object", ExitCode.CANNOT_SCORE),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"body": "b"}\n',
            {},
            r"row 1 has no column 'text'.*this row has: body",
            ExitCode.CANNOT_SCORE,
        ),
        ("a.jsonl", b'{"text": 3}\n', {}, "row 0 has 3 in column 'text', not text", ExitCode.CANNOT_SCORE),
        ("a.jsonl", b'{"q": "a"}\n', {"text_template": "{q}{a}"}, "row 0 has no column 'a'", ExitCode.CANNOT_SCORE),
        ("a.jsonl", b'{"text": "a"}\n', {"where": {"ok": True}}, "row 0 has no column 'ok'", ExitCode.CANNOT_SCORE),
        ("a.txt", b"line\n\xff\n", {}, r"a\.txt:2: not UTF-8", ExitCode.CANNOT_SCORE),
        ("a.jsonl.gz", b"not gzip", {}, r"a\.jsonl\.gz: cannot be read", ExitCode.DATA_MISSING),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-20], {}, r"a\.jsonl\.gz: cannot", ExitCode.DATA_MISSING),
        ("a.parquet", b"PAR1....PAR1", {}, r"a\.parquet: not a valid parquet file", ExitCode.CANNOT_SCORE),
        ("a.csv", b"a,b\n", {}, r"its name ends in '\.csv'.*one of: \.jsonl, .*\.parquet", ExitCode.CANNOT_SCORE),
        ("a.json", b"[]", {}, r"its name ends in '\.json', which is no format of data files", ExitCode.CANNOT_SCORE),
        ("a", b"a", {}, r"/a: its name says no format; write it as one of: \.jsonl", ExitCode.CANNOT_SCORE),
        ("a.jsonl", None, {}, r"a\.jsonl: no such file", ExitCode.DATA_MISSING),
    ],
)
def test_a_source_that_does_not_fit_is_named(tmp_path, *, name, content, definition, said, code):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        texts(str(tmp_path / name), **definition)
    assert caught.value.code == code


def test_a_glob_that_names_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/*.jsonl: no such file")):
        hash_data_files(f"{tmp_path}/*.jsonl")


def hub_folder(tmp_path: Path) -> SliceDefinition:
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    write_rows(folder / "train-00000-of-00001.parquet")
    return SliceDefinition(hf_dataset=str(folder.parent), split="train")


def test_a_data_set_in_the_hubs_layout_is_streamed(tmp_path):
    definition = hub_folder(tmp_path)
    source = open_hub_source(definition)
    assert [row.values["n"] for row in source.rows(["n"])] == [1, 2, 3, 4]
    assert source.description["streaming"] is True


@pytest.mark.parametrize("streaming", [True, False])
def test_only_the_needed_columns_of_a_data_set_are_decoded(tmp_path, monkeypatch, streaming):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    definition = msgspec.structs.replace(hub_folder(tmp_path), streaming=streaming)
    (file,) = (tmp_path / "hub" / "data").iterdir()
    table = pq.read_table(file)
    pq.write_table(table.append_column("at", pa.array([253402300800000000] * 4, pa.timestamp("us"))), file)
    source = open_hub_source(definition)
    assert list(iter_documents(definition, source)) == ["one\n", "zwei", "vier"]
    (at, *_) = (row.values["at"] for row in source.rows(["at"]))
    assert at.reason.startswith("a value that cannot be read (")


def test_values_of_mixed_types_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"q": "plain", "c": ["a", "b"], "s": {"text": ["a"], "label": ["A"]}},
        {"q": ["a", 1], "c": ["a", 1], "s": {"text": ["a"], "label": [1]}},
        {"q": 0.5, "c": "x", "s": {"text": ["a"], "label": None}},
        {"q": '"', "c": [], "s": None},
    ]
    (tmp_path / "hub").mkdir()
    write_rows(tmp_path / "hub" / "train.jsonl", rows)
    definition = SliceDefinition(hf_dataset=str(tmp_path / "hub"), split="train", text_field="q")
    for streaming in (True, False):
        source = open_hub_source(msgspec.structs.replace(definition, streaming=streaming))
        assert [row.values for row in source.rows(["q", "c", "s"])] == rows
        with pytest.raises(UserError, match=r"hub/train: row 1 has a list of 2 in column 'q', not text"):
            list(iter_documents(definition, source))


def test_where_streaming_fails_the_rest_comes_from_the_whole_data_set(tmp_path, monkeypatch, caplog):
    asked = []

    def load(_definition, _revision, *, streaming):
        asked.append(streaming)
        for row in ROWS:
            if streaming and row["n"] == 3:
                raise ConnectionError("reset by peer")
            yield pa.Table.from_pylist([row])

    monkeypatch.setattr(hub, "_load_tables", load)
    source = open_hub_source(hub_folder(tmp_path))
    assert [row.values["n"] for row in source.rows(["n"])] == [1, 2, 3, 4]
    assert asked == [True, False]
    assert source.description["streaming"] == "failed after 2 rows: reset by peer"
    assert "streaming failed after 2 rows (reset by peer)" in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConnectionError("no route"), ExitCode.TEMPORARY), (ValueError("Unknown split"), ExitCode.DATA_MISSING)],
)
def test_a_data_set_that_cannot_be_loaded_is_named(tmp_path, monkeypatch, error, code):
    def load(_definition, _revision, *, streaming):
        del streaming
        raise error

    monkeypatch.setattr(hub, "_load_tables", load)
    with pytest.raises(UserError, match=str(error)) as caught:
        list(open_hub_source(hub_folder(tmp_path)).rows(["text"]))
    assert caught.value.code == code
