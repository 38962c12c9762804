"""One tick: observe, decide, record, act, until nothing is left to do now. Clock, executor and log are arguments."""

import math
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import assert_never

import msgspec

from suites.contract.tier_files import TierVerdict
from watcher.actions.actor import Actor
from watcher.config.settings import Config
from watcher.core.actions import (
    Action,
    Alert,
    Answer,
    Cancel,
    Decision,
    Link,
    Mirror,
    Note,
    Prefill,
    Release,
    SetAside,
    Skip,
    Submit,
    Unlink,
    Void,
)
from watcher.core.clock import Say
from watcher.core.executor import Executor
from watcher.core.snapshot import QueueSeen, Results, World, comment_of
from watcher.journal.journal import Journal, Superseded
from watcher.observe.local_data import Contents
from watcher.observe.observer import Observer
from watcher.reconcile.reconciler import decide

ROUNDS = 12
"""Looks in one tick, at most: owned, ready, submitted, released are one look each."""

_TOLD = frozenset(
    {"adopted", "scored", "blocked", "failed", "cancelled", "lost", "found"}
    | {"submit", "prefill", "release", "cancel", "give_up", "set_aside", "mirror", "restore", "answer"}
)
"""Events and effects that a person would call an action; what the other events wait for is told as skipped."""


class Ticker:
    """Runs ticks over one journal and one executor."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        executor: Executor,
        state_id: str,
        *,
        clock: Callable[[], float],
        server_clock: Callable[[Path], float],
        environ: Mapping[str, str],
        say: Say,
        data_a_tick: float = math.inf,
    ) -> None:
        """``data_a_tick``: bytes of local data that are read in one, at most."""
        self.config = config
        self.journal, self.executor = journal, executor
        self.actor = Actor(config, journal, executor, state_id, clock=clock, say=say)
        self.observer = Observer(
            state_id,
            environ,
            server_clock=server_clock,
            contents=Contents(config.paths.contents, write=True, a_tick=data_a_tick),
        )
        self.skips: tuple[Skip, ...] = ()
        self.alerts: tuple[Alert, ...] = ()
        self.queue: QueueSeen | None = None
        self.notes: tuple[str, ...] = ()
        self.told: list[dict[str, str]] = []
        """What the last tick did, for people."""
        self.quiet = False
        """The last tick saw nothing new and did nothing."""
        self._comment, self._clock, self._say = comment_of(state_id), clock, say
        self._standing: tuple[int, Decision] | None = None

    def reconfigure(self, config: Config) -> None:
        """From the next tick on."""
        self.config = self.actor.config = config

    def tick(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Look and act until nothing is left to do, or ``stopping()``. Raises OSError, or Superseded."""
        self.observer.new_tick()
        self.actor.new_tick()
        self.told = []
        done: set[tuple[str, str, str]] = set()
        troubles: list[str] = []
        for _ in range(ROUNDS):
            world = self.observer.look(self.config, self.journal.ledger, self.executor, self._clock())
            world = msgspec.structs.replace(world, later=self.actor.later(world.now), resting=self.actor.resting(world.now))
            decision = self._decide(world)
            self.skips, self.alerts, self.queue = decision.skips, decision.alerts, world.queue
            fresh = [action for action in decision.actions if identity(action) not in done]
            for action in fresh:
                if stopping():
                    break
                done.add(identity(action))
                try:
                    self.actor.perform(action)
                except OSError as error:
                    troubles.append(f"{action.key}: {name_of(action)}: {error}")
                    self._say("trouble", evaluation=action.key, action=name_of(action), words=str(error))
                except Superseded:
                    raise
                except Exception as error:  # noqa: BLE001  a defect about one evaluation must not stop the others
                    troubles.append(f"{action.key}: {name_of(action)}: a defect of the watcher: {error!r}; its log has more")
                    self._say("defect", evaluation=action.key, action=name_of(action), traceback=traceback.format_exc())
                else:
                    self.told += tell(action)
            if not fresh or stopping() or troubles:
                break
        self.notes = (*self.observer.notes, *self.actor.notes, *troubles)

    def _decide(self, world: World) -> Decision:
        """The last decision again where neither world nor journal nor the clock asks for another."""
        events = self.journal.ledger.events
        if self._standing is not None and not world.moved:
            at, decision = self._standing
            if at == events and not decision.actions and world.now < decision.due:
                self.quiet = True
                return decision
        self.quiet = False
        decision = decide(world, self.journal.ledger, self.config, self._comment)
        self._standing = (events, decision)
        return decision


class _Foreseen:
    """What the deeds of a dry run would have changed of what the next look sees, where that look decides something else."""

    def __init__(self) -> None:
        self._answered: set[str] = set()
        self._aside: dict[str, set[str]] = {}
        """Evaluation -> tiers whose files would have been moved away."""

    def add(self, action: Action) -> None:
        """That would be done."""
        if isinstance(action, Answer):
            self._answered.add(action.id)
        elif isinstance(action, SetAside):
            self._aside.setdefault(action.key, set()).update(action.tiers)

    def after(self, world: World) -> World:
        """``world`` without answered requests, and without results that were set aside."""
        results = {
            key: found if key not in self._aside else _without(found, self._aside[key]) for key, found in world.results.items()
        }
        asks = tuple(ask for ask in world.asks if ask.id not in self._answered)
        return msgspec.structs.replace(world, asks=asks, results=results)


def _without(results: Results, tiers: set[str]) -> Results:
    verdicts = {tier: TierVerdict("missing") if tier in tiers else verdict for tier, verdict in results.verdicts.items()}
    fingerprints = {tier: found for tier, found in results.fingerprints.items() if tier not in tiers}
    return msgspec.structs.replace(results, verdicts=verdicts, fingerprints=fingerprints)


def identity(action: Action) -> tuple[str, str, str]:
    """What makes an action the same one again: it is done once a tick."""
    if isinstance(action, Cancel):
        return name_of(action), action.key, action.job.job_id
    return name_of(action), action.key, action.reason


def name_of(action: Action) -> str:
    """The action in a word."""
    match action:
        case Note():
            name = action.event
        case Submit():
            name = "submit"
        case Prefill():
            name = "prefill"
        case Release():
            name = "release"
        case Cancel():
            name = "cancel"
        case Void():
            name = "give_up"
        case SetAside():
            name = "set_aside"
        case Link():
            name = "pin"
        case Unlink():
            name = "unpin"
        case Mirror():
            name = "restore" if action.back else "mirror"
        case Answer():
            name = "answer"
        case _:
            assert_never(action)
    return name


def tell(action: Action) -> list[dict[str, str]]:
    """The action as ``once --json`` prints it; nothing for bookkeeping."""
    if name_of(action) not in _TOLD:
        return []
    return [{"action": name_of(action), "evaluation": action.key, "reason": action.reason}]
