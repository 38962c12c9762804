"""What is made of sbatch's words: the messages of slurm_errno.c and of sbatch from 21.08 to 25.05, one a row."""

import pytest

from watcher.core.executor import SubmitKind
from watcher.executors.sbatch_messages import LATER_MESSAGES, LOST_MESSAGES, REFUSAL_MESSAGES
from watcher.executors.sbatch_response import parse_sbatch_response

FAILED = "sbatch: error: Batch job submission failed: "

REFUSED = [
    "Invalid partition name specified",
    "No partition specified or system default partition",
    "Access/permission denied",
    "User's group not permitted to use this partition",
    "Requested nodes not in this partition",
    "More processors requested than permitted",
    "Node count specification invalid",
    "Job size specification needs to be provided",
    "Job script not specified",
    "Invalid user id",
    "Invalid user ID",
    "Invalid group id",
    "Missing UNIX user in the system",
    "Missing UNIX group in the system",
    "Unable to resolve user ID to user name",
    "Unable to resolve group ID to group name",
    "Pathname of a file, directory or other parameter too long",
    "Requested node configuration is not available",
    "Requested topology configuration is not available",
    "Invalid node name specified",
    "Task distribution specification invalid",
    "Task count specification invalid",
    "Invalid feature specification",
    "Invalid preferred feature specification",
    "Invalid cluster feature specification",
    "Invalid extra constraints specification",
    "Requested operation not supported on this system",
    "Requested operation is presently disabled",
    "Only batch jobs are accepted or processed",
    "Current SwitchType does not permit arbitrary task distribution",
    "Requested more tasks than available processors",
    "Memory required by task is not available",
    "Invalid account or account/partition combination specified",
    "Invalid or unknown association",
    "Invalid qos specification",
    "Invalid QOS specification, relative QOS can only be used in a single partition per cluster.",
    "Invalid wckey specification",
    "Invalid license specification",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Time limit specification required, but not provided",
    "Invalid time specified",
    "Invalid time-min specification (exceeds job's time or other limits)",
    "Access denied to requested reservation",
    "Requested reservation is invalid",
    "Requires more ports than can be reserved",
    "CPU count specification invalid",
    "Circular job dependency",
    "Invalid generic resource (gres) specification",
    "Duplicate generic resource (gres) specification",
    "Invalid GRES specification (with and without type identification)",
    "Requested GRES option unsupported by configured SelectType plugin",
    "Insufficient GRES available in allocation",
    "Invalid job array specification",
    "Burst Buffer permission denied",
    "Burst Buffer request invalid",
    "Invalid mcs_label specified",
    "X11 forwarding not available",
    "Job --batch option is invalid or not a subset of --constraints",
    "Job --batch option is invalid or not a subset of --constraint",
    "Invalid Trackable RESource (TRES) specification",
    "Multiple KNL NUMA and/or MCDRAM constraints require use of a heterogeneous job",
    "Invalid KNL configuration (MCDRAM or NUMA option)",
    "Invalid --nice value",
    "Environment is missing in job",
    "Multiple partition job request not supported when a partition is set in the association",
    "Cannot request more threads per core than the job allocation",
    "Invalid cluster name",
    "No eligible clusters for federated job",
    "Container support is not configured",
    "Container runtime not configured or invalid",
    "Job cannot be submitted without the current working directory specified.",
    "Preemption is required but is disabled on this system",
    "Invalid MPI plugin name",
    "Invalid accounting frequency requested",
]
"""slurmctld's refusals."""

