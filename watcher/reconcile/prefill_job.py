"""The prefill job of a stage's data cache. Pure.

Evaluations wait while entries are missing, and a prefill job may be submitted.

A prefill job has a record like a scoring job, from the same events, under the key ``stage1/(prefill)``.
The digest of what the cache must hold stands for a fingerprint, and a complete cache stands for valid results.
"""

import shlex
from collections.abc import Iterable

from suites.contract.encoding import canonical_digest
from suites.contract.scoring_request import ScoringRequest, SuiteInRequest
from suites.definitions.data_cache import TOKENIZER_PREFIX, summarize_missing_entries
from watcher.attempts import retry_policy as policy
from watcher.attempts.in_flight import next_action_in_flight
from watcher.attempts.journal_events import make_pending_event
from watcher.config.settings import Config, Stage
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
from watcher.core.snapshot import Snapshot
from watcher.journal.replay import JournalState
from watcher.reconcile.refused_options import RefusedOptionsGate

CACHE_COMPLETE = "the data cache is complete"

OTHER_DATA = "the suites need other data now"


def format_prefill_command(stage: Stage, config: Config) -> str:
    """The command that fills the stage's cache, for a person."""
    config_options = ["--config", config.source] if "/" in config.source else []
    return shlex.join(["watcher", "prefill", stage.name, *config_options])


def make_prefill_key(stage: str) -> str:
    """The key of a stage's prefill."""
    return f"{stage}/{PREFILL_DIRECTORY}"


def describe_missing_data(stage: Stage, suites: Iterable[SuiteInRequest], snapshot: Snapshot, config: Config) -> str:
    """Which data a job for these suites would miss; empty for none."""
    prefixes = tuple(f"{suite.name}/" for suite in suites)
    # An evaluation waits for its own suites only, and not for those of other tiers.
    missing_entries = [
        entry for entry in snapshot.missing_entries.get(stage.name, ()) if entry.startswith((*prefixes, TOKENIZER_PREFIX))
    ]
    if not missing_entries:
        return ""
    command = format_prefill_command(stage, config)
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
    for name in dict.fromkeys((*config.stages, *(record.stage for record in journal_state.prefills.values()))):
        record, stage = journal_state.prefills.get(make_prefill_key(name)), config.stages.get(name)
        if record is not None and record.state in IN_FLIGHT_STATES and record.attempt is not None:
            outcomes.append(_next_action_in_flight_prefill(record, record.attempt, snapshot, config, journal_state))
        elif stage is not None:
            actions = _next_actions_idle_prefill(record, stage, snapshot, config, journal_state)
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
    stage = config.stages.get(record.stage)
    command = "watcher retry" if stage is None else format_prefill_command(stage, config)
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
    if isinstance(action, events.Failed | events.Blocked) and stage is not None:
        request = _build_current_request(stage, snapshot, config, journal_state)
        if request is not None and request.fingerprint != attempt.fingerprint:
            return make_pending_event(record, OTHER_DATA)  # the suites changed meanwhile: that failure no longer matters
    return action


def _next_actions_idle_prefill(
    record: EvaluationRecord | None, stage: Stage, snapshot: Snapshot, config: Config, journal_state: JournalState
) -> list[Action | Skip]:
    missing_entries, request = (
        snapshot.missing_entries.get(stage.name),
        _build_current_request(stage, snapshot, config, journal_state),
    )
    if missing_entries is None or request is None:
        return []
    key, content_digest = make_prefill_key(stage.name), request.fingerprint
    # Another job or a person may have filled the cache.
    if not missing_entries:
        if record is None or record.state is EvaluationState.SCORED:
            return []
        return [events.Scored(evaluation=key, fingerprint=content_digest, suites={}, reason=CACHE_COMPLETE)]
    reason = f"the data cache lacks {summarize_missing_entries(missing_entries)}"
    if not config.prefill.get("auto"):
        return [Skip(key, f"{reason}. Run {format_prefill_command(stage, config)}")]
    if record is None:
        created = events.Created(
            evaluation=key,
            stage=stage.name,
            source=stage.name,
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


def _build_current_request(
    stage: Stage, snapshot: Snapshot, config: Config, journal_state: JournalState
) -> ScoringRequest | None:
    """The prefill request for all suites of the stage; None while unknown."""
    requirements = snapshot.requirements.get(stage.name)
    tokenizer = (
        None if requirements is None else requirements.resolve_settings(journal_state.stage_settings.get(stage.name)).tokenizer
    )
    return None if requirements is None or not tokenizer else build_prefill_request(stage, requirements.suites, tokenizer, config)


def build_prefill_request(stage: Stage, suites: tuple[SuiteInRequest, ...], tokenizer: str, config: Config) -> ScoringRequest:
    """The request of a prefill job, complete but for ``run_id``."""
    # Everything that decides what the cache must hold: another digest is another prefill.
    content_digest = canonical_digest(
        [[[suite.name, suite.digest] for suite in suites], tokenizer, stage.use_fast, str(config.eval_data)]
    )
    return ScoringRequest(
        run_id="",
        stage=stage.name,
        source_stage=stage.name,
        step=0,
        directory=PREFILL_DIRECTORY,
        checkpoint="",
        fingerprint=content_digest[:24],
        suites=suites,
        tokenizer=tokenizer,
        use_fast=stage.use_fast,
        seq_len=0,
        results=str(stage.root),
        eval_data=str(config.eval_data),
        python=config.python,
        # The one job that may use the network.
        offline=False,
    )
