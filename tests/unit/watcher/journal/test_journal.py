"""The journal: what was appended is what is read, whatever was torn, damaged, or written by a newer watcher."""

import errno
import json
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suites.contract.paths import StatePaths
from watcher.core import event_parsing, events
from watcher.core.evaluation import EvaluationState
from watcher.journal import journal as ledger
from watcher.journal.journal import Journal, JournalSuperseded, read_journal
from watcher.journal.replay import JournalState, apply_event, replay

CREATED = {
    "event": "created",
    "evaluation": "stage1/step_1",
    "stage": "stage1",
    "source": "stage1",
    "step": 1,
    "directory": "step_1",
    "origin": "schedule",
    "checkpoint": "/c/1",
}
ATTEMPT = {"run_id": "eval-1", "number": 1, "fingerprint": "f", "suites": {"tier2_ppl": "d"}, "intended": 5.0}


@pytest.fixture
def paths(tmp_path):
    return StatePaths(tmp_path)


def owned(journal, step=1):
    fields = {"evaluation": f"stage1/step_{step}", "step": step, "directory": f"step_{step}"}
    journal.append(event_parsing.parse_event({**CREATED, **fields}), t=1.0)


def test_what_was_appended_is_what_the_next_watcher_reads(paths):
    first = Journal.open(paths)
    owned(first)
    first.append(events.Waiting(evaluation="stage1/step_1", reason="waiting for checkpoint"), t=2.0)
    second = Journal.open(paths)
    assert second.state.records == first.state.records
    assert (first.epoch, second.epoch) == (1, 2)
    assert second.state.records["stage1/step_1"].reason == "waiting for checkpoint"
    first.close()
    second.close()


def test_an_epoch_in_which_nothing_happened_leaves_no_file(paths):
    for _ in range(3):
        journal = Journal.open(paths)
        journal.append(events.Opened(host="h", pid=1), t=1.0)
        journal.close()
    assert list(paths.journal.iterdir()) == []
    journal = Journal.open(paths)
    owned(journal)
    journal.close()
    assert [path.name for path in paths.journal.iterdir()] == ["00000001.jsonl"]


def test_two_watchers_never_get_the_same_epoch(paths):
    journals = [Journal.open(paths) for _ in range(5)]
    assert [journal.epoch for journal in journals] == [1, 2, 3, 4, 5]
    assert [journal.is_superseded() for journal in journals] == [True] * 4 + [False]
    journals[-1].fence()
    with pytest.raises(JournalSuperseded, match="a newer watcher has taken over from epoch 1"):
        journals[0].fence()
    for journal in journals:
        journal.close()


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_torn_last_line_is_left_out_and_the_next_record_is_not_swallowed(paths, kept):
    first = Journal.open(paths)
    owned(first, 1)
    size = paths.epoch_journal(1).stat().st_size
    owned(first, 2)
    first.close()
    os.truncate(paths.epoch_journal(1), size + kept)
    second = Journal.open(paths)
    assert list(second.state.records) == ["stage1/step_1"]
    assert "ends in the middle of a line" in second.state.warnings[0]
    owned(second, 3)
    second.close()
    assert list(read_journal(paths).records) == ["stage1/step_1", "stage1/step_3"]


def test_a_damaged_line_in_the_middle_is_quarantined_and_said(paths):
    first = Journal.open(paths)
    for step in (1, 2, 3):
        owned(first, step)
    first.close()
    lines = paths.epoch_journal(1).read_bytes().split(b"\n")
    lines[1] = b"\x00" * 40
    paths.epoch_journal(1).write_bytes(b"\n".join(lines))
    second = Journal.open(paths)
    assert list(second.state.records) == ["stage1/step_1", "stage1/step_3"]
    assert (paths.journal / "quarantine.00000001.2").read_bytes() == b"\x00" * 40
    assert any("line 2 of 00000001.jsonl is damaged" in note for note in second.state.warnings)
    assert any("lacks 1 events" in note for note in second.state.warnings)
    second.close()


def test_a_reader_beside_a_writing_watcher_sees_whole_lines_only(paths):
    journal = Journal.open(paths)
    owned(journal)
    with paths.epoch_journal(1).open("ab") as file:
        file.write(b'{"schema":1,"seq":1,"ev')
    found = read_journal(paths)
    assert list(found.records) == ["stage1/step_1"]
    assert not found.warnings
    assert not list(paths.journal.glob("quarantine*"))
    journal.close()


def test_one_unknown_field_or_event_does_not_keep_the_watcher_from_starting(paths):
    paths.journal.mkdir(parents=True)
    documents = [
        {**CREATED, "t": 1.0, "colour": "red"},
        {"event": "painted", "evaluation": "stage1/step_1", "t": 2.0, "by": "a newer one"},
        {"event": "flag", "t": 2.0},
        {"event": "waiting", "evaluation": "stage1/step_1", "t": 3.0, "reason": "r", "hue": 7},
    ]
    paths.epoch_journal(1).write_text("".join(json.dumps(event) + "\n" for event in documents))
    record = read_journal(paths).records["stage1/step_1"]
    assert record.state is EvaluationState.WAITING
    assert record.extra == {"colour": "red", "painted": {"by": "a newer one"}}


