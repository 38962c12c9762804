"""What one tick observed: stages, checkpoints, results, attempts, queue. Data only."""

from collections.abc import Iterable, Mapping

import msgspec

from suites.checkpoint.completeness import Completeness, Inspection
from suites.checkpoint.layout import CheckpointLayout
from suites.common.formatting import strip_control_characters
from suites.contract.exit_record import ExitRecord
from suites.contract.job_owner import JobOwner
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest, TierRequirement
from suites.contract.tier_files import TierVerdict
from watcher.core.evaluation import MAX_CLOCK_SKEW_SECONDS, Attempt, EvaluationRecord, StageSettings
from watcher.core.executor import Job, JobState, PartitionLimits
from watcher.core.request_types import Request

CANCELLED_STATES = frozenset({JobState.CANCELLED, JobState.LOST})
"""Ends that are somebody's or the controller's, and not the job's own."""


class StageFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's checkpoint folder; the same object while nothing changes in it."""

    steps: Mapping[int, str] | None
    """Step -> folder; None: unknown, which is not the same as none."""
    appeared: Mapping[int, float] = msgspec.field(default_factory=dict)
    """Step that came while this watcher looked -> the last time at which it was not there yet, by the file server's clock."""
    error: str = ""
    """Why ``steps`` is unknown."""
    is_hanging: bool = False
    """Its file server does not answer, so nothing in it is read."""
    layout: CheckpointLayout = CheckpointLayout()
    """By which the folder was listed."""
    unmatched: str = ""
    """One line about folders that look like steps in another form; empty without any."""
    absent: bool = False
    """The folder is not there (yet)."""
    is_empty: bool = False
    """Nothing is in it, not even a latest.txt: so looks the mount point of a file system that is away."""
    latest_step: int | None = None
    """The step that training saved last: that of latest.txt where it exists, else the largest."""
    final_step: int | None = None
    """tokens.train_steps of the newest config.yaml."""
    started_from: str | None = None
    """The checkpoint that the stage started from, according to its first config.yaml."""


class StageRequirements(msgspec.Struct, frozen=True, kw_only=True):
    """What scoring for a stage needs besides a checkpoint."""

    suites: tuple[SuiteInRequest, ...] = ()
    tiers: Mapping[str, TierRequirement] = msgspec.field(default_factory=dict)
    tokenizer: str | None = None
    """As the watcher's config sets it; None: unset."""
    seq_len: int | None = None
    """Likewise."""
    training_settings: StageSettings | None = None
    """Settings of the stage's training config, for use until its first checkpoint has them."""
    error: str = ""
    """Why suites or training config cannot be used, as their reader reports it."""

    @property
    def is_usable(self) -> bool:
        """Whether there are suites, and they can be read."""
        return bool(self.tiers) and not self.error

    def resolve_settings(self, checkpoint_settings: StageSettings | None) -> StageSettings:
        """Tokenizer and sequence length for the stage's suites.

        ``checkpoint_settings``: those of its first own checkpoint, once there is one.

        The watcher's config precedes the checkpoint, and the checkpoint precedes the training config. A checkpoint holds what it
        was trained with, while a training config may have been edited since, or be another run's.
        """
        # Tokenizer and length are chosen one by one, since one source may have only one of them.
        sources = [settings for settings in (checkpoint_settings, self.training_settings) if settings is not None]
        return StageSettings(
            tokenizer=self.tokenizer or next((settings.tokenizer for settings in sources if settings.tokenizer), None),
            seq_len=self.seq_len or next((settings.seq_len for settings in sources if settings.seq_len), None),
            checkpoint="" if checkpoint_settings is None else checkpoint_settings.checkpoint,
        )


def join_suites(plans: Iterable[StageRequirements]) -> tuple[SuiteInRequest, ...]:
    """The suites of several stages, each once."""
    return tuple({(suite.name, suite.digest): suite for plan in plans for suite in plan.suites}.values())


def find_appearance(record: EvaluationRecord, stages: Mapping[str, StageFolder]) -> float | None:
    """The last time at which a record's checkpoint was not there yet; None where this watcher always saw it."""
    folder = stages.get(record.source)
    if folder is None or (folder.steps or {}).get(record.step) != record.checkpoint:
        return None
    return folder.appeared.get(record.step)


def find_outdated_tiers(record: EvaluationRecord, plan: StageRequirements) -> list[str]:
    """Tiers whose suites changed since the evaluation was scored."""
    return [tier for tier, required in plan.tiers.items() if record.suites.get(tier) != required.digest]


