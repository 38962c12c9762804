"""The status document for people: a table for each stage, nothing wider than 100 columns, nothing that a terminal obeys."""

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from suites.common.formatting import ago, clean, clock
from suites.contract.tier_files import RATES

WIDTH = 100

MOST_SETTLED = 20
"""Scored evaluations of a stage that are shown one by one: the newest."""

_SILENT = ("scored", "cancelled")

_HEADS = ("step", "from", "state", "for", "job", "ppl", "primary", "match", "why")

_SUSPICIOUS = "suspicious: no better than guessing tokens by how often they occur"

_RIGHT = ("step", "for", "ppl", "primary", "match")

_MOST = {"step": 12, "from": 16, "job": 14}

_LINES_OF_WHY = 3

Document = Mapping[str, Any]


def render(document: Document, now: float) -> str:
    """status.txt: as of the document's heartbeat; durations are counted up to ``now`` (unix time)."""
    poll = document["poll"]
    who = f"the watcher on {clean(document['host'])} (pid {document['pid']}), which looks every {ago(poll)}"
    if document.get("mode") == "once":
        who = f"`watcher once` on {clean(document['host'])}"
        gone = ""
    else:
        gone = f": if that is more than {ago(3 * poll)} ago, it is gone."
    if document.get("stopped"):
        gone = ", which was told to end, and did."
    head = f"As of {clock(document['heartbeat'])} by {who}{gone or '.'}"
    return "\n".join([*_wrapped(head), *body(document, now)]) + "\n"


def body(document: Document, now: float) -> list[str]:
    """Everything below the first line."""
    counts = ", ".join(f"{number} {state}" for state, number in document.get("counts", {}).items()) or "nothing to do yet"
    lines = _wrapped(f"{clean(counts)}. Config: {clean(document.get('config', '?'))}")
    lines += _queue(document.get("queue"), document.get("executor", "the executor"), now)
    for note in document.get("notes", ()):
        lines += _wrapped(f"! {clean(note)}")
    for name, stage in document.get("stages", {}).items():
        lines += ["", *_stage(name, stage, now)]
    lines += _skipped(document, now)
    return lines + _latencies(document.get("latencies", {}))


_LEGS = (
    ("detected", "complete_to_detected"),
    ("submitted", "detected_to_submitted"),
    ("started", "submitted_to_started"),
    ("scored", "started_to_scored"),
)


