"""`watcher why`: the life of an evaluation, a line for each event. Pure."""

import textwrap
from collections.abc import Mapping

from suites.common.formatting import format_duration, format_local_time, strip_control_characters
from suites.contract.paths import format_step_directory
from watcher.config.settings import Config, Stage
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.status.text import TEXT_WIDTH

NEXT_STEP_TEXTS = {
    EvaluationState.PENDING: "The watcher checks the checkpoint {when}.",
    EvaluationState.WAITING: "The watcher checks again {when}.",
    EvaluationState.READY: "The watcher submits the job {when}, or as soon as the limits allow.",
    EvaluationState.SUBMITTING: (
        "The watcher searches the queue for the job {when}. It submits no other job before the outcome is known."
    ),
    EvaluationState.QUEUED: "The job waits in the queue. The watcher checks it {when}.",
    EvaluationState.RUNNING: "The watcher checks the job {when}. Only valid result files count as success.",
    EvaluationState.SCORED: (
        "It is scored again only if the checkpoint or its suites change, or if you run `watcher enqueue` with --force."
    ),
    EvaluationState.FAILED: "The watcher retries {when}.",
    EvaluationState.BLOCKED: "Blocked until you fix this and run `{retry}`.",
    EvaluationState.CANCELLED: "Cancelled until you run `{retry}`.",
    EvaluationState.LOST: "The watcher does not score it again by itself. Restore the files or run `{retry} --force`.",
}

_ORIGIN_TEXTS = {"schedule": "is in the schedule", "bridge": "is the stage's bridge"}

_MAX_HISTORY_SHOWN = 12

_MILESTONES = (("detected", "seen complete"), ("submitted", "submitted"), ("started", "started"), ("scored", "scored"))


def explain_evaluation(record: EvaluationRecord, now: float, detail: str = "", *, poll_seconds: float | None = None) -> str:
    """History, state and next step of one evaluation, a line each, wrapped to 100 columns.

    ``detail`` is what the last tick adds to the journal's reason. ``poll_seconds`` is the interval of the running watcher;
    None if none runs.
    """
    return _wrap_sentences(
        [
            _describe_evaluation(record),
            *_describe_history(record),
            *_describe_state(record, now),
            *_describe_timing(record),
            *_describe_last_tick(detail),
            _describe_next_step(record, now, poll_seconds),
        ]
    )


def _describe_evaluation(record: EvaluationRecord) -> str:
    source = "" if record.source == record.stage else f", a checkpoint of {record.source}"
    origin = _ORIGIN_TEXTS.get(record.origin, "was requested")
    return f"{record.key} (step {record.step}{source}) {origin}; its checkpoint is {record.checkpoint}."


def _describe_history(record: EvaluationRecord) -> list[str]:
    earlier = record.history[:-1]  # the last entry is the current state
    shown = earlier[-_MAX_HISTORY_SHOWN:]
    sentences = [f"{format_local_time(at)}: {state}{_format_reason(reason)}." for at, state, reason in shown]
    hidden_count = len(earlier) - len(shown)
    return [f"({hidden_count} earlier changes are in the journal.)", *sentences] if hidden_count else sentences


def _describe_state(record: EvaluationRecord, now: float) -> list[str]:
    since = f"{format_local_time(record.since)} ({format_duration(now - record.since)})"
    sentences = [f"Since {since}: {record.state.value}{_format_reason(record.full_reason)}."]
    if attempt := record.attempt:
        job = f"job {attempt.job_id}" if attempt.job_id else "no job known yet"
        job += "" if attempt.owner is None else f" of {attempt.owner}"
        restarts = f", {attempt.restarts} restarts" if attempt.restarts else ""
        sentences.append(f"The newest attempt is number {attempt.number}, {attempt.run_id} ({job}{restarts}).")
    if record.failures:
        failures = ", ".join(f"{kind} {count}" for kind, count in record.failures.items())
        sentences.append(f"Consecutive failures: {failures}.")
    return sentences


