"""`python -m scoring derive`: results of before get bits per byte, once, and what cannot get them is named in one line."""

import json
import math
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scoring.compare.compare import run_comparison
from scoring.compare.stage_summary import run_stage_summary
from suites.common.errors import ExitCode
from suites.contract.comparison import CompareRequest, read_comparison_document
from suites.contract.objectives import Objectives
from suites.contract.paths import EvaluationPaths
from suites.contract.stage_summary import StageRequest
from support.runs.scoring_jobs import run_scoring_in_process
from support.samples.published_results import REAL_RESULTS, edit_tier_file, make_evaluation_ref

pytestmark = pytest.mark.scoring


def without_derived(paths):
    """Make them results of before: no figure and no column that is derived."""
    new = {"bpb", "bpb_stderr", "bits_per_byte", "bpb_uncond", "chance", "at_chance"}

    def strip(document):
        document["summary"].pop("bpb", None)
        document["tasks"] = {name: {k: v for k, v in entry.items() if k not in new} for name, entry in document["tasks"].items()}

    edit_tier_file(paths, "tier3_cf", strip)
    for name in json.loads(paths.tier_json("tier3_cf").read_text())["tasks"]:
        rows = pq.read_table(paths.items_parquet(name))
        pq.write_table(rows.drop_columns([c for c in ("bpb", "bpb_uncond") if c in rows.column_names]), paths.items_parquet(name))


@pytest.fixture
def results(tmp_path):
    shutil.copytree(REAL_RESULTS, tmp_path / "results")
    for step in (20, 40, 60):
        without_derived(find(tmp_path / "results", step))
    return tmp_path / "results"


def find(results, step):
    return EvaluationPaths(results / "stage1", f"step_{step}")


def read_all(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_result_of_before_gets_the_figures_and_keeps_its_originals(results, capsys):
    before = read_all(results)
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.SCORED
    assert "3 of 3 evaluations changed, 0 figures not derived" in capsys.readouterr().out
    after = read_all(results)
    changed = {path for path in before if after[path] != before[path]}
    assert {path.name for path in changed} == {"tier3_cf.json", "prose_order.parquet", "code_order.parquet"}
    kept = [content for path, content in after.items() if "superseded" in path.parts]
    assert sorted(kept) == sorted(before[path] for path in changed)
    for step in (20, 40, 60):
        document = json.loads(find(results, step).tier_json("tier3_cf").read_text())
        for name, entry in document["tasks"].items():
            rows = pq.read_table(find(results, step).items_parquet(name)).to_pylist()
            each = [-row["ll"][row["gold"]] / math.log(2) / row["bytes"][row["gold"]] for row in rows]
            assert [row["bpb"] for row in rows] == pytest.approx(each)
            assert entry["bpb"] == pytest.approx(np.mean(each))
        assert document["summary"]["bpb"] == pytest.approx(np.mean([entry["bpb"] for entry in document["tasks"].values()]))


def test_a_second_time_nothing_is_written(results):
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.SCORED
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in results.rglob("*")}
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.SCORED
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in results.rglob("*")} == before


def test_documents_that_were_made_without_the_figures_are_removed_and_the_rest_stays(results, capsys):
    paths = [find(results, step) for step in (20, 40, 60)]
    refs = [make_evaluation_ref(one) for one in paths]
    improve = Objectives(improve=("tier3.bpb",))
    for index in (1, 2):
        run_comparison(CompareRequest(candidate=refs[index], earlier=tuple(refs[:index]), objectives=improve))
    comparison = read_comparison_document(paths[2].compare_json)
    (refusal,) = [one for one in comparison.refusals if "not among the best" in one.reason]
    command = f"python -m scoring derive {results / 'stage1'}"
    assert refusal.reason == f"not among the best: steps 20, 40, whose results have no bits per byte. Run {command}"
    run_stage_summary(StageRequest(stage="stage1", results=str(results / "stage1"), evaluations=tuple(refs)))
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.SCORED
    assert "3 comparisons and summaries of the scores of before are removed" in capsys.readouterr().out
    assert not any(path.exists() for path in (*(one.compare_json for one in paths), results / "stage1" / "stage.json"))
    document = run_comparison(CompareRequest(candidate=refs[2], earlier=tuple(refs[:2]), objectives=improve))
    assert document.refusals == ()
    assert document.get_comparison("best") is not None
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.SCORED
    assert "removed" not in capsys.readouterr().out
    assert paths[2].compare_json.exists()


