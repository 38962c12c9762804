"""Classifies sbatch's output: submitted, refused, later or ambiguous. Pure.

An unknown answer is AMBIGUOUS: the job may exist. It carries its words, since a site's own refusal looks like this.
"""

import re
from collections.abc import Iterable

from watcher.core.executor import SubmissionResult, SubmitKind
from watcher.executors.sbatch_messages import LATER_MESSAGES, LOST_MESSAGES, POLICY_VIOLATION, REFUSAL_MESSAGES
from watcher.executors.slurm_messages import Meaning, judge_line

_SIZE_LIMIT = re.compile(r"(?:qos|assoc)\w*(?:wall|cpu|mem|gres|node|tres|billing)\w*")

_RESERVED_LONG = ("--array", "--wrap", "--test-only", "--wait", "--clusters")

_RESERVED_SHORT = ("-a", "-W", "-M")

_JOB_ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?", re.ASCII)

_NAMES_A_JOB = re.compile(r"submitted batch job|\bjob (?:\d+ )?(?:was |is )?submitted", re.IGNORECASE)
"""A message that names a submission, whatever else went wrong."""


def find_reserved_options(extra: Iterable[str]) -> list[str]:
    """Options of the user that break one job for one attempt."""

    def is_reserved(argument: str) -> bool:
        if not argument.startswith("--"):
            return argument.startswith(_RESERVED_SHORT)
        name = argument.split("=", maxsplit=1)[0]
        return any(option.startswith(name) for option in _RESERVED_LONG)

    return [argument for argument in extra if is_reserved(argument)]


def parse_sbatch_response(exit_code: int | None, stdout: str, stderr: str) -> SubmissionResult:
    """The outcome of an sbatch from exit code and output.

    Exit code None: it was killed after its time limit.
    """
    message = "\n".join(part.strip() for part in (stderr, stdout) if part.strip())
    ids = [match[1] for line in stdout.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
    if exit_code == 0 and len(ids) == 1:
        return SubmissionResult(kind=SubmitKind.SUBMITTED, job_id=ids[0], message=stderr.strip())
    # A command that was killed, or that names jobs and fails, says nothing about its submission.
    if exit_code is None or exit_code < 0 or ids or _NAMES_A_JOB.search(message):
        return SubmissionResult(kind=SubmitKind.AMBIGUOUS, message=message)
    kind = SubmitKind.AMBIGUOUS if exit_code == 0 else _classify(_drop_noise(message))
    if kind is not SubmitKind.AMBIGUOUS:
        return SubmissionResult(kind=kind, message=message)
    message = message or f"sbatch ended with exit code {exit_code}, without a word"
    return SubmissionResult(kind=kind, message=message, answer=_make_comparable(message))


def _drop_noise(message: str) -> str:
    """The lower-case message without lines about Slurm's configuration, which use words of refusals too."""
    lines = message.lower().splitlines()
    return "\n".join([line for line in lines if ": error: " not in line or judge_line(line) is not Meaning.NOTHING] or lines)


def _make_comparable(message: str) -> str:
    """The words that two equal answers share; empty where the answer was lost, which is no refusal."""
    text = _drop_noise(message)
    return "" if _has_any(text, LOST_MESSAGES) else " ".join(re.sub(r"\d+", "0", text).split())


def _classify(text: str) -> SubmitKind:
    if _has_any(text, LOST_MESSAGES):
        return SubmitKind.AMBIGUOUS
    if _has_any(text, LATER_MESSAGES):
        return SubmitKind.LATER
    if _has_any(text, REFUSAL_MESSAGES):
        return SubmitKind.REFUSED
    if POLICY_VIOLATION in text:
        return SubmitKind.REFUSED if _SIZE_LIMIT.search(text) else SubmitKind.LATER
    return SubmitKind.AMBIGUOUS


def _has_any(text: str, messages: Iterable[str]) -> bool:
    return any(message in text for message in messages)
