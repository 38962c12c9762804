"""When a comparison or the report is made: decided from what is on disk, a child at a time, never in the tick's way."""

import json
import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from suites.common.atomic_files import write_atomically
from suites.contract.comparison import CompareRequest, ComparisonDocument, read_comparison_document
from suites.contract.encoding import encode_json, read_request
from suites.contract.paths import report_html_path
from suites.contract.stage_summary import StageDocument, StageRequest, read_stage_document, stage_summary_path
from support.samples.comparison import make_evaluation_scores, make_sample_comparison
from support.samples.report import ReportSample
from watcher.config.settings import ReportSettings
from watcher.core.evaluation import EvaluationState
from watcher.daemon.background_process import BackgroundProcess, ProcessExit
from watcher.daemon.daemon import Daemon
from watcher.daemon.report_scheduler import ReportScheduler
from watcher.daemon.report_state import (
    CANNOT_COMPARE_RETRY_SECONDS,
    MAX_CHILD_BACKOFF_SECONDS,
    MIN_CHILD_BACKOFF_SECONDS,
    REPORT_TASK,
)
from watcher.journal import journal
from watcher.reconcile.baselines import build_comparison_requests
from watcher.reconcile.stage_requests import build_stage_requests

STEPS = {"stage1": (15, 25), "stage2": (10, 20, 30)}
BRIDGES = {"stage2": ("stage1", 25)}
ONE = ("general_web",), ("sciq",), ()


class Desk:
    """Children that do at once what their commands ask, or fail as they are told."""

    def __init__(self):
        self.busy = ""
        self.started, self.failing, self.closed, self.summaries = [], {}, False, []

    def start(self, name, command):
        assert not self.busy
        self.command = list(command)
        (self.summaries if "summarise" in command else self.started).append((name, self.command))
        self.busy = name

    def poll(self):
        name, self.busy = self.busy, ""
        if not name:
            return None
        if name in self.failing:
            code, words = self.failing[name]
            return ProcessExit(name=name, code=code, message=words)
        if name == REPORT_TASK:
            write_atomically(self.page, "page")
        elif "summarise" in self.command:
            summarise(read_request(Path(self.command[-1]), StageRequest))
        else:
            answer(read_request(Path(self.command[-1]), CompareRequest))
        return ProcessExit(name=name, code=0)

    def close(self):
        self.closed = True


def summarise(request):
    write_atomically(stage_summary_path(Path(request.results)), encode_json(StageDocument(request=request)))


def answer(request):
    about = make_evaluation_scores(request.candidate.stage, request.candidate.stage, 1, request.candidate.directory)
    write_atomically(request.candidate.paths.compare_json, encode_json(ComparisonDocument(candidate=about, request=request)))


class Run:
    def __init__(self, root):
        self.sample = ReportSample(root, steps=STEPS, bridges=BRIDGES, of=lambda _stage: ONE).write_sample()
        for path in self.sample.results.glob("*/by_checkpoint/*/compare.json"):
            path.unlink()
        for path in self.sample.results.glob("*/stage.json"):
            path.unlink()
        self.now, self.desk = 1_800_000_000.0, Desk()
        self.desk.page = report_html_path(self.sample.results)
        self.start()

    def start(self):
        self.ledger = journal.read_journal(self.sample.config.paths)
        self.reporter = ReportScheduler(self.sample.config, self.desk, clock=lambda: self.now, log=lambda *_, **__: None)

    def ticks(self, count=12, seconds=60.0):
        for _ in range(count):
            self.reporter.start_next(self.ledger)
            self.now += seconds
        return [name for name, _ in self.desk.started]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _fd: None)  # no power is cut here
    return Run(tmp_path)


def test_every_scored_step_is_compared_once_and_then_the_report_is_written(run):
    expected = ["stage1/step_25", "stage2/step_10", "stage2/step_20", "stage2/step_30"]
    assert sorted(run.ticks()) == sorted([*expected, REPORT_TASK])
    assert run.desk.started[-1][0] == REPORT_TASK
    assert run.ticks(200) == [name for name, _ in run.desk.started]
    assert len(run.desk.started) == 5


