"""Whether a checkpoint is present, absent, gone or unknown. Pure."""

import enum
from collections.abc import Mapping
from typing import NamedTuple

from suites.checkpoint.completeness import Completeness, Inspection
from suites.common.formatting import format_utc
from watcher.attempts.journal_events import wait_or_skip
from watcher.averages.members import list_member_records
from watcher.config.settings import Config
from watcher.core.actions import Skip
from watcher.core.evaluation import EvaluationRecord, Pin
from watcher.core.events import Waiting
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import Snapshot, StageFolder, select_inspection

GONE_CONFIRMED_SECONDS = 600.0
"""Seconds after which a missing checkpoint needs attention: a file server may list a folder late, or come back."""


class Presence(enum.Enum):
    """Whether a checkpoint exists, as far as that is known."""

    PRESENT = enum.auto()
    ABSENT = enum.auto()
    UNKNOWN = enum.auto()


class CheckpointPresence(NamedTuple):
    """A checkpoint as this tick sees it."""

    kind: Presence
    inspection: Inspection | None = None
    """Where it is present."""
    reason: str = ""
    """Where it is absent or unknown."""
    detail: str | None = None
    """More than ``reason``, for status; it may change from tick to tick."""
    is_gone: bool = False
    """Where it is absent: it will not come by itself."""
    needs_confirmation: bool = False
    """Where it is gone: only after a while is that certain."""


def observe_presence(
    record: EvaluationRecord, snapshot: Snapshot, config: Config, member_pins: Mapping[str, Pin]
) -> CheckpointPresence:
    """The checkpoint's inspection, or why it is absent or unknown; of an average: why the first such member is.

    ``member_pins``: folder -> pin, as in the journal.
    """
    if record.average:
        for member in list_member_records(record, member_pins):
            presence = observe_presence(member, snapshot, config, {})
            if presence.kind is not Presence.PRESENT:
                reason, detail = (text and f"step {member.step}: {text}" for text in (presence.reason, presence.detail))
                return presence._replace(reason=reason or "", detail=detail)
        inspection = snapshot.inspections.get(record.inspected)
        if inspection is None:
            return CheckpointPresence(Presence.UNKNOWN, reason="its members are inspected in the next tick")
        return CheckpointPresence(Presence.PRESENT, inspection)
    stage_folder = _find_listing(record, snapshot, config)
    # A failed listing is not an empty folder.
    if stage_folder is not None and stage_folder.error:
        return CheckpointPresence(Presence.UNKNOWN, reason=stage_folder.error)
    inspection = select_inspection(record, snapshot.inspections)
    if inspection is not None and inspection.kind is not Completeness.GONE:
        return CheckpointPresence(Presence.PRESENT, inspection)
    is_listed = stage_folder is not None and record.step in (stage_folder.steps or {})
    if inspection is None and (is_listed or record.checkpoint in snapshot.deferred):
        return CheckpointPresence(Presence.UNKNOWN, reason="new; inspected in the next tick")
    if "detected" in record.times:
        return _describe_deleted(record, stage_folder)
    return _describe_unseen(record, stage_folder, inspection if is_listed else None)


def _find_listing(record: EvaluationRecord, snapshot: Snapshot, config: Config) -> StageFolder | None:
    """The listing that shows this checkpoint's folder; None where nothing lists it."""
    source = config.stages.get(record.source)
    is_listed = source is not None and _get_parent(record) == str(source.checkpoints)
    return snapshot.stages.get(record.source) if is_listed else None


def _get_parent(record: EvaluationRecord) -> str:
    return record.checkpoint.rpartition("/")[0]  # this runs for every open evaluation in each poll


def _describe_deleted(record: EvaluationRecord, stage_folder: StageFolder | None) -> CheckpointPresence:
    folder, seen = _get_parent(record), f"complete at {format_utc(record.times['detected'])}"
    # An unmounted file system must not look like a deletion, which is reported to a person at once.
    if stage_folder is not None and stage_folder.absent:
        return CheckpointPresence(Presence.ABSENT, reason=f"{folder} is gone (unmounted?); the checkpoint was {seen}")
    if stage_folder is not None and stage_folder.is_empty:
        reason = f"{folder} is empty (unmounted, or cleaned?); the checkpoint was {seen}"
        return CheckpointPresence(Presence.ABSENT, reason=reason, is_gone=True, needs_confirmation=True)
    return CheckpointPresence(Presence.ABSENT, reason=f"deleted before it was scored; it was {seen}", is_gone=True)


def _describe_unseen(
    record: EvaluationRecord, stage_folder: StageFolder | None, listed_inspection: Inspection | None
) -> CheckpointPresence:
    """Why a checkpoint that was never complete is absent.

    ``listed_inspection``: of what has its name and is no folder.
    """
    if stage_folder is None:
        return CheckpointPresence(Presence.ABSENT, reason=f"waiting for checkpoint {record.checkpoint}")
    folder = _get_parent(record)
    if stage_folder.absent:
        return CheckpointPresence(Presence.ABSENT, reason=f"waiting for checkpoint: {folder} does not exist yet")
    if listed_inspection is not None:
        return CheckpointPresence(Presence.ABSENT, reason=f"waiting for checkpoint: {listed_inspection.reason}")
    # A run that goes back names its step in latest.txt, and then later steps are still to come.
    latest_step = stage_folder.latest_step
    if latest_step is not None and record.step < latest_step:
        reason = "gone before it was seen complete, or never saved"
        detail = f"{reason}: {folder} is at step {latest_step}"
        return CheckpointPresence(Presence.ABSENT, reason=reason, detail=detail, is_gone=True, needs_confirmation=True)
    return CheckpointPresence(Presence.ABSENT, reason="waiting for checkpoint")


def wait_for_absent(record: EvaluationRecord, presence: CheckpointPresence, now: float) -> Waiting | Skip:
    """Wait for an absent checkpoint; a person hears of one that is gone."""
    is_confirmed = not presence.needs_confirmation or now >= record.since + GONE_CONFIRMED_SECONDS
    return wait_or_skip(
        record,
        presence.reason,
        presence.detail,
        kind=ReasonKind.CHECKPOINT,
        deleted=presence.is_gone,
        needs_attention=presence.is_gone and is_confirmed,
    )


def find_confirmation_time(record: EvaluationRecord, now: float) -> float | None:
    """When a checkpoint that seems gone needs attention, if that is yet to come."""
    confirmed_at = record.since + GONE_CONFIRMED_SECONDS
    return confirmed_at if record.deleted and now < confirmed_at else None
