"""What becomes of an evaluation that is not in flight. Pure."""

import enum
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from suites.checkpoint.completeness import Completeness, Inspection
from suites.contract.scoring_request import Request, SuiteInRequest
from watcher.config.settings import Config, Stage
from watcher.core.actions import FOREIGN, Action, Link, Note, Skip, Submit, Unlink
from watcher.core.evaluation import Record, StageFacts
from watcher.core.reasons import ReasonKind
from watcher.core.snapshot import Results, StagePlan, World, usable
from watcher.journal.replay import Ledger
from watcher.reconcile.journal_events import _ASK_A_PERSON, _ask_a_person, _wait, clock, scored, set_aside
from watcher.reconcile.prefill_job import waits_for

LEFT_BEHIND = 86400.0
"""Seconds without a write after which a checkpoint that is not whole is said loudly: it will not become so by itself."""


def unsettled(record: Record, world: World, config: Config, ledger: Ledger) -> list[Action | Skip]:
    """The next step of an evaluation that waits for its checkpoint. A Submit is a candidate: limits are not looked at here."""
    if record.retry_at is not None and record.rests(world.now):
        return [Skip(record.key, f"{record.text}; again at {clock(record.retry_at)}", repeats=True)]
    if record.stage not in config.stages or record.stage not in world.plans:
        return [_wait(record, f"stages.{record.stage} is not in the config any more")]
    checkpoint = _checkpoint_state(record, world, config)
    if checkpoint.kind is _Presence.ABSENT:
        deleted = checkpoint.deleted
        return [_wait(record, checkpoint.reason, kind=ReasonKind.CHECKPOINT, deleted=deleted, loud=deleted)]
    seen = checkpoint.inspection
    if seen is None:
        return [Skip(record.key, checkpoint.reason)]
    if seen.kind is Completeness.NOT_YET:
        quiet = 0.0 if seen.newest_mtime is None else world.server_now - seen.newest_mtime
        reason, detail = "checkpoint: not complete yet", f"checkpoint: {seen.detail}"
        return [_wait(record, reason, detail, kind=ReasonKind.CHECKPOINT, loud=quiet > LEFT_BEHIND)]
    if seen.kind in _ASK_A_PERSON:
        return [_ask_a_person(record, seen)]
    return _complete(record, seen, world, config, ledger)


class _Presence(enum.Enum):
    """Whether a checkpoint is there, as far as that is known."""

    PRESENT = enum.auto()
    ABSENT = enum.auto()
    UNKNOWN = enum.auto()


class _CheckpointState(NamedTuple):
    """A checkpoint as this tick knows it."""

    kind: _Presence
    inspection: Inspection | None = None
    """Where it is present."""
    reason: str = ""
    """Where it is absent or unknown."""
    deleted: bool = False
    """Where it is absent: it had been seen complete."""


def _checkpoint_state(record: Record, world: World, config: Config) -> _CheckpointState:
    """The checkpoint as it was seen, or why it is absent or unknown."""
    source, listed = config.stages.get(record.source), world.stages.get(record.source)
    folder = Path(record.checkpoint).parent
    if source is None or folder != source.checkpoints:
        listed = None  # nothing lists the folder that it lies in
    if listed is not None and listed.trouble:
        return _CheckpointState(_Presence.UNKNOWN, reason=listed.trouble)
    seen = usable(record, world.inspections)
    if seen is not None and seen.kind is not Completeness.GONE:
        return _CheckpointState(_Presence.PRESENT, seen)
    if seen is None and listed is not None and record.step in (listed.steps or {}):
        return _CheckpointState(_Presence.UNKNOWN, reason="just come; looked at next")
    detected, no_folder = record.times.get("detected"), listed is not None and listed.absent
    if detected is not None and no_folder:
        reason = f"{folder} is gone, perhaps with its file system; it was whole at {clock(detected)}"
    elif detected is not None:
        reason = f"deleted before it was scored; it was whole at {clock(detected)}"
    elif no_folder:
        reason = f"{folder} does not exist yet"
    else:
        reason = "not there yet" if listed is not None else f"{record.checkpoint} is not there"
    deleted = detected is not None and not no_folder
    return _CheckpointState(_Presence.ABSENT, reason=f"checkpoint: {reason}", deleted=deleted)


