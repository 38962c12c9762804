"""sbatch, squeue, sacct, scontrol, scancel, sinfo over the simulated cluster.

``SimulatedSlurm.run`` stands where ``executors.slurm_commands.run_command`` does, so that everything above it is the real thing.
"""

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from watcher.executors.slurm_commands import CommandResult
from watcher.simulate.cluster import AccountingRow, JobBehaviour, SimulatedCluster, SimulatedJob

_NO_NODES = "None assigned"

_CONTROLLER_UNREACHABLE = "Unable to contact slurm controller (connect failure)"

_TIMED_OUT = "Socket timed out on send/recv operation"

_REFUSED = "Batch job submission failed: Requested node configuration is not available"

_SUBMIT_LIMIT_REACHED = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)


class SimulatedSlurm(SimulatedCluster):
    """One cluster with ``slots`` jobs at once.

    ``choose_fault(command, now)`` says how the next command goes wrong: ``down`` (not done), ``lost`` (not done, and sbatch cannot
    tell), ``silent`` (not done, no answer), ``error`` (done, and the answer is an error), ``hang`` (done, no answer), ``garbage``
    (done, and the answer is none), ``limit`` and ``refused`` (of sbatch), ``denied`` (of scontrol), or nothing.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        behaviour: JobBehaviour,
        rng: random.Random,
        *,
        slots: int = 8,
        wait_range_seconds: tuple[float, float] = (30.0, 1800.0),
        choose_fault: Callable[[str, float], str] = lambda _command, _now: "",
    ) -> None:
        super().__init__(clock, behaviour, rng, slots=slots, wait_range_seconds=wait_range_seconds)
        self.choose_fault = choose_fault
        self.has_accounting = True
        self.queue_delay_seconds = self.accounting_delay_seconds = 0.0
        """Seconds after which squeue and sacct know of a job."""
        self.calls: list[tuple[float, str]] = []
        """(unix time, command) of every command."""

    def run(self, command: Sequence[str], environment: Mapping[str, str], _timeout_seconds: float) -> CommandResult:
        """Answer a command."""
        name, now = command[0], self._clock()
        self.calls.append((now, name))
        self.advance(now)
        fault = self.choose_fault(name, now)
        if fault not in {"", "limit", "refused", "denied"}:
            self.fault_counts[f"{name}: {fault}"] += 1
        if fault in {"down", "lost"}:
            return CommandResult(
                1,
                "",
                f"{name}: error: {'Batch job submission failed: ' if name == 'sbatch' else ''}{self._get_error_message(fault)}\n",
            )
        if fault == "silent":
            return CommandResult(None, "", "")
        options, arguments = _split_options(command[1:])
        result = _COMMANDS[name](self, options, arguments, environment, fault)
        self.advance(now)
        if fault == "error":
            return CommandResult(1, "", f"{name}: error: {_TIMED_OUT}\n")
        if fault == "hang":
            return CommandResult(None, "", "")
        return CommandResult(0, "moved to Lustre 2\n", "") if fault == "garbage" else result

    @staticmethod
    def _get_error_message(fault: str) -> str:
        return _CONTROLLER_UNREACHABLE if fault == "down" else _TIMED_OUT

    def sbatch(
        self, options: Mapping[str, str], arguments: Sequence[str], _environ: Mapping[str, str], fault: str
    ) -> CommandResult:
        """A new job, held."""
        if fault == "limit":
            self.fault_counts["sbatch: limit"] += 1
            return CommandResult(1, "", f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {_SUBMIT_LIMIT_REACHED}\n")
        now = self._clock()
        job = SimulatedJob(
            job_id=self.next_id,
            name=options["job-name"],
            comment=options.get("comment", "(null)"),
            script=arguments[0],
            request=Path(arguments[1]),
            visible_at=now + self.queue_delay_seconds,
            current_run=AccountingRow(state="PENDING", submit=now),
            held="hold" in options,
        )
        if any(job.job_id == self.next_id for job in self.jobs):
            self.fault_counts["sbatch: an id again"] += 1
        if fault == "refused":
            self.fault_counts["sbatch: refused"] += 1
            job.accounting_only, job.held, job.is_purged = True, False, True
            job.current_run = AccountingRow(state="FAILED", submit=now, end=now, exit_code="1:0")
        self.add(job)
        return (
            CommandResult(1, "", f"sbatch: error: {_REFUSED}\n")
            if job.accounting_only
            else CommandResult(0, f"{job.job_id}\n", "")
        )

    def squeue(
        self, options: Mapping[str, str], _arguments: Sequence[str], environ: Mapping[str, str], _fault: str
    ) -> CommandResult:
        """All jobs that the queue has."""
        now = self._clock()
        lines = []
        for job in self.jobs:
            if job.is_purged:
                continue
            if now < job.visible_at:
                self.fault_counts["squeue: late"] += 1
                continue
            fields = {
                "%F": str(job.job_id),
                "%T": job.current_run.state,
                "%V": _format_time(job.current_run.submit, environ, "N/A"),
                "%S": _format_time(job.current_run.start, environ, "N/A"),
                "%e": _format_time(job.current_run.end, environ, "N/A"),
                "%r": job.reason,
                "%j": job.name,
                "%k": job.comment,
            }
            format_parts = re.split("(%[A-Za-z])", options["format"])
            lines.append("".join(fields.get(part, part) for part in format_parts) + "\n")
        return CommandResult(0, "".join(lines), "")

    def sacct(
        self, options: Mapping[str, str], _arguments: Sequence[str], environ: Mapping[str, str], _fault: str
    ) -> CommandResult:
        """A row for each run of the named jobs; held jobs are not found."""
        if not self.has_accounting:
            self.fault_counts["sacct: absent"] += 1
            return CommandResult(1, "", "Slurm accounting storage is disabled\n")
        now, names = self._clock(), set(options["name"].split(","))
        lines = []
        for job in self.jobs:
            if job.name not in names or job.held:
                continue
            if now < job.current_run.submit + self.accounting_delay_seconds:
                self.fault_counts["sacct: lagging"] += 1
                continue
            for row in (*job.earlier_runs, job.current_run):
                visible_row = row
                if row.end is not None and now < row.end + self.accounting_delay_seconds:
                    self.fault_counts["sacct: lagging"] += 1
                    visible_row = AccountingRow(state="RUNNING", submit=row.submit, start=row.start)
                fields = {
                    "JobID": str(job.job_id),
                    "State": "CANCELLED by 1000" if visible_row.state == "CANCELLED" else visible_row.state,
                    "ExitCode": visible_row.exit_code,
                    "Submit": _format_time(visible_row.submit, environ, "Unknown"),
                    "Start": _format_time(visible_row.start, environ, "Unknown"),
                    "End": _format_time(visible_row.end, environ, "Unknown"),
                    "NodeList": _NO_NODES if visible_row.start is None else "node1",
                    "JobName": job.name,
                }
                columns = options["format"].split(",")
                lines.append(options["delimiter"].join(fields.get(field, "") for field in columns) + "\n")
        return CommandResult(0, "".join(lines), "")

    def sinfo(
        self, options: Mapping[str, str], _arguments: Sequence[str], _environ: Mapping[str, str], _fault: str
    ) -> CommandResult:
        """One partition: a day at most, 64 GB a node."""
        line = options["format"]
        for field, value in (("%P", options.get("partition", "all*")), ("%l", "1-00:00:00"), ("%m", "64000")):
            line = line.replace(field, value)
        return CommandResult(0, f"{line}\n", "")

    def scontrol(
        self, _options: Mapping[str, str], arguments: Sequence[str], _environ: Mapping[str, str], fault: str
    ) -> CommandResult:
        """``release``."""
        index = self._find_job_index(arguments[1])
        if index is None:
            return CommandResult(1, "", "slurm_suspend error: Invalid job id specified\n")
        job = self.jobs[index]
        if job.is_over:
            return CommandResult(1, "", f"Job has already finished for job {job.job_id}\n")
        if fault == "denied":
            self.fault_counts["scontrol: denied"] += 1
            return CommandResult(1, "", f"Access/permission denied for job {job.job_id}\n")
        if job.held:
            self.release_job(index)
        return CommandResult(0, "", "")

    def scancel(
        self, options: Mapping[str, str], arguments: Sequence[str], _environ: Mapping[str, str], _fault: str
    ) -> CommandResult:
        """End a job; unknown and finished ones give no message."""
        index = self._find_job_index(arguments[0])
        if (
            index is not None
            and (self.jobs[index].will_requeue or not self.jobs[index].is_over)
            and options.get("name") in {None, self.jobs[index].name}
        ):
            self.cancel(index)
        return CommandResult(0, "", "")

    def _find_job_index(self, job_id: str) -> int | None:
        return next((index for index, job in enumerate(self.jobs) if str(job.job_id) == job_id and not job.is_purged), None)


def _split_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Leading ``--option=value`` arguments, and the remaining ones."""
    options: dict[str, str] = {}
    for index, argument in enumerate(arguments):
        if not argument.startswith("-"):
            return options, list(arguments[index:])
        name, _, value = argument.lstrip("-").partition("=")
        options[name] = value
    return options, []


def _format_time(timestamp: float | None, environ: Mapping[str, str], placeholder: str) -> str:
    if timestamp is None:
        return placeholder
    return time.strftime(environ.get("SLURM_TIME_FORMAT", "%Y-%m-%dT%H:%M:%S"), time.localtime(timestamp))


_COMMANDS = {
    "sbatch": SimulatedSlurm.sbatch,
    "squeue": SimulatedSlurm.squeue,
    "sacct": SimulatedSlurm.sacct,
    "scontrol": SimulatedSlurm.scontrol,
    "scancel": SimulatedSlurm.scancel,
    "sinfo": SimulatedSlurm.sinfo,
}
