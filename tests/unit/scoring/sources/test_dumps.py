"""Dumps of data sets as people have them: each is read right, or refused in one line that names file and row."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoring.sources.documents import iter_documents
from scoring.sources.local_files import open_local_files
from scoring.sources.task_adapters import adapt_row, list_task_columns
from suites.common.errors import UserError
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition, TaskDefinition
from support.datasets.task_rows import ROWS

pytestmark = pytest.mark.scoring

FOUR = ["red", "blue", "green", "grey"]
STRUCT = pa.struct([("text", pa.list_(pa.string())), ("label", pa.list_(pa.string()))])
LETTERS = dict(zip("ABCD", FOUR, strict=True))
CATEGORY = pa.dictionary(pa.int32(), pa.string())
CLASS_LABEL = {b"huggingface": b'{"info": {"features": {"answer": {"names": ["A", "B", "C", "D"], "_type": "ClassLabel"}}}}'}


def parquet(adapter, types=None, metadata=None, **change):
    """The adapter's row three times, with columns of other types or values."""

    def write(path: Path) -> Path:
        rows = [{**ROWS[adapter], **change}] * 3
        table = pa.Table.from_pylist(rows)
        for column, type_ in (types or {}).items():
            index, values = table.schema.get_field_index(column), [row[column] for row in rows]
            table = table.set_column(index, column, pa.array(values, type_))
        pq.write_table(table.replace_schema_metadata(metadata), path.with_suffix(".parquet"))
        return path.with_suffix(".parquet")

    return write


def jsonl(adapter, *, drop=(), **change):
    """The adapter's row three times as JSON lines."""

    def write(path: Path) -> Path:
        row = {key: value for key, value in {**ROWS[adapter], **change}.items() if key not in drop}
        path.with_suffix(".jsonl").write_text(f"{json.dumps(row)}\n" * 3)
        return path.with_suffix(".jsonl")

    return write


def raw(name: str, content: bytes):
    def write(path: Path) -> Path:
        (path.parent / name).write_bytes(content)
        return path.parent / name

    return write


def table_of(table: pa.Table, **options):
    def write(path: Path) -> Path:
        pq.write_table(table, path.with_suffix(".parquet"), **options)
        return path.with_suffix(".parquet")

    return write


RIGHT_TASKS = {  # name -> file; its questions are those of ROWS
    "hellaswag: large strings": parquet("hellaswag", {"endings": pa.list_(pa.large_string())}),
    "hellaswag: large lists": parquet("hellaswag", {"endings": pa.large_list(pa.string())}),
    "hellaswag: lists of one size": parquet("hellaswag", {"endings": pa.list_(pa.string(), 2)}),
    "hellaswag: label as ClassLabel": parquet("hellaswag", label=1),
    "mmlu: answer as ClassLabel": parquet("mmlu", {"answer": pa.int8()}, CLASS_LABEL),
    "mmlu: answer as float, as pandas writes it": parquet("mmlu", {"answer": pa.float64()}),
    "mmlu: subject as category": parquet("mmlu", {"subject": CATEGORY}),
    "mmlu: question as string view": parquet("mmlu", {"question": pa.string_view()}),
    "arc_easy: choices as Arrow struct": parquet("arc_easy", {"choices": STRUCT}),
    "arc_easy: key as category": parquet("arc_easy", {"answerKey": pa.dictionary(pa.int8(), pa.string())}),
    "arc_easy: a struct with more in it": jsonl("arc_easy", choices={**ROWS["arc_easy"]["choices"], "n": [1, 2, 3]}),
    "openbookqa: a nested column beside": parquet("openbookqa", at=[{"on": "0000-01-01"}]),
    "piqa: label as text": jsonl("piqa", label="1"),
    "piqa: label as uint8": parquet("piqa", {"label": pa.uint8()}),
    "winogrande: more columns": jsonl("winogrande", qID="3FCO4VKOZ4BJQ6IFC0VAIBK4KTWE7U-2", extra=None),
    "social_i_qa: label with a newline": jsonl("social_i_qa", label="3\n"),
    "sciq: without support": jsonl("sciq", drop=["support"]),
    "qasc: without facts": jsonl("qasc", drop=["fact1", "fact2"]),
    "copa: idx as a struct": jsonl("copa", idx={"paragraph": 0, "question": 1}),
}

