"""Items that repeat, from the file to the tier file and the comparison: none is lost, none is paired twice, and it is said."""

import json

import pyarrow.parquet as pq
import pytest

from scoring.compare.compare import compare_evaluation
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest, EvaluationRef
from suites.contract.encoding import encode_json
from support.runs.scoring_jobs import make_score_arguments, run_scoring_in_process

pytestmark = pytest.mark.scoring

ROWS = [{"id": f"i{n}", "query": f"Step {n}:", "choices": ["up", "down"], "gold": n % 2} for n in range(4)]


def score(folder, rows):
    """Score the rows in ``folder``; the folder of results."""
    folder.mkdir()
    (folder / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = {"data_files": "items.jsonl", "adapter": "multiple_choice"}
    (folder / "cf.yaml").write_text(json.dumps({"tier": "tier3_cf", "tasks": {"ours": task}}))
    assert run_scoring_in_process(make_score_arguments(folder, "--offline", suites=["cf.yaml"])) == ExitCode.SCORED
    return next(folder.glob("results/**/tier3_cf.json")).parent


def test_repeated_items_are_noted_counted_each_and_paired_once(tmp_path):
    once, more = score(tmp_path / "once", ROWS), score(tmp_path / "more", [*ROWS, ROWS[0], ROWS[0]])
    document = json.loads((more / "tier3_cf.json").read_text())
    assert document["tasks"]["ours"]["examples"] == 6
    assert document["notes"] == ["ours: 2 items repeat another one, and count each"]
    assert json.loads((once / "tier3_cf.json").read_text())["notes"] == []
    ids = [row["id"] for row in pq.read_table(more / "items" / "ours.parquet").to_pylist()]
    assert ids == ["i0#0", "i1", "i2", "i3", "i0#4", "i0#5"]
    bridge, candidate = (
        EvaluationRef(results=str(each.parents[1]), stage="stage1", directory=each.name) for each in (once, more)
    )
    document = compare_evaluation(CompareRequest(candidate=candidate, bridge=bridge))
    assert b"over 4 of 6 items, which both sides have" in encode_json(document)
