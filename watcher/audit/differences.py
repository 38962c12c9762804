"""The journal against disk and queue: every difference with what a repair would do. Pure.

What the next tick of a watcher sees to by itself is told as such and left to it. The rest is amended in the journal,
through a request that the watcher answers; files are removed and jobs cancelled only while no watcher runs.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from watcher.audit.disk_scan import AttemptFound, Content, LeftOver, Tiers, TierSeen
from watcher.config.settings import Config
from watcher.core.actions import Cancel, Note
from watcher.core.evaluation import IN_FLIGHT, Record, State
from watcher.core.executor import Job
from watcher.core.request_types import Amendment
from watcher.core.snapshot import QueueSeen, World
from watcher.journal.replay import Ledger
from watcher.reconcile.orphan_jobs import strays
from watcher.reconcile.schedule import Wanted, directory

NEXT_TICK = "none needed: the watcher's next tick sees it"

YOUNG = 3600.0
"""Seconds in which an attempt's folder may be one that is just being submitted."""


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """Disk and queue, with the journal ignored."""

    now: float
    results: Mapping[str, Mapping[str, TierSeen]]
    """Evaluation -> tier -> its file, for every folder of results."""
    contents: Mapping[str, Content]
    """Checkpoint folder -> what it holds now."""
    places: Mapping[str, str]
    """Evaluation -> the results folder that they lie in."""
    scores: Mapping[str, Mapping[str, float]]
    """Evaluation -> headlines of its tier files."""
    tiers: Mapping[str, Tiers]
    """Stage -> what its suites are today."""
    attempts: Mapping[str, AttemptFound]
    jobs: Mapping[str, Job] | None
    """By name; None: the queue cannot be asked, and nothing is said about jobs."""
    left_over: tuple[LeftOver, ...] = ()
    wrong_requests: tuple[str, ...] = ()
    patience: float = 0.0
    """Seconds that a running watcher is given to see something itself."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. At most one of the last three is set; none: nothing is done about it here."""

    key: str
    journal: str
    truth: str
    repair: str
    amendment: Amendment | None = None
    remove: Path | None = None
    cancel: Job | None = None


def differences(truth: Truth, ledger: Ledger, known_runs: frozenset[str], config: Config, comment: str) -> list[Finding]:
    """All of them, evaluations first. ``known_runs``: every attempt that the journal mentions; ``comment`` marks our jobs."""
    found: list[Finding] = []
    for record in ledger.records.values():
        finding = _evaluation(record, truth)
        if finding is not None:
            found.append(finding)
    found += [finding for key in truth.results if (finding := _unknown(key, truth, ledger, config)) is not None]
    found += _jobs(truth, ledger, comment)
    found += _attempts(truth, known_runs)
    found += [_left_over(item) for item in truth.left_over]
    found += [_finding("requests", "not read", words, "none: remove it yourself") for words in truth.wrong_requests]
    return found


def _finding(key: str, journal: str, words: str, repair: str) -> Finding:
    """One that nothing is done about here."""
    return Finding(key=key, journal=journal, truth=words, repair=repair)


def _left_over(item: LeftOver) -> Finding:
    said = "nothing of it is being scored"
    return Finding(key=item.key, journal=said, truth=f"disk: {item.path}: {item.words}", repair="remove it", remove=item.path)


def _evaluation(record: Record, truth: Truth) -> Finding | None:
    if record.state in IN_FLIGHT:
        return _in_flight(record, truth)
    wanted = set(record.suites) if record.state in {State.SCORED, State.LOST} else set(truth.tiers.get(record.stage, {}))
    files = truth.results.get(record.key, {})
    good, disk = _judge(files, wanted)
    now = truth.contents[record.checkpoint]
    if record.state is State.SCORED:
        return _scored(record, files, now, truth, good=good, disk=disk)
    if not good:
        return None
    fingerprint = next(iter(files.values())).fingerprint
    if record.state is State.LOST:
        if fingerprint != record.fingerprint:
            return None
        return _amend(record, f"{disk}: its results are back", "found", {"reason": "audit: its results are back"})
    today = truth.tiers.get(record.stage, {})
    if any(seen.digest != today[tier].digest for tier, seen in files.items() if tier in today):
        return None  # scores by suites of before: that more is owed is right
    if not (now.gone or now.fingerprint == fingerprint) or truth.now - record.since < truth.patience:
        return None
    words = f"{disk}{', and the checkpoint is gone' if now.gone else ''}"
    return _amend(record, words, "scored", _scores(record.key, files, now, truth))


