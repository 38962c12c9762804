"""How much time and memory an attempt asks for: the config's, or more where an earlier attempt ran out of it. Pure.

Time is doubled and memory taken times one and a half after each attempt that ended for want of it, up to the most
that ``slurm.time_max`` and ``slurm.mem_max`` name, or else that Slurm tells of the partition.
"""

import re
from collections.abc import Mapping

import msgspec

from watcher.config import PREFILL_CPUS, PREFILL_TIME, Config, Slurm
from watcher.executor import Most
from watcher.states import Record

LONGER = 2.0
MORE = 1.5

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(?P<number>\d+)(?P<unit>[KMGT]?)B?", re.IGNORECASE)
_MEBIBYTES = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}


class Raise(msgspec.Struct, frozen=True):
    """What the next attempt asks for beyond the config, and how that is said."""

    asks: Mapping[str, str]
    """``time`` and ``mem`` as sbatch takes them; only those that differ from the config's."""
    words: str


def seconds(text: str | None) -> float | None:
    """Of Slurm's ``minutes[:seconds]``, ``hours:minutes:seconds``, ``days-hours[:minutes[:seconds]]``; None: no limit."""
    found = None if text is None else _TIME.fullmatch(text.strip())
    if found is None:
        return None
    numbers = [int(number) for number in found["rest"].split(":")]
    if found["days"] is not None:
        hours, minutes, rest = (*numbers, 0, 0)[:3]
        return float(int(found["days"]) * 86400 + hours * 3600 + minutes * 60 + rest)
    if len(numbers) < 3:  # noqa: PLR2004  minutes, or minutes and seconds
        minutes, rest = (*numbers, 0)[:2]
        return float(minutes * 60 + rest)
    return float(numbers[0] * 3600 + numbers[1] * 60 + numbers[2])


def as_time(number: float) -> str:
    """``hours:minutes:seconds`` up to a day, else ``days-hours:minutes:seconds``."""
    whole = round(number)
    days, rest = divmod(whole, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def mebibytes(text: str | None) -> int | None:
    """Of sbatch's ``64G`` or ``1500``; None where there is none, and for 0, which is all of a node."""
    found = None if text is None else _MEMORY.fullmatch(text.strip())
    return None if found is None else int(int(found["number"]) * _MEBIBYTES[found["unit"].upper()]) or None


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
