"""Inspects checkpoints that may have changed, and caches inspections."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import Completeness, Inspection, inspect_checkpoint
from suites.checkpoint.folder_kind import read_mtimes
from watcher.averages.inspection import SeenCheckpoints, add_average
from watcher.averages.members import join_mtimes, list_member_records, make_candidate
from watcher.averages.schedule import list_choices
from watcher.config.settings import Config, Stage
from watcher.core.bounded_reads import BoundedReads, HangingRead
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import StageFolder
from watcher.journal.replay import JournalState

FULL_SCAN_SECONDS = 3600.0

SLOW_CHECK_SECONDS = 600.0
"""Seconds between two inspections of a folder that seems to stay as it is: unreadable, or long unchanged."""

OPEN_STATES = frozenset({EvaluationState.PENDING, EvaluationState.WAITING, EvaluationState.READY, EvaluationState.FAILED})
"""States that wait for the checkpoint or its submission."""


class _CachedInspection(msgspec.Struct, frozen=True):
    inspection: Inspection
    mtimes: str | None
    inspected_at: float
    forced: bool


class _Look(msgspec.Struct):
    """One snapshot's look at all checkpoints."""

    settle_seconds: float
    now: float
    server_now: float
    changed_folders: frozenset[str]
    full_scan_due: bool
    deferred_before: frozenset[str]
    is_out_of_time: Callable[[], bool]
    has_begun: bool = False

    def take_time(self) -> bool:
        """Whether there is time for one more inspection; for the first one always."""
        is_allowed = not self.has_begun or not self.is_out_of_time()
        self.has_begun = True
        return is_allowed


def encode_record_mtimes(record: EvaluationRecord) -> str | None:
    """The mtimes of an evaluation's checkpoint; of an average: of all its members."""
    if record.average:
        return join_mtimes(encode_mtimes(member.checkpoint) for member in record.average)
    return encode_mtimes(record.checkpoint)


def encode_mtimes(folder: str) -> str | None:
    """``folder_kind.read_mtimes`` as one text for the journal."""
    numbers = read_mtimes(Path(folder))
    return None if numbers is None else "-".join(map(str, numbers))


