"""Which members of averages are pinned: from their completion until the average is scored. Pure."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from suites.checkpoint.completeness import Completeness
from watcher.averages.members import MEMBERS_DIRECTORY
from watcher.averages.schedule import MemberChoice
from watcher.config.settings import Config
from watcher.core.actions import Action, PinCheckpoint, UnpinCheckpoint
from watcher.core.evaluation import SETTLED_STATES, EvaluationState, Pin
from watcher.core.snapshot import Snapshot
from watcher.journal.replay import JournalState


def next_member_pin_actions(
    snapshot: Snapshot, config: Config, journal_state: JournalState, choices: Mapping[str, Sequence[MemberChoice]]
) -> list[Action]:
    """Pin what an average to come will need, and release what none needs. ``choices``: of each stage's rule."""
    wanted = set(_list_wanted(journal_state, choices))
    actions: list[Action] = []
    for folder in sorted(wanted):
        inspection, pin = snapshot.inspections.get(folder), journal_state.member_pins.get(folder)
        if inspection is None or inspection.kind is not Completeness.COMPLETE or inspection.fingerprint is None:
            continue
        if pin is not None and pin.fingerprint != inspection.fingerprint:
            actions.append(_release(folder, pin, "the checkpoint was rewritten"))
        elif pin is None:
            reason = "until its average is scored"
            pinned = PinCheckpoint(
                key=_make_key(folder), checkpoint=folder, fingerprint=inspection.fingerprint, is_member=True, reason=reason
            )
            actions.append(pinned)
    # A folder without any step may be unmounted, and a pin that is dropped cannot be made again.
    unknown = tuple(
        f"{stage.checkpoints}/" for stage in config.stages.values() if stage.average and not snapshot.stages[stage.name].steps
    )
    actions += [
        _release(folder, pin, "no average needs it")
        for folder, pin in journal_state.member_pins.items()
        if folder not in wanted and not folder.startswith(unknown)
    ]
    return actions


def _release(folder: str, pin: Pin, reason: str) -> UnpinCheckpoint:
    return UnpinCheckpoint(key=_make_key(folder), folder=pin.folder, member=folder, reason=reason)


def _make_key(folder: str) -> str:
    """``stage1/(members)``, with the name of the folder that holds the checkpoint."""
    return f"{PurePath(folder).parent.name}/{MEMBERS_DIRECTORY}"


def _list_wanted(journal_state: JournalState, choices: Mapping[str, Sequence[MemberChoice]]) -> Iterator[str]:
    """Folders of the members of open averages, of due ones and of the upcoming one."""
    for record in journal_state.records.values():
        # A blocked one may still be scored after a person's help.
        if record.average and (record.state not in SETTLED_STATES or record.state is EvaluationState.BLOCKED):
            yield from (member.checkpoint for member in record.average)
    for choice in itertools.chain.from_iterable(choices.values()):
        yield from choice.folders.values()