REFUSED_TASKS = {  # name -> (file, what is said)
    "hellaswag: test split": (jsonl("hellaswag", label=""), "row 0 has the text '' in column 'label'.*split"),
    "hellaswag: endings as JSON text": (jsonl("hellaswag", endings='["a", "b"]'), "'endings', not a list"),
    "hellaswag: ctx_b null": (
        parquet("hellaswag", {"ctx_b": pa.string()}, ctx_b=None),
        "no value in column 'ctx_b'",
    ),
    "hellaswag: only ctx": (
        jsonl("hellaswag", drop=["ctx_a", "ctx_b"], ctx="A b"),
        "no column 'ctx_a'.*has: ind,",
    ),
    "mmlu: letters": (jsonl("mmlu", answer="B"), "the text 'B' in column 'answer', not the index of a choice"),
    "mmlu: columns A to D": (
        jsonl("mmlu", drop=["choices"], **LETTERS),
        "no column 'choices'",
    ),
    "mmlu: choices by letter": (
        jsonl("mmlu", choices=LETTERS),
        "a struct of 'A', 'B', 'C'",
    ),
    "mmlu: choices as map": (
        parquet("mmlu", {"choices": pa.map_(pa.string(), pa.string())}, choices=[("A", "b")]),
        "list",
    ),
    "mmlu: rows in a column": (
        raw("a.jsonl", json.dumps({"train": ROWS["mmlu"]}).encode()),
        "no column 'subject'",
    ),
    "mmlu: answer in a list": (jsonl("mmlu", answer=[1]), "a list of 1 in column 'answer'"),
    "mmlu: answer as decimal": (parquet("mmlu", {"answer": pa.decimal128(3, 1)}), "a value of type Decimal"),
    "mmlu: no text but numbers": (jsonl("mmlu", choices=[0, 4, 2, 6]), "a list with 0 in column 'choices'"),
    "mmlu: category with a null": (
        parquet("mmlu", {"subject": CATEGORY}, subject=None),
        "no value in column 'subject'",
    ),
    "arc_easy: list of structs": (
        jsonl("arc_easy", choices=[{"text": "a", "label": "1"}]),
        "a list of 1 in column 'choices'",
    ),
    "arc_easy: letters against digits": (jsonl("arc_easy", answerKey="B"), "not one of the labels '1', '2', '3'"),
    "arc_easy: index for a label": (jsonl("arc_easy", answerKey=1), "1 in column 'answerKey', not the label"),
    "arc_easy: the original file": (
        jsonl("arc_easy", question={"stem": "Where?", "choices": [{"text": "bank", "label": "A"}]}),
        "a struct of 'stem', 'choices' in column 'question', not text",
    ),
    "arc_easy: choices null": (
        parquet("arc_easy", {"choices": STRUCT}, choices=None),
        "no value in column 'choices'",
    ),
    "arc_easy: a label missing": (
        jsonl("arc_easy", choices={"text": FOUR, "label": ["1", "2"]}),
        "4 texts and 2 labels",
    ),
    "arc_easy: a text null": (jsonl("arc_easy", choices={"text": [None], "label": ["1"]}), "a list with no value"),
    "openbookqa: question for its stem": (jsonl("arc_easy"), "no column 'question_stem'"),
    "commonsense_qa: test split": (jsonl("commonsense_qa", answerKey=""), "use a split that has answers"),
    "piqa: labels in another file": (jsonl("piqa", drop=["label"]), "no column 'label'"),
    "piqa: test split": (parquet("piqa", label=-1), "-1 in column 'label'.*use a split that has answers"),
    "piqa: label as truth value": (parquet("piqa", label=True), "True in column 'label'"),
    "winogrande: ClassLabel from 0": (
        parquet("winogrande", answer=0),
        "0 in column 'answer', which is none of its 2",
    ),
    "winogrande: no blank": (jsonl("winogrande", sentence="Sarah won."), "no _ for the options"),
    "copa: ClassLabel of the question": (parquet("copa", question=1), "1 in column 'question', not text"),
    "copa: asks-for": (jsonl("copa", drop=["question"], **{"asks-for": "effect"}), "no column 'question'.*asks-for"),
    "multiple_choice: boolq": (
        raw("a.jsonl", b'{"question": "is it", "passage": "It is.", "answer": true}'),
        "no column 'choices'",
    ),
}

