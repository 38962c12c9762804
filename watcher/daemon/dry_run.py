"""What a tick would do."""

from collections.abc import Callable, Mapping

from watcher.config.settings import Config
from watcher.core.actions import Note, Skip
from watcher.core.executor import Executor
from watcher.core.snapshot import comment_of
from watcher.daemon.tick import ROUNDS, _Foreseen, identity, tell
from watcher.journal.journal import DryJournal
from watcher.observe.local_data import Contents
from watcher.observe.observer import Observer
from watcher.reconcile.reconciler import decide


def rehearse(
    config: Config,
    journal: DryJournal,
    executor: Executor,
    state_id: str,
    *,
    clock: Callable[[], float],
    environ: Mapping[str, str],
) -> tuple[list[dict[str, str]], tuple[Skip, ...]]:
    """What a tick would do, and what it would not. Nothing is written and nothing is submitted.

    It goes on as a tick does: events are added to ``journal``, which is in memory alone, and what a deed would change on disk
    is changed in what is seen at the next look.
    """
    observer = Observer(state_id, environ, server_clock=lambda _: clock(), contents=Contents(config.paths.contents))
    told: list[dict[str, str]] = []
    done: set[tuple[str, str, str]] = set()
    skips: tuple[Skip, ...] = ()
    foreseen = _Foreseen()
    for _ in range(ROUNDS):
        world = foreseen.after(observer.look(config, journal.ledger, executor, clock()))
        decision = decide(world, journal.ledger, config, comment_of(state_id))
        skips = decision.skips
        fresh = [action for action in decision.actions if identity(action) not in done]
        for action in fresh:
            done.add(identity(action))
            told += tell(action)
            foreseen.add(action)
            if isinstance(action, Note):
                journal.append(action.event, action.key, t=world.now, **action.fields)
        if not fresh:
            break
    return told, skips
