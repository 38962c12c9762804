"""`watcher once --dry-run`: what a tick would do, without doing it."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from suites.contract.tier_files import TierVerdict
from watcher.config.settings import Config
from watcher.core.actions import Action, ArchiveResults, CloseRequest, Skip
from watcher.core.bounded_reads import BoundedReads
from watcher.core.clock import Clock
from watcher.core.events import JournalEvent
from watcher.core.executor import Executor
from watcher.core.snapshot import EvaluationResults, Snapshot, format_job_comment
from watcher.daemon.tick import MAX_ROUNDS, describe_action, identify_action
from watcher.journal.journal import DryJournal
from watcher.observe.local_data import LocalDataHashes
from watcher.observe.observer import Observer
from watcher.reconcile.reconciler import reconcile


class TickPreview(NamedTuple):
    """Actions, skips and warnings of a tick that was not made."""

    actions: list[dict[str, str]]
    skips: tuple[Skip, ...]
    warnings: tuple[str, ...]


def preview_tick(
    config: Config,
    journal: DryJournal,
    executor: Executor,
    state_id: str,
    *,
    clock: Clock,
    environ: Mapping[str, str],
) -> TickPreview:
    """What a tick would do, without writing or submitting.

    It repeats rounds like a tick: events go to ``journal``, which is only in memory, and effects on disk are applied to the next
    snapshot.
    """
    # The server's clock would need a file to touch, and a dry run writes nothing.
    observer = Observer(
        state_id,
        environ,
        server_clock=lambda _: clock(),
        data_hashes=LocalDataHashes(config.paths.contents_json),
        reads=BoundedReads(config.poll, clock),
    )
    descriptions: list[dict[str, str]] = []
    done: set[tuple[str, str, str]] = set()
    skips: tuple[Skip, ...] = ()
    effects = _ForeseenEffects()
    for _ in range(MAX_ROUNDS):
        snapshot = effects.apply_to(observer.take_snapshot(config, journal.state, executor, clock()))
        decision = reconcile(snapshot, journal.state, config, format_job_comment(state_id))
        skips = decision.skips
        # Effects are not performed, so the same ones come again: only new ones count.
        new_actions = [action for action in decision.actions if identify_action(action) not in done]
        for action in new_actions:
            done.add(identify_action(action))
            descriptions += describe_action(action)
            effects.add(action)
            if isinstance(action, JournalEvent):
                journal.append(action, t=snapshot.now)
        if not new_actions:
            break
    return TickPreview(descriptions, skips, tuple(observer.warnings))


class _ForeseenEffects:
    """Effects of a dry run on what the next snapshot would show."""

    def __init__(self) -> None:
        self._closed_requests: set[str] = set()
        self._archived_tiers: dict[str, set[str]] = {}
        """Evaluation -> tiers whose files would have been moved away."""

    def add(self, action: Action) -> None:
        """Note an action that would be performed."""
        if isinstance(action, CloseRequest):
            self._closed_requests.add(action.id)
        elif isinstance(action, ArchiveResults):
            self._archived_tiers.setdefault(action.key, set()).update(action.tiers)

    def apply_to(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot without closed requests and archived results."""
        results = {
            key: _without_tiers(results, self._archived_tiers.get(key, set())) for key, results in snapshot.results.items()
        }
        requests = tuple(request for request in snapshot.requests if request.id not in self._closed_requests)
        return msgspec.structs.replace(snapshot, requests=requests, results=results)


def _without_tiers(results: EvaluationResults, tiers: set[str]) -> EvaluationResults:
    if not tiers:
        return results
    verdicts = {tier: TierVerdict("missing") if tier in tiers else verdict for tier, verdict in results.verdicts.items()}
    fingerprints = {tier: fingerprint for tier, fingerprint in results.fingerprints.items() if tier not in tiers}
    return msgspec.structs.replace(results, verdicts=verdicts, fingerprints=fingerprints)
