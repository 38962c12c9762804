"""Types of the resolved config, made by ``loader.py``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from suites.checkpoint.layout import CheckpointLayout
from suites.contract.averages import decay_weights, normalize_weights
from suites.contract.objectives import Objectives
from suites.contract.paths import StatePaths

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]


DEFAULT_PYTHON = "python3"
"""The interpreter with torch, where nobody names one."""

FINAL_STEP: Literal["final"] = "final"
"""The step of a bridge that is where its source ended, whatever was scheduled."""


class Bridge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The checkpoint of another stage that is a stage's baseline."""

    source: str = msgspec.field(name="from")
    step: int | Literal["final"] | None = None
    """None: the last step of the source's schedule, else as ``final``: where the next stage started, else train_steps."""
    checkpoint: str | None = None
    """A folder that replaces the source stage's own checkpoint."""
    enabled: bool = True


class AverageSchedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which averages of a stage's checkpoints are scored."""

    last: int
    """Members: the newest complete checkpoints at or before a step."""
    every: int
    """Steps from one average to the next; the first is at ``every``."""
    given_weights: tuple[float, ...] = msgspec.field(name="weights", default=())
    """Relative weights, oldest member first; empty: equal ones, or those of ``ema``."""
    ema: float | None = None
    """Weight of each member, divided by that of the next newer one."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the members, oldest first; together 1."""
        if self.ema is not None:
            return decay_weights(self.last, self.ema)
        return normalize_weights(self.given_weights or (1.0,) * self.last)

    @property
    def is_uniform(self) -> bool:
        """Whether all members have the same weight."""
        return len(set(self.weights)) == 1

    @property
    def rule(self) -> str:
        """The averages in words, equal for equal averages: ``last 4``."""
        if self.is_uniform:
            return f"last {self.last}"
        if self.ema is not None:
            return f"last {self.last}, ema {self.ema:g}"
        return f"last {self.last}, weights {' '.join(map(repr, self.given_weights))}"

    def is_scheduled(self, step: int) -> bool:
        """Whether there is an average at this step, once it exists."""
        return step >= self.every and step % self.every == 0


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of training, with absolute paths and all defaults."""

    name: str
    checkpoints: Path
    runs: str | None = None
    """The ``runs`` entry that made it; None: it is written in the file."""
    layout: CheckpointLayout = CheckpointLayout()
    """How the folders in ``checkpoints`` are named."""
    results: Path
    result_root: Path | None = None
    """Folder that holds by_checkpoint and eval_logs itself; None: ``results``/``name``."""
    steps: tuple[int, ...] = ()
    every: int | None = None
    start: int | None = None
    """``from`` in the file: first step of ``every``; default ``every``."""
    to: int | None = None
    final: bool = False
    """Score the last step too: tokens.train_steps of the newest config.yaml."""
    suites: tuple[str, ...] = ()
    tokenizer: str | None = None
    seq_len: int | None = None
    use_fast: bool = True
    assume: dict[str, str] = msgspec.field(default_factory=dict)
    """Key of model_config.json that is not implemented -> ``ignored``, or ``applied`` (rope_scaling)."""
    training_config: Path | None = None
    """A training config with tokenizer and sequence length, used until the stage has a checkpoint."""
    objectives: Objectives = msgspec.field(default_factory=Objectives)
    noise_within: int | None = None
    """Steps between the first and the last evaluation that tell the run's noise; None: the densest ones."""
    bridge: Bridge | None = None
    average: AverageSchedule | None = None
    backend: str = "direct"
    command: str | tuple[str, ...] | None = None
    """For backend ``command``: a line for bash, or a list of arguments."""

    def get_checkpoint_folder(self, step: int) -> Path:
        """The folder of a step, whether it exists or not."""
        return self.checkpoints / self.layout.format_name(step)

    @property
    def root(self) -> Path:
        """The stage's folder of results, with ``by_checkpoint`` and ``eval_logs`` in it."""
        return self.results / self.name if self.result_root is None else self.result_root

    @property
    def first_step(self) -> int | None:
        """The first step of ``every``; None without one."""
        return self.every if self.start is None else self.start

    def is_scheduled(self, step: int) -> bool:
        """Whether ``steps`` or ``every/from/to`` name this step; ignores ``final``."""
        if step in self.steps:
            return True
        if self.every is None or self.first_step is None:
            return False
        return step >= self.first_step and (step - self.first_step) % self.every == 0 and (self.to is None or step <= self.to)

    @property
    def last_step(self) -> int | None:
        """The schedule's last step; None where only training knows it."""
        if self.final or (self.every is not None and self.to is None):
            return None
        last_steps = list(self.steps)
        if self.every is not None and self.first_step is not None and self.to is not None and self.first_step <= self.to:
            last_steps.append(self.to - (self.to - self.first_step) % self.every)  # the last multiple up to ``to``
        return max(last_steps, default=None)

    def find_next_step(self, step: int) -> int | None:
        """The next scheduled step after ``step``, ignoring ``final``; None without one."""
        candidates = [scheduled_step for scheduled_step in self.steps if scheduled_step > step]
        if self.every is not None and self.first_step is not None:
            following = max(self.first_step, step + 1 + (self.first_step - step - 1) % self.every)
            if self.to is None or following <= self.to:
                candidates.append(following)
        return min(candidates, default=None)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A model that stages are compared with, scored once on each one's suites."""

    name: str
    checkpoint: str
    """Its folder; that of a model of the hub is in the data cache."""
    hub_model: str | None = None
    """``OWNER/NAME@REVISION`` of the hub, which prefill fetches."""
    stages: tuple[str, ...] = ()
    """Keys of ``stages`` on whose suites it is scored; empty: all."""
    tokens: int | None = None
    """Tokens that it was trained on."""
    seq_len: int | None = None
    """Its context length for scoring; None: the model's own."""
    backend: str | None = None
    """None: transformers for a Hugging Face folder, direct for nanotron's."""

    @property
    def source(self) -> str:
        """Its name in records and results, where a checkpoint's stage stands."""
        return f"{REFERENCE_PREFIX}{self.name}"

    def covers(self, stage: Stage) -> bool:
        """Whether it is scored on the stage's suites."""
        return not self.stages or stage.name in self.stages or stage.runs in self.stages


