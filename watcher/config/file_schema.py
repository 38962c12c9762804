"""Keys, types and defaults of watcher.yaml."""

from pathlib import Path
from typing import Annotated

import msgspec

from suites.checkpoint.layout import LAYOUT_KINDS
from suites.common.yaml_reader import Duration
from suites.contract.averages import MAX_MEMBERS
from suites.contract.objectives import Margins
from watcher.config.settings import DEFAULT_PYTHON, PREFILL_CPUS, PREFILL_TIME, BudgetSettings, LimitSettings, PositiveInt

StepNumber = Annotated[int, msgspec.Meta(ge=0)]

Flag = bool | Annotated[int, msgspec.Meta(ge=0, le=1)]
"""Also 0 and 1, as environment variables have it."""


class BridgeSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME.bridge``."""

    source: str = msgspec.field(name="from")
    step: StepNumber | str | None = None
    checkpoint: Path | None = None
    enabled: Flag = True


class LayoutSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME.layout``: as ``CheckpointLayout``."""

    name: str | None = None
    kind: str = LAYOUT_KINDS[0]


NameList = tuple[str, ...] | str


class ObjectivesSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME.objectives``: as ``Objectives``, with one name for a list."""

    improve: NameList = ()
    hold: NameList = ()
    groups: dict[str, NameList] | None = None
    margins: Margins | None = None


class NoiseSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME.noise``."""

    within: PositiveInt | None = None


class AverageSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME.average``: as ``AverageSchedule``."""

    last: Annotated[int, msgspec.Meta(ge=2, le=MAX_MEMBERS)] | None = None
    every: PositiveInt
    weights: Annotated[tuple[float, ...], msgspec.Meta(max_length=MAX_MEMBERS)] | None = None
    ema: float | None = None


class StageSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME``; ``loader.py`` fills in missing values."""

    checkpoints: Path | None = None
    runs: Path | None = None
    layout: LayoutSection | None = None
    results: Path | None = None
    result_root: Path | None = None
    steps: tuple[StepNumber, ...] | StepNumber | str | None = None
    every: PositiveInt | None = None
    start: StepNumber | None = msgspec.field(name="from", default=None)
    to: StepNumber | None = None
    final: Flag = False
    suites: tuple[str, ...] | str
    quick: Flag = False
    tokenizer: str | None = None
    seq_len: PositiveInt | None = None
    use_fast: Flag = True
    assume: dict[str, str] | None = None
    training_config: Path | None = None
    objectives: ObjectivesSection | None = None
    noise: NoiseSection | None = None
    bridge: BridgeSection | None = None
    average: AverageSection | None = None
    backend: str | None = None
    command: str | tuple[str, ...] | None = None


class ReferenceSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``references.NAME``: as ``settings.Reference``; a text is its ``checkpoint``."""

    checkpoint: str
    stages: NameList | None = None
    tokens: int | float | str | None = None
    seq_len: PositiveInt | None = None
    backend: str | None = None


class SlurmSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``slurm``: as ``settings.SlurmSettings``; numbers are allowed for texts."""

    account: str | int | None = None
    partition: str | int | None = None
    qos: str | int | None = None
    gres: str | int | None = "gpu:1"
    cpus_per_task: PositiveInt | None = 8
    time: str | int | None = "04:00:00"
    mem: str | int | None = None
    time_max: str | int | None = None
    mem_max: str | int | None = None
    array: PositiveInt | None = None
    extra: tuple[str, ...] | str = ()
    setup: tuple[str, ...] | str = ()


class PrefillSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``prefill``: who fills the data cache."""

    where: str = "login"
    auto: Flag = False
    partition: str | None = None
    cpus_per_task: PositiveInt = PREFILL_CPUS
    time: str | int = PREFILL_TIME
    mem: str | int | None = None


class RetrySection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``retry``: as ``settings.RetrySettings``."""

    attempts: PositiveInt = 3
    backoff: Duration = Duration(60)


class ReportSection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``report``: as ``settings.ReportSettings``."""

    page: Flag = True
    compare: Flag = True


class ConfigFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The keys at the top of watcher.yaml."""

    scratch: Path | None = None
    results: Path | None = None
    eval_data: Path | None = None
    state: Path | None = None
    share_state: Flag = False
    python: str = DEFAULT_PYTHON
    executor: str = "slurm"
    poll: Duration = Duration(60)
    settle: Duration = Duration(60)
    slurm: SlurmSection | None = None
    prefill: PrefillSection | None = None
    limits: LimitSettings | None = None
    budget: BudgetSettings | None = None
    retry: RetrySection | None = None
    report: ReportSection | None = None
    canary: str | bool = "stop"
    canary_after: int | float | str = "1B"
    notify: str | None = None
    pin: Flag = False
    pin_max: str | int = "1T"
    mirror: Path | None = None
    references: dict[str, ReferenceSection | str] | None = None
    stages: dict[str, StageSection] | None = None
