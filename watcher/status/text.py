"""The status document for people: a table for each stage, nothing wider than 100 columns, nothing that a terminal obeys."""

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from suites.common.formatting import format_duration, format_local_time, strip_control_characters
from suites.contract.tier_files import INSTRUCTION_MATCH_RATE

TEXT_WIDTH = 100

MAX_SCORED_SHOWN = 20
"""Scored evaluations of a stage that are shown one by one: the newest."""

_STATES_WITHOUT_JOB = ("scored", "cancelled")

_COLUMNS = ("step", "from", "state", "for", "job", "ppl", "primary", "match", "why")

_SUSPICIOUS_TEXT = "suspicious: no better than guessing tokens by how often they occur"

_RIGHT_ALIGNED = ("step", "for", "ppl", "primary", "match")

_MAX_COLUMN_WIDTHS = {"step": 12, "from": 16, "job": 14}

_MAX_REASON_LINES = 3

StatusMapping = Mapping[str, Any]


def render_status(document: StatusMapping, now: float) -> str:
    """status.txt: as of the document's heartbeat; durations are counted up to ``now`` (unix time)."""
    poll_seconds = document["poll"]
    writer = f"the watcher on {strip_control_characters(document['host'])} (pid {document['pid']}), which looks every {format_duration(poll_seconds)}"
    if document.get("mode") == "once":
        writer = f"`watcher once` on {strip_control_characters(document['host'])}"
        stopped_text = ""
    else:
        stopped_text = f": if that is more than {format_duration(3 * poll_seconds)} ago, it is gone."
    if document.get("stopped"):
        stopped_text = ", which was told to end, and did."
    head = f"As of {format_local_time(document['heartbeat'])} by {writer}{stopped_text or '.'}"
    return "\n".join([*_wrap_lines(head), *render_status_body(document, now)]) + "\n"


def render_status_body(document: StatusMapping, now: float) -> list[str]:
    """Everything below the first line."""
    counts = ", ".join(f"{number} {state}" for state, number in document.get("counts", {}).items()) or "nothing to do yet"
    lines = _wrap_lines(f"{strip_control_characters(counts)}. Config: {strip_control_characters(document.get('config', '?'))}")
    lines += _render_queue(document.get("queue"), document.get("executor", "the executor"), now)
    for warning in document.get("warnings", ()):
        lines += _wrap_lines(f"! {strip_control_characters(warning)}")
    for name, stage in document.get("stages", {}).items():
        lines += ["", *_render_stage(name, stage, now)]
    lines += _render_skipped(document, now)
    return lines + _render_latencies(document.get("latencies", {}))


_LATENCY_PHASES = (
    ("detected", "complete_to_detected"),
    ("submitted", "detected_to_submitted"),
    ("started", "submitted_to_started"),
    ("scored", "started_to_scored"),
)


def _render_latencies(latencies: Mapping[str, Mapping[str, float]]) -> list[str]:
    """How long it takes from a whole checkpoint to its scores, and each leg of it."""
    total = latencies.get("complete_to_scored")
    lines = [""] if latencies else []
    if total:
        lines.append(
            f"From complete to scored: {format_duration(total['p50'])} (median), {format_duration(total['p95'])} (95th percentile), over {total['n']}."
        )
    phases = [
        f"{name} {format_duration(latencies[key]['p50'])}, {format_duration(latencies[key]['p95'])}"
        for name, key in _LATENCY_PHASES
        if key in latencies
    ]
    return [*lines, *_wrap_lines(f"Each leg (median, 95th percentile): {'; '.join(phases)}.")] if phases else lines


def _render_queue(queue: StatusMapping | None, executor: str, now: float) -> list[str]:
    if not queue or queue.get("jobs") is not None:
        return []
    since = queue.get("since") or queue["at"]
    return _wrap_lines(
        f"! {strip_control_characters(executor)} cannot be asked since {format_local_time(since)}, {format_elapsed(now - since)} ago: {strip_control_characters(queue['error'])}."
        " Nothing is lost; what is due goes on when it answers."
    )


def _render_stage(name: str, stage: StatusMapping, now: float) -> list[str]:
    folder = strip_control_characters(stage["checkpoints"]) if stage.get("checkpoints") else "no longer in the config"
    lines = _wrap_lines(f"{strip_control_characters(name)}: {folder}")
    if stage.get("error"):
        lines += _wrap_lines(f"  ! {strip_control_characters(stage['error'])}", "    ")
    if stage.get("data_cache"):
        lines += _wrap_lines(f"  data: {strip_control_characters(stage['data_cache'])}", "    ")
    rows = stage["evaluations"]
    scored_rows = [row for row in rows if row["state"] == "scored" and not is_suspicious(row)]
    hidden = {row["evaluation"] for row in scored_rows[:-MAX_SCORED_SHOWN]}
    if hidden:
        lines.append(f"  {len(hidden)} earlier ones are scored")
    shown = [row for row in rows if row["evaluation"] not in hidden]
    if not shown:
        return [*lines, "  nothing yet" + (f"; step {stage['next']} is next" if stage.get("next") is not None else "")]
    return lines + _render_table([_build_cells(name, row, now) for row in shown])