def _describe_timing(record: EvaluationRecord) -> list[str]:
    """The time from complete checkpoint to each milestone."""
    completed_at = record.times.get("complete")
    if completed_at is None:
        return []
    parts = [f"The checkpoint was complete at {format_local_time(completed_at)}"]
    # The job's times are those of the last round, which did not wait for the checkpoint.
    if "again" in record.times:
        if "detected" in record.times:
            parts.append(f"seen complete after {format_duration(record.times['detected'] - completed_at)}")
        rounds = [f"{name} at {format_local_time(record.times[name])}" for name, _ in _MILESTONES[1:] if name in record.times]
        return [f"{'; '.join(parts)}. It was scored once before; the last round: {', '.join(rounds) or 'not submitted yet'}."]
    milestones = [
        f"{label} after {format_duration(record.times[name] - completed_at)}"
        for name, label in _MILESTONES
        if name in record.times
    ]
    return ["; ".join([*parts, *([", ".join(milestones)] if milestones else [])]) + "."]


def _describe_last_tick(detail: str | None) -> list[str]:
    return [f"Last tick: {detail.rstrip('.')}."] if detail else []


def _describe_next_step(record: EvaluationRecord, now: float, poll_seconds: float | None) -> str:
    if record.retry_at is not None and record.state in {EvaluationState.FAILED, EvaluationState.WAITING}:
        if record.retry_at <= now:
            return "The watcher retries at the next tick."
        return f"The watcher retries in {format_duration(record.retry_at - now)}, at {format_local_time(record.retry_at)}."
    # Step and stage are ambiguous for a bridge, so the command needs the source.
    source_option = "" if record.source == record.stage else f" --from {record.source}"
    return NEXT_STEP_TEXTS[record.state].format(
        retry=f"watcher retry {record.stage} {record.step}{source_option}",
        when="when it next runs" if poll_seconds is None else f"within {format_duration(poll_seconds)}",
    )


def explain_unknown_step(
    stage: Stage, step: int, source: str | None, config: Config, *, skips: Mapping[str, str], is_requested: bool
) -> str:
    """Why the watcher has no evaluation of a step.

    ``skips`` maps a folder or evaluation to the reason in status.json. ``is_requested``: a request for it is pending.
    """
    source_stage = config.stages.get(source or stage.name, stage)
    folder = source_stage.get_checkpoint_folder(step)
    sentences = [
        f"The watcher does not know {stage.name} step {step}.",
        *_describe_last_tick(skips.get(f"{stage.name}/{format_step_directory(step)}") or skips.get(str(folder))),
    ]
    # A pending request or the schedule says what happens next; otherwise only a person can start it.
    if is_requested:
        sentences.append("A request for it is pending; the next tick handles it.")
    elif source_stage is stage:
        sentences.append(_describe_schedule(stage, step))
    sentences.append(f"Its checkpoint path is {folder}.")
    if not is_requested and not (source_stage is stage and stage.is_scheduled(step)):
        source_option = "" if source_stage is stage else f" --from {source_stage.name}"
        sentences.append(f"Run `watcher enqueue {stage.name} {step}{source_option}` to score it once.")
    return _wrap_sentences(sentences)


def _describe_schedule(stage: Stage, step: int) -> str:
    if stage.is_scheduled(step):
        return "It is in the schedule; the next tick starts it once its checkpoint exists."
    parts = [", ".join(map(str, stage.steps))] if stage.steps else []
    if stage.every is not None:
        parts.append(f"every {stage.every} from {stage.first_step}" + ("" if stage.to is None else f" to {stage.to}"))
    if stage.final:
        parts.append("the final step")
    return f"It is not in the schedule of {stage.name} ({'; '.join(parts) or 'no steps'}) and was not requested."


def _format_reason(reason: str) -> str:
    return f": {reason.rstrip('.')}" if reason else ""


def _wrap_sentences(sentences: list[str]) -> str:
    """A line for each sentence; the rest of a long one is indented."""
    return "\n".join(
        textwrap.fill(strip_control_characters(sentence), TEXT_WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        for sentence in sentences
    )
