"""What a config file may say: its keys, their types and their defaults. ``loader.py`` makes a ``settings.Config`` of it."""

from pathlib import Path
from typing import Annotated

import msgspec

from suites.common.yaml_reader import Duration
from suites.contract.objectives import Margins
from watcher.config.settings import PREFILL_CPUS, PREFILL_TIME

Count = Annotated[int, msgspec.Meta(ge=1)]

Step = Annotated[int, msgspec.Meta(ge=0)]

Flag = bool | Annotated[int, msgspec.Meta(ge=0, le=1)]


class Bridge(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME.bridge``."""

    source: str = msgspec.field(name="from")
    step: Step | None = None
    checkpoint: Path | None = None
    enabled: Flag = True


Names = tuple[str, ...] | str


class Objectives(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME.objectives``: as ``suites.objectives.Objectives``, and one name where lists stand."""

    improve: Names = ()
    hold: Names = ()
    groups: dict[str, Names] | None = None
    margins: Margins | None = None


class Stage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``stages.NAME``; what is left out is filled in by ``loader.py``."""

    checkpoints: Path
    results: Path | None = None
    steps: tuple[Step, ...] | Step | str | None = None
    every: Count | None = None
    start: Step | None = msgspec.field(name="from", default=None)
    to: Step | None = None
    final: Flag = False
    suites: tuple[str, ...] | str
    tokenizer: str | None = None
    seq_len: Count | None = None
    use_fast: Flag = True
    training_config: Path | None = None
    objectives: Objectives | None = None
    bridge: Bridge | None = None
    backend: str | None = None
    command: str | tuple[str, ...] | None = None


class Slurm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``slurm``: as ``settings.Slurm``, and numbers where Slurm takes words."""

    account: str | int | None = None
    partition: str | int | None = None
    qos: str | int | None = None
    gres: str | int | None = "gpu:1"
    cpus_per_task: Count | None = 8
    time: str | int | None = "04:00:00"
    mem: str | int | None = None
    time_max: str | int | None = None
    mem_max: str | int | None = None
    array: Count | None = None
    extra: tuple[str, ...] | str = ()
    setup: tuple[str, ...] | str = ()


class Prefill(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``prefill``: who fills the data cache."""

    where: str = "login"
    auto: Flag = False
    partition: str | None = None
    cpus_per_task: Count = PREFILL_CPUS
    time: str | int = PREFILL_TIME
    mem: str | int | None = None


class Limits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``limits``: as ``settings.Limits``."""

    max_running: Count | None = None
    max_queued: Count = 100
    slurm_calls_per_minute: Count = 10


class Retry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``retry``: as ``settings.Retry``."""

    attempts: Count = 3
    backoff: Duration = Duration(60)


class Reporting(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``report``: as ``settings.Reporting``."""

    page: Flag = True
    compare: Flag = True


class File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    scratch: Path | None = None
    results: Path | None = None
    eval_data: Path | None = None
    state: Path | None = None
    python: str = "python3"
    executor: str = "slurm"
    poll: Duration = Duration(60)
    settle: Duration = Duration(60)
    slurm: Slurm | None = None
    prefill: Prefill | None = None
    limits: Limits | None = None
    retry: Retry | None = None
    report: Reporting | None = None
    notify: str | None = None
    pin: Flag = False
    pin_max: str | int = "1T"
    mirror: Path | None = None
    stages: dict[str, Stage] | None = None