REFUSED_BY_SBATCH = [
    "Unable to open file nosuch.sh",
    "sbatch: error: Batch script is empty!",
    "sbatch: error: Batch script contains only whitespace!",
    "sbatch: error: This does not look like a batch script.  The first",
    "sbatch: error: Batch script contains DOS line breaks (\\r\\n)",
    "sbatch: error: The Slurm controller does not allow scripts that\nsbatch: error: contain a NULL character '\\0'.",
    "sbatch: error: Invalid directive found in batch script: --bogus",
    "sbatch: fatal: Script job.sh is too big, read 5000000 > 4194304 bytes.",
    "sbatch: error: Invalid --time specification",
    'sbatch: error: Invalid numeric value "x" for --cpus-per-task.',
    "sbatch: error: Numeric argument (99999999999) to big for --ntasks.",
    "sbatch: error: invalid number of cpus per task (-c -1)",
    'sbatch: error: "x" is not a valid node count',
    "sbatch: error: Maximum node count 1 is less than minimum node count 2",
    "sbatch: error: Invalid node list specified",
    "sbatch: unrecognized option '--bogus'",
    'sbatch: error: unrecognized --hint argument "x", see --hint=help',
    "sbatch: invalid option -- 'y'",
    "sbatch: option '--account' requires an argument",
    "sbatch: option '--me' is ambiguous; possibilities: '--mem' '--mem-bind'",
    "sbatch: fatal: --mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.",
    "sbatch: error: --uid only permitted by root user",
    "sbatch: error: Priority must be >= 0",
    "sbatch: error: --propagate=x is not valid.",
    "sbatch: fatal: Invalid TRES for --tres-per-task: mem",
    "sbatch: error: Incompatible begin and deadline time specification",
    "sbatch: error: Script arguments not permitted with --wrap option",
    "sbatch: error: Cannot specify both --burst-buffer and --bbf",
    "sbatch: error: Too few processes for the requested {plane,node} distribution",
    "sbatch: error: Plugin stack post-option processing failed",
    "sbatch: error: cli_filter plugin terminated with error",
    "sbatch: error: invalid account",
    "sbatch: error: lua: Invalid Account name 'x'",
    "SBATCH: ERROR: INVALID QOS SPECIFICATION",
]
"""What sbatch says itself, or a site in Slurm's words."""

LATER = [
    "Requested partition configuration not available now",
    "Required partition not available (inactive or drain)",
    "Partition in DOWN state",
    "Required node not available (down, drained or reserved)",
    "Requested nodes are busy",
    "Max powered up nodes reached",
    "Job dependency problem",
    "Unable to create job record, try again",
    "I/O error writing script/environment to file",
    "Job can not be altered now, try again later",
    "Job update not available right now, the DB index is being set, try again in a bit",
    "Slurm backup controller in standby mode",
    "Controller is in standby mode, try a different controller",
    "System submissions disabled",
    "Requested reservation is in use",
    "Requested reservation not usable now",
    "Job can not start due to maintenance reservation.",
    "Burst Buffer resource limit exceeded",
    "Waiting for burst buffer",
    "Licenses currently unavailable",
    "Rate limit exceeded, please retry momentarily",
    "Rate limit exceeded, please retry later",
    "Requested account has breached requested QOS usage threshold",
    "Switch resources currently not available",
    "Required ports are in use",
    "PrologSlurmctld is still running",
    "Immediate execution impossible, insufficient priority",
    "Immediate execution impossible, resources too fragmented for allocation",
    "Immediate execution impossible. Individual job submission scheduling attempts deferred",
    "Job can not start immediately",
    "Unable to connect to database",
    "Resource temporarily unavailable",
    "Slurm temporarily unable to accept job, sleeping and retrying",
    "Slurm job queue full, sleeping and retrying",
    "QOSMaxSubmitJobPerUserLimit",
    "AssocGrpSubmitJobsLimit",
    "No clusters can be reached now. Contact your admin to resolve the problem.",
]

LOST = [
    "Socket timed out on send/recv operation",
    "Unable to contact slurm controller (connect failure)",
    "Zero Bytes were transmitted or received",
    "Protocol authentication error",
    "Invalid authentication credential",
    "Authentication credential expired",
    "Cannot unpack credential",
    "Munge encode failed: Failed to access",
    "Unexpected message received",
    "Communication connection failure",
    "Communication shutdown failure",
    "Message send failure",
    "Message receive failure",
    "Incompatible versions of client and server code",
    "I/O stream version number error",
    "Insane message length",
    "Can't find an address, check slurm.conf",
    "Unexpected missing socket error",
    "Received zero length message",
    "Received message length < 0",
    "Failed to send entire message",
    "Header lengths are longer than data received",
    "Connection refused",
    "Connection reset by peer",
    "Connection timed out",
    "Broken pipe",
    "No route to host",
]

