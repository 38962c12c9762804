"""What a tick would do."""

from collections.abc import Callable, Mapping

from watcher.config.settings import Config
from watcher.core.actions import JournalEvent, Skip
from watcher.core.executor import Executor
from watcher.core.snapshot import format_job_comment
from watcher.daemon.tick import MAX_ROUNDS, _Foreseen, describe_action, identify_action
from watcher.journal.journal import DryJournal
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.observer import Observer
from watcher.reconcile.reconciler import reconcile


def preview_tick(
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
    observer = Observer(
        state_id, environ, server_clock=lambda _: clock(), data_hashes=LocalDataHashes(config.paths.contents_json)
    )
    descriptions: list[dict[str, str]] = []
    done: set[tuple[str, str, str]] = set()
    skips: tuple[Skip, ...] = ()
    foreseen = _Foreseen()
    for _ in range(MAX_ROUNDS):
        snapshot = foreseen.after(observer.take_snapshot(config, journal.state, executor, clock()))
        decision = reconcile(snapshot, journal.state, config, format_job_comment(state_id))
        skips = decision.skips
        new_actions = [action for action in decision.actions if identify_action(action) not in done]
        for action in new_actions:
            done.add(identify_action(action))
            descriptions += describe_action(action)
            foreseen.add(action)
            if isinstance(action, JournalEvent):
                journal.append(action.event, action.key, t=snapshot.now, **action.fields)
        if not new_actions:
            break
    return descriptions, skips