def _latencies(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """How long it takes from a whole checkpoint to its scores, and each leg of it."""
    whole = found.get("complete_to_scored")
    lines = [""] if found else []
    if whole:
        lines.append(
            f"From complete to scored: {ago(whole['p50'])} (median), {ago(whole['p95'])} (95th percentile), over {whole['n']}."
        )
    legs = [f"{name} {ago(found[leg]['p50'])}, {ago(found[leg]['p95'])}" for name, leg in _LEGS if leg in found]
    return [*lines, *_wrapped(f"Each leg (median, 95th percentile): {'; '.join(legs)}.")] if legs else lines


def _queue(queue: Document | None, executor: str, now: float) -> list[str]:
    if not queue or queue.get("jobs") is not None:
        return []
    since = queue.get("since") or queue["at"]
    return _wrapped(
        f"! {clean(executor)} cannot be asked since {clock(since)}, {ago(now - since)} ago: {clean(queue['trouble'])}."
        " Nothing is lost; what is due goes on when it answers."
    )


def _stage(name: str, stage: Document, now: float) -> list[str]:
    place = clean(stage["checkpoints"]) if stage.get("checkpoints") else "no longer in the config"
    lines = _wrapped(f"{clean(name)}: {place}")
    if stage.get("trouble"):
        lines += _wrapped(f"  ! {clean(stage['trouble'])}", "    ")
    if stage.get("data"):
        lines += _wrapped(f"  data: {clean(stage['data'])}", "    ")
    rows = stage["evaluations"]
    settled = [row for row in rows if row["state"] == "scored" and not doubted(row)]
    hidden = {row["evaluation"] for row in settled[:-MOST_SETTLED]}
    if hidden:
        lines.append(f"  {len(hidden)} earlier ones are scored")
    shown = [row for row in rows if row["evaluation"] not in hidden]
    if not shown:
        return [*lines, "  nothing yet" + (f"; step {stage['next']} is next" if stage.get("next") is not None else "")]
    return lines + _table([_cells(name, row, now) for row in shown])


def _cells(stage: str, row: Document, now: float) -> dict[str, str]:
    attempt, scores = row.get("attempt") or {}, row.get("scores") or {}
    source = "" if row["source"] == stage else row["source"]
    usual = {f"step_{row['step']}", f"step_{row['step']}_from_{row['source']}"}
    return {
        "step": str(row["step"]),
        "from": clean(source if row["directory"] in usual else f"{source} {row['directory']}".strip()),
        "state": clean(row["state"]),
        "for": ago(now - row["since"]),
        "job": clean(attempt.get("job_id") or "") if row["state"] not in _SILENT else "",
        "ppl": f"{scores['ppl']:.4g}" if "ppl" in scores else "",
        "primary": f"{scores['primary']:.4f}" if "primary" in scores else "",
        "match": f"{scores[RATES[0]]:.4f}" if RATES[0] in scores else "",
        "why": _why(row, now) if row["state"] != "scored" else _SUSPICIOUS if doubted(row) else clean(row.get("now", "")),
    }


def doubted(row: Document) -> bool:
    """Whether the job that scored it found it no better than the unigram distribution."""
    return bool((row.get("scores") or {}).get("suspicious"))


def _why(row: Document, now: float) -> str:
    words = clean(row.get("now") or ("" if row["state"] == "scored" else row["reason"]))
    retry = row.get("retry_at")
    if retry is not None and row["state"] in {"failed", "waiting"}:
        words += f"{'; ' if words else ''}again {'now' if retry <= now else 'in ' + ago(retry - now)}"
    far = _far(row.get("progress") or {}, now) if row["state"] == "running" else ""
    words += f"{'; ' if words and far else ''}{far}"
    number = (row.get("attempt") or {}).get("number", 1)
    return f"{words}{'; ' if words else ''}attempt {number}" if number > 1 and row["state"] not in _SILENT else words


def _far(progress: Document, now: float) -> str:
    """``3 of 14 parts, 41,000 tokens/s (MFU 52 %), 12 min left``."""
    if "parts" not in progress:
        return ""
    words = f"{progress.get('parts_done', 0):.0f} of {progress['parts']:.0f} parts"
    if "tokens_per_s" in progress:
        words += f", {progress['tokens_per_s']:,.0f} tokens/s"
    if "mfu" in progress:
        words += f" (MFU {progress['mfu']:.0%})".replace("%", " %")
    if "seconds_left" in progress:
        words += f", {ago(progress['seconds_left'] - (now - progress.get('at', now)))} left"
    return words


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    heads = [head for head in _HEADS if head in {"step", "state"} or any(row[head] for row in rows)]
    widths = {head: max(_wide(head), *(min(_wide(row[head]), _MOST.get(head, 99)) for row in rows)) for head in heads}
    lines = ["  " + "  ".join(_fit(head, widths[head], right=head in _RIGHT) for head in heads if head != "why").rstrip()]
    if "why" in heads:
        lines[0] = f"{lines[0]:<{2 + sum(widths[head] + 2 for head in heads if head != 'why')}}why"
    for row in rows:
        left = "  " + "".join(_fit(row[head], widths[head], right=head in _RIGHT) + "  " for head in heads if head != "why")
        why = row["why"] if "why" in heads else ""
        if _wide(left) + _wide(why) <= WIDTH:
            lines.append((left + why).rstrip())
        else:
            lines += [left.rstrip(), *_wrapped(" " * 6 + why, " " * 6)[:_LINES_OF_WHY]]
    return lines


def _skipped(document: Document, now: float) -> list[str]:
    del now
    shown = {row["evaluation"] for stage in document.get("stages", {}).values() for row in stage["evaluations"]}
    shown |= {stage.get("checkpoints") for stage in document.get("stages", {}).values()}
    said = {stage.get("data") for stage in document.get("stages", {}).values()}
    rest = [skip for skip in document.get("skipped", ()) if skip["evaluation"] not in shown and skip["reason"] not in said]
    if not rest:
        return []
    lines = ["", "Not looked after:"]
    for skip in rest[:MOST_SETTLED]:
        lines += _wrapped(f"  {clean(skip['evaluation'])}: {clean(skip['reason'])}", "    ")
    more = len(rest) - MOST_SETTLED
    return [*lines, f"  and {more} more, in status.json"] if more > 0 else lines


def _wide(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():  # nearly always, and this is asked of every cell at every tick
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else not unicodedata.combining(character) for character in text
    )


def _fit(text: str, width: int, *, right: bool) -> str:
    while _wide(text) > width:
        text = text[:-2] + "…"
    space = " " * (width - _wide(text))
    return space + text if right else text + space


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    narrow = text.isascii() or all(_wide(character) <= 1 for character in text)
    width = WIDTH if narrow else WIDTH // 2  # textwrap counts characters, not columns
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True) or [""]
