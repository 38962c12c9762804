"""Journal lines -> events."""

from collections.abc import Mapping
from typing import Any

import msgspec

from watcher.core import events, stage_events
from watcher.core.events import JournalEvent


class UnknownEvent(JournalEvent, frozen=True, kw_only=True, tag="(unknown)"):
    """An event that this version does not have, kept unchanged."""

    name_in_journal: str
    fields: Mapping[str, Any]


EVENT_TYPES: Mapping[str, type[JournalEvent]] = {
    str(event_type.__struct_config__.tag): event_type
    for event_type in (
        *(
            events.Opened,
            events.Created,
            events.Pending,
            events.Waiting,
            events.Ready,
            events.Intended,
            events.SubmissionUnknown,
            events.Abandoned,
            events.Submitted,
            events.Adopted,
            events.Released,
        ),
        *(
            events.Started,
            events.Requeued,
            events.ConfirmingEnd,
            events.Scored,
            events.Failed,
            events.Blocked,
            events.Cancelled,
            events.Lost,
            events.ResultsLocated,
            events.Restored,
        ),
        *(
            events.CheckpointMoved,
            events.MtimesUpdated,
            events.Pinned,
            events.Unpinned,
            events.Mirrored,
            events.BaselineSelected,
            events.AttemptMeasured,
            events.LeftOver,
            stage_events.LevelFixed,
        ),
        *(
            stage_events.MemberPinned,
            stage_events.MemberUnpinned,
            stage_events.StageFactsRead,
            stage_events.StageStartedFrom,
            stage_events.LooksPlanned,
            stage_events.Paused,
            stage_events.Resumed,
            events.RequestAnswered,
            events.Notified,
        ),
    )
}
"""Name in the journal -> its struct."""


# Every line has these, so they are no unknown fields.
_HEADER_FIELDS = frozenset({"schema", "seq", "epoch", "t", "event"})


def parse_event(document: Mapping[str, Any]) -> JournalEvent:
    """The event of a journal line.

    ValueError (msgspec.ValidationError) for a known event with wrong fields.
    """
    name = str(document.get("event"))
    event_type = EVENT_TYPES.get(name)
    if event_type is not None:
        return msgspec.convert(document, event_type)
    # A newer version's event must not stop this one: it is kept, and changes no state.
    evaluation, fields = document.get("evaluation"), list_unknown_fields(document, JournalEvent)
    return UnknownEvent(evaluation=evaluation if isinstance(evaluation, str) else "", name_in_journal=name, fields=fields)


def list_unknown_fields(document: Mapping[str, Any], event_type: type[JournalEvent]) -> dict[str, Any]:
    """Fields of a journal line that a newer version wrote."""
    known = {*_HEADER_FIELDS, *event_type.__struct_fields__}
    return {name: value for name, value in document.items() if name not in known}