class _Complete(NamedTuple):
    """An evaluation whose checkpoint is complete, and all that its gates look at."""

    record: Record
    inspection: Inspection
    stage: Stage
    plan: StagePlan
    settings: StageFacts
    """Tokenizer and sequence length that it is scored with, as far as they are known."""
    first_checkpoint: str
    """The stage's first own checkpoint; empty where there is none yet."""
    content: Mapping[str, Any]
    """Fields of an event that say what the checkpoint holds."""
    results: Results | None
    world: World
    config: Config

    @property
    def missing_suites(self) -> tuple[SuiteInRequest, ...]:
        """The suites of the tiers that have no valid file yet."""
        verdicts = {} if self.results is None else self.results.verdicts
        return tuple(suite for suite in self.plan.suites if suite.tier not in verdicts or verdicts[suite.tier].kind != "valid")

    def missing_data(self) -> str:
        """Why a job would miss data; empty where it would not."""
        return waits_for(self.stage, self.missing_suites, self.world, self.config)


def _complete(record: Record, seen: Inspection, world: World, config: Config, ledger: Ledger) -> list[Action | Skip]:
    """The first gate that does not let it through, else its submission."""
    stage, plan = config.stages[record.stage], world.plans[record.stage]
    marks = world.marks.get(record.checkpoint)
    actions: list[Action | Skip] = []
    facts = ledger.facts.get(stage.name)
    own = record.source == record.stage and not record.named
    if facts is None and own and plan.is_usable and (plan.tokenizer is None or plan.seq_len is None):
        # journaled before anything depends on it: a bridge that is scored later uses the same
        facts = StageFacts(tokenizer=seen.tokenizer, seq_len=seen.seq_len, checkpoint=record.checkpoint)
        actions.append(Note(event="stage_facts", key="", fields={"stage": stage.name, "facts": facts, "reason": record.key}))
    content = {"fingerprint": seen.fingerprint, "markers": marks, "complete": seen.newest_mtime} if seen.fingerprint else {}
    case = _Complete(
        record=record,
        inspection=seen,
        stage=stage,
        plan=plan,
        settings=plan.settled(facts),
        first_checkpoint="" if facts is None else facts.checkpoint,
        content=content,
        results=world.results.get(record.key),
        world=world,
        config=config,
    )
    for gate in _GATES:
        stopped = gate(case)
        if stopped is not None:
            return [*actions, stopped]
    submit = Submit(key=record.key, request=_request(case), markers=marks, reason="complete, and not scored")
    return [*actions, *_pinning(case), submit]


def _suites_are_usable(case: _Complete) -> Action | Skip | None:
    if case.plan.is_usable:
        return None
    why = case.plan.trouble or f"stages.{case.stage.name} names none"
    return _wait(case.record, f"suites: {why}", whole=case.content)


def _settings_are_known(case: _Complete) -> Action | Skip | None:
    for name, value, kind in (
        ("seq_len", case.settings.seq_len, ReasonKind.SETTINGS),
        ("tokenizer", case.settings.tokenizer, ReasonKind.TOKENIZER),
    ):
        if not value:
            first, stage = case.first_checkpoint, case.stage.name
            whose = f"{first} does not say" if first else f"no checkpoint of {stage} yet"
            return _wait(case.record, f"{name}: {whose}; or set stages.{stage}.{name}", kind=kind, whole=case.content)
    return None


