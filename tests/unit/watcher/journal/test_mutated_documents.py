"""Journals, requests and status documents with anything wrong in them: no exception leaves their readers.

What a reader lets through is also decided upon and shown. ``make test`` tries some hundred; the slow test 20,000.
"""

import contextlib
import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suites.contract.averages import AverageStep
from suites.contract.encoding import encode_json
from suites.contract.liveness import read_liveness
from suites.contract.paths import StatePaths
from support.faults.mutated_documents import damage, encode, mutate
from watcher.config.settings import Config, ReportSettings, Stage
from watcher.core import event_parsing, events, stage_events
from watcher.core.evaluation import Attempt, Pin
from watcher.core.request_types import Amendment, Request
from watcher.core.snapshot import Snapshot, StageFolder, StageRequirements
from watcher.core.usage import Usage, UsageSource
from watcher.journal.journal import read_journal
from watcher.journal.replay import MAX_WARNINGS
from watcher.journal.request_files import read_requests
from watcher.reconcile.baselines import build_comparison_requests
from watcher.reconcile.reconciler import reconcile
from watcher.status.document import DaemonFacts, build_status
from watcher.status.explain import explain_evaluation
from watcher.status.health import check_liveness
from watcher.status.text import render_status

NOW = 1_700_000_000.0
KEY = "stage1/step_100"
ATTEMPT = Attempt(run_id="eval-stage1-100-ab", number=1, fingerprint="f1", suites={"tier2_ppl": "d"}, intended=NOW, tasks=2)
USAGE = Usage(gpu_seconds=7200.0, run_seconds=3600.0, wait_seconds=60.0, source=UsageSource.ACCOUNTING, at_least=True)
AVERAGE = tuple(AverageStep(step=step, weight=0.5, checkpoint=f"/c/stage1/{step}") for step in (300, 400))


def make_journal():
    """A journal with every kind of event."""
    about = {"evaluation": KEY, "reason": "why", "hint": "do it"}
    submitted = {"run_id": ATTEMPT.run_id, "job_id": "7", "attempt": ATTEMPT, "submit_time": NOW}
    created = [
        events.Created(
            evaluation=f"stage1/step_{step}",
            stage="stage1",
            source="stage1",
            step=step,
            directory=f"step_{step}",
            origin=origin,
            checkpoint=f"/c/stage1/{step}",
            average=AVERAGE if step == AVERAGE[-1].step else (),
            average_name="avg2" if step == AVERAGE[-1].step else "",
        )
        for step, origin in ((100, "schedule"), (200, "bridge"), (300, "request"), (400, "schedule"))
    ]
    batch = [
        events.Opened(host="h", pid=1, start=5),
        *created,
        events.Ready(**about, fingerprint="f1", mtimes="1-2-3-4", completed_at=NOW - 60),
        events.Pinned(**about, pin=Pin(fingerprint="f1", folder="/s/w/pins/x", size=9)),
        events.Intended(**about, run_id=ATTEMPT.run_id, attempt=ATTEMPT),
        events.SubmissionUnknown(**about, run_id=ATTEMPT.run_id),
        events.Adopted(**about, **submitted),
        events.Submitted(**about, **submitted, released=True),
        events.Released(**about, run_id=ATTEMPT.run_id),
        events.Started(**about, run_id=ATTEMPT.run_id, started=NOW + 1),
        events.Requeued(**about, run_id=ATTEMPT.run_id, restarts=1),
        events.ConfirmingEnd(**about, run_id=ATTEMPT.run_id),
        events.Failed(**about, failure_kind="exit", retry_at=NOW + 60, raised_resources={"time": "8:00:00", "mem": "4G"}),
        events.Abandoned(**about, run_id=ATTEMPT.run_id, abandons_attempt=True),
        events.Scored(**about, fingerprint="f1", suites={"tier2_ppl": "d"}, scores={"ppl": 3.5}, results="/s/r"),
        events.Mirrored(**about, copy="c"),
        events.MtimesUpdated(**about, mtimes="1-2-3-5"),
        events.Unpinned(**about),
        stage_events.MemberPinned(checkpoint="/c/stage1/300", pin=Pin(fingerprint="f3", folder="/s/w/pins/y", size=9)),
        stage_events.MemberUnpinned(checkpoint="/c/stage1/400"),
        events.Lost(evaluation=KEY),
        events.Restored(evaluation=KEY),
        events.ResultsLocated(evaluation=KEY, results="/s/r2"),
        events.CheckpointMoved(evaluation="stage1/step_200", checkpoint="/c/other/200"),
        events.BaselineSelected(evaluation="stage1/step_200"),
        events.Blocked(evaluation="stage1/step_300", fingerprint="f3", reason="fix it"),
        events.Waiting(evaluation="stage1/step_400", deleted=True, reason="gone"),
        events.Cancelled(evaluation="stage1/step_300"),
        events.Pending(evaluation="stage1/step_300", fresh=True, forced=True, requested=True),
        events.AttemptMeasured(**about, run_id=ATTEMPT.run_id, usage=USAGE),
        events.LeftOver(evaluation=KEY, run_id="eval-x"),
        stage_events.StageFactsRead(stage="stage1", facts={"tokenizer": "t", "seq_len": 64, "checkpoint": "/c/stage1/100"}),
        stage_events.LooksPlanned(
            stage="stage1", plan={"planned_count": 3, "steps": (100,), "every": 100, "first": 200, "last": 300}
        ),
        stage_events.LevelFixed(evaluation="stage1/step_200", level=0.01, order=1),
        stage_events.StageStartedFrom(stage="stage1", checkpoint="/c/stage0/900"),
        stage_events.Paused(stage="stage1", by="ada@login", reason="full"),
        stage_events.Resumed(by="ada@login"),
        stage_events.Paused(by="ada@login"),
        events.RequestAnswered(id="r1", outcome="scheduled"),
        events.Notified(id="blocked x", about="x"),
    ]
    header = {"schema": 1, "epoch": 1}
    return [{**header, "seq": n, "t": NOW + n, **msgspec.to_builtins(event)} for n, event in enumerate(batch)]


