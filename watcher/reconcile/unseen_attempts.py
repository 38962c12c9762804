"""Attempts that this watcher's queue cannot list: of another user, cluster, executor or machine. Pure.

The queue's silence says nothing of them. Files do: valid results, an exit record, signs of life. Such an attempt is never
taken for vanished, and nothing is submitted in its place before it ended or a person gave it up.
"""

from suites.common.errors import ExitCode
from suites.common.formatting import format_local_time
from suites.contract.exit_record import ExitRecord
from watcher.core import events
from watcher.core.actions import AbandonAttempt, Skip
from watcher.core.evaluation import IN_FLIGHT_STATES, Attempt, EvaluationRecord
from watcher.core.snapshot import AttemptFiles, LifeSign, Snapshot, find_blind_spot, find_job

QUIET_SECONDS = 3600.0
"""Seconds without any sign of such an attempt after which a person is told."""


def get_fresh_sign(attempt: Attempt, attempt_files: AttemptFiles, snapshot: Snapshot) -> LifeSign | None:
    """A sign that this attempt is at work now."""
    sign = attempt_files.life_sign
    is_of_attempt = sign is not None and sign.run_id == attempt.run_id
    return sign if sign is not None and is_of_attempt and sign.is_fresh(snapshot.server_now) else None


def is_final_end(attempt: Attempt, last_exit: ExitRecord) -> bool:
    """Whether no requeue can follow this exit record.

    Slurm requeues what it preempts or takes off a node, which ends by a signal or as temporary.
    """
    is_local = attempt.owner is not None and attempt.owner.executor == "local"
    return is_local or (last_exit.signal is None and last_exit.code != ExitCode.TEMPORARY)


def find_unseen(record: EvaluationRecord, snapshot: Snapshot) -> str:
    """Whose the job of an attempt in flight is, and why it is not seen here.

    Empty where the queue lists it, or would list it.
    """
    attempt = record.attempt
    if record.state not in IN_FLIGHT_STATES or attempt is None or find_job(attempt, snapshot.queue) is not None:
        return ""
    blind_spot = find_blind_spot(attempt, snapshot.queue)
    return f"{attempt.describe_job()} cannot be seen here: {blind_spot}" if blind_spot else ""


def give_up_unseen(record: EvaluationRecord, snapshot: Snapshot, requester: str) -> AbandonAttempt | None:
    """Give such an attempt up by a person's word; None for any other attempt."""
    attempt, unseen = record.attempt, find_unseen(record, snapshot)
    if attempt is None or not unseen:
        return None
    news = _describe_news(attempt, snapshot.attempts.get(attempt.run_id, AttemptFiles()))
    event = events.Pending(
        evaluation=record.key,
        run_id=attempt.run_id,
        reason=f"retry --force{requester}: {unseen}; {news}",
        fresh=True,
        requested=True,
        abandons_attempt=True,
    )
    return AbandonAttempt(key=record.key, run_id=attempt.run_id, next_event=event, by_person=True)


def wait_for_owner(record: EvaluationRecord, attempt: Attempt, snapshot: Snapshot, *, blind_spot: str, command: str) -> Skip:
    """Leave an attempt to the watcher that can see it; say whose it is.

    ``command`` helps once it is dead.
    """
    attempt_files = snapshot.attempts.get(attempt.run_id, AttemptFiles())
    news = _describe_news(attempt, attempt_files)
    reason = f"{record.state.value}: {attempt.describe_job()} cannot be seen here: {blind_spot}; {news}"
    # In a folder that is shared on purpose this is no news before it lasts.
    is_quiet = snapshot.now - max(record.since, _get_last_sign(attempt, attempt_files)) >= QUIET_SECONDS
    return Skip(
        record.key, f"{reason}. A watcher of its owner follows it there; if it is dead, run {command}", needs_attention=is_quiet
    )


def _get_last_sign(attempt: Attempt, attempt_files: AttemptFiles) -> float:
    sign = attempt_files.life_sign
    return sign.at if sign is not None and sign.run_id == attempt.run_id else 0.0


def _describe_news(attempt: Attempt, attempt_files: AttemptFiles) -> str:
    last_sign = _get_last_sign(attempt, attempt_files)
    return f"last sign of it at {format_local_time(last_sign)}" if last_sign else "no sign of it in its results folder"