def _results_are_looked_at(case: _Complete) -> Action | Skip | None:
    if case.inspection.fingerprint is None or case.results is None:
        return Skip(case.record.key, "complete; its results folder is looked at next")
    return None


def _no_other_results_lie_there(case: _Complete) -> Action | Skip | None:
    return None if case.results is None else _in_the_way(case.record, case.content, case.results, case.stage)


def _is_not_scored_already(case: _Complete) -> Action | Skip | None:
    if case.results is None or not case.results.valid:
        return None
    digests = {tier: required.digest for tier, required in case.plan.tiers.items()}
    about = {"reason": "valid results are there already", "markers": case.content["markers"], "place": str(case.stage.results)}
    return scored(case.record, case.content["fingerprint"], digests, case.results, **about)


def _is_journaled_as_ready(case: _Complete) -> Action | Skip | None:
    """Before anything that waits for data or limits, so that the time of detection is that of the checkpoint."""
    record = case.record
    known = record.waits_its_turn or (record.waits_for(ReasonKind.DATA) and case.missing_data())
    if known and record.fingerprint == case.inspection.fingerprint:
        return None
    return Note(event="ready", key=record.key, fields={**case.content, "reason": "complete"})


def _data_are_cached(case: _Complete) -> Action | Skip | None:
    missing = case.missing_data()
    return _wait(case.record, missing, kind=ReasonKind.DATA) if missing else None


_GATES: tuple[Callable[[_Complete], Action | Skip | None], ...] = (
    _suites_are_usable,
    _settings_are_known,
    _results_are_looked_at,
    _no_other_results_lie_there,
    _is_not_scored_already,
    _is_journaled_as_ready,
    _data_are_cached,
)
"""What has to be so before a complete checkpoint is submitted, in the order in which it is asked."""


def _request(case: _Complete) -> Request:
    """What the scoring job is asked for, complete but for ``run_id``."""
    record, stage, config = case.record, case.stage, case.config
    return Request(
        run_id="",
        stage=record.stage,
        source_stage=record.source,
        step=record.step,
        directory=record.directory,
        checkpoint=record.checkpoint,
        fingerprint=str(case.inspection.fingerprint),
        suites=case.missing_suites,
        tokenizer=str(case.settings.tokenizer),
        use_fast=stage.use_fast,
        seq_len=int(case.settings.seq_len or 0),
        results=str(stage.results),
        eval_data=str(config.eval_data),
        python=config.python,
        backend=stage.backend,
        command=stage.command,
        status=str(config.paths.status_json),
    )


def _pinning(case: _Complete) -> list[Action | Skip]:
    """A pin of another content is released; a missing one is made, where the config asks for pins."""
    record, fingerprint = case.record, str(case.inspection.fingerprint)
    if record.pin is not None and record.pin.fingerprint != fingerprint:
        return [Unlink(key=record.key, folder=record.pin.folder, reason="another content lies there by now")]
    if case.config.pin and record.pin is None:
        return [Link(key=record.key, checkpoint=record.checkpoint, fingerprint=fingerprint)]
    return []


def _in_the_way(record: Record, whole: Mapping[str, Any], results: Results, stage: Stage) -> Action | None:
    """What is done about tier files that are not of this content: kept elsewhere, or a person is asked."""
    foreign = [tier for tier, verdict in results.verdicts.items() if verdict.kind == "foreign"]
    older = {tier: found for tier, found in results.fingerprints.items() if found != whole["fingerprint"]}
    if foreign and not record.forced:
        words = f"results of another program: {results.verdicts[foreign[0]].why}"
        hint = "watcher retry --force sets them aside"
        return Note(event="blocked", key=record.key, fields={**whole, "reason": words, "hint": hint})
    labels = {**older, **dict.fromkeys(foreign, FOREIGN)}
    if not labels:
        return None
    reason = "results of another program" if foreign else "scores of an earlier content of this checkpoint"
    return set_aside(record, stage, labels, f"{reason} are kept aside")
