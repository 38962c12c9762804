"""``python -m scoring prefill`` over rows and files as people have them: right, or refused in one line with file and row."""

import gzip
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suites.common.errors import ExitCode
from support.datasets.task_rows import ROWS
from support.models.nanotron_fixtures import BYTE_TOKENIZER
from support.runs.scoring_jobs import REPOSITORY_ROOT

pytestmark = pytest.mark.scoring

TEXTS = ["eins", "zwei", "drei"]

REFUSED_ROWS = {  # name -> (adapter, the third row's change, what is said)
    "mmlu_list_as_text": ("mmlu", {"choices": "['red', 'blue', 'green', 'grey']"}, "in column 'choices', not a list of texts"),
    "hellaswag_list_as_text": (
        "hellaswag",
        {"endings": "['eats.' 'runs.' 'sings.' 'sleeps.']"},
        "in column 'endings', not a list",
    ),
    "copa_choice_as_list": ("copa", {"choice1": ["I", "ran"]}, "a list of 2 in column 'choice1', not text"),
    "goal_a_list": ("piqa", {"goal": ["boil", "water"]}, "a list of 2 in column 'goal', not text"),
    "question_nan": ("arc_easy", {"question": float("nan")}, "NaN in column 'question', not text"),
    "question_null": ("sciq", {"question": None}, "no value in column 'question'"),
    "question_number": ("qasc", {"question": 12}, "12 in column 'question', not text"),
    "label_fraction": ("piqa", {"label": 0.7}, "the number 0.7 in column 'label', not the index of a choice"),
    "label_outside": ("copa", {"label": 2}, "2 in column 'label', which is none of its 2 choices"),
    "label_absent": ("winogrande", {"answer": ""}, "the text '' in column 'answer'"),
    "letter_for_index": ("mmlu", {"answer": "B"}, "the text 'B' in column 'answer', not the index of a choice"),
    "index_for_letter": ("openbookqa", {"answerKey": 2}, "2 in column 'answerKey', not the label of a choice"),
}


class Prefilled(NamedTuple):
    """What a command said, and the entries that it left."""

    code: int
    lines: list[str]
    data: Path

    def line_about(self, file: Path) -> str:
        (line,) = [line for line in self.lines if str(file) in line]
        return line

    def read_documents(self, name: str) -> list[str]:
        """The documents of a slice; a token is a byte."""
        (folder,) = (self.data / "ppl_slices" / name).iterdir()
        stored = torch.load(folder / "packed_tokens.pt", weights_only=True)
        starts = [*stored["document_starts"].tolist(), len(stored["tokens"])]
        return [bytes(stored["tokens"][a:b].tolist()).decode() for a, b in itertools.pairwise(starts)]


