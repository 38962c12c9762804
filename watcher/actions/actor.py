"""Act: one deed, announced in the journal before it is done, its outcome journaled after.

Submitting is: request written > intent journaled > submitted, held > job id journaled > released > journaled. A crash
between any two of these leaves what the next watcher finds by the attempt's name. Before every deed the
fence is asked: a watcher that was frozen and thawed can at most leave a held job that never runs.

While submissions meet a limit, the intent of the first stands for those that are tried after it: a journal must not grow for as
long as a limit lasts. Should one of them get through and its watcher be killed before it says so, then a job is held of which
the journal knows nothing; it never runs, and the next watcher cancels it.
"""

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, assert_never

import msgspec

from suites.common.atomic_files import create_once, sync_folder
from suites.contract.paths import AttemptPaths, EvaluationPaths, attempt_log, shipped
from watcher.actions.retention import Keeper
from watcher.actions.submission import forget, prepare, prepare_prefill, resources_of, setup_file, tasks_of
from watcher.config.settings import Config
from watcher.core.actions import (
    FOREIGN,
    RESULTS_AGAIN,
    Action,
    Answer,
    Cancel,
    Effect,
    Link,
    Mirror,
    Note,
    Prefill,
    Release,
    SetAside,
    Submit,
    Unlink,
    Void,
)
from watcher.core.clock import Say
from watcher.core.evaluation import IN_FLIGHT, Attempt, Record
from watcher.core.executor import Executor, Job, JobState, Submission, SubmitKind, Submitted, Unreachable
from watcher.core.reasons import ReasonKind
from watcher.core.resources import asked, of_prefill
from watcher.core.snapshot import comment_of
from watcher.journal.journal import Journal
from watcher.observe.checkpoints import marks_of
from watcher.reconcile import retry_policy as policy
from watcher.reconcile.journal_events import put_off


class _Limit(NamedTuple):
    """What a submission met."""

    words: str
    since: float
    flying: int
    """Attempts in flight just then: where there are fewer, the limit may have room."""


