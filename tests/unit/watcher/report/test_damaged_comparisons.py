"""An odd compare.json or stage.json costs its own evaluation: it is named as damaged, and every other page and table is there."""

import json

import pytest
from click.testing import CliRunner

from suites.common.errors import UserError
from suites.contract.comparison import read_comparison_document
from suites.contract.stage_summary import read_stage_document, stage_summary_path
from support.samples.comparison import list_slices
from support.samples.report import ReportSample
from watcher.cli.app import main


def list_small_suite(_stage):
    slices, tasks, _ = list_slices("stage2")
    return slices, tasks[:3], ()


@pytest.fixture
def run(tmp_path):
    steps = {"stage1": (15, 25), "stage2": (10, 20)}
    return ReportSample(tmp_path, steps=steps, bridges={"stage2": ("stage1", 25)}, of=list_small_suite).write_sample()


def report(run, *arguments):
    """The command's exit code and output; an exception is a bug."""
    result = CliRunner(env={"COLUMNS": "400"}).invoke(main, ["report", *arguments, "--config", str(run.config_file)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def edit(change):
    def apply(path):
        document = json.loads(path.read_text())
        change(document["comparisons"][0])
        path.write_text(json.dumps(document))

    return apply


def fail_all(comparison):
    comparison["outcome"] = "pass"
    for objective in comparison["objectives"]:
        objective["outcome"] = "fail"


DAMAGES = {
    "judged_by of an entry": edit(lambda comparison: comparison["entries"][0].update(judged_by="zzz")),
    "judged_by of a total": edit(lambda comparison: comparison["totals"][0].update(judged_by="zzz")),
    "no effects": edit(lambda comparison: comparison["entries"][0].update(effects={})),
    "no effects of a total": edit(lambda comparison: comparison["totals"][0].update(effects={})),
    "pass while all fail": edit(fail_all),
    "fail without objectives": edit(lambda comparison: comparison.update(outcome="fail", objectives=[])),
    "no outcome": edit(lambda comparison: comparison.update(outcome=None)),
    "another tier": edit(lambda comparison: comparison["entries"][0].update(tier="tier9")),
    "another tier of a total": edit(lambda comparison: comparison["totals"][0].update(tier="tier9")),
    "delta null": edit(lambda comparison: comparison["entries"][0]["effects"]["ppl"].update(delta=None)),
    "delta NaN": edit(lambda comparison: comparison["entries"][0]["effects"]["ppl"].update(delta=float("nan"))),
    "low infinite": edit(lambda comparison: comparison["totals"][0]["effects"]["ppl"].update(low=float("-inf"))),
    "p of an objective NaN": edit(lambda comparison: comparison["objectives"][0].update(p=float("nan"))),
    "verdict": edit(lambda comparison: comparison["entries"][0]["effects"]["ppl"].update(verdict="good")),
    "role": edit(lambda comparison: comparison.update(role="previous")),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a list": lambda path: path.write_text("[]"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a loop of links": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_comparison_is_named_and_passes_no_gate(run, tmp_path, damage):
    path = run.get_paths("stage2", 20).compare_json
    damage(path)
    with pytest.raises(UserError, match="not a comparison") as caught:
        read_comparison_document(path)
    assert str(caught.value).count(str(path)) == 1
    gate = report(run, "stage2", "--check")
    assert gate.exit_code not in {0, 1, 3}
    assert "compare.json: not a comparison" in gate.output
    assert "damaged" in gate.output
    assert "not compared with the bridge yet" not in gate.output
    for arguments in ((), ("stage2",), ("stage2", "20"), ("--details",), ("--json",), ("--csv",)):
        result = report(run, *arguments)
        assert result.exit_code == 0
        assert "stage1" in result.output or "stage2" in arguments
    assert "damaged" in report(run).output
    page = tmp_path / "page.html"
    assert report(run, "--html", str(page)).exit_code == 0
    assert page.stat().st_size


def test_a_stage_summary_without_sense_is_named(run):
    path = stage_summary_path(run.get_paths("stage2", 20).root)
    request = {"stage": "stage2", "results": str(path.parent), "evaluations": []}
    for figure in ({"tier": "tier9", "newest": 1.0}, {"tier": "tier2_ppl", "newest": float("nan")}):
        path.write_text(json.dumps({"request": request, "noise": [{"name": "", "metric": "nll_per_token", **figure}]}))
        with pytest.raises(UserError, match="no summary of a stage: "):
            read_stage_document(path)
        for arguments in ((), ("--snr",), ("--json",)):
            assert report(run, *arguments).exit_code == 0
        assert "stage.json: no summary of a stage" in report(run).output
