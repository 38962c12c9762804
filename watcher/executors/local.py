"""Runs the batch scripts as processes of this machine.

A job is a session of its own, so it outlives the daemon, its terminal and a SIGKILL of either. All
that is known of it lies in its attempt folder (spawned.json, claim, exit record) and in /proc, so any
later daemon on this host finds it again; on another host it is unknown until its exit record appears.
Who may run an attempt is decided by the claim alone: a spawned process that lost it does nothing.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from suites.common.atomic_files import write_atomically
from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord, read_exit_records
from suites.contract.paths import AttemptPaths
from watcher.core.executor import ExecutorUnreachable, Job, JobState, PartitionLimits, Submission, SubmissionResult, SubmitKind
from watcher.core.processes import Process, read_start_ticks, spawn_session
from watcher.executors.local_files import CancelRecord, LocalAttempt, SpawnRecord

_TRANSIENT_ERRNOS = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
)
"""Troubles of the machine, not of the submission."""

_DROPPED_VARIABLES = ("SLURM_", "SBATCH_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Somebody else's Slurm job, and what systemd tells the daemon alone."""


class LocalExecutor:
    """Starts attempts at once; manages no GPUs or other resources.

    ``attempts`` is the folder of attempt folders. ``grace`` seconds after TERM a job gets KILL, at the
    next ``cancel`` or ``query_queue``. A job that ended is shown for ``linger`` more seconds.
    """

    def __init__(
        self,
        attempts: Path,
        *,
        host: str | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        grace_seconds: float = 30.0,
        linger_seconds: float = 300.0,
    ) -> None:
        self.submits_held = False
        self.calls: Mapping[str, int] = {}
        self.submissions_left: int | None = None
        self._attempts = attempts
        self._host = host or os.uname().nodename
        self._environ = os.environ if environ is None else environ
        self._clock, self._grace_seconds, self._linger_seconds = clock, grace_seconds, linger_seconds
        self._children: dict[int, int | None] = {}
        """Pid -> its exit code once reaped; minus the signal's number where one killed it."""
        self._listed_mtime_ns: int | None = None
        self._known_names: set[str] = set()
        self._open_names: set[str] = set()
        """Attempts that may still change: only these are looked at, however many there have been."""
        self._ended: dict[str, tuple[float, Job]] = {}

    def submit(self, submission: Submission) -> SubmissionResult:
        """Start the script; the job id is its pid.

        A failed start is certain, so nothing is AMBIGUOUS.
        """
        refusal = self._check_dependency(submission.after)
        if refusal is not None:
            return refusal
        spawned = SpawnRecord(host=self._host, at=self._clock(), comment=submission.comment)
        record_path = AttemptPaths(submission.request.parent).spawned_json
        setup = "" if submission.setup is None else str(submission.setup)
        try:
            write_atomically(record_path, encode_json(spawned))
            pid = spawn_session(
                ["bash", str(submission.script), str(submission.request), setup, submission.python],
                {name: value for name, value in self._environ.items() if not name.startswith(_DROPPED_VARIABLES)},
                logs=(submission.stdout, submission.stderr),
                name=submission.name,
            )
        except OSError as error:
            kind = SubmitKind.LATER if error.errno in _TRANSIENT_ERRNOS else SubmitKind.REFUSED
            return SubmissionResult(kind=kind, message=f"cannot start {submission.script}: {error}")
        self._children[pid] = None
        self._known_names.add(submission.name)
        self._open_names.add(submission.name)
        message = ""
        try:
            write_atomically(record_path, encode_json(msgspec.structs.replace(spawned, pid=pid, start=read_start_ticks(pid))))
        except OSError as error:  # it runs nevertheless, and its claim will say the same
            message = f"{record_path}: cannot be written: {error}"
        return SubmissionResult(kind=SubmitKind.SUBMITTED, job_id=str(pid), message=message)

    def release(self, job: Job) -> None:
        """Nothing is held here."""

    def cancel(self, job: Job) -> None:
        """Send TERM now, and KILL at a later call after the grace period."""
        attempt = AttemptPaths(self._attempts / job.name)
        try:
            local_attempt = LocalAttempt.read(attempt)
            process = local_attempt.process
            if process is None or process.host != self._host or not (process.is_alive() or process.has_orphans()):
                return
            if local_attempt.cancelled is None:
                write_atomically(attempt.cancelled_json, encode_json(CancelRecord(at=self._clock())))
                process.send_signal(signal.SIGTERM)
            else:
                self._kill_after_grace(local_attempt.cancelled, process)
        except (OSError, msgspec.DecodeError) as error:
            raise ExecutorUnreachable(f"cannot cancel {job.name}: {error}") from error

    def query_queue(self) -> Mapping[str, Job]:
        """Jobs that live or ended lately, by name. ExecutorUnreachable."""
        self._reap_children()
        self._list_attempts()
        now = self._clock()
        jobs: dict[str, Job] = {}
        for name in sorted(self._open_names):
            try:
                job = self._inspect_attempt(name)
            except (OSError, msgspec.DecodeError) as error:
                job = Job(job_id="", name=name, state=JobState.UNKNOWN, raw_state="UNREADABLE", reason=str(error))
            if job is not None and job.state.is_terminal:
                self._open_names.discard(name)
                self._ended[name] = (now if job.end_time is None else job.end_time, job)
            elif job is not None:
                jobs[name] = job
        self._ended = {name: (at, job) for name, (at, job) in self._ended.items() if now - at < self._linger_seconds}
        return jobs | {name: job for name, (_, job) in self._ended.items()}

    def query_accounting(self, names: Sequence[str], since: float) -> Mapping[str, Job] | None:  # noqa: ARG002  the interface's
        """There is no accounting."""
        return None

    def query_partition_limits(self, partition: str | None) -> PartitionLimits:  # noqa: ARG002  the interface's
        """Nobody limits what runs here."""
        return PartitionLimits()

    def _check_dependency(self, after: str | None) -> SubmissionResult | None:
        """Why a job cannot start yet; an unknown prefill job counts as ended."""
        job = None if after is None else next((job for job in self.query_queue().values() if job.job_id == after), None)
        if job is None or job.state is JobState.COMPLETED:
            return None
        kind = SubmitKind.REFUSED if job.state.is_terminal else SubmitKind.LATER
        return SubmissionResult(kind=kind, message=f"prefill job {after} ({job.name}): {job.raw_state}")

    def _reap_children(self) -> None:
        """A dead child stays a zombie until its parent asks."""
        for pid in [pid for pid, code in self._children.items() if code is None]:
            try:
                reaped, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                del self._children[pid]
                continue
            if reaped:
                self._children[pid] = os.waitstatus_to_exitcode(status)

    def _list_attempts(self) -> None:
        """Attempts of earlier daemons; the folder is read only after a change."""
        try:
            mtime_ns = self._attempts.stat().st_mtime_ns
            if mtime_ns == self._listed_mtime_ns:
                return
            names = {entry.name for entry in self._attempts.iterdir()}
        except FileNotFoundError:
            if self._known_names:
                raise ExecutorUnreachable(f"{self._attempts}: gone, with {len(self._known_names)} attempts in it") from None
            return
        except OSError as error:
            raise ExecutorUnreachable(f"{self._attempts}: cannot be listed: {error.strerror}") from error
        self._listed_mtime_ns = mtime_ns
        self._open_names |= names - self._known_names
        self._known_names |= names

    def _inspect_attempt(self, name: str) -> Job | None:
        """The job of one attempt; None without a process, or of another executor.

        The process is looked at before its exit record is read: one that dies in between has left its record.
        """
        folder = self._attempts / name
        local_attempt = LocalAttempt.read(AttemptPaths(folder))
        process, spawned = local_attempt.process, local_attempt.spawned
        if process is None:
            if local_attempt.claim:
                self._open_names.discard(name)  # Slurm's, or void before it began
            return None
        is_on_this_host = process.host == self._host
        is_alive = is_on_this_host and process.is_alive()
        has_orphans = is_on_this_host and not is_alive and process.has_orphans()
        if local_attempt.cancelled is not None and (is_alive or has_orphans):
            self._kill_after_grace(local_attempt.cancelled, process)
        fields: dict[str, object]
        if records := read_exit_records(folder):
            fields = _describe_recorded_end(records[-1], is_alive=is_alive, cancelled=local_attempt.cancelled is not None)
        elif not is_on_this_host:
            fields = {"state": JobState.UNKNOWN, "raw_state": "ELSEWHERE", "reason": f"on {process.host}; this is {self._host}"}
        elif is_alive or has_orphans:
            fields = _describe_live_job(local_attempt.claim, has_orphans=has_orphans)
        elif local_attempt.cancelled is not None:
            fields = {"state": JobState.CANCELLED, "raw_state": "CANCELLED"}
        else:
            fields = _describe_vanished_job(self._children.get(process.pid))
        return msgspec.convert(
            {
                "job_id": str(process.pid),
                "name": name,
                "submit_time": None if spawned is None else spawned.at,
                "start_time": local_attempt.claimed_at,
                "comment": "" if spawned is None else spawned.comment,
            }
            | fields,
            Job,
        )

    def _kill_after_grace(self, cancelled: CancelRecord, process: Process) -> None:
        """KILL what did not end by itself in the grace."""
        if self._clock() - cancelled.at >= self._grace_seconds:
            process.send_signal(signal.SIGKILL)


