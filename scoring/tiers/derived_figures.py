"""Figures of tier3_cf.json that follow from published rows, so that older results can get them, too."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, stdev
from typing import Any

from scoring.inference.bits_per_byte import compute_item_bpb

MEAN_BPB = ("bpb", "bpb_uncond")
"""Figures of an entry whose means over subjects and over tasks are published."""

CHANCE_LEVEL = 0.05
"""Level of the one-sided test by which a task is better than chance."""

Json = dict[str, Any]


def derive_entry(entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Json:
    """A task's entry with bits per byte, chance level, and both for its subjects.

    ``rows`` are those of all its items. Raises ValueError for a row without a gold choice.
    """
    derived = {**entry, **_compute_bits(rows), **_compare_with_chance(entry.get("primary"), rows)}
    if "by_subject" in entry:
        derived["by_subject"] = {
            subject: {**figures, **_compute_bits([row for row in rows if row["subject"] == subject])}
            for subject, figures in entry["by_subject"].items()
        }
        derived["micro"] = {**entry["micro"], **{figure: derived[figure] for figure in MEAN_BPB}}
        macro = {figure: mean_if_complete([by[figure] for by in derived["by_subject"].values()]) for figure in MEAN_BPB}
        derived["macro"] = {**entry["macro"], **macro}
    return derived


def summarise_bits(tasks: Mapping[str, Any]) -> Json:
    """The summary's mean over tasks; None where a task has no figure."""
    return {"bpb": mean_if_complete([entry.get("bpb") if isinstance(entry, dict) else None for entry in tasks.values()])}


def mean_if_complete(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is missing."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _compute_bits(rows: Sequence[Mapping[str, Any]]) -> Json:
    bits = [compute_item_bpb(row, "bpb") for row in rows]
    byte_counts = [max(int(row["bytes"][row["gold"]]), 1) for row in rows]
    known = [value for value in bits if value is not None]
    is_complete = bool(rows) and len(known) == len(rows)
    total = math.fsum(value * count for value, count in zip(known, byte_counts, strict=True)) if is_complete else 0.0
    return {
        "bpb": mean_if_complete(bits),
        "bpb_stderr": stdev(known) / math.sqrt(len(known)) if is_complete and len(known) > 1 else None,
        "bits_per_byte": total / sum(byte_counts) if is_complete else None,
        "bpb_uncond": mean_if_complete([compute_item_bpb(row, "bpb_uncond") for row in rows]),
    }


def _compare_with_chance(accuracy: float | None, rows: Sequence[Mapping[str, Any]]) -> Json:
    """``chance``, the accuracy of guesses, and ``at_chance``: no better than that at CHANCE_LEVEL.

    Guesses are right with probability 1 / choices; their sum is close to a normal variable.
    """
    if not rows or accuracy is None:
        return {"chance": None, "at_chance": None}
    shares = [1 / len(row["ll"]) for row in rows]
    chance = math.fsum(shares) / len(shares)
    stderr = math.sqrt(math.fsum(share * (1 - share) for share in shares)) / len(shares)
    return {"chance": chance, "at_chance": accuracy <= chance + NormalDist().inv_cdf(1 - CHANCE_LEVEL) * stderr}
