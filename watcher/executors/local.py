"""The executor without Slurm: the same batch scripts, as processes of this machine.

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

from suites.common.atomic_files import publish
from suites.contract.encoding import encode
from suites.contract.exit_record import ExitRecord, read_exit_records
from suites.contract.paths import AttemptPaths
from watcher.core.executor import Job, JobState, Most, Submission, SubmitKind, Submitted, Unreachable
from watcher.core.processes import Process, spawn_session, start_time
from watcher.executors.local_files import Cancelled, Spawned, Traces

_LATER = frozenset({errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE})
"""Troubles of the machine, not of the submission."""

_NOT_FOR_JOBS = ("SLURM_", "SBATCH_", "NOTIFY_SOCKET", "WATCHDOG_")
"""Somebody else's Slurm job, and what systemd tells the daemon alone."""


class LocalExecutor:
    """Runs attempts at once, as many as it is given; GPUs and other resources are not managed.

    ``attempts`` is the folder of attempt folders. ``grace`` seconds after TERM a job gets KILL, at the
    next ``cancel`` or ``queue``. A job that ended is shown for ``linger`` more seconds.
    """

    def __init__(
        self,
        attempts: Path,
        *,
        host: str | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        grace: float = 30.0,
        linger: float = 300.0,
    ) -> None:
        self.holds = False
        self.calls: Mapping[str, int] = {}
        self.submissions_left: int | None = None
        self._attempts = attempts
        self._host = host or os.uname().nodename
        self._environ = os.environ if environ is None else environ
        self._clock, self._grace, self._linger = clock, grace, linger
        self._children: dict[int, int | None] = {}
        """Pid -> its exit code once reaped; minus the signal's number where one killed it."""
        self._listed: int | None = None
        self._seen: set[str] = set()
        self._open: set[str] = set()
        """Attempts that may still change: only these are looked at, however many there have been."""
        self._ended: dict[str, tuple[float, Job]] = {}

    def submit(self, submission: Submission) -> Submitted:
        """Start the script; the job id is its pid. A failed start is certain, so nothing is ever AMBIGUOUS."""
        obstacle = self._prefill_not_done(submission.after)
        if obstacle is not None:
            return obstacle
        spawned = Spawned(host=self._host, at=self._clock(), comment=submission.comment)
        note = AttemptPaths(submission.request.parent).spawned
        setup = "" if submission.setup is None else str(submission.setup)
        try:
            publish(note, encode(spawned))
            pid = spawn_session(
                ["bash", str(submission.script), str(submission.request), setup, submission.python],
                {name: value for name, value in self._environ.items() if not name.startswith(_NOT_FOR_JOBS)},
                logs=(submission.stdout, submission.stderr),
                name=submission.name,
            )
        except OSError as error:
            kind = SubmitKind.LATER if error.errno in _LATER else SubmitKind.REFUSED
            return Submitted(kind=kind, message=f"cannot start {submission.script}: {error}")
        self._children[pid] = None
        self._seen.add(submission.name)
        self._open.add(submission.name)
        message = ""
        try:
            publish(note, encode(msgspec.structs.replace(spawned, pid=pid, start=start_time(pid))))
        except OSError as error:  # it runs nevertheless, and its claim will say the same
            message = f"{note}: cannot be written: {error}"
        return Submitted(kind=SubmitKind.SUBMITTED, job_id=str(pid), message=message)

    def release(self, job: Job) -> None:
        """Nothing is held here."""

    def cancel(self, job: Job) -> None:
        """TERM now; KILL at a later call, once the grace is over. Returns at once."""
        attempt = AttemptPaths(self._attempts / job.name)
        try:
            traces = Traces.read(attempt)
            process = traces.process
            if process is None or process.host != self._host or not (process.alive() or process.orphans()):
                return
            if traces.cancelled is None:
                publish(attempt.cancelled, encode(Cancelled(at=self._clock())))
                process.send(signal.SIGTERM)
            else:
                self._press(traces.cancelled, process)
        except (OSError, msgspec.DecodeError) as error:
            raise Unreachable(f"cannot cancel {job.name}: {error}") from error

    def queue(self) -> Mapping[str, Job]:
        """Jobs that live or ended lately, by name. Raises Unreachable where the attempts cannot be listed."""
        self._reap()
        self._list()
        now = self._clock()
        jobs: dict[str, Job] = {}
        for name in sorted(self._open):
            try:
                job = self._look(name)
            except (OSError, msgspec.DecodeError) as error:
                job = Job(job_id="", name=name, state=JobState.UNKNOWN, word="UNREADABLE", reason=str(error))
            if job is not None and job.state.over:
                self._open.discard(name)
                self._ended[name] = (now if job.end_time is None else job.end_time, job)
            elif job is not None:
                jobs[name] = job
        self._ended = {name: (at, job) for name, (at, job) in self._ended.items() if now - at < self._linger}
        return jobs | {name: job for name, (_, job) in self._ended.items()}

    def history(self, names: Sequence[str], since: float) -> Mapping[str, Job] | None:  # noqa: ARG002  the interface's
        """There is no accounting."""
        return None

    def most(self, partition: str | None) -> Most:  # noqa: ARG002  the interface's
        """Nobody limits what runs here."""
        return Most()

    def _prefill_not_done(self, after: str | None) -> Submitted | None:
        """Why a job cannot start yet. A prefill job that is no longer known ended long ago: the scorer will see."""
        job = None if after is None else next((job for job in self.queue().values() if job.job_id == after), None)
        if job is None or job.state is JobState.COMPLETED:
            return None
        kind = SubmitKind.REFUSED if job.state.over else SubmitKind.LATER
        return Submitted(kind=kind, message=f"prefill job {after} ({job.name}): {job.word}")

    def _reap(self) -> None:
        """A dead child stays a zombie until its parent asks."""
        for pid in [pid for pid, code in self._children.items() if code is None]:
            try:
                reaped, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                del self._children[pid]
                continue
            if reaped:
                self._children[pid] = os.waitstatus_to_exitcode(status)

    def _list(self) -> None:
        """Find attempts of earlier daemons. The folder is read only when it changed."""
        try:
            changed = self._attempts.stat().st_mtime_ns
            if changed == self._listed:
                return
            names = {entry.name for entry in self._attempts.iterdir()}
        except FileNotFoundError:
            if self._seen:
                raise Unreachable(f"{self._attempts}: gone, with {len(self._seen)} attempts in it") from None
            return
        except OSError as error:
            raise Unreachable(f"{self._attempts}: cannot be listed: {error.strerror}") from error
        self._listed = changed
        self._open |= names - self._seen
        self._seen |= names

    def _look(self, name: str) -> Job | None:
        """What is known of one attempt; None while there is no process (yet), or where it is another executor's.

        The process is looked at before its exit record is read: one that dies in between has left its record.
        """
        folder = self._attempts / name
        traces = Traces.read(AttemptPaths(folder))
        process, spawned = traces.process, traces.spawned
        if process is None:
            if traces.claim:
                self._open.discard(name)  # Slurm's, or void before it began
            return None
        here = process.host == self._host
        alive = here and process.alive()
        orphaned = here and not alive and process.orphans()
        if traces.cancelled is not None and (alive or orphaned):
            self._press(traces.cancelled, process)
        facts: dict[str, object]
        if records := read_exit_records(folder):
            facts = _recorded(records[-1], alive=alive, cancelled=traces.cancelled is not None)
        elif not here:
            facts = {"state": JobState.UNKNOWN, "word": "ELSEWHERE", "reason": f"on {process.host}; this is {self._host}"}
        elif alive or orphaned:
            facts = _living(traces.claim, orphaned=orphaned)
        elif traces.cancelled is not None:
            facts = {"state": JobState.CANCELLED, "word": "CANCELLED"}
        else:
            facts = _vanished(self._children.get(process.pid))
        return msgspec.convert(
            {
                "job_id": str(process.pid),
                "name": name,
                "submit_time": None if spawned is None else spawned.at,
                "start_time": traces.claimed,
                "comment": "" if spawned is None else spawned.comment,
            }
            | facts,
            Job,
        )

    def _press(self, cancelled: Cancelled, process: Process) -> None:
        """KILL what did not end by itself in the grace."""
        if self._clock() - cancelled.at >= self._grace:
            process.send(signal.SIGKILL)


