"""One paragraph about one evaluation: what was seen, what was decided, what happens next. Pure."""

import textwrap
from collections.abc import Mapping

from suites.common.formatting import format_duration, format_local_time, strip_control_characters
from watcher.config.settings import Config, Stage
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.status.text import TEXT_WIDTH

NEXT_STEP_TEXTS = {
    EvaluationState.PENDING: "It is looked at {when}: is it complete?",
    EvaluationState.WAITING: "It is looked at again {when}, and goes on as soon as that has happened.",
    EvaluationState.READY: "It is submitted {when}, or as soon as the limits allow.",
    EvaluationState.SUBMITTING: "The queue is asked {when} whether the job is there; nothing else is submitted before that is sure.",
    EvaluationState.QUEUED: "The job waits for its turn; the queue is asked {when}.",
    EvaluationState.RUNNING: "Its end is looked for {when}; only valid result files count as success.",
    EvaluationState.SCORED: "Nothing more is done, unless the checkpoint or its suites change, or somebody asks with --force.",
    EvaluationState.FAILED: "It is tried again {when}.",
    EvaluationState.BLOCKED: "Nothing more happens until somebody mends that and says `{retry}`.",
    EvaluationState.CANCELLED: "Nothing more happens until somebody says `{retry}`.",
    EvaluationState.LOST: "It is not scored again unasked: put the files back, or say `{retry} --force`.",
}

_MAX_HISTORY_SHOWN = 12

_MILESTONES = (("detected", "seen complete"), ("submitted", "submitted"), ("started", "started"), ("scored", "scored"))


def explain_evaluation(record: EvaluationRecord, now: float, skip_reason: str = "", *, poll_seconds: float | None = None) -> str:
    """What the journal says of one evaluation, and ``skip_reason`` what the last tick did, wrapped to 100 columns.

    ``poll_seconds``: seconds between two looks of the watcher that runs; None where none does.
    """
    last_tick = [f"Of it the last tick said: {strip_control_characters(skip_reason).rstrip('.')}."] if skip_reason else []
    return _wrap_sentences(
        [
            _describe_evaluation(record),
            *_describe_history(record),
            _describe_state(record, now),
            *_describe_timing(record),
            *last_tick,
            _describe_next_step(record, now, poll_seconds),
        ]
    )


def _describe_evaluation(record: EvaluationRecord) -> str:
    source_text = "" if record.source == record.stage else f", a checkpoint of {strip_control_characters(record.source)}"
    origin_text = {"schedule": "asked for by the schedule", "bridge": "the stage's bridge"}.get(
        record.origin, "asked for by a person"
    )
    return f"{strip_control_characters(record.key)} (step {record.step}{source_text}) is {origin_text}; the checkpoint is {strip_control_characters(record.checkpoint)}."


def _describe_history(record: EvaluationRecord) -> list[str]:
    earlier = record.history[:-1]  # the last one is how it is now
    shown = earlier[-_MAX_HISTORY_SHOWN:]
    sentences = []
    if len(earlier) > len(shown):
        sentences.append(f"({len(earlier) - len(shown)} earlier changes are in the journal.)")
    sentences += [
        f"{format_local_time(at)}: {strip_control_characters(state)}{_format_reason(reason)}." for at, state, reason in shown
    ]
    return sentences


def _describe_state(record: EvaluationRecord, now: float) -> str:
    line = f"Since {format_local_time(record.since)} ({format_duration(now - record.since)}) it is {record.state.value}{_format_reason(record.full_reason)}."
    attempt = record.attempt
    if attempt is not None:
        job = f"job {strip_control_characters(attempt.job_id)}" if attempt.job_id else "no job known yet"
        restarts = f", restarted {attempt.restarts} times" if attempt.restarts else ""
        line += f" Its newest attempt is number {attempt.number}, {strip_control_characters(attempt.run_id)} ({job}{restarts})."
    if record.failures:
        line += (
            " Failures in a row: "
            + ", ".join(f"{strip_control_characters(kind)} {count}" for kind, count in record.failures.items())
            + "."
        )
    return line


def _describe_timing(record: EvaluationRecord) -> list[str]:
    """How long after the checkpoint was complete each thing happened."""
    completed_at = record.times.get("complete")
    if completed_at is None:
        return []
    milestones = [
        f"{label} after {format_duration(record.times[name] - completed_at)}"
        for name, label in _MILESTONES
        if name in record.times
    ]
    return [
        f"The checkpoint was complete at {format_local_time(completed_at)}"
        + (f"; {', '.join(milestones)}." if milestones else ".")
    ]


def _describe_next_step(record: EvaluationRecord, now: float, poll_seconds: float | None) -> str:
    retry_command = f"watcher retry {record.stage} {record.step}" + (
        "" if record.source == record.stage else f" --from {record.source}"
    )
    text = NEXT_STEP_TEXTS[record.state].format(
        retry=retry_command, when="when a watcher runs" if poll_seconds is None else f"within {format_duration(poll_seconds)}"
    )
    if record.retry_at is not None and record.state in {EvaluationState.FAILED, EvaluationState.WAITING}:
        when = (
            f"in {format_duration(record.retry_at - now)}, at {format_local_time(record.retry_at)}"
            if record.retry_at > now
            else "at the next look"
        )
        return f"It is tried again {when}."
    return text


def explain_unknown_step(
    stage: Stage, step: int, source: str | None, config: Config, *, skips: Mapping[str, str], is_requested: bool
) -> str:
    """Why there is no evaluation of that step.

    ``skips``: folder or evaluation -> the reason that status gives; ``is_requested``: a request for it waits to be taken up.
    """
    source_stage = config.stages.get(source or stage.name, stage)
    folder = source_stage.checkpoints / str(step)
    request_text = "it was asked for, and the next tick takes that up" if is_requested else "it has never been asked for"
    sentences = [f"{stage.name} {step} is not known to the watcher: {request_text}."]
    reason = skips.get(f"{stage.name}/step_{step}") or skips.get(str(folder))
    if reason:
        sentences.append(f"Of it the last tick said: {strip_control_characters(reason)}.")
    if source_stage is stage and not is_requested:
        sentences.append(_describe_schedule(stage, step))
    command = f"watcher enqueue {stage.name} {step}" + ("" if source_stage is stage else f" --from {source_stage.name}")
    sentences.append(
        f"Its checkpoint would be {strip_control_characters(folder)}."
        + ("" if is_requested else f" `{command}` asks for it once.")
    )
    return _wrap_sentences(sentences)


def _describe_schedule(stage: Stage, step: int) -> str:
    if stage.is_scheduled(step):
        return "It is in the schedule, so the next tick of `watcher run` or `watcher once` takes it up once it is there."
    parts = [", ".join(map(str, stage.steps))] if stage.steps else []
    if stage.every is not None:
        parts.append(f"every {stage.every} from {stage.first_step}" + ("" if stage.to is None else f" to {stage.to}"))
    if stage.final:
        parts.append("the final one")
    return f"It is not in the schedule of {stage.name}: {'; '.join(parts) or 'there is none'}."


def _format_reason(reason: str) -> str:
    return f": {strip_control_characters(reason).rstrip('.')}" if reason else ""


def _wrap_sentences(sentences: list[str]) -> str:
    return textwrap.fill(" ".join(sentences), TEXT_WIDTH, break_on_hyphens=False)