def test_one_stages_folder_is_enough(results, capsys):
    assert run_scoring_in_process(["derive", str(results / "stage1")]) == ExitCode.SCORED
    assert "3 of 3 evaluations changed" in capsys.readouterr().out


def test_an_interrupted_run_is_finished_by_the_next(results):
    paths = find(results, 20)
    expected = shutil.copytree(results, results.parent / "other")
    assert run_scoring_in_process(["derive", str(expected)]) == ExitCode.SCORED
    shutil.copy(find(expected, 20).items_parquet("code_order"), paths.items_parquet("code_order"))
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.SCORED
    assert paths.tier_json("tier3_cf").read_bytes() == find(expected, 20).tier_json("tier3_cf").read_bytes()


def drop_rows(paths):
    paths.items_parquet("code_order").unlink()


def cut_rows(paths):
    path = paths.items_parquet("code_order")
    pq.write_table(pq.read_table(path).slice(0, 3), path)


def tear_rows(paths):
    path = paths.items_parquet("code_order")
    path.write_bytes(path.read_bytes()[:100])


def drop_column(paths):
    path = paths.items_parquet("code_order")
    pq.write_table(pq.read_table(path).drop_columns(["bytes"]), path)


def break_gold(paths):
    path = paths.items_parquet("code_order")
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(rows.column_names.index("gold"), "gold", pa.array([99] * len(rows))), path)


def break_numbers(paths):
    path = paths.items_parquet("code_order")
    rows = pq.read_table(path)
    ll = [[math.nan] * len(row) for row in rows["ll"].to_pylist()]
    pq.write_table(rows.set_column(rows.column_names.index("ll"), "ll", pa.array(ll)), path)


def break_entry(paths):
    edit_tier_file(paths, "tier3_cf", lambda document: document["tasks"].update(code_order=7))


def pipe_instead(paths):
    paths.items_parquet("code_order").unlink()
    os.mkfifo(paths.items_parquet("code_order"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop_rows, "it has no rows in items/"),
        (cut_rows, "3 rows for 160 items"),
        (tear_rows, "code_order cannot be derived"),
        (drop_column, "the rows have no bytes"),
        (break_gold, "no gold choice"),
        (break_numbers, "no finite log-likelihood"),
        (break_entry, "code_order cannot be derived"),
        (pipe_instead, "not a regular file"),
    ],
)
def test_a_task_that_cannot_be_derived_is_one_line_and_all_others_are(results, capsys, damage, reason):
    damage(find(results, 40))
    before = json.loads(find(results, 40).tier_json("tier3_cf").read_text())
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.DATA_MISSING
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert reason in line
    assert "bits per byte of code_order" in line
    assert "3 of 3 evaluations changed, 1 figures not derived" in out
    after = json.loads(find(results, 40).tier_json("tier3_cf").read_text())
    assert after["tasks"]["code_order"] == before["tasks"]["code_order"]
    assert after["tasks"]["prose_order"]["bpb"] > 0
    assert after["summary"]["bpb"] is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"tasks": {}, "summary": {}}', '{"tasks": 3, "summary": {}}'])
def test_a_tier_file_of_another_program_is_one_line_and_stays(results, capsys, content):
    path = find(results, 20).tier_json("tier3_cf")
    path.write_text(content)
    assert run_scoring_in_process(["derive", str(results)]) == ExitCode.DATA_MISSING
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(str(path))
    assert path.read_text() == content


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_without_evaluations_is_refused(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert run_scoring_in_process(["derive", str(tmp_path / name)]) == ExitCode.DATA_MISSING
    (line,) = capsys.readouterr().err.splitlines()
    assert "no evaluation in this folder" in line