def _judge(files: Mapping[str, TierSeen], wanted: set[str]) -> tuple[bool, str]:
    """Whether the tier files that are ``wanted`` are whole and of one content, and that in words."""
    if not files:
        return False, "no results"
    bad = next((f"{tier} is {seen.kind} ({seen.why})" for tier, seen in files.items() if seen.kind != "valid"), "")
    missing = sorted(wanted - set(files))
    if bad or missing:
        return False, bad or f"no {missing[0]}"
    if len({seen.fingerprint for seen in files.values()}) != 1:
        return False, "results of two contents of the checkpoint"
    return True, f"valid results of {next(iter(files.values())).fingerprint[:12]}"


def _scored(
    record: Record, files: Mapping[str, TierSeen], now: Content, truth: Truth, *, good: bool, disk: str
) -> Finding | None:
    def lost(words: str) -> Finding:
        reason = f"audit: {words}; watcher retry --force scores it again"
        return _amend(record, words, "lost", {"reason": reason})

    if not good:
        return lost(disk)
    fingerprint = next(iter(files.values())).fingerprint
    if fingerprint != record.fingerprint:
        if now.fingerprint == fingerprint:
            return _amend(record, f"{disk}, which is the checkpoint's", "scored", _scores(record.key, files, now, truth))
        return lost(f"results of another content ({fingerprint[:12]}, not {str(record.fingerprint)[:12]})")
    if any(seen.digest != record.suites[tier] for tier, seen in files.items() if tier in record.suites):
        return _amend(record, f"{disk}, by other suites", "scored", _scores(record.key, files, now, truth))
    if now.fingerprint not in {None, fingerprint}:
        words = f"{disk}, but the checkpoint was rewritten ({str(now.fingerprint)[:12]})"
        return _amend(record, words, "owed", {"reason": "audit: the checkpoint was rewritten", "fresh": True})
    return None


def _scores(key: str, files: Mapping[str, TierSeen], now: Content, truth: Truth) -> dict[str, Any]:
    return {
        "markers": now.marks,
        "fingerprint": next(iter(files.values())).fingerprint,
        "suites": {tier: seen.digest for tier, seen in files.items()},
        "scores": dict(truth.scores.get(key, {})),
        "place": truth.places[key],
        "reason": "audit: valid results are there",
    }


def _amend(record: Record, words: str, event: str, fields: dict[str, Any]) -> Finding:
    amendment = Amendment(key=record.key, state=record.state.value, since=record.since, events=({"event": event, **fields},))
    repair = {"found": "journal it as scored", "owed": "have it scored anew"}.get(event, f"journal it as {event}")
    return Finding(key=record.key, journal=_said(record), truth=f"disk: {words}", repair=repair, amendment=amendment)


def _said(record: Record) -> str:
    job = record.attempt.job_id if record.attempt is not None and record.state in IN_FLIGHT else None
    return record.state.value + (f", job {job}" if job else "")


def _in_flight(record: Record, truth: Truth) -> Finding | None:
    attempt = record.attempt
    if attempt is None or truth.now - record.since < truth.patience:
        return None
    job = None if truth.jobs is None else truth.jobs.get(attempt.run_id)
    on_disk = truth.attempts.get(attempt.run_id)
    if job is not None and not job.state.over:
        if on_disk is None:
            words = f"queue: job {job.job_id} is {job.word}; disk: its folder {attempt.run_id} is gone, so it cannot score"
            return _finding(record.key, _said(record), words, "none: the watcher sees how it ends")
        return None
    good, disk = _judge(truth.results.get(record.key, {}), set(attempt.suites))
    ended = on_disk is not None and bool(on_disk.exits)
    words = f"{'its run ' if ended else ''}{on_disk.end if on_disk is not None else 'no end recorded'}, {disk}"
    if job is not None:
        queue = f"queue: job {job.job_id} is {job.word}"
    elif truth.jobs is None:
        if not ended and not good:
            return None  # nothing is known
        queue = "queue: cannot be asked"
    else:
        queue = f"queue: no job {attempt.run_id}"
    return _finding(record.key, _said(record), f"{queue}; disk: {words}", NEXT_TICK)