def _recorded(record: ExitRecord, *, alive: bool, cancelled: bool) -> dict[str, object]:
    """The end as the script itself wrote it down, a moment before its own."""
    state = JobState.COMPLETED if record.code == 0 else JobState.CANCELLED if cancelled else JobState.FAILED
    name = f"SIG{record.signal}"
    return {
        "state": JobState.COMPLETING if alive else state,
        "word": (JobState.COMPLETING if alive else state).name,
        "start_time": record.start,
        "end_time": record.end,
        "restarts": record.restart,
        "exit_code": record.code,
        "exit_signal": signal.Signals[name].value if name in signal.Signals.__members__ else None,
    }


def _living(claim: str, *, orphaned: bool) -> dict[str, object]:
    """A job with processes left."""
    if orphaned:
        return {"state": JobState.COMPLETING, "word": "ORPHANED", "reason": "its script is dead, its scorer is not"}
    if not claim:
        return {"state": JobState.PENDING, "word": "PENDING"}
    if claim.startswith("local:"):
        return {"state": JobState.RUNNING, "word": "RUNNING"}
    return {"state": JobState.COMPLETING, "word": "COMPLETING", "reason": f"its attempt is {claim}"}


def _vanished(code: int | None) -> dict[str, object]:
    """Dead, and nothing was written down: killed, or ended before its claim. ``code`` is None for others' children."""
    return {
        "state": JobState.FAILED,
        "word": "VANISHED",
        "reason": "it left no exit record; its log may say more",
        "exit_code": code if code is not None and code >= 0 else None,
        "exit_signal": -code if code is not None and code < 0 else None,
    }
