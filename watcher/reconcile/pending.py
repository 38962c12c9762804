"""The next actions for an evaluation that is not in flight. Pure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from suites.checkpoint.completeness import Completeness, Inspection
from suites.checkpoint.contents import CheckpointKind
from suites.checkpoint.model_config_reader import describe_unassumed_keys
from suites.common.formatting import format_utc
from suites.contract.averages import AverageMember
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest
from watcher.attempts.journal_events import (
    BLOCKING_COMPLETENESS,
    CheckpointContent,
    block_on_checkpoint,
    make_checkpoint_content,
    make_scored_event,
    resolve_conflicting_results,
    wait_or_skip,
)
from watcher.averages.inspection import describe_difference, select_member_inspections
from watcher.config.settings import Config, Stage
from watcher.core import events
from watcher.core.actions import Action, PinCheckpoint, Skip, SubmitEvaluation, UnpinCheckpoint
from watcher.core.evaluation import EvaluationRecord, StageSettings
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import EvaluationResults, Snapshot, StageRequirements, find_appearance
from watcher.journal.replay import JournalState
from watcher.reconcile.checkpoint_presence import Presence, observe_presence, wait_for_absent
from watcher.reconcile.prefill_job import describe_missing_data, describe_missing_model
from watcher.reconcile.stage_facts import FactsComparison, block_on_conflict, compare_with_stage

STALLED_SAVE_SECONDS = 86400.0
"""Seconds without a write after which an incomplete checkpoint needs attention: it will not complete by itself."""


def next_action_pending(
    record: EvaluationRecord, snapshot: Snapshot, config: Config, journal_state: JournalState
) -> list[Action | Skip]:
    """The next actions of a waiting evaluation; a SubmitEvaluation is a candidate."""
    if record.retry_at is not None and record.is_backing_off(snapshot.now):
        return [Skip(record.key, f"{record.full_reason}; again at {format_utc(record.retry_at)}", repeats_reason=True)]
    if record.stage not in config.stages or record.stage not in snapshot.requirements:
        return [wait_or_skip(record, f"stages.{record.stage} is no longer in the config")]
    presence = observe_presence(record, snapshot, config, journal_state.member_pins)
    if record.is_reference and presence.kind is Presence.ABSENT and (missing := describe_missing_model(record, snapshot, config)):
        return [wait_or_skip(record, missing, kind=ReasonKind.DATA)]
    if presence.kind is Presence.ABSENT:
        return [wait_for_absent(record, presence, snapshot.now)]
    inspection = presence.inspection
    if inspection is None:
        return [Skip(record.key, presence.reason)]
    if inspection.kind is Completeness.NOT_YET:
        # By the file server's clock, since the login node's may differ from it.
        quiet_seconds = 0.0 if inspection.newest_mtime is None else snapshot.server_now - inspection.newest_mtime
        name = f"checkpoint {inspection.step}" if record.average else "checkpoint"
        reason, detail = f"waiting for {name}: not complete yet", f"waiting for checkpoint: {inspection.detail}"
        return [
            wait_or_skip(record, reason, detail, kind=ReasonKind.CHECKPOINT, needs_attention=quiet_seconds > STALLED_SAVE_SECONDS)
        ]
    if inspection.kind in BLOCKING_COMPLETENESS:
        return [block_on_checkpoint(record, inspection)]
    return _next_action_complete(record, inspection, snapshot, config, journal_state)


class _CompleteCheckpoint(NamedTuple):
    """An evaluation with a complete checkpoint, and what its gates read."""

    record: EvaluationRecord
    inspection: Inspection
    stage: Stage
    requirements: StageRequirements
    settings: StageSettings
    """Tokenizer and sequence length for its scoring, as far as they are known."""
    first_checkpoint: str
    """The stage's first own checkpoint; empty where there is none yet."""
    content: CheckpointContent | None
    """None: the checkpoint has no fingerprint."""
    comparison: FactsComparison
    """With the stage's first checkpoint."""
    results: EvaluationResults | None
    members: Sequence[Inspection]
    """Inspections of an average's members; of any other evaluation: its own."""
    snapshot: Snapshot
    config: Config

    @property
    def missing_suites(self) -> tuple[SuiteInRequest, ...]:
        """The suites of the tiers that have no valid file yet."""
        verdicts = {} if self.results is None else self.results.verdicts
        return tuple(
            suite for suite in self.requirements.suites if suite.tier not in verdicts or verdicts[suite.tier].kind != "valid"
        )

    def missing_data(self) -> str:
        """Why a job would miss data; empty where it would not."""
        target = self.record.source if self.record.is_reference else self.stage.name
        return describe_missing_data(target, self.missing_suites, self.snapshot, self.config)

    @property
    def backend(self) -> str:
        """The stage's; of a reference the one that opens its folder, unless a program of the user's scores."""
        reference = self.config.find_reference(self.record.source)
        if reference is None or self.stage.backend == "command":
            return self.stage.backend
        is_hf = self.inspection.checkpoint_kind is CheckpointKind.HF
        return reference.backend or ("transformers" if is_hf else "direct")

    @property
    def assume(self) -> dict[str, str]:
        """What the stage assumes of its own training's checkpoints; of other models nothing."""
        return {} if self.record.is_reference else self.stage.assume


