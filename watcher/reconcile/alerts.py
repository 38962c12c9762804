"""Which news deserves a notification. Pure.

An alert's id names the news, so that nobody is notified twice.

News of evaluations: blocked, failed objectives, a checkpoint that will not complete by itself. Other news: a finished stage,
a damaged journal, a time in which no watcher ran.
"""

import hashlib
from collections.abc import Iterable

from suites.contract.comparison import Comparison
from suites.contract.encoding import encode_json
from watcher.config.settings import Config
from watcher.core.actions import Alert, Skip
from watcher.core.evaluation import SETTLED_STATES, EvaluationRecord, EvaluationState
from watcher.core.snapshot import Snapshot
from watcher.journal.replay import JournalState
from watcher.reconcile.refused_options import make_refusal_alerts
from watcher.reconcile.schedule import is_final_step


def collect_alerts(snapshot: Snapshot, journal_state: JournalState, config: Config, skips: Iterable[Skip]) -> tuple[Alert, ...]:
    """All news that nobody was notified of yet."""
    candidates = [_make_journal_alert(warning) for warning in journal_state.warnings]
    candidates += [
        _make_record_alert("blocked", record, record.full_reason)
        for record in journal_state.records.values()
        if record.state is EvaluationState.BLOCKED
    ]
    candidates += [
        _make_record_alert("waiting", journal_state.records[skip.evaluation], skip.reason)
        for skip in skips
        if skip.needs_attention and skip.evaluation in journal_state.records
    ]
    candidates += make_refusal_alerts(journal_state, config)
    candidates += _find_finished_stages(snapshot, journal_state, config)
    return tuple(alert for alert in candidates if alert.id not in journal_state.notified)


def make_regression_alert(key: str, stage: str, comparison: Comparison | None) -> Alert | None:
    """Alert for a comparison that fails the stage's objectives.

    Its id holds the content, so that another comparison is news again.
    """
    if comparison is None or comparison.outcome != "fail":
        return None
    # The message names only what fails, since compare.json holds the rest.
    failed_objectives = []
    for objective in comparison.objectives:
        if objective.outcome == "fail":
            effect = objective.effect
            failed_objectives.append(
                f"{objective.kind} {objective.name}" + (f" ({effect.metric} {effect.delta:+.4g})" if effect else "")
            )
    baseline = comparison.baseline
    message = f"{key} against {baseline.source_stage} step {baseline.step} fails its objectives: {', '.join(failed_objectives)}"
    # A comparison that is computed again with equal content must not notify again.
    content_digest = hashlib.sha256(encode_json(comparison)).hexdigest()[:16]
    return Alert(id=f"regressed {key} {content_digest}", event="regressed", message=message, stage=stage, evaluation=key)


def _make_record_alert(event: str, record: EvaluationRecord, message: str) -> Alert:
    return Alert(
        id=f"{event} {record.key} {record.since:.3f}", event=event, message=message, stage=record.stage, evaluation=record.key
    )


def _make_journal_alert(warning: str) -> Alert:
    return Alert(id=warning, event="journal", message=warning)


def _find_finished_stages(snapshot: Snapshot, journal_state: JournalState, config: Config) -> list[Alert]:
    """Stages whose last step is scored and that have nothing pending."""
    finished = []
    for name, stage in config.stages.items():
        # Evaluations on request and references are extra: they neither finish a stage nor keep it open.
        stage_records = [
            record
            for record in journal_state.records.values()
            if record.stage == name and record.origin not in {"request", "reference"}
        ]
        if any(record.state not in SETTLED_STATES and not record.deleted for record in stage_records):
            continue
        # Bridges come from another run, so only the stage's own last step ends it.
        final_records = [
            record
            for record in stage_records
            if record.source == name and not record.average and is_final_step(stage, snapshot.stages.get(name), record.step)
        ]
        if any(record.state is EvaluationState.SCORED for record in final_records):
            scored_count = sum(record.state is EvaluationState.SCORED for record in stage_records)
            remainder = f", {len(stage_records) - scored_count} not" if scored_count < len(stage_records) else ""
            message = f"{name} is finished: {scored_count} of {len(stage_records)} evaluations scored{remainder}"
            # The count is part of the id: a schedule that grows finishes again, and that is news.
            alert_id = f"finished {name} {max(record.step for record in final_records)} {len(stage_records)}"
            finished.append(Alert(id=alert_id, event="finished", message=message.removesuffix(", 0 not"), stage=name))
    return finished