def _unknown(key: str, truth: Truth, ledger: Ledger, config: Config) -> Finding | None:
    """Results in a folder that the journal does not know."""
    if key in ledger.records:
        return None
    files = truth.results[key]
    if not files:
        return None
    stage_name, _, name = key.partition("/")
    good, disk = _judge(files, set())
    first = next(iter(files.values()))
    stage = config.stages[stage_name]
    said = "not known"
    if not good or first.step is None:
        return _finding(key, said, f"disk: {disk}", "none: see whose they are")
    now = truth.contents[first.checkpoint]
    want = Wanted(
        stage=stage_name, source=first.source or stage_name, step=first.step, origin="request", checkpoint=first.checkpoint
    )
    named = directory(want, stage, ledger.records) != name
    scheduled = want.source == stage_name and stage.wants(want.step) and not named
    if not now.gone:
        if scheduled:
            return _finding(key, said, f"disk: {disk}", NEXT_TICK)
        if now.fingerprint != first.fingerprint:
            return _finding(key, said, f"disk: {disk}, not the checkpoint's", "none: enqueue scores it")
    owned = {
        "event": "owned",
        "stage": stage_name,
        "source": want.source,
        "step": want.step,
        "directory": name,
        "origin": "schedule" if scheduled else "request",
        "checkpoint": want.checkpoint,
        "named": named,
        "reason": "audit: its results are on disk",
    }
    amendment = Amendment(key=key, state=None, events=(owned, {"event": "scored", **_scores(key, files, now, truth)}))
    return Finding(key=key, journal=said, truth=f"disk: {disk}", repair="journal it as scored", amendment=amendment)


def _jobs(truth: Truth, ledger: Ledger, comment: str) -> Iterator[Finding]:
    """Jobs of ours that no evaluation in flight stands for."""
    if truth.jobs is None:
        return
    requests = {run: found.request for run, found in truth.attempts.items() if found.request is not None}
    queue = QueueSeen(at=truth.now, jobs=truth.jobs)
    world = World(now=truth.now, server_now=truth.now, stages={}, plans={}, queue=queue, strangers=requests)
    owners = {record.attempt.run_id: record for record in ledger.everything() if record.attempt is not None}
    for name, job in truth.jobs.items():
        owner = owners.get(name)
        if job.comment != comment or job.state.over or (owner is not None and owner.state in IN_FLIGHT):
            continue
        request = requests.get(name)
        key = owner.key if owner is not None else request.evaluation if request is not None else name
        said = owner.state.value if owner is not None else "no such job"
        words = f"queue: job {job.job_id}, {name}, is {job.word}"
        alone = msgspec.structs.replace(world, queue=QueueSeen(at=truth.now, jobs={name: job}))
        planned = [action for action in strays(alone, ledger, comment) if isinstance(action, Note | Cancel)]
        if planned:
            what = "cancels it" if isinstance(planned[0], Cancel) else "takes it up again"
            yield _finding(key, said, words, f"none needed: the watcher's next tick {what}")
        else:
            yield Finding(key=key, journal=said, truth=words, repair="cancel it", cancel=job)


def _attempts(truth: Truth, known: frozenset[str]) -> Iterator[Finding]:
    """Folders of attempts that the journal never mentioned."""
    for run, found in truth.attempts.items():
        job = (truth.jobs or {}).get(run)
        if run in known or (job is not None and not job.state.over):
            continue
        request = found.request
        key = run if request is None else request.evaluation
        said = "no such attempt"
        if found.claim or found.tasks_ended:
            how = found.end if found.exits else f"claimed by {found.claim}, {found.end}"
            note = {"event": "left_over", "run_id": run, "reason": f"audit: attempt {run} {how}"}
            amendment = Amendment(key="", state=None, events=(note,))
            repair = "note it in the journal, and keep it"
            yield Finding(key=key, journal=said, truth=f"disk: attempt {run} {how}", repair=repair, amendment=amendment)
        elif found.age > YOUNG and truth.jobs is not None:
            yield Finding(
                key=key, journal=said, truth=f"disk: attempt {run} was never run", repair="remove it", remove=found.folder
            )
