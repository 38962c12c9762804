"""States of an evaluation, its record, its attempts and pins. Data only.

    pending > waiting(reason) > ready > submitting > queued > running > scored
    any of the first six > failed(kind) > ready | blocked(reason) | cancelled
    scored > pending (the checkpoint was rewritten) | lost (its results are gone from disk) > scored

Every arrow is an event in the journal; a record is the fold of its events.
"""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.contract.averages import AverageStep
from suites.contract.job_owner import JobOwner
from watcher.core.field_types import Count, FileName, PathText, Step, TaskCount, UnixTime, WordOrNothing
from watcher.core.reasons import ReasonKind, join_hint
from watcher.core.usage import SubmittedAttempt

MAX_CLOCK_SKEW_SECONDS = 60.0
"""Seconds by which a journaled time may exceed the clock: login nodes differ a little."""


def is_in_future(t: float, now: float) -> bool:
    """Whether a journaled time lies ahead of the clock.

    Then one of the two clocks was wrong, and the time says nothing about waiting.
    """
    return t > now + MAX_CLOCK_SKEW_SECONDS


class EvaluationState(enum.StrEnum):
    """Where an evaluation is."""

    PENDING = "pending"
    """Known and not inspected yet; also after a rewrite."""
    WAITING = "waiting"
    """Something must happen first: the reason names it, and its kind decides."""
    READY = "ready"
    """Complete, fingerprinted, to be submitted when limits allow."""
    SUBMITTING = "submitting"
    """The intent is journaled; whether a job exists is not known yet."""
    QUEUED = "queued"
    """A job id is journaled and the job may run (or is held and about to be released)."""
    RUNNING = "running"
    SCORED = "scored"
    FAILED = "failed"
    """An attempt ended without results; kind and retry time in the record."""
    BLOCKED = "blocked"
    """A person must act first: the reason says how."""
    CANCELLED = "cancelled"
    """By a person; respected until ``retry``."""
    LOST = "lost"
    """Scored once, but its result files are gone from disk. Only a person has it scored again."""


# In these states a job may exist, so no other one is submitted.
IN_FLIGHT_STATES = frozenset({EvaluationState.SUBMITTING, EvaluationState.QUEUED, EvaluationState.RUNNING})

MAX_POSTPONEMENT_SECONDS = 3600.0
"""The longest believable backoff in seconds; a later retry time comes from a wrong clock."""

# Only changed files or suites, or a person's command, move an evaluation out of these.
SETTLED_STATES = frozenset({EvaluationState.SCORED, EvaluationState.BLOCKED, EvaluationState.CANCELLED, EvaluationState.LOST})


def describe_renewal(state: EvaluationState) -> str:
    """What enqueue and retry do with an evaluation that has no job and no scores."""
    is_tried = state not in {EvaluationState.PENDING, EvaluationState.WAITING, EvaluationState.READY}
    return f"will be retried (was {state.value})" if is_tried else f"will be scored; it is {state.value} already"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One submission of an evaluation."""

    run_id: FileName
    number: Count
    """1 for the first attempt of this evaluation, never reused."""
    fingerprint: WordOrNothing
    suites: Mapping[str, str]
    """Tier -> requested suite digest."""
    intended: UnixTime
    tasks: TaskCount = 1
    """Number of array tasks."""
    job_id: WordOrNothing | None = None
    submit_time: UnixTime | None = None
    """Unix time at which it was recorded; set with ``job_id``."""
    released: bool = False
    results: PathText = ""
    """The results folder that it publishes to; empty in older journals: the stage's."""
    resources: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Requested ``time`` and ``mem``; the cluster's defaults where left out."""
    gpus: Count | None = None
    """Requested for each task; None in older journals."""
    started: UnixTime | None = None
    restarts: Count = 0
    owner: JobOwner | None = None
    """Who submitted it, and where; None: unknown, so the queue that lists it is the right one."""

    def describe_job(self) -> str:
        """``job 12 of ada (uid 1001) on cluster lab``."""
        job = "its job" if self.job_id is None else f"job {self.job_id}"
        return job if self.owner is None else f"{job} of {self.owner}"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of sbatch in words that no table knows: perhaps a refusal."""

    options: str
    """Key of the options that were asked for: see ``SubmitOptions``."""
    described_options: str = ""
    """The same for people."""
    answer: str
    """The words without numbers: equal answers are equal here."""
    words: str
    """The site's own words."""


class RefusedOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that sbatch answered in equal words that no table knows."""

    refusal: Refusal
    count: int
    """Equal answers in a row."""
    since: float
    """Unix time of the first."""
    last: float
    """Unix time of the last."""


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """Hard links of a checkpoint's files, or the reason for having none."""

    fingerprint: WordOrNothing
    folder: PathText = ""
    size: Step = 0
    """Bytes of the linked files."""
    why: str = ""


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that the journal holds of one evaluation."""

    stage: str
    source: str
    step: int
    directory: str
    origin: str
    """``schedule``, ``bridge``, ``reference`` or ``request``."""
    checkpoint: str
    """Of an average: its last member's folder."""
    average: tuple[AverageStep, ...] = ()
    """Members of an average, ascending by step; empty: it is the checkpoint itself."""
    average_name: str = ""
    """Such as ``avg4``: it tells an average from the others of its step."""
    average_rule: str = ""
    """The schedule's rule that it stands for, as ``AverageSchedule.rule``; empty: a person named its members."""
    state: EvaluationState
    since: float
    """Unix time of the last change of state or reason."""
    reason: str = ""
    """For people: nothing depends on it."""
    reason_kind: ReasonKind = ReasonKind.OTHER
    hint: str = ""
    """What a person can do."""
    deleted: bool = False
    """With kind CHECKPOINT: the complete checkpoint was deleted before it was scored."""
    fingerprint: str | None = None
    """Of the content last judged complete; set from READY on."""
    suites: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Tier -> suite digest of what was scored last; set in SCORED and LOST."""
    results: str = ""
    """The results folder of its scores; set in SCORED and LOST, and empty in older journals: the stage's."""
    attempt: Attempt | None = None
    """The newest attempt; set from SUBMITTING on and kept afterwards."""
    attempts: int = 0
    submitted: Mapping[str, SubmittedAttempt] = msgspec.field(default_factory=dict)
    """Run id -> each attempt that had a job, oldest first."""
    failures: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Failure kind -> how often in a row since the last success or retry."""
    retry_at: float | None = None
    refusal: Refusal | None = None
    """What sbatch said to the newest attempt; set while its outcome is unknown and no table knows the words."""
    raised_resources: Mapping[str, str] = msgspec.field(default_factory=dict)
    """``time`` and ``mem`` of the next attempt beyond the config's, after an earlier one ran out of them."""
    raise_refused: bool = False
    """More than the config's was refused, so it is not requested again."""
    pin: Pin | None = None
    mirror_token: str = ""
    """Identity of the copy in the mirror: see ``build_mirror_token``."""
    forced: bool = False
    """``--force``: an interrupted rewrite or a copy without times is scored as it is; other programs' results are moved aside."""
    requested: bool = False
    """A person requested it, so the schedule does not matter."""
    custom_directory: bool = False
    """A person chose the directory's name, so stage, source and step do not identify this record."""
    final: bool = False
    """``final`` of the schedule asked for it: it was the last step of training."""
    baseline_selected_at: float | None = None
    """Unix time at which a person chose it as the stage's baseline; the last choice counts."""
    level: float | None = None
    """Level of its comparisons, fixed at the first one; None: it was never compared."""
    look_order: int = 0
    """Its number among the stage's looks that nobody planned, from 1; 0: planned, or never compared."""
    mtimes: str | None = None
    """Mtimes and sizes of the content last judged complete (``folder_kind.read_mtimes``), as one text."""
    times: Mapping[str, float] = msgspec.field(default_factory=dict)
    """``complete`` (newest mtime; of a folder that appeared later its appearance, and ``written`` is the mtime), ``detected``,
    ``submitted``, ``started``, ``scored``: unix times of the last round.

    The first two date from when this content was first seen complete, however often it was submitted since. ``again``: it had
    been scored before this round, so the round's times do not measure how long a checkpoint waits for its scores.
    """
    history: tuple[tuple[float, str, str], ...] = ()
    """(time, state, reason) of every change, oldest first; the last 50."""
    run_name: str | None = None
    """Training run of the content last judged complete, from its config.yaml."""
    notes: tuple[str, ...] = ()
    """How that content's config.yaml differs from its stage's, where it is scored all the same."""
    compared_with: str = ""
    """In BLOCKED with kind TOKENIZER: digest of the stage's facts that it differs from."""
    extra: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Fields of newer events that this version does not have, kept unchanged."""

    @property
    def key(self) -> str:
        """``stage1/step_2000``."""
        return f"{self.stage}/{self.directory}"

    @property
    def inspected(self) -> str:
        """The key of its inspection and mtimes in a snapshot: its folder, or for an average its own key."""
        return self.key if self.average else self.checkpoint

    @property
    def arguments(self) -> str:
        """How commands name it: ``stage1 2000``, with --from or --name where it is needed; ``stage1 reference:NAME``."""
        if self.is_reference:
            return f"{self.stage} {self.source}"
        if self.average:
            return f"{self.stage} {self.step} --name {self.directory}"
        return f"{self.stage} {self.step}" + ("" if self.source == self.stage else f" --from {self.source}")

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """(stage, source, step, average): what no two evaluations share, but for those that a person named."""
        return self.stage, self.source, self.step, self.average_name

    @property
    def is_reference(self) -> bool:
        """Whether it is a model that the config names to compare with: it has a tokenizer and a length of its own."""
        return self.origin == "reference"

    @property
    def full_reason(self) -> str:
        """The reason with its hint, as people read it."""
        return join_hint(self.reason, self.hint)

    @property
    def reason_fields(self) -> tuple[ReasonKind, str, str]:
        """Kind, reason and hint, to compare with an event's."""
        return self.reason_kind, self.reason, self.hint

    def is_waiting_for(self, *kinds: ReasonKind) -> bool:
        """Whether it waits for a reason of one of these kinds."""
        return self.state is EvaluationState.WAITING and self.reason_kind in kinds

    @property
    def is_ready_to_submit(self) -> bool:
        """Whether only the submission is left to do.

        It is ready, or its last try met a submit limit, the budget, an unwritable results folder or another run.
        """
        return self.state is EvaluationState.READY or self.is_waiting_for(
            ReasonKind.SUBMIT_LIMIT, ReasonKind.RESULTS, ReasonKind.OTHER_OWNER, ReasonKind.BUDGET
        )

    @property
    def hit_submit_limit(self) -> bool:
        """Whether the last submission met a submit limit: certainly no job exists."""
        return self.is_waiting_for(ReasonKind.SUBMIT_LIMIT)

    def is_backing_off(self, now: float) -> bool:
        """Whether its next try lies ahead.

        A time that is too far ahead was set by a wrong clock and does not count.
        """
        return self.retry_at is not None and now < self.retry_at <= now + MAX_POSTPONEMENT_SECONDS

    def checkpoint_path(self) -> Path:
        """The checkpoint's folder."""
        return Path(self.checkpoint)


class StageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage's first own checkpoint says of its training.

    It is journaled, so that a bridge scored later uses the same, and read anew when that checkpoint is rewritten.
    """

    tokenizer: PathText | None = None
    tokenizer_digest: str | None = None
    """None: its files cannot be read without a network."""
    seq_len: Count | None = None
    vocab_size: Count | None = None
    run_name: PathText | None = None
    checkpoint: PathText = ""
    fingerprint: str | None = None
    """Content of ``checkpoint`` when it was read."""


PREFILL_DIRECTORY = "(prefill)"
"""The directory in a prefill's key; no evaluation can have it, since names have no parentheses."""
