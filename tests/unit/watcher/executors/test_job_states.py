"""The table (job state, reason, who) -> what, one a row; and what is in no row."""

import re

import pytest

from support.fakes.slurm_rows import accounting_row, queue_row, read_accounting, read_queue
from watcher.core.executor import JobState
from watcher.executors.job_states import JOB_STATE_TABLE, Canceller, JobMeaning, classify_job

HELD, HELD_BY_SLURM = JobMeaning(JobState.HELD), JobMeaning(JobState.REQUEUED_HELD)
WAITS, STUCK = JobMeaning(JobState.PENDING), JobMeaning(JobState.PENDING, is_stuck=True)
NO_ROW = JobMeaning(JobState.UNKNOWN, is_known=False)

ROWS = [
    ("PENDING", "JobHeldUser", HELD),
    ("PENDING", "JobHeldAdmin", HELD),
    ("PENDING", "job requeued in held state", HELD),
    ("REQUEUE_HOLD", "job requeued in held state", HELD),
    ("REQUEUE_HOLD", "None", HELD),
    ("PENDING", "launch failed requeued held", HELD_BY_SLURM),
    ("PENDING", "launch_failed_requeued_held", HELD_BY_SLURM),
    ("PENDING", "launch failure limit exceeded requeued held", HELD_BY_SLURM),
    ("PENDING", "user env retrieval failed requeued held", HELD_BY_SLURM),
    ("PENDING", "JobHoldMaxRequeue", HELD_BY_SLURM),
    ("REQUEUE_HOLD", "launch failed requeued held", HELD_BY_SLURM),
    ("SPECIAL_EXIT", "JobHeldUser", HELD_BY_SLURM),
    ("PENDING", "job requeued in special exit state", HELD_BY_SLURM),
    ("RESV_DEL_HOLD", "ReservationDeleted", STUCK),
    ("PENDING", "ReservationDeleted", STUCK),
    ("PENDING", "ReservationInvalid", STUCK),
    ("PENDING", "Reservation night was deleted", STUCK),
    ("PENDING", "BadConstraints", STUCK),
    ("PENDING", "PartitionConfig", STUCK),
    ("PENDING", "PartitionTimeLimit", STUCK),
    ("PENDING", "PartitionNodeLimit", STUCK),
    ("PENDING", "DependencyNeverSatisfied", STUCK),
    ("PENDING", "InvalidAccount", STUCK),
    ("PENDING", "InvalidQOS", STUCK),
    ("PENDING", "AccountNotAllowed", STUCK),
    ("PENDING", "QOSNotAllowed", STUCK),
    ("PENDING", "Job's account not permitted to use this partition (gpu allows a not b)", STUCK),
    ("PENDING", "uid 1 not in group permitted to use this partition (gpu). groups allowed: a", STUCK),
    ("PENDING", "QOSMaxWallDurationPerJobLimit", STUCK),
    ("PENDING", "AssocMaxCpuPerJobLimit", STUCK),
    ("PENDING", "QOSMaxGRESPerNode", STUCK),
    ("PENDING", "QOSMinGRES", STUCK),
    ("PENDING", "MaxMemPerLimit", STUCK),
    ("CONFIGURING", "None", WAITS),
    ("POWER_UP_NODE", "None", WAITS),
    ("REQUEUED", "None", WAITS),
    ("REQUEUE_FED", "None", WAITS),
    ("RUNNING", "None", JobMeaning(JobState.RUNNING)),
    ("SUSPENDED", "None", JobMeaning(JobState.RUNNING)),
    ("STOPPED", "None", JobMeaning(JobState.RUNNING)),
    ("RESIZING", "None", JobMeaning(JobState.RUNNING)),
    ("SIGNALING", "None", JobMeaning(JobState.RUNNING)),
    ("COMPLETING", "NonZeroExitCode", JobMeaning(JobState.COMPLETING)),
    ("STAGE_OUT", "None", JobMeaning(JobState.COMPLETING)),
    ("COMPLETED", "None", JobMeaning(JobState.COMPLETED)),
    ("FAILED", "JobLaunchFailure", JobMeaning(JobState.FAILED)),
    ("TIMEOUT", "TimeLimit", JobMeaning(JobState.TIMEOUT)),
    ("DEADLINE", "DeadLine", JobMeaning(JobState.TIMEOUT)),
    ("OUT_OF_MEMORY", "OutOfMemory", JobMeaning(JobState.OUT_OF_MEMORY)),
    ("NODE_FAIL", "NodeDown", JobMeaning(JobState.NODE_FAIL)),
    ("BOOT_FAIL", "None", JobMeaning(JobState.NODE_FAIL)),
    ("LAUNCH_FAILED", "None", JobMeaning(JobState.NODE_FAIL)),
    ("RECONFIG_FAIL", "None", JobMeaning(JobState.NODE_FAIL)),
    ("PREEMPTED", "None", JobMeaning(JobState.PREEMPTED)),
    ("CANCELLED", "None", JobMeaning(JobState.CANCELLED)),
    ("CANCELLED", "launch failed requeued held", JobMeaning(JobState.CANCELLED)),
    ("CANCELLED+", "None", JobMeaning(JobState.CANCELLED)),
]
WAITING_REASONS = [
    "",
    "None",
    "(null)",
    "Prolog",
    "Priority",
    "Dependency",
    "Resources",
    "PartitionDown",
    "PartitionInactive",
    "BeginTime",
    "Licenses",
    "Reservation",
    "ReqNodeNotAvail",
    "ReqNodeNotAvail, UnavailableNodes:node1",
    "ReqNodeNotAvail, Reserved for maintenance",
    "FrontEndDown",
    "SchedDefer",
    "NodeDown",
    "SystemFailure",
    "JobLaunchFailure",
    "NonZeroExitCode",
    "RaisedSignal:9(Killed)",
    "TimeLimit",
    "InactiveLimit",
    "AssociationJobLimit",
    "QOSResourceLimit",
    "QOSUsageThreshold",
    "QOSGrpCpuLimit",
    "QOSMaxJobsPerUserLimit",
    "AssocGrpCPUMinutesLimit",
    "AssocMaxJobsLimit",
    "AssocGrpBillingRunMinutes",
    "MaxGRESPerAccount",
    "MaxCpuRunMinsPerUser",
    "AccountingPolicy",
    "BlockMaxError",
    "Cleaning",
    "JobArrayTaskLimit",
    "BurstBufferStageIn",
    "PowerNotAvail",
    "FedJobLock",
    "OutOfMemory",
    "DeadLine",
    "Constraints",
    "MaxPoweredUpNodes",
    "MpiPortsBusy",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    "Job is at or exceeds QOS normal's group wall limit of 5 with 6",
    "Reservation night, which this job was running under, has ended",
]
UNKNOWN_ROWS = [("REVOKED", "None"), ("TELEPORTED", ""), ("EXPEDITING", "None"), ("", ""), ("?", "")]


