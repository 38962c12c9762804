"""The members of an average, each as if it were evaluated itself. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from watcher.core.evaluation import EvaluationRecord, EvaluationState, Pin

MEMBERS_DIRECTORY = "(members)"
"""The directory in the key of members' pins; no evaluation can have it, since names have no parentheses."""

_SEPARATOR = ";"
"""Between the mtimes of two members."""


def list_member_records(record: EvaluationRecord, member_pins: Mapping[str, Pin]) -> tuple[EvaluationRecord, ...]:
    """The record of each member: step, folder, mtimes and pin are the member's. The record itself where it is no average.

    ``member_pins``: folder -> pin, as in the journal.
    """
    if not record.average:
        return (record,)
    mtimes = split_mtimes(record)
    return tuple(
        msgspec.structs.replace(
            record,
            step=member.step,
            checkpoint=member.checkpoint,
            average=(),
            mtimes=member_mtimes,
            pin=member_pins.get(member.checkpoint),
        )
        for member, member_mtimes in zip(record.average, mtimes, strict=True)
    )


def make_candidate(stage: str, step: int, folder: str) -> EvaluationRecord:
    """A record by which a checkpoint is inspected that may become a member."""
    return EvaluationRecord(
        stage=stage,
        source=stage,
        step=step,
        directory=MEMBERS_DIRECTORY,
        origin="schedule",
        checkpoint=folder,
        state=EvaluationState.PENDING,
        since=0.0,
    )


def join_mtimes(mtimes: Iterable[str | None]) -> str:
    """Mtimes of an average: those of its members, in their order; an empty one where a file is missing."""
    return _SEPARATOR.join(text or "" for text in mtimes)


def split_mtimes(record: EvaluationRecord) -> list[str | None]:
    """The mtimes of each member; None where they are unknown."""
    texts = [] if record.mtimes is None else record.mtimes.split(_SEPARATOR)
    if len(texts) != len(record.average):
        return [None] * len(record.average)
    return [text or None for text in texts]


def describe_changed_members(record: EvaluationRecord, mtimes: str | None) -> str:
    """``step 36000`` or ``steps 34000, 36000``: the members whose mtimes differ from the recorded ones."""
    now = [] if mtimes is None else mtimes.split(_SEPARATOR)
    if len(now) != len(record.average):
        return "a member"
    steps = [
        str(member.step)
        for member, text, known in zip(record.average, now, split_mtimes(record), strict=True)
        if text and text != known
    ]
    return f"{'step' if len(steps) == 1 else 'steps'} {', '.join(steps)}" if steps else "a member"
