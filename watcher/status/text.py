"""The status document for people, at most 100 columns wide.

Text from outside loses its control characters, so that a terminal acts upon none of it.
"""

import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from suites.common.formatting import format_duration, format_local_time, strip_control_characters
from suites.contract.paths import format_step_directory
from suites.contract.tier_files import INSTRUCTION_MATCH_RATE
from watcher.status.reader import JsonObject

TEXT_WIDTH = 100

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

_MAX_REASON_LINES = 3

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
    return "\n".join([*_wrap_lines(head), *render_status_body(document, now)]) + "\n"


def render_status_body(document: JsonObject, now: float) -> list[str]:
    """The lines below the first."""
    counts = ", ".join(f"{number} {state}" for state, number in document.get("counts", {}).items()) or "No evaluations yet"
    lines = _wrap_lines(f"{counts}. Config: {document.get('config', '?')}")
    lines += _render_queue(document.get("queue"), document.get("executor", "the executor"), now)
    for warning in document.get("warnings", ()):
        lines += _wrap_lines(f"! {warning}")
    for name, stage in document.get("stages", {}).items():
        lines += ["", *_render_stage(name, stage, now)]
    lines += _render_unscheduled(document)
    return lines + _render_latencies(document.get("latencies", {}))


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
    return lines + (_wrap_lines(f"Each phase (median, p95): {'; '.join(phases)}") if phases else [])


def _render_queue(queue: JsonObject | None, executor: str, now: float) -> list[str]:
    if not queue or queue.get("jobs") is not None:
        return []
    since = queue.get("since") or queue["at"]
    return _wrap_lines(
        f"! {executor} has not answered since {format_local_time(since)}, {format_duration(now - since)} ago: {queue['error']}."
        " Nothing is lost; work continues when it answers."
    )


def _render_stage(name: str, stage: JsonObject, now: float) -> list[str]:
    lines = _wrap_lines(f"{name}: {stage.get('checkpoints') or 'no longer in the config'}")
    if stage.get("error"):
        lines += _wrap_lines(f"! {stage['error']}", "  ", "    ")
    if stage.get("data_cache"):
        lines += _wrap_lines(f"data cache: {stage['data_cache']}", "  ", "    ")
    if assumed := stage.get("assume"):
        choices = ", ".join(f"{key} {choice}" for key, choice in assumed.items())
        lines += _wrap_lines(f"assumed of model_config.json, where it has the key: {choices}", "  ", "    ")
    for note in stage.get("notes", ()):
        lines += _wrap_lines(f"! {note}", "  ", "    ")
    rows = stage["evaluations"]
    # What all scores of a stage say, such as which tokenizer decided, is said once.
    for note, count in Counter(note for row in rows for note in row.get("notes") or ()).items():
        lines += _wrap_lines(f"note on {count} evaluation{'s' if count > 1 else ''}: {note}", "  ", "    ")
    # Suspicious scores are always shown, however old.
    scored_rows = [row for row in rows if row["state"] == "scored" and not is_suspicious(row)]
    hidden = {row["evaluation"] for row in scored_rows[:-MAX_SCORED_SHOWN]}
    if hidden:
        lines.append(f"  {len(hidden)} older evaluations are scored")
    shown = [row for row in rows if row["evaluation"] not in hidden]
    if len(shown) > MAX_ROWS_SHOWN:
        lines.append(f"  {len(shown) - MAX_ROWS_SHOWN} more evaluations: see `watcher status --json`")
        # What needs a look comes before what only waits for its turn, and both stay in the order of their steps.
        urgent = sorted(shown, key=lambda row: row["state"] in _STATES_THAT_WAIT)[:MAX_ROWS_SHOWN]
        kept = {row["evaluation"] for row in urgent}
        shown = [row for row in shown if row["evaluation"] in kept]
    if shown:
        return lines + _render_table([_build_cells(name, row, now) for row in shown])
    next_step = stage.get("next")
    return [*lines, "  no evaluations yet" + ("" if next_step is None else f"; next step: {next_step}")]


def _build_cells(stage: str, row: JsonObject, now: float) -> dict[str, str]:
    scores = row.get("scores") or {}
    source = "" if row["source"] == stage else row["source"]
    # A name that follows from step and source would only repeat two columns.
    default_names = {format_step_directory(row["step"]), format_step_directory(row["step"], row["source"])}
    cells = {
        "step": str(row["step"]),
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


def _render_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A header and a line for each row; long reasons go below."""
    # Columns without any value would cost the width that reasons need.
    columns = [column for column in _COLUMNS if column in {"step", "state"} or any(row[column] for row in rows)]
    widths = {}
    for column in columns:
        limit = _MAX_COLUMN_WIDTHS.get(column, TEXT_WIDTH)
        widths[column] = max(measure_width(column), *(min(measure_width(row[column]), limit) for row in rows))
    header = {column: column for column in columns} | {"reason": "reason" if any(row["reason"] for row in rows) else ""}
    lines = []
    for row in (header, *rows):
        cells = [_fit_to_width(row[column], widths[column], right=column in _RIGHT_ALIGNED) for column in columns]
        left = "  " + "  ".join(cells) + "  "
        if measure_width(left) + measure_width(row["reason"]) <= TEXT_WIDTH:
            lines.append((left + row["reason"]).rstrip())
        else:
            lines += [left.rstrip(), *_wrap_lines(row["reason"], " " * 6, " " * 6)[:_MAX_REASON_LINES]]
    return lines


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
        lines += _wrap_lines(skip, "  ", "    ")
    hidden_count = len(skips) - MAX_UNSCHEDULED_SHOWN
    return [*lines, f"  and {hidden_count} more in status.json"] if hidden_count > 0 else lines


def measure_width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():  # nearly always, and every tick measures every cell
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else not unicodedata.combining(character) for character in text
    )


def _fit_to_width(text: str, width: int, *, right: bool) -> str:
    while measure_width(text) > width:
        text = text[:-2] + "…"
    padding = " " * (width - measure_width(text))
    return padding + text if right else text + padding


def _wrap_lines(text: str, indent: str = "", continuation: str = "  ") -> list[str]:
    """``text`` without control characters, in lines of at most TEXT_WIDTH columns."""
    text = strip_control_characters(text)
    is_narrow = text.isascii() or all(measure_width(character) <= 1 for character in text)
    width = TEXT_WIDTH if is_narrow else TEXT_WIDTH // 2  # textwrap counts characters, not columns
    wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=continuation, break_on_hyphens=False)
    return wrapped or [""]
