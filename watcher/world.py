"""What a tick sees, and what it may decide to do. Data only."""

from collections.abc import Mapping
from typing import Any

import msgspec

from suites.checkpoint import Completeness, Inspection
from suites.contract import ExitRecord, Request, SuiteInRequest, TierRequirement, TierVerdict
from watcher.executor import Job, Most
from watcher.reasons import ReasonKind, kind_of, with_hint
from watcher.states import Ask, QueueSeen, Record, Skip, StageFacts


class StageSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's folder of checkpoints. The same object tick after tick while nothing in it moved."""

    steps: Mapping[int, str] | None
    """Step -> folder; None: unknown, which is not the same as none."""
    trouble: str = ""
    """Why ``steps`` is unknown."""
    absent: bool = False
    """The folder is not there (yet)."""
    final: int | None = None
    """tokens.train_steps of the newest config.yaml."""
    started_from: str | None = None
    """The checkpoint that the stage's first config.yaml says it started from."""


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What scoring for a stage needs besides a checkpoint, as its files say now."""

    suites: tuple[SuiteInRequest, ...] = ()
    tiers: Mapping[str, TierRequirement] = msgspec.field(default_factory=dict)
    tokenizer: str | None = None
    """As the watcher's config sets it; None: unset."""
    seq_len: int | None = None
    """Likewise."""
    training: StageFacts | None = None
    """What the stage's training config says, for where its first checkpoint does not, or is not there yet."""
    trouble: str = ""
    """Why suites or training config cannot be used, in the words of their reader."""

    @property
    def is_usable(self) -> bool:
        """Whether there are suites, and they can be read."""
        return bool(self.tiers) and not self.trouble

    def settled(self, own: StageFacts | None) -> StageFacts:
        """Tokenizer and sequence length for the stage's suites; ``own``: what its first own checkpoint said, once there is one.

        The watcher's config, before the checkpoint, before the training config: a checkpoint says what it was trained with, and
        a training config may have been edited since, or be another run's.
        """
        said = [facts for facts in (own, self.training) if facts is not None]
        return StageFacts(
            tokenizer=self.tokenizer or next((facts.tokenizer for facts in said if facts.tokenizer), None),
            seq_len=self.seq_len or next((facts.seq_len for facts in said if facts.seq_len), None),
            checkpoint="" if own is None else own.checkpoint,
        )


def changed_tiers(record: Record, plan: StagePlan) -> list[str]:
    """The tiers of which today's suites are not those that the evaluation was scored on."""
    return [tier for tier, required in plan.tiers.items() if record.suites.get(tier) != required.digest]


def usable(record: Record, inspections: Mapping[str, Inspection]) -> Inspection | None:
    """The checkpoint as it was seen; where it is gone, what is pinned of the same content."""
    own = inspections.get(record.checkpoint)
    if record.pin is None or not record.pin.folder or (own is not None and own.kind is not Completeness.GONE):
        return own
    pinned = inspections.get(record.pin.folder)
    whole = pinned is not None and pinned.kind is Completeness.COMPLETE and pinned.fingerprint == record.pin.fingerprint
    return pinned if whole else own


class AttemptSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What the disk says of one attempt."""

    claim: str | None = None
    """First line of the claim: ``slurm:<job id>``, ``local:<host>:<pid>:<start>`` or ``void ...``."""
    exits: tuple[ExitRecord, ...] = ()
    """Oldest restart first."""
    words: str = ""
    """Why it ended as it did, from its run.json or, where that does not say, its log."""
    logged: int | None = None
    """The exit code that its log says; looked at once it is over without success, as the rest."""
    parts: int = 0
    """How many parts were finished since it was submitted."""
    memory: str = ""
    """The line of its log that says that it ran out of the host's memory."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The tier files of one evaluation, judged for its newest fingerprint and today's suites."""

    verdicts: Mapping[str, TierVerdict]
    fingerprints: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Tier -> the checkpoint's fingerprint that the file names, where it has our head."""

    place: str = ""
    """The results folder that they lie in, where that is not the one of which the record says so."""
    scores: Mapping[str, float] = msgspec.field(default_factory=dict)
    """Headlines of the valid ones, for status: ``ppl``, ``primary``, ``instruction_match_rate``; ``suspicious``."""

    @property
    def valid(self) -> bool:
        """Every tier is there and good."""
        return bool(self.verdicts) and all(verdict.kind == "valid" for verdict in self.verdicts.values())

    def wrong(self) -> str:
        """The first tier that is not valid, in words; empty where all are."""
        return next((f"{tier}: {v.why or v.kind}" for tier, v in self.verdicts.items() if v.kind != "valid"), "")


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was observed, so that deciding needs neither clock nor disk."""

    now: float
    """Unix time here."""
    server_now: float
    """Unix time by the file server's clock."""
    stages: Mapping[str, StageSeen]
    plans: Mapping[str, StagePlan]
    unscheduled: tuple[str, ...] = ()
    """Folders that look like stages and are in no schedule."""
    lacking: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Stage -> what its data cache lacks (``suites.cached.lacking``); a stage of which that is not known is not there."""
    inspections: Mapping[str, Inspection] = msgspec.field(default_factory=dict)
    """Checkpoint folder -> what it is worth, for those that had to be looked at."""
    marks: Mapping[str, str | None] = msgspec.field(default_factory=dict)
    """Checkpoint folder -> its cheap marks just before its inspection; None: one of the two files is not there."""
    results: Mapping[str, Results] = msgspec.field(default_factory=dict)
    """Evaluation -> its results, for those that had to be looked at."""
    changes: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Evaluation -> what of today's suites it was not scored on, in words, for the scored ones of other suites."""
    mirrors: Mapping[str, Results] = msgspec.field(default_factory=dict)
    """Evaluation -> what the mirror has of it, for those whose results are not all there."""
    unmirrored: frozenset[str] = frozenset()
    """Evaluations of which something was written after it was mirrored."""
    attempts: Mapping[str, AttemptSeen] = msgspec.field(default_factory=dict)
    """Run id -> the attempt on disk, for those in flight."""
    queue: QueueSeen | None = None
    """None: not asked, since nothing of ours can be in it."""
    strangers: Mapping[str, Request] = msgspec.field(default_factory=dict)
    """Job name -> its request, for jobs of ours in the queue that the journal does not know."""
    most: Mapping[str, Most] = msgspec.field(default_factory=dict)
    """Partition -> its limits, asked for where an attempt in it ran out of time or memory; ``""``: the default one."""
    lag: float = 60.0
    """Seconds after which a submission that nobody knows of may be given up."""
    max_running: int | None = None
    """The executor's own limit, where the config has none."""
    later: str = ""
    """The limit that the last submission met, in words, while it is not tried again."""
    resting: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Results folder that could not be made -> why, while it is not tried again."""
    submissions_left: int | None = None
    """How many more the executor takes now; None: it does not count."""
    asks: tuple[Ask, ...] = ()
    moved: bool = True
    """False: nothing differs from the last look, so only the clock can change a decision."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """An event for the journal and nothing else: the transitions."""

    event: str
    key: str
    fields: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def reason_fields(self) -> tuple[ReasonKind, str, str]:
        """Kind, reason and hint, as the record will have them."""
        return kind_of(self.fields.get("reason_kind")), str(self.fields.get("reason", "")), str(self.fields.get("hint", ""))

    @property
    def reason(self) -> str:
        """The text that goes with it, as people read it."""
        _, reason, hint = self.reason_fields
        return with_hint(reason, hint)


class Submit(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt and submit it."""

    key: str
    request: Request
    """Whole but for ``run_id``."""
    markers: str | None
    """Of the content that was judged complete; submission is called off where they moved."""
    reason: str = ""


class Prefill(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt at filling a stage's data cache and submit it."""

    key: str
    request: Request
    """Whole but for ``run_id``."""
    reason: str = ""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Let a recorded job run. ``deed`` False: it runs already, only the journal does not say so yet."""

    key: str
    run_id: str
    job: Job
    deed: bool = True
    reason: str = ""


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """Cancel a job: one that a person gave up, or a stray one."""

    key: str
    job: Job
    reason: str


class Void(msgspec.Struct, frozen=True, kw_only=True):
    """Make sure that an attempt of which nothing is known can never run, and only then go on with ``then``."""

    key: str
    run_id: str
    then: Note

    @property
    def reason(self) -> str:
        """Why it is given up."""
        return self.then.reason


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """Move tier files that are not of this checkpoint's content out of the way, where they are kept."""

    key: str
    results: str
    stage: str
    directory: str
    tiers: Mapping[str, str]
    """Tier -> the label to keep it under: the fingerprint it is of, or ``foreign``."""
    reason: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was done about a request from the command line; its file goes."""

    id: str
    key: str
    reason: str


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Pin the checkpoint: hard links against its deletion."""

    key: str
    checkpoint: str
    fingerprint: str
    reason: str = "until it is scored"


class Unlink(msgspec.Struct, frozen=True, kw_only=True):
    """Release a pin."""

    key: str
    folder: str
    reason: str


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """Copy an evaluation's small results to the mirror, or bring them back from there."""

    key: str
    back: bool = False
    reason: str = ""


Effect = Link | Unlink | Mirror | Submit | Prefill | Release | Cancel | Void | SetAside | Answer
"""What does something beyond the journal."""
Action = Note | Effect


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of news."""

    id: str
    """The same for the same news, whoever sees it and however often."""
    event: str
    """``blocked``, ``finished``, ``regressed``, ``waiting``, ``journal`` or ``stale``."""
    words: str
    stage: str = ""
    evaluation: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done now, in order, and why nothing is done about the rest."""

    actions: tuple[Action, ...] = ()
    skips: tuple[Skip, ...] = ()
    alerts: tuple[Alert, ...] = ()
    """What a person has not been told of yet."""
    due: float = 0.0
    """Unix time until which the same world gives the same decision; 0: look again at the next tick."""
