"""Whose an attempt and an evaluation's results are: void claims, and runs at work."""

import socket

from suites.common.atomic_files import create_once
from suites.common.documents import DamagedDocument, read_line
from suites.contract.job_owner import JobOwner
from suites.contract.paths import AttemptPaths, EvaluationPaths, StatePaths
from watcher.core.evaluation import EvaluationRecord
from watcher.journal.replay import JournalState
from watcher.observe.life_signs import find_other_run


def void_claim(attempt_paths: AttemptPaths, epoch: int, *, by_person: bool) -> bool:
    """Make sure that an attempt never starts; False where it may have started.

    The batch script creates the same file first. A person's word counts even where the attempt was claimed. OSError where the
    folder cannot be written.
    """
    try:
        attempt_paths.folder.mkdir(parents=True, exist_ok=True)
        if create_once(attempt_paths.claim, f"void: given up by epoch {epoch} on {socket.gethostname()}\n"):
            return True
        # By a watcher that was killed before journaling it.
        return read_line(attempt_paths.claim).startswith("void") or by_person
    except (OSError, DamagedDocument):
        # A folder of another user may not be writable, and the person says that nobody runs it.
        if not by_person:
            raise
        return True


def retire_unseen_attempt(record: EvaluationRecord, state: StatePaths, me: JobOwner, epoch: int) -> None:
    """Void the claim of an earlier attempt whose job our queue cannot list, if it never began.

    A person may have cancelled it where nobody saw its job: it could begin beside the new one.
    """
    earlier = record.attempt
    if earlier is not None and me.find_blind_spot(earlier.owner):
        void_claim(state.attempt(earlier.run_id), epoch, by_person=True)


def describe_occupant(
    record: EvaluationRecord,
    results: EvaluationPaths,
    state: StatePaths,
    journal_state: JournalState,
    *,
    me: JobOwner,
    server_now: float,
) -> str:
    """The run that works on these results although nothing of it is in flight; empty for none.

    It is a run of a state folder that was deleted, of another one, started by hand, or cancelled where its owner did not see it.
    ``me``: whose queue this watcher asks. ``server_now``: by the file server's clock.
    """
    sign = find_other_run(results, state, server_now)
    if sign is None or sign.run_id in journal_state.abandoned:
        return ""
    # The newest attempt is known to have ended, where our queue could have listed it.
    newest = record.attempt
    if newest is not None and sign.run_id == newest.run_id and not me.find_blind_spot(newest.owner):
        return ""
    return f"{sign} works on these results, and nothing of it is in flight here; waiting for its end"
