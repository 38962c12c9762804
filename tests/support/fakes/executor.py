"""An executor in memory that outlives the watchers it serves, with every fault that a real one was seen to have.

A job runs as the batch script does: it takes its claim first, writes valid tier files, then its exit record. It never
runs by itself: ``advance_jobs`` lets time pass for it. ``runs`` holds one entry for each run that took its claim.
"""

import json
from collections import Counter, deque
from pathlib import Path

import msgspec

from suites.common.atomic_files import create_once, write_atomically
from suites.contract.encoding import encode_json
from suites.contract.exit_record import ExitRecord
from suites.contract.job_owner import JobOwner
from suites.contract.paths import AttemptPaths
from suites.contract.scoring_request import read_scoring_request
from watcher.core.executor import (
    AccountedTimes,
    ExecutorUnreachable,
    Job,
    JobState,
    PartitionLimits,
    Resources,
    SubmissionResult,
    SubmitKind,
)
from watcher.simulate.jobs import fill_cache, publish_scores

LIVE_STATES = {JobState.HELD, JobState.REQUEUED_HELD, JobState.PENDING, JobState.RUNNING, JobState.COMPLETING, JobState.UNKNOWN}


class FakeJob(msgspec.Struct, kw_only=True):
    """A job, and how its run will end."""

    job_id: str
    name: str
    comment: str
    request: Path
    submitted: float
    state: JobState = JobState.HELD
    raw_state: str = ""
    reason: str = ""
    restarts: int = 0
    ending: object = 0
    """Exit code; or ``no_record``: dies without one; ``no_results``: exit 0 without tier files; ``hang``: runs for ever."""