ONE_TEXT = pa.table({"text": ["eins", "zwei"]})

JSON_TEXTS = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"eins"', '"zwei"']))

RIGHT_SLICES = {  # name -> file; its documents are eins and zwei
    "two gzip members": raw("a.jsonl.gz", gzip.compress(b'{"text": "eins"}\n') + gzip.compress(b'{"text": "zwei"}\n')),
    "carriage returns": raw("a.jsonl", b'{"text": "eins"}\r\n\r\n{"text": "zwei"}\r\n'),
    "byte order mark": raw("a.jsonl", b'\xef\xbb\xbf{"text": "eins"}\n{"text": "zwei"}'),
    "byte order mark, packed": raw("a.jsonl.gz", gzip.compress(b'\xef\xbb\xbf{"text": "eins"}\n{"text": "zwei"}')),
    "NaN in another column": raw("a.jsonl", b'{"text": "eins", "n": NaN}\n{"text": "zwei", "n": -Infinity}\n'),
    "another key twice": raw("a.jsonl", b'{"id": 1, "text": "eins", "id": 2}\n{"text": "zwei", "a": {"b": 1, "b": 2}}\n'),
    "escapes": raw("a.jsonl", b'{"text": "\\u0065ins"}\n{"text": "z\\u0077ei"}\n'),
    "dictionary": table_of(pa.table({"text": ONE_TEXT["text"].dictionary_encode()})),
    "large strings": table_of(ONE_TEXT.cast(pa.schema([("text", pa.large_string())]))),
    "JSON as Arrow has it": table_of(
        pa.table({"text": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['"eins"', '"zwei"']))})
    ),
    "brotli": table_of(ONE_TEXT, compression="brotli"),
    "lz4": table_of(ONE_TEXT, compression="lz4"),
    "a row group a row": table_of(ONE_TEXT, row_group_size=1),
    "delta encoding": table_of(ONE_TEXT, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}),
    "page checksums": table_of(ONE_TEXT, write_page_checksum=True),
    "the same name inside": table_of(ONE_TEXT.append_column("meta", pa.array([{"text": "x"}, {"text": "y"}]))),
    "a dotted name beside": table_of(ONE_TEXT.append_column("text.en", pa.array(["x", "y"]))),
    "pandas' index": table_of(ONE_TEXT.append_column("__index_level_0__", pa.array([5, 3]))),
    "nulls": table_of(pa.table({"text": ["eins", None, "zwei", ""]})),
}

