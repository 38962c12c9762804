"""Classifies sbatch's output: submitted, refused, later or ambiguous. Pure.

The messages are those of slurm_strerror in Slurm 20.11 to 25.05. An unknown answer is AMBIGUOUS: the job may exist.
"""

import re
from collections.abc import Iterable

from watcher.core.executor import SubmissionResult, SubmitKind

_AMBIGUOUS_MESSAGES = (
    "Socket timed out",
    "Unable to contact slurm controller",
    "Zero Bytes were transmitted",
    "authentication",
    "Munge",
    "Unexpected message received",
)
"""The request or its answer was lost on the way: the job may exist, whatever else the output contains."""

_TRY_LATER_MESSAGES = (
    "MaxSubmitJob",  # AssocMaxSubmitJobLimit, QOSMaxSubmitJobPerUserLimit, QOSMaxSubmitJobPerAccountLimit
    "GrpSubmitJob",  # AssocGrpSubmitJobsLimit, QOSGrpSubmitJobsLimit
    "Slurm temporarily unable to accept job",  # MaxJobCount
    "Slurm job queue full",
    "Resource temporarily unavailable",
    "Required partition not available (inactive or drain)",
    "Requested partition configuration not available now",
    "Job dependency problem",  # the prefill job ended and was purged: the next tick finds its data instead
)
"""Not submitted for certain; the cause goes away by itself."""

_REFUSAL_MESSAGES = (
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
"""Not submitted for certain; a person must change something first."""

_POLICY_VIOLATION = "Job violates accounting/QOS policy"
"""Either a submit limit or a size that the QOS never grants; the line before it usually names which."""

_SIZE_LIMIT = re.compile(r"(?:QOS|Assoc)\w*(?:Wall|CPU|Cpu|Mem|GRES|Gres|Node|Tres|TRES|Billing)\w*")

_RESERVED_LONG = ("--array", "--wrap", "--test-only", "--wait", "--clusters")

_RESERVED_SHORT = ("-a", "-W", "-M")

_JOB_ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S+)?")


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
    if exit_code is None or exit_code <= 0 or ids:
        return SubmissionResult(kind=SubmitKind.AMBIGUOUS, message=message)
    return SubmissionResult(kind=_classify_refusal(message), message=message)


def _classify_refusal(message: str) -> SubmitKind:
    if any(known_message in message for known_message in _AMBIGUOUS_MESSAGES):
        return SubmitKind.AMBIGUOUS
    if any(known_message in message for known_message in _TRY_LATER_MESSAGES):
        return SubmitKind.LATER
    if any(known_message in message for known_message in _REFUSAL_MESSAGES):
        return SubmitKind.REFUSED
    if _POLICY_VIOLATION in message:
        return SubmitKind.REFUSED if _SIZE_LIMIT.search(message) else SubmitKind.LATER
    return SubmitKind.AMBIGUOUS
