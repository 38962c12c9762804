"""The prefill job of a stage's data cache, or of a reference. Pure.

Evaluations wait while entries are missing, and a prefill job may be submitted.

A prefill job has a record like a scoring job, from the same events, under the key ``stage1/(prefill)``. That of a reference,
``reference:NAME/(prefill)``, also fetches its model, and fills the data of all its stages.
The digest of what the cache must hold stands for a fingerprint, and a complete cache stands for valid results.
"""

import shlex
from collections.abc import Iterable

from suites.contract.encoding import canonical_digest
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest
from suites.definitions.data_cache import MODEL_PREFIX, TOKENIZER_PREFIX, summarize_missing_entries
from watcher.attempts import retry_policy as policy
from watcher.attempts.in_flight import next_action_in_flight
from watcher.attempts.journal_events import make_pending_event
from watcher.config.settings import Config, Reference, Stage
from watcher.core import events
from watcher.core.actions import Action, Skip, SubmitPrefill
from watcher.core.evaluation import (
    IN_FLIGHT_STATES,
    PREFILL_DIRECTORY,
    SETTLED_STATES,
    Attempt,
    EvaluationRecord,
    EvaluationState,
)
from watcher.core.snapshot import Snapshot, join_suites
from watcher.journal.replay import JournalState
from watcher.reconcile.refused_options import RefusedOptionsGate

CACHE_COMPLETE = "the data cache is complete"

OTHER_DATA = "the suites need other data now"


def format_prefill_command(target: str, config: Config) -> str:
    """The command that fills the cache for a stage, or for a reference by its source, for a person."""
    config_options = ["--config", config.source] if "/" in config.source else []
    return shlex.join(["watcher", "prefill", target, *config_options])


def make_prefill_key(target: str) -> str:
    """The key of the prefill of a stage, or of a reference by its source."""
    return f"{target}/{PREFILL_DIRECTORY}"


def describe_missing_model(record: EvaluationRecord, snapshot: Snapshot, config: Config) -> str:
    """That a reference's model is not fetched yet; empty where it is, or where it is none of the hub."""
    reference = config.find_reference(record.source)
    return "" if reference is None or reference.hub_model is None else describe_missing_data(record.source, (), snapshot, config)


def describe_missing_data(target: str, suites: Iterable[SuiteInRequest], snapshot: Snapshot, config: Config) -> str:
    """Which data a job for these suites would miss; empty for none. ``target``: a stage, or the source of a reference."""
    prefixes = tuple(f"{suite.name}/" for suite in suites)
    # An evaluation waits for its own suites only, and not for those of other tiers.
    missing_entries = [
        entry
        for entry in snapshot.missing_entries.get(target, ())
        if entry.startswith((*prefixes, TOKENIZER_PREFIX, MODEL_PREFIX))
    ]
    if not missing_entries:
        return ""
    command = format_prefill_command(target, config)
    hint = "; a prefill job fills it" if config.prefill.get("auto") else f". Run {command}"
    return f"the data cache lacks {summarize_missing_entries(missing_entries)}{hint}"


def next_prefill_actions(
    snapshot: Snapshot, journal_state: JournalState, config: Config, refused_options: RefusedOptionsGate
) -> list[Action | Skip]:
    """The next step of every stage's prefill, or why there is none."""
    outcomes: list[Action | Skip] = []
    # Stages of one sweep need the same data, which one job gets for all of them.
    filling = {
        record.attempt.fingerprint: record.stage
        for record in journal_state.prefills.values()
        if record.state in IN_FLIGHT_STATES and record.attempt is not None
    }
    # A stage that left the config may still have a prefill job in flight.
    references = [reference.source for reference in config.references.values()]
    targets = (*config.stages, *references)
    for name in dict.fromkeys((*targets, *(record.stage for record in journal_state.prefills.values()))):
        record = journal_state.prefills.get(make_prefill_key(name))
        if record is not None and record.state in IN_FLIGHT_STATES and record.attempt is not None:
            outcomes.append(_next_action_in_flight_prefill(record, record.attempt, snapshot, config, journal_state))
        elif name in targets:
            actions = _next_actions_idle_prefill(record, name, snapshot, config, journal_state)
            hold = refused_options.describe_hold(record) if record and any(isinstance(a, SubmitPrefill) for a in actions) else ""
            submission = next((action for action in actions if isinstance(action, SubmitPrefill)), None)
            if submission is not None and not hold:
                other = filling.setdefault(submission.request.fingerprint, name)
                hold = "" if other == name else f"the prefill job of {other} gets the same data"
            outcomes += [Skip(make_prefill_key(name), hold)] if hold else actions
    return outcomes


def _next_action_in_flight_prefill(
    record: EvaluationRecord, attempt: Attempt, snapshot: Snapshot, config: Config, journal_state: JournalState
) -> Action | Skip:
    command = format_prefill_command(record.stage, config)
    rules = policy.RetryRules(
        config.retry,
        retry_command=command,
        give_up_command=command,  # it fills the cache, and a complete cache ends the prefill
        success_reason=CACHE_COMPLETE,
        # A scoring job waits for data; a prefill job exists to get them.
        missing_data_is_failure=True,
    )
    action = next_action_in_flight(record, attempt, snapshot, config, rules)
    if isinstance(action, Skip):
        # The reason alone would not tell a person what all evaluations wait for.
        missing = summarize_missing_entries(snapshot.missing_entries.get(record.stage, ()))
        return Skip(record.key, f"{action.reason}; the data cache lacks {missing}")
    if isinstance(action, events.Failed | events.Blocked):
        request = _build_current_request(record.stage, snapshot, config, journal_state)
        if request is not None and request.fingerprint != attempt.fingerprint:
            return make_pending_event(record, OTHER_DATA)  # the suites changed meanwhile: that failure no longer matters
    return action