JOURNAL = make_journal()
REQUEST = json.loads(
    encode_json(
        Request(
            id="r1",
            at=NOW,
            kind="enqueue",
            stage="stage1",
            steps=(500, 600),
            source="stage1",
            checkpoint="/c/x/500",
            name="mine",
            bridge=True,
            by="ada@login",
            amendments=(
                Amendment(key=KEY, state=None, events=({**JOURNAL[1], "t": NOW}, {"event": "scored", "fingerprint": "f"})),
            ),
        )
    )
)


def make_config(state: Path) -> Config:
    stage = Stage(name="stage1", checkpoints=Path("/c/stage1"), results=Path("/s/r"), steps=(100,), every=100)
    return Config(
        source="test",
        scratch=Path("/s"),
        results=Path("/s/r"),
        eval_data=Path("/s/d"),
        state=state,
        stages={"stage1": stage},
        report=ReportSettings(page=False, compare=False),
    )


def make_snapshot(requests=()):
    folder = StageFolder(steps={100: "/c/stage1/100", 500: "/c/stage1/500"}, latest_step=500, final_step=500)
    return Snapshot(
        now=NOW, server_now=NOW, stages={"stage1": folder}, requirements={"stage1": StageRequirements()}, requests=tuple(requests)
    )


def make_status(journal_state, config, skips=()):
    facts = DaemonFacts(host="h", pid=1, epoch=1, started_at=NOW, version="0", poll_seconds=60.0)
    return build_status(
        records=journal_state.records,
        skips=skips,
        queue=None,
        config=config,
        now=NOW,
        daemon=msgspec.structs.replace(facts, warnings=tuple(journal_state.warnings)),
    )


def read_and_show(paths: StatePaths, requests=()):
    """Read the journal as a watcher does at its start, decide, and show."""
    journal_state, config = read_journal(paths), make_config(paths.state)
    assert len(journal_state.warnings) <= MAX_WARNINGS + 1
    for key, record in journal_state.records.items():
        assert (record.key, "/" in record.directory) == (key, False)
        explain_evaluation(record, NOW)
    decision = reconcile(make_snapshot(requests), journal_state, config, "watcher:x")
    build_comparison_requests(config, journal_state)
    document = make_status(journal_state, config, decision.skips)
    assert render_status(document, NOW).encode()
    json.dumps(document, allow_nan=False).encode()
    return journal_state


def try_journal(paths, chooser):
    lines = list(JOURNAL)
    place = chooser.randrange(len(lines))
    lines[place] = mutate(lines[place], chooser)
    content = b"".join(encode(line) + b"\n" for line in lines)
    paths.epoch_journal(1).write_bytes(damage(content, chooser) if chooser.random() < 0.3 else content)
    read_and_show(paths)


def try_request(paths, chooser):
    content = encode(mutate(REQUEST, chooser))
    (paths.requests / "r1.json").write_bytes(damage(content, chooser) if chooser.random() < 0.3 else content)
    paths.epoch_journal(1).write_bytes(b"".join(encode(line) + b"\n" for line in JOURNAL))
    requests, errors = read_requests(paths)
    assert len(requests) + len(errors) == 1
    read_and_show(paths, requests)


def try_status(paths, chooser):
    content = encode(mutate(STATUS, chooser))
    paths.status_json.write_bytes(damage(content, chooser) if chooser.random() < 0.3 else content)
    with contextlib.suppress(ValueError):
        read_liveness(paths.status_json, NOW)
    health = check_liveness(paths, NOW)
    if health.document is not None:
        assert render_status(health.document, NOW).encode()


TRIES = (try_journal, try_request, try_status)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    paths = StatePaths(tmp_path_factory.mktemp("state"))
    paths.journal.mkdir()
    paths.requests.mkdir()
    return paths


@pytest.fixture(scope="module", autouse=True)
def status(paths):
    paths.epoch_journal(1).write_bytes(b"".join(encode(line) + b"\n" for line in JOURNAL))
    STATUS.update(make_status(read_and_show(paths), make_config(paths.state)))


STATUS = {}


def test_the_unmutated_journal_is_understood(paths):
    paths.epoch_journal(1).write_bytes(b"".join(encode(line) + b"\n" for line in JOURNAL))
    found = read_and_show(paths)
    assert (len(found.records), found.warnings) == (4, [])
    assert {line["event"] for line in JOURNAL} == set(event_parsing.EVENT_TYPES)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("attempt", TRIES)
def test_a_mutated_document_is_one_warning_and_no_exception(paths, attempt, seed):
    attempt(paths, random.Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize("attempt", TRIES)
def test_twenty_thousand_mutated_documents(paths, attempt):
    for seed in range(20_000):
        attempt(paths, random.Random(seed))
