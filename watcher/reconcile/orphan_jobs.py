"""Jobs of ours in the queue that no evaluation in flight stands for. Pure.

They come from a watcher that was killed or frozen between submitting and recording, from a damaged journal, or
from a person's cancel. What runs is adopted where its evaluation has nothing else in flight; the rest is cancelled.
"""

from watcher.core.actions import Action, Cancel, Skip
from watcher.core.evaluation import IN_FLIGHT, Attempt, Record, State
from watcher.core.executor import Job, JobState
from watcher.core.snapshot import World
from watcher.journal.replay import Ledger
from watcher.reconcile.journal_events import adopt


def strays(world: World, ledger: Ledger, comment: str) -> list[Action | Skip]:
    """What is done about each."""
    if world.queue is None or world.queue.jobs is None:
        return []
    owners = {record.attempt.run_id: record for record in ledger.everything() if record.attempt is not None}
    found: list[Action | Skip] = []
    for name, job in world.queue.jobs.items():
        if job.comment != comment or job.state.over:
            continue
        owner = owners.get(name)
        if owner is None:
            found.append(_stranger(name, job, world, ledger))
        elif owner.state not in IN_FLIGHT:
            more = _left_over(owner, job, ledger)
            found += [] if more is None else [more]
    return found


def _left_over(record: Record, job: Job, ledger: Ledger) -> Action | Skip | None:
    """The newest attempt of an evaluation that is not in flight any more, yet its job lives."""
    if record.state in {State.SCORED, State.LOST} or job.state is JobState.COMPLETING or record.attempt is None:
        return None  # on its way out
    if record.state is State.CANCELLED:
        return Cancel(key=record.key, job=job, reason="its evaluation was cancelled")
    if job.name in ledger.voided:
        return Cancel(key=record.key, job=job, reason="it was given up before it could be found")
    if record.state is State.BLOCKED and (job.state is JobState.HELD or job.stuck):
        return Cancel(key=record.key, job=job, reason="its evaluation is blocked")
    return adopt(record, record.attempt, job, f"job {job.job_id} is there again")


def _stranger(name: str, job: Job, world: World, ledger: Ledger) -> Action | Skip:
    """A job of ours that the journal does not know."""
    request = world.strangers.get(name)
    record = None if request is None else ledger.of(request.evaluation).get(request.evaluation)
    key = name if record is None else record.key
    if name in ledger.voided:
        return Cancel(key=key, job=job, reason="it was given up before it could be found")
    if job.state is JobState.HELD:
        return Cancel(key=key, job=job, reason="held, and the journal does not know it")
    if record is not None and record.state in IN_FLIGHT:
        return Cancel(key=key, job=job, reason="another attempt of this evaluation is in flight")
    if request is None or record is None or record.state in {State.SCORED, State.LOST, State.CANCELLED}:
        return Skip(key, f"job {job.job_id} carries our mark, but the journal does not know it; left alone")
    attempt = Attempt(
        run_id=name,
        number=record.attempts + 1,
        fingerprint=request.fingerprint,
        suites={suite.tier: suite.digest for suite in request.suites},
        intended=job.submit_time or world.now,
        tasks=request.tasks,
        results=request.results,
    )
    return adopt(record, attempt, job, f"job {job.job_id} is of this evaluation, although the journal lost it")
