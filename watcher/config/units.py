"""Slurm time and memory strings <-> seconds and MiB."""

import re

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")

_MEMORY = re.compile(r"(?P<number>\d+)(?P<unit>[KMGT]?)B?", re.IGNORECASE)

_MEBIBYTES = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}


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
