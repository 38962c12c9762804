"""How much time and memory an attempt asks for: the config's, or more where an earlier attempt ran out of it. Pure.

Time is doubled and memory taken times one and a half after each attempt that ended for want of it, up to the most
that ``slurm.time_max`` and ``slurm.mem_max`` name, or else that Slurm tells of the partition.
"""

from collections.abc import Mapping

import msgspec

from watcher.config.settings import PREFILL_CPUS, PREFILL_TIME, Config, Slurm
from watcher.config.units import as_time, mebibytes, seconds
from watcher.core.evaluation import Record
from watcher.core.executor import Most

LONGER = 2.0

MORE = 1.5


class Raise(msgspec.Struct, frozen=True):
    """What the next attempt asks for beyond the config, and how that is said."""

    asks: Mapping[str, str]
    """``time`` and ``mem`` as sbatch takes them; only those that differ from the config's."""
    words: str


def slurm_for(config: Config, record: Record) -> Slurm:
    """Which resources are a record's: those of scoring, or of prefill jobs."""
    return of_prefill(config) if record.origin == "prefill" else config.slurm


def of_prefill(config: Config) -> Slurm:
    """What a prefill job asks for: no GPU, and nothing of what is meant for the GPU partition but the account."""
    own = config.prefill
    return Slurm(
        account=config.slurm.account,
        partition=own.get("partition"),
        gres=None,
        cpus_per_task=own.get("cpus_per_task", PREFILL_CPUS),
        time=own.get("time", PREFILL_TIME),
        mem=own.get("mem"),
    )


def asked(slurm: Slurm, raised: Mapping[str, str]) -> dict[str, str]:
    """``time`` and ``mem`` of the next attempt: the config's, or what was ``raised`` where that is more."""
    found = {name: value for name, value in (("time", slurm.time), ("mem", slurm.mem)) if value is not None}
    for name, measure in (("time", seconds), ("mem", mebibytes)):
        more, own = measure(raised.get(name)), measure(found.get(name))
        if more is not None and (own is None or more > own):
            found[name] = raised[name]
    return found


def longer(slurm: Slurm, had: Mapping[str, str], ran: float | None, most: Most) -> Raise:
    """After an attempt that asked for ``had`` and ran for ``ran`` seconds until its time was up."""
    own = seconds(had.get("time")) or ran
    limit, whose = (seconds(slurm.time_max), "slurm.time_max") if slurm.time_max else (most.time, most.whose)
    if own is None:
        return Raise({}, "how much time it had is not known; set slurm.time to have it raised")
    wanted = own * LONGER if limit is None else min(own * LONGER, limit)
    if limit is not None and wanted <= own:
        return Raise({"time": had["time"]} if "time" in had else {}, f"it had the most that {whose} allows, {as_time(limit)}")
    bound = f", of at most {as_time(limit)} by {whose}" if limit is not None else ""
    return Raise({"time": as_time(wanted)}, f"next with {as_time(wanted)}{bound}")


def larger(slurm: Slurm, had: Mapping[str, str], most: Most) -> Raise:
    """After an attempt that asked for ``had`` and was ended since it used more memory."""
    own = mebibytes(had.get("mem"))
    limit, whose = (mebibytes(slurm.mem_max), "slurm.mem_max") if slurm.mem_max else (most.mem, most.whose)
    if own is None:
        return Raise({}, "set slurm.mem to have it raised")
    wanted = int(own * MORE) if limit is None else min(int(own * MORE), limit)
    if limit is not None and wanted <= own:
        return Raise({"mem": had["mem"]}, f"it had the most that {whose} allows, {limit}M")
    bound = f", of at most {limit}M by {whose}" if limit is not None else ""
    return Raise({"mem": f"{wanted}M"}, f"next with {wanted}M{bound}")
