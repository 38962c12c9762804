"""The status document for people, at most 80 columns wide.

Text from outside loses its control characters, so that a terminal acts upon none of it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from suites.common.formatting import format_count, format_duration, format_local_time, strip_control_characters
from suites.contract.paths import format_step_directory
from suites.contract.tier_files import INSTRUCTION_MATCH_RATE
from watcher.status.reader import JsonObject
from watcher.status.table import fit_to_width, measure_width, render_table, wrap_lines
from watcher.status.usage import describe_budget, describe_usage

MAX_SCORED_SHOWN = 20
"""Scored evaluations shown for each stage: the newest."""

MAX_ROWS_SHOWN = 200
"""Rows shown for each stage: a schedule of thousands of steps would fill the text, and be rendered in each poll."""

MAX_UNSCHEDULED_SHOWN = 20
"""Lines shown of what is not scheduled."""

_STATES_WITHOUT_JOB = ("scored", "cancelled")

_STATES_THAT_WAIT = ("pending", "waiting", "ready", "scored", "cancelled")

_COLUMNS = ("step", "from", "state", "for", "job", "ppl", "primary", "match")
"""Left of the reason."""

_SCORE_COLUMNS = {"ppl": ("ppl", ".4g"), "primary": ("primary", ".4f"), "match": (INSTRUCTION_MATCH_RATE, ".4f")}
"""Column -> key in the row's scores, and format."""

_RIGHT_ALIGNED = ("step", "for", "ppl", "primary", "match")

_MAX_COLUMN_WIDTHS = {"step": 12, "from": 16, "job": 14}

_SUSPICIOUS_TEXT = "suspicious: no better than predicting tokens by their frequency"

_LATENCY_PHASES = (
    ("detected", "complete_to_detected"),
    ("submitted", "detected_to_submitted"),
    ("started", "submitted_to_started"),
    ("scored", "started_to_scored"),
)


def render_status(document: JsonObject, now: float) -> str:
    """status.txt; durations end at ``now`` (unix time)."""
    host, poll_seconds = document["host"], document["poll"]
    is_once = document.get("mode") == "once"
    writer = f"`watcher once` on {host}" if is_once else f"{host} (polls every {format_duration(poll_seconds)})"
    # status.txt is a file: it cannot know how old it is when somebody reads it.
    remark = "" if is_once else f" If older than {format_duration(3 * poll_seconds)}, the watcher is not running."
    if document.get("stopped"):
        remark = " The watcher was stopped."
    head = f"Status at {format_local_time(document['heartbeat'])} from {writer}.{remark}"
    return "\n".join([*wrap_lines(head), *render_status_body(document, now)]) + "\n"


def render_status_body(document: JsonObject, now: float) -> list[str]:
    """The lines below the first."""
    counts = ", ".join(f"{number} {state}" for state, number in document.get("counts", {}).items()) or "No evaluations yet"
    lines = wrap_lines(f"{counts}. Config: {document.get('config', '?')}")
    lines += _render_queue(document.get("queue"), document.get("executor", "the executor"), now)
    for stage, pause in document.get("paused", {}).items():
        lines += _render_pause(stage, pause, now)
    for warning in document.get("warnings", ()):
        lines += wrap_lines(f"! {warning}")
    for name, stage in document.get("stages", {}).items():
        lines += ["", *_render_stage(name, stage, now)]
    lines += _render_unscheduled(document)
    lines += _render_latencies(document.get("latencies", {}))
    for line in document.get("budget", ()):
        lines += wrap_lines(describe_budget(line))
    usage = document.get("usage") or {}
    return lines + (wrap_lines(f"In all: {describe_usage(usage)}") if usage.get("attempts") else [])


def _render_pause(stage: str, pause: JsonObject, now: float) -> list[str]:
    by = f" by {pause['by']}" if pause["by"] else ""
    reason = f": {pause['reason'].rstrip('.')}" if pause["reason"] else ""
    since = f"{format_local_time(pause['since'])} ({format_duration(now - pause['since'])})"
    command = f"watcher resume {stage}".strip()
    subject = f"{stage} is paused" if stage else "Paused"
    return wrap_lines(f"! {subject} since {since}{by}{reason}. Nothing new is submitted until `{command}`; jobs go on")


