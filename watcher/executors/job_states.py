"""The table (job state, reason, who) -> what, for Slurm 20.11 to 25.05. Pure.

What is in no row is no end and no refusal: the job is left alone, and status and an alert say so.
"""

import enum
import re
from typing import NamedTuple

from watcher.core.executor import JobState


class Canceller(enum.StrEnum):
    """Who ended a job, as far as the command tells."""

    SOMEBODY = "somebody"
    NOBODY = "nobody"
    """sacct shows CANCELLED without ``by``: slurmctld lost its state and slurmdbd closed the row."""
    UNTOLD = "untold"
    """squeue never says who."""


class JobMeaning(NamedTuple):
    """What a job's state means for its attempt."""

    state: JobState
    is_stuck: bool = False
    """It can never run by itself."""
    is_known: bool = True
    """A row of the table has it."""


class StateRow(NamedTuple):
    """One row; the first that matches counts."""

    raw_state: str
    reason: str
    """Of the whole reason, with spaces for underscores; ignores case."""
    meaning: JobMeaning
    who: Canceller | None = None
    """None: whoever."""

    def matches(self, raw_state: str, reason: str, who: Canceller) -> bool:
        """Whether this row is about such a job."""
        if self.who not in {None, who} or not re.fullmatch(self.raw_state, raw_state):
            return False
        return re.fullmatch(self.reason, reason.replace("_", " "), re.IGNORECASE) is not None


_ANY = r".*"

_HELD_BY_SLURM = r"(?:launch failed|launch failure limit exceeded|user env retrieval failed) requeued held|JobHoldMaxRequeue"

_NEVER_RUNS = (
    r"BadConstraints|PartitionConfig|PartitionTimeLimit|PartitionNodeLimit|DependencyNeverSatisfied|"
    r"InvalidAccount|InvalidQOS|AccountNotAllowed|QOSNotAllowed|(?:QOS|Assoc)Max\w+Per(?:Job|Node)\w*|QOSMin\w+|MaxMemPerLimit|"
    r"Reservation(?:Deleted|Invalid)|Reservation .* (?:was deleted|is invalid)|.*\bpermitted to use this partition.*"
)
"""Slurm checks a job submitted with --hold against the nodes only at its release, and a partition may not enforce its limits at
submission."""

_WAITS = (
    r"|None|\(null\)|Prolog|Priority|Dependency|Resources|PartitionDown|PartitionInactive|BeginTime|Licenses|Reservation|"
    r"ReqNodeNotAvail.*|FrontEndDown|SchedDefer|NodeDown|SystemFailure|JobLaunchFailure|NonZeroExitCode|RaisedSignal.*|TimeLimit|"
    r"InactiveLimit|Association(?:Job|Resource|Time)Limit|QOS(?:Job|Resource|Time)Limit|QOSUsageThreshold|(?:QOS|Assoc)(?:Grp|Max)\w+|"
    r"Max\w+Per(?:Account|User)|AccountingPolicy|Block\w+|Cleaning|JobArrayTaskLimit|BurstBuffer\w+|Power\w+|FedJobLock|OutOfMemory|"
    r"DeadLine|Constraints|MaxPoweredUpNodes|MpiPortsBusy|Nodes required for job are DOWN.*|Job is at or exceeds .*|"
    r"Reservation .* has ended"
)

JOB_STATE_TABLE: tuple[StateRow, ...] = (
    StateRow("PENDING|REQUEUE_HOLD", _HELD_BY_SLURM, JobMeaning(JobState.REQUEUED_HELD)),
    # RequeueExitHold of slurm.conf: the site's rule holds it, no person.
    StateRow("SPECIAL_EXIT", _ANY, JobMeaning(JobState.REQUEUED_HELD)),
    StateRow("PENDING", r"job requeued in special exit state", JobMeaning(JobState.REQUEUED_HELD)),
    # JobHeldUser, JobHeldAdmin, "job requeued in held state"
    StateRow("PENDING", r".*held.*", JobMeaning(JobState.HELD)),
    StateRow("REQUEUE_HOLD", _ANY, JobMeaning(JobState.HELD)),
    StateRow("RESV_DEL_HOLD", _ANY, JobMeaning(JobState.PENDING, is_stuck=True)),
    StateRow("PENDING", _NEVER_RUNS, JobMeaning(JobState.PENDING, is_stuck=True)),
    StateRow("PENDING", _WAITS, JobMeaning(JobState.PENDING)),
    StateRow("PENDING", _ANY, JobMeaning(JobState.PENDING, is_known=False)),
    StateRow("CONFIGURING|POWER_UP_NODE|REQUEUED|REQUEUE_FED", _ANY, JobMeaning(JobState.PENDING)),
    StateRow("RUNNING|SUSPENDED|STOPPED|RESIZING|SIGNALING", _ANY, JobMeaning(JobState.RUNNING)),
    StateRow("COMPLETING|STAGE_OUT", _ANY, JobMeaning(JobState.COMPLETING)),
    StateRow("COMPLETED", _ANY, JobMeaning(JobState.COMPLETED)),
    StateRow("FAILED", _ANY, JobMeaning(JobState.FAILED)),
    StateRow("TIMEOUT|DEADLINE", _ANY, JobMeaning(JobState.TIMEOUT)),
    StateRow("OUT_OF_MEMORY", _ANY, JobMeaning(JobState.OUT_OF_MEMORY)),
    StateRow("NODE_FAIL|BOOT_FAIL|LAUNCH_FAILED|RECONFIG_FAIL", _ANY, JobMeaning(JobState.NODE_FAIL)),
    StateRow("PREEMPTED", _ANY, JobMeaning(JobState.PREEMPTED)),
    StateRow("CANCELLED", _ANY, JobMeaning(JobState.LOST), who=Canceller.NOBODY),
    StateRow("CANCELLED", _ANY, JobMeaning(JobState.CANCELLED)),
)


def classify_job(raw_state: str, reason: str = "", who: Canceller = Canceller.UNTOLD) -> JobMeaning:
    """The meaning of a Slurm state such as ``CANCELLED by 1000`` with its reason."""
    state_name = raw_state.split(maxsplit=1)[0].rstrip("+") if raw_state.split() else ""
    rows = (row.meaning for row in JOB_STATE_TABLE if row.matches(state_name, reason, who))
    return next(rows, JobMeaning(JobState.UNKNOWN, is_known=False))