class InspectionCache:
    """Remembers inspections from one poll to the next."""

    def __init__(self, reads: BoundedReads) -> None:
        self._reads = reads
        self._cached: dict[str, _CachedInspection] = {}
        self._suspects: set[tuple[str, str]] = set()
        """(evaluation, folder) of settled ones whose mtimes changed and which are incomplete still: averages share folders."""
        self.deferred: set[str] = set()
        """Folders that were due when the time was used up; the next calls inspect them."""
        self._pass: dict[str, _CachedInspection] = {}
        """Inspections since ``new_pass``: rounds and slices of one tick do not repeat them."""

    def new_pass(self) -> None:
        """Inspect everything again that may change at any time."""
        self._pass = {}

    def inspect_checkpoints(
        self,
        journal_state: JournalState,
        config: Config,
        stages: Mapping[str, StageFolder],
        changed_folders: set[str],
        *,
        now: float,
        server_now: float,
        full_scan_due: bool,
        is_out_of_time: Callable[[], bool] = lambda: False,
    ) -> tuple[dict[str, Inspection], dict[str, str | None]]:
        """(inspections, mtimes) by folder; of an average by its key, too.

        ``changed_folders``: stage folders that changed since the last tick. What is due when ``is_out_of_time()`` is deferred;
        at least one is inspected.
        """
        stage_folders = {str(stage.checkpoints): stages[stage.name] for stage in config.stages.values()}
        look = _Look(
            config.settle, now, server_now, frozenset(changed_folders), full_scan_due, frozenset(self.deferred), is_out_of_time
        )
        self.deferred = set()
        seen = SeenCheckpoints({}, {}, journal_state.member_pins)
        for record in journal_state.records.values():
            for member in list_member_records(record, journal_state.member_pins):
                self._look_at(member, seen, stage_folders, look)
            if record.average:
                add_average(record, seen, lambda member: self._inspect(member, config.settle, server_now))
        for stage in config.stages.values():
            self._look_for_members(stage, seen, stages[stage.name], journal_state, look)
        return seen.inspections, seen.mtimes

    def _look_at(
        self, record: EvaluationRecord, seen: SeenCheckpoints, stage_folders: Mapping[str, StageFolder], look: "_Look"
    ) -> None:
        """Inspect a checkpoint, and its pin, where that is due."""
        parent = os.path.dirname(record.checkpoint)  # noqa: PTH120  a pathlib object costs more than all the rest of this loop
        stage_folder = stage_folders.get(parent)
        inspected = self._inspect_record(record, parent, stage_folder, look)
        if inspected is not None:
            seen.inspections[record.checkpoint], seen.mtimes[record.checkpoint] = inspected
        if record.state in OPEN_STATES and record.pin is not None:
            self._inspect_pin(record, seen.inspections, stage_folder, look.settle_seconds, look.server_now)

    def _look_for_members(
        self, stage: Stage, seen: SeenCheckpoints, stage_folder: StageFolder, journal_state: JournalState, look: "_Look"
    ) -> None:
        """Inspect what may become a member of an average that the stage's rule asks for."""

        def inspect(step: int, folder: str) -> Inspection | None:
            if folder not in seen.inspections:
                self._look_at(make_candidate(stage.name, step, folder), seen, {str(stage.checkpoints): stage_folder}, look)
            return seen.inspections.get(folder)

        list_choices(stage, stage_folder, journal_state, inspect, server_now=look.server_now)

    def _inspect_record(
        self, record: EvaluationRecord, parent: str, stage_folder: StageFolder | None, look: "_Look"
    ) -> tuple[Inspection, str | None] | None:
        """The inspection that is due now; None where there is none, or no time for it."""
        folder = record.checkpoint
        # Whoever touches what hangs hangs too.
        if stage_folder is not None and stage_folder.is_hanging:
            return None
        is_changed = look.full_scan_due or parent in look.changed_folders
        is_due = is_changed or folder in look.deferred_before
        if record.state in OPEN_STATES:
            if _is_absent(record, stage_folder):
                self._cached.pop(folder, None)
                return None
            if record.is_backing_off(look.now):
                return None
            # A complete checkpoint that waits for limits keeps its inspection until something changes.
            reused = None if is_changed else self._reuse_complete_inspection(record, look.server_now)
            return reused or self._inspect_in_time(record, look)
        if record.state is EvaluationState.BLOCKED and record.reason_kind is ReasonKind.CHECKPOINT:
            # Only a changed checkpoint ends this block, so it is read again on changes and once an hour.
            is_due = is_due or self._is_unreadable_for_long(folder, look.server_now)
            return self._inspect_in_time(record, look) if is_due else None
        if record.state in {EvaluationState.SCORED, EvaluationState.BLOCKED} and record.mtimes is not None:
            # A rewrite of a scored step shows only in two mtimes, and reading them all each poll would cost too much.
            # No listing shows a reference's folder, and references are few.
            is_due = is_due or (record.key, folder) in self._suspects or record.is_reference
            return self._inspect_settled(record, look) if is_due else None
        self._cached.pop(folder, None)
        return None

    def _inspect_settled(self, record: EvaluationRecord, look: "_Look") -> tuple[Inspection, str | None] | None:
        folder = record.checkpoint
        if not look.take_time():
            self.deferred.add(folder)
            return None
        # Files that are missing belong to a deletion, which leaves the scores alone.
        mtimes = self._read_mtimes(folder, record.mtimes)
        if mtimes in {record.mtimes, None}:
            self._suspects.discard((record.key, folder))
            return None
        self._suspects.add((record.key, folder))
        return self._inspect(record, look.settle_seconds, look.server_now)

    def _inspect_in_time(self, record: EvaluationRecord, look: "_Look") -> tuple[Inspection, str | None] | None:
        folder, known = record.checkpoint, self._pass.get(record.checkpoint)
        # A pending one may have changed in the middle of a tick, which its submission noticed.
        if (
            known is not None
            and known.forced == record.forced
            and (record.state is not EvaluationState.PENDING or self._read_mtimes(folder, known.mtimes) == known.mtimes)
        ):
            return known.inspection, known.mtimes
        if not look.take_time():
            self.deferred.add(folder)
            return None
        inspection, mtimes = self._inspect(record, look.settle_seconds, look.server_now)
        self._pass[folder] = _CachedInspection(inspection, mtimes, look.server_now, record.forced)
        return inspection, mtimes

    def _reuse_complete_inspection(self, record: EvaluationRecord, server_now: float) -> tuple[Inspection, str | None] | None:
        """The cached inspection of a complete checkpoint that waits for limits.

        Its mtimes are read again before its submission.
        """
        cached = self._cached.get(record.checkpoint)
        if not record.is_ready_to_submit or cached is None or cached.inspection.kind is not Completeness.COMPLETE:
            return None
        is_fresh = cached.mtimes == record.mtimes and 0 <= server_now - cached.inspected_at < SLOW_CHECK_SECONDS
        return (cached.inspection, cached.mtimes) if is_fresh else None

    def _inspect_pin(
        self,
        record: EvaluationRecord,
        inspections: dict[str, Inspection],
        stage_folder: StageFolder | None,
        settle_seconds: float,
        server_now: float,
    ) -> None:
        """Inspect the pin of a deleted or unlisted checkpoint."""
        if record.pin is None or not record.pin.folder:
            return
        # Where the checkpoint itself exists, it is the one to score.
        inspection = inspections.get(record.checkpoint)
        is_gone = inspection is not None and inspection.kind is Completeness.GONE
        if not (stage_folder is None or is_gone or _is_absent(record, stage_folder)):
            return
        folder, step, forced = record.pin.folder, record.step, record.forced
        try:
            inspections[folder] = self._reads.run(
                ("pin", folder),
                folder,
                lambda: inspect_checkpoint(Path(folder), now=server_now, settle_seconds=settle_seconds, forced=forced, step=step),
            )
        except HangingRead as error:
            inspections[folder] = _describe_hanging(folder, error)

    def _is_unreadable_for_long(self, folder: str, server_now: float) -> bool:
        cached = self._cached.get(folder)
        return cached is None or (
            cached.inspection.kind is Completeness.UNREADABLE and server_now - cached.inspected_at >= SLOW_CHECK_SECONDS
        )

    def _read_mtimes(self, folder: str, known: str | None) -> str | None:
        """The mtimes now; ``known`` while its file server does not answer."""
        try:
            return self._reads.run(("mtimes", folder), folder, lambda: encode_mtimes(folder))
        except HangingRead:
            return known

    def _inspect(self, record: EvaluationRecord, settle_seconds: float, server_now: float) -> tuple[Inspection, str | None]:
        folder, forced, cached = record.checkpoint, record.forced, self._cached.get(record.checkpoint)
        # A reference stands for a model, whatever step its folder names.
        step = None if record.is_reference else record.step
        try:
            inspected = self._reads.run(
                ("inspection", folder, step, forced),
                folder,
                lambda: _inspect_folder(folder, step, cached, forced=forced, settle_seconds=settle_seconds, now=server_now),
            )
        except HangingRead as error:
            return _describe_hanging(folder, error), None
        self._cached[folder] = inspected
        return inspected.inspection, inspected.mtimes


