"""What is done to keep things: checkpoints that are owed a score, pinned; small results, mirrored and restored."""

from collections.abc import Callable
from pathlib import Path

from suites.common.errors import Problem
from suites.contract.paths import EvaluationPaths
from watcher.actions import mirror, pins
from watcher.config.settings import Config
from watcher.core import evaluation as mirror_evaluation
from watcher.core.actions import RESULTS_AGAIN, Link, Mirror, Unlink
from watcher.core.clock import Say
from watcher.core.result_paths import results_of
from watcher.journal.journal import Journal


class Keeper:
    """Does it for one watcher. ``append`` journals an event."""

    def __init__(
        self, journal: Journal, state_id: str, *, clock: Callable[[], float], append: Callable[..., None], say: Say
    ) -> None:
        self._journal, self._state_id, self._clock, self._append, self._say = journal, state_id, clock, append, say
        self._pin_trouble = self._mirror_trouble = ""
        self._mirror_again = 0.0
        self._swept = False

    @property
    def troubles(self) -> list[str]:
        """What cannot be kept, for the status."""
        return [words for words in (self._pin_trouble, self._mirror_trouble) if words]

    def pin(self, action: Link, config: Config) -> None:
        """Where links are refused that is said once, and the evaluation goes on without."""
        records = self._journal.ledger.records.values()
        roots = pins.roots(config, self._state_id)
        if not self._swept:
            self._swept = True
            for stray in pins.sweep(roots, {record.pin.folder for record in records if record.pin is not None}):
                self._say("pin_swept", folder=str(stray))
        room = config.pin_max - sum(record.pin.size for record in records if record.pin is not None)
        try:
            pin = pins.pin(Path(action.checkpoint), action.fingerprint, action.key, roots, room)
        except Problem:  # it is going just now: the next look says so
            return
        self._append("pinned", action.key, pin=pin, reason=pin.why or pin.folder)
        self._pin_trouble = f"pin: {action.key} is not protected against deletion: {pin.why}" if pin.why else ""

    def unpin(self, action: Unlink) -> None:
        """Release a pin, and say so. One that is gone already is fine."""
        if action.folder:
            pins.release(Path(action.folder))
        self._append("unpinned", action.key, reason=action.reason)

    def mirror(self, action: Mirror, config: Config) -> None:
        """A mirror that cannot be written is said, tried again after a while, and keeps nothing else from being done."""
        record, to = self._journal.ledger.records[action.key], config.mirror
        if to is None or self._clock() < self._mirror_again:
            return
        own = results_of(config, record)
        copy = EvaluationPaths(to, record.stage, record.directory)
        try:
            if action.back:
                mirror.restore(copy, own, record.suites)
            else:
                mirror.copy(own, copy, record.suites, str(record.fingerprint))
        except OSError as error:
            self._mirror_trouble = f"mirror: {action.key}: {error}; tried again in {RESULTS_AGAIN / 60:.0f} min"
            self._mirror_again = self._clock() + RESULTS_AGAIN
            self._say("trouble", words=self._mirror_trouble)
            return
        self._mirror_trouble = ""
        if action.back:
            self._append("restored", action.key, reason=f"restored from {copy.folder}")
        else:
            self._append("mirrored", action.key, copy=mirror_evaluation.token(record), reason=str(copy.folder))
