"""Performs one action, fenced, and journals its outcome.

Submitting is: request written > intent journaled > submitted, held > job id journaled > released > journaled. A crash
between any two of these leaves what the next watcher finds by the attempt's name. Before every effect the fence is
checked: a watcher that was frozen and thawed can at most leave a held job that never runs.

While submissions meet a limit, the intent of the first try stands for later tries. A journal must not grow for as long as
a limit lasts. If a later try succeeds and its watcher is killed before journaling it, the held job is unknown to the
journal. It never runs, and the next watcher cancels it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import msgspec

from suites.contract.log_paths import attempt_log_paths
from watcher.actions.archive import archive_results
from watcher.actions.claims import describe_occupant, retire_unseen_attempt, void_claim
from watcher.actions.retention import RetentionActions
from watcher.actions.submission import (
    add_pins,
    build_scoring_submission,
    choose_attempt_name,
    count_task_gpus,
    count_tasks,
    make_attempt,
    make_unknown_event,
    prepare_prefill_attempt,
    prepare_scoring_attempt,
    remove_attempt_folder,
)
from watcher.actions.submission_delays import SubmissionDelays
from watcher.attempts import retry_policy as policy
from watcher.attempts.journal_events import postpone
from watcher.config.settings import Config
from watcher.core import events
from watcher.core.actions import (
    AbandonAttempt,
    ArchiveResults,
    CancelJob,
    CloseRequest,
    Effect,
    MirrorResults,
    PinCheckpoint,
    ReleaseJob,
    SubmitEvaluation,
    SubmitPrefill,
    UnpinCheckpoint,
)
from watcher.core.clock import Clock, LogFn
from watcher.core.evaluation import IN_FLIGHT_STATES, Attempt, EvaluationRecord
from watcher.core.events import JournalEvent
from watcher.core.executor import Executor, ExecutorUnreachable, Job, JobState, Submission, SubmissionResult, SubmitKind
from watcher.core.reasons import ReasonKind
from watcher.core.resources import build_prefill_settings, resolve_resources
from watcher.core.snapshot import format_job_comment
from watcher.journal.journal import Journal
from watcher.journal.request_files import remove_request
from watcher.observe.checkpoints import encode_record_mtimes

_LOGGED_FIELDS = ("reason", "hint", "job_id", "run_id", "failure_kind")


class Actor:
    """Performs actions; methods raise OSError or JournalSuperseded."""

    def __init__(self, config: Config, journal: Journal, executor: Executor, state_id: str, *, clock: Clock, log: LogFn) -> None:
        self.config = config
        self._journal, self._executor, self._state_id, self._clock, self._log = journal, executor, state_id, clock, log
        self._submissions_stopped = ""
        self.server_now = clock()
        """Unix time by the file server's clock, as of the last snapshot."""
        self.delays = SubmissionDelays(self._count_in_flight)
        self.warnings: list[str] = []
        """Executor errors of this tick."""
        self.undeletable_requests: dict[str, str] = {}
        """Id of an answered request whose file stays -> what a person can do."""
        self._retention = RetentionActions(journal, state_id, clock=clock, append_event=self._append_event, log=log)

    def new_tick(self) -> None:
        """Allow submissions again."""
        self._submissions_stopped, self.warnings = "", [*self._retention.errors, *self.undeletable_requests.values()]

    def _count_in_flight(self) -> int:
        return sum(record.state in IN_FLIGHT_STATES for record in self._journal.state.iter_all_records())

    def append_events(self, batch: Sequence[JournalEvent]) -> None:
        """Journal events in one write: nothing has an effect between them."""
        self._journal.append_all(batch, t=self._clock())
        for event in batch:
            fields = {name: getattr(event, name) for name in _LOGGED_FIELDS if getattr(event, name, None)}
            self._log(event.name, evaluation=event.evaluation, **fields)

    def perform(self, action: Effect) -> None:
        """Do one effect."""
        self._journal.fence()
        try:
            self._perform_effect(action)
        except ExecutorUnreachable as error:
            # No answer is no failure: the next tick finds out by name what happened.
            self.warnings.append(str(error))
            self._log("unreachable", evaluation=action.key, message=str(error))

    def _perform_effect(self, action: Effect) -> None:
        match action:
            # The match is exhaustive, so a new kind of action fails the type check here.
            case SubmitEvaluation():
                self._submit(action)
            case SubmitPrefill():
                self._submit_prefill(action)
            case ReleaseJob():
                self._release(action)
            case CancelJob():
                self._cancel(action)
            case AbandonAttempt():
                self._abandon_attempt(action)
            case ArchiveResults():
                archive_results(action)
                self._log("set_aside", evaluation=action.key, reason=action.reason)
            case PinCheckpoint():
                self._retention.pin(action, self.config)
            case UnpinCheckpoint():
                self._retention.unpin(action, self.config)
            case MirrorResults():
                self._retention.mirror(action, self.config)
            case CloseRequest():
                self._close_request(action)
            case _:
                assert_never(action)

    def _append_event(self, event: JournalEvent) -> None:
        self.append_events([event])

    def _postpone(self, record: EvaluationRecord, reason: str, kind: ReasonKind) -> None:
        event = postpone(record, reason, kind)
        if event is not None:
            self._append_event(event)

    def _submit(self, action: SubmitEvaluation) -> None:
        if self._submissions_stopped or action.request.results in self.delays.unwritable_results(self._clock()):
            return
        record = self._journal.state.records[action.key]
        # The inspection may be some seconds old, and a rewrite can begin at any time.
        if encode_record_mtimes(record) != action.mtimes:
            reason = "the checkpoint changed just before its submission"
            self._append_event(events.Pending(evaluation=action.key, reason=reason))
            return
        owner = self._executor.identify()
        occupant = describe_occupant(
            record, action.request.paths, self.config.paths, self._journal.state, me=owner, server_now=self.server_now
        )
        if occupant:
            self.delays.set_occupied(action.key, occupant, self._clock())
            self._postpone(record, occupant, ReasonKind.OTHER_OWNER)
            return
        retire_unseen_attempt(record, self.config.paths, owner, self._journal.epoch)
        request = add_pins(action.request, record, self._journal.state.member_pins)
        try:
            tasks = count_tasks(self.config, request)
            logs = attempt_log_paths(Path(request.results), request.stage, request.step, "%A_%a" if tasks > 1 else "%j")
            # Before Slurm 23.02, a job whose log folder is missing fails at once and leaves no log.
            logs[0].parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot create {error.filename}: {error.strerror}"
            # A full or unmounted results folder is no failure of the evaluation.
            self.delays.set_unwritable(request.results, reason, self._clock())
            self._postpone(record, reason, ReasonKind.RESULTS)
            return
        self.delays.clear_unwritable(request.results)
        # The request is on disk before the intent, so an intent always has its files.
        number, run_id = choose_attempt_name(
            self.config.paths, f"eval-{record.stage}-{record.step}", record, self._state_id, self._journal.epoch
        )
        attempt_paths = self.config.paths.attempt(run_id)
        request = msgspec.structs.replace(request, run_id=run_id, tasks=tasks, owner=owner)
        prepare_scoring_attempt(request, attempt_paths)
        resources = resolve_resources(self.config.slurm, record.raised_resources)
        attempt = make_attempt(request, number, resources, self._clock(), gpus=count_task_gpus(self.config))
        self._submit_attempt(
            action.key,
            attempt,
            build_scoring_submission(attempt, self.config, logs, format_job_comment(self._state_id)),
            action.reason,
        )

    def _submit_prefill(self, action: SubmitPrefill) -> None:
        if self._submissions_stopped:
            return
        record = self._journal.state.prefills[action.key]
        # A run id is the only name by which a lost job can be found.
        number, run_id = choose_attempt_name(
            self.config.paths, f"prefill-{action.request.stage}", record, self._state_id, self._journal.epoch
        )
        request = msgspec.structs.replace(action.request, run_id=run_id, owner=self._executor.identify())
        attempt_paths, resources = (
            self.config.paths.attempt(run_id),
            resolve_resources(build_prefill_settings(self.config), record.raised_resources),
        )
        submission = prepare_prefill_attempt(request, attempt_paths, self.config, format_job_comment(self._state_id), resources)
        attempt = make_attempt(request, number, resources, self._clock(), gpus=0)
        self._submit_attempt(action.key, attempt, submission, action.reason)

    def _submit_attempt(self, key: str, attempt: Attempt, submission: Submission, reason: str) -> None:
        is_intent_journaled = self._executor.submits_held and self._journal.state.get_records(key)[key].hit_submit_limit
        intended = events.Intended(evaluation=key, run_id=attempt.run_id, attempt=attempt, reason=reason)
        if not is_intent_journaled:
            self._append_event(intended)
        # Preparing takes time on a slow file system: another watcher may have taken over meanwhile.
        self._journal.fence()
        try:
            outcome = self._executor.submit(submission)
        except ExecutorUnreachable as error:  # whether it got through is not known
            outcome = SubmissionResult(kind=SubmitKind.AMBIGUOUS, message=str(error))
        # Any other outcome shows that the limit is over.
        self.delays.clear_submit_limit()
        if is_intent_journaled and outcome.kind in {SubmitKind.AMBIGUOUS, SubmitKind.REFUSED}:
            self._append_event(intended)
        self._record_outcome(key, attempt, outcome)

    def _record_outcome(self, key: str, attempt: Attempt, outcome: SubmissionResult) -> None:
        message, run_id = " ".join(outcome.message.split()), attempt.run_id
        if outcome.kind is SubmitKind.SUBMITTED and outcome.job_id is not None:
            released, now = not self._executor.submits_held, self._clock()
            submitted = events.Submitted(
                evaluation=key,
                run_id=run_id,
                job_id=outcome.job_id,
                submit_time=now,
                released=released,
                attempt=attempt,
                reason=f"job {outcome.job_id}",
            )
            self._append_event(submitted)
            # The job id is on disk, so the release cannot leave a running job unknown.
            if not released:
                self._journal.fence()
                job = Job(job_id=outcome.job_id, name=run_id, state=JobState.HELD, raw_state="HELD", submit_time=now)
                self._release(ReleaseJob(key=key, run_id=run_id, job=job))
        elif outcome.kind is SubmitKind.REFUSED and self._journal.state.get_records(key)[key].raised_resources:
            self._append_event(
                policy.without_raise(
                    self._journal.state.get_records(key)[key], message, policy.RetryRules(self.config.retry), self._clock()
                )
            )
        elif outcome.kind is SubmitKind.REFUSED:
            blocked = events.Blocked(
                evaluation=key,
                run_id=run_id,
                reason=f"sbatch refused: {message}",
                reason_kind=ReasonKind.REFUSED,
                hint="Fix it, then run watcher retry",
            )
            self._append_event(blocked)
        elif outcome.kind is SubmitKind.LATER:
            # Each try makes a folder, and a limit may last for weeks of tries.
            remove_attempt_folder(self.config.paths.attempt(run_id))
            self._submissions_stopped = message
            self._postpone(self._journal.state.get_records(key)[key], f"submit limit: {message}", ReasonKind.SUBMIT_LIMIT)
            if self._executor.submissions_left != 0:  # else it is our own limit, which a minute lifts
                self.delays.set_submit_limit(message, self._clock())
        else:
            self._submissions_stopped = message
            # The job may exist: further submissions of this tick would meet the same controller.
            self._append_event(make_unknown_event(self.config, self._journal.state.get_records(key)[key], run_id, outcome))

    def _release(self, action: ReleaseJob) -> None:
        # A release that is denied each time must come to an end, so it counts before it is tried.
        is_counted = action.failure_kind is not None
        released = events.Released(
            evaluation=action.key,
            run_id=action.run_id,
            reason=action.reason if is_counted else f"job {action.job.job_id}",
            failure_kind=action.failure_kind,
            retry_at=action.retry_at,
        )
        if is_counted:
            self._append_event(released)
            self._journal.fence()
        if not action.already_running:
            self._executor.release(action.job)
        if not is_counted:
            self._append_event(released)

    def _cancel(self, action: CancelJob) -> None:
        self._log("cancel", evaluation=action.key, job=action.job.job_id, reason=action.reason)
        self._executor.cancel(action.job)

    def _abandon_attempt(self, action: AbandonAttempt) -> None:
        """Void the claim, then journal; the first writer of a claim wins, or a person's word."""
        if void_claim(self.config.paths.attempt(action.run_id), self._journal.epoch, by_person=action.by_person):
            self._append_event(action.next_event)

    def _close_request(self, action: CloseRequest) -> None:
        # The answer is journaled before the file is deleted, so a crash never loses it.
        if action.id not in self._journal.state.closed_requests:
            self._append_event(events.RequestAnswered(id=action.id, outcome=action.reason, reason=action.reason))
        if problem := remove_request(self.config.paths, action.id):
            self.undeletable_requests[action.id] = problem