REFERENCE_PREFIX = "reference:"

CLUSTER_VARIABLES = (
    *("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_SACK_SOCKET", "SLURM_SACK_KEY", "SLURM_SACK_JWKS"),
    "MUNGE_SOCKET",
)
"""Environment variables that say where the cluster and its authentication are; Slurm's commands need them."""

PREFILL_CPUS = 4
"""CPUs of a prefill job; it builds as many entries at once."""

PREFILL_TIME = "04:00:00"
"""The usual limit of serial partitions with a network; the next job continues from the finished entries."""


class SlurmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Resources of jobs; the cluster chooses those that are unset."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    gres: str | None = "gpu:1"
    cpus_per_task: int | None = 8
    time: str | None = "04:00:00"
    mem: str | None = None
    time_max: str | None = None
    """Limit to which ``time`` is raised after a timeout; None: the partition's limit."""
    mem_max: str | None = None
    """Limit to which ``mem`` is raised after an out-of-memory error; None: the partition's limit."""
    array: int | None = None
    """Tasks of the job array that scores a checkpoint and shares its parts; None: one job."""
    extra: tuple[str, ...] = ()
    """Further sbatch options, one word each."""
    setup: tuple[str, ...] = ()
    """Lines of bash that each job runs first, such as module load."""


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on jobs and Slurm commands."""

    max_running: PositiveInt | None = None
    """Jobs that run or may start; None: the executor's default (local: 1, slurm: no limit)."""
    max_queued: PositiveInt = 100
    slurm_calls_per_minute: PositiveInt = 10


GpuHours = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class BudgetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """GPU hours that evaluations may use, their failed attempts too."""

    gpu_hours: GpuHours | None = None
    """Of all stages together; None: no limit."""
    per_stage: dict[str, GpuHours] = msgspec.field(default_factory=dict)
    """Key of ``stages`` -> hours of that stage, or of all its run folders together."""


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how soon failures are retried."""

    attempts: int = 3
    """Failures of one kind in a row before an evaluation is blocked."""
    backoff: float = 60.0
    """Seconds before the first retry; doubles each time, up to an hour."""


class ReportSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the daemon makes from results."""

    page: bool = True
    """Write report.html after each new result."""
    compare: bool = True
    """Run comparisons with ``python`` on the daemon's machine."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The resolved config; only ``load_config`` makes one."""

    source: str
    """The config file, or ``built-in``."""
    scratch: Path
    results: Path
    eval_data: Path
    state: Path
    share_state: bool = False
    """Whether watchers of several users take turns in the state folder."""
    python: str = DEFAULT_PYTHON
    executor: str = "slurm"
    poll: float = 60.0
    settle: float = 60.0
    slurm: SlurmSettings = msgspec.field(default_factory=SlurmSettings)
    prefill: Mapping[str, Any] = msgspec.field(default_factory=dict)
    limits: LimitSettings = msgspec.field(default_factory=LimitSettings)
    budget: BudgetSettings = msgspec.field(default_factory=BudgetSettings)
    retry: RetrySettings = msgspec.field(default_factory=RetrySettings)
    report: ReportSettings = msgspec.field(default_factory=ReportSettings)
    canary: str = "stop"
    """``stop``, ``warn`` or ``off``: what a job does where the weights are no better than token frequencies."""
    canary_after: int = 10**9
    """Tokens of training before which ``stop`` only warns."""
    notify: str | None = None
    pin: bool = False
    pin_max: int = 1 << 40
    """Bytes that all pins together may keep."""
    mirror: Path | None = None
    references: Mapping[str, Reference] = msgspec.field(default_factory=dict)
    stages: Mapping[str, Stage] = msgspec.field(default_factory=dict)
    """Those of the file, then those of run folders."""
    runs: Mapping[str, Stage] = msgspec.field(default_factory=dict)
    """Entries with ``runs``: what the stage of each run folder is made from; ``checkpoints`` is the glob."""
    run_problems: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Run folder that gets no stage -> why."""

    def find_reference(self, source: str) -> Reference | None:
        """The reference of a record's source; None where it is none, or no longer in the config."""
        return self.references.get(source.removeprefix(REFERENCE_PREFIX)) if source.startswith(REFERENCE_PREFIX) else None

    def list_reference_stages(self, reference: Reference) -> list[Stage]:
        """The stages on whose suites it is scored."""
        return [stage for stage in self.stages.values() if reference.covers(stage)]

    @property
    def written_stages(self) -> Mapping[str, Stage]:
        """The entries of the file: stages, and what stages of runs are made from."""
        return {name: stage for name, stage in self.stages.items() if stage.runs is None} | dict(self.runs)

    @property
    def paths(self) -> StatePaths:
        """The paths of the watcher's files."""
        return StatePaths(self.state)
