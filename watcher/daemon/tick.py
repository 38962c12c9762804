"""One tick: observe, reconcile, act, until nothing is left to do."""

import itertools
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import assert_never

import msgspec

from suites.common.documents import DamagedDocument
from watcher.actions.actor import Actor
from watcher.config.settings import Config
from watcher.core.actions import (
    AbandonAttempt,
    Action,
    Alert,
    ArchiveResults,
    CancelJob,
    CloseRequest,
    Decision,
    MirrorResults,
    PinCheckpoint,
    ReleaseJob,
    Skip,
    SubmitEvaluation,
    SubmitPrefill,
    UnpinCheckpoint,
)
from watcher.core.bounded_reads import BoundedReads
from watcher.core.clock import Clock, LogFn, TimeSlice
from watcher.core.events import JournalEvent
from watcher.core.executor import Executor
from watcher.core.snapshot import QueueSnapshot, Snapshot, format_job_comment
from watcher.journal.journal import Journal, JournalSuperseded
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.observer import Observer
from watcher.reconcile.reconciler import reconcile

MAX_ROUNDS = 12
"""Rounds in one tick, at most: created, ready, submitted and released take one round each."""

SLICE_POLLS = 0.5
"""Share of a poll after which a tick publishes its status and goes on in the next one."""

MAX_BATCH_EVENTS = 1000
"""Events that are journaled with one write: each write waits for the disk."""

_SHOWN_EVENTS = frozenset(
    {"adopted", "scored", "blocked", "failed", "cancelled", "lost", "results_found"}
    | {"submit", "prefill", "release", "cancel", "give_up", "set_aside", "mirror", "restore", "answer"}
)
"""Events and effects that a person would call an action; the others appear as skips."""


class TickRunner:
    """Runs ticks over one journal and one executor."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        executor: Executor,
        state_id: str,
        *,
        clock: Clock,
        server_clock: Callable[[Path], float],
        environ: Mapping[str, str],
        log: LogFn,
        data_bytes_per_tick: float = math.inf,
    ) -> None:
        """``data_bytes_per_tick``: bytes of local data that one tick hashes, at most."""
        self.config = config
        self.journal, self.executor = journal, executor
        # Actor and observer live as long as the process: their caches make an idle poll cheap.
        self.actor = Actor(config, journal, executor, state_id, clock=clock, log=log)
        self.observer = Observer(
            state_id,
            environ,
            server_clock=server_clock,
            data_hashes=LocalDataHashes(config.paths.contents_json, can_write=True, bytes_per_tick=data_bytes_per_tick),
            reads=BoundedReads(config.poll, clock),
        )
        self.skips: tuple[Skip, ...] = ()
        self.alerts: tuple[Alert, ...] = ()
        self.queue: QueueSnapshot | None = None
        self.warnings: tuple[str, ...] = ()
        self.performed_actions: list[dict[str, str]] = []
        """Actions of the last tick, for people."""
        self.is_idle = False
        """Whether the last tick found nothing new and did nothing."""
        self.is_unfinished = False
        """Whether the last tick ran out of time: the next one goes on at once."""
        self._slice = TimeSlice()
        self._job_comment, self._clock, self._log = format_job_comment(state_id), clock, log
        self._last_decision: tuple[int, Decision] | None = None

    def use_stages(self, config: Config) -> None:
        """Take the stages of new run folders; all else of ``config`` is as before."""
        self.config = self.actor.config = config

    def tick(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Run rounds until nothing is left, its time is used up, or ``is_stopping()``. OSError, JournalSuperseded."""
        # The status is due after each tick, and readers call a watcher stale after some polls without one.
        self._slice.start(self.config.poll * SLICE_POLLS)
        if self.is_unfinished:
            self.observer.continue_tick(self._clock() - self.config.poll)
        else:
            self.observer.new_tick()
        self.actor.new_tick()
        self.performed_actions = []
        # An effect whose event failed would be decided again in each round.
        done: set[tuple[str, str, str]] = set()
        errors: list[str] = []
        preliminary: Snapshot | None = None
        # Each round observes anew, so decisions rest on what the last round really changed.
        for _ in range(MAX_ROUNDS):
            # What was observed once, such as a changed folder, must not be lost to a round that only adds records.
            snapshot = preliminary or self.observer.take_snapshot(
                self.config, self.journal.state, self.executor, self._clock(), self._slice.is_half_over
            )
            self.actor.server_now = snapshot.server_now
            # The actor alone knows what it met in submissions a moment ago.
            snapshot = msgspec.structs.replace(
                snapshot,
                requests=tuple(request for request in snapshot.requests if request.id not in self.actor.undeletable_requests),
                submit_limit=self.actor.delays.submit_limit(snapshot.now),
                unwritable_results=self.actor.delays.unwritable_results(snapshot.now),
                occupied=self.actor.delays.occupied(snapshot.now),
            )
            decision = self._reconcile_if_changed(snapshot)
            self.skips, self.alerts, self.queue = decision.skips, decision.alerts, snapshot.queue
            new_actions = [action for action in decision.actions if identify_action(action) not in done]
            self.is_unfinished = bool(snapshot.deferred)
            for batch in group_actions(new_actions):
                # Between two of them everything is on disk, so a stop loses nothing.
                if is_stopping() or (done and self._slice.is_over()):
                    self.is_unfinished = True
                    break
                done.update(map(identify_action, batch))
                errors += self._perform(batch)
            # What was done may ask for another round; what failed is tried again at the next poll.
            if self._slice.is_over():
                self.is_unfinished = self.is_unfinished or (bool(new_actions) and not errors)
                break
            if is_stopping() or not (new_actions or preliminary or self.is_unfinished):
                break
            is_decided_again = decision.is_preliminary and bool(new_actions)
            preliminary = _without_acted_upon(snapshot, new_actions) if is_decided_again else None
        self.warnings = (*self.observer.warnings, *self.actor.warnings, *errors)

    def _perform(self, batch: Sequence[Action]) -> list[str]:
        """Perform an effect, or journal events; returns errors for the status."""
        action, remainder = batch[0], f", and {len(batch) - 1} more" if len(batch) > 1 else ""
        try:
            if isinstance(action, JournalEvent):
                self.actor.append_events([event for event in batch if isinstance(event, JournalEvent)])
            else:
                self.actor.perform(action)
        except (OSError, DamagedDocument) as error:
            self._log("trouble", evaluation=action.key, action=get_action_name(action), message=f"{error}{remainder}")
            return [f"{action.key}: {get_action_name(action)}{remainder}: {error}"]
        except JournalSuperseded:
            raise
        except Exception as error:  # noqa: BLE001  a defect about one evaluation must not stop the others
            self._log("defect", evaluation=action.key, action=get_action_name(action), traceback=traceback.format_exc())
            return [f"{action.key}: {get_action_name(action)}{remainder}: internal error: {error!r}; see the log"]
        for performed in batch:
            self.performed_actions += describe_action(performed)
        return []

    def _reconcile_if_changed(self, snapshot: Snapshot) -> Decision:
        """The last decision, while snapshot, journal and clock allow it."""
        event_count = self.journal.state.event_count
        if self._last_decision is not None and not snapshot.has_changed:
            event_count_at_decision, decision = self._last_decision
            # An idle poll must cost almost nothing: three months are 130,000 polls.
            if event_count_at_decision == event_count and not decision.actions and snapshot.now < decision.valid_until:
                self.is_idle = True
                return decision
        self.is_idle = False
        decision = reconcile(snapshot, self.journal.state, self.config, self._job_comment)
        self._last_decision = (event_count, decision)
        return decision