class FakeExecutor:
    """In-memory Slurm (jobs are submitted held) or local machine."""

    def __init__(self, clock, *, holds=True, accounting=True):
        self.submits_held, self.accounting = holds, accounting
        self.clock = clock
        self.jobs: dict[str, FakeJob] = {}
        self.purged: dict[str, FakeJob] = {}
        self.next_id = 100
        self.submissions = deque()
        """How the next submissions end: ``ok``, ``lost_reply``, ``nothing``, ``refused``, ``later``, ``later WORDS``,
        ``says WORDS`` that no table knows, ``says, but WORDS`` although there is a job; ``ok`` once used up."""
        self.endings: dict[str, deque] = {}
        """Evaluation -> how its next runs end."""
        self.unreachable = ""
        self.runs: list[tuple[str, str]] = []
        """(evaluation, run id) of every run that took its claim."""
        self.live_at_once: list[str] = []
        """Evaluations that were seen running twice at once."""
        self.calls, self.submissions_left = Counter(), None
        self.limits = PartitionLimits()
        self.requested_resources: dict[str, Resources] = {}
        """Job name -> what it asked for."""
        self.stuck_jobs: dict[str, str] = {}
        """Job name -> why it waits for ever."""
        self.failed_launches = 0
        """How many of the next starts fail: Slurm requeues these jobs and holds them."""
        self.told: dict[str, dict[str, object]] = {}
        """Job name -> fields that the queue tells otherwise."""
        self.on_effect = lambda _what: None
        kind, cluster = ("slurm", "lab") if holds else ("local", "")
        self.owner = JobOwner(executor=kind, uid=1001, user="ada", cluster=cluster, host="login01")
        """Whose jobs it lists."""

    # what the watcher asks

    def identify(self):
        return self.owner

    def set_command_rate(self, per_minute, poll_seconds):
        """Nothing is counted here."""

    def submit(self, submission):
        self.calls["submit"] += 1
        outcome = self.submissions.popleft() if self.submissions else "ok"
        if outcome == "refused":
            return SubmissionResult(kind=SubmitKind.REFUSED, message="Invalid partition name specified")
        if outcome.startswith("later"):
            return SubmissionResult(kind=SubmitKind.LATER, message=outcome.partition(" ")[2] or "QOSMaxSubmitJobPerUserLimit")
        if outcome == "nothing":
            return SubmissionResult(kind=SubmitKind.AMBIGUOUS, message="Socket timed out on send/recv operation")
        words = outcome.partition(" ")[2] if outcome.startswith("says ") else outcome.partition("says, but ")[2]
        unclear = SubmissionResult(kind=SubmitKind.AMBIGUOUS, message=words, answer=words.lower())
        if outcome.startswith("says "):
            return unclear
        self.next_id += 1
        assert submission.name not in self.jobs, "one name, one job"
        assert submission.stdout.parent.is_dir()
        self.requested_resources[submission.name] = submission.resources
        self.jobs[submission.name] = FakeJob(
            job_id=str(self.next_id),
            name=submission.name,
            comment=submission.comment,
            request=submission.request,
            submitted=self.clock(),
            state=JobState.HELD if self.submits_held else JobState.PENDING,
        )
        self.on_effect("submit: after")
        if outcome.startswith("says, but "):
            return unclear
        if outcome == "lost_reply":
            return SubmissionResult(kind=SubmitKind.AMBIGUOUS, message="Socket timed out on send/recv operation")
        return SubmissionResult(kind=SubmitKind.SUBMITTED, job_id=str(self.next_id))

    def release(self, job):
        self.calls["release"] += 1
        self._reach()
        found = self.jobs.get(job.name)
        if found is not None and found.job_id == job.job_id and found.state in {JobState.HELD, JobState.REQUEUED_HELD}:
            found.state, found.reason = JobState.PENDING, ""
        self.on_effect("release: after")

    def cancel(self, job):
        self.calls["cancel"] += 1
        self._reach()
        found = self.jobs.get(job.name)
        if found is not None and found.state in LIVE_STATES:
            found.state, found.reason = JobState.CANCELLED, "by uid 1000"

    def query_queue(self):
        self.calls["queue"] += 1
        self._reach()
        return {name: msgspec.structs.replace(self._tell(job), **self.told.get(name, {})) for name, job in self.jobs.items()}

    def query_accounting(self, names, since):
        self.calls["history"] += 1
        if not self.accounting:
            return None
        known = {**self.purged, **{name: job for name, job in self.jobs.items() if job.state is not JobState.HELD}}
        told = {name: self._tell(known[name]) for name in names if name in known and known[name].submitted >= since - 3600}
        times = AccountedTimes(run_seconds=60.0, gpu_seconds=60.0, wait_seconds=30.0)
        return {name: msgspec.structs.replace(job, accounted=times) for name, job in told.items()}

    def query_partition_limits(self, partition):
        self.calls["most"] += 1
        return self.limits.get(partition, PartitionLimits()) if isinstance(self.limits, dict) else self.limits

    # what happens meanwhile

    def advance_jobs(self):
        """Every job one state further: pending > running > ended."""
        for job in list(self.jobs.values()):
            if job.state is JobState.PENDING and job.name not in self.stuck_jobs:
                self._start(job)
            elif job.state is JobState.RUNNING:
                self._end(job)
        running = Counter(
            read_scoring_request(job.request).evaluation for job in self.jobs.values() if job.state is JobState.RUNNING
        )
        self.live_at_once += [evaluation for evaluation, count in running.items() if count > 1]

    def purge(self):
        """The queue forgets what ended."""
        for name, job in list(self.jobs.items()):
            if job.state not in LIVE_STATES:
                self.purged[name] = self.jobs.pop(name)

    def live(self):
        return [job for job in self.jobs.values() if job.state in LIVE_STATES]

    def _reach(self):
        if self.unreachable:
            raise ExecutorUnreachable(self.unreachable)

    def _tell(self, job):
        stuck = job.name in self.stuck_jobs and job.state is JobState.PENDING
        return Job(
            job_id=job.job_id,
            name=job.name,
            state=job.state,
            raw_state=job.raw_state or job.state.name,
            reason=self.stuck_jobs[job.name] if stuck else job.reason,
            stuck=stuck,
            submit_time=job.submitted,
            restarts=job.restarts,
            comment=job.comment,
        )

    def _start(self, job):
        if self.failed_launches:
            self.failed_launches -= 1
            job.state, job.raw_state, job.reason = JobState.REQUEUED_HELD, "PENDING", "launch failed requeued held"
            job.restarts += 1
            return
        job.raw_state = ""
        request = read_scoring_request(job.request)
        folder = job.request.parent
        owner = f"slurm:{job.job_id}"
        claim = folder / "claim"
        # A claim that is a pipe or a folder is somebody else's; reading a pipe would wait for ever.
        if not create_once(claim, owner + "\n") and not (claim.is_file() and claim.read_text().strip() == owner):
            job.state, job.raw_state = JobState.FAILED, "FAILED"
            return
        self.runs.append((request.evaluation, request.run_id))
        endings = self.endings.get(request.evaluation)
        job.ending = endings.popleft() if endings else 0
        job.state = JobState.RUNNING

    def _end(self, job):
        if job.ending == "hang":
            return
        if isinstance(job.ending, JobState):
            job.state = job.ending
            return
        if job.ending == "no_record":
            job.state = JobState.FAILED
            return
        request = read_scoring_request(job.request)
        prefill = request.evaluation.endswith("/(prefill)")
        if job.ending == 0:
            (fill_cache if prefill else publish_scores)(request)
        code = 0 if job.ending == "no_results" else job.ending
        if code not in {0, 70}:
            words_in = AttemptPaths(job.request.parent).prefill_json if prefill else request.paths.run_json
            words_in.parent.mkdir(parents=True, exist_ok=True)
            said = {"schema": 1, "run_id": request.run_id, "reason": f"words of exit {code}"}
            write_atomically(words_in, json.dumps(said))
        record = ExitRecord(
            run_id=request.run_id,
            owner=f"slurm:{job.job_id}",
            host="node1",
            restart=job.restarts,
            start=self.clock(),
            end=self.clock(),
            code=code,
        )
        write_atomically(job.request.parent / f"exit.{job.restarts}.json", encode_json(record))
        job.state = JobState.COMPLETED if code == 0 else JobState.FAILED
