"""Finds differences between journal, disk and queue, and proposes repairs. Pure.

What the next tick handles by itself is only reported. The rest is amended in the journal, through a request that the
watcher answers. Files are removed and jobs cancelled only while no watcher runs.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from suites.contract.job_owner import JobOwner
from watcher.audit.disk_scan import AttemptFolder, CheckpointState, LeftoverFile, TierDefinitions, TierFileState
from watcher.core import events
from watcher.core.evaluation import IN_FLIGHT_STATES, EvaluationRecord, EvaluationState
from watcher.core.events import JournalEvent
from watcher.core.executor import Job
from watcher.core.request_types import Amendment


class ObservedState(msgspec.Struct, frozen=True, kw_only=True):
    """Disk and queue, with the journal ignored."""

    now: float
    results: Mapping[str, Mapping[str, TierFileState]]
    """Evaluation -> tier -> its file, for every folder of results."""
    checkpoint_states: Mapping[str, CheckpointState]
    """Checkpoint folder -> what it holds now."""
    result_folders: Mapping[str, str]
    """Evaluation -> the results folder of its tier files."""
    scores: Mapping[str, Mapping[str, float]]
    """Evaluation -> headlines of its tier files."""
    tiers: Mapping[str, TierDefinitions]
    """Stage -> its current suites."""
    attempts: Mapping[str, AttemptFolder]
    jobs: Mapping[str, Job] | None
    """By name; None: the queue is unreachable, and jobs are not compared."""
    queue_owner: JobOwner | None = None
    """Whose jobs the queue lists; None where it is unreachable."""
    leftovers: tuple[LeftoverFile, ...] = ()
    invalid_requests: tuple[str, ...] = ()
    grace_seconds: float = 0.0
    """Seconds in which a running watcher may notice a change by itself."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One difference and its repair.

    At most one of the last three fields is set; none: it is only reported.
    """

    key: str
    journal_state: str
    observed: str
    repair: str
    amendment: Amendment | None = None
    path_to_remove: Path | None = None
    job_to_cancel: Job | None = None
    is_left_to_watcher: bool = False
    """The next tick handles it, and nobody needs to do anything."""


def report_only(key: str, journal_state: str, observed: str, repair: str) -> Difference:
    """A difference that a person judges."""
    return Difference(key=key, journal_state=journal_state, observed=observed, repair=repair)


def leave_to_watcher(key: str, journal_state: str, observed: str, effect: str = "handles it") -> Difference:
    """A difference that the next tick handles."""
    repair = f"none needed: the next tick {effect}"
    return Difference(key=key, journal_state=journal_state, observed=observed, repair=repair, is_left_to_watcher=True)


def check_evaluation(record: EvaluationRecord, observed: ObservedState) -> Difference | None:
    """The difference between a record and what disk and queue show."""
    if record.state in IN_FLIGHT_STATES:
        return _check_in_flight(record, observed)
    # Scores are judged by the suites that they were made with, and all else by today's.
    required_tiers = (
        set(record.suites)
        if record.state in {EvaluationState.SCORED, EvaluationState.LOST}
        else set(observed.tiers.get(record.stage, {}))
    )
    tier_files = observed.results.get(record.key, {})
    is_valid, disk_state = check_tier_files(tier_files, required_tiers)
    checkpoint = observed.checkpoint_states[record.inspected]
    if record.state is EvaluationState.SCORED:
        return _check_scored(record, tier_files, checkpoint, observed, is_valid=is_valid, disk_state=disk_state)
    if not is_valid:
        return None
    fingerprint = next(iter(tier_files.values())).fingerprint
    if record.state is EvaluationState.LOST:
        if fingerprint != record.fingerprint:
            return None
        return _propose_amendment(
            record, f"{disk_state}: its results are back", events.ResultsLocated(reason="audit: its results are back")
        )
    current_tiers = observed.tiers.get(record.stage, {})
    if any(tier_file.digest != current_tiers[tier].digest for tier, tier_file in tier_files.items() if tier in current_tiers):
        return None  # scores of earlier suites, so a new score is right
    if (
        # Only results of today's content count, or those of a deleted checkpoint.
        not (checkpoint.is_deleted or checkpoint.fingerprint == fingerprint)
        or observed.now - record.since < observed.grace_seconds
    ):
        return None
    message = f"{disk_state}{', and the checkpoint is gone' if checkpoint.is_deleted else ''}"
    return _propose_amendment(record, message, make_audit_scored_event(record.key, tier_files, checkpoint, observed))


def check_tier_files(tier_files: Mapping[str, TierFileState], required_tiers: set[str]) -> tuple[bool, str]:
    """Whether ``required_tiers`` are valid and of one content, and why not."""
    if not tier_files:
        return False, "no results"
    invalid = next(
        (
            f"{tier} is {tier_file.kind} ({tier_file.reason})"
            for tier, tier_file in tier_files.items()
            if tier_file.kind != "valid"
        ),
        "",
    )
    # Required are only the tiers of the record: others may belong to suites that came later.
    missing = sorted(required_tiers - set(tier_files))
    if invalid or missing:
        return False, invalid or f"no {missing[0]}"
    if len({tier_file.fingerprint for tier_file in tier_files.values()}) != 1:
        return False, "results of two checkpoint contents"
    return True, f"valid results of {next(iter(tier_files.values())).fingerprint[:12]}"


def _check_scored(
    record: EvaluationRecord,
    tier_files: Mapping[str, TierFileState],
    checkpoint: CheckpointState,
    observed: ObservedState,
    *,
    is_valid: bool,
    disk_state: str,
) -> Difference | None:
    def amend_as_lost(message: str) -> Difference:
        reason = f"audit: {message}. Run watcher retry --force to score it again"
        return _propose_amendment(record, message, events.Lost(reason=reason))

    if not is_valid:
        return amend_as_lost(disk_state)
    fingerprint = next(iter(tier_files.values())).fingerprint
    if fingerprint != record.fingerprint:
        # A job scored the rewritten checkpoint, and its event was lost.
        if checkpoint.fingerprint == fingerprint:
            return _propose_amendment(
                record,
                f"{disk_state}, which is the checkpoint's",
                make_audit_scored_event(record.key, tier_files, checkpoint, observed),
            )
        return amend_as_lost(f"results of another content ({fingerprint[:12]}, not {str(record.fingerprint)[:12]})")
    # The files are the truth: the journal must name the suites that they were made with.
    if any(tier_file.digest != record.suites[tier] for tier, tier_file in tier_files.items() if tier in record.suites):
        return _propose_amendment(
            record, f"{disk_state}, by other suites", make_audit_scored_event(record.key, tier_files, checkpoint, observed)
        )
    # A rewrite that the watcher did not notice: the scores belong to content that is gone.
    if checkpoint.fingerprint not in {None, fingerprint}:
        message = f"{disk_state}, but the checkpoint was rewritten ({str(checkpoint.fingerprint)[:12]})"
        pending = events.Pending(reason="audit: the checkpoint was rewritten", fresh=True)
        return _propose_amendment(record, message, pending)
    return None


def make_audit_scored_event(
    key: str, tier_files: Mapping[str, TierFileState], checkpoint: CheckpointState, observed: ObservedState
) -> events.Scored:
    """The event that journals valid results on disk."""
    return events.Scored(
        mtimes=checkpoint.mtimes,
        fingerprint=next(iter(tier_files.values())).fingerprint,
        suites={tier: tier_file.digest for tier, tier_file in tier_files.items()},
        scores=dict(observed.scores.get(key, {})),
        results=observed.result_folders[key],
        reason="audit: valid results are there",
    )


def _propose_amendment(record: EvaluationRecord, message: str, event: JournalEvent) -> Difference:
    # State and time travel with the events, so the watcher drops them if the record changed meanwhile.
    documents = (msgspec.to_builtins(event),)
    amendment = Amendment(key=record.key, state=record.state.value, since=record.since, events=documents)
    repairs = {events.ResultsLocated: "journal it as scored", events.Pending: "score it again"}
    repair = repairs.get(type(event), f"journal it as {event.name}")
    return Difference(
        key=record.key, journal_state=_describe_record(record), observed=f"disk: {message}", repair=repair, amendment=amendment
    )


def _describe_record(record: EvaluationRecord) -> str:
    job = record.attempt.job_id if record.attempt is not None and record.state in IN_FLIGHT_STATES else None
    return record.state.value + (f", job {job}" if job else "")


def _check_in_flight(record: EvaluationRecord, observed: ObservedState) -> Difference | None:
    attempt = record.attempt
    # Events of a running watcher may be a poll behind disk and queue.
    if attempt is None or observed.now - record.since < observed.grace_seconds:
        return None
    job = None if observed.jobs is None else observed.jobs.get(attempt.run_id)
    attempt_folder = observed.attempts.get(attempt.run_id)
    if job is not None and not job.state.is_terminal:
        # Without its request the job can only fail.
        if attempt_folder is None:
            message = (
                f"queue: job {job.job_id} is {job.raw_state}; disk: its folder {attempt.run_id} is gone, so the job cannot score"
            )
            return leave_to_watcher(record.key, _describe_record(record), message, "handles its end")
        return None
    is_valid, disk_state = check_tier_files(observed.results.get(record.key, {}), set(attempt.suites))
    has_ended = attempt_folder is not None and bool(attempt_folder.exit_records)
    outcome = "no end recorded" if attempt_folder is None else attempt_folder.outcome
    message = f"{'its run ' if has_ended else ''}{outcome}, {disk_state}"
    if job is not None:
        queue_state = f"queue: job {job.job_id} is {job.raw_state}"
    elif observed.jobs is None:
        if not has_ended and not is_valid:
            return None  # nothing is known
        queue_state = "queue: unreachable"
    elif observed.queue_owner is not None and (blind_spot := observed.queue_owner.find_blind_spot(attempt.owner)):
        if not has_ended and not is_valid:
            return None  # this queue could not list it
        queue_state = f"queue: {attempt.describe_job()} cannot be seen here: {blind_spot}"
    else:
        queue_state = f"queue: no job {attempt.run_id}"
    return leave_to_watcher(record.key, _describe_record(record), f"{queue_state}; disk: {message}")
