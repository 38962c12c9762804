"""GPU hours and queue wait, as the status has them and as people read them. Pure."""

from suites.common.formatting import format_count
from suites.contract.liveness import MAX_SECONDS
from watcher.attempts.budget import Budget
from watcher.attempts.usage import UsageTotal
from watcher.status.reader import JsonObject, StatusDocument

_SMALLEST_SHOWN_HOURS = 0.01
"""People read no smaller part of an hour."""


def build_usage(total: UsageTotal) -> StatusDocument:
    """What attempts used, in hours; ``other``: in failed and repeated attempts."""
    return {
        "gpu_hours": round(total.gpu_seconds / 3600, 6),
        "run_hours": round(total.run_seconds / 3600, 6),
        "wait_hours": round(total.wait_seconds / 3600, 6),
        "attempts": total.attempts,
        "other_gpu_hours": round(total.other_gpu_seconds / 3600, 6),
        "other_attempts": total.other_attempts,
        "at_least": total.at_least,
    }


def build_budget(budget: Budget) -> list[StatusDocument]:
    """Each limit of the config in GPU hours, with what is used and reserved."""
    return [
        {
            "name": line.name,
            "limit": round(line.limit / 3600, 6),
            "used": round(line.used / 3600, 6),
            "reserved": round(min(line.reserved, MAX_SECONDS) / 3600, 6),
        }
        for line in budget.lines.values()
    ]


def describe_budget(line: JsonObject) -> str:
    """``budget.gpu_hours: 480 of 500 used, 12 reserved``."""
    used, limit, reserved = (_format_hours(line[name]) for name in ("used", "limit", "reserved"))
    return f"{line['name']}: {used} of {limit} GPU hours used, {reserved} reserved for jobs in flight"


def describe_usage(usage: JsonObject) -> str:
    """``at least 12.3 GPU hours in 14 jobs, 0.8 of them in 2 failed or repeated ones; 3.1 hours in the queue``."""
    at_least = "at least " if usage["at_least"] else ""
    jobs = format_count(usage["attempts"], "job")
    others = f", {_format_hours(usage['other_gpu_hours'])} of them in {usage['other_attempts']} failed or repeated"
    hours = f"{at_least}{_format_hours(usage['gpu_hours'])} GPU hours in {jobs}{others if usage['other_attempts'] else ''}"
    # On a machine without a GPU, hours are all that can be said.
    if not usage["gpu_hours"] and usage["run_hours"]:
        hours = f"{at_least}{_format_hours(usage['run_hours'])} hours without a GPU in {jobs}"
    return f"{hours}; {_format_hours(usage['wait_hours'])} hours in the queue"


def _format_hours(hours: float) -> str:
    if 0 < hours < _SMALLEST_SHOWN_HOURS:
        return f"under {_SMALLEST_SHOWN_HOURS}"
    return f"{hours:,.1f}" if hours >= 100 else f"{hours:.3g}"  # noqa: PLR2004  from here on a tenth is enough