def select_inspection(record: EvaluationRecord, inspections: Mapping[str, Inspection]) -> Inspection | None:
    """The inspection of the checkpoint, or of its pin once deleted."""
    inspection = inspections.get(record.inspected)
    if record.pin is None or not record.pin.folder or (inspection is not None and inspection.kind is not Completeness.GONE):
        return inspection
    pinned = inspections.get(record.pin.folder)
    # A rewrite in place changes the pinned files too, since a hard link is the same file.
    same_content = pinned is not None and pinned.kind is Completeness.COMPLETE and pinned.fingerprint == record.pin.fingerprint
    return pinned if same_content else inspection


LIFE_SIGN_SECONDS = 300.0
"""Seconds for which a sign of life counts: a run leaves one each minute."""


class LifeSign(msgspec.Struct, frozen=True, kw_only=True):
    """The newest sign of a run in a results folder."""

    run_id: str
    """Empty where no file names it."""
    at: float
    """By the file server's clock."""
    host: str = ""
    job_id: str = ""
    owner: JobOwner | None = None

    def is_fresh(self, server_now: float) -> bool:
        """Whether the run may still be at work."""
        return -MAX_CLOCK_SKEW_SECONDS <= server_now - self.at < LIFE_SIGN_SECONDS

    def __str__(self) -> str:
        """``run eval-stage1-2000-0badcafe (job 12) of ada (uid 1001) on cluster lab, host node7``."""
        job = f" (job {self.job_id})" if self.job_id else ""
        owner = f" of {self.owner}" if self.owner is not None else ""
        return strip_control_characters(f"run {self.run_id}{job}{owner}" + (f", host {self.host}" if self.host else ""))


class AttemptFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What the disk holds of one attempt."""

    claim: str | None = None
    """First line of the claim: ``slurm:<job id>``, ``local:<host>:<pid>:<start>`` or ``void ...``."""
    exit_records: tuple[ExitRecord, ...] = ()
    """Oldest restart first."""
    failure_reason: str = ""
    """Why it ended as it did, from its run.json, else from its log."""
    logged_exit_code: int | None = None
    """The exit code in its log; read once the attempt ended without success, like the rest."""
    finished_parts: int = 0
    """Number of parts finished since its submission."""
    out_of_memory_line: str = ""
    """The line of its log about exhausted host memory."""
    life_sign: LifeSign | None = None
    """Of this attempt, in the results folder; read where the queue lists no live job."""


class UnmeasuredAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """What the disk holds of an attempt that has ended and was not measured yet."""

    evaluation: str
    exit_records: tuple[ExitRecord, ...] = ()
    """Of every restart and array task."""
    is_claimed: bool = False
    """A job took it, so it ran."""


class EvaluationResults(msgspec.Struct, frozen=True, kw_only=True):
    """Tier files of one evaluation, checked against fingerprint and suites."""

    verdicts: Mapping[str, TierVerdict]
    fingerprints: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Tier -> the checkpoint's fingerprint in the file, where it has our head."""

    results_folder: str = ""
    """The results folder of these files, where it is not the record's."""
    scores: Mapping[str, float] = msgspec.field(default_factory=dict)
    """Headlines of the valid ones, for status: ``ppl``, ``primary``, ``instruction_match_rate``; ``suspicious``."""
    notes: tuple[str, ...] = ()
    """Those of the valid ones, without duplicates."""
    assume: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict)
    """Tier -> the ``assume`` of its valid file, where it has one."""

    @property
    def is_valid(self) -> bool:
        """Whether every tier has a valid file."""
        return bool(self.verdicts) and all(verdict.kind == "valid" for verdict in self.verdicts.values())

    def describe_first_invalid(self) -> str:
        """The first invalid tier and why; empty where all are valid."""
        return next(
            (f"{tier}: {verdict.reason or verdict.kind}" for tier, verdict in self.verdicts.items() if verdict.kind != "valid"),
            "",
        )


class QueueSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The executor's queue at time ``at``, or why it is unknown."""

    at: float
    jobs: Mapping[str, Job] | None
    """By job name. None: unknown, which is not the same as empty."""
    history: Mapping[str, Job] | None = None
    """Accounting of names that the queue lacks; None: not queried, no answer, or no accounting."""
    accounting_checked: bool = False
    """Such names were searched in accounting too, or there is none: a name in neither is unknown to Slurm."""
    error: str = ""
    """The executor's own message where ``jobs`` is None."""
    owner: JobOwner | None = None
    """Whose jobs it lists; None where every attempt in flight is among them."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a decision needs besides journal and config."""

    now: float
    """Unix time here."""
    server_now: float
    """Unix time by the file server's clock."""
    stages: Mapping[str, StageFolder]
    requirements: Mapping[str, StageRequirements]
    unscheduled: tuple[str, ...] = ()
    """Folders named like stages that no stage of the config has."""
    missing_entries: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Stage, or source of a reference -> what its data cache lacks (``data_cache.missing_entries``).

    Those for which that is unknown are left out, and references of which nothing is to be scored."""
    inspections: Mapping[str, Inspection] = msgspec.field(default_factory=dict)
    """``EvaluationRecord.inspected`` -> inspection of the checkpoint, or of all members together; for those that were due."""
    tokenizer_digests: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Tokenizer of an inspection or the config -> digest of its files, where they can be read without a network."""
    mtimes: Mapping[str, str | None] = msgspec.field(default_factory=dict)
    """The same keys -> the mtimes just before the inspection; None: one of the two files is missing."""
    deferred: frozenset[str] = frozenset()
    """Checkpoint folders that are inspected in a later snapshot, since this tick has no more time."""
    results: Mapping[str, EvaluationResults] = msgspec.field(default_factory=dict)
    """Evaluation -> its results, for those that had to be checked."""
    suite_changes: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Scored evaluation of other suites -> what today's suites changed, as text."""
    mirrors: Mapping[str, EvaluationResults] = msgspec.field(default_factory=dict)
    """Evaluation -> its mirrored results, where its own are incomplete."""
    stale_mirrors: frozenset[str] = frozenset()
    """Evaluations with files that are newer than their mirror."""
    attempts: Mapping[str, AttemptFiles] = msgspec.field(default_factory=dict)
    """Run id -> the attempt on disk, for those in flight."""
    ended: Mapping[str, UnmeasuredAttempt] = msgspec.field(default_factory=dict)
    """Run id -> an attempt to be measured."""
    has_accounting: bool | None = None
    """None: not asked yet."""
    queue: QueueSnapshot | None = None
    """None: not queried, since no job of ours can be in it."""
    unknown_jobs: Mapping[str, ScoringRequest] = msgspec.field(default_factory=dict)
    """Job name -> its request, for queued jobs of ours that the journal lacks."""
    partition_limits: Mapping[str, PartitionLimits] = msgspec.field(default_factory=dict)
    """Partition -> its limits, queried where an attempt in it ran out of time or memory; ``""``: the default one."""
    accounting_lag_seconds: float = 60.0
    """Seconds after which a submission that is in neither queue nor accounting may be abandoned."""
    max_running: int | None = None
    """The executor's own limit, where the config has none."""
    submit_limit: str = ""
    """The limit that the last submission met, as text, until the next try."""
    unwritable_results: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Results folder that could not be created -> why, until the next try."""
    occupied: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Evaluation -> the unknown run that works on its results, until it is looked at again."""
    submissions_left: int | None = None
    """Submissions that the executor still accepts now; None: it does not count."""
    requests: tuple[Request, ...] = ()
    has_changed: bool = True
    """False: nothing differs from the last snapshot, so only the clock can change a decision."""

    @property
    def jobs(self) -> Mapping[str, Job] | None:
        """Queued jobs by name; None: unknown, which is not empty."""
        return None if self.queue is None else self.queue.jobs

    @property
    def queue_problem(self) -> str:
        """Why ``jobs`` is None."""
        return "is not queried yet" if self.queue is None else f"is unreachable: {self.queue.error}"


def find_job(attempt: Attempt, queue: QueueSnapshot | None) -> Job | None:
    """The attempt's job from the queue, else from accounting."""
    # Accounting lags behind the queue, so without the queue it says nothing about a live job.
    if queue is None or queue.jobs is None:
        return None
    listed, past = (_select_copy(attempt, jobs.get(attempt.run_id)) for jobs in (queue.jobs, queue.history or {}))
    # The queue does not say who cancelled a job, and accounting does.
    if listed is not None and not listed.is_canceller_known and past is not None and past.state in CANCELLED_STATES:
        return past
    return listed or past


def _select_copy(attempt: Attempt, job: Job | None) -> Job | None:
    """Of several jobs with the attempt's name, the one that is its own."""
    if job is None or (not job.copies and job.job_id == attempt.job_id):
        return job
    copies = [job, *job.copies]
    # One that runs took the claim, or ends by itself; of the others the recorded one counts.
    selected = max(
        copies,
        key=lambda copy: (not copy.state.is_terminal, not copy.is_waiting, copy.job_id == attempt.job_id),
    )
    # A cancelled copy says nothing about the job itself.
    is_other = attempt.job_id is not None and selected.job_id != attempt.job_id
    return None if is_other and selected.state in CANCELLED_STATES else selected


def find_blind_spot(attempt: Attempt, queue: QueueSnapshot | None) -> str:
    """Why the queue's silence says nothing of the attempt; empty where it does."""
    return "" if queue is None or queue.owner is None else queue.owner.find_blind_spot(attempt.owner)


def format_job_comment(state_id: str) -> str:
    """The job comment of this state folder's jobs."""
    return f"watcher:{state_id}"
