"""What a job's log says of how it ended. Reads only.

A job that cannot write its results can mostly still say why: the script and the scorer end with a line for people on stderr.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

_TAIL = 16384

LONGEST = 500
"""Characters of a line that are quoted."""

_OUT_OF_MEMORY = re.compile(r"slurmstepd.*(Exceeded (job|step) memory limit|oom[-_]kill event)")
"""What Slurm writes into a job's log: not every kind of limit makes its state OUT_OF_MEMORY."""

_SCRIPT = r"(?:score|prefill)\.sbatch: "

_BEGAN = re.compile(_SCRIPT + r".* is run by .* on .*: ")

_ENDED = re.compile(_SCRIPT + r"\S+ ended with (\d+)(?: \(SIG\w+\))?")

_PASSING = re.compile(_SCRIPT + r".*(?:; going on|the exit record cannot be written|, so what was written is not checked)")
"""What the script says besides why it ends."""

_WHY = re.compile(rf"(?:scoring: |{_SCRIPT})(.+)")


class Ending(msgspec.Struct, frozen=True):
    """How the newest run in a log ended."""

    code: int | None = None
    """Exit code by the script's word; None: it did not come to say so."""
    words: str = ""
    """Why, in a line."""
    memory: str = ""
    """The line in which Slurm says that the host's memory was used up."""


def ending(log: Path) -> Ending:
    """What the end of ``log`` says; nothing where it cannot be read. A requeued job appends to the log of its earlier runs."""
    lines = _tail(log)
    began = max((number for number, line in enumerate(lines) if _BEGAN.match(line)), default=-1)
    lines = lines[began + 1 :]
    memory = next((line for line in reversed(lines) if _OUT_OF_MEMORY.search(line)), "")
    last = next((number for number in range(len(lines) - 1, -1, -1) if _ENDED.fullmatch(lines[number])), None)
    if last is None:
        return Ending(words=_why(lines), memory=memory)
    found = _ENDED.fullmatch(lines[last])
    before = [line for line in lines[:last] if not _PASSING.fullmatch(line)]
    words = _why(before) or (f"its log ends with: {before[-1]}" if before else "")
    return Ending(code=None if found is None else int(found[1]), words=words, memory=memory)


def _why(lines: Sequence[str]) -> str:
    for line in reversed(lines):
        found = _WHY.fullmatch(line)
        if found is not None and not _PASSING.fullmatch(line):
            return found[1]
    return ""


def _tail(log: Path) -> list[str]:
    """The last lines, none of them empty."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:LONGEST] for line in (" ".join(line.split()) for line in text.split("\n")) if line]