def _next_action_complete(
    record: EvaluationRecord, inspection: Inspection, snapshot: Snapshot, config: Config, journal_state: JournalState
) -> list[Action | Skip]:
    """The action of the first gate that answers, else the submission."""
    stage, requirements = config.stages[record.stage], snapshot.requirements[record.stage]
    mtimes = snapshot.mtimes.get(record.inspected)
    stage_facts = journal_state.stage_settings.get(stage.name)
    comparison = compare_with_stage(record, inspection, snapshot, stage_facts)
    case = _CompleteCheckpoint(
        record=record,
        inspection=inspection,
        stage=stage,
        requirements=requirements,
        settings=_resolve_reference_settings(record, inspection, config)
        if record.is_reference
        else requirements.resolve_settings(stage_facts),
        first_checkpoint="" if stage_facts is None else stage_facts.checkpoint,
        content=make_checkpoint_content(inspection, mtimes, comparison.notes, find_appearance(record, snapshot.stages)),
        comparison=comparison,
        results=snapshot.results.get(record.key),
        members=select_member_inspections(record, snapshot.inspections, journal_state.member_pins) or [],
        snapshot=snapshot,
        config=config,
    )
    # The first gate that answers decides: its event changes what the next round sees.
    for gate in _GATES:
        action = gate(case)
        if action is not None:
            return [action]
    submit = SubmitEvaluation(
        key=record.key, request=_build_scoring_request(case), mtimes=mtimes, reason="complete and not scored"
    )
    return [*_pin_actions(case), submit]


def _resolve_reference_settings(record: EvaluationRecord, inspection: Inspection, config: Config) -> StageSettings:
    """A reference's own tokenizer and length, whatever the stage has."""
    reference = config.find_reference(record.source)
    seq_len = None if reference is None else reference.seq_len
    return StageSettings(tokenizer=inspection.tokenizer, seq_len=seq_len or inspection.seq_len, checkpoint=record.checkpoint)


def _suites_are_usable(case: _CompleteCheckpoint) -> Action | Skip | None:
    if case.requirements.is_usable:
        return None
    problem = case.requirements.error or f"stages.{case.stage.name} has no suites"
    return wait_or_skip(case.record, f"suites: {problem}", content=case.content)


def _settings_are_known(case: _CompleteCheckpoint) -> Action | Skip | None:
    for name, value, kind in (
        ("seq_len", case.settings.seq_len, ReasonKind.SETTINGS),
        ("tokenizer", case.settings.tokenizer, ReasonKind.TOKENIZER),
    ):
        if not value and case.record.is_reference:
            where = f"{case.record.checkpoint} has no {name}"
            hint = "put the tokenizer's files beside the model" if name == "tokenizer" else f"set {name} of the reference"
            return wait_or_skip(case.record, f"{where}; {hint}", kind=kind, content=case.content, needs_attention=True)
        if not value:
            first, stage = case.first_checkpoint, case.stage.name
            why = f"unknown: {first} does not name it" if first else f"unknown until {stage} has a checkpoint"
            hint = f"set stages.{stage}.{name}" + ("" if first else " to avoid waiting")
            return wait_or_skip(case.record, f"{name} {why}; {hint}", kind=kind, content=case.content)
    return None


def _architecture_is_implemented(case: _CompleteCheckpoint) -> Action | Skip | None:
    # Other backends compute the model with their own code.
    keys = case.inspection.unimplemented if case.backend == "direct" else ()
    problem = describe_unassumed_keys(keys, case.assume, f"stages.{case.stage.name}.assume")
    if not problem:
        return None
    return wait_or_skip(case.record, problem, kind=ReasonKind.SETTINGS, content=case.content, needs_attention=True)


def _members_are_alike(case: _CompleteCheckpoint) -> Action | Skip | None:
    if not case.record.average:
        return None
    problem = describe_difference(case.record, case.members, case.snapshot.tokenizer_digests)
    if not problem:
        return None
    hint = f"an average needs one tokenizer and one vocabulary. Run watcher cancel {case.record.arguments}"
    return wait_or_skip(case.record, f"{problem}; {hint}", kind=ReasonKind.TOKENIZER, content=case.content, needs_attention=True)


