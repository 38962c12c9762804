"""Which averages a stage's rule asks for, and of which checkpoints. Pure."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from suites.checkpoint.completeness import QUIET_SECONDS, Completeness, Inspection
from suites.contract.averages import AverageStep, format_average_name
from watcher.config.settings import AverageSchedule, Stage
from watcher.core.evaluation import EvaluationRecord, Pin
from watcher.core.snapshot import StageFolder
from watcher.journal.replay import JournalState

Lookup = Callable[[int, str], Inspection | None]
"""(step, folder) -> the folder's inspection; None: not inspected yet."""

_LEFT_OUT = frozenset({Completeness.INTERRUPTED, Completeness.UNSCORABLE, Completeness.GONE})
"""Checkpoints that do not become complete by themselves."""


class MemberChoice(NamedTuple):
    """The members of one average, as far as they are known."""

    step: int
    folders: Mapping[int, str]
    """Step -> folder of the complete checkpoints that were found, newest first."""
    left_out: tuple[str, ...] = ()
    """Checkpoints that are no members since they are not complete, and why."""
    waiting: str = ""
    """Why it cannot be made yet; empty: ``folders`` are all its members."""


def list_due_steps(stage: Stage, stage_folder: StageFolder | None, journal_state: JournalState) -> list[int]:
    """Steps whose average the rule asks for and the journal lacks, ascending. Such a step exists."""
    rule = stage.average
    if rule is None or stage_folder is None or stage_folder.steps is None:
        return []
    known = {record.step for record in journal_state.records.values() if is_average_of(record, stage, rule)}
    return sorted(step for step in stage_folder.steps if rule.is_scheduled(step) and step not in known)


def is_average_of(record: EvaluationRecord, stage: Stage, rule: AverageSchedule) -> bool:
    """Whether an evaluation is an average that the stage's rule asks for, whoever made it."""
    if not record.average or record.custom_directory or not record.stage == record.source == stage.name:
        return False
    return record.average_rule == rule.rule or (rule.is_uniform and record.average_name == f"avg{rule.last}")


def find_upcoming_step(stage: Stage, stage_folder: StageFolder | None) -> int | None:
    """The step of the next average, which training has not reached; None where there is none to come."""
    rule = stage.average
    if rule is None or stage_folder is None or not stage_folder.steps:
        return None
    newest_step = max(stage_folder.steps)
    step = newest_step - newest_step % rule.every + rule.every
    last_steps = [end for end in (stage_folder.final_step, stage.to) if end is not None]
    return None if last_steps and step > min(last_steps) else step


def list_choices(
    stage: Stage, stage_folder: StageFolder | None, journal_state: JournalState, lookup: Lookup, *, server_now: float
) -> list[MemberChoice]:
    """A choice for each due average, ascending; then, as the last one, for the upcoming one, whose own step is missing.

    ``server_now``: the file server's clock.
    """
    rule = stage.average
    if rule is None or stage_folder is None or stage_folder.steps is None:
        return []
    pinned = find_pinned_steps(stage, journal_state.member_pins)
    folders = {**pinned, **stage_folder.steps}

    def look(step: int, folder: str) -> Inspection | None:
        pin = journal_state.member_pins.get(folder)
        # What was pinned was complete, and is inspected again before it is scored.
        if pin is not None and (pin.folder or step in (stage_folder.steps or ())):
            return Inspection(kind=Completeness.COMPLETE, reason="pinned", folder=stage.checkpoints, fingerprint=pin.fingerprint)
        inspection = lookup(step, folder)
        if inspection is None or inspection.kind is not Completeness.NOT_YET or inspection.newest_mtime is None:
            return inspection
        # A save that ended long ago without being complete is none of the newest complete ones.
        is_abandoned = server_now - inspection.newest_mtime > QUIET_SECONDS
        return msgspec.structs.replace(inspection, kind=Completeness.INTERRUPTED) if is_abandoned else inspection

    choices = [_choose_members(rule, step, folders, look) for step in list_due_steps(stage, stage_folder, journal_state)]
    upcoming = find_upcoming_step(stage, stage_folder)
    return choices if upcoming is None else [*choices, _choose_members(rule, upcoming, folders, look)]


def find_pinned_steps(stage: Stage, member_pins: Mapping[str, Pin]) -> dict[int, str]:
    """Step -> folder of the stage's pinned members, deleted ones too."""
    parent = f"{stage.checkpoints}/"
    names = {
        folder: folder.removeprefix(parent) for folder, pin in member_pins.items() if pin.folder and folder.startswith(parent)
    }
    steps = {folder: stage.layout.read_step(name) for folder, name in names.items()}
    return {step: folder for folder, step in steps.items() if step is not None}


def _choose_members(rule: AverageSchedule, step: int, folders: Mapping[int, str], look: Lookup) -> MemberChoice:
    """The newest complete checkpoints at or before ``step``; those that are being written are waited for."""
    candidates = sorted((each for each in folders if each <= step), reverse=True)
    chosen: dict[int, str] = {}
    left_out: list[str] = []
    # Without the step itself, its place among the members stays free.
    wanted_count = rule.last if step in folders else rule.last - 1
    if step in folders and len(candidates) < rule.last:  # nothing has to be inspected to know that
        return MemberChoice(step, {}, (), _describe_too_few(rule, step, len(candidates)))
    waiting = "" if step in folders else f"waiting for checkpoint {step}"
    for candidate in candidates:
        inspection = look(candidate, folders[candidate])
        if inspection is None:
            waiting = waiting or f"step {candidate} is inspected in the next tick"
        elif inspection.kind is Completeness.COMPLETE:
            chosen[candidate] = folders[candidate]
        elif candidate != step and inspection.kind in _LEFT_OUT:
            left_out.append(f"step {candidate}: {inspection.reason}")
        else:
            waiting = waiting or f"waiting for checkpoint {candidate}: {inspection.detail}"
        # Older ones are looked at beyond one that is waited for: they are the members if it does not become complete.
        if len(chosen) == wanted_count:
            break
    else:
        waiting = waiting or _describe_too_few(rule, step, len(chosen))
    return MemberChoice(step, chosen, tuple(left_out), waiting)


def _describe_too_few(rule: AverageSchedule, step: int, count: int) -> str:
    found = f"{count} complete checkpoint{'' if count == 1 else 's'} at or before step {step}"
    return f"needs the last {rule.last} checkpoints, and there {'is' if count == 1 else 'are'} {found}"


class PlannedAverage(NamedTuple):
    """An average whose members are known."""

    step: int
    members: tuple[AverageStep, ...]
    """Ascending."""
    name: str
    reason: str
    """What was chosen, and what was left out."""


def plan_average(rule: AverageSchedule, choice: MemberChoice) -> PlannedAverage:
    """The average of a choice that waits for nothing."""
    members = tuple(
        AverageStep(step=step, weight=weight, checkpoint=choice.folders[step])
        for step, weight in zip(sorted(choice.folders), rule.weights, strict=True)
    )
    steps = ", ".join(str(member.step) for member in members)
    left_out = f"; left out: {'; '.join(choice.left_out)}" if choice.left_out else ""
    name = format_average_name(members, is_plain=rule.is_uniform)
    return PlannedAverage(choice.step, members, name, f"in the schedule: the {rule.rule} of steps {steps}{left_out}")
