"""A Hypothesis state machine over real daemons, the simulated Slurm and a file system that lags: anything, in any order."""

import os
import random
import shutil
import tempfile
from collections import Counter, deque
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.fakes.job_outcomes import RUN_ENDINGS, SBATCH_FAULTS, ScriptedScoringJobs
from support.faults.stale_listing import StaleEntry, StaleListing
from support.runs.watched_run import WatchedRun
from watcher.core.evaluation import IN_FLIGHT_STATES, PREFILL_DIRECTORY, SETTLED_STATES, EvaluationState
from watcher.core.request_types import Request
from watcher.executors.slurm import SlurmExecutor
from watcher.journal import request_files as asks
from watcher.journal.journal import read_journal
from watcher.simulate.slurm_commands import SimulatedSlurm
from watcher.simulate.training import write_first_half, write_second_half

EVENT_COUNTS = Counter()
"""What all examples together came to."""
STEPS = (100, 200, 300, 400, 500)
STEP = st.sampled_from(STEPS)


class DaemonStateMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(dir=shared))
        self.watched = watched = WatchedRun(self.folder / "run", self.patch, steps=STEPS)
        self.skew = 0.0
        watched.daemons_clock = lambda: watched.clock() + self.skew
        self.complete_folders, self.partial_saves = set(), {}
        self.scoring_jobs = ScriptedScoringJobs(lambda folder: folder in self.complete_folders)
        self.slurm = SimulatedSlurm(
            watched.clock, self.scoring_jobs, random.Random(0), wait_range_seconds=(30.0, 300.0), choose_fault=self.choose_fault
        )
        self.faults = {}
        self.late_names, self.stale_names = set(), set()
        self.restart_executor()
        real = os.scandir
        self.patch.setattr(os, "scandir", lambda path=".": self.filter_listing(real(path), path))

    def filter_listing(self, entries, path):
        """What a file server shows: not yet what is there, and still what is gone."""
        folder = self.watched.ckpts / "stage1"
        if isinstance(path, int) or os.fspath(path) != str(folder):
            return entries
        gone = {name for name in self.stale_names if not (folder / name).exists()}
        late = {name for name in self.late_names if (folder / name).exists()}
        EVENT_COUNTS["listing: stale"] += bool(gone)
        EVENT_COUNTS["listing: late"] += bool(late)
        return StaleListing(entries, late, [StaleEntry(folder / name) for name in sorted(gone)])

    def restart_executor(self):
        self.watched.executor = SlurmExecutor(
            per_minute=60, user="me", environment={}, clock=self.watched.clock, run=self.slurm.run
        )

    def choose_fault(self, command, _now):
        waiting = self.faults.get(command)
        return waiting.popleft() if waiting else ""

    def get_checkpoint_folder(self, step):
        return self.watched.ckpts / "stage1" / str(step)

    @property
    def records(self):
        return {} if self.watched.daemon is None else self.watched.journal_state.records

    def run_polls(self, count=1, seconds=60.0):
        self.watched.tick(count, seconds=seconds, jobs=False)

    # what may happen; after most of it a poll sees it

    @initialize(steps=st.sets(STEP))
    def some_are_there(self, steps):
        for step in sorted(steps):
            self.save_checkpoint(step)

    @rule(seconds=st.sampled_from([5.0, 60.0, 60.0, 60.0, 300.0, 3600.0]))
    def a_poll(self, seconds):
        self.run_polls(seconds=seconds)

    @rule(polls=st.integers(min_value=2, max_value=12))
    def an_hour_or_two(self, polls):
        self.run_polls(polls, seconds=400.0)

    @rule(step=STEP)
    def a_checkpoint_comes(self, step):
        self.save_checkpoint(step)
        self.run_polls(2)

    def save_checkpoint(self, step):
        self.a_save_begins(step)
        self.a_save_ends(step)

    @rule(step=STEP)
    def a_save_begins(self, step):
        if step in self.partial_saves:
            return
        folder = self.get_checkpoint_folder(step)
        self.complete_folders.discard(str(folder))
        self.partial_saves[step] = True
        self.watched.clock.at += 1  # a save is never of the same instant as the one before
        write_first_half(folder, step, STEPS[-1], None, self.watched.clock())

    @rule(step=STEP)
    def a_save_ends(self, step):
        if self.partial_saves.pop(step, None):
            write_second_half(self.get_checkpoint_folder(step), step, self.watched.clock())
            self.complete_folders.add(str(self.get_checkpoint_folder(step)))

    @rule(step=STEP)
    def a_checkpoint_vanishes(self, step):
        self.partial_saves.pop(step, None)
        self.complete_folders.discard(str(self.get_checkpoint_folder(step)))
        if not self.get_checkpoint_folder(step).exists():
            return
        shutil.rmtree(self.get_checkpoint_folder(step))
        self.watched.touch("stage1")
        EVENT_COUNTS["checkpoint: vanishes"] += 1
        flies = any(record.step == step and record.state in IN_FLIGHT_STATES for record in self.records.values())
        EVENT_COUNTS["checkpoint: vanishes in flight"] += flies

    @rule(step=STEP)
    def a_listing_is_late(self, step):
        self.late_names.add(str(step))
        self.save_checkpoint(step)
        self.run_polls(2)

    @rule(step=STEP)
    def a_listing_is_stale(self, step):
        self.stale_names.add(str(step))
        self.a_checkpoint_vanishes(step)
        self.run_polls(2)

    @rule()
    def listings_are_fresh_again(self):
        self.late_names.clear()
        self.stale_names.clear()
        if (self.watched.ckpts / "stage1").exists():
            self.watched.touch("stage1")

    @rule(how=st.lists(st.sampled_from(SBATCH_FAULTS), min_size=1, max_size=3), step=STEP)
    def sbatch_goes_wrong(self, how, step):
        self.faults.setdefault("sbatch", deque()).extend(how)
        self.save_checkpoint(step)
        self.run_polls(3)
        self.run_polls(2, seconds=300.0)

    @rule(
        command=st.sampled_from(["squeue", "sacct", "scontrol", "scancel"]),
        how=st.sampled_from(["down", "silent", "error", "hang"]),
    )
    def a_command_goes_wrong(self, command, how):
        self.faults.setdefault(command, deque()).append(how)
        self.run_polls()

    @rule()
    def a_release_is_refused(self):
        self.faults.setdefault("scontrol", deque()).append("denied")
        self.run_polls()

    @rule(seconds=st.sampled_from([0.0, 30.0, 90.0, 240.0]))  # below VANISHED_AFTER_SECONDS: beyond it, the job's fence has to do
    def squeue_is_late(self, seconds):
        self.slurm.queue_delay_seconds = seconds
        self.run_polls(seconds=20.0)

    @rule(seconds=st.sampled_from([0.0, 90.0, 600.0]), step=STEP)
    def sacct_lags(self, seconds, step):
        self.slurm.accounting_delay_seconds = seconds
        self.the_queue_forgets(step)

    @rule(there=st.booleans(), step=STEP)
    def accounting_is_there_or_not(self, there, step):
        self.slurm.has_accounting = there
        self.the_queue_forgets(step)

    def the_queue_forgets(self, step):
        """Nobody looks for as long as the queue remembers a job."""
        self.save_checkpoint(step)
        self.run_polls(3)
        self.run_polls(2, seconds=1800.0)

    @rule(endings=st.lists(st.sampled_from(RUN_ENDINGS), min_size=1, max_size=4), step=STEP)
    def runs_end(self, endings, step):
        self.scoring_jobs.endings.extend(endings)
        self.save_checkpoint(step)
        self.run_polls(3, seconds=600.0)

    @rule()
    def job_ids_begin_again(self):
        taken = [job.job_id for job in self.slurm.jobs if not job.is_purged]
        self.slurm.next_id = 1000 if not taken or min(taken) > 1000 + len(self.slurm.jobs) else max(taken) + 1

    @rule(step=STEP, kind=st.sampled_from(["retry", "retry", "retry", "cancel"]))
    def a_person_asks(self, step, kind):
        self.watched.clock.at += 1
        ask = Request(
            id=asks.make_request_id(self.watched.clock()), at=self.watched.clock(), kind=kind, stage="stage1", steps=(step,)
        )
        asks.write_request(ask, self.watched.config.paths)
        self.run_polls()

    def may_reappear(self):
        """Whether a job may be out of sight and live: with a wrong clock as well, no wait is long enough but the fence's."""
        endings = [*self.scoring_jobs.endings, *(run.ending for run in self.slurm._runs.values())]
        jobs = [job for job in self.slurm.jobs if not job.is_purged]
        return "preempted" in endings or any(job.will_requeue or job.visible_at > self.watched.clock() for job in jobs)

    @precondition(lambda self: not self.may_reappear())
    @rule(days=st.sampled_from([-1.0, 0.01, 1.0, 30.0]), polls=st.integers(min_value=1, max_value=3), step=STEP)
    def the_clock_is_wrong_for_a_while(self, days, polls, step):
        self.save_checkpoint(step)
        self.slurm.queue_delay_seconds = 0.0
        self.skew = days * 86400.0
        EVENT_COUNTS["a wrong clock"] += 1
        self.run_polls(polls)
        self.skew = 0.0
        self.run_polls()

    @precondition(lambda self: self.watched.daemon is not None)
    @rule()
    def the_daemon_is_killed(self):
        self.watched.kill_daemon()
        self.restart_executor()

    # what must always hold

    @invariant()
    def one_live_submission(self):
        live = [job for job in self.slurm.jobs if job.is_live and not job.is_purged and not self.void(job)]
        of = [job.name.rpartition("-")[0] for job in live]
        assert len(of) == len(set(of)), [job.name for job in live]

    @staticmethod
    def void(job):
        claim = job.request.parent / "claim"
        return claim.exists() and claim.read_text().startswith("void")

    @invariant()
    def never_two_runs_and_only_what_is_complete(self):
        assert self.scoring_jobs.violations == []

    @invariant()
    def one_score_for_one_content(self):
        assert all(count == 1 for count in self.scoring_jobs.publish_counts.values()), self.scoring_jobs.publish_counts

    @invariant()
    def every_state_has_its_reason(self):
        for record in self.records.values():
            assert record.reason or record.state in {EvaluationState.PENDING, EvaluationState.SCORED}, record

    @invariant()
    def what_flies_has_an_attempt(self):
        for record in self.records.values():
            assert record.state not in IN_FLIGHT_STATES or record.attempt is not None

    @invariant()
    def steps_are_counted(self):
        EVENT_COUNTS["steps"] += 1

    def teardown(self):
        """All faults end, and so does everything that is owed."""
        try:
            self.faults.clear()
            self.late_names.clear()
            self.stale_names.clear()
            self.scoring_jobs.endings.clear()
            self.slurm.queue_delay_seconds = self.slurm.accounting_delay_seconds = 0.0
            self.slurm.has_accounting = True
            for step in list(self.partial_saves):
                self.a_save_ends(step)
            if (self.watched.ckpts / "stage1").exists():
                self.watched.touch("stage1")
            for _ in range(60):
                self.watched.tick(seconds=600.0, jobs=False)
                if all(self.is_ended(record) for record in self.records.values()):
                    break
            for record in self.records.values():
                assert self.is_ended(record), f"{record.key} is {record.state}: {record.reason}"
            self.one_live_submission()
            self.never_two_runs_and_only_what_is_complete()
            self.one_score_for_one_content()
            assert read_journal(self.watched.config.paths).records == self.watched.journal_state.records
        finally:
            EVENT_COUNTS.update(self.slurm.fault_counts)
            EVENT_COUNTS.update(
                scores=self.scoring_jobs.publish_counts.total(), runs=self.scoring_jobs.started_count, jobs=len(self.slurm.jobs)
            )
            self.watched.kill_daemon()
            self.patch.undo()
            shutil.rmtree(self.folder)

    def is_ended(self, record):
        if record.directory == PREFILL_DIRECTORY or record.state in SETTLED_STATES:
            return True
        return record.state is EvaluationState.WAITING and record.checkpoint not in self.complete_folders
