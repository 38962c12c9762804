"""A suite gains a slice and a task gains items: just that much is scored anew, and comparisons go over what both sides have."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from suites.contract.comparison import read_comparison_document
from support.runs.two_stages import TwoStagesRun

pytestmark = pytest.mark.scoring
MOST = 240.0


def once(scenario, until):
    """Run ``watcher once`` again and again until ``until(states)``."""
    end = time.monotonic() + MOST
    while True:
        command = [Path(sys.executable).with_name("watcher"), "once", "--config", scenario.config]
        done = subprocess.run(
            command, env=scenario.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if until(scenario.read_states()):
            return
        assert time.monotonic() < end, (scenario.read_states(), done.stdout, done.stderr)
        time.sleep(0.3)


def answers(folder):
    """Item -> whether the task's own metric picks its right choice, by the published rows."""
    metric = json.loads((folder / "tier3_cf.json").read_text())["tasks"]["ours"]["primary_metric"]
    rows = pq.read_table(folder / "items" / "ours.parquet").to_pylist()
    return [row[f"pick_{metric}"] == row["gold"] for row in rows]


def test_what_a_suite_gains_is_owed_and_nothing_else(tmp_path):
    scenario = TwoStagesRun(tmp_path / "run", steps={"stage1": [10, 20]}, settings={"report": {"page": False, "compare": True}})
    tasks = yaml.safe_load((scenario.root / "tasks.yaml").read_text())
    shutil.copyfile(scenario.root / "items.jsonl", scenario.root / "others.jsonl")
    tasks["tasks"]["others"] = {**tasks["tasks"]["ours"], "data_files": [str(scenario.root / "others.jsonl")]}
    (scenario.root / "tasks.yaml").write_text(yaml.safe_dump(tasks))
    lost = scenario.write_checkpoint("stage1", 10)
    scenario.write_checkpoint("stage1", 20, like="qwen2_bias_tp1/20")
    folders = {step: scenario.results / "stage1" / "by_checkpoint" / f"step_{step}" for step in (10, 20)}
    once(scenario, lambda states: set(states.values()) == {"scored"} and (folders[20] / "compare.json").exists())
    before = {path.name: path.read_bytes() for path in folders[20].glob("tier*.json")}
    parts = {path: path.stat().st_mtime_ns for path in folders[20].glob("parts/*.parquet")}

    shutil.rmtree(lost)
    with (scenario.root / "items.jsonl").open("a") as items:
        for n in range(4):
            items.write(json.dumps({"context": f"Another question, {n}:", "choices": ["yes", "no"], "gold": n % 2}) + "\n")
    slices = yaml.safe_load((scenario.root / "slices.yaml").read_text())
    slices["slices"]["third"] = {"data_files": [str(scenario.root / "third.jsonl")]}
    (scenario.root / "third.jsonl").write_text(json.dumps({"text": "Something else entirely. " * 9}) + "\n")
    (scenario.root / "slices.yaml").write_text(yaml.safe_dump(slices))
    for name in ("items.jsonl", "third.jsonl"):
        os.utime(scenario.root / name, (time.time() - 30, time.time() - 30))

    def grown(states):
        compared = read_comparison_document(folders[20] / "compare.json")
        return set(states.values()) == {"scored"} and "third" in _slices(folders[20]) and len(compared.request.earlier) == 1

    once(scenario, lambda states: grown(states) and "third" in json.dumps(read_refusals(folders[20])))
    run = json.loads((folders[20] / "run.json").read_text())
    assert run["parts"] == {"scored": ["third", "ours[0:10]"], "reused": ["plain", "shout", "others[0:6]"]}
    assert {path: path.stat().st_mtime_ns for path in parts} == parts, "what was there is not written again"
    now = {name: json.loads((folders[20] / name).read_text()) for name in before}
    then = {name: json.loads(content) for name, content in before.items()}
    for name in ("plain", "shout"):
        assert now["tier2_ppl.json"]["slices"][name] == then["tier2_ppl.json"]["slices"][name]
    assert now["tier3_cf.json"]["tasks"]["ours"]["examples"] == 10
    assert now["tier3_cf.json"]["tasks"]["others"] == then["tier3_cf.json"]["tasks"]["others"]

    kept = {path.name: path.read_bytes() for path in folders[20].glob("superseded/*/tier*.json")}
    assert kept == before, "the earlier results are kept aside"
    assert len(list(folders[20].glob("superseded/*/items/ours.parquet"))) == 1

    why = subprocess.run(
        [Path(sys.executable).with_name("watcher"), "why", "stage1", "20", "--config", scenario.config],
        env=scenario.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "tier2_ppl: third is new; tier3_cf: ours is on other data; the changed parts will be scored again" in " ".join(
        why.split()
    )
    status = json.loads((scenario.state / "status.json").read_text())
    assert any("the checkpoint is gone, so the scores stay" in skip["reason"] for skip in status["skipped"])

    compared = read_comparison_document(folders[20] / "compare.json").get_comparison("previous")
    assert {entry.name for entry in compared.entries} == {"plain", "shout", "ours", "others"}
    (ours,) = [entry for entry in compared.entries if entry.name == "ours"]
    assert ours.note == "over 6 of 10 items, which both sides have"
    earlier, later = answers(folders[10]), answers(folders[20])
    assert (len(earlier), len(later)) == (6, 10)
    assert ours.effect.n == 6
    assert ours.effect.baseline == pytest.approx(sum(earlier) / 6)
    assert ours.effect.candidate == pytest.approx(sum(later[:6]) / 6)


def _slices(folder):
    return json.loads((folder / "tier2_ppl.json").read_text())["slices"]


def read_refusals(folder):
    found = read_comparison_document(folder / "compare.json").get_comparison("previous")
    return [(refusal.name, refusal.reason) for refusal in found.refusals]
