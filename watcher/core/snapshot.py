"""What a tick sees, and what it may decide to do. Data only."""

from collections.abc import Mapping

import msgspec

from suites.checkpoint.completeness import Completeness, Inspection
from suites.contract.exit_record import ExitRecord
from suites.contract.scoring_request import Request, SuiteInRequest, TierRequirement
from suites.contract.tier_files import TierVerdict
from watcher.core.evaluation import Attempt, Record, StageFacts
from watcher.core.executor import Job, Most
from watcher.core.request_types import Ask


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


class QueueSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The executor's queue as it was at ``at``, or why it could not be asked."""

    at: float
    jobs: Mapping[str, Job] | None
    """By job name. None: unknown, which is not the same as empty."""
    history: Mapping[str, Job] | None = None
    """What accounting says of names that the queue lacks; None: not asked, no answer, or no accounting."""
    sure: bool = False
    """Such names were looked up in accounting too, or there is none: what is in neither is not known to anybody."""
    trouble: str = ""
    """The executor's own words where ``jobs`` is None."""


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
    """Stage -> what its data cache lacks (``data_cache.lacking``); a stage of which that is not known is not there."""
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


def job_of(attempt: Attempt, queue: QueueSeen | None) -> Job | None:
    """The attempt's job as the queue tells it, else as accounting does."""
    if queue is None or queue.jobs is None:
        return None
    return queue.jobs.get(attempt.run_id) or (queue.history or {}).get(attempt.run_id)


def comment_of(state_id: str) -> str:
    """What marks a job in the queue as one of this state folder's."""
    return f"watcher:{state_id}"
