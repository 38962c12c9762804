"""`watcher why`: the life of an evaluation as a timeline. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from suites.common.formatting import format_count, format_duration, format_local_time, strip_control_characters
from suites.contract.looks import STAGE_LEVEL
from suites.contract.paths import format_step_directory
from watcher.attempts.usage import sum_usage
from watcher.config.settings import REFERENCE_PREFIX, Config, Stage
from watcher.core.evaluation import EvaluationRecord, EvaluationState
from watcher.status.table import hang_lines, wrap_lines
from watcher.status.usage import build_usage, describe_usage

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

_ORIGIN_TEXTS = {
    "schedule": "is in the schedule",
    "bridge": "is the stage's bridge",
}

MAX_CHANGES_SHOWN = 12
"""Newest changes that are shown without being asked for more."""

COMPLETE = "complete"
"""In a timeline: when the checkpoint's newest file was written."""

_MILESTONES = (("detected", "seen complete"), ("submitted", "submitted"), ("started", "started"), ("scored", "scored"))


class Change(NamedTuple):
    """One change of an evaluation."""

    at: float
    """Unix time."""
    state: str
    """An evaluation's state, or ``complete``."""
    reason: str


def list_changes(record: EvaluationRecord) -> list[Change]:
    """Every change that the record holds, oldest first, and when its checkpoint was complete."""
    changes = [Change(*entry) for entry in record.history] or [Change(record.since, record.state.value, record.full_reason)]
    completed_at = record.times.get("complete")
    if completed_at is not None:
        place = next((index for index, change in enumerate(changes) if change.at > completed_at), len(changes))
        changes.insert(place, Change(completed_at, COMPLETE, _describe_completion(record)))
    return changes


def _describe_completion(record: EvaluationRecord) -> str:
    written_at = record.times.get("written")
    if written_at is None:
        return "the checkpoint's newest file"
    return f"the checkpoint appeared; its newest file is dated {format_local_time(written_at)}, as in a copy that kept its times"


def explain_evaluation(
    record: EvaluationRecord, now: float, detail: str = "", *, poll_seconds: float | None = None, all_changes: bool = False
) -> str:
    """Timeline, state and next step of one evaluation, at most 80 columns wide.

    ``detail`` is what the last tick adds to the journal's reason. ``poll_seconds`` is the interval of the running watcher;
    None if none runs.
    """
    return "\n".join(
        [
            *_wrap_sentences([_describe_evaluation(record)]),
            "",
            *_render_timeline(list_changes(record), now, is_whole=all_changes),
            "",
            *_wrap_sentences(
                [
                    *_describe_attempt(record),
                    *_describe_timing(record),
                    *_describe_level(record),
                    *_describe_usage(record, now),
                    *_describe_last_tick(detail),
                    describe_next_step(record, now, poll_seconds),
                ]
            ),
        ]
    )


def list_evaluation_facts(
    record: EvaluationRecord, now: float, detail: str, *, poll_seconds: float | None = None
) -> dict[str, Any]:
    """What ``explain_evaluation`` says, as plain JSON values."""
    attempt = record.attempt
    return {
        "evaluation": record.key,
        "stage": record.stage,
        "step": record.step,
        "source": record.source,
        "origin": record.origin,
        "checkpoint": record.checkpoint,
        "average": [{"step": member.step, "weight": member.weight} for member in record.average],
        "state": record.state.value,
        "since": record.since,
        "reason_kind": record.reason_kind.value,
        "reason": record.reason,
        "hint": record.hint,
        "detail": detail,
        "timeline": [change._asdict() for change in list_changes(record)],
        "attempt": None
        if attempt is None
        else {
            "number": attempt.number,
            "run_id": attempt.run_id,
            "job_id": attempt.job_id,
            "restarts": attempt.restarts,
            "owner": "" if attempt.owner is None else str(attempt.owner),
        },
        "failures": dict(record.failures),
        "times": dict(record.times),
        "usage": build_usage(sum_usage(record, now)),
        "attempts": [
            {
                "number": attempt.number,
                "run_id": attempt.run_id,
                "job_id": attempt.job_id,
                "scored": attempt.scored,
                "usage": None if attempt.usage is None else msgspec.to_builtins(attempt.usage),
            }
            for attempt in record.submitted.values()
        ],
        "retry_at": record.retry_at,
        "next": describe_next_step(record, now, poll_seconds),
    }


def _describe_evaluation(record: EvaluationRecord) -> str:
    source = "" if record.source == record.stage else f", a checkpoint of {record.source}"
    if record.is_reference:
        return f"{record.key} is {record.source}, a model to compare with; its folder is {record.checkpoint}."
    origin = _ORIGIN_TEXTS.get(record.origin, "was requested")
    if record.average:
        members = ", ".join(f"{member.step} ({member.weight:.3g})" for member in record.average)
        return f"{record.key} (step {record.step}{source}) {origin}; it is the average of steps {members} by weight."
    return f"{record.key} (step {record.step}{source}) {origin}; its checkpoint is {record.checkpoint}."


