"""Journal events: one struct for each, used by writer and reader."""

from collections.abc import Mapping
from typing import Any

import msgspec

from suites.contract.averages import AverageStep
from watcher.core.evaluation import Attempt, Pin, Refusal
from watcher.core.field_types import Count, FileName, PathText, Step, UnixTime, WordOrNothing
from watcher.core.reasons import ReasonKind, join_hint
from watcher.core.usage import Usage


class JournalEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """Fields that every event can have.

    A journal line is an event with schema, seq, epoch and time ``t``.
    """

    evaluation: str = ""
    """Key of its evaluation or prefill; empty: it has none."""
    reason: str = ""
    """For people: nothing depends on it."""
    reason_kind: ReasonKind = ReasonKind.OTHER
    hint: str = ""
    """What a person can do about it."""

    @property
    def name(self) -> str:
        """Its name in the journal, such as ``waiting``."""
        return str(self.__struct_config__.tag)

    @property
    def key(self) -> str:
        """The evaluation, under the name that every action has."""
        return self.evaluation

    @property
    def full_reason(self) -> str:
        """The reason with its hint, as people read it."""
        return join_hint(self.reason, self.hint)

    @property
    def reason_fields(self) -> tuple[ReasonKind, str, str]:
        """Kind, reason and hint, to compare with a record's."""
        return self.reason_kind, self.reason, self.hint


# State, failures and resources share one event: a crash between two lines cannot separate them.
class StateChange(JournalEvent, frozen=True, kw_only=True):
    """Fields of events that change an evaluation's state."""

    run_id: FileName | None = None
    """The attempt that it concerns: the event counts only while that attempt is the newest."""
    retry_at: UnixTime | None = None
    """Unix time before which nothing is tried again."""
    failure_kind: str | None = None
    """One more failure of this kind in a row."""
    cleared_failure_kind: str | None = None
    """Earlier failures of this kind no longer count."""
    raised_resources: Mapping[str, str] | None = None
    """``time`` and ``mem`` of the next attempt, beyond the config's."""
    raise_refused: bool | None = None
    """More than the config's was refused."""
    abandons_attempt: bool = False
    """The attempt's claim is void: should its job appear again, it is cancelled."""


class CheckpointSeen(StateChange, frozen=True, kw_only=True):
    """A state change that can carry a complete checkpoint's content."""

    fingerprint: WordOrNothing | None = None
    """None: the event does not concern the content."""
    mtimes: str | None = None
    """Mtimes and sizes of two files, as one text: while they stay, so does the content."""
    completed_at: UnixTime | None = None
    """Newest mtime of the files that matter, or the folder's appearance where that is later: unix time."""
    run_name: PathText | None = None
    """Its training run."""
    notes: tuple[PathText, ...] = ()
    """How its config.yaml differs from its stage's."""
    written_at: UnixTime | None = None
    """The newest mtime, where the folder appeared so much later that its files have kept older times."""
    deleted: bool = False
    """The complete checkpoint was deleted before it was scored."""


class Opened(JournalEvent, frozen=True, kw_only=True, tag="opened"):
    """A watcher takes over: the first event of an epoch."""

    host: str
    pid: int
    start: int | None = None
    """Start time of the process in clock ticks since boot."""
    version: str = ""
    user: str = ""
    """Who runs it."""


class Created(JournalEvent, frozen=True, kw_only=True, tag="created"):
    """An evaluation or a prefill becomes known."""

    stage: FileName
    source: FileName
    step: Step
    directory: FileName
    origin: str
    """``schedule``, ``bridge``, ``reference``, ``request`` or ``prefill``."""
    checkpoint: PathText
    forced: bool = False
    requested: bool = False
    custom_directory: bool = False
    final: bool = False
    """It is the last step of training, which ``final`` of the schedule asks for."""
    average: tuple[AverageStep, ...] = ()
    average_name: WordOrNothing = ""
    average_rule: str = ""


class Pending(StateChange, frozen=True, kw_only=True, tag="pending"):
    """The checkpoint is inspected anew."""

    fresh: bool = False
    """Earlier failures and raised resources no longer count."""
    forced: bool = False
    requested: bool = False


class Waiting(CheckpointSeen, frozen=True, kw_only=True, tag="waiting"):
    """Something else must happen first."""


class Ready(StateChange, frozen=True, kw_only=True, tag="ready"):
    """The checkpoint is complete and waits for its submission."""

    fingerprint: WordOrNothing
    mtimes: str | None = None
    completed_at: UnixTime | None = None
    run_name: PathText | None = None
    notes: tuple[PathText, ...] = ()
    written_at: UnixTime | None = None


# The journal holds the intent before sbatch runs, so a crash leaves a run id to search for.
class Intended(StateChange, frozen=True, kw_only=True, tag="intended"):
    """A submission is about to be made."""

    attempt: Attempt