def _render_latencies(latencies: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The time from complete checkpoint to scores, in total and by phase."""
    if not latencies:
        return []
    lines = [""]
    if total := latencies.get("complete_to_scored"):
        quantiles = f"median {format_duration(total['p50'])}, p95 {format_duration(total['p95'])} (n={total['n']})"
        lines.append(f"Time from complete checkpoint to scores: {quantiles}")
    phases = [
        f"{name} {format_duration(latencies[key]['p50'])}, {format_duration(latencies[key]['p95'])}"
        for name, key in _LATENCY_PHASES
        if key in latencies
    ]
    return lines + (wrap_lines(f"Each phase (median, p95): {'; '.join(phases)}") if phases else [])


def _render_queue(queue: JsonObject | None, executor: str, now: float) -> list[str]:
    if not queue or queue.get("jobs") is not None:
        return []
    since = queue.get("since") or queue["at"]
    return wrap_lines(
        f"! {executor} has not answered since {format_local_time(since)}, {format_duration(now - since)} ago: {queue['error']}."
        " Nothing is lost; work continues when it answers."
    )


def _render_stage(name: str, stage: JsonObject, now: float) -> list[str]:
    lines = wrap_lines(f"{name}: {stage.get('checkpoints') or 'no longer in the config'}")
    if stage.get("error"):
        lines += wrap_lines(f"! {stage['error']}", "  ", "    ")
    if stage.get("data_cache"):
        lines += wrap_lines(f"data cache: {stage['data_cache']}", "  ", "    ")
    if assumed := stage.get("assume"):
        choices = ", ".join(f"{key} {choice}" for key, choice in assumed.items())
        lines += wrap_lines(f"assumed of model_config.json, where it has the key: {choices}", "  ", "    ")
    for note in stage.get("notes", ()):
        lines += wrap_lines(f"! {note}", "  ", "    ")
    if (usage := stage.get("usage")) and usage["attempts"]:
        lines += wrap_lines(describe_usage(usage), "  ", "    ")
    rows = stage["evaluations"]
    # What all scores of a stage say, such as which tokenizer decided, is said once.
    for note, count in Counter(note for row in rows for note in row.get("notes") or ()).items():
        lines += wrap_lines(f"note on {format_count(count, 'evaluation')}: {note}", "  ", "    ")
    # Suspicious scores are always shown, however old.
    scored_rows = [row for row in rows if row["state"] == "scored" and not is_suspicious(row)]
    hidden = {row["evaluation"] for row in scored_rows[:-MAX_SCORED_SHOWN]}
    if hidden:
        lines.append(f"  {format_count(len(hidden), 'older evaluation')} scored")
    shown = [row for row in rows if row["evaluation"] not in hidden]
    if len(shown) > MAX_ROWS_SHOWN:
        lines.append(f"  {format_count(len(shown) - MAX_ROWS_SHOWN, 'more evaluation')}: see `watcher list {name}`")
        # What needs a look comes before what only waits for its turn, and both stay in the order of their steps.
        urgent = sorted(shown, key=lambda row: row["state"] in _STATES_THAT_WAIT)[:MAX_ROWS_SHOWN]
        kept = {row["evaluation"] for row in urgent}
        shown = [row for row in shown if row["evaluation"] in kept]
    if shown:
        cells = [_build_cells(name, row, now) for row in shown]
        return lines + render_table(cells, _COLUMNS, right_aligned=_RIGHT_ALIGNED, max_widths=_MAX_COLUMN_WIDTHS)
    next_step = stage.get("next")
    return [*lines, "  no evaluations yet" + ("" if next_step is None else f"; next step: {next_step}")]


def _build_cells(stage: str, row: JsonObject, now: float) -> dict[str, str]:
    scores = row.get("scores") or {}
    source = "" if row["source"] == stage else row["source"]
    # A name that follows from step and source would only repeat two columns.
    is_reference = row["origin"] == "reference"
    default_names = {format_step_directory(row["step"]), format_step_directory(row["step"], row["source"])}
    if is_reference:
        default_names = {row["directory"]}
    cells = {
        "step": "-" if is_reference else str(row["step"]),
        "from": source if row["directory"] in default_names else f"{source} {row['directory']}",
        "state": row["state"],
        "for": format_duration(now - row["since"]),
        "job": "" if row["state"] in _STATES_WITHOUT_JOB else (row.get("attempt") or {}).get("job_id") or "",
        "reason": "; ".join(filter(None, _list_remarks(row, now))),
    }
    cells |= {column: f"{scores[key]:{spec}}" if key in scores else "" for column, (key, spec) in _SCORE_COLUMNS.items()}
    return {column: strip_control_characters(cell) for column, cell in cells.items()}


def is_suspicious(row: JsonObject) -> bool:
    """Whether the scores are no better than the unigram distribution's."""
    return bool((row.get("scores") or {}).get("suspicious"))


def _list_remarks(row: JsonObject, now: float) -> Iterable[str]:
    state, detail = row["state"], row.get("detail", "")
    if state == "scored":
        return (_SUSPICIOUS_TEXT if is_suspicious(row) else detail,)
    remarks = [detail or row["reason"]]
    retry_at = row.get("retry_at")
    # Other states may keep an old retry time.
    if retry_at is not None and state in {"failed", "waiting"}:
        remarks.append("retry now" if retry_at <= now else f"retry in {format_duration(retry_at - now)}")
    if state == "running":
        remarks.append(_format_progress(row.get("progress") or {}, now))
    number = (row.get("attempt") or {}).get("number", 1)
    if number > 1 and state not in _STATES_WITHOUT_JOB:
        remarks.append(f"attempt {number}")
    return remarks


def _format_progress(progress: JsonObject, now: float) -> str:
    """``3 of 14 parts, 41,000 tokens/s (MFU 52 %), 12 min left``."""
    if "parts" not in progress:
        return ""
    text = f"{progress.get('parts_done', 0):.0f} of {progress['parts']:.0f} parts"
    if "tokens_per_s" in progress:
        text += f", {progress['tokens_per_s']:,.0f} tokens/s"
    if "mfu" in progress:
        text += f" (MFU {100 * progress['mfu']:.0f} %)"
    # An estimate that ran out says nothing: the job still runs.
    seconds_left = progress.get("seconds_left", 0.0) - (now - progress.get("at", now))
    if seconds_left > 0:
        text += f", {format_duration(seconds_left)} left"
    return text


def _render_unscheduled(document: JsonObject) -> list[str]:
    """What the last tick skipped and no line above shows."""
    stages = document.get("stages", {}).values()
    shown_keys = {row["evaluation"] for stage in stages for row in stage["evaluations"]}
    shown_keys |= {stage.get("checkpoints") for stage in stages}
    shown_reasons = {stage.get("data_cache") for stage in stages}
    skips = [
        f"{skip['evaluation']}: {skip['reason']}"
        for skip in document.get("skipped", ())
        if skip["evaluation"] not in shown_keys and skip["reason"] not in shown_reasons
    ]
    if not skips:
        return []
    lines = ["", "Not scheduled:"]
    for skip in skips[:MAX_UNSCHEDULED_SHOWN]:
        lines += wrap_lines(skip, "  ", "    ")
    hidden_count = len(skips) - MAX_UNSCHEDULED_SHOWN
    return [*lines, f"  and {hidden_count} more in status.json"] if hidden_count > 0 else lines


def render_evaluations(rows: Sequence[JsonObject], now: float, width: int | None) -> list[str]:
    """A header and one line for each row, which has its ``stage``; cut to ``width`` columns, whole where that is None."""
    cells = [{"evaluation": row["evaluation"], **_build_cells(row["stage"], row, now)} for row in rows]
    columns = [column for column in ("evaluation", *_COLUMNS[2:]) if any(cell[column] for cell in cells)]
    widths = {column: max(measure_width(column), *(measure_width(cell[column]) for cell in cells)) for column in columns}
    header = {column: column for column in columns} | {"reason": "reason" if any(cell["reason"] for cell in cells) else ""}
    lines = []
    for cell in (header, *cells):
        fitted = [fit_to_width(cell[column], widths[column], right=column in _RIGHT_ALIGNED) for column in columns]
        line = "  ".join([*fitted, cell["reason"]]).rstrip()
        lines.append(line if width is None else fit_to_width(line, width).rstrip())
    return lines