def test_no_page_is_written_before_the_first_results_have_made_its_folder(run):
    records = run.ledger.records
    run.ledger.records = {key: msgspec.structs.replace(record, state=EvaluationState.READY) for key, record in records.items()}
    results = run.sample.config.results
    hidden = results.rename(results.with_name("hidden"))
    assert run.ticks() == []
    assert run.reporter.warnings == ()
    hidden.rename(results)
    run.ledger.records = records
    run.ledger.event_count += 1
    assert run.ticks()[-1] == REPORT_TASK


def test_every_stage_is_summarised_once_after_its_comparisons_and_again_after_a_new_score(run):
    run.ticks()
    assert [name.split(",")[0] for name, _ in run.desk.summaries] == ["stage1", "stage2"]
    command = run.desk.summaries[1][1]
    assert command[:5] == ["python3", "-P", "-m", "scoring", "summarise"]
    request = read_request(Path(command[5]), StageRequest)
    assert request == build_stage_requests(run.sample.config, run.ledger)["stage2"]
    assert [ref.directory for ref in request.evaluations] == ["step_10", "step_20", "step_30"]
    assert [(ref.stage, ref.directory) for ref in request.earlier_ends] == [("stage1", "step_25")]
    assert request.stage_count == 1
    run.ticks(200)
    assert len(run.desk.summaries) == 2
    run.ledger.records["stage2/step_30"] = msgspec.structs.replace(run.ledger.records["stage2/step_30"], fingerprint="other")
    run.ledger.event_count += 1
    run.ticks()
    assert [name.split(",")[0] for name, _ in run.desk.summaries[2:]] == ["stage2"]
    stage_summary_path(Path(request.results)).write_text("{")
    run.ticks(70)
    assert len(run.desk.summaries) == 4
    assert run.reporter.stage_notes == {}
    document = read_stage_document(stage_summary_path(Path(request.results)))
    noted = msgspec.structs.replace(document, wanted="the noise needs 8 evaluations")
    write_atomically(stage_summary_path(Path(request.results)), encode_json(noted))
    run.ticks(70)
    assert run.reporter.stage_notes == {"stage2": "the noise needs 8 evaluations"}
    assert read_stage_document(stage_summary_path(Path(request.results))).request.stage == "stage2"


def test_a_summary_that_fails_is_told_and_rests(run):
    name = "stage2, its noise and what it forgot"
    run.desk.failing[name] = (70, "no numpy today")
    run.ticks()
    assert len([each for each, _ in run.desk.summaries if each == name]) <= 2  # in twelve minutes
    assert any("cannot compare stage2, its noise and what it forgot: no numpy today" in note for note in run.reporter.warnings)
    assert run.desk.started[-1][0] == REPORT_TASK, "the page is written all the same"


def test_what_fails_its_objectives_is_news_by_its_content_and_shown_after_a_restart(run):
    run.ticks()
    assert run.reporter.alerts == ()
    key = "stage2/step_30"
    request = build_comparison_requests(run.sample.config, run.ledger)[key]
    for gain in (-0.3, -0.2):
        comparison = make_sample_comparison(
            "bridge", "stage2", make_evaluation_scores("stage2", "stage1", 25, "step_25"), gain=gain
        )
        assert comparison.outcome == "fail"
        compared = ComparisonDocument(
            candidate=make_evaluation_scores("stage2", "stage2", 30, "step_30"), request=request, comparisons=(comparison,)
        )
        write_atomically(request.candidate.paths.compare_json, encode_json(compared))
        ids = {alert.id for alert in run.reporter.alerts}
        run.ticks(70)
        (alert,) = run.reporter.alerts
        assert (alert.event, alert.stage, alert.evaluation) == ("regressed", "stage2", key)
        assert alert.id not in ids
        assert any(
            note.startswith(f"{key} against stage1 step 25 fails its objectives: improve hq (nll")
            for note in run.reporter.warnings
        )
    run.start()
    run.ticks(3)
    assert run.reporter.alerts == (alert,)
    answer(request)
    run.ticks(70)
    assert run.reporter.alerts == (), "compared anew, and it does not fail"


def test_the_command_is_an_argument_list_of_the_configs_python(run):
    run.ticks()
    name, command = run.desk.started[0]
    assert command[:5] == ["python3", "-P", "-m", "scoring", "compare"]
    request = read_request(Path(command[5]), CompareRequest)
    assert f"{request.candidate.stage}/{request.candidate.directory}" == name
    assert request == build_comparison_requests(run.sample.config, run.ledger)[name]