class Actor:
    """Does what was decided. Every method may raise OSError (nothing is lost: the next tick goes on) or Superseded."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        executor: Executor,
        state_id: str,
        *,
        clock: Callable[[], float],
        say: Say,
    ) -> None:
        self.config = config
        self._journal, self._executor, self._state_id, self._clock, self._say = journal, executor, state_id, clock, say
        self._enough = ""
        self._limit: _Limit | None = None
        self._unwritable: dict[str, tuple[str, float]] = {}
        self.notes: list[str] = []
        """Troubles with the executor in this tick."""
        self._keeper = Keeper(journal, state_id, clock=clock, append=self._append, say=say)

    def new_tick(self) -> None:
        """Submissions may be tried again."""
        self._enough, self.notes = "", [*self._keeper.troubles]

    def later(self, now: float) -> str:
        """The limit that the last submission met, in words; empty where it is time to try again."""
        limit = self._limit
        if limit is None or not limit.since <= now < limit.since + policy.LATER_AGAIN or self._flying() < limit.flying:
            return ""
        return f"later: {limit.words}; tried again when a job ends, and every {policy.LATER_AGAIN / 60:.0f} min"

    def resting(self, now: float) -> dict[str, str]:
        """Results folder that could not be made a moment ago -> why."""
        found = {place: words for place, (words, at) in self._unwritable.items() if 0 <= now - at < RESULTS_AGAIN}
        return {place: f"{words}; tried again every {RESULTS_AGAIN / 60:.0f} min" for place, words in found.items()}

    def _flying(self) -> int:
        return sum(record.state in IN_FLIGHT for record in self._journal.ledger.everything())

    def perform(self, action: Action) -> None:
        """Do one action."""
        if isinstance(action, Note):
            self._note(action)
            return
        self._journal.fence()
        try:
            self._carry_out(action)
        except Unreachable as error:
            self.notes.append(str(error))
            self._say("unreachable", evaluation=action.key, words=str(error))

    def _carry_out(self, action: Effect) -> None:
        match action:
            case Submit():
                self._submit(action)
            case Prefill():
                self._prefill(action)
            case Release():
                self._release(action.key, action.run_id, action.job, deed=action.deed)
            case Cancel():
                self._cancel(action)
            case Void():
                self._void(action)
            case SetAside():
                self._set_aside(action)
            case Link():
                self._keeper.pin(action, self.config)
            case Unlink():
                self._keeper.unpin(action)
            case Mirror():
                self._keeper.mirror(action, self.config)
            case Answer():
                self._answer(action)
            case _:
                assert_never(action)

    def _append(self, event: str, key: str, /, **fields: object) -> None:
        self._journal.append(event, key, t=self._clock(), **fields)
        said = {name: value for name, value in fields.items() if name in {"reason", "hint", "job_id", "run_id", "kind"} and value}
        self._say(event, evaluation=key, **said)

    def _note_once(self, record: Record, reason: str, kind: ReasonKind) -> None:
        note = put_off(record, reason, kind)
        if note is not None:
            self._note(note)

    def _note(self, note: Note) -> None:
        self._append(note.event, note.key, **note.fields)

    def _submit(self, action: Submit) -> None:
        if self._enough or action.request.results in self.resting(self._clock()):
            return
        record = self._journal.ledger.records[action.key]
        if marks_of(record.checkpoint) != action.markers:
            self._append("owed", action.key, reason="the checkpoint moved just before it was submitted")
            return
        pin = record.pin
        pinned = pin.folder if pin is not None and pin.folder and pin.fingerprint == action.request.fingerprint else None
        request = msgspec.structs.replace(action.request, pinned=pinned)
        try:
            tasks = tasks_of(self.config, request)
            logs = attempt_log(Path(request.results), request.stage, request.step, "%A_%a" if tasks > 1 else "%j")
            logs[0].parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            words = f"results: {error.filename} cannot be made: {error.strerror}"
            self._unwritable[request.results] = words, self._clock()
            self._note_once(record, words, ReasonKind.RESULTS)
            return
        self._unwritable.pop(request.results, None)
        number, run_id = self._name(record, f"eval-{record.stage}-{record.step}")
        place = self.config.paths.attempt(run_id)
        request = msgspec.structs.replace(request, run_id=run_id, tasks=tasks)
        prepare(request, place)
        suites = {suite.tier: suite.digest for suite in request.suites}
        resources = asked(self.config.slurm, record.raised)
        attempt = Attempt(
            run_id=run_id,
            number=number,
            fingerprint=request.fingerprint,
            suites=suites,
            intended=self._clock(),
            resources=resources,
            tasks=tasks,
            results=request.results,
        )
        self._hand_over(action.key, attempt, self._submission(attempt, place, logs), action.reason)

    def _prefill(self, action: Prefill) -> None:
        if self._enough:
            return
        record = self._journal.ledger.prefills[action.key]
        number, run_id = self._name(record, f"prefill-{action.request.stage}")
        request = msgspec.structs.replace(action.request, run_id=run_id)
        place, wanted = self.config.paths.attempt(run_id), asked(of_prefill(self.config), record.raised)
        submission = prepare_prefill(request, place, self.config, comment_of(self._state_id), wanted)
        attempt = Attempt(
            run_id=run_id,
            number=number,
            fingerprint=request.fingerprint,
            suites={},
            intended=self._clock(),
            resources=wanted,
            results=request.results,
        )
        self._hand_over(action.key, attempt, submission, action.reason)

    def _hand_over(self, key: str, attempt: Attempt, submission: Submission, reason: str) -> None:
        stands = self._executor.holds and self._journal.ledger.of(key)[key].met_a_limit
        if not stands:
            self._append("intended", key, run_id=attempt.run_id, attempt=attempt, reason=reason)
        self._journal.fence()
        try:
            outcome = self._executor.submit(submission)
        except Unreachable as error:  # whether it got through is not known
            outcome = Submitted(kind=SubmitKind.AMBIGUOUS, message=str(error))
        self._limit = None
        if stands and outcome.kind in {SubmitKind.AMBIGUOUS, SubmitKind.REFUSED}:
            self._append("intended", key, run_id=attempt.run_id, attempt=attempt, reason=reason)
        self._after(key, attempt, outcome)

    def _name(self, record: Record, of: str) -> tuple[int, str]:
        """Number and name of a new attempt of ``of``; never one that anybody has a claim on, or that was asked for before."""
        number = record.attempts + 1
        while True:
            said = f"{self._state_id}\0{record.key}\0{number}\0{self._journal.epoch}"
            digest = hashlib.sha256(said.encode()).hexdigest()[:8]
            safe = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in of)
            run_id = f"{safe}-{digest}"
            place = self.config.paths.attempt(run_id)
            if not place.claim.exists() and not place.request.exists():
                return number, run_id
            number += 1

    def _submission(self, attempt: Attempt, place: AttemptPaths, logs: tuple[Path, Path]) -> Submission:
        return Submission(
            name=attempt.run_id,
            comment=comment_of(self._state_id),
            script=shipped("slurm/score.sbatch"),
            request=place.request,
            stdout=logs[0],
            stderr=logs[1],
            resources=resources_of(self.config.slurm, attempt.resources, attempt.tasks),
            python=self.config.python,
            setup=setup_file(self.config),
        )

    def _after(self, key: str, attempt: Attempt, outcome: Submitted) -> None:
        words, run_id = " ".join(outcome.message.split()), attempt.run_id
        if outcome.kind is SubmitKind.SUBMITTED and outcome.job_id is not None:
            reason = f"job {outcome.job_id}"
            released = not self._executor.holds
            now = self._clock()
            self._append(
                "submitted",
                key,
                run_id=run_id,
                job_id=outcome.job_id,
                submit_time=now,
                released=released,
                attempt=attempt,
                reason=reason,
            )
            if not released:
                self._journal.fence()
                job = Job(job_id=outcome.job_id, name=run_id, state=JobState.HELD, word="HELD", submit_time=now)
                self._release(key, run_id, job, deed=True)
        elif outcome.kind is SubmitKind.REFUSED and self._journal.ledger.of(key)[key].raised:
            self._note(policy.modest(self._journal.ledger.of(key)[key], words, policy.Retries(self.config.retry), self._clock()))
        elif outcome.kind is SubmitKind.REFUSED:
            hint = "watcher retry once that is mended"
            self._append("blocked", key, run_id=run_id, reason=f"refused: {words}", reason_kind=ReasonKind.REFUSED, hint=hint)
        elif outcome.kind is SubmitKind.LATER:
            forget(self.config.paths.attempt(run_id))
            self._enough = words
            self._note_once(self._journal.ledger.of(key)[key], f"later: {words}", ReasonKind.SUBMIT_LIMIT)
            if self._executor.submissions_left != 0:  # else it is our own limit, which a minute lifts
                self._limit = _Limit(words, self._clock(), self._flying())
        else:
            self._enough = words
            self._append("unsure", key, run_id=run_id, reason=f"whether a job exists is not known: {words}")

    def _release(self, key: str, run_id: str, job: Job, *, deed: bool) -> None:
        if deed:
            self._executor.release(job)
        self._append("released", key, run_id=run_id, released=True, reason=f"job {job.job_id}")

    def _cancel(self, action: Cancel) -> None:
        self._say("cancel", evaluation=action.key, job=action.job.job_id, reason=action.reason)
        self._executor.cancel(action.job)

    def _void(self, action: Void) -> None:
        """The claim decides: whoever comes second sees the other's word."""
        place = self.config.paths.attempt(action.run_id)
        place.folder.mkdir(parents=True, exist_ok=True)
        claim = place.claim
        if create_once(claim, f"void: given up by epoch {self._journal.epoch} on {socket.gethostname()}\n"):
            self._note(action.then)
        elif claim.read_text(encoding="utf-8", errors="replace").startswith("void"):
            self._note(action.then)  # by one of us, who did not come to say so

    def _set_aside(self, action: SetAside) -> None:
        paths = EvaluationPaths(Path(action.results), action.stage, action.directory)
        for tier, label in action.tiers.items():
            moving = [paths.tier(tier)]
            if label != FOREIGN:
                moving += [paths.generations, paths.compare, paths.run, paths.folder / "items", paths.parts]
            target = paths.set_aside(label)
            target.mkdir(parents=True, exist_ok=True)
            for path in moving:
                if path.exists():
                    path.rename(_free(target / path.name))
            sync_folder(target)
        sync_folder(paths.folder)
        self._say("set_aside", evaluation=action.key, reason=action.reason)

    def _answer(self, action: Answer) -> None:
        if action.id not in self._journal.ledger.answered:
            self._append("answered", "", id=action.id, outcome=action.reason, reason=action.reason)
        (self.config.paths.requests / f"{action.id}.json").unlink(missing_ok=True)


def _free(path: Path) -> Path:
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
