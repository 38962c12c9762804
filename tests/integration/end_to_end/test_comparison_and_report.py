"""From checkpoints to a verdict, by the daemon alone: scored, compared with the bridge by a child, shown in report.html."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from suites.contract.comparison import read_comparison_document
from suites.contract.paths import StatePaths, report_html_path
from suites.contract.stage_summary import read_stage_document, stage_summary_path
from support.runs.two_stages import TwoStagesRun
from watcher.config.loader import load_config

pytestmark = pytest.mark.scoring
PAUSE_MOST = 240.0


def data_of(page):
    """What the page was given."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('<script id="data" type="application/json">', 1)[1].split("</script>", 1)[0])


def configured(root, **more):
    settings = {"report": {"page": True, "compare": True}, "limits": {"max_running": 2}, **more}
    scenario = TwoStagesRun(root, steps={"stage1": [10], "stage2": [20, 30]}, settings=settings)
    config = yaml.safe_load(scenario.config.read_text())
    config["stages"]["stage2"]["objectives"] = {"improve": ["tier2"], "hold": ["tier3"]}
    scenario.config.write_text(yaml.safe_dump(config))
    scenario.write_checkpoint("stage1", 10)
    scenario.write_checkpoint("stage2", 20)
    scenario.write_checkpoint("stage2", 30, like="qwen2_bias_tp1/20")
    return scenario


def test_a_run_is_scored_compared_and_reported(tmp_path):
    scenario = configured(tmp_path / "run")
    page = report_html_path(scenario.results)

    def ended(states):
        if set(states.values()) != {"scored"} or len(states) < len(scenario.expected_evaluations) or not page.exists():
            return False
        (stage,) = [stage for stage in data_of(page)["stages"] if stage["name"] == "stage2"]
        return stage["noise"] and all(one["against"].get("bridge") for one in stage["evaluations"] if one["role"] == "own")

    scenario.start_daemon()
    try:
        scenario.wait_for_states(ended, seconds=PAUSE_MOST)
    finally:
        assert scenario.stop_daemon() == 0
    folder = scenario.results / "stage2" / "by_checkpoint"
    compared = read_comparison_document(folder / "step_30" / "compare.json")
    bridge = compared.get_comparison("bridge")
    assert bridge.baseline.directory == "step_10"
    before, after = (json.loads((folder / name / "tier2_ppl.json").read_text()) for name in ("step_10", "step_30"))
    delta = after["summary"]["nll_per_token"] - before["summary"]["nll_per_token"]
    assert bridge.get_total("tier2_ppl").effects["nll_per_token"].delta == pytest.approx(delta, abs=1e-9)
    assert compared.get_comparison("previous").baseline.directory == "step_20"
    summary = read_stage_document(stage_summary_path(scenario.results / "stage2"))
    assert [ref.directory for ref in summary.request.evaluations] == ["step_20", "step_30"]
    assert stage_summary_path(scenario.results / "stage1").is_file()
    status = json.loads(StatePaths(load_config(Path(scenario.config), {}).state).status_json.read_text())
    assert any("the noise needs 8 evaluations" in note for note in status["stages"]["stage2"]["notes"])
    (stage,) = [stage for stage in data_of(page)["stages"] if stage["name"] == "stage2"]
    index = [one["directory"] for one in stage["evaluations"]].index("step_30")
    total = [figure["name"] for figure in stage["figures"]].index("")
    shown = stage["changes"]["bridge"][index][total]
    assert shown[0] == pytest.approx(after["summary"]["ppl"] - before["summary"]["ppl"], rel=1e-5)
    gate = subprocess.run(
        [sys.executable, "-m", "watcher", "report", "--check", "stage2", "--config", scenario.config], check=False
    )
    assert gate.returncode == {"pass": 0, "fail": 1, "inconclusive": 3}[bridge.outcome]


def test_a_python_without_the_scorer_is_told_and_the_report_written_all_the_same(tmp_path):
    """As on a login node: jobs bring their own environment, and `python` here has nothing."""
    scenario = configured(tmp_path / "run")
    bare = tmp_path / "bare"
    cases = f'*compare*|*summarise*) exec {sys.executable} -I -S -c "import numpy";; *) exec {sys.executable} "$@";;'
    bare.write_text(f'#!/bin/bash\ncase "$*" in {cases} esac\n')
    bare.chmod(0o755)
    config = yaml.safe_load(scenario.config.read_text())
    scenario.config.write_text(yaml.safe_dump(config | {"python": str(bare)}))

    def told(states):
        if (
            len(states) < len(scenario.expected_evaluations)
            or set(states.values()) != {"scored"}
            or not report_html_path(scenario.results).exists()
        ):
            return False
        notes = json.loads((scenario.state / "status.json").read_text())["warnings"]
        return any("cannot compare results here" in note and "No module named 'numpy'" in note for note in notes)

    scenario.start_daemon()
    try:
        scenario.wait_for_states(told, seconds=PAUSE_MOST)
    finally:
        scenario.stop_daemon()
    requests = list(scenario.config.parent.glob("results/.watcher/comparisons/*.json"))
    assert len(requests) == 1, "one was tried, and the others are not asked for hours"
    assert not list(Path(scenario.results).glob("*/by_checkpoint/*/compare.json"))
    assert os.path.getsize(report_html_path(scenario.results)) > 10_000  # noqa: PTH202