def test_the_page_is_made_by_this_very_watcher_with_this_config(run):
    run.ticks()
    command = dict(run.desk.started)[REPORT_TASK]
    assert command[:5] == [sys.executable, "-P", "-m", "watcher", "report"]
    assert command[5:] == ["--html", str(run.desk.page), "--config", str(run.sample.config_file)]


def test_the_bridge_is_the_baseline_and_earlier_steps_of_the_stage_come_with_it(run):
    request = build_comparison_requests(run.sample.config, run.ledger)["stage2/step_30"]
    assert (request.bridge.stage, request.bridge.directory) == ("stage2", "step_25")
    assert [place.directory for place in request.earlier] == ["step_10", "step_20"]


def test_a_rewritten_checkpoint_makes_all_comparisons_with_it_due_again(run):
    run.ticks()
    before = len(run.desk.started)
    key = "stage2/step_25"
    run.ledger.records[key] = msgspec.structs.replace(run.ledger.records[key], fingerprint="other")
    run.ledger.event_count += 1
    run.ticks()
    again = [name for name, _ in run.desk.started[before:]]
    assert sorted(again[:-1]) == ["stage2/step_10", "stage2/step_20", "stage2/step_30"]
    assert again[-1] == REPORT_TASK


def test_a_comparison_that_somebody_removed_is_made_again_within_the_hour(run):
    run.ticks()
    before = len(run.desk.started)
    next(iter(run.sample.results.glob("stage2/by_checkpoint/step_30/compare.json"))).unlink()
    run.ticks(70)
    assert [name for name, _ in run.desk.started[before:]] == ["stage2/step_30", REPORT_TASK]