def _inspect_folder(
    folder: str, step: int | None, known: _CachedInspection | None, *, forced: bool, settle_seconds: float, now: float
) -> _CachedInspection:
    """The inspection of a folder at ``now``, the server's clock; ``known`` itself while it still holds."""
    # Mtimes before content: a write during the inspection then shows as a difference.
    mtimes = encode_mtimes(folder)
    # Shards may change without these mtimes, so even a stable folder is read again after a while.
    if known is not None and (known.mtimes, known.forced) == (mtimes, forced):
        age_seconds = now - known.inspected_at
        if _is_stable(known.inspection, now) and 0 <= age_seconds < SLOW_CHECK_SECONDS:
            return known
    inspection = inspect_checkpoint(
        Path(folder), now=now, settle_seconds=settle_seconds, forced=forced, step=step, any_step=step is None
    )
    # Old and new files may be mixed in what was read.
    if encode_mtimes(folder) != mtimes:
        reason = "being written: it changed during its inspection"
        inspection = msgspec.structs.replace(inspection, kind=Completeness.NOT_YET, reason=reason, fingerprint=None)
    return _CachedInspection(inspection, mtimes, now, forced)


def _describe_hanging(folder: str, error: HangingRead) -> Inspection:
    """What is known of a checkpoint whose file server does not answer: nothing."""
    return Inspection(kind=Completeness.NOT_YET, reason=f"{folder}: {error.strerror}", folder=Path(folder))


def _is_absent(record: EvaluationRecord, stage_folder: StageFolder | None) -> bool:
    """Whether a listing shows that the folder does not exist.

    Folders outside any listing are inspected instead.
    """
    if stage_folder is None or stage_folder.steps is None:
        return False
    if os.path.basename(record.checkpoint) != stage_folder.layout.format_name(record.step):  # noqa: PTH119
        return False
    return record.step not in stage_folder.steps


def _is_stable(inspection: Inspection, server_now: float) -> bool:
    """Whether nothing is expected to change soon."""
    if inspection.kind is Completeness.NOT_YET:
        return inspection.newest_mtime is not None and server_now - inspection.newest_mtime > SLOW_CHECK_SECONDS
    return inspection.kind is not Completeness.GONE
