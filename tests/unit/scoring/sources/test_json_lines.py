"""Lines of JSON: what an unused column holds is no matter, and a used one is refused by name."""

import json

import pytest

from scoring.sources.documents import iter_documents
from scoring.sources.json_lines import parse_line
from scoring.sources.local_files import open_local_files
from scoring.sources.source import Undecodable
from scoring.sources.task_adapters import adapt_row, list_task_columns
from suites.common.errors import ExitCode, UserError
from suites.definitions.local_data import hash_data_files
from suites.definitions.suite import SliceDefinition, TaskDefinition
from support.datasets.task_rows import ROWS

pytestmark = pytest.mark.scoring

DEEP = 20_000

ODD = {  # JSON of a value -> how it is called where it is needed
    "[" * DEEP + "]" * DEEP: "a value nested more than 64 deep",
    '{"a":' * DEEP + "1" + "}" * DEEP: "a value nested more than 64 deep",
    '[{"a": ' * DEEP + '"]}"' + "}]" * DEEP: "a value nested more than 64 deep",
    '{"b": "[", "a": [1, ' + "[" * DEEP + r'"\"]"' + "]" * DEEP + "]}": "a value nested more than 64 deep",
    "1" * 5000: "a number of 5000 digits",
    f"-{'9' * 100_000}": "a number of 100001 digits",
}


def write(tmp_path, line: str):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n")
    return open_local_files(hash_data_files(str(path)))


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize(
    "line", ['{{"text": "one", "more": {}}}', '{{"more": {}, "text": "one"}}', '{{"a": [1], "m": {}, "text": "one"}}']
)
def test_an_odd_value_of_a_column_that_nobody_needs_is_no_matter(tmp_path, line, odd):
    assert list(iter_documents(SliceDefinition(), write(tmp_path, line.format(odd)))) == ["one"]


@pytest.mark.parametrize(("odd", "called"), ODD.items(), ids=range(len(ODD)))
def test_an_odd_value_of_a_needed_column_is_refused_by_name(tmp_path, odd, called):
    with pytest.raises(UserError, match=rf"a\.jsonl:1: row 0 has {called} in column 'text'") as caught:
        list(iter_documents(SliceDefinition(), write(tmp_path, f'{{"n": 1, "text": {odd}}}')))
    assert caught.value.code == ExitCode.CANNOT_SCORE


@pytest.mark.parametrize("adapter", ROWS)
def test_an_odd_value_beside_a_tasks_columns_is_no_matter(tmp_path, adapter):
    row, definition = ROWS[adapter], TaskDefinition(adapter=adapter)

    def read(line: str):
        return [adapt_row(definition, each) for each in write(tmp_path, line).rows(list_task_columns(adapter))]

    plain = json.dumps(row)
    for odd in ODD:
        assert read(f'{plain[:-1]}, "unused": {odd}}}') == read(plain)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ('{"a": 1, "a": 2, "b": 3}', {"a": Undecodable("2 values"), "b": 3}),
        ('{"a": {"b": 1, "b": 2, "b": 2}}', {"a": {"b": Undecodable("3 values")}}),
        ('{"a": {"b": 1}, "c": {"b": 2}}', {"a": {"b": 1}, "c": {"b": 2}}),
        (f'{{"a": {"[" * 64}{"]" * 64}, "b": "x"}}', None),
    ],
)
def test_a_value_is_what_json_says_or_cannot_be_had(line, values):
    assert parse_line(line) == (json.loads(line) if values is None else values)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "one", "more": ' + "[" * DEEP,
        '{"text": "one", "more": ' + "[" * DEEP + "]" * (DEEP - 1) + "}",
        "[" * DEEP + "]" * DEEP + "]",
        '{"text": "one", "more": ' + "[" * DEEP + "]" * DEEP + "}}",
        '{"text": "one" "more": ' + "1" * 5000 + "}",
        '{"text": "one", "text": "tw',
    ],
    ids=range(6),
)
def test_a_line_that_is_not_json_is_refused_with_its_number(tmp_path, line):
    with pytest.raises(UserError, match=r"a\.jsonl:1: not JSON"):
        list(iter_documents(SliceDefinition(), write(tmp_path, line)))
