"""Bits per byte in the report: where accuracy is at chance, with what the choices cost without their questions beside them."""

import csv
import io
import json

import pytest

from suites.contract.comparison import ComparedEntry, Comparison, Effect, EvaluationInfo
from suites.contract.paths import EvaluationPaths
from watcher.observe.results import check_results
from watcher.report.data import Report, ReportedEvaluation, StageReport
from watcher.report.figures import Figure, collect_changes, get_figure_value, list_figures
from watcher.report.page_data import build_page_data
from watcher.report.result_files import read_result_files
from watcher.report.tables import render_csv

GUESSED, KNOWN = Figure("tier3_cf", "qasc", "bpb"), Figure("tier3_cf", "sciq", "bpb")


def write_tier3(root, step, **tasks):
    paths = EvaluationPaths(root / "stage1", f"step_{step}")
    paths.folder.mkdir(parents=True)
    head = {"schema": 1, "tier": "tier3_cf", "stage": "stage1", "step": step, "suite_digest": "s", "notes": []}
    checkpoint = {"path": "/c", "source_stage": "stage1", "fingerprint": "f", "tokens_seen": None}
    bits = [entry["bpb"] for entry in tasks.values() if "bpb" in entry]
    summary = {"primary": 0.5, "acc": 0.5, "acc_norm": 0.5, "tasks": len(tasks)} | (
        {"bpb": sum(bits) / len(bits)} if bits else {}
    )
    paths.tier_json("tier3_cf").write_text(json.dumps({**head, "checkpoint": checkpoint, "summary": summary, "tasks": tasks}))
    return paths


def task(bpb, *, at_chance, uncond=2.0):
    figures = {"primary": 0.3, "primary_metric": "acc", "acc": 0.3, "acc_stderr": 0.01, "examples": 900, "data_key": "k"}
    return {**figures, "bpb": bpb, "bpb_stderr": 0.03, "bpb_uncond": uncond, "chance": 0.25, "at_chance": at_chance}


def evaluation(paths, step):
    key = f"stage1/step_{step}"
    files = read_result_files(paths)
    fields = {"results": str(paths.root), "directory": paths.directory, "role": "own", "state": "scored", "files": files}
    return ReportedEvaluation(key=key, stage="stage1", source="stage1", step=step, **fields)


@pytest.fixture
def stage(tmp_path):
    first = write_tier3(tmp_path, 10, sciq=task(1.5, at_chance=True), qasc=task(1.6, at_chance=True))
    second = write_tier3(tmp_path, 20, sciq=task(1.0, at_chance=False), qasc=task(1.25, at_chance=True, uncond=None))
    return StageReport(name="stage1", checkpoints="", evaluations=(evaluation(first, 10), evaluation(second, 20)))


def test_only_tasks_that_are_at_chance_now_get_a_figure_of_their_own(stage):
    figures = list_figures(stage)
    assert GUESSED in figures
    assert KNOWN not in figures
    assert Figure("tier3_cf", "", "bpb") in figures
    assert (GUESSED.metric, GUESSED.lower_is_better, GUESSED.label) == ("bpb", True, "qasc, bits per byte")
    value = get_figure_value(stage.evaluations[0], GUESSED)
    assert (value.value, value.error) == (1.6, 0.03)


def test_the_page_has_the_unconditional_choice_beside_it(stage, tmp_path):
    report = Report(at=0, results="", source="", health="absent", health_line="", status={}, stages=(stage,))
    page_stage = build_page_data(report, tmp_path)["stages"][0]
    (figure,) = [each for each in page_stage["figures"] if each["measure"] == "bpb" and each["name"]]
    assert (figure["name"], figure["v"], figure["u"], figure["lower"]) == ("qasc", [1.6, 1.25], [2.0, None], True)


def test_csv_has_a_row_of_every_task(stage):
    report = Report(at=0, results="", source="", health="absent", health_line="", status={}, stages=(stage,))
    rows = [row for row in csv.DictReader(io.StringIO(render_csv(report))) if row["metric"] == "bpb"]
    assert [(row["step"], row["name"], row["value"]) for row in rows] == [
        *[("10", "", "1.55"), ("10", "sciq", "1.5"), ("10", "qasc", "1.6")],
        *[("20", "", "1.125"), ("20", "sciq", "1.0"), ("20", "qasc", "1.25")],
    ]


def test_results_of_before_have_no_such_figures(tmp_path):
    old = {key: value for key, value in task(1.0, at_chance=True).items() if "bpb" not in key and "chance" not in key}
    paths = write_tier3(tmp_path, 10, sciq=old)
    found = list_figures(StageReport(name="stage1", checkpoints="", evaluations=(evaluation(paths, 10),)))
    assert found == [Figure("tier3_cf", ""), Figure("tier3_cf", "sciq")]


def test_the_change_is_the_paired_effect():
    effect = Effect(metric="bpb", better_when="lower", baseline=1.5, candidate=1.2, delta=-0.3, p=0.001, verdict="better")
    accuracy = Effect(metric="acc", better_when="higher", baseline=0.3, candidate=0.3, delta=0.0)
    info = EvaluationInfo(stage="s", source_stage="s", step=1, directory="d", checkpoint="/c", fingerprint="f")
    effects = {"primary": accuracy, "acc": accuracy, "bpb": effect}
    entry = ComparedEntry(
        tier="tier3_cf", kind="task", name="qasc", effects=effects, judged_by="primary", plain=True, unit="item"
    )
    changes = collect_changes(Comparison(role="bridge", baseline=info, entries=(entry,)))
    assert (changes[GUESSED].value, changes[GUESSED].verdict) == (-0.3, "better")
    assert changes[Figure("tier3_cf", "qasc")].value == 0.0


def test_the_status_knows_the_total(tmp_path):
    paths = write_tier3(tmp_path, 10, sciq=task(1.5, at_chance=True))
    results = check_results(paths, "f", {"tier3_cf": ("s", ("sciq",))})
    assert results.scores == {"primary": 0.5, "bpb": 1.5}
