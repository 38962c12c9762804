"""Actions for scored, blocked, cancelled and lost evaluations. Pure."""

from pathlib import Path

from suites.checkpoint.completeness import Completeness
from watcher.attempts.journal_events import BLOCKING_COMPLETENESS, block_on_checkpoint, make_pending_event
from watcher.averages.members import describe_changed_members
from watcher.config.settings import Config
from watcher.core import events
from watcher.core.actions import Action, MirrorResults, Skip, UnpinCheckpoint
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.core.reasons import ReasonKind
from watcher.core.result_paths import build_mirror_token
from watcher.core.snapshot import Snapshot, find_outdated_tiers
from watcher.journal.replay import JournalState
from watcher.reconcile.stage_facts import compute_facts_digest


def next_action_settled(
    record: EvaluationRecord, snapshot: Snapshot, config: Config, journal_state: JournalState, *, is_scheduled: bool
) -> Action | Skip | None:
    """The next action for a settled evaluation, if any."""
    # A blocked evaluation may still be scored after a person's help, so its pin stays.
    if record.pin is not None and record.state is not EvaluationState.BLOCKED:
        return UnpinCheckpoint(key=record.key, folder=record.pin.folder, reason=f"it is {record.state.value}")
    if record.state is EvaluationState.CANCELLED:
        return Skip(
            record.key,
            record.full_reason or "cancelled. Run watcher retry to schedule it again",
            repeats_reason=bool(record.reason),
        )
    if record.state is EvaluationState.BLOCKED:
        return _next_action_blocked(record, snapshot, journal_state)
    # Missing files come before everything else: a mirror of missing files would be empty.
    results_action = _next_action_missing_results(record, snapshot)
    if results_action is not None:
        return results_action
    rewrite_action = _next_action_rewritten(record, snapshot)
    if (
        rewrite_action is None
        and config.mirror is not None
        # A rewrite comes first, else results of the old content would replace the mirror's copy.
        and (record.mirror_token != build_mirror_token(record) or record.key in snapshot.stale_mirrors)
    ):
        return MirrorResults(key=record.key, reason=f"to {config.mirror}")
    if rewrite_action is not None:
        return rewrite_action
    requirements = snapshot.requirements.get(record.stage)
    outdated_tiers = [] if requirements is None or requirements.error else find_outdated_tiers(record, requirements)
    if not outdated_tiers or not is_scheduled:
        return None
    reason = snapshot.suite_changes.get(record.key) or f"the suites of {', '.join(outdated_tiers)} changed"
    # Without the checkpoint a new evaluation would wait for ever, and lose the scores that it has.
    if _is_checkpoint_gone(record, snapshot, config):
        return Skip(record.key, f"scored; {reason}, but the checkpoint is gone, so the scores stay")
    return make_pending_event(record, f"{reason}; the changed parts will be scored again")


def _next_action_missing_results(record: EvaluationRecord, snapshot: Snapshot) -> Action | Skip | None:
    """Restore, locate or give up results that are not in place."""
    results = snapshot.results.get(record.key)
    # A restored copy costs nothing, while a new score costs a GPU job.
    if results is not None and not results.is_valid and record.key in snapshot.mirrors and snapshot.mirrors[record.key].is_valid:
        return MirrorResults(key=record.key, restore=True, reason=f"{results.describe_first_invalid()}; the mirror has it")
    if results is not None and results.is_valid and results.results_folder:
        reason = f"its results are in {results.results_folder}"
        return events.ResultsLocated(evaluation=record.key, reason=reason, results=results.results_folder)
    # A cleaner may have removed the files on purpose, so only a person has them scored again.
    if record.state is EvaluationState.LOST:
        if results is not None and results.is_valid:
            return events.ResultsLocated(evaluation=record.key, reason="its results are back")
        return Skip(record.key, f"lost: {record.full_reason}", repeats_reason=True)
    if results is not None and not results.is_valid:
        hint = "Run watcher retry to score it again"
        return events.Lost(evaluation=record.key, reason=results.describe_first_invalid(), hint=hint)
    return None


def _is_checkpoint_gone(record: EvaluationRecord, snapshot: Snapshot, config: Config) -> bool:
    source, stage_folder = config.stages.get(record.source), snapshot.stages.get(record.source)
    # A folder outside every listing is not known to be gone.
    if source is None or stage_folder is None or Path(record.checkpoint).parent != source.checkpoints:
        return False
    steps = [member.step for member in record.average] or [record.step]
    return stage_folder.steps is not None and not all(step in stage_folder.steps for step in steps)


def _next_action_blocked(record: EvaluationRecord, snapshot: Snapshot, journal_state: JournalState) -> Action | Skip:
    inspection = snapshot.inspections.get(record.inspected)
    requirements, facts = snapshot.requirements.get(record.stage), journal_state.stage_settings.get(record.stage)
    if (
        record.reason_kind is ReasonKind.TOKENIZER
        and requirements is not None
        and facts is not None
        and record.compared_with != compute_facts_digest(requirements, facts)
    ):
        return make_pending_event(record, "the stage's tokenizer changed")
    if record.reason_kind is ReasonKind.CHECKPOINT and inspection is not None:
        if inspection.kind not in BLOCKING_COMPLETENESS:
            return make_pending_event(record, "the checkpoint changed")
        blocked = block_on_checkpoint(record, inspection)
        if blocked.reason_fields != record.reason_fields:
            return blocked
    elif inspection is not None:
        return _next_action_rewritten(record, snapshot) or _skip_blocked(record)
    return _skip_blocked(record)


def _skip_blocked(record: EvaluationRecord) -> Skip:
    return Skip(record.key, f"blocked: {record.full_reason}", repeats_reason=True)


def _next_action_rewritten(record: EvaluationRecord, snapshot: Snapshot) -> Action | Skip | None:
    """React to changed mtimes: score new content, or note new mtimes."""
    inspection, mtimes = snapshot.inspections.get(record.inspected), snapshot.mtimes.get(record.inspected)
    if inspection is None:
        return None
    name = f"{describe_changed_members(record, mtimes)} of the average" if record.average else "the checkpoint"
    # Without the others the changed member makes no average, and the scores of the old ones are all that is left.
    if record.average and inspection.kind is Completeness.GONE:
        reason = f"{name} changed, but {inspection.reason}, so the scores stay"
        return Skip(record.key, f"{record.state.value}; {reason}")
    if inspection.kind is not Completeness.COMPLETE or inspection.fingerprint is None:
        reason = f"{record.state.value}; its checkpoint is being rewritten: {inspection.detail}"
        return Skip(record.key, reason, is_being_rewritten=True)
    if inspection.fingerprint != record.fingerprint:
        return make_pending_event(record, f"{name} {'were' if name.startswith('steps') else 'was'} rewritten")
    if mtimes == record.mtimes:  # another evaluation of the same checkpoint caused this inspection
        return None
    return events.MtimesUpdated(evaluation=record.key, mtimes=mtimes, reason="same content, new mtimes")
