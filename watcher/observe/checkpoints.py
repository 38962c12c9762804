"""Which checkpoints are looked at now, and how closely; what was seen is remembered while its marks stay."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from suites.checkpoint.completeness import Completeness, Inspection, inspect, markers
from watcher.config.settings import Config
from watcher.core.evaluation import Record, State
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import StageSeen

HOURLY = 3600.0

SLOWLY = 600.0
"""Seconds between two looks at a folder that seems to be left as it is: unreadable, or quiet for long."""

OPEN = frozenset({State.OWED, State.WAITING, State.READY, State.FAILED})
"""States in which the checkpoint is being waited for."""


class _Looked(msgspec.Struct, frozen=True):
    inspection: Inspection
    marks: str | None
    at: float
    forced: bool


def marks_of(folder: str) -> str | None:
    """``completeness.markers`` in one spelling for the journal."""
    found = markers(Path(folder))
    return None if found is None else "-".join(map(str, found))


class Checkpoints:
    """Remembers inspections from one poll to the next."""

    def __init__(self) -> None:
        self._looked: dict[str, _Looked] = {}
        self._suspects: set[str] = set()
        """Folders of settled evaluations whose marks moved and which are not whole again yet."""

    def look(
        self,
        records: Iterable[Record],
        config: Config,
        stages: Mapping[str, StageSeen],
        moved: set[str],
        *,
        now: float,
        server_now: float,
        settled_due: bool,
    ) -> tuple[dict[str, Inspection], dict[str, str | None]]:
        """(inspections, marks) by folder. ``moved``: stage folders in which something moved since the last look."""
        inspections: dict[str, Inspection] = {}
        marks: dict[str, str | None] = {}
        listed = {str(stage.checkpoints): stages[stage.name] for stage in config.stages.values()}
        for record in records:
            folder = record.checkpoint
            beside = os.path.dirname(folder)  # noqa: PTH120  a pathlib object costs more than all the rest of this loop
            if record.state in OPEN:
                self._look_at_pin(record, inspections, listed.get(beside), config.settle, server_now)
                if _absent(record, listed.get(beside)):
                    self._looked.pop(folder, None)
                elif not record.rests(now):
                    known = None if beside in moved or settled_due else self._waits_its_turn(record, server_now)
                    inspections[folder], marks[folder] = known or self._inspect(record, config.settle, server_now)
            elif record.state is State.BLOCKED and record.reason_kind is ReasonKind.CHECKPOINT:
                if beside in moved or settled_due or self._unreadable_for_long(folder, server_now):
                    inspections[folder], marks[folder] = self._inspect(record, config.settle, server_now)
            elif record.state in {State.SCORED, State.BLOCKED} and record.markers is not None:
                if beside in moved or settled_due or folder in self._suspects:
                    if marks_of(folder) in {record.markers, None}:
                        self._suspects.discard(folder)
                    else:
                        self._suspects.add(folder)
                        inspections[folder], marks[folder] = self._inspect(record, config.settle, server_now)
            else:
                self._looked.pop(folder, None)
        return inspections, marks

    def _waits_its_turn(self, record: Record, server_now: float) -> tuple[Inspection, str | None] | None:
        """What was seen of a complete one that only waits for others: its marks are looked at again before it is submitted."""
        looked = self._looked.get(record.checkpoint)
        if not record.waits_its_turn or looked is None or looked.inspection.kind is not Completeness.COMPLETE:
            return None
        fresh = looked.marks == record.markers and 0 <= server_now - looked.at < SLOWLY
        return (looked.inspection, looked.marks) if fresh else None

    def _look_at_pin(
        self, record: Record, inspections: dict[str, Inspection], listed: StageSeen | None, settle: float, server_now: float
    ) -> None:
        """What is pinned of a checkpoint that is gone, or that nothing lists."""
        if record.pin is None or not record.pin.folder or not (listed is None or _absent(record, listed)):
            return
        folder = record.pin.folder
        inspections[folder] = inspect(Path(folder), now=server_now, settle=settle, forced=record.forced)

    def _unreadable_for_long(self, folder: str, server_now: float) -> bool:
        looked = self._looked.get(folder)
        return looked is None or (looked.inspection.kind is Completeness.UNREADABLE and server_now - looked.at >= SLOWLY)

    def _inspect(self, record: Record, settle: float, server_now: float) -> tuple[Inspection, str | None]:
        folder = record.checkpoint
        marks = marks_of(folder)
        looked = self._looked.get(folder)
        if looked is not None and (looked.marks, looked.forced) == (marks, record.forced):
            age = server_now - looked.at
            if _at_rest(looked.inspection, server_now) and 0 <= age < SLOWLY:
                return looked.inspection, marks
        found = inspect(Path(folder), now=server_now, settle=settle, forced=record.forced)
        if marks_of(folder) != marks:
            why = "being written: it moved while it was looked at"
            found = msgspec.structs.replace(found, kind=Completeness.NOT_YET, why=why, fingerprint=None)
        self._looked[folder] = _Looked(found, marks, server_now, record.forced)
        return found, marks


def _absent(record: Record, seen: StageSeen | None) -> bool:
    """Whether a listing says that the folder is not there. Folders that no listing would show are inspected instead."""
    if seen is None or seen.steps is None or not record.checkpoint.endswith(f"/{record.step}"):
        return False
    return record.step not in seen.steps


def _at_rest(inspection: Inspection, server_now: float) -> bool:
    """Whether nothing is expected to change soon."""
    if inspection.kind is Completeness.NOT_YET:
        return inspection.newest_mtime is not None and server_now - inspection.newest_mtime > SLOWLY
    return inspection.kind is not Completeness.GONE
