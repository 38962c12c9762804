"""One tick: observe, reconcile, act, until nothing is left to do."""

import math
import traceback
from collections.abc import Callable, Mapping
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
from watcher.core.clock import Clock, LogFn
from watcher.core.events import JournalEvent
from watcher.core.executor import Executor
from watcher.core.snapshot import QueueSnapshot, Snapshot, format_job_comment
from watcher.journal.journal import Journal, JournalSuperseded
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.observer import Observer
from watcher.reconcile.reconciler import reconcile

MAX_ROUNDS = 12
"""Rounds in one tick, at most: created, ready, submitted and released take one round each."""

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
        )
        self.skips: tuple[Skip, ...] = ()
        self.alerts: tuple[Alert, ...] = ()
        self.queue: QueueSnapshot | None = None
        self.warnings: tuple[str, ...] = ()
        self.performed_actions: list[dict[str, str]] = []
        """Actions of the last tick, for people."""
        self.is_idle = False
        """Whether the last tick found nothing new and did nothing."""
        self._job_comment, self._clock, self._log = format_job_comment(state_id), clock, log
        self._last_decision: tuple[int, Decision] | None = None

    def use_stages(self, config: Config) -> None:
        """Take the stages of new run folders; all else of ``config`` is as before."""
        self.config = self.actor.config = config

    def tick(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Run rounds until nothing is left, or ``is_stopping()``. OSError, JournalSuperseded."""
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
            snapshot = preliminary or self.observer.take_snapshot(self.config, self.journal.state, self.executor, self._clock())
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
            for action in new_actions:
                # Between two actions everything is on disk, so a stop loses nothing.
                if is_stopping():
                    break
                done.add(identify_action(action))
                try:
                    self.actor.perform(action)
                except (OSError, DamagedDocument) as error:
                    errors.append(f"{action.key}: {get_action_name(action)}: {error}")
                    self._log("trouble", evaluation=action.key, action=get_action_name(action), message=str(error))
                except JournalSuperseded:
                    raise
                except Exception as error:  # noqa: BLE001  a defect about one evaluation must not stop the others
                    errors.append(f"{action.key}: {get_action_name(action)}: internal error: {error!r}; see the log")
                    self._log("defect", evaluation=action.key, action=get_action_name(action), traceback=traceback.format_exc())
                else:
                    self.performed_actions += describe_action(action)
            # What failed is in ``done``, so a full disk ends the rounds as well.
            if is_stopping() or not (new_actions or preliminary):
                break
            is_decided_again = decision.is_preliminary and bool(new_actions)
            preliminary = msgspec.structs.replace(snapshot, requests=()) if is_decided_again else None
        self.warnings = (*self.observer.warnings, *self.actor.warnings, *errors)

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