def _belongs_to_stage(case: _CompleteCheckpoint) -> Action | Skip | None:
    return block_on_conflict(case.record, case.comparison, case.content)


def _results_are_known(case: _CompleteCheckpoint) -> Action | Skip | None:
    if case.content is None or case.results is None:
        return Skip(case.record.key, "complete; its results folder is read in the next tick")
    return None


def _has_no_conflicting_results(case: _CompleteCheckpoint) -> Action | Skip | None:
    """Archive tier files of other content, or ask a person."""
    record, content, results = case.record, case.content, case.results
    if results is None or content is None:
        return None
    return resolve_conflicting_results(record, content, results, case.stage)


def _is_not_scored_already(case: _CompleteCheckpoint) -> Action | Skip | None:
    if case.content is None or case.results is None or not case.results.is_valid:
        return None
    digests = {tier: required.digest for tier, required in case.requirements.tiers.items()}
    return make_scored_event(
        case.record,
        case.content.fingerprint,
        digests,
        case.results,
        "valid results already exist",
        mtimes=case.content.mtimes,
        results_folder=str(case.stage.root),
    )


def _is_journaled_as_ready(case: _CompleteCheckpoint) -> Action | Skip | None:
    """Journal readiness before any wait for data or limits.

    So the time of detection is that of the checkpoint.
    """
    record = case.record
    is_journaled = record.is_ready_to_submit or (record.is_waiting_for(ReasonKind.DATA) and case.missing_data())
    if case.content is None or (is_journaled and record.fingerprint == case.content.fingerprint):
        return None
    return events.Ready(evaluation=record.key, reason="complete", **case.content._asdict())


def _data_are_cached(case: _CompleteCheckpoint) -> Action | Skip | None:
    missing = case.missing_data()
    return wait_or_skip(case.record, missing, kind=ReasonKind.DATA) if missing else None


_GATES: tuple[Callable[[_CompleteCheckpoint], Action | Skip | None], ...] = (
    _suites_are_usable,
    _settings_are_known,
    _architecture_is_implemented,
    _members_are_alike,
    _belongs_to_stage,
    _results_are_known,
    _has_no_conflicting_results,
    _is_not_scored_already,
    _is_journaled_as_ready,
    _data_are_cached,
)
"""Conditions for the submission of a complete checkpoint, in the order of their evaluation."""


def _build_scoring_request(case: _CompleteCheckpoint) -> ScoringRequest:
    """The request of the scoring job, complete but for ``run_id``."""
    record, stage, config = case.record, case.stage, case.config
    return ScoringRequest(
        # The actor chooses the run id, since only the disk shows which ids are free.
        run_id="",
        stage=record.stage,
        source_stage=record.source,
        step=record.step,
        directory=record.directory,
        checkpoint=record.checkpoint,
        fingerprint=str(case.inspection.fingerprint),
        average=tuple(
            AverageMember(
                step=member.step,
                weight=member.weight,
                checkpoint=member.checkpoint,
                fingerprint=str(inspection.fingerprint),
            )
            for member, inspection in zip(record.average, case.members, strict=False)
        ),
        suites=case.missing_suites,
        tokenizer=str(case.settings.tokenizer),
        use_fast=record.is_reference or stage.use_fast,
        seq_len=int(case.settings.seq_len or 0),
        results=str(stage.root),
        eval_data=str(config.eval_data),
        python=config.python,
        assume=case.assume,
        # Other models, averages and what a person wants scored as it is are scored, and said to be suspicious.
        canary="warn" if config.canary == "stop" and (record.is_reference or record.average or record.forced) else config.canary,
        canary_after=config.canary_after,
        backend=case.backend,
        command=stage.command,
        status=str(config.paths.status_json),
    )


def _pin_actions(case: _CompleteCheckpoint) -> list[Action | Skip]:
    """Release a pin of other content; pin where the config asks."""
    record, fingerprint = case.record, str(case.inspection.fingerprint)
    if record.average:  # its members have pins of their own
        return []
    if record.pin is not None and record.pin.fingerprint != fingerprint:
        return [UnpinCheckpoint(key=record.key, folder=record.pin.folder, reason="the checkpoint was rewritten")]
    # Training rotates its own checkpoints, and no other model.
    if case.config.pin and record.pin is None and not record.is_reference:
        return [PinCheckpoint(key=record.key, checkpoint=record.checkpoint, fingerprint=fingerprint)]
    return []
