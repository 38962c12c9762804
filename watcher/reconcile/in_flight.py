"""What becomes of an evaluation in flight. Pure.

Only valid result files mean success. Exit records and result files come before the queue, the queue before accounting;
and absence of news is no news: what nobody knows of is looked up for a while, and its claim is made void before it
is given up, so that it can never run afterwards.
"""

import msgspec

from suites.common.errors import Exit
from suites.contract.exit_record import ExitRecord
from watcher.config.settings import Config
from watcher.core.actions import Action, Note, Release, Skip, Void
from watcher.core.evaluation import Attempt, Record, State, ahead
from watcher.core.executor import Job, JobState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import AttemptSeen, World, job_of
from watcher.reconcile import retry_policy as policy
from watcher.reconcile.journal_events import adopt, scored
from watcher.reconcile.out_of_resources import Ended, shortage

SHOWING = 60.0
"""Seconds that a file server may take to show what a job on another node wrote."""

GONE_FOR = 300.0
"""Seconds that a job must be in neither queue nor accounting before it is taken for vanished."""

STUCK_FOR = 60.0
"""Seconds that a job must have waited for what will not come by itself before that is believed."""

_INFORMATIVE = frozenset({JobState.TIMEOUT, JobState.OUT_OF_MEMORY})

_OWN_CODES = frozenset(int(code) for code in Exit)

_MAY_COME_BACK = frozenset({JobState.NODE_FAIL, JobState.PREEMPTED})


def in_flight(record: Record, attempt: Attempt, world: World, config: Config, retries: policy.Retries) -> Action | Skip:
    """The next step of an evaluation whose newest attempt is ``attempt``, or why there is none."""
    seen = world.attempts.get(attempt.run_id, AttemptSeen())
    job = job_of(attempt, world.queue)
    if record.state is State.SUBMITTING:
        return _submitting(record, attempt, seen, world, retries)
    if job is not None and job.job_id != attempt.job_id and job.job_id:
        return adopt(record, attempt, job, f"the queue has it as job {job.job_id}, not {attempt.job_id}")
    last = seen.exits[-1] if seen.exits else None
    live = job is not None and not job.state.over
    if last is not None and job is not None and ((live and attempt.tasks > 1) or _of_an_earlier_run(last, job)):
        last = None
    results = world.results.get(record.key)
    over = last is not None or (not live and _asked_since(attempt, world))
    if results is not None and results.valid and over:
        ended = {"place": attempt.results, "run_id": attempt.run_id}
        return scored(record, attempt.fingerprint, attempt.suites, results, reason="valid results", **ended)
    if job is not None and live:
        return _stuck(record, attempt, job, world, retries) if job.stuck else _living(record, attempt, job)
    if world.queue is None or world.queue.jobs is None:
        words = "not asked yet" if world.queue is None else world.queue.trouble
        return Skip(record.key, f"{record.state.value}: the queue cannot be asked: {words}")
    if not _asked_since(attempt, world):
        return Skip(record.key, f"{record.state.value}: job {attempt.job_id}", repeats=True)
    return _over(Ended(record, attempt, seen, last, job), world, config, retries)


def _of_an_earlier_run(last: ExitRecord, job: Job) -> bool:
    """Whether the job was started again since under its old id; the queue does not count restarts, accounting does."""
    begun = None if job.state.over else job.start_time
    return job.restarts > last.restart or (begun is not None and last.end <= begun)


def _asked_since(attempt: Attempt, world: World) -> bool:
    """Whether the queue was asked after the job was submitted: an older answer knows nothing of it."""
    if world.queue is None or world.queue.jobs is None:
        return False
    submitted = attempt.submit_time or attempt.intended
    return world.queue.at > submitted or ahead(submitted, world.queue.at)


