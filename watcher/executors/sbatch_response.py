"""What sbatch answers, and what that is worth: submitted, certainly not, or not known. Pure functions.

The words below are slurm_strerror's of Slurm 20.11 to 25.05. An answer that is in no table is AMBIGUOUS: the job may be there.
"""

import re
from collections.abc import Iterable

from watcher.core.executor import SubmitKind, Submitted

_UNCERTAIN = (
    "Socket timed out",
    "Unable to contact slurm controller",
    "Zero Bytes were transmitted",
    "authentication",
    "Munge",
    "Unexpected message received",
)
"""The question or its answer was lost on the way: whatever else was said, the job may be there."""

_LATER = (
    "MaxSubmitJob",  # AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit, QOSMaxSubmitJobPerAccountLimit
    "GrpSubmitJob",  # AssocGrpSubmitJobsLimit, QOSGrpSubmitJobsLimit
    "Slurm temporarily unable to accept job",  # MaxJobCount
    "Slurm job queue full",
    "Resource temporarily unavailable",
    "Required partition not available (inactive or drain)",
    "Requested partition configuration not available now",
    "Job dependency problem",  # the prefill job ended and was forgotten: the next look finds its data instead
)
"""Certainly not submitted, and different tomorrow without anybody's doing."""

_REFUSED = (
    "Invalid partition name specified",
    "No partition specified or system default partition",
    "Invalid account or account/partition combination specified",
    "Invalid qos specification",
    "Invalid wckey specification",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Node count specification invalid",
    "Requested node configuration is not available",
    "Requested nodes not in this partition",
    "More processors requested than permitted",
    "Memory required by task is not available",
    "Invalid generic resource (gres) specification",
    "Invalid Trackable RESource (TRES) specification",
    "Invalid license specification",
    "Invalid feature specification",
    "Invalid node name specified",
    "Invalid --nice value",
    "Requested reservation is invalid",
    "Access denied to requested reservation",
    "Access/permission denied",
    "User's group not permitted to use this partition",
    "Unable to open file",
    "Batch script is empty!",
    "This does not look like a batch script",
    "Batch script contains DOS line breaks",
    "sbatch: error: Invalid --",
    "sbatch: error: Invalid numeric value",
    "sbatch: unrecognized option",
    "sbatch: invalid option",
)
"""Certainly not submitted, and a person must change something first."""

_POLICY = "Job violates accounting/QOS policy"
"""Either a submit limit or a size that the QOS never grants; the line before it names which, mostly."""

_SIZE_LIMIT = re.compile(r"(?:QOS|Assoc)\w*(?:Wall|CPU|Cpu|Mem|GRES|Gres|Node|Tres|TRES|Billing)\w*")

_RESERVED_LONG = ("--array", "--wrap", "--test-only", "--wait", "--clusters")

_RESERVED_SHORT = ("-a", "-W", "-M")

_JOB_ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S+)?")


def reserved_options(extra: Iterable[str]) -> list[str]:
    """Those of the user's own sbatch options, abbreviated or not, that would break 'one attempt, one job, one answer'."""

    def reserved(word: str) -> bool:
        if not word.startswith("--"):
            return word.startswith(_RESERVED_SHORT)
        name = word.split("=", maxsplit=1)[0]
        return any(option.startswith(name) for option in _RESERVED_LONG)

    return [word for word in extra if reserved(word)]


def judge_submission(code: int | None, out: str, err: str) -> Submitted:
    """What an sbatch did, from its exit code (None: it had to be killed) and its words."""
    message = "\n".join(part.strip() for part in (err, out) if part.strip())
    ids = [found[1] for line in out.splitlines() if (found := _JOB_ID.fullmatch(line.strip()))]
    if code == 0 and len(ids) == 1:
        return Submitted(kind=SubmitKind.SUBMITTED, job_id=ids[0], message=err.strip())
    if code is None or code <= 0 or ids:
        return Submitted(kind=SubmitKind.AMBIGUOUS, message=message)
    return Submitted(kind=_judge_refusal(message), message=message)


def _judge_refusal(message: str) -> SubmitKind:
    if any(words in message for words in _UNCERTAIN):
        return SubmitKind.AMBIGUOUS
    if any(words in message for words in _LATER):
        return SubmitKind.LATER
    if any(words in message for words in _REFUSED):
        return SubmitKind.REFUSED
    if _POLICY in message:
        return SubmitKind.REFUSED if _SIZE_LIMIT.search(message) else SubmitKind.LATER
    return SubmitKind.AMBIGUOUS