def _without_acted_upon(snapshot: Snapshot, actions: Sequence[Action]) -> Snapshot:
    """The snapshot without requests, and without results of evaluations that were acted upon since."""
    keys = {action.key for action in actions}
    results = {key: results for key, results in snapshot.results.items() if key not in keys}
    return msgspec.structs.replace(snapshot, requests=(), results=results)


def group_actions(actions: Iterable[Action]) -> Iterator[list[Action]]:
    """Actions in their order: one effect each, or journal events that are written together."""
    for is_event, group in itertools.groupby(actions, key=lambda action: isinstance(action, JournalEvent)):
        size = MAX_BATCH_EVENTS if is_event else 1
        while batch := list(itertools.islice(group, size)):
            yield batch


def identify_action(action: Action) -> tuple[str, str, str]:
    """Identity of an action, which is done once a tick."""
    if isinstance(action, CancelJob):
        return get_action_name(action), action.key, action.job.job_id
    return get_action_name(action), action.key, action.reason


def get_action_name(action: Action) -> str:
    """The action's name."""
    # The match is exhaustive, so a new kind of action fails the type check here.
    match action:
        case JournalEvent():
            name = action.name
        case SubmitEvaluation():
            name = "submit"
        case SubmitPrefill():
            name = "prefill"
        case ReleaseJob():
            name = "release"
        case CancelJob():
            name = "cancel"
        case AbandonAttempt():
            name = "give_up"
        case ArchiveResults():
            name = "set_aside"
        case PinCheckpoint():
            name = "pin"
        case UnpinCheckpoint():
            name = "unpin"
        case MirrorResults():
            name = "restore" if action.restore else "mirror"
        case CloseRequest():
            name = "answer"
        case _:
            assert_never(action)
    return name


def describe_action(action: Action) -> list[dict[str, str]]:
    """The action as ``once --json`` prints it; nothing for bookkeeping."""
    if get_action_name(action) not in _SHOWN_EVENTS:
        return []
    reason = action.full_reason if isinstance(action, JournalEvent) else action.reason
    return [{"action": get_action_name(action), "evaluation": action.key, "reason": reason}]