@pytest.mark.parametrize(("raw_state", "reason", "meaning"), ROWS)
def test_a_state_with_its_reason(raw_state, reason, meaning):
    assert classify_job(raw_state, reason) == meaning


@pytest.mark.parametrize("reason", WAITING_REASONS)
def test_a_job_that_waits_for_its_turn(reason):
    assert classify_job("PENDING", reason) == WAITS


@pytest.mark.parametrize(("raw_state", "reason"), UNKNOWN_ROWS)
def test_a_state_in_no_row_is_no_end(raw_state, reason):
    assert classify_job(raw_state, reason) == NO_ROW
    job = read_queue(queue_row(**{"%T": raw_state, "%r": reason}))["eval-1"]
    assert (job.state, job.raw_state, job.is_known, job.state.is_terminal) == (JobState.UNKNOWN, raw_state, False, False)


@pytest.mark.parametrize("reason", ["WaitingForGodot", "Burst buffer pre_run error", "site_rule: come back on Monday"])
def test_a_job_that_waits_for_what_no_row_has_waits_and_is_not_known(reason):
    job = read_queue(queue_row(**{"%T": "PENDING", "%r": reason}))["eval-1"]
    assert (job.state, job.stuck, job.is_known) == (JobState.PENDING, False, False)


@pytest.mark.parametrize(
    ("raw_state", "state", "is_known"),
    [
        ("CANCELLED by 1000", JobState.CANCELLED, True),
        ("CANCELLED by 0", JobState.CANCELLED, True),
        ("CANCELLED", JobState.LOST, True),
        ("TELEPORTED", JobState.UNKNOWN, False),
    ],
)
def test_accounting_tells_who_cancelled_or_that_nobody_did(raw_state, state, is_known):
    job = read_accounting(accounting_row(State=raw_state))["eval-1"]
    assert (job.state, job.is_known, job.is_canceller_known) == (state, is_known, True)


def test_the_queue_does_not_tell_who_cancelled():
    job = read_queue(queue_row(**{"%T": "CANCELLED"}))["eval-1"]
    assert (job.state, job.is_canceller_known) == (JobState.CANCELLED, False)


def test_each_row_of_the_table_has_a_row_here():
    asked = [(word.rstrip("+"), reason, Canceller.UNTOLD) for word, reason, _ in ROWS]
    asked += [("PENDING", reason, Canceller.UNTOLD) for reason in [*WAITING_REASONS, "WaitingForGodot"]]
    asked.append(("CANCELLED", "", Canceller.NOBODY))
    first = {next(index for index, row in enumerate(JOB_STATE_TABLE) if row.matches(*each)) for each in asked}
    assert first == set(range(len(JOB_STATE_TABLE)))
    for row in JOB_STATE_TABLE:
        for word in row.raw_state.split("|"):
            assert any(re.fullmatch(word, raw_state) for raw_state, _, _ in asked), word
