"""Observe: one World a look, with no more system calls than what is unsettled needs.

An idle poll stats each stage's folder, its latest.txt and its folder of results, whatever the number of checkpoints.
What is settled is looked at again only when something moved beside it, and once an hour. The queue is asked at most
once a tick, and not at all while nothing of ours can be in it.
"""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from suites.contract.scoring_request import Request
from suites.contract.tier_files import TierVerdict
from suites.definitions.data_cache import few
from watcher.config.settings import Config
from watcher.core.clock import touch_clock
from watcher.core.evaluation import IN_FLIGHT, Record, ahead
from watcher.core.executor import Executor, Job, JobState, Most, Unreachable
from watcher.core.request_types import Ask
from watcher.core.resources import slurm_for
from watcher.core.result_paths import results_of
from watcher.core.snapshot import AttemptSeen, QueueSeen, Results, StagePlan, World, comment_of, job_of
from watcher.journal import request_files as evidence_request_files
from watcher.journal.replay import Ledger
from watcher.observe import attempts as evidence_attempts
from watcher.observe.checkpoints import HOURLY, Checkpoints
from watcher.observe.data_cache import Caches
from watcher.observe.local_data import Contents
from watcher.observe.result_cache import Judged, Settled, of_mirror
from watcher.observe.stage_folders import RACY, Listings
from watcher.observe.stage_plans import Plans
from watcher.observe.suite_changes import Changes

HISTORY_LAG = 60.0
"""Seconds after which accounting is asked for a name that the queue lacks, and the least between two such questions."""

LONGEST_BACK = 7 * 86400.0
"""Seconds that accounting is searched for an attempt whose time was given by a clock that was wrong."""

STARTING = 5.0
"""Seconds that a process of this machine may take to claim its attempt."""

AFTER_VOID = 3600.0
"""Seconds in which the queue is watched for a job that was given up before it could be found."""


def lag_of(executor: Executor) -> float:
    """Seconds after which a name that the queue lacks is looked up elsewhere. Processes of this machine show at once."""
    return HISTORY_LAG if executor.holds else STARTING


