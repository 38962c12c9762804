"""Simulates sbatch, squeue, sacct, scontrol, scancel and sinfo.

``SimulatedSlurm.run`` replaces ``executors.slurm_commands.run_command``; everything above it is real.
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

_SITE_RULE = "This cluster wants a project: add --account=PROJECT"
"""A refusal in a site's own words, which no table knows."""

_SUBMIT_LIMIT_REACHED = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
)

FAULT_PROBABILITIES: Mapping[str, Mapping[str, float]] = {
    "sbatch": {"error": 0.02, "hang": 0.01, "lost": 0.02, "down": 0.02, "limit": 0.03, "silent": 0.005, "garbage": 0.005},
    "squeue": {"down": 0.002, "lost": 0.002, "silent": 0.001, "garbage": 0.001},
    "sacct": {"down": 0.05, "silent": 0.01},
    "scontrol": {"down": 0.02, "error": 0.02, "denied": 0.01},
    "scancel": {"down": 0.02},
}
"""Command -> fault -> probability. ``SimulatedSlurm`` describes the faults."""


class SimulatedSlurm(SimulatedCluster):
    """The Slurm commands of a cluster that runs ``slots`` jobs at once.

    ``choose_fault(command, now)`` gives the fault of the next command. Not carried out: ``down``, ``lost`` (sbatch cannot
    tell), ``silent`` (no answer). Carried out: ``error`` (an error as answer), ``hang`` (no answer), ``garbage``. Also ``limit``,
    ``refused`` and ``words`` (refused in words that no table knows) of sbatch, ``denied`` of scontrol; an empty text is no fault.
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
        """Seconds until squeue and sacct list a job."""
        self.calls: list[tuple[float, str]] = []
        """(unix time, command) of every command."""

    def run(self, command: Sequence[str], environment: Mapping[str, str], _timeout_seconds: float) -> CommandResult:
        """Run a command and return its answer."""
        name, now = command[0], self._clock()
        self.calls.append((now, name))
        self.advance(now)
        fault = self.choose_fault(name, now)
        if fault not in {"", "limit", "refused", "denied"}:
            self.fault_counts[f"{name}: {fault}"] += 1
        if fault in {"down", "lost"}:
            prefix = "Batch job submission failed: " if name == "sbatch" else ""
            return _fail(f"{name}: error: {prefix}{_CONTROLLER_UNREACHABLE if fault == 'down' else _TIMED_OUT}\n")
        if fault == "silent":
            return CommandResult(None, "", "")
        # From here on the command takes effect; some faults hide that from the caller.
        options, arguments = _split_options(command[1:])
        result = _COMMANDS[name](self, options, arguments, environment, fault)
        self.advance(now)
        if fault == "error":
            return _fail(f"{name}: error: {_TIMED_OUT}\n")
        if fault == "hang":
            return CommandResult(None, "", "")
        # An sbatch without an id, or a list that is cut off.
        garbage = "moved to Lustre 2\n" if name == "sbatch" else result.stdout[:-10]
        return CommandResult(0, garbage, "") if fault == "garbage" else result

    def sbatch(
        self, options: Mapping[str, str], arguments: Sequence[str], _environ: Mapping[str, str], fault: str
    ) -> CommandResult:
        """Submit a job."""
        if fault == "words":
            return _fail(f"sbatch: error: {_SITE_RULE}\nsbatch: error: Batch job submission failed: Unspecified error\n")
        if fault == "limit":
            self.fault_counts["sbatch: limit"] += 1
            return _fail(f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {_SUBMIT_LIMIT_REACHED}\n")
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
        # Some clusters give a refused job an id, which only accounting then shows.
        if fault == "refused":
            self.fault_counts["sbatch: refused"] += 1
            job.accounting_only, job.held, job.is_purged = True, False, True
            job.current_run = AccountingRow(state="FAILED", submit=now, end=now, exit_code="1:0")
        self.add(job)
        return _fail(f"sbatch: error: {_REFUSED}\n") if job.accounting_only else CommandResult(0, f"{job.job_id}\n", "")

    def squeue(
        self, options: Mapping[str, str], _arguments: Sequence[str], environ: Mapping[str, str], _fault: str
    ) -> CommandResult:
        """List the jobs in the queue."""
        now = self._clock()
        lines = []
        for job in self.jobs:
            if job.is_purged:
                continue
            # slurmctld may show a job some seconds after its sbatch returned.
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
        """List each run of the named jobs, without held ones."""
        if not self.has_accounting:
            self.fault_counts["sacct: absent"] += 1
            return _fail("Slurm accounting storage is disabled\n")
        now, names = self._clock(), set(options["name"].split(","))
        lines = []
        for job in self.jobs:
            if job.name not in names or job.held:
                continue
            if now < job.current_run.submit + self.accounting_delay_seconds:
                self.fault_counts["sacct: lagging"] += 1
                continue
            for row in (*job.earlier_runs, job.current_run):
                visible_row = row  # accounting lags: an end shows only after a while
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
                    "ElapsedRaw": str(round((visible_row.end or now) - (visible_row.start or visible_row.end or now))),
                    "AllocTRES": "billing=8,cpu=8,gres/gpu=1,node=1" if visible_row.start else "",
                    "NodeList": _NO_NODES if visible_row.start is None else "node1",
                    "JobName": job.name,
                }
                columns = options["format"].split(",")
                lines.append(options["delimiter"].join(fields.get(field, "") for field in columns) + "\n")
        return CommandResult(0, "".join(lines), "")

    def sinfo(
        self, options: Mapping[str, str], _arguments: Sequence[str], _environ: Mapping[str, str], _fault: str
    ) -> CommandResult:
        """Show one partition: one day at most, 64 GB per node."""
        line = options["format"]
        for field, value in (("%P", options.get("partition", "all*")), ("%l", "1-00:00:00"), ("%m", "64000")):
            line = line.replace(field, value)
        return CommandResult(0, f"{line}\n", "")

    def scontrol(
        self, _options: Mapping[str, str], arguments: Sequence[str], _environ: Mapping[str, str], fault: str
    ) -> CommandResult:
        """Release a held job, or show the cluster's name."""
        if arguments == ["show", "config"]:
            return CommandResult(0, "ClusterName = simulated\n", "")
        index = self._find_job_index(arguments[1])
        if index is None:
            return _fail("slurm_suspend error: Invalid job id specified\n")
        job = self.jobs[index]
        if job.is_over:
            return _fail(f"Job has already finished for job {job.job_id}\n")
        if fault == "denied":
            self.fault_counts["scontrol: denied"] += 1
            return _fail(f"Access/permission denied for job {job.job_id}\n")
        if job.held:
            self.release_job(index)
        return CommandResult(0, "", "")

    def scancel(
        self, options: Mapping[str, str], arguments: Sequence[str], _environ: Mapping[str, str], _fault: str
    ) -> CommandResult:
        """Cancel a job; unknown and ended ones give no message."""
        index = self._find_job_index(arguments[0])
        job = None if index is None else self.jobs[index]
        can_end = job is not None and (job.will_requeue or not job.is_over) and options.get("name") in {None, job.name}
        if index is not None and can_end:
            self.cancel(index)
        return CommandResult(0, "", "")

    def _find_job_index(self, job_id: str) -> int | None:
        return next((index for index, job in enumerate(self.jobs) if str(job.job_id) == job_id and not job.is_purged), None)


def _fail(stderr: str) -> CommandResult:
    return CommandResult(1, "", stderr)


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
