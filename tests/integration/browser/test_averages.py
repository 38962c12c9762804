"""Averages in the report: a second line, and their own baselines."""

import json
import shutil

import msgspec
import pytest

from suites.common.atomic_files import write_atomically, write_json_atomically
from suites.contract.averages import AverageStep
from suites.contract.comparison import ComparisonDocument
from suites.contract.encoding import encode_json
from suites.contract.paths import EvaluationPaths
from support.samples.comparison import make_evaluation_scores, make_sample_comparison
from support.samples.report import ReportSample
from watcher.core import events
from watcher.journal.journal import Journal
from watcher.reconcile.baselines import build_comparison_requests

LINES = """
window.report.drawAll();
return window.report.plots.filter(plot => plot.key === 'stage1/tier2_ppl/general_web')
  .map(({chart, element}) => (
    {xs: chart.data[0], own: chart.data[1], average: chart.data[6], label: element.getAttribute('aria-label')}))[0];
"""


def add_average(sample, step, *, copied_from):
    """The scores of a step as those of an average at ``step``, with its comparisons."""
    directory = f"step_{step}_avg2"
    paths, source = EvaluationPaths(sample.results / "stage1", directory), sample.get_paths("stage1", copied_from)
    shutil.copytree(source.folder, paths.folder)
    fingerprint = f"{step:064x}"
    for tier in ("tier2_ppl", "tier3_cf"):
        document = json.loads(paths.tier_json(tier).read_text())
        document["checkpoint"]["fingerprint"], document["step"] = fingerprint, step
        write_json_atomically(paths.tier_json(tier), document)
    about = msgspec.structs.replace(make_evaluation_scores("stage1", "stage1", step, directory), fingerprint=fingerprint)
    members = tuple(AverageStep(step=each, weight=0.5, checkpoint=f"/c/{each}") for each in (step - 1000, step))
    created = events.Created(
        evaluation=f"stage1/{directory}",
        stage="stage1",
        source="stage1",
        step=step,
        directory=directory,
        origin="schedule",
        checkpoint=f"/scratch/ckpts/stage1/{step}",
        average=members,
        average_name="avg2",
        average_rule="last 2",
    )
    journal = Journal.open(sample.config.paths)
    journal.append(created, t=sample.now)
    journal.append(events.Scored(evaluation=created.evaluation, fingerprint=fingerprint, suites=about.suites), t=sample.now)
    request = build_comparison_requests(sample.config, journal.state)[created.evaluation]
    others = {"last_member": request.last_member, "previous_average": request.previous_average}
    comparisons = tuple(
        make_sample_comparison(
            role, "stage1", make_evaluation_scores("stage1", "stage1", int(ref.directory.split("_")[1]), ref.directory), gain=0.2
        )
        for role, ref in others.items()
        if ref is not None
    )
    document = ComparisonDocument(candidate=about, request=request, comparisons=comparisons)
    write_atomically(paths.compare_json, encode_json(document))
    journal.close()
    return request


def test_averages_are_a_second_line_with_baselines_of_their_own(chromium, render, tmp_path):
    sample = ReportSample(tmp_path, steps={"stage1": (2000, 10000, 20000)}, bridges={}).write_sample()
    first = add_average(sample, 10000, copied_from=2000)
    second = add_average(sample, 15000, copied_from=10000)
    assert (first.last_member.directory, first.previous_average) == ("step_10000", None)
    assert (second.last_member, second.previous_average.directory) == (None, "step_10000_avg2")
    assert first.level is None
    assert not first.lacks_level
    shown = chromium.open_file(render(sample)).run(LINES)
    figure = {
        directory: json.loads((EvaluationPaths(sample.results / "stage1", directory).tier_json("tier2_ppl")).read_text())
        for directory in ("step_2000", "step_10000", "step_20000")
    }
    ppl = [pytest.approx(document["slices"]["general_web"]["ppl"], rel=1e-6) for document in figure.values()]
    assert shown["xs"] == [2000, 10000, 15000, 20000]
    assert shown["own"] == [ppl[0], ppl[1], None, ppl[2]]
    assert shown["average"] == [None, ppl[0], ppl[1], None]
    assert "average of 2: " in shown["label"]
    text = chromium.run("return document.body.innerText")
    assert "averages of checkpoints' weights" in text
    assert text.count("average of 2") >= 2
    # Each row's change is that against its own baseline.
    changes = chromium.run(
        "return [...document.querySelectorAll('tr')].filter(row => row.innerText.includes('average of 2'))"
        ".map(row => row.querySelector('.delta')?.innerText ?? '')"
    )
    assert len([change for change in changes if change]) >= 2
    console, _ = chromium.take_console_and_requests()
    assert console == []