def test_a_failed_comparison_rests_longer_each_time_and_is_told(run):
    run.desk.failing["stage2/step_30"] = (65, "no rows")
    times = []
    for _ in range(3000):
        run.reporter.start_next(run.ledger)
        run.now += 60
        times.append(sum(name == "stage2/step_30" for name, _ in run.desk.started))
    assert 2 <= times[-1] <= 2 + 172_800 / MAX_CHILD_BACKOFF_SECONDS + 10
    assert times[int(MIN_CHILD_BACKOFF_SECONDS // 60)] == 1
    assert any("stage2/step_30: no rows" in note for note in run.reporter.warnings)
    assert REPORT_TASK in dict(run.desk.started)


def test_what_failed_is_remembered_by_the_next_watcher(run):
    run.desk.failing["stage2/step_30"] = (65, "no rows")
    run.ticks()
    count = len(run.desk.started)
    run.start()
    run.ticks(2)
    assert len(run.desk.started) == count
    assert any("no rows" in note for note in run.reporter.warnings)


def test_another_question_is_asked_at_once_although_the_last_one_failed(run):
    run.desk.failing["stage2/step_30"] = (65, "no rows")
    run.ticks()
    count = sum(name == "stage2/step_30" for name, _ in run.desk.started)
    key = "stage2/step_10"
    run.ledger.records[key] = msgspec.structs.replace(run.ledger.records[key], fingerprint="other")
    run.ledger.event_count += 1
    run.ticks(6)
    assert sum(name == "stage2/step_30" for name, _ in run.desk.started) == count + 1


@pytest.mark.parametrize(
    "how", [(127, "python3: not found"), (1, "ModuleNotFoundError: No module named 'numpy'"), (69, "no numpy")]
)
def test_a_python_that_cannot_compare_is_said_once_and_left_alone_for_hours(run, how):
    run.desk.failing = dict.fromkeys(run.ledger.records, how)
    run.ticks(int(CANNOT_COMPARE_RETRY_SECONDS // 60) - 10)
    comparisons = [name for name, _ in run.desk.started if name != REPORT_TASK]
    assert len(comparisons) == 1
    assert len([note for note in run.reporter.warnings if "cannot compare" in note]) == 1
    assert run.desk.page.exists()
    run.desk.failing = {}
    run.ticks(40)
    assert not run.reporter.warnings
    assert all(
        read_comparison_document(request.candidate.paths.compare_json)
        for request in build_comparison_requests(run.sample.config, run.ledger).values()
    )


def test_a_comparison_that_leaves_no_answer_is_a_failure(run, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "answer", lambda _request: None)
    run.ticks(4)
    assert any("wrote no answer" in note for note in run.reporter.warnings)


def test_nothing_is_started_where_the_config_says_so(run):
    off = msgspec.structs.replace(run.sample.config, report=ReportSettings(page=False, compare=False))
    run.reporter.config = off
    assert run.ticks() == []


def test_an_idle_tick_asks_the_disk_nothing(run, monkeypatch):
    run.ticks()
    monkeypatch.setattr("watcher.daemon.report_scheduler._read_file_stamp", lambda _path: pytest.fail("looked"))
    monkeypatch.setattr("watcher.daemon.report_scheduler.build_comparison_requests", lambda *_: pytest.fail("computed"))
    before = len(run.desk.started)
    run.ticks(10, seconds=1.0)
    assert len(run.desk.started) == before


def wait(children, patience=60.0):
    end = time.monotonic() + patience
    while (ended := children.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)  # a real process is waited for
    return ended


class Hands:
    now = 1000.0


@pytest.fixture
def children(tmp_path):
    hands = Hands()
    hands.children = BackgroundProcess(tmp_path / "children.log", dict(os.environ), clock=lambda: hands.now, limit_seconds=100.0)
    yield hands
    hands.children.close()


def test_a_real_child_that_fails_says_why_with_its_last_line(children):
    assert children.children.start("x", [sys.executable, "-c", "print('first'); raise SystemExit('no such thing')"]) is None
    assert children.children.busy == "x"
    assert wait(children.children) == ProcessExit(name="x", code=1, message="no such thing")
    assert children.children.busy == ""


def test_a_program_that_is_not_there_is_127(children):
    assert children.children.start("x", ["/no/such/python", "-m", "scoring"]) is None
    assert wait(children.children).code == 127


def test_a_child_over_its_time_is_told_to_end(children):
    script = "import sys, time\nsys.stderr.write('on it\\n')\ntime.sleep(600)"
    children.children.start("x", [sys.executable, "-c", script])
    assert children.children.poll() is None
    children.now += 101
    ended = wait(children.children)
    assert ended.code != 0
    assert "terminated after 100 s" in ended.message


def test_a_second_child_is_refused_while_one_runs(children):
    children.children.start("x", ["sleep", "600"])
    with pytest.raises(RuntimeError, match="x is not over"):
        children.children.start("y", ["true"])


def test_a_damaged_memory_of_failures_is_no_obstacle(run):
    run.sample.config.paths.reported_json.write_text("{")
    run.start()
    assert REPORT_TASK in run.ticks()
    assert json.loads(run.sample.config.paths.reported_json.read_text())["signature"]


def test_a_single_tick_from_cron_leaves_nothing_undone_and_nothing_running(run):
    assert run.reporter.run_pending(run.ledger, wait=True) == ()
    assert [name for name, _ in run.desk.started][-1] == REPORT_TASK
    assert len(run.desk.started) == 5
    assert run.desk.closed
    run.start()
    run.reporter.run_pending(run.ledger, wait=True)
    assert len(run.desk.started) == 5


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a defect")])
def test_nothing_that_goes_wrong_here_ends_a_tick(run, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("watcher.daemon.report_scheduler.write_atomically", fail)
    (note,) = run.reporter.run_pending(run.ledger)
    assert str(error.args[-1]) in note


def test_a_failing_comparison_costs_a_single_tick_from_cron_neither_its_end_nor_its_scores(tmp_path):
    """`watcher once` with a python that fails to compare: it ends well, says so in the status, and tries again later."""
    scratch = tmp_path / "run"
    sample = ReportSample(scratch, steps=STEPS, bridges=BRIDGES, of=lambda _stage: ONE).write_sample()
    for path in sample.results.glob("*/by_checkpoint/*/compare.json"):
        path.unlink()
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/bash\necho it cannot be compared today >&2\nexit 70\n")
    failing.chmod(0o755)
    config = msgspec.structs.replace(sample.config, python=str(failing), report=ReportSettings(page=False), executor="local")
    said = []
    daemon = Daemon(config, environ=dict(os.environ), log=lambda what, **facts: said.append((what, facts)), mode="once")
    try:
        assert daemon.tick()
        daemon.finish_reports()
        states = [str(record.state) for record in daemon.journal.state.records.values()]
    finally:
        daemon.close()
    assert set(states) == {"scored"}
    document = json.loads(config.paths.status_json.read_text())
    assert any("it cannot be compared today" in note for note in document["warnings"]), document["warnings"]
    assert not list(sample.results.glob("*/by_checkpoint/*/compare.json"))
    assert json.loads(config.paths.reported_json.read_text())