def _submitting(record: Record, attempt: Attempt, seen: AttemptSeen, world: World, retries: policy.Retries) -> Action | Skip:
    job = job_of(attempt, world.queue)
    if job is not None:
        return adopt(record, attempt, job, f"found in the queue as job {job.job_id}")
    if seen.claim is not None and not seen.claim.startswith("void"):
        return adopt(record, attempt, _from_claim(attempt, seen.claim), f"found by its claim: {seen.claim}")
    if world.queue is None or world.queue.jobs is None:
        return Skip(record.key, "submitting: whether a job exists is not known, and the queue cannot be asked")
    begun = record.since if ahead(attempt.intended, world.queue.at) else attempt.intended
    if ahead(begun, world.queue.at):
        reason = record.reason or "whether a job exists is not known"
        return Note(event="unsure", key=record.key, fields={"run_id": attempt.run_id, "reason": reason})
    waited = world.queue.at - begun
    if waited < world.lag or not world.queue.sure:
        return Skip(record.key, "submitting: whether a job exists is not known yet; it is looked up by name")
    times = record.failures.get("unsure", 0) + 1
    words = f"no job {attempt.run_id} in queue or accounting after {waited:.0f} s: given up, and made void"
    fields = {"run_id": attempt.run_id, "kind": "unsure", "reason": words}
    retry_at = world.now + policy.backoff(retries.retry, times)
    return _void(record, attempt, Note(event="voided", key=record.key, fields={**fields, "retry_at": retry_at}))


def _void(record: Record, attempt: Attempt, then: Note) -> Void:
    """Give the attempt up; ``void`` in the event has its job cancelled, were it ever to be seen again."""
    return Void(key=record.key, run_id=attempt.run_id, then=msgspec.structs.replace(then, fields={**then.fields, "void": True}))


def _from_claim(attempt: Attempt, claim: str) -> Job:
    """The job that a claim speaks of: ``slurm:<job id>`` or ``local:<host>:<pid>:<start>``."""
    kind, _, rest = claim.partition(":")
    job_id = rest.split(":")[1] if kind == "local" and rest.count(":") >= 1 else rest or claim
    return Job(job_id=job_id, name=attempt.run_id, state=JobState.RUNNING, word="claimed", submit_time=attempt.intended)


def _stuck(record: Record, attempt: Attempt, job: Job, world: World, retries: policy.Retries) -> Action | Skip:
    """A job that can never run: its evaluation is blocked, then the job cancelled; else that would look like a person's word."""
    words = f"job {job.job_id} is {job.word}: {job.reason}; whether that stays is waited for"
    waiting = _settling(record, attempt, words, STUCK_FOR, world.now)
    if waiting is not None:
        return waiting
    end = policy.stuck(record, job, retries, world.now)
    claimed = world.attempts.get(attempt.run_id, AttemptSeen()).claim is not None
    return end if claimed else _void(record, attempt, end)


def _living(record: Record, attempt: Attempt, job: Job) -> Action | Skip:
    if job.state is JobState.HELD and not attempt.released:
        return Release(key=record.key, run_id=attempt.run_id, job=job, reason=f"job {job.job_id} is recorded")
    if job.state is not JobState.HELD and not attempt.released:
        return Release(key=record.key, run_id=attempt.run_id, job=job, deed=False, reason=f"job {job.job_id} is free to run")
    fields = {"run_id": attempt.run_id, "restarts": job.restarts}
    doubted = record.reason_kind is ReasonKind.CONFIRMING_END
    if job.state is JobState.RUNNING and (record.state is not State.RUNNING or job.restarts != attempt.restarts or doubted):
        started = {**fields, "reason": f"job {job.job_id}"}
        if job.start_time is not None:
            started["started"] = job.start_time
        return Note(event="started", key=record.key, fields=started)
    if job.state is JobState.PENDING and (record.state is State.RUNNING or doubted):
        reason = f"job {job.job_id} was put back into the queue{': ' + job.reason if job.reason else ''}"
        return Note(event="requeued", key=record.key, fields={**fields, "reason": reason})
    said = f": {job.reason}" if job.reason and job.reason not in {"None", "none"} else ""
    if job.state is JobState.HELD:
        return Skip(record.key, f"held: job {job.job_id} was released, but somebody holds it{said}")
    if job.state is JobState.UNKNOWN:
        return Skip(record.key, f"{record.state.value}: job {job.job_id} is {job.word}{said}")
    repeats = job.state is JobState.RUNNING and record.state is State.RUNNING
    return Skip(record.key, f"{job.state.value}: job {job.job_id}{said}", repeats=repeats)


