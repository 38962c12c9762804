"""Time and memory of the next attempt, raised after it ran out.

Time is doubled and memory multiplied by one and a half after each attempt that ran out of it. The maximum is
``slurm.time_max`` or ``slurm.mem_max``, else the partition's limit.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from watcher.config.settings import PREFILL_CPUS, PREFILL_TIME, Config, SlurmSettings
from watcher.config.units import format_slurm_time, parse_memory_mib, parse_slurm_time
from watcher.core.evaluation import EvaluationRecord
from watcher.core.executor import PartitionLimits

TIME_RAISE_FACTOR = 2.0

MEMORY_RAISE_FACTOR = 1.5


class ResourceRaise(msgspec.Struct, frozen=True):
    """Resources of the next attempt beyond the config's, and their description."""

    requested: Mapping[str, str]
    """``time`` and ``mem`` as sbatch takes them; only those that differ from the config's."""
    message: str


def get_slurm_settings(config: Config, record: EvaluationRecord) -> SlurmSettings:
    """The Slurm settings of a record: those of scoring or prefill jobs."""
    return build_prefill_settings(config) if record.origin == "prefill" else config.slurm


def build_prefill_settings(config: Config) -> SlurmSettings:
    """Slurm settings of a prefill job: no GPU, the config's account."""
    prefill = config.prefill
    return SlurmSettings(
        account=config.slurm.account,
        partition=prefill.get("partition"),
        gres=None,
        cpus_per_task=prefill.get("cpus_per_task", PREFILL_CPUS),
        time=prefill.get("time", PREFILL_TIME),
        mem=prefill.get("mem"),
    )


def resolve_resources(slurm: SlurmSettings, raised: Mapping[str, str]) -> dict[str, str]:
    """``time`` and ``mem`` of the next attempt: config or raise, the larger."""
    requested = {name: value for name, value in (("time", slurm.time), ("mem", slurm.mem)) if value is not None}
    for name, parse in (("time", parse_slurm_time), ("mem", parse_memory_mib)):
        raised_value, requested_value = parse(raised.get(name)), parse(requested.get(name))
        # A config that was raised meanwhile may already ask for more.
        if raised_value is not None and (requested_value is None or raised_value > requested_value):
            requested[name] = raised[name]
    return requested


class SubmitOptions(NamedTuple):
    """What sbatch is asked for in a record's next submission, apart from names and paths."""

    key: str
    """Equal while nothing changes in the config, or in raised resources, that sbatch could refuse."""
    text: str
    """For people, in the words of the config."""


def get_submit_options(config: Config, record: EvaluationRecord) -> SubmitOptions:
    """The options of the record's next submission."""
    slurm = get_slurm_settings(config, record)
    settings = msgspec.structs.asdict(slurm) | resolve_resources(slurm, record.raised_resources)
    content = json.dumps([settings, config.python], sort_keys=True, default=str)
    shown = {name: value for name, value in settings.items() if value and name not in {"time_max", "mem_max", "setup", "extra"}}
    text = ", ".join([*(f"{name}: {value}" for name, value in shown.items()), *slurm.extra])
    return SubmitOptions(hashlib.sha256(content.encode()).hexdigest()[:16], text)


def more_time(
    slurm: SlurmSettings, requested: Mapping[str, str], ran_seconds: float | None, partition_limits: PartitionLimits
) -> ResourceRaise:
    """The raise after an attempt reached its time limit.

    ``requested``: what it asked for; ``ran_seconds``: how long it ran.
    """
    # Without a requested time the partition's default applied, and the run shows how long that is.
    allotted_seconds = parse_slurm_time(requested.get("time")) or ran_seconds
    limit_seconds, limit_source = (
        (parse_slurm_time(slurm.time_max), "slurm.time_max")
        if slurm.time_max
        else (partition_limits.time_seconds, partition_limits.source)
    )
    if allotted_seconds is None:
        return ResourceRaise({}, "its time limit is unknown; set slurm.time to have it raised")
    raised_seconds = (
        allotted_seconds * TIME_RAISE_FACTOR
        if limit_seconds is None
        else min(allotted_seconds * TIME_RAISE_FACTOR, limit_seconds)
    )
    # The same again still helps where parts were finished: the next attempt has fewer left.
    if limit_seconds is not None and raised_seconds <= allotted_seconds:
        return ResourceRaise(
            {"time": requested["time"]} if "time" in requested else {},
            f"it already had the maximum of {limit_source}, {format_slurm_time(limit_seconds)}",
        )
    limit_text = f" (maximum of {limit_source}: {format_slurm_time(limit_seconds)})" if limit_seconds is not None else ""
    return ResourceRaise(
        {"time": format_slurm_time(raised_seconds)}, f"the next attempt asks for {format_slurm_time(raised_seconds)}{limit_text}"
    )


def more_memory(slurm: SlurmSettings, requested: Mapping[str, str], partition_limits: PartitionLimits) -> ResourceRaise:
    """The raise after an attempt exceeded its memory; ``requested``: its own."""
    allotted_mib = parse_memory_mib(requested.get("mem"))
    limit_mib, limit_source = (
        (parse_memory_mib(slurm.mem_max), "slurm.mem_max")
        if slurm.mem_max
        else (partition_limits.memory_mib, partition_limits.source)
    )
    # The default memory of a partition is not known here, so there is nothing to multiply.
    if allotted_mib is None:
        return ResourceRaise({}, "set slurm.mem to have it raised")
    raised_mib = (
        int(allotted_mib * MEMORY_RAISE_FACTOR) if limit_mib is None else min(int(allotted_mib * MEMORY_RAISE_FACTOR), limit_mib)
    )
    if limit_mib is not None and raised_mib <= allotted_mib:
        return ResourceRaise({"mem": requested["mem"]}, f"it already had the maximum of {limit_source}, {limit_mib}M")
    limit_text = f" (maximum of {limit_source}: {limit_mib}M)" if limit_mib is not None else ""
    return ResourceRaise({"mem": f"{raised_mib}M"}, f"the next attempt asks for {raised_mib}M{limit_text}")