REFUSED_SLICES = {  # name -> (file, what is said)
    "a JSON array": (raw("a.jsonl", b'[\n  {"text": "eins"}\n]\n'), "a.jsonl:1: not JSON"),
    "an array on one line": (
        raw("a.jsonl", b'[{"text": "eins"}]\n'),
        "a.jsonl:1: not a JSON object; write one object a line",
    ),
    "latin-1": (raw("a.jsonl", '{"text": "é"}'.encode("latin-1")), "a.jsonl:1: not JSON: 'utf-8' codec"),
    "UTF-16": (raw("a.jsonl", '{"text": "eins"}\n'.encode("utf-16")), "is UTF-16, not JSON lines; .*iconv"),
    "UTF-16 without a mark": (raw("a.txt", "eins\n".encode("utf-16-le")), "a.txt:1: not UTF-8 text: it has a NUL"),
    "UTF-32": (raw("a.txt", "eins\n".encode("utf-32")), "is UTF-32, not text"),
    "zstd": (raw("a.jsonl", b"\x28\xb5\x2f\xfd\0\0"), "is zstd, not JSON lines; decompress it"),
    "packed without .gz": (raw("a.jsonl", gzip.compress(b'{"text": "eins"}')), "is gzip, not JSON lines"),
    "packed twice": (raw("a.jsonl.gz", gzip.compress(gzip.compress(b'{"text": "eins"}'))), "is gzip, not JSON lines"),
    "not packed": (raw("a.jsonl.gz", b'{"text": "eins"}'), "cannot be read .Not a gzipped file"),
    "a pointer, packed": (raw("a.parquet", b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
    "a pointer as text": (
        raw("a.txt", b"version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer.*git lfs pull",
    ),
    "parquet as lines": (raw("a.jsonl", b"PAR1\0\0PAR1"), "is parquet, not JSON lines"),
    "lines as parquet": (raw("a.parquet", b'{"text": "eins"}'), "not a valid parquet file"),
    "an Arrow file": (raw("a.parquet", b"ARROW1\0\0"), "is an Arrow file, not parquet"),
    "csv": (raw("a.csv", b'text\n"eins, ""zwei"""\n'), "ends in '.csv', which is no format of data files"),
    "text twice": (
        raw("a.jsonl", b'{"text": "null", "text": "eins"}\n'),
        "a.jsonl:1: row 0 has 2 values in column 'text'",
    ),
    "text by language": (
        raw("a.jsonl", b'{"text": {"en": "one"}}'),
        "a.jsonl:1: row 0 has a struct of 'en' in column 'text'",
    ),
    "text in a list": (table_of(pa.table({"text": [["a"], ["b"]]})), "row 0 has a list of 1 in column 'text', not text"),
    "text as bytes": (table_of(pa.table({"text": [b"a"]})), "row 0 has bytes in column 'text', not text"),
    "a column twice": (table_of(pa.Table.from_arrays([ONE_TEXT["text"]] * 2, ["text", "text"])), "has 2 columns 'text'"),
    "no text column": (table_of(pa.table({"content": ["a"]})), "row 0 has no column 'text'; .*has: content"),
}


def read_questions(adapter, write, tmp_path):
    definition = TaskDefinition(adapter=adapter)
    source = open_local_files(hash_data_files(str(write(tmp_path / "a"))))
    return [adapt_row(definition, row) for row in source.rows(list_task_columns(adapter))]


def read_documents(write, tmp_path):
    return list(iter_documents(SliceDefinition(), open_local_files(hash_data_files(str(write(tmp_path / "a"))))))


@pytest.mark.parametrize("name", RIGHT_TASKS)
def test_a_dump_of_a_task_is_read_as_its_data_set(tmp_path, name):
    adapter = name.partition(":")[0]
    questions, expected = (read_questions(adapter, write, tmp_path) for write in (RIGHT_TASKS[name], jsonl(adapter)))
    assert [(question.pairs, question.gold, question.subject) for question in questions] == [
        (question.pairs, question.gold, question.subject) for question in expected
    ]


@pytest.mark.parametrize("name", REFUSED_TASKS)
def test_a_dump_that_an_adapter_does_not_read_is_refused(tmp_path, name):
    write, said = REFUSED_TASKS[name]
    with pytest.raises(UserError, match=said) as caught:
        read_questions(name.partition(":")[0], write, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/a.")
    assert "row 0 " in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", RIGHT_SLICES)
def test_a_dump_of_texts_gives_its_texts(tmp_path, name):
    assert read_documents(RIGHT_SLICES[name], tmp_path) == ["eins", "zwei"]


def test_a_text_file_has_no_mark_and_a_table_without_rows_no_questions(tmp_path):
    assert read_documents(raw("a.txt", b"\xef\xbb\xbfeins\r\n"), tmp_path) == ["eins\r\n"]
    assert read_questions("piqa", table_of(pa.table({"goal": pa.array([], pa.string())})), tmp_path) == []


@pytest.mark.parametrize("name", REFUSED_SLICES)
def test_a_dump_without_texts_is_refused(tmp_path, name):
    write, said = REFUSED_SLICES[name]
    with pytest.raises(UserError, match=said) as caught:
        read_documents(write, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/a.")
    assert str(caught.value).isprintable()
