"""Slurm's own words, as measured and from its sources, and what is made of them."""

import time

import pytest

from support.fakes.slurm_rows import MARKS, queue_row, read_accounting, read_queue
from support.fakes.slurm_rows import accounting_row as past
from watcher.core.executor import JobState, PartitionLimits, SubmitKind
from watcher.executors.sbatch_response import find_reserved_options, parse_sbatch_response
from watcher.executors.slurm_parsers import (
    parse_exit_code,
    parse_partition_limits,
    parse_timestamp,
)

FAILED = "sbatch: error: Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize(
    ("code", "out", "job_id"),
    [
        (0, "1\n", "1"),
        (0, "15;lab50f6e9\n", "15"),
        (0, "Submitted batch job 2\n", "2"),
        (0, "Welcome to the cluster!\n\n77\n", "77"),
    ],
)
def test_only_one_parsed_id_is_a_submission(code, out, job_id):
    done = parse_sbatch_response(code, out, "")
    assert (done.kind, done.job_id) == (SubmitKind.SUBMITTED, job_id)


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (0, "", ""),
        (0, "moved to Lustre 2\n", ""),
        (0, "1\n2\n", ""),
        (1, "3\n", "sbatch: error: something after the fact\n"),
        (None, "", "no answer in 60 s\n"),
        (None, "", f"{FAILED}Invalid qos specification\n"),
        (-9, "", ""),
        (1, "", ""),
        (1, "", f"{FAILED}Socket timed out on send/recv operation\n"),
        (1, "", f"{FAILED}Unable to contact slurm controller (connect failure)\n"),
        (1, "", "sbatch: error: Munge encode failed: Failed to access\nfailed: Protocol authentication error\n"),
        (1, "", f"{FAILED}Zero Bytes were transmitted or received\n"),
        (1, "", f"{FAILED}A message that nobody has seen before\n"),
        (1, "", f"sbatch: error: Invalid qos specification\n{FAILED}Socket timed out on send/recv operation\n"),
    ],
)
def test_whatever_is_not_certain_is_ambiguous(code, out, err):
    done = parse_sbatch_response(code, out, err)
    assert (done.kind, done.job_id) == (SubmitKind.AMBIGUOUS, None)


@pytest.mark.parametrize(
    "words",
    [
        f"sbatch: error: invalid partition specified: nosuch\n{FAILED}Invalid partition name specified",
        f"{FAILED}Invalid account or account/partition combination specified",
        f"{FAILED}Invalid qos specification",
        f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
        f"{FAILED}Node count specification invalid",
        f"sbatch: error: CPU count per node can not be satisfied\n{FAILED}Requested node configuration is not available",
        f"{FAILED}Invalid generic resource (gres) specification",
        f"{FAILED}Invalid feature specification",
        "Unable to open file nosuch.sh",
        "sbatch: error: Batch script is empty!",
        "sbatch: error: This does not look like a batch script.  The first\nsbatch: error: line must start with #!",
        "sbatch: error: Batch script contains DOS line breaks (\\r\\n)",
        "sbatch: error: Invalid --time specification",
        "sbatch: unrecognized option '--bogus'",
        f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}",
    ],
)
def test_a_named_refusal_keeps_its_words(words):
    done = parse_sbatch_response(255 if "unrecognized" in words else 1, "", f"{words}\n")
    assert (done.kind, done.message) == (SubmitKind.REFUSED, words)


@pytest.mark.parametrize(
    "words",
    [
        f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}",
        f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}",
        f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}",
        POLICY,
        f"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n{FAILED}Resource temporarily unavailable",
        f"{FAILED}Required partition not available (inactive or drain)",
        f"{FAILED}Job dependency problem",
    ],
)
def test_a_limit_means_later(words):
    assert parse_sbatch_response(1, "", words).kind is SubmitKind.LATER


def test_times_that_are_forecasts_are_left_out():
    jobs = read_queue(queue_row(), queue_row(**{"%j": "eval-2", "%T": "PENDING", "%r": "Priority"}))
    assert [(job.submit_time, job.start_time, job.end_time) for job in jobs.values()] == [(100, 200, None), (100, None, None)]


@pytest.mark.parametrize("order", [1, -1])
def test_of_jobs_of_one_name_the_running_one_counts_then_the_newer_and_the_others_are_copies(order):
    rows = [queue_row(**{"%F": "7"}), queue_row(**{"%F": "9", "%T": "FAILED"}), queue_row(**{"%F": "8", "%T": "PENDING"})]
    jobs = read_queue(*rows[::order])
    assert (jobs["eval-1"].job_id, [copy.job_id for copy in jobs["eval-1"].copies]) == ("7", ["8", "9"])


def test_the_ghost_of_a_refused_submission_is_no_job_of_ours():
    ghosts = [
        past(State="FAILED", ExitCode=code, NodeList="None assigned", End=end) for code, end in (("0:0", "Unknown"), ("1:0", "9"))
    ]
    assert read_accounting(*ghosts) == {}
    jobs = read_accounting(past(State="FAILED", ExitCode="1:0"))
    assert jobs["eval-1"].exit_code == 1


def test_earlier_runs_of_a_requeued_job_are_its_restarts():
    rows = [
        past(State="REQUEUED"),
        past(State="NODE_FAIL", Submit="150"),
        past(Submit="160", Start="170"),
    ]
    job = read_accounting(*rows)["eval-1"]
    assert (job.state, job.restarts, job.submit_time) == (JobState.COMPLETED, 2, 160)


def test_who_cancelled_is_named():
    assert read_accounting(past(State="CANCELLED by 0"))["eval-1"].reason == "by root (uid 0)"
    assert read_accounting(past(State="CANCELLED by 4294967"))["eval-1"].reason == "by uid 4294967"
    assert read_accounting(past(State="CANCELLED"))["eval-1"].reason == ""


@pytest.mark.parametrize(("text", "meant"), [("0:0", (0, None)), ("65:0", (65, None)), ("0:9", (None, 9)), ("", (None, None))])
def test_exit_codes(text, meant):
    assert parse_exit_code(text) == meant


def test_times():
    assert parse_timestamp("1795462956") == 1795462956
    assert parse_timestamp(time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(1795462956))) == 1795462956
    assert [parse_timestamp(word) for word in ("N/A", "Unknown", "None", "", "NONE")] == [None] * 5


def test_options_that_would_break_one_attempt_one_job_are_found():
    extra = ["--array=1-3", "--arr=1", "-a1-3", "-W", "-Mother", "--clusters=other", "--wrap=true", "--test-only"]
    assert find_reserved_options(extra) == extra
    assert (
        find_reserved_options(
            ["--account=x", "-A", "x", "--constraint=a100", "--wckey=k", "--nodes=1", "--exclusive", "--time=1"]
        )
        == []
    )


def test_a_partitions_limits_are_the_smallest_that_are_told():
    rows = [MARKS.make_layout(row) for row in (("a*", "4:00:00", "4000+"), ("b", "1-00:00:00", "64000"), ("c", "infinite", "0"))]
    text = "\n".join(["CLUSTER: lab", *rows])
    limits = PartitionLimits(time_seconds=14400.0, memory_mib=4000, source="partition a")
    assert parse_partition_limits(text, None, MARKS) == limits
    assert parse_partition_limits(text, "a,b,c", MARKS) == PartitionLimits(
        time_seconds=14400.0, memory_mib=4000, source="partition a, b, c"
    )
    assert parse_partition_limits(rows[2], "c", MARKS) == PartitionLimits(source="partition c")
    assert parse_partition_limits("", "nosuch", MARKS) == PartitionLimits()