class Observer:
    """Looks at disk and queue, and remembers what need not be looked at again."""

    def __init__(
        self,
        state_id: str,
        environ: Mapping[str, str],
        *,
        server_clock: Callable[[Path], float] = touch_clock,
        contents: Contents | None = None,
    ) -> None:
        self._server_clock = server_clock
        self._comment = comment_of(state_id)
        self._listings, self._plans, self._checkpoints = Listings(), Plans(environ, contents), Checkpoints()
        self._caches = Caches()
        self._judged = Judged()
        self._changes = Changes()
        self._settled = Settled()
        self._requests: tuple[int, float] | None = None
        self._settled_at = self._history_at = float("-inf")
        self._queue: QueueSeen | None = None
        self._asked = self._started = False
        self._standing: tuple[object, ...] = ()
        self._not_asks: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Troubles of the last look that are about no one evaluation."""
        return [*self._not_asks, *filter(None, self._settled.away.values())]

    @property
    def looks_at_all(self) -> float:
        """Unix time from which the next look is at what is settled too, although nothing seems to have moved."""
        return self._settled_at + HOURLY

    def new_tick(self) -> None:
        """Forget what is good for one tick only: the queue's answer, and how much was read."""
        self._queue, self._asked = None, False
        self._plans.new_tick()

    def look(self, config: Config, ledger: Ledger, executor: Executor, now: float) -> World:
        """Everything that deciding needs. Raises OSError where the state folder itself cannot be used."""
        server_now = self._server_clock(config.paths.clock)
        stages = {stage.name: self._listings.look(stage, server_now) for stage in config.stages.values()}
        plans = self._look_at_plans(config, ledger, now, server_now)
        lacking = self._caches.look(config, plans, ledger, now)
        unscheduled = self._listings.others(config)
        settled_due = not 0 <= now - self._settled_at < HOURLY
        inspections, marks = self._checkpoints.look(
            ledger.records.values(),
            config,
            stages,
            self._listings.moved,
            now=now,
            server_now=server_now,
            settled_due=settled_due,
        )
        flying = [record for record in ledger.everything() if record.state in IN_FLIGHT and record.attempt is not None]
        attempts = {
            record.attempt.run_id: evidence_attempts.attempt_on_disk(
                config.paths, results_of(config, record), record.attempt.run_id, record.attempt.tasks
            )
            for record in flying
            if record.attempt is not None
        }
        results = self._settled.look(config, ledger, due=settled_due)
        mirrors, unmirrored = of_mirror(config, ledger, plans, results, settled_due=settled_due)
        results |= self._judged.of_unsettled(config, ledger, inspections, plans, away=self._settled.away, now=now)
        results |= _of_prefills(ledger, lacking)
        queue, strangers = self._ask_queue(config, ledger, executor, now)
        attempts |= {
            record.attempt.run_id: evidence_attempts.what_is_left(
                attempts[record.attempt.run_id], results_of(config, record), record.attempt, record.step
            )
            for record in flying
            if record.attempt is not None and _ended_badly(attempts[record.attempt.run_id], job_of(record.attempt, queue))
        }
        asks = self._asks(config, server_now)
        standing: tuple[object, ...] = (config, *stages.values(), *plans.values(), *lacking.values(), unscheduled)
        same = len(standing) == len(self._standing) and all(map(operator.is_, standing, self._standing))
        moved = not same or bool(inspections or marks or results or queue or asks or flying or self._listings.moved)
        self._standing = standing
        self._listings.moved.clear()
        if settled_due:
            self._settled_at = now
        return World(
            now=now,
            server_now=server_now,
            stages=stages,
            plans=plans,
            unscheduled=unscheduled,
            lacking=lacking,
            inspections=inspections,
            marks=marks,
            results=results,
            changes=self._changes.look(config, ledger, plans),
            mirrors=mirrors,
            unmirrored=unmirrored,
            attempts=attempts,
            queue=queue,
            strangers=strangers,
            most=_most(executor, config, flying, attempts, queue),
            lag=lag_of(executor),
            max_running=None if executor.holds else 1,
            submissions_left=executor.submissions_left,
            asks=tuple(asks),
            moved=moved,
        )

    def _look_at_plans(self, config: Config, ledger: Ledger, now: float, server_now: float) -> dict[str, StagePlan]:
        """Every stage's plan; its local data are stat'ed where something moved beside, and before anything is submitted."""
        ready = {record.stage for record in ledger.records.values() if record.waits_its_turn}
        everywhere = bool(self._listings.moved)
        return {
            stage.name: self._plans.look(
                stage, now, closely=everywhere or stage.name in ready, rest=config.settle, server_now=server_now
            )
            for stage in config.stages.values()
        }

    def _ask_queue(
        self, config: Config, ledger: Ledger, executor: Executor, now: float
    ) -> tuple[QueueSeen | None, dict[str, Request]]:
        records = list(ledger.everything())
        flying = [record for record in records if record.state in IN_FLIGHT and record.attempt is not None]
        if not self._asked:
            recent = any(0 <= now - at < AFTER_VOID for at in ledger.voided.values())
            wanted = bool(flying) or recent or not self._started or any(record.waits_its_turn for record in records)
            if wanted:
                self._asked = True
                self._queue = self._question(executor, flying, now)
                self._started = self._started or self._queue.jobs is not None
        seen = self._queue
        if seen is None or seen.jobs is None:
            return seen, {}
        known = {record.attempt.run_id for record in records if record.attempt is not None}
        ours = [name for name, job in seen.jobs.items() if job.comment == self._comment and name not in known]
        requests = {name: evidence_attempts.stranger(config.paths, name) for name in ours if not seen.jobs[name].state.over}
        return seen, {name: request for name, request in requests.items() if request is not None}

    def _question(self, executor: Executor, flying: Sequence[Record], now: float) -> QueueSeen:
        try:
            jobs = executor.queue()
        except Unreachable as error:
            return QueueSeen(at=now, jobs=None, trouble=str(error))
        lacking = [
            record.attempt
            for record in flying
            if record.attempt is not None
            and record.attempt.run_id not in jobs
            and (now - record.attempt.intended >= lag_of(executor) or ahead(record.attempt.intended, now))
        ]
        if not lacking or (executor.holds and 0 <= now - self._history_at < HISTORY_LAG):
            return QueueSeen(at=now, jobs=jobs)
        self._history_at = now
        try:
            since = min(now - LONGEST_BACK if ahead(attempt.intended, now) else attempt.intended for attempt in lacking)
            history = executor.history([attempt.run_id for attempt in lacking], since)
        except Unreachable as error:
            return QueueSeen(at=now, jobs=jobs, trouble=str(error))
        return QueueSeen(at=now, jobs=jobs, history=history, sure=True)

    def _asks(self, config: Config, server_now: float) -> list[Ask]:
        """Requests from the command line. The folder is listed when it moved, or has something left in it."""
        folder = config.paths.requests
        try:
            mtime = os.stat(folder).st_mtime_ns  # noqa: PTH116  part of the idle poll
        except FileNotFoundError:
            return []
        if self._requests is not None and self._requests[0] == mtime and self._requests[1] - mtime / 1e9 > RACY:
            return []
        found, self._not_asks = evidence_request_files.asks(config.paths)
        self._requests = None if found else (mtime, server_now)
        return found


def _ended_badly(seen: AttemptSeen, job: Job | None) -> bool:
    """Whether what else an attempt left is looked at: it is over, by its own word or the executor's, and not well."""
    if seen.exits and seen.exits[-1].code != 0:
        return True
    return job is not None and job.state.over and job.state is not JobState.COMPLETED


def _most(
    executor: Executor, config: Config, flying: Sequence[Record], attempts: Mapping[str, AttemptSeen], queue: QueueSeen | None
) -> dict[str, Most]:
    """The limits of partitions, asked for only where an attempt may have run into one."""
    found: dict[str, Most] = {}
    for record in flying:
        attempt = record.attempt
        if attempt is None:
            continue
        seen, job = attempts[attempt.run_id], job_of(attempt, queue)
        warned = bool(seen.exits) and seen.exits[-1].signal == "USR1"
        if warned or seen.memory or (job is not None and job.state in {JobState.TIMEOUT, JobState.OUT_OF_MEMORY}):
            partition = slurm_for(config, record).partition
            if (partition or "") not in found:
                try:
                    found[partition or ""] = executor.most(partition)
                except Unreachable:
                    found[partition or ""] = Most()
    return found


def _of_prefills(ledger: Ledger, lacking: Mapping[str, tuple[str, ...]]) -> dict[str, Results]:
    """What a prefill in flight is for: a cache that lacks nothing."""
    return {
        record.key: Results(verdicts={"data cache": TierVerdict(*(("missing", f"lacks {few(lacks)}") if lacks else ("valid",)))})
        for record in ledger.prefills.values()
        if record.state in IN_FLIGHT and (lacks := lacking.get(record.stage)) is not None
    }