class SubmissionUnknown(StateChange, frozen=True, kw_only=True, tag="submission_unknown"):
    """Whether the submission made a job is not known."""

    refusal: Refusal | None = None
    """Where sbatch answered in words that no table knows."""


class Abandoned(StateChange, frozen=True, kw_only=True, tag="abandoned"):
    """A lost attempt is abandoned, and its claim is void."""

    refusal: Refusal | None = None
    """sbatch's words to it, which count as a refusal: Slurm answered, and knows no such job."""


# The attempt is repeated here in case the line of the intent is damaged.
class Submitted(StateChange, frozen=True, kw_only=True, tag="submitted"):
    """A job id is known."""

    job_id: WordOrNothing
    attempt: Attempt
    submit_time: UnixTime | None = None
    released: bool = False


class Adopted(StateChange, frozen=True, kw_only=True, tag="adopted"):
    """A job exists although the journal was not sure of it."""

    job_id: WordOrNothing
    attempt: Attempt
    submit_time: UnixTime | None = None
    released: bool = False


class Released(StateChange, frozen=True, kw_only=True, tag="released"):
    """The job may run."""


class Started(StateChange, frozen=True, kw_only=True, tag="started"):
    """The job runs."""

    started: UnixTime | None = None
    restarts: Count = 0


class Requeued(StateChange, frozen=True, kw_only=True, tag="requeued"):
    """Slurm put the job back into its queue."""

    restarts: Count = 0


class ConfirmingEnd(StateChange, frozen=True, kw_only=True, tag="confirming_end"):
    """The job seems to have ended, which is being confirmed."""


class Scored(StateChange, frozen=True, kw_only=True, tag="scored"):
    """Valid results are published."""

    fingerprint: WordOrNothing
    suites: Mapping[str, str]
    """Tier -> digest of its suites."""
    scores: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Headlines of the valid tier files, for status."""
    notes: tuple[str, ...] = ()
    """What the tier files tell a person: what was guessed, left out or ignored."""
    assume: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict)
    """Tier -> key of model_config.json -> the choice under which its scores were made."""
    results: PathText = ""
    """The results folder of the tier files; empty: the stage's."""
    mtimes: str | None = None


class Failed(StateChange, frozen=True, kw_only=True, tag="failed"):
    """An attempt ended without results, and is tried again."""


class Blocked(CheckpointSeen, frozen=True, kw_only=True, tag="blocked"):
    """A person must do something first."""

    compared_with: str = ""
    """Digest of the stage's facts that the checkpoint differs from."""


class Cancelled(StateChange, frozen=True, kw_only=True, tag="cancelled"):
    """A person cancelled the evaluation or its job."""


class Lost(StateChange, frozen=True, kw_only=True, tag="lost"):
    """Published results are gone from disk."""


class ResultsLocated(StateChange, frozen=True, kw_only=True, tag="results_found"):
    """Published results are in place again, or in another folder."""

    results: PathText | None = None


class Restored(StateChange, frozen=True, kw_only=True, tag="restored"):
    """Results came back from the mirror."""


class CheckpointMoved(JournalEvent, frozen=True, kw_only=True, tag="moved"):
    """The config places the checkpoint elsewhere."""

    checkpoint: PathText


class MtimesUpdated(JournalEvent, frozen=True, kw_only=True, tag="mtimes_updated"):
    """The same content has other mtimes."""

    mtimes: str | None
    fingerprint: WordOrNothing | None = None


class Pinned(JournalEvent, frozen=True, kw_only=True, tag="pinned"):
    """Hard links keep the checkpoint's files, or could not be made."""

    pin: Pin


class Unpinned(JournalEvent, frozen=True, kw_only=True, tag="unpinned"):
    """The hard links are gone."""


class Mirrored(JournalEvent, frozen=True, kw_only=True, tag="mirrored"):
    """Small results were copied to the mirror."""

    copy: str
    """Identity of the copy: see ``core.evaluation.build_mirror_token``."""


class BaselineSelected(JournalEvent, frozen=True, kw_only=True, tag="baseline_selected"):
    """A person chose the stage's baseline."""


class AttemptMeasured(JournalEvent, frozen=True, kw_only=True, tag="measured"):
    """What an ended attempt used is known."""

    run_id: FileName
    usage: Usage


class LeftOver(JournalEvent, frozen=True, kw_only=True, tag="left_over"):
    """An audit found an attempt folder that the journal never mentioned."""

    run_id: FileName


class RequestAnswered(JournalEvent, frozen=True, kw_only=True, tag="answered"):
    """A request from the command line was carried out or refused."""

    id: str
    outcome: str = ""


class Notified(JournalEvent, frozen=True, kw_only=True, tag="notified"):
    """The ``notify`` command was started for an alert."""

    id: str
    about: str = ""
