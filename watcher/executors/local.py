"""Runs the batch scripts as processes on this machine.

A job has its own session, so it survives the daemon and its terminal. A later daemon on this host finds it by its attempt
folder (spawned.json, claim, exit record) and /proc; a daemon on another host sees only its exit record.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from suites.common.atomic_files import write_atomically
from suites.common.documents import DamagedDocument
from suites.common.formatting import format_count
from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord, read_exit_records
from suites.contract.job_owner import JobOwner
from suites.contract.paths import AttemptPaths
from watcher.core.executor import ExecutorUnreachable, Job, JobState, PartitionLimits, Submission, SubmissionResult, SubmitKind
from watcher.core.processes import Process, identify_process_owner, is_process_hidden, read_start_ticks, spawn_session
from watcher.executors.local_files import CancelRecord, LocalAttempt, SpawnRecord

_TRANSIENT_ERRNOS = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
)
"""Errors of the machine, not of the submission."""

DROPPED_PREFIXES = ("SLURM_", "SBATCH_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Prefixes of variables of a surrounding Slurm job, and of those that systemd sets for the daemon only."""


class LocalExecutor:
    """Starts attempts at once; manages no GPUs or other resources.

    ``attempts`` is the folder of attempt folders. A job gets KILL ``grace_seconds`` after TERM, at the next ``cancel`` or
    ``query_queue``. An ended job is listed for ``linger_seconds``. ``clock`` gives unix time.
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
        self._owner = identify_process_owner("local", host=host)
        self._host = self._owner.host
        self._environ = os.environ if environ is None else environ
        self._clock, self._grace_seconds, self._linger_seconds = clock, grace_seconds, linger_seconds
        self._children: dict[int, int | None] = {}
        """Pid -> exit code once reaped; the negative signal number if a signal killed it."""
        self._listed_mtime_ns: int | None = None
        self._known_names: set[str] = set()
        self._open_names: set[str] = set()
        """Attempts that may still change; only these are inspected."""
        self._ended: dict[str, tuple[float, Job]] = {}

    def identify(self) -> JobOwner:
        """This user on this machine."""
        return self._owner

    def set_command_rate(self, per_minute: int, poll_seconds: float) -> None:
        """Do nothing: no commands are counted."""

    def submit(self, submission: Submission) -> SubmissionResult:
        """Start the script; the job id is its pid.

        A failed start is certain, so nothing is AMBIGUOUS.
        """
        refusal = self._check_dependency(submission.after)
        if refusal is not None:
            return refusal
        spawned = SpawnRecord(host=self._host, machine=self._owner.machine, at=self._clock(), comment=submission.comment)
        record_path = AttemptPaths(submission.request.parent).spawned_json
        setup = "" if submission.setup is None else str(submission.setup)
        try:
            write_atomically(record_path, encode_json(spawned))
            pid = spawn_session(
                ["bash", str(submission.script), str(submission.request), setup, submission.python],
                {name: value for name, value in self._environ.items() if not name.startswith(DROPPED_PREFIXES)},
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
        # A daemon that is killed here leaves spawned.json without a pid; the claim then names the process.
        try:
            write_atomically(record_path, encode_json(msgspec.structs.replace(spawned, pid=pid, start=read_start_ticks(pid))))
        except OSError as error:  # it runs nevertheless, and its claim will name the same process
            message = f"{record_path}: cannot be written: {error}"
        return SubmissionResult(kind=SubmitKind.SUBMITTED, job_id=str(pid), message=message)

    def release(self, job: Job) -> None:
        """Do nothing: local jobs are never held."""

    def cancel(self, job: Job) -> None:
        """Send TERM, and at a later call after the grace period KILL."""
        attempt = AttemptPaths(self._attempts / job.name)
        try:
            local_attempt = LocalAttempt.read(attempt)
            process = local_attempt.process
            if process is None or not self._is_here(local_attempt) or not (process.is_alive() or process.has_orphans()):
                return
            if local_attempt.cancelled is None:
                write_atomically(attempt.cancelled_json, encode_json(CancelRecord(at=self._clock())))
                process.send_signal(signal.SIGTERM)
            else:
                self._kill_after_grace(local_attempt.cancelled, process)
        except (OSError, DamagedDocument) as error:
            raise ExecutorUnreachable(f"cannot cancel {job.name}: {error}") from error

    def query_queue(self) -> Mapping[str, Job]:
        """Live and lately ended jobs by name. ExecutorUnreachable."""
        self._reap_children()
        self._list_attempts()
        now = self._clock()
        jobs: dict[str, Job] = {}
        for name in sorted(self._open_names):
            try:
                job = self._inspect_attempt(name)
            except (OSError, DamagedDocument) as error:
                job = Job(job_id="", name=name, state=JobState.UNKNOWN, raw_state="UNREADABLE", reason=str(error))
            if job is not None and job.state.is_terminal:
                self._open_names.discard(name)
                self._ended[name] = (now if job.end_time is None else job.end_time, job)
            elif job is not None:
                jobs[name] = job
        self._ended = {name: (at, job) for name, (at, job) in self._ended.items() if now - at < self._linger_seconds}
        return jobs | {name: job for name, (_, job) in self._ended.items()}

    def query_accounting(self, names: Sequence[str], since: float) -> Mapping[str, Job] | None:  # noqa: ARG002  the interface requires them
        """Return None: there is no accounting."""
        return None

    def query_partition_limits(self, partition: str | None) -> PartitionLimits:  # noqa: ARG002  the interface requires them
        """Return no limits."""
        return PartitionLimits()

    def _check_dependency(self, after: str | None) -> SubmissionResult | None:
        """The refusal of a job whose prefill job has not completed.

        An unknown prefill job counts as ended.
        """
        job = None if after is None else next((job for job in self.query_queue().values() if job.job_id == after), None)
        if job is None or job.state is JobState.COMPLETED:
            return None
        kind = SubmitKind.REFUSED if job.state.is_terminal else SubmitKind.LATER
        return SubmissionResult(kind=kind, message=f"prefill job {after} ({job.name}): {job.raw_state}")

    def _reap_children(self) -> None:
        """Collect the exit codes of ended children, which are zombies until then."""
        for pid in [pid for pid, code in self._children.items() if code is None]:
            try:
                reaped, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                del self._children[pid]
                continue
            if reaped:
                self._children[pid] = os.waitstatus_to_exitcode(status)

    def _list_attempts(self) -> None:
        """Note attempts of earlier daemons; read the folder only after a change."""
        try:
            mtime_ns = self._attempts.stat().st_mtime_ns
            if mtime_ns == self._listed_mtime_ns:
                return
            names = {entry.name for entry in self._attempts.iterdir()}
        except FileNotFoundError:
            if self._known_names:
                raise ExecutorUnreachable(
                    f"{self._attempts}: no such folder; it held {format_count(len(self._known_names), 'attempt')}"
                ) from None
            return
        except OSError as error:
            raise ExecutorUnreachable(f"{self._attempts}: cannot be listed: {error.strerror}") from error
        self._listed_mtime_ns = mtime_ns
        self._open_names |= names - self._known_names
        self._known_names |= names

    def _inspect_attempt(self, name: str) -> Job | None:
        """The job of one attempt; None without a process, or of another executor.

        The process is inspected before its exit record: one that dies in between has left its record.
        """
        folder = self._attempts / name
        local_attempt = LocalAttempt.read(AttemptPaths(folder))
        process, spawned = local_attempt.process, local_attempt.spawned
        if process is None:
            if local_attempt.claim:
                self._open_names.discard(name)  # Slurm's, or abandoned before it began
            return None
        is_on_this_host = self._is_here(local_attempt)
        is_alive = is_on_this_host and process.is_alive()
        has_orphans = is_on_this_host and not is_alive and process.has_orphans()
        if local_attempt.cancelled is not None and (is_alive or has_orphans):
            self._kill_after_grace(local_attempt.cancelled, process)
        here = f"another {self._host}" if process.host == self._host else self._host
        job = Job(
            job_id=str(process.pid),
            name=name,
            state=JobState.UNKNOWN,
            raw_state="ELSEWHERE",
            reason=f"it runs on {process.host}; this is {here}",
            submit_time=None if spawned is None else spawned.at,
            start_time=local_attempt.claimed_at,
            comment="" if spawned is None else spawned.comment,
        )
        # The exit record is the script's own account, on any host; without one only this host's /proc can tell.
        if records := read_exit_records(folder):
            return _add_recorded_end(job, records[-1], is_alive=is_alive, cancelled=local_attempt.cancelled is not None)
        if not is_on_this_host:
            return job
        if is_alive or has_orphans:
            return _add_live_state(job, local_attempt.claim, has_orphans=has_orphans)
        # What another user's process does is not visible here, so its absence from /proc says nothing.
        if is_process_hidden(process.pid):
            return _with_state(job, JobState.UNKNOWN, "it belongs to another user, and /proc hides it", "HIDDEN")
        if local_attempt.cancelled is not None:
            return _with_state(job, JobState.CANCELLED)
        self._reap_children()  # it may have ended since the last time
        return _add_unrecorded_end(job, self._children.get(process.pid))

    def _is_here(self, local_attempt: LocalAttempt) -> bool:
        """Whether its process is one of this machine."""
        process, spawned = local_attempt.process, local_attempt.spawned
        if process is None:
            return False
        # Hosts of two clusters may have one name.
        machine = "" if spawned is None else spawned.machine
        return self._owner.is_same_host(msgspec.structs.replace(self._owner, host=process.host, machine=machine))

    def _kill_after_grace(self, cancelled: CancelRecord, process: Process) -> None:
        """Send KILL once the grace period is over."""
        if self._clock() - cancelled.at >= self._grace_seconds:
            process.send_signal(signal.SIGKILL)


def _with_state(job: Job, state: JobState, reason: str = "", raw_state: str | None = None) -> Job:
    return msgspec.structs.replace(job, state=state, raw_state=raw_state or state.name, reason=reason)


def _add_recorded_end(job: Job, record: ExitRecord, *, is_alive: bool, cancelled: bool) -> Job:
    """The job with the end that the script recorded."""
    ended_state = JobState.COMPLETED if record.code == 0 else JobState.CANCELLED if cancelled else JobState.FAILED
    signal_name = f"SIG{record.signal}"
    return msgspec.structs.replace(
        _with_state(job, JobState.COMPLETING if is_alive else ended_state),
        start_time=record.start,
        end_time=record.end,
        restarts=record.restart,
        exit_code=record.code,
        exit_signal=signal.Signals[signal_name].value if signal_name in signal.Signals.__members__ else None,
    )


def _add_live_state(job: Job, claim: str, *, has_orphans: bool) -> Job:
    """The job with the state of its remaining processes."""
    if has_orphans:
        return _with_state(job, JobState.COMPLETING, "its script is dead, but its scorer still runs", "ORPHANED")
    if not claim:
        return _with_state(job, JobState.PENDING)
    if claim.startswith("local:"):
        return _with_state(job, JobState.RUNNING)
    return _with_state(job, JobState.COMPLETING, f"the claim of its attempt is {claim}")


def _add_unrecorded_end(job: Job, code: int | None) -> Job:
    """The job with an end without exit record: killed, or ended before its claim.

    ``code`` is as in ``os.waitstatus_to_exitcode``; None if the process was no child of this daemon.
    """
    return msgspec.structs.replace(
        _with_state(job, JobState.FAILED, "it left no exit record; see its log", "VANISHED"),
        exit_code=code if code is not None and code >= 0 else None,
        exit_signal=-code if code is not None and code < 0 else None,
    )
