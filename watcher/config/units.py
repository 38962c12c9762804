"""Slurm time and memory strings <-> seconds and MiB; Slurm commands of a poll."""

import math
import re
from collections.abc import Iterable

_SLURM_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")

_SLURM_MEMORY = re.compile(r"(?P<number>\d+)(?P<unit>[KMGT]?)B?", re.IGNORECASE)

_MEBIBYTES_PER_UNIT = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}


def parse_slurm_time(text: str | None) -> float | None:
    """Seconds of a Slurm time; None for no limit or another text.

    Forms: ``minutes[:seconds]``, ``hours:minutes:seconds``, ``days-hours[:minutes[:seconds]]`` (sbatch(1), --time).
    """
    match = None if text is None else _SLURM_TIME.fullmatch(text.strip())
    if match is None:
        return None
    numbers = [int(number) for number in match["rest"].split(":")]
    if match["days"] is None and len(numbers) < 3:  # noqa: PLR2004  minutes, or minutes and seconds
        numbers = [0, *numbers]
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return float(int(match["days"] or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)


def format_slurm_time(seconds: float) -> str:
    """``hours:minutes:seconds`` up to a day, else ``days-hours:minutes:seconds``."""
    total_seconds = round(seconds)
    days, remainder = divmod(total_seconds, 86400)
    clock_text = f"{remainder // 3600:02d}:{remainder // 60 % 60:02d}:{remainder % 60:02d}"
    return f"{days}-{clock_text}" if days else clock_text


def parse_memory_mib(text: str | None) -> int | None:
    """MiB of sbatch's ``64G`` or ``1500``; None for other texts.

    Also None for 0, which means all memory of a node (sbatch(1), --mem).
    """
    match = None if text is None else _SLURM_MEMORY.fullmatch(text.strip())
    return None if match is None else int(int(match["number"]) * _MEBIBYTES_PER_UNIT[match["unit"].upper()]) or None


def format_memory_mib(mebibytes: int) -> str:
    """``64G`` or ``1500M``: in the largest unit that leaves no fraction."""
    unit, size = next((unit, size) for unit, size in (("T", 1024**2), ("G", 1024), ("M", 1)) if mebibytes % size == 0)
    return f"{mebibytes // size}{unit}"


SUBMISSION_COMMANDS = 2
"""Slurm commands of one submission: sbatch and scontrol release."""


def count_poll_commands(poll_seconds: float) -> int:
    """Slurm commands that polls take in a minute: one squeue each, and one sacct."""
    return math.ceil(60 / poll_seconds) + 1


_GPU_OPTIONS = ("--gres=", "--gpus=", "--gpus-per-node=", "--gpus-per-task=", "-G")


def count_gpus(gres: str | None, extra: Iterable[str] = ()) -> int:
    """GPUs that a job of one node asks for: by ``gres``, and by sbatch options in words, of which the last counts.

    ``gpu``, ``gpu:2``, ``gpu:a100:4``, ``gres/gpu:2`` and lists of them; of ``--gpus`` also ``2`` and ``a100:2``.
    """
    texts = [gres or ""]
    for option in extra:
        if name := next((name for name in _GPU_OPTIONS if option.startswith(name)), None):
            value = option.removeprefix(name)
            texts.append(value if name == "--gres=" else ",".join(f"gpu:{part}" for part in value.split(",")))
    return sum(_count_gres(part) for part in texts[-1].split(","))


def _count_gres(text: str) -> int:
    kind, *rest = text.strip().removeprefix("gres/").removeprefix("gres:").split("(")[0].split(":")
    if kind != "gpu":
        return 0
    return int(rest[-1]) if rest and rest[-1].isdecimal() else 1
