"""What a stage's first checkpoint says of its training, and later ones that differ. Pure."""

from typing import NamedTuple

import msgspec

from suites.checkpoint.completeness import Inspection
from suites.checkpoint.contents import CheckpointKind
from suites.contract.encoding import canonical_digest
from watcher.attempts.journal_events import CheckpointContent
from watcher.core import events, stage_events
from watcher.core.evaluation import EvaluationRecord, StageSettings
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import Snapshot, StageRequirements, select_inspection
from watcher.journal.replay import JournalState


class FactsComparison(NamedTuple):
    """How a checkpoint's own training config relates to its stage's."""

    conflict: str = ""
    """Why it cannot stand in the stage's curve."""
    notes: tuple[str, ...] = ()
    """Differences that do not prevent its scoring."""
    compared_with: str = ""
    """Digest of the facts that it was compared with: a conflict ends when they change."""


def make_stage_facts_events(snapshot: Snapshot, journal_state: JournalState) -> list[stage_events.StageFactsRead]:
    """The facts of each stage's first complete checkpoint; again once that one is rewritten.

    They are journaled before anything depends on them: a bridge that is scored later uses the same.
    """
    first_inspections: dict[str, tuple[EvaluationRecord, Inspection]] = {}
    for record in journal_state.records.values():
        known = journal_state.stage_settings.get(record.stage)
        # An average says what its last member says; all members together are no content of that folder.
        own = msgspec.structs.replace(record, average=()) if record.average else record
        inspection = select_inspection(own, snapshot.inspections)
        if not _is_stage_checkpoint(record) or inspection is None or inspection.fingerprint is None:
            continue
        # A checkpoint that is written anew may belong to another training run, so its old facts say nothing.
        is_rewritten = known is not None and (
            known.checkpoint == record.checkpoint and known.fingerprint != inspection.fingerprint
        )
        is_first = record.stage not in first_inspections or record.step < first_inspections[record.stage][0].step
        is_needed = known is None or _has_lost_tokenizer(known, inspection, snapshot)
        if is_rewritten or (is_needed and is_first):
            first_inspections[record.stage] = record, inspection
    return [
        stage_events.StageFactsRead(
            stage=record.stage,
            facts=_extract_facts(record.checkpoint, inspection, snapshot),
            reason=record.key,
        )
        for record, inspection in first_inspections.values()
    ]


def _has_lost_tokenizer(known: StageSettings, inspection: Inspection, snapshot: Snapshot) -> bool:
    """Whether the stage's tokenizer was deleted with its checkpoint, and this one has the same.

    A Hugging Face checkpoint has its tokenizer in its folder, and trainings keep only the newest ones.
    """
    if known.tokenizer is None or known.tokenizer != known.checkpoint or known.tokenizer in snapshot.tokenizer_digests:
        return False
    digest = snapshot.tokenizer_digests.get(inspection.tokenizer or "")
    return digest is not None and digest == known.tokenizer_digest


def compare_with_stage(
    record: EvaluationRecord, inspection: Inspection, snapshot: Snapshot, stage_facts: StageSettings | None
) -> FactsComparison:
    """How a complete checkpoint differs from its stage; only the stage's own are compared."""
    if stage_facts is None or not _is_stage_checkpoint(record):
        return FactsComparison()
    facts = _extract_facts(record.checkpoint, inspection, snapshot)
    document = "folder" if inspection.checkpoint_kind is CheckpointKind.HF else "config.yaml"
    return _compare_facts(record, facts, stage_facts, snapshot, document)


def _is_stage_checkpoint(record: EvaluationRecord) -> bool:
    return record.source == record.stage and not record.custom_directory


def _extract_facts(checkpoint: str, inspection: Inspection, snapshot: Snapshot) -> StageSettings:
    """What a complete checkpoint's documents say of its training."""
    return StageSettings(
        tokenizer=inspection.tokenizer,
        tokenizer_digest=snapshot.tokenizer_digests.get(inspection.tokenizer or ""),
        seq_len=inspection.seq_len,
        vocab_size=inspection.vocab_size,
        run_name=inspection.run_name,
        checkpoint=checkpoint,
        fingerprint=inspection.fingerprint,
    )


def compute_facts_digest(requirements: StageRequirements, stage_facts: StageSettings) -> str:
    """Digest of what checkpoints of the stage are compared with."""
    compared = [requirements.tokenizer, requirements.seq_len, stage_facts.tokenizer, stage_facts.tokenizer_digest]
    return canonical_digest([*compared, stage_facts.vocab_size, stage_facts.checkpoint, stage_facts.fingerprint])[:16]


def _compare_facts(
    record: EvaluationRecord, facts: StageSettings, stage_facts: StageSettings, snapshot: Snapshot, document: str
) -> FactsComparison:
    """Compare a checkpoint of the stage's own with the stage's first one, and with the watcher's config.

    ``document``: where its facts stand.
    """
    conflicts, notes, requirements = [], [], snapshot.requirements[record.stage]
    step = stage_facts.checkpoint.rpartition("/")[2]
    expected = requirements.tokenizer or stage_facts.tokenizer
    expected_digest = (
        snapshot.tokenizer_digests.get(requirements.tokenizer) if requirements.tokenizer else stage_facts.tokenizer_digest
    )
    if facts.tokenizer is not None and expected is not None:
        source = "the config sets" if requirements.tokenizer else f"checkpoint {step} has"
        difference = f"its {document} has tokenizer {facts.tokenizer}, and {source} {expected}"
        if facts.tokenizer_digest is None or expected_digest is None:
            if facts.tokenizer != expected:
                notes.append(f"{difference}; their files cannot be compared offline")
        elif facts.tokenizer_digest != expected_digest:
            conflicts.append(f"{difference}: their files differ")
    if facts.vocab_size is not None and stage_facts.vocab_size not in {None, facts.vocab_size}:
        conflicts.append(f"its vocab_size is {facts.vocab_size}, and checkpoint {step} has {stage_facts.vocab_size}")
    expected_length = requirements.seq_len or stage_facts.seq_len
    if facts.seq_len is not None and expected_length not in {None, facts.seq_len}:
        notes.append(f"its {document} has sequence length {facts.seq_len}; it is scored at {expected_length}")
    # A person who set the tokenizer, or forced the step, has decided: the difference is only said.
    if requirements.tokenizer or record.forced:
        conflicts, notes = [], [*conflicts, *notes]
    return FactsComparison("; ".join(conflicts), tuple(notes), compute_facts_digest(requirements, stage_facts))


def block_on_conflict(
    record: EvaluationRecord, comparison: FactsComparison, content: CheckpointContent | None
) -> events.Blocked | None:
    """Keep a checkpoint of another tokenizer out of the stage's curve."""
    if not comparison.conflict or content is None:
        return None
    stage = record.stage
    return events.Blocked(
        evaluation=record.key,
        reason=f"another training than its stage's: {comparison.conflict}",
        reason_kind=ReasonKind.TOKENIZER,
        hint=f"Set stages.{stage}.tokenizer, or run watcher retry {record.arguments} --force to score it all the same",
        compared_with=comparison.compared_with,
        **content._asdict(),
    )