UNKNOWN = [
    "Unspecified error",
    "Slurm internal error, contact system administrator",
    "This cluster wants a project: add --account=PROJECT",
    "Jobs without a comment are rejected by the site",
]
"""A refusal perhaps, in words that no table knows."""


def classify(words, exit_code=1):
    return parse_sbatch_response(exit_code, "", f"{words}\n")


@pytest.mark.parametrize("words", [*(FAILED + words for words in REFUSED), *REFUSED_BY_SBATCH])
def test_a_refusal_in_slurms_words(words):
    outcome = classify(words, 255 if "option" in words else 1)
    assert (outcome.kind, outcome.message, outcome.answer) == (SubmitKind.REFUSED, words, "")


@pytest.mark.parametrize("words", LATER)
def test_what_passes_by_itself(words):
    outcome = classify(FAILED + words)
    assert (outcome.kind, outcome.answer) == (SubmitKind.LATER, "")


@pytest.mark.parametrize("words", LOST)
@pytest.mark.parametrize("beside", ["", f"{FAILED}Invalid qos specification\n"])
def test_a_lost_answer_is_never_a_refusal(words, beside):
    outcome = classify(f"{beside}{FAILED}{words}")
    assert (outcome.kind, outcome.answer) == (SubmitKind.AMBIGUOUS, "")


def test_a_failure_that_names_a_job_is_no_refusal():
    for stdout, stderr in (
        ("Submitted batch job 123 (held)", "hook: i/o error; invalid --mail"),
        ("", "sbatch: job submitted; post hook: unable to open file /var/log/x"),
        ("Job 123 submitted", "email hook: rate limit exceeded"),
        ("Submitted batch job \u0661\u0662", ""),
    ):
        assert parse_sbatch_response(1, stdout, stderr).kind is SubmitKind.AMBIGUOUS, stdout
    assert parse_sbatch_response(0, "Submitted batch job \u0661\u0662", "").kind is SubmitKind.AMBIGUOUS


@pytest.mark.parametrize("words", UNKNOWN)
def test_words_that_no_table_knows_are_ambiguous_and_kept(words):
    outcome = classify(FAILED + words)
    assert (outcome.kind, outcome.message) == (SubmitKind.AMBIGUOUS, FAILED + words)
    assert outcome.answer == " ".join((FAILED + words).lower().split())


@pytest.mark.parametrize(
    ("exit_code", "stdout", "stderr", "may_be_refusal"),
    [
        (1, "", "", True),
        (0, "", "", True),
        (0, "please use gridsub\n", "", True),
        (None, "", "no answer in 60 s\n", False),
        (-9, "", "killed\n", False),
        (1, "7\n", "sbatch: error: odd\n", False),
        (0, "7\n8\n", "", False),
    ],
)
def test_which_silence_may_be_a_refusal(exit_code, stdout, stderr, may_be_refusal):
    outcome = parse_sbatch_response(exit_code, stdout, stderr)
    assert (outcome.kind, bool(outcome.answer)) == (SubmitKind.AMBIGUOUS, may_be_refusal)
    assert outcome.message != "" or not may_be_refusal


def test_answers_that_differ_in_numbers_and_spaces_are_equal():
    first, second = (classify(f"sbatch: error: site  rule {number}: no\n{FAILED}Unspecified error") for number in (7, 12))
    assert first.answer == second.answer != ""
    assert first.message != second.message


def test_lines_about_slurms_configuration_are_no_refusal():
    noise = "sbatch: error: DefMemPerCPU ignored, since it's mutually exclusive with DefMemPerNode"
    assert classify(f"{noise}\n{FAILED}Unspecified error").kind is SubmitKind.AMBIGUOUS
    assert classify(f"{noise}\n{FAILED}Partition in DOWN state").kind is SubmitKind.LATER


def test_a_cluster_may_stand_behind_the_id():
    assert parse_sbatch_response(0, "Submitted batch job 2 on cluster lab\n", "").job_id == "2"


def test_each_row_of_the_tables_has_a_line_here():
    tables = ((REFUSAL_MESSAGES, REFUSED + REFUSED_BY_SBATCH), (LATER_MESSAGES, LATER), (LOST_MESSAGES, LOST))
    for rows, lines in tables:
        assert [row for row in rows if not any(row in line.lower() for line in lines)] == []
