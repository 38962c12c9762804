"""Constructors of journal events that several modules use."""

import time
import types
from collections.abc import Mapping
from typing import Any

from suites.checkpoint.completeness import Completeness, Inspection
from watcher.config.settings import Stage
from watcher.core.actions import Note, SetAside, Skip
from watcher.core.evaluation import Attempt, Record, State
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import Results


def scored(record: Record, fingerprint: str, suites: Mapping[str, str], results: Results, **fields: object) -> Note:
    """The end that everything is for. ``suites``: tier -> digest of what was asked for; ``fields``: ``place``, their folder."""
    said = {"fingerprint": fingerprint, "suites": {**record.suites, **suites}, "scores": results.scores, **fields}
    return Note(event="scored", key=record.key, fields=said)


def adopt(record: Record, attempt: Attempt, job: Job, reason: str) -> Note:
    """A job that exists although the journal was not sure of it."""
    return Note(
        event="adopted",
        key=record.key,
        fields={
            "run_id": attempt.run_id,
            "job_id": job.job_id,
            "submit_time": job.submit_time,
            "released": job.state is not JobState.HELD,
            "attempt": attempt,
            "reason": reason,
        },
    )


_NOTHING: Mapping[str, Any] = types.MappingProxyType({})

_ASK_A_PERSON = frozenset({Completeness.INTERRUPTED, Completeness.UNSCORABLE, Completeness.UNREADABLE})


def _ask_a_person(record: Record, seen: Inspection) -> Note:
    """A checkpoint that only a person can judge."""
    fields = {"reason": f"checkpoint: {seen.why}", "reason_kind": ReasonKind.CHECKPOINT}
    if seen.kind is Completeness.INTERRUPTED:
        fields["hint"] = "enqueue --force takes it as it is"
    return Note(event="blocked", key=record.key, fields=fields)


def set_aside(record: Record, stage: Stage, labels: dict[str, str], reason: str) -> SetAside:
    """Move an evaluation's tier files away; ``labels``: tier -> what to keep it under."""
    return SetAside(
        key=record.key,
        results=str(stage.results),
        stage=record.stage,
        directory=record.directory,
        tiers=labels,
        reason=reason,
    )


def _owed(record: Record, reason: str) -> Note:
    return Note(event="owed", key=record.key, fields={"reason": reason, "fresh": True})


def _wait(
    record: Record,
    reason: str,
    detail: str | None = None,
    *,
    kind: ReasonKind = ReasonKind.OTHER,
    whole: Mapping[str, Any] = _NOTHING,
    deleted: bool = False,
    loud: bool = False,
) -> Note | Skip:
    """Wait with ``reason``; once it is journaled, a Skip with what is to be said today. ``whole``: what a whole checkpoint is."""
    fields: dict[str, Any] = {**whole, "reason": reason, "reason_kind": kind}
    if deleted:
        fields["deleted"] = True
    note = Note(event="waiting", key=record.key, fields=fields)
    journaled = record.state is State.WAITING and note.reason_fields == record.reason_fields
    if journaled and whole.get("fingerprint") in {None, record.fingerprint}:
        return Skip(record.key, detail or reason, loud=loud, repeats=detail is None)
    return note


def put_off(record: Record, reason: str, kind: ReasonKind) -> Note | None:
    """A submission that could not be made: no failure. None where that is journaled already: a limit may last for weeks."""
    waiting = _wait(record, reason, kind=kind)
    return waiting if isinstance(waiting, Note) else None


def clock(t: float) -> str:
    """A unix time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(t))