def test_an_event_about_nothing_known_or_without_its_fields_is_noted(paths):
    paths.journal.mkdir(parents=True)
    documents = [
        {"event": "waiting", "evaluation": "stage1/step_9", "t": 3.0},
        {**CREATED, "t": 1.0},
        {"event": "ready", "evaluation": "stage1/step_1", "t": 2.0},
    ]
    paths.epoch_journal(1).write_text("".join(json.dumps(event) + "\n" for event in documents))
    found = read_journal(paths)
    assert found.records["stage1/step_1"].state is EvaluationState.PENDING
    assert len(found.warnings) == 2


@pytest.mark.parametrize("written", [0, 1, 30])
def test_a_full_disk_leaves_nothing_folded_and_the_next_line_whole(paths, monkeypatch, written):
    journal = Journal.open(paths)
    owned(journal, 1)
    real = os.write

    def full(fd, data):
        real(fd, bytes(data)[:written])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        owned(journal, 2)
    assert list(journal.state.records) == ["stage1/step_1"]
    monkeypatch.setattr(ledger.os, "write", real)
    owned(journal, 3)
    journal.close()
    found = read_journal(paths)
    assert list(found.records) == ["stage1/step_1", "stage1/step_3"]
    assert not found.warnings


def test_a_submitted_job_survives_the_loss_of_its_intent():
    found = JournalState()
    submitted = {"event": "submitted", "evaluation": "stage1/step_1", "run_id": "eval-1", "job_id": "7", "attempt": ATTEMPT}
    for event in ({**CREATED, "t": 1.0}, {**submitted, "t": 6.0}):
        replay(found, event)
    record = found.records["stage1/step_1"]
    assert (record.state, record.attempt.job_id, record.attempts) == (EvaluationState.QUEUED, "7", 1)


def test_news_of_an_older_attempt_changes_nothing():
    found = JournalState()
    newer = {**ATTEMPT, "run_id": "eval-2", "number": 2}
    for event in (
        {**CREATED, "t": 1.0},
        {"event": "intended", "evaluation": "stage1/step_1", "t": 2.0, "run_id": "eval-1", "attempt": ATTEMPT},
        {"event": "intended", "evaluation": "stage1/step_1", "t": 3.0, "run_id": "eval-2", "attempt": newer},
        {
            "event": "failed",
            "evaluation": "stage1/step_1",
            "t": 4.0,
            "run_id": "eval-1",
            "failure_kind": "exit",
            "reason": "late",
        },
    ):
        replay(found, event)
    record = found.records["stage1/step_1"]
    assert (record.state, record.attempt.run_id, record.failures) == (EvaluationState.SUBMITTING, "eval-2", {})


KINDS = [*event_parsing.EVENT_TYPES, "new"]
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "event": st.sampled_from(KINDS),
            "t": st.floats(0, 1e9),
            "reason": st.sampled_from(["", "a", "b"]),
            "run_id": st.sampled_from(["eval-1", "eval-2"]),
            "failure_kind": st.sampled_from(["exit", "timeout"]),
        }
    ),
    max_size=40,
)


OTHERS = {"host": "h", "pid": 1, "copy": "c", "pin": {"fingerprint": "f"}, "facts": {}, "id": "i", "level": 0.01}
OTHERS |= {"usage": {"gpu_seconds": 2.0, "run_seconds": 1.0, "source": "accounting"}}
OTHERS |= {"plan": {"planned_count": 2, "steps": [1, 2]}}


def complete(event):
    attempt = {**ATTEMPT, "run_id": event["run_id"], "number": 1 if event["run_id"] == "eval-1" else 2}
    more = {
        "fingerprint": "f",
        "suites": {},
        "job_id": "7",
        "attempt": attempt,
        "mtimes": "1-2-3-4",
        "checkpoint": "/c/1",
        **OTHERS,
    }
    return {**CREATED, **more, **event, "evaluation": "stage1/step_1"}


@settings(max_examples=200, deadline=None)
@given(EVENTS)
def test_the_fold_is_a_function_of_the_events_alone(documents):
    record = None
    for event in map(complete, documents):
        before = msgspec.json.encode(record)
        after = apply_event(record, event_parsing.parse_event(event), event["t"])
        assert msgspec.json.encode(record) == before, "fold changed its argument"
        copy = json.loads(json.dumps(event))
        assert after == apply_event(record, event_parsing.parse_event(copy), copy["t"])
        if after is not None:
            assert len(after.history) <= 50
            assert after.history[-1][1:] == (after.state.value, after.full_reason)
            assert after.attempt is None or after.attempts >= after.attempt.number
        record = after


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.data())
def test_any_prefix_of_the_journal_can_be_read(documents, data):
    raw = b"".join(msgspec.json.encode(complete(event)) + b"\n" for event in documents)
    cut = data.draw(st.integers(0, len(raw)))
    lines = raw[:cut].split(b"\n")[:-1]
    found = JournalState()
    for line in lines:
        replay(found, msgspec.json.decode(line))
    assert found.event_count == len(lines)
