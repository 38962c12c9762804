"""The resolved config as frozen types; ``loader.py`` makes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suites.contract.objectives import Objectives
from suites.contract.paths import StatePaths


class Bridge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose final checkpoint is this stage's baseline."""

    source: str = msgspec.field(name="from")
    step: int | None = None
    """None: the last step of the source's schedule, or its ``final``."""
    checkpoint: str | None = None
    """A folder that overrides where the source's checkpoint is looked for."""
    enabled: bool = True


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of training, resolved: paths absolute, defaults filled in."""

    name: str
    checkpoints: Path
    results: Path
    steps: tuple[int, ...] = ()
    every: int | None = None
    start: int | None = None
    """``from`` in the file: first step of ``every``; default ``every``."""
    to: int | None = None
    final: bool = False
    """Also the last step, whatever it is: tokens.train_steps of the newest config.yaml."""
    suites: tuple[str, ...] = ()
    tokenizer: str | None = None
    seq_len: int | None = None
    use_fast: bool = True
    training_config: Path | None = None
    """A training config that gives tokenizer and sequence length where the stage's first checkpoint does not (yet)."""
    objectives: Objectives = msgspec.field(default_factory=Objectives)
    bridge: Bridge | None = None
    backend: str = "direct"
    command: str | tuple[str, ...] | None = None
    """Of backend ``command``: a line for bash, or a list of arguments."""

    @property
    def first_step(self) -> int | None:
        """The first step of ``every``; None without one."""
        return self.every if self.start is None else self.start

    def is_scheduled(self, step: int) -> bool:
        """Whether ``steps`` or ``every/from/to`` name this step (``final`` is not known here)."""
        if step in self.steps:
            return True
        if self.every is None or self.first_step is None:
            return False
        return step >= self.first_step and (step - self.first_step) % self.every == 0 and (self.to is None or step <= self.to)

    @property
    def last_step(self) -> int | None:
        """The schedule's last step, where the config alone tells it."""
        if self.final or (self.every is not None and self.to is None):
            return None
        last_steps = list(self.steps)
        if self.every is not None and self.first_step is not None and self.to is not None and self.first_step <= self.to:
            last_steps.append(self.to - (self.to - self.first_step) % self.every)
        return max(last_steps, default=None)

    def find_next_step(self, step: int) -> int | None:
        """The first scheduled step after ``step`` that the config tells, or None."""
        candidates = [scheduled_step for scheduled_step in self.steps if scheduled_step > step]
        if self.every is not None and self.first_step is not None:
            following = max(self.first_step, step + 1 + (self.first_step - step - 1) % self.every)
            if self.to is None or following <= self.to:
                candidates.append(following)
        return min(candidates, default=None)


PREFILL_CPUS = 4
"""As many entries are made at once."""

PREFILL_TIME = "04:00:00"
"""What serial partitions with a network grant, as a rule; what is finished by then is kept, and the next job goes on."""


class SlurmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How jobs ask for resources; unset ones are left to the cluster."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    gres: str | None = "gpu:1"
    cpus_per_task: int | None = 8
    time: str | None = "04:00:00"
    mem: str | None = None
    time_max: str | None = None
    """How far ``time`` is raised after a job whose time was up; None: as far as the partition allows."""
    mem_max: str | None = None
    """How far ``mem`` is raised after a job that ran out of memory, likewise."""
    array: int | None = None
    """Score each checkpoint by an array of so many jobs, which share its parts."""
    extra: tuple[str, ...] = ()
    """Further sbatch options, one word each."""
    setup: tuple[str, ...] = ()
    """Lines of bash that the job sources first: module load, source venv."""


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much at once."""

    max_running: int | None = None
    """Jobs running or allowed to run; None: the executor's own default (local: 1, slurm: no limit)."""
    max_queued: int = 100
    slurm_calls_per_minute: int = 10


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is tried again, how often and how soon."""

    attempts: int = 3
    """Failures of one kind in a row before an evaluation is blocked."""
    backoff: float = 60.0
    """Seconds before the first retry; doubled each time, at most an hour."""


class ReportSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the daemon makes of results."""

    page: bool = True
    """Write report.html after each new result."""
    compare: bool = True
    """Have results compared by ``python`` on the daemon's machine."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The resolved config; only ``load_config`` makes one."""

    source: str
    """The file it came from, or ``built-in``."""
    scratch: Path
    results: Path
    eval_data: Path
    state: Path
    python: str = "python3"
    executor: str = "slurm"
    poll: float = 60.0
    settle: float = 60.0
    slurm: SlurmSettings = msgspec.field(default_factory=SlurmSettings)
    prefill: Mapping[str, Any] = msgspec.field(default_factory=dict)
    limits: LimitSettings = msgspec.field(default_factory=LimitSettings)
    retry: RetrySettings = msgspec.field(default_factory=RetrySettings)
    report: ReportSettings = msgspec.field(default_factory=ReportSettings)
    notify: str | None = None
    pin: bool = False
    pin_max: int = 1 << 40
    """Bytes that pins may hold on to, all together."""
    mirror: Path | None = None
    stages: Mapping[str, Stage] = msgspec.field(default_factory=dict)

    @property
    def paths(self) -> StatePaths:
        """The watcher's own files."""
        return StatePaths(self.state)
