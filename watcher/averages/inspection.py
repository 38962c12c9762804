"""What is known of all members of an average together. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from suites.checkpoint.completeness import Completeness, Inspection
from suites.contract.averages import compute_average_fingerprint
from watcher.averages.members import join_mtimes, list_member_records
from watcher.core.evaluation import SETTLED_STATES, EvaluationRecord, Pin
from watcher.core.snapshot import select_inspection


class SeenCheckpoints(NamedTuple):
    """What one snapshot saw of checkpoints; filled while they are looked at."""

    inspections: dict[str, Inspection]
    """As ``Snapshot.inspections``."""
    mtimes: dict[str, str | None]
    """As ``Snapshot.mtimes``."""
    member_pins: Mapping[str, Pin]


def add_average(
    record: EvaluationRecord,
    seen: SeenCheckpoints,
    inspect: Callable[[EvaluationRecord], tuple[Inspection, str | None]],
) -> None:
    """Add what is known of an average, once all its members were looked at.

    Where only some were inspected, ``inspect`` looks at the others: the average is judged as a whole.
    """
    members = list_member_records(record, seen.member_pins)
    if record.state in SETTLED_STATES:
        # A member that is gone leaves the scores alone, as a scored checkpoint that is gone does.
        if all(seen.mtimes.get(member.checkpoint) in {member.mtimes, None} for member in members):
            return
        for member in members:
            if member.checkpoint not in seen.inspections:
                seen.inspections[member.checkpoint], seen.mtimes[member.checkpoint] = inspect(member)
    selected = select_member_inspections(record, seen.inspections, seen.member_pins)
    if selected is not None:
        seen.inspections[record.inspected] = combine_inspections(record, selected)
        seen.mtimes[record.inspected] = join_mtimes(seen.mtimes.get(member.checkpoint) for member in members)


def combine_inspections(record: EvaluationRecord, inspections: Sequence[Inspection]) -> Inspection:
    """The inspection of an average: complete where every member is.

    Otherwise it is that of the first member that is not, with its step. A complete one has the facts of the last member, and a
    fingerprint that covers all members and their weights.
    """
    for member, inspection in zip(record.average, inspections, strict=True):
        if inspection.kind is not Completeness.COMPLETE or inspection.fingerprint is None:
            reason = f"step {member.step}: {inspection.reason}"
            return msgspec.structs.replace(inspection, step=member.step, reason=reason, fingerprint=None)
    contents = [
        (str(inspection.fingerprint), member.weight) for member, inspection in zip(record.average, inspections, strict=True)
    ]
    unimplemented = {key.name: key for inspection in inspections for key in inspection.unimplemented}
    return msgspec.structs.replace(
        inspections[-1],
        fingerprint=compute_average_fingerprint(contents),
        newest_mtime=max(inspection.newest_mtime or 0.0 for inspection in inspections),
        unimplemented=tuple(unimplemented.values()),
        ignored=tuple(f"{inspection.folder.name}/{file}" for inspection in inspections for file in inspection.ignored),
    )


def select_member_inspections(
    record: EvaluationRecord, inspections: Mapping[str, Inspection], member_pins: Mapping[str, Pin]
) -> list[Inspection] | None:
    """The inspection of each member, or of its pin where it was deleted; None while one is missing."""
    selected = [select_inspection(member, inspections) for member in list_member_records(record, member_pins)]
    known = [inspection for inspection in selected if inspection is not None]
    return known if len(known) == len(selected) else None


def describe_difference(record: EvaluationRecord, inspections: Sequence[Inspection], tokenizer_digests: Mapping[str, str]) -> str:
    """How a member's tokenizer or vocabulary differs from the last one's; empty where all are alike."""
    last, last_step = inspections[-1], record.average[-1].step
    for member, inspection in zip(record.average, inspections, strict=True):
        tokenizers = [each.tokenizer or "" for each in (inspection, last)]
        # The same tokenizer may lie at two paths.
        if len({tokenizer_digests.get(tokenizer, tokenizer) for tokenizer in tokenizers}) > 1:
            return f"step {member.step} has the tokenizer {tokenizers[0]}, and step {last_step} {tokenizers[1]}"
        if inspection.vocab_size != last.vocab_size:
            sizes = f"{inspection.vocab_size} rows, and that of step {last_step} {last.vocab_size}"
            return f"the embedding of step {member.step} has {sizes}"
    return ""
