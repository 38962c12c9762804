"""How a job ended, according to its log. Reads only.

A job that cannot write its results can usually still write its log: script and scorer end with a line for people on stderr.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from suites.common.documents import read_tail

_TAIL_BYTES = 16384

MAX_LINE_CHARACTERS = 500
"""Characters of a line that are quoted."""

_OUT_OF_MEMORY = re.compile(r"slurmstepd.*(Exceeded (job|step) memory limit|oom[-_]kill event)")
"""Slurm's lines in a job's log: not every kind of limit sets the state OUT_OF_MEMORY."""

_SCRIPT_PREFIX = r"(?:score|prefill)\.sbatch: "

_RUN_STARTED = re.compile(_SCRIPT_PREFIX + r".* is run by .* on .*: ")

_RUN_ENDED = re.compile(_SCRIPT_PREFIX + r"\S+ ended with (\d+)(?: \(SIG\w+\))?")

_NOT_THE_REASON = re.compile(
    _SCRIPT_PREFIX + r".*(?:; going on|the exit record cannot be written|, so what was written is not checked)"
)
"""Lines of the script other than the reason of its end."""

_REASON = re.compile(rf"(?:scoring: |{_SCRIPT_PREFIX})(.+)")


class LogEnding(msgspec.Struct, frozen=True):
    """How the newest run in a log ended."""

    exit_code: int | None = None
    """Exit code in the script's last line; None: it wrote none."""
    reason: str = ""
    """The reason, in one line."""
    out_of_memory_line: str = ""
    """Slurm's line about exhausted host memory."""


def read_log_ending(log: Path) -> LogEnding:
    """Exit code, reason and OOM line from the end of ``log``.

    Empty where unreadable. A requeued job appends to the log of its earlier runs.
    """
    lines = _read_tail(log)
    # A requeue appends, so lines of earlier runs come before the last start.
    run_start = max((number for number, line in enumerate(lines) if _RUN_STARTED.match(line)), default=-1)
    lines = lines[run_start + 1 :]
    out_of_memory_line = next((line for line in reversed(lines) if _OUT_OF_MEMORY.search(line)), "")
    last_line = next((number for number in range(len(lines) - 1, -1, -1) if _RUN_ENDED.fullmatch(lines[number])), None)
    if last_line is None:
        return LogEnding(reason=_find_reason(lines), out_of_memory_line=out_of_memory_line)
    match = _RUN_ENDED.fullmatch(lines[last_line])
    earlier_lines = [line for line in lines[:last_line] if not _NOT_THE_REASON.fullmatch(line)]
    reason = _find_reason(earlier_lines) or (f"last line of its log: {earlier_lines[-1]}" if earlier_lines else "")
    return LogEnding(exit_code=None if match is None else int(match[1]), reason=reason, out_of_memory_line=out_of_memory_line)


def _find_reason(lines: Sequence[str]) -> str:
    for line in reversed(lines):
        match = _REASON.fullmatch(line)
        if match is not None and not _NOT_THE_REASON.fullmatch(line):
            return match[1]
    return ""


def _read_tail(log: Path) -> list[str]:
    """The last lines, none of them empty."""
    try:
        text = read_tail(log, _TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    return [line[:MAX_LINE_CHARACTERS] for line in (" ".join(line.split()) for line in text.split("\n")) if line]
