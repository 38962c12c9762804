"""One paragraph about one evaluation: what was seen, what was decided, what happens next. Pure."""

import textwrap
from collections.abc import Mapping

from suites.common.formatting import ago, clean, clock
from watcher.config.settings import Config, Stage
from watcher.core.evaluation import Record, State
from watcher.status.text import WIDTH

NEXT = {
    State.OWED: "It is looked at {when}: is it complete?",
    State.WAITING: "It is looked at again {when}, and goes on as soon as that has happened.",
    State.READY: "It is submitted {when}, or as soon as the limits allow.",
    State.SUBMITTING: "The queue is asked {when} whether the job is there; nothing else is submitted before that is sure.",
    State.QUEUED: "The job waits for its turn; the queue is asked {when}.",
    State.RUNNING: "Its end is looked for {when}; only valid result files count as success.",
    State.SCORED: "Nothing more is done, unless the checkpoint or its suites change, or somebody asks with --force.",
    State.FAILED: "It is tried again {when}.",
    State.BLOCKED: "Nothing more happens until somebody mends that and says `{retry}`.",
    State.CANCELLED: "Nothing more happens until somebody says `{retry}`.",
    State.LOST: "It is not scored again unasked: put the files back, or say `{retry} --force`.",
}

_SHOWN = 12

_LEGS = (("detected", "seen complete"), ("submitted", "submitted"), ("started", "started"), ("scored", "scored"))


def paragraph(record: Record, now: float, said: str = "", *, poll: float | None = None) -> str:
    """What the journal says of one evaluation, and ``said`` what the last tick did, wrapped to 100 columns.

    ``poll``: seconds between two looks of the watcher that runs; None where none does.
    """
    last = [f"Of it the last tick said: {clean(said).rstrip('.')}."] if said else []
    return _wrap([_what(record), *_story(record), _now(record, now), *_times(record), *last, _next(record, now, poll)])


def _what(record: Record) -> str:
    of = "" if record.source == record.stage else f", a checkpoint of {clean(record.source)}"
    how = {"schedule": "asked for by the schedule", "bridge": "the stage's bridge"}.get(record.origin, "asked for by a person")
    return f"{clean(record.key)} (step {record.step}{of}) is {how}; the checkpoint is {clean(record.checkpoint)}."


def _story(record: Record) -> list[str]:
    past = record.history[:-1]  # the last one is how it is now
    shown = past[-_SHOWN:]
    told = []
    if len(past) > len(shown):
        told.append(f"({len(past) - len(shown)} earlier changes are in the journal.)")
    told += [f"{clock(at)}: {clean(state)}{_colon(reason)}." for at, state, reason in shown]
    return told


def _now(record: Record, now: float) -> str:
    line = f"Since {clock(record.since)} ({ago(now - record.since)}) it is {record.state.value}{_colon(record.text)}."
    attempt = record.attempt
    if attempt is not None:
        job = f"job {clean(attempt.job_id)}" if attempt.job_id else "no job known yet"
        restarts = f", restarted {attempt.restarts} times" if attempt.restarts else ""
        line += f" Its newest attempt is number {attempt.number}, {clean(attempt.run_id)} ({job}{restarts})."
    if record.failures:
        line += " Failures in a row: " + ", ".join(f"{clean(kind)} {count}" for kind, count in record.failures.items()) + "."
    return line


def _times(record: Record) -> list[str]:
    """How long after the checkpoint was complete each thing happened."""
    begun = record.times.get("complete")
    if begun is None:
        return []
    legs = [f"{words} after {ago(record.times[name] - begun)}" for name, words in _LEGS if name in record.times]
    return [f"The checkpoint was complete at {clock(begun)}" + (f"; {', '.join(legs)}." if legs else ".")]


def _next(record: Record, now: float, poll: float | None) -> str:
    retry = f"watcher retry {record.stage} {record.step}" + ("" if record.source == record.stage else f" --from {record.source}")
    said = NEXT[record.state].format(retry=retry, when="when a watcher runs" if poll is None else f"within {ago(poll)}")
    if record.retry_at is not None and record.state in {State.FAILED, State.WAITING}:
        when = f"in {ago(record.retry_at - now)}, at {clock(record.retry_at)}" if record.retry_at > now else "at the next look"
        return f"It is tried again {when}."
    return said


def unknown(stage: Stage, step: int, source: str | None, config: Config, *, skips: Mapping[str, str], asked: bool) -> str:
    """Why there is no evaluation of that step.

    ``skips``: folder or evaluation -> the reason that status gives; ``asked``: a request for it waits to be taken up.
    """
    whose = config.stages.get(source or stage.name, stage)
    folder = whose.checkpoints / str(step)
    never = "it was asked for, and the next tick takes that up" if asked else "it has never been asked for"
    said = [f"{stage.name} {step} is not known to the watcher: {never}."]
    reason = skips.get(f"{stage.name}/step_{step}") or skips.get(str(folder))
    if reason:
        said.append(f"Of it the last tick said: {clean(reason)}.")
    if whose is stage and not asked:
        said.append(_schedule(stage, step))
    command = f"watcher enqueue {stage.name} {step}" + ("" if whose is stage else f" --from {whose.name}")
    said.append(f"Its checkpoint would be {clean(folder)}." + ("" if asked else f" `{command}` asks for it once."))
    return _wrap(said)


def _schedule(stage: Stage, step: int) -> str:
    if stage.wants(step):
        return "It is in the schedule, so the next tick of `watcher run` or `watcher once` takes it up once it is there."
    parts = [", ".join(map(str, stage.steps))] if stage.steps else []
    if stage.every is not None:
        parts.append(f"every {stage.every} from {stage.first}" + ("" if stage.to is None else f" to {stage.to}"))
    if stage.final:
        parts.append("the final one")
    return f"It is not in the schedule of {stage.name}: {'; '.join(parts) or 'there is none'}."


def _colon(reason: str) -> str:
    return f": {clean(reason).rstrip('.')}" if reason else ""


def _wrap(sentences: list[str]) -> str:
    return textwrap.fill(" ".join(sentences), WIDTH, break_on_hyphens=False)