def _over(ended: Ended, world: World, config: Config, retries: policy.Retries) -> Action | Skip:
    """Nothing of the attempt lives any more, and its results are not valid."""
    record, attempt, seen, last, job = ended
    results = world.results.get(record.key)
    wrong = "" if results is None else results.wrong()
    now = world.now
    if job is not None and job.state in _MAY_COME_BACK:
        words = f"job {job.job_id} is {job.word}; whether it is run again by itself is waited for"
        return _settling(record, attempt, words, policy.REQUEUE_WINDOW, now) or policy.after_state(
            record, job, seen, wrong, retries, now=now
        )
    if job is not None and job.state is JobState.CANCELLED and (last is None or last.code != 0):
        return policy.after_state(record, job, seen, wrong, retries, now=now)
    short = shortage(ended, world, config, retries)
    if short is not None:
        words = f"job {attempt.job_id} is {job.word}; its exit record is waited for" if job is not None and last is None else ""
        return (_settling(record, attempt, words, world.lag, now) if words else None) or short
    informative = job is not None and job.state in _INFORMATIVE
    if last is not None and last.code != 0 and not (informative and last.code not in _OWN_CODES):
        return policy.after_exit(record, last, seen.words, retries, now)
    if job is not None and job.state is not JobState.COMPLETED and last is None:
        if job.word == "VANISHED":
            return policy.vanished(record, retries, now)
        words = f"job {job.job_id} is {job.word}; its exit record is waited for"
        return _settling(record, attempt, words, world.lag, now) or policy.after_state(record, job, seen, wrong, retries, now=now)
    if last is not None or job is not None:
        return _without_results(record, attempt, last, world, retries)
    waiting = _settling(record, attempt, f"job {attempt.job_id} is not in the queue any more", GONE_FOR, now)
    end = policy.vanished(record, retries, now)
    return waiting or (end if seen.claim is not None else _void(record, attempt, end))


def _without_results(
    record: Record, attempt: Attempt, last: ExitRecord | None, world: World, retries: policy.Retries
) -> Action | Skip:
    """It ended well, by its own word or the executor's; its results are not valid, or cannot be looked at."""
    results, job = world.results.get(record.key), job_of(attempt, world.queue)
    if results is None:
        return Skip(record.key, f"{record.state.value}: it ended well; where its results should be cannot be looked at now")
    wrong = results.wrong()
    words = f"it ended well, but {wrong or 'results are missing'}; they are waited for"
    waiting = _settling(record, attempt, words, min(world.lag, SHOWING), world.now)
    if waiting is not None:
        return waiting
    if job is not None and not (last is not None and last.code == 0):
        return policy.after_state(record, job, AttemptSeen(), wrong, retries, now=world.now)
    said = f"ended with exit code 0, but {wrong or 'left no results'}"
    return policy.failed(record, "no_results", said, retries, world.now)


def _settling(record: Record, attempt: Attempt, words: str, seconds: float, now: float) -> Action | Skip | None:
    """An end that is not believed at once: noted when first seen, None once ``seconds`` have passed since."""
    if record.reason_kind is not ReasonKind.CONFIRMING_END or ahead(record.since, now):
        fields = {"run_id": attempt.run_id, "reason": f"ending: {words}", "reason_kind": ReasonKind.CONFIRMING_END}
        return Note(event="ending", key=record.key, fields=fields)
    return Skip(record.key, record.text, repeats=True) if now - record.since < seconds else None