def _describe_recorded_end(record: ExitRecord, *, is_alive: bool, cancelled: bool) -> dict[str, object]:
    """The end as the script's exit record has it."""
    state = JobState.COMPLETED if record.code == 0 else JobState.CANCELLED if cancelled else JobState.FAILED
    signal_name = f"SIG{record.signal}"
    return {
        "state": JobState.COMPLETING if is_alive else state,
        "raw_state": (JobState.COMPLETING if is_alive else state).name,
        "start_time": record.start,
        "end_time": record.end,
        "restarts": record.restart,
        "exit_code": record.code,
        "exit_signal": signal.Signals[signal_name].value if signal_name in signal.Signals.__members__ else None,
    }


def _describe_live_job(claim: str, *, has_orphans: bool) -> dict[str, object]:
    """A job with processes left."""
    if has_orphans:
        return {"state": JobState.COMPLETING, "raw_state": "ORPHANED", "reason": "its script is dead, its scorer is not"}
    if not claim:
        return {"state": JobState.PENDING, "raw_state": "PENDING"}
    if claim.startswith("local:"):
        return {"state": JobState.RUNNING, "raw_state": "RUNNING"}
    return {"state": JobState.COMPLETING, "raw_state": "COMPLETING", "reason": f"its attempt is {claim}"}


def _describe_vanished_job(code: int | None) -> dict[str, object]:
    """A dead process without exit record: killed, or ended before its claim.

    ``code`` is None for children of others.
    """
    return {
        "state": JobState.FAILED,
        "raw_state": "VANISHED",
        "reason": "it left no exit record; its log may say more",
        "exit_code": code if code is not None and code >= 0 else None,
        "exit_signal": -code if code is not None and code < 0 else None,
    }