def _render_timeline(changes: Sequence[Change], now: float, *, is_whole: bool) -> list[str]:
    """A line for each change: time of day, time since the one before, state and reason; a day where it changes."""
    hidden_count = 0 if is_whole else max(0, len(changes) - MAX_CHANGES_SHOWN)
    lines = [f"({format_count(hidden_count, 'earlier change')}: see --all)"] if hidden_count else []
    ends = [change.at for change in changes[1:]] + [now]
    day = ""
    for index, change in enumerate(changes):
        change_day, _, clock = format_local_time(change.at).partition(" ")
        gap = f"+{format_duration(change.at - changes[index - 1].at)}" if index > hidden_count else ""
        if index < hidden_count:
            continue
        lines += [change_day] if change_day != day else []
        day = change_day
        is_now = index == len(changes) - 1
        lasts = f" ({format_duration(ends[index] - change.at)} ago)" if is_now else ""
        lines += hang_lines(
            f"  {clock}  {gap:<12} {strip_control_characters(change.state):<10} ", f"{change.reason}{lasts}".strip()
        )
    return lines


def _describe_attempt(record: EvaluationRecord) -> list[str]:
    sentences = []
    if attempt := record.attempt:
        job = f"job {attempt.job_id}" if attempt.job_id else "no job known yet"
        job += "" if attempt.owner is None else f" of {attempt.owner}"
        restarts = f", {format_count(attempt.restarts, 'restart')}" if attempt.restarts else ""
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


def _describe_level(record: EvaluationRecord) -> list[str]:
    """The share of the stage's error rate that its comparisons have."""
    if record.level is None:
        return []
    level, part = f"{100 * record.level:.3g} %", f"its part of the stage's {100 * STAGE_LEVEL:g} %"
    sentence = f"Its comparisons may call a false better or worse at a level of {level} against each baseline, {part}."
    return [f"{sentence} The level was fixed at its first comparison."]


def _describe_usage(record: EvaluationRecord, now: float) -> list[str]:
    total = sum_usage(record, now)
    return [f"Cost: {describe_usage(build_usage(total))}."] if total.attempts else []


def _describe_last_tick(detail: str | None) -> list[str]:
    return [f"Last tick: {detail.rstrip('.')}."] if detail else []


def describe_next_step(record: EvaluationRecord, now: float, poll_seconds: float | None) -> str:
    """What happens next, and when; or what a person has to do."""
    if record.retry_at is not None and record.state in {EvaluationState.FAILED, EvaluationState.WAITING}:
        if record.retry_at <= now:
            return "The watcher retries at the next tick."
        return f"The watcher retries in {format_duration(record.retry_at - now)}, at {format_local_time(record.retry_at)}."
    return NEXT_STEP_TEXTS[record.state].format(
        retry=f"watcher retry {record.arguments}",
        when="when it next runs" if poll_seconds is None else f"within {format_duration(poll_seconds)}",
    )


def explain_unknown_step(
    stage: Stage, step: int, source: str | None, config: Config, *, skips: Mapping[str, str], is_requested: bool
) -> str:
    """Why the watcher has no evaluation of a step.

    ``skips`` maps a folder or evaluation to the reason in status.json. ``is_requested``: a request for it is pending.
    """
    if source is not None and source.startswith(REFERENCE_PREFIX):
        return f"The watcher does not know {source} on the suites of {stage.name}. References are in the config: `references:`."
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
    return "\n".join(_wrap_sentences(sentences))


def explain_waiting_averages(stage: str, step: int, skips: Mapping[str, str]) -> list[str]:
    """Averages of a step that are not made yet, and why. ``skips`` as in ``explain_unknown_step``."""
    prefix = f"{stage}/{format_step_directory(step, average='avg')}"
    waiting = [f"{key} is not made yet; {reason}." for key, reason in skips.items() if key.startswith(prefix)]
    return ["\n".join(_wrap_sentences([sentence])) for sentence in waiting]


def _describe_schedule(stage: Stage, step: int) -> str:
    if stage.is_scheduled(step):
        return "It is in the schedule; the next tick starts it once its checkpoint exists."
    parts = [", ".join(map(str, stage.steps))] if stage.steps else []
    if stage.every is not None:
        parts.append(f"every {stage.every} from {stage.first_step}" + ("" if stage.to is None else f" to {stage.to}"))
    if stage.final:
        parts.append("the final step")
    return f"It is not in the schedule of {stage.name} ({'; '.join(parts) or 'no steps'}) and was not requested."


def _wrap_sentences(sentences: Sequence[str]) -> list[str]:
    """A line for each sentence; the rest of a long one is indented."""
    return [line for sentence in sentences for line in wrap_lines(sentence, "", "    ")]