def _build_cells(stage: str, row: StatusMapping, now: float) -> dict[str, str]:
    attempt, scores = row.get("attempt") or {}, row.get("scores") or {}
    source = "" if row["source"] == stage else row["source"]
    default_names = {f"step_{row['step']}", f"step_{row['step']}_from_{row['source']}"}
    return {
        "step": str(row["step"]),
        "from": strip_control_characters(source if row["directory"] in default_names else f"{source} {row['directory']}".strip()),
        "state": strip_control_characters(row["state"]),
        "for": format_duration(now - row["since"]),
        "job": strip_control_characters(attempt.get("job_id") or "") if row["state"] not in _STATES_WITHOUT_JOB else "",
        "ppl": f"{scores['ppl']:.4g}" if "ppl" in scores else "",
        "primary": f"{scores['primary']:.4f}" if "primary" in scores else "",
        "match": f"{scores[INSTRUCTION_MATCH_RATE]:.4f}" if INSTRUCTION_MATCH_RATE in scores else "",
        "why": _format_reason_cell(row, now)
        if row["state"] != "scored"
        else _SUSPICIOUS_TEXT
        if is_suspicious(row)
        else strip_control_characters(row.get("detail", "")),
    }


def is_suspicious(row: StatusMapping) -> bool:
    """Whether the job that scored it found it no better than the unigram distribution."""
    return bool((row.get("scores") or {}).get("suspicious"))


def _format_reason_cell(row: StatusMapping, now: float) -> str:
    reason = strip_control_characters(row.get("detail") or ("" if row["state"] == "scored" else row["reason"]))
    retry_at = row.get("retry_at")
    if retry_at is not None and row["state"] in {"failed", "waiting"}:
        reason += f"{'; ' if reason else ''}again {'now' if retry_at <= now else 'in ' + format_duration(retry_at - now)}"
    progress = _format_progress(row.get("progress") or {}, now) if row["state"] == "running" else ""
    reason += f"{'; ' if reason and progress else ''}{progress}"
    number = (row.get("attempt") or {}).get("number", 1)
    return (
        f"{reason}{'; ' if reason else ''}attempt {number}" if number > 1 and row["state"] not in _STATES_WITHOUT_JOB else reason
    )


def _format_progress(progress: StatusMapping, now: float) -> str:
    """``3 of 14 parts, 41,000 tokens/s (MFU 52 %), 12 min left``."""
    if "parts" not in progress:
        return ""
    text = f"{progress.get('parts_done', 0):.0f} of {progress['parts']:.0f} parts"
    if "tokens_per_s" in progress:
        text += f", {progress['tokens_per_s']:,.0f} tokens/s"
    if "mfu" in progress:
        text += f" (MFU {progress['mfu']:.0%})".replace("%", " %")
    if "seconds_left" in progress:
        text += f", {format_duration(progress['seconds_left'] - (now - progress.get('at', now)))} left"
    return text


def _render_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    columns = [column for column in _COLUMNS if column in {"step", "state"} or any(row[column] for row in rows)]
    widths = {
        column: max(
            _measure_width(column), *(min(_measure_width(row[column]), _MAX_COLUMN_WIDTHS.get(column, 99)) for row in rows)
        )
        for column in columns
    }
    lines = [
        "  "
        + "  ".join(
            _fit_to_width(column, widths[column], right=column in _RIGHT_ALIGNED) for column in columns if column != "why"
        ).rstrip()
    ]
    if "why" in columns:
        lines[0] = f"{lines[0]:<{2 + sum(widths[column] + 2 for column in columns if column != 'why')}}why"
    for row in rows:
        left = "  " + "".join(
            _fit_to_width(row[column], widths[column], right=column in _RIGHT_ALIGNED) + "  "
            for column in columns
            if column != "why"
        )
        reason = row["why"] if "why" in columns else ""
        if _measure_width(left) + _measure_width(reason) <= TEXT_WIDTH:
            lines.append((left + reason).rstrip())
        else:
            lines += [left.rstrip(), *_wrap_lines(" " * 6 + reason, " " * 6)[:_MAX_REASON_LINES]]
    return lines


def _render_skipped(document: StatusMapping, now: float) -> list[str]:
    del now
    shown_keys = {row["evaluation"] for stage in document.get("stages", {}).values() for row in stage["evaluations"]}
    shown_keys |= {stage.get("checkpoints") for stage in document.get("stages", {}).values()}
    shown_reasons = {stage.get("data_cache") for stage in document.get("stages", {}).values()}
    remainder = [
        skip
        for skip in document.get("skipped", ())
        if skip["evaluation"] not in shown_keys and skip["reason"] not in shown_reasons
    ]
    if not remainder:
        return []
    lines = ["", "Not looked after:"]
    for skip in remainder[:MAX_SCORED_SHOWN]:
        lines += _wrap_lines(
            f"  {strip_control_characters(skip['evaluation'])}: {strip_control_characters(skip['reason'])}", "    "
        )
    hidden_count = len(remainder) - MAX_SCORED_SHOWN
    return [*lines, f"  and {hidden_count} more, in status.json"] if hidden_count > 0 else lines


def _measure_width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():  # nearly always, and this is asked of every cell at every tick
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else not unicodedata.combining(character) for character in text
    )


def _fit_to_width(text: str, width: int, *, right: bool) -> str:
    while _measure_width(text) > width:
        text = text[:-2] + "…"
    padding = " " * (width - _measure_width(text))
    return padding + text if right else text + padding


def _wrap_lines(text: str, indent: str = "  ") -> list[str]:
    is_narrow = text.isascii() or all(_measure_width(character) <= 1 for character in text)
    width = TEXT_WIDTH if is_narrow else TEXT_WIDTH // 2  # textwrap counts characters, not columns
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True) or [""]