def prefill(folder: Path, suite: dict) -> Prefilled:
    (folder / "suite.yaml").write_text(json.dumps(suite))
    argv = [sys.executable, "-m", "scoring", "prefill", "--suite", str(folder / "suite.yaml"), "--tokenizer", str(BYTE_TOKENIZER)]
    ended = subprocess.run(
        [*argv, "--eval-data", str(folder / "data"), "--jobs", "1"],
        cwd=REPOSITORY_ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Prefilled(
        ended.returncode, [line for line in ended.stderr.splitlines() if line.startswith("scoring: ")], folder / "data"
    )


def make_parquet(**columns) -> pa.Table:
    return pa.table({"text": TEXTS, **columns})


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """One command over a task a row that does not fit, and one with prompts as bytes."""
    folder, tasks = tmp_path_factory.mktemp("refused"), {}
    for name, (adapter, change, _) in REFUSED_ROWS.items():
        rows = [ROWS[adapter], ROWS[adapter], {**ROWS[adapter], **change}]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tasks[name] = {"data_files": f"{name}.jsonl", "adapter": adapter}
    stem = pa.array([row["question_stem"].encode() for row in [ROWS["openbookqa"]] * 3], pa.binary())
    table = pa.Table.from_pylist([ROWS["openbookqa"]] * 3)
    pq.write_table(table.set_column(table.schema.get_field_index("question_stem"), "question_stem", stem), folder / "b.parquet")
    tasks["stem_bytes"] = {"data_files": "b.parquet", "adapter": "openbookqa"}
    (folder / "good.jsonl").write_text(json.dumps(ROWS["piqa"]) + "\n")
    tasks["good"] = {"data_files": "good.jsonl", "adapter": "piqa"}
    return folder, prefill(folder, {"tier": "tier3_cf", "tasks": tasks})


@pytest.mark.parametrize("name", REFUSED_ROWS)
def test_a_row_that_does_not_fit_is_refused_with_file_row_and_column(refused, name):
    folder, ended = refused
    line = ended.line_about(folder / f"{name}.jsonl")
    assert line.startswith(f"scoring: {folder}/{name}.jsonl:3: row 2 has ")
    assert REFUSED_ROWS[name][2] in line


def test_one_bad_row_a_task_stops_no_other_task(refused):
    folder, ended = refused
    assert ended.code == ExitCode.CANNOT_SCORE
    assert len(ended.lines) == len(REFUSED_ROWS) + 1
    assert "row 0 has bytes in column 'question_stem', not text" in ended.line_about(folder / "b.parquet")
    assert [path.parent.parent.name for path in (ended.data / "cf_tasks").glob("*/*/meta.json")] == ["good"]


ODD_COLUMNS = {  # beside a good column of text, one that Python has no values for
    "year_10000": pa.array([253402300800000000, 0, 1], pa.timestamp("us")),
    "before_year_1": pa.array([-1000000, 0, 1], pa.date32()),
    "long_duration": pa.array([2**62, 0, 1], pa.duration("s")),
    "zone": pa.array([0, 1, 2], pa.timestamp("us", tz="Mars/Base")),
    "latin_1": pa.array([b"\xe9", b"\xe8", b"a"]).view(pa.string()),
    "nested": pa.array([[{"at": -1000000}], [], None], pa.list_(pa.struct([("at", pa.date32())]))),
}


@pytest.fixture(scope="module")
def odd_columns(tmp_path_factory):
    folder, slices = tmp_path_factory.mktemp("columns"), {}
    for name, column in ODD_COLUMNS.items():
        pq.write_table(make_parquet(odd=column), folder / f"{name}.parquet")
        slices[name] = {"data_files": f"{name}.parquet"}
        with pytest.raises((ValueError, OverflowError, LookupError)):  # the column is as odd as it is said to be
            pq.read_table(folder / f"{name}.parquet").to_pylist()
    return folder, prefill(folder, {"tier": "tier2_ppl", "slices": slices})


@pytest.mark.parametrize("name", ODD_COLUMNS)
def test_a_column_that_nobody_asked_for_spoils_no_text(odd_columns, name):
    folder, ended = odd_columns
    assert (ended.code, ended.lines) == (ExitCode.SCORED, [])
    assert ended.read_documents(name) == pq.read_table(folder / f"{name}.parquet", columns=["text"])["text"].to_pylist()


def test_a_needed_value_that_python_cannot_have_is_refused_by_row(tmp_path):
    pq.write_table(make_parquet(odd=ODD_COLUMNS["latin_1"], at=ODD_COLUMNS["year_10000"]), tmp_path / "a.parquet")
    slices = {
        "text": {"data_files": "a.parquet", "text_field": "odd"},
        "where": {"data_files": "a.parquet", "where": {"at": "2026-01-01"}},
    }
    ended = prefill(tmp_path, {"tier": "tier2_ppl", "slices": slices})
    assert ended.code == ExitCode.CANNOT_SCORE
    assert f"{tmp_path}/a.parquet: row 0 has text that is not UTF-8 in column 'odd'" in ended.lines[0]
    assert f"{tmp_path}/a.parquet: row 0 has a value that cannot be read" in ended.lines[1]


def test_a_stream_damaged_inside_says_that_it_cannot_be_read(tmp_path):
    slices = {}
    for seed in range(20):  # with some of them, garbage is decoded before the damage is found
        rng, name = random.Random(seed), f"a{seed}"
        rows = [{"text": " ".join(rng.choices(TEXTS, k=rng.randint(3, 90)))} for _ in range(99)]
        packed = bytearray(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
        middle = len(packed) // 2
        packed[middle : middle + 40] = b"\xff" * 40
        (tmp_path / f"{name}.jsonl.gz").write_bytes(packed)
        slices[name] = {"data_files": f"{name}.jsonl.gz"}
    ended = prefill(tmp_path, {"tier": "tier2_ppl", "slices": slices})
    assert ended.code == ExitCode.DATA_MISSING
    for name in slices:
        assert ended.line_about(tmp_path / f"{name}.jsonl.gz").startswith(f"scoring: {tmp_path}/{name}.jsonl.gz: cannot be read")


def test_files_that_are_read_in_part_or_not_at_all_are_named_and_stop_no_other(tmp_path):
    deep = "[" * 20_000 + "]" * 20_000
    (tmp_path / "deep.jsonl").write_text("".join(f'{{"more": {deep}, "text": "{text}"}}\n' for text in TEXTS))
    (tmp_path / "needed.jsonl").write_text(f'{{"text": {deep}}}\n')
    (tmp_path / "twice.jsonl").write_text('{"text": "a", "text": "b"}\n')
    (tmp_path / "table.csv").write_text("text\neins\n")
    (tmp_path / "list.json").write_text('[{"text": "eins"}]')
    # Statistics would hold the texts, too, outside of what the checksums cover.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    pq.write_table(make_parquet(), tmp_path / "page.parquet", **options)
    content = bytearray((tmp_path / "page.parquet").read_bytes())
    content[content.index(b"zwei")] ^= 1
    (tmp_path / "page.parquet").write_bytes(content)
    names = ("deep.jsonl", "needed.jsonl", "twice.jsonl", "table.csv", "list.json", "page.parquet")
    slices = {name.partition(".")[0]: {"data_files": name} for name in names}
    ended = prefill(tmp_path, {"tier": "tier2_ppl", "slices": slices})
    assert (ended.code, len(ended.lines)) == (ExitCode.CANNOT_SCORE, len(names) - 1)
    assert ended.read_documents("deep") == TEXTS
    said = {
        "needed.jsonl": "row 0 has a value nested more than 64 deep in column 'text'",
        "twice.jsonl": "row 0 has 2 values in column 'text'",
        "table.csv": "its name ends in '.csv', which is no format of data files; write it as one of: .jsonl, ",
        "list.json": "its name ends in '.json', which is no format of data files; write it as one of: .jsonl, ",
        "page.parquet": "not a valid parquet file: ",
    }
    for name, text in said.items():
        assert text in ended.line_about(tmp_path / name)