def _next_actions_idle_prefill(
    record: EvaluationRecord | None, target: str, snapshot: Snapshot, config: Config, journal_state: JournalState
) -> list[Action | Skip]:
    missing_entries, request = (
        snapshot.missing_entries.get(target),
        _build_current_request(target, snapshot, config, journal_state),
    )
    if missing_entries is None or request is None:
        return []
    key, content_digest = make_prefill_key(target), request.fingerprint
    # Another job or a person may have filled the cache.
    if not missing_entries:
        if record is None or record.state is EvaluationState.SCORED:
            return []
        return [events.Scored(evaluation=key, fingerprint=content_digest, suites={}, reason=CACHE_COMPLETE)]
    reason = f"the data cache lacks {summarize_missing_entries(missing_entries)}"
    if not config.prefill.get("auto"):
        return [Skip(key, f"{reason}. Run {format_prefill_command(target, config)}")]
    if record is None:
        created = events.Created(
            evaluation=key,
            stage=target,
            source=target,
            step=0,
            directory=PREFILL_DIRECTORY,
            origin="prefill",
            checkpoint="",
            reason=reason,
        )
        return [created]
    if record.state in SETTLED_STATES:
        return [_next_action_settled_prefill(record, content_digest, reason)]
    # A hub that does not answer is not asked in every poll.
    if record.is_backing_off(snapshot.now):
        return [Skip(key, f"{record.full_reason}; retrying")]
    # The digest is journaled first, so a later change of the suites is noticed.
    if not record.is_ready_to_submit or record.fingerprint != content_digest:
        return [events.Ready(evaluation=key, fingerprint=content_digest, reason=reason)]
    # Limits of scoring jobs do not apply: a prefill job needs no GPU, and others wait for it.
    hold_reason = f"the queue {snapshot.queue_problem}" if snapshot.jobs is None else snapshot.submit_limit
    if hold_reason:
        return [Skip(key, f"{reason}; {hold_reason}")]
    return [SubmitPrefill(key=key, request=request, reason=reason)]


def _next_action_settled_prefill(record: EvaluationRecord, content_digest: str, reason: str) -> Action | Skip:
    if record.state is EvaluationState.SCORED:
        return make_pending_event(record, f"{reason} again")
    if record.fingerprint != content_digest:
        return make_pending_event(record, OTHER_DATA)
    return Skip(record.key, f"{record.state.value}: {record.full_reason}")


def _build_current_request(target: str, snapshot: Snapshot, config: Config, journal_state: JournalState) -> ScoringRequest | None:
    """The prefill request for all suites of a stage, or of a reference's stages; None while unknown."""
    stage, reference = config.stages.get(target), config.find_reference(target)
    if reference is not None:
        stages = config.list_reference_stages(reference)
        suites = join_suites(plan for each in stages if (plan := snapshot.requirements[each.name]).is_usable)
        inspection = snapshot.inspections.get(reference.checkpoint)
        tokenizer = reference.checkpoint if reference.hub_model else None if inspection is None else inspection.tokenizer
        return build_reference_prefill_request(reference, suites, tokenizer, config) if tokenizer and suites else None
    requirements = snapshot.requirements.get(target)
    if stage is None or requirements is None:
        return None
    tokenizer = requirements.resolve_settings(journal_state.stage_settings.get(target)).tokenizer
    return build_prefill_request(stage, requirements.suites, tokenizer, config) if tokenizer else None


def build_prefill_request(stage: Stage, suites: tuple[SuiteInRequest, ...], tokenizer: str, config: Config) -> ScoringRequest:
    """The request of a stage's prefill job, complete but for ``run_id``."""
    return _build_request(stage.name, suites, tokenizer, config, results=str(stage.root), use_fast=stage.use_fast)


def build_reference_prefill_request(
    reference: Reference, suites: tuple[SuiteInRequest, ...], tokenizer: str, config: Config
) -> ScoringRequest:
    """The same of a reference, whose model of the hub it fetches first."""
    model = reference.hub_model
    return _build_request(reference.source, suites, tokenizer, config, results=str(config.results), model=model)


def _build_request(
    target: str,
    suites: tuple[SuiteInRequest, ...],
    tokenizer: str,
    config: Config,
    *,
    results: str,
    use_fast: bool = True,
    model: str | None = None,
) -> ScoringRequest:
    # Everything that decides what the cache must hold: another digest is another prefill.
    content = [[[suite.name, suite.digest] for suite in suites], tokenizer, use_fast, str(config.eval_data)]
    content_digest = canonical_digest(content if model is None else [*content, model])
    return ScoringRequest(
        run_id="",
        stage=target,
        source_stage=target,
        step=0,
        directory=PREFILL_DIRECTORY,
        checkpoint="",
        fingerprint=content_digest[:24],
        suites=suites,
        tokenizer=tokenizer,
        use_fast=use_fast,
        model=model,
        seq_len=0,
        results=results,
        eval_data=str(config.eval_data),
        python=config.python,
        # The one job that may use the network.
        offline=False,
    )
