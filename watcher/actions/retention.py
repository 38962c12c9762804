"""Performs pin, unpin, mirror and restore actions."""

from collections.abc import Callable
from pathlib import Path

from suites.common.documents import DamagedDocument
from suites.common.errors import UserError
from suites.contract.paths import EvaluationPaths
from watcher.actions import mirror, pins
from watcher.config.settings import Config
from watcher.core import events, stage_events
from watcher.core.actions import RESULTS_RETRY_SECONDS, MirrorResults, PinCheckpoint, UnpinCheckpoint
from watcher.core.clock import Clock, LogFn
from watcher.core.events import JournalEvent
from watcher.core.result_paths import build_mirror_token, get_evaluation_paths
from watcher.journal.journal import Journal


class RetentionActions:
    """Retention actions of one watcher. ``append_event`` journals an event."""

    def __init__(
        self,
        journal: Journal,
        state_id: str,
        *,
        clock: Clock,
        append_event: Callable[[JournalEvent], None],
        log: LogFn,
    ) -> None:
        self._journal, self._state_id, self._clock, self._append_event, self._log = journal, state_id, clock, append_event, log
        self._pin_error = self._mirror_error = ""
        self._mirror_retry_at = 0.0
        self._orphans_removed = False

    @property
    def errors(self) -> list[str]:
        """Failures of pins and mirror, for the status."""
        return [error for error in (self._pin_error, self._mirror_error) if error]

    def pin(self, action: PinCheckpoint, config: Config) -> None:
        """Pin a checkpoint; refused links are reported once and block nothing."""
        known_pins = list(self._journal.state.iter_pins())
        roots = pins.list_pin_roots(config, self._state_id)
        if not self._orphans_removed:
            # Once after the start is enough, since only a killed watcher leaves orphans.
            self._orphans_removed = True
            for orphan in pins.remove_orphan_pins(roots, {pin.folder for pin in known_pins}):
                self._log("pin_swept", folder=str(orphan))
        available_bytes = config.pin_max - sum(pin.size for pin in known_pins)
        try:
            pin = pins.pin_checkpoint(Path(action.checkpoint), action.fingerprint, action.key, roots, available_bytes)
        except UserError:  # it is being deleted: the next inspection shows that
            return
        reason, name = pin.why or pin.folder, action.checkpoint if action.is_member else action.key
        self._append_event(
            stage_events.MemberPinned(checkpoint=action.checkpoint, pin=pin, reason=reason)
            if action.is_member
            else events.Pinned(evaluation=action.key, pin=pin, reason=reason)
        )
        self._pin_error = f"pin: {name} is not protected against deletion: {pin.why}" if pin.why else ""

    def unpin(self, action: UnpinCheckpoint, config: Config) -> None:
        """Release a pin; one that is gone is no error."""
        # A damaged journal must not name a folder of somebody else's.
        if action.folder and pins.is_pin_folder(Path(action.folder), config, self._state_id):
            pins.release_pin(Path(action.folder))
        self._append_event(
            stage_events.MemberUnpinned(checkpoint=action.member, reason=action.reason)
            if action.member
            else events.Unpinned(evaluation=action.key, reason=action.reason)
        )

    def mirror(self, action: MirrorResults, config: Config) -> None:
        """Mirror or restore results; an unwritable mirror is retried later."""
        record, mirror_root = self._journal.state.records[action.key], config.mirror
        # A try may block on a broken file system, so tries are minutes apart.
        if mirror_root is None or self._clock() < self._mirror_retry_at:
            return
        results_paths = get_evaluation_paths(config, record)
        mirror_paths = EvaluationPaths(mirror_root / record.stage, record.directory)
        try:
            if action.restore:
                mirror.restore_from_mirror(mirror_paths, results_paths, record.suites)
            else:
                mirror.copy_to_mirror(results_paths, mirror_paths, record.suites, str(record.fingerprint))
        except (OSError, DamagedDocument) as error:
            self._mirror_error = f"mirror: {action.key}: {error}; next try in {RESULTS_RETRY_SECONDS / 60:.0f} min"
            # A mirror is a second copy: nothing waits for it.
            self._mirror_retry_at = self._clock() + RESULTS_RETRY_SECONDS
            self._log("trouble", message=self._mirror_error)
            return
        self._mirror_error = ""
        if action.restore:
            self._append_event(events.Restored(evaluation=action.key, reason=f"restored from {mirror_paths.folder}"))
        else:
            copy, folder = build_mirror_token(record), str(mirror_paths.folder)
            self._append_event(events.Mirrored(evaluation=action.key, copy=copy, reason=folder))
